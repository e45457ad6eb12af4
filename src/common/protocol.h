/*
 * protocol.h
 *     What a backend and the engine say to each other, and what the engine tells the supervisor.
 *
 * FRAMES. Both ways over one Unix stream socket:
 *
 *     u32 length    bytes after this field: 5 + payload, at most IA3_MAX_FRAME
 *     u8  type      Ia3Message
 *     u32 request   chosen by the client; every reply repeats it
 *     payload       as listed with each type, written with wire.h
 *
 * `str` is u32 length + bytes (UTF-8, no terminator), `digest` is 32 raw bytes, `list<X>` is u32 count
 * followed by the items. A client may have several requests under way on one connection; replies to
 * different requests come in any order. The first request on a connection must be HELLO. Closing the
 * connection cancels everything that was asked for on it.
 *
 * Anything that does not parse is answered with ERROR (IA3_E_PROTOCOL) and the connection is closed;
 * anything that parses but cannot be done is answered with ERROR and the connection lives on.
 *
 * GOODBYE comes unasked from an engine that is being replaced, before it closes a connection on which nothing is
 * outstanding. A request that crossed it on its way was not taken: it may be sent to the successor.
 */
#ifndef IA3_PROTOCOL_H
#define IA3_PROTOCOL_H

#include <stdint.h>

#define IA3_PROTOCOL_MAGIC   0x50334149u /* "IA3P" */
#define IA3_PROTOCOL_VERSION 2
#define IA3_FRAME_HEADER     9                    /* length, type, request */
#define IA3_MAX_FRAME        (256u * 1024 * 1024) /* also below what one palloc may hold */
#define IA3_DIGEST_LEN       32
#define IA3_MAX_INPUT_TOKENS 32768u /* of one row */
#define IA3_MAX_NEW_TOKENS   1024   /* that one row may generate */

typedef enum Ia3Message {
    /* requests */
    IA3_HELLO = 1,       /* u32 magic, u32 version, str client ("pid 123")        -> HELLO_OK */
    IA3_INFO = 2,        /* nothing                                               -> INFO_OK */
    IA3_TOKENIZE = 3,    /* str text                                              -> TOKENIZE_OK */
    IA3_SCORE = 4,       /* see below                                             -> SCORE_OK | MISSING */
    IA3_PUT_ADAPTER = 5, /* digest, str method, str safetensors                   -> OK */
    IA3_TRAIN = 6,       /* see below                       -> PROGRESS ..., then TRAIN_OK | MISSING */
    IA3_CANCEL = 7,      /* u32 request to cancel; no reply of its own: the cancelled request gets ERROR */
    IA3_STATS = 8,       /* nothing                                               -> STATS_OK */
    IA3_NORMALIZE = 9,   /* str safetensors                                       -> NORMALIZE_OK */
    IA3_MERGE = 10,      /* see below                                             -> OK */
    IA3_GENERATE = 11,   /* see below                                             -> GENERATE_OK | MISSING */

    /* replies */
    IA3_HELLO_OK = 64,    /* u32 version, str engine version */
    IA3_INFO_OK = 65,     /* see below */
    IA3_TOKENIZE_OK = 66, /* list<u32 id, str piece>; the final </s> is included */
    IA3_SCORE_OK = 67,    /* see below */
    IA3_MISSING = 68,     /* list<digest>: put these with PUT_ADAPTER, then repeat the request */
    IA3_OK = 69,          /* nothing */
    IA3_PROGRESS = 70, /* u32 step (done), u32 steps, f64 loss, f64 examples per second, f64 seconds left */
    IA3_TRAIN_OK = 71, /* see below */
    IA3_STATS_OK = 72, /* list<str name, f64 value>, those of IA3_STATS_LIST in that order */
    IA3_NORMALIZE_OK = 73, /* see below */
    IA3_GENERATE_OK = 74,  /* see below */
    IA3_GOODBYE = 126,     /* nothing; request 0. See above */
    IA3_ERROR = 127 /* u32 Ia3ErrorCode, str message, str detail, str hint (detail, hint may be empty) */
} Ia3Message;

/*
 * TEXT. An input is `str text, u32 tail`: `tail` is the byte offset at which the template's tail (what
 * follows its last field) begins, equal to the length of the text when there is none. When the tokens do
 * not fit into max_input_tokens (the limit includes </s>), tokens before the tail are dropped from the
 * end of the body, never the tail itself; a tail that alone does not fit is an error of that row.
 *
 * SCORE:   u32 max_input_tokens
 *          list<digest>                      adapters used; all zero bytes = the bare backbone
 *          list<list<str choice>>            choice sets
 *          list<u32 adapter index, u32 choice set index, str text, u32 tail>   rows
 *          One row may use adapters trained on another backbone only to get an error: PUT_ADAPTER refuses
 *          tensors that do not match the backbone's shapes. The backend checks backbone digests.
 * SCORE_OK: per row, in order: u8 ok; if 1: list<f64 score> in the order of the choices, score = mean
 *          log-likelihood per token of the choice, </s> included (natural logarithm);
 *          if 0: u32 Ia3ErrorCode, str message, str detail, str hint
 * MISSING  instead of SCORE_OK: nothing was computed. Adapters that a connection puts stay cached until
 *          its next SCORE or TRAIN is answered, whatever the cache size.
 *
 * TRAIN:   u32 max_input_tokens
 *          u32 steps, u32 batch_size, f64 learning_rate, f64 warmup_ratio,
 *          f64 lm_weight, f64 unlikelihood_weight, f64 length_norm_weight,
 *          f64 dropout (negative = the checkpoint's dropout_rate), u64 seed,
 *          u8 loss_averaging (Ia3LossAveraging), str method,
 *          list<str constant, u32 value>     of the method, as INFO_OK has them
 *          digest init                       all zero bytes = a fresh start; else of the same method
 *          u32 stop                          pause after this step, 0 = after the last
 *          str state                         what an earlier TRAIN_OK held; empty = begin
 *          list<list<str choice>>            choice sets
 *          list<u32 choice set index, u32 label index in the set, list<str text, u32 tail>>   examples; the
 *          texts are the example under each template, at least one
 * PROGRESS comes at most every 200 ms and once at the last step.
 * TRAIN_OK: str safetensors (PEFT adapter_model.safetensors, fp32), str metrics (a JSON object: "loss",
 *          "lm_loss", "unlikelihood_loss", "length_norm_loss" averaged over the last tenth of the steps,
 *          "steps", "examples", "seconds", "truncated" = number of rendered texts that were cut,
 *          "loss_curve": at most 100 numbers; all of the steps of this request), u32 number of examples,
 *          str state: with `stop` what it takes to go on from here, bit for bit as if there had been no pause, with
 *          a TRAIN of the same recipe and examples; else empty
 *
 * NORMALIZE: an adapter of whatever method, in any of the spellings that the method takes.
 * NORMALIZE_OK: str method, str safetensors (PEFT adapter_model.safetensors, fp32, byte for byte what TRAIN_OK would hold),
 *          list<str module, u8 1 = its input is scaled, 0 = its output>, the modules as the bytes named them
 *          ("encoder.block.0.layer.0.SelfAttention.k"), in the order of their data; none for a method
 *          that has only one spelling
 *
 * MERGE:   str method, str safetensors, str directory (an absolute path as bytes, not UTF-8)
 *          The engine reads its backbone's files again and writes a checkpoint with the vectors folded into the
 *          weights. The directory must not exist, or be empty; it appears with its last file or not at all.
 *
 * GENERATE: u32 max_input_tokens
 *          list<digest>                      adapters used; all zero bytes = the bare backbone
 *          list<u32 adapter index, str text, u32 tail, u32 max_tokens (1 to IA3_MAX_NEW_TOKENS),
 *               f64 temperature (0 = greedy), u32 top_k (0 = all), u64 seed>   rows
 * GENERATE_OK: per row, in order: u8 ok; if 1: str text, without control tokens; if 0: as in SCORE_OK. With
 *          temperature 0 the text depends on nothing else; otherwise on the seed too.
 *
 * INFO_OK: str name, str path, str device in use ("cpu", "cuda:0"), str device description, str dtype ("bfloat16"),
 *          str model_type, digest backbone, u64 parameters, u64 bytes (weights on the device),
 *          u64 adapter values (fp32 numbers in one (IA)³ adapter), u32 vocab_size, u32 d_model,
 *          u32 encoder layers, u32 decoder layers, f64 dropout_rate,
 *          list<str method, f64 learning_rate (the default), u64 values of one adapter,
 *               str PEFT configuration (members of a JSON object, empty = PEFT does not have the method),
 *               list<str constant, u32 value>>      the first is the default, (IA)³
 *          list<str number, f64 min, f64 max>       limits of a TRAIN's numbers: "steps", "batch_size", "learning_rate",
 *               "warmup_ratio", "lm_weight", "unlikelihood_weight", "length_norm_weight", "dropout"
 */
typedef enum Ia3LossAveraging {
    IA3_LOSS_BATCH = 0, /* token-weighted over the batch (T-Few's T0-3B runs) */
    IA3_LOSS_EXAMPLE =
        1 /* mean of per-example losses, partial batches at an epoch's end (11B and RAFT runs) */
} Ia3LossAveraging;

/* Each has one SQLSTATE; the extension maps it (client_errors.c). */
typedef enum Ia3ErrorCode {
    IA3_E_INTERNAL = 1,       /* XX000 */
    IA3_E_PROTOCOL = 2,       /* 08P01 protocol_violation */
    IA3_E_INVALID = 3,        /* 22023 invalid_parameter_value: an argument is wrong */
    IA3_E_CHOICES = 4,        /* 22023: duplicate, empty or indistinguishable choices */
    IA3_E_TOO_LONG = 5,       /* 54000 program_limit_exceeded */
    IA3_E_BAD_ADAPTER = 6,    /* 22P03 invalid_binary_representation: malformed or not of this backbone */
    IA3_E_BAD_CHECKPOINT = 7, /* F0000 config_file_error: unreadable or malformed backbone */
    IA3_E_MEMORY = 8,         /* 53200 out_of_memory */
    IA3_E_CANCELLED = 9,      /* 57014 query_canceled */
    IA3_E_UNAVAILABLE = 10,   /* 57P03 cannot_connect_now: shutting down, busy */
    IA3_E_FILE = 11,          /* 58030 io_error: a file that MERGE writes */
    IA3_E_UNSUPPORTED = 12    /* 0A000 feature_not_supported: not with this backbone */
} Ia3ErrorCode;

/*
 * Counters since the engine started, in the order of STATS_OK. The function ia3_stat_engine shows those that its
 * declaration has a column for.
 */
#define IA3_STATS_LIST(X)                                                                                    \
    X(QUEUE_ROWS, queue_rows)                                                                                \
    X(BATCHES, batches)                                                                                      \
    X(ROWS, rows)                                                                                            \
    X(INPUT_TOKENS, input_tokens)                                                                            \
    X(DECODER_TOKENS, decoder_tokens)                                                                        \
    X(DISTINCT_TASKS, distinct_tasks) /* summed over batches; divide by batches */                           \
    X(DEDUP_ROWS, dedup_rows)                                                                                \
    X(CACHE_HITS, cache_hits)                                                                                \
    X(CACHE_MISSES, cache_misses)                                                                            \
    X(CACHED_ADAPTERS, cached_adapters)                                                                      \
    X(CACHED_BYTES, cached_bytes)                                                                            \
    X(TRAIN_JOBS, train_jobs) /* under way now */                                                            \
    X(TRAIN_STEPS, train_steps)                                                                              \
    X(SCORE_SECONDS, score_seconds)                                                                          \
    X(TRAIN_SECONDS, train_seconds)                                                                          \
    X(SCORE_WAIT_SECONDS, score_wait_seconds)                                                                \
    X(TRAIN_WAIT_SECONDS, train_wait_seconds)                                                                \
    X(CONNECTIONS, connections)                                                                              \
    X(MAX_BATCH_ROWS, max_batch_rows)
#define IA3_STAT_NUMBER(NUMBER, name) IA3_STAT_##NUMBER,
#define IA3_STAT_NAME(NUMBER, name)   #name,
enum { IA3_STATS_LIST(IA3_STAT_NUMBER) IA3_N_STATS };
#define IA3_STAT_NAMES                                                                                       \
    {                                                                                                        \
        IA3_STATS_LIST(IA3_STAT_NAME)                                                                        \
    }

/*
 * THE SUPERVISOR starts, with the data directory as working directory,
 *
 *     ia3_engine serve --name NAME --backbone DIRECTORY --socket PATH [--device SPEC] [--dtype auto|float32|
 *         bfloat16|int8] [--threads N] [--max-batch-tokens N] [--adapter-cache-size BYTES] [--memory-limit BYTES]
 *         --status-fd N --death-fd N
 *
 * and reads lines from the status pipe (each at most 1,000 bytes):
 *
 *     loading PERCENT
 *     ready
 *     failed MESSAGE          the engine then exits with status 1
 *     draining N M            after SIGUSR1, at every change: training runs and merges, other requests under way
 *
 * Everything the engine writes to stderr is a log line, "LEVEL: text" with LEVEL one of LOG, WARNING,
 * ERROR, DEBUG. The engine exits when the death pipe (it holds the reading end) reports end of file, and
 * on SIGTERM. On SIGUSR1 it stops listening, finishes everything that it was asked for, says GOODBYE to each
 * client and exits with status 0 (at once if it is not ready). The socket must not exist when it binds; it
 * unlinks a stale one first. Peers whose uid differs from its own are turned away (SO_PEERCRED).
 */

#endif
