/*
 * protocol.h
 *     The protocol between a backend and the engine, and between the engine and the supervisor.
 *
 * FRAMES. Requests and replies are frames on one Unix stream socket:
 *
 *     u32 length    bytes after this field: 5 + payload, at most IA3_MAX_FRAME
 *     u8  type      Ia3Message
 *     u32 request   chosen by the client; every reply repeats it
 *     payload       as listed with each type, written with wire.h
 *
 * `str` is a u32 length and that many bytes (UTF-8, no terminator), `digest` is 32 raw bytes, and `list<X>` is a u32
 * count followed by the items. A client may have several outstanding requests on one connection; replies to different
 * requests come in any order. The first request on a connection must be HELLO. Closing the connection cancels all
 * requests that were made on it.
 *
 * If a request is malformed, the reply is ERROR with IA3_E_PROTOCOL and the engine closes the connection. If it is
 * well-formed but fails, the reply is ERROR and the connection remains open.
 *
 * An engine that is being replaced sends GOODBYE, to which no request corresponds, before it closes a connection that
 * has no outstanding requests. A request that the client sent before it read GOODBYE was not accepted and may be sent
 * to the engine's successor.
 */
#ifndef IA3_PROTOCOL_H
#define IA3_PROTOCOL_H

#include <stdint.h>

#define IA3_PROTOCOL_MAGIC   0x50334149u /* "IA3P" */
#define IA3_PROTOCOL_VERSION 17
#define IA3_FRAME_HEADER     9 /* length, type, request */
#define IA3_MAX_FRAME                                                                                        \
    (512u * 1024 * 1024) /* twice as much must be a little more than palloc's limit at most (layouts.c) */
#define IA3_MAX_VALUE_BYTES                                                                                  \
    (IA3_MAX_FRAME - (1u << 20)) /* of the values in a message, which has little else */
#define IA3_DIGEST_LEN       32
#define IA3_MAX_INPUT_TOKENS 32768u /* per row */
#define IA3_MAX_NEW_TOKENS   1024   /* that may be generated per row */
/*
 * A larger request is an error (IA3_E_TOO_LONG), as is one whose reply might not fit in a frame. A row's reply has 5
 * bytes, and 8 for each choice or IA3_TOKEN_BYTES for each of its max_tokens; the reply has 8 more.
 */
#define IA3_MAX_ROWS    (1u << 20)
#define IA3_MAX_TEXTS   (1u << 20) /* rendered texts of a training request */
#define IA3_MAX_SETS    (1u << 16) /* of choices */
#define IA3_MAX_CHOICES (1u << 20) /* in one request, all sets together */
#define IA3_MAX_DIGESTS (1u << 12) /* adapters */
#define IA3_MAX_RUNS    (1u << 10) /* of TRAIN_RUNS */
#define IA3_MAX_LINEAR  (1u << 24) /* see LINEAR; a fold takes seconds then */
#define IA3_MAX_WEIGHT  1e12       /* of a training example */
#define IA3_TOKEN_BYTES 64u        /* pieces are short; usual ones have fewer bytes */
#define IA3_ANSWER_YES  "yes"      /* see CHOICES */
#define IA3_ANSWER_NO   "no"

typedef enum Ia3Message {
    /* requests */
    IA3_HELLO = 1,       /* u32 magic, u32 version, str client ("pid 123")        -> HELLO_OK */
    IA3_INFO = 2,        /* nothing                                               -> INFO_OK */
    IA3_TOKENIZE = 3,    /* str text                                              -> TOKENIZE_OK */
    IA3_SCORE = 4,       /* see below                                             -> SCORE_OK | MISSING */
    IA3_PUT_ADAPTER = 5, /* digest, str method, str options, str safetensors      -> OK */
    IA3_TRAIN = 6,       /* see below                       -> PROGRESS ..., then TRAIN_OK | MISSING */
    IA3_CANCEL = 7,      /* u32 request to cancel; no reply of its own: the cancelled request gets ERROR */
    IA3_STATS = 8,       /* nothing                                               -> STATS_OK */
    IA3_NORMALIZE = 9,   /* str safetensors, str config                           -> NORMALIZE_OK */
    IA3_MERGE = 10,      /* see below                                             -> OK */
    IA3_GENERATE = 11,   /* see below                                             -> GENERATE_OK | MISSING */
    IA3_CONFIG = 12,     /* nothing                                               -> CONFIG_OK */
    IA3_METHOD = 13,     /* see below                                             -> METHOD_OK */
    IA3_CONFIGURE = 14,  /* see below                                             -> CONFIGURE_OK */
    IA3_TRAIN_RUNS = 15, /* see below                  -> PROGRESS ..., then TRAIN_RUNS_OK | MISSING */
    IA3_LINEAR = 16,     /* see below                                             -> LINEAR_OK */

    /* replies */
    IA3_HELLO_OK = 64,     /* u32 version, str engine version */
    IA3_INFO_OK = 65,      /* see below */
    IA3_TOKENIZE_OK = 66,  /* list<u32 id, str piece>; the final </s> is included */
    IA3_SCORE_OK = 67,     /* see below */
    IA3_MISSING = 68,      /* list<digest>: put these with PUT_ADAPTER, then repeat the request */
    IA3_OK = 69,           /* nothing */
    IA3_PROGRESS = 70,     /* see below */
    IA3_TRAIN_OK = 71,     /* see below */
    IA3_STATS_OK = 72,     /* list<str name, f64 value>, those of IA3_STATS_LIST in that order */
    IA3_NORMALIZE_OK = 73, /* see below */
    IA3_GENERATE_OK = 74,  /* see below */
    IA3_CONFIG_OK = 75,    /* str configuration of the backbone: a config.json with all members that matter */
    IA3_METHOD_OK = 76,    /* see below */
    IA3_CONFIGURE_OK = 77, /* see below */
    IA3_TRAIN_RUNS_OK = 78, /* see below */
    IA3_LINEAR_OK = 79,     /* list<u32 label>, one per row */
    IA3_GOODBYE = 126,      /* nothing; request 0. See above */
    IA3_ERROR = 127 /* u32 Ia3ErrorCode, str message, str detail, str hint (detail, hint may be empty) */
} Ia3Message;

/*
 * TEXT. An input is `str text, u32 tail, list<u32 begin, u32 end>`. What happens if it has more than max_input_tokens
 * tokens (a limit that includes </s>) depends on the list:
 *          If it is empty, tokens are dropped from the end of the body before the tail. `tail` is the byte offset at which
 *          the template's tail begins, that is, the text after its last field; it equals the length of the text if there
 *          is none. Nothing of the tail is dropped; if it alone does not fit, the row fails.
 *          Otherwise the list says where the values of the template's fields are in the text, as byte offsets, in
 *          order, and without overlaps. The longest of them (in tokens) is shortened, or several if they are equally
 *          long (engine/files/input.h). All other text is kept; if it does not fit without the fields, the row fails.
 *
 * OPTIONS. The options of a method are a JSON object ({"rank": 8}), or nothing. They are recorded with each version, as
 *          CONFIGURE_OK or NORMALIZE_OK returned them, and are necessary to read its adapter. Records of earlier releases
 *          may lack options. The digest by which requests name an adapter is the SHA-256 of its safetensors if the record
 *          has no options, else the SHA-256 of that digest followed by the options, byte by byte as in PUT_ADAPTER.
 *
 * CHOICES. A choice set is `u8 kind, list<str choice>`. Of a set of kind 0 one choice is right. Kind 1 is a multi-label set:
 *          each choice is a label, which may be right or not, whatever the others are. What is computed for it are two
 *          targets, the choice followed by " " IA3_ANSWER_YES and by " " IA3_ANSWER_NO. The tokens that both begin with are
 *          given to the decoder, and only those after them are scored.
 *
 * SCORE:   u32 max_input_tokens
 *          list<digest>                      adapters used; all zero bytes = the bare backbone
 *          list<choice set>
 *          list<u32 adapter index, u32 choice set index, input>   rows
 *          An adapter must have been trained on this backbone. PUT_ADAPTER fails for tensors that do not have the
 *          backbone's shapes; the backend compares the digests of backbones.
 * SCORE_OK: per row, in order: u8 ok; if 1: list<f64 score> in the order of the choices, score = mean
 *          log-likelihood per token of the choice, </s> included (natural logarithm); of a multi-label set, that of the
 *          answer "yes" less that of the answer "no", over the tokens that are scored;
 *          if 0: u32 Ia3ErrorCode, str message, str detail, str hint
 *          After all rows: f64 FLOPs (cost.h) that these rows took. What several rows share counts for one of them.
 * MISSING: the reply instead of SCORE_OK when nothing was computed because adapters are not cached. Adapters from
 *          PUT_ADAPTER stay cached until the connection's next SCORE, GENERATE or TRAIN is answered, even if the cache
 *          is full.
 *
 * TRAIN:   u32 max_input_tokens
 *          u32 steps, u32 batch_size, f64 learning_rate, f64 warmup_ratio,
 *          f64 lm_weight, f64 unlikelihood_weight, f64 length_norm_weight,
 *          f64 dropout (negative = the checkpoint's dropout_rate), u64 seed,
 *          u8 loss_averaging (Ia3LossAveraging), u8 optimizer (Ia3Optimizer), f64 weight_decay, f64 ema (0 = none),
 *          str method, str options
 *          digest init                       the adapter to start from, of the same method and options; all zero
 *                                            bytes = none
 *          u32 stop                          pause after this step; 0 = do not pause
 *          str state                         the state from an earlier TRAIN_OK, to continue; empty = a new run
 *          list<choice set>
 *          list<list<u32>>                   nothing, or of each set how many of its choices, in their order, are
 *                                            verbalizers of each label; an empty list: each choice is a label
 *          list<u32 choice set index, list<u32 label index in the set>, list<input>>   examples; the right labels are one,
 *          or, of a multi-label set, any number in ascending order; the inputs are the example rendered with each template,
 *          at least one
 *          list<f64 weight>                  of the examples in their order, or empty: all weigh the same. A weight is a
 *                                            number from 0 to IA3_MAX_WEIGHT; one at least is positive. Only ratios matter
 *          u8 early_stopping (Ia3EarlyStopping)    not with `stop` or a state
 * PROGRESS: u32 step (done), u32 steps (of all members of an ensemble together; fewer when one ends early), f64 loss, f64 examples per second, f64 seconds left, u32 inputs that were
 *          truncated, u32 inputs. It is sent at most every 200 ms and once at the last step.
 * TRAIN_OK: str safetensors (PEFT adapter_model.safetensors, fp32), str metrics (a JSON object: "loss",
 *          "lm_loss", "unlikelihood_loss", "length_norm_loss" averaged over the last tenth of the steps,
 *          "steps", "examples", "seconds", "flops" (cost.h), "truncated" = number of rendered texts that were truncated,
 *          "loss_curve": at most 100 numbers; all refer to the steps of this request. With early stopping, "steps" is
 *          how many were done, of an ensemble by the member that did most, the averages are over about a tenth of these, and there is
 *          "early_stopping" (recipe/metrics.h)), u32 number of examples,
 *          str state: if `stop` was given, the state from which a TRAIN with the same recipe and examples continues
 *          exactly, bit for bit, as if there had been no pause; else empty
 *
 * TRAIN_RUNS: several training runs on parts of the same examples: the folds of a cross-validation, for example.
 *          As TRAIN, with `stop` 0 and an empty state, and after the examples, instead of weights:
 *          list<u64 seed, list<u32 example>, list<f64 weight>>    runs, at least one and at most IA3_MAX_RUNS, each with at
 *          least one example; weights are of the run's examples, as in TRAIN
 *          u8 early_stopping, of each run by its own losses
 *          A run does what a TRAIN with these examples, in this order, these weights and this seed would do; the recipe's seed does not
 *          matter. As many runs as fit in a pass are trained together. PROGRESS counts the steps of all runs together.
 * TRAIN_RUNS_OK: list<str safetensors, str metrics, u32 number of examples>, as in TRAIN_OK, in the order of the runs
 *
 * CONFIGURE: str method, u8 from_version, str recorded, str options
 *          What adapters of the method are like with these options. Those that are not specified have the recorded values
 *          of a version if from_version is 1, else their default values.
 * CONFIGURE_OK: str options (all of the method, to be recorded), u64 values of one adapter, str PEFT configuration (an
 *          object of JSON, the members that are specific to the method; empty = PEFT does not have the method with these
 *          options, or it is (IA)³, whose configuration the extension knows), str why PEFT has nothing like the method, whatever
 *          the options (a sentence; empty = it has, with some options)
 *
 * NORMALIZE: str safetensors, an adapter of any method, in any format that the method supports; str config, PEFT's
 *          configuration, or nothing. For (IA)³ it is ignored, and checked by the extension.
 * NORMALIZE_OK: str method, str options, list<str option>, those that neither the tensors nor a configuration tell, whose
 *          values are assumed, str safetensors (PEFT adapter_model.safetensors, fp32, with exactly the bytes that TRAIN_OK
 *          would have), u32 tensors of the request, u32 tensors of the method (the others leave the backbone as it is),
 *          list<str module, u8 1 = its input is scaled, 0 = its output>, the modules as they are named in
 *          the request ("encoder.block.0.layer.0.SelfAttention.k"), in the order of their data; none for a method that
 *          has only one format
 *
 * MERGE:   str method, str safetensors, str directory (an absolute path as bytes, not UTF-8)
 *          The engine reads its backbone's files again and writes a checkpoint with the vectors merged into the
 *          weights. The directory must not exist, or be empty. It is created completely or not at all.
 *
 * GENERATE: u32 max_input_tokens
 *          list<digest>                      adapters used; all zero bytes = the bare backbone
 *          list<u32 adapter index, input, u32 max_tokens (1 to IA3_MAX_NEW_TOKENS),
 *               f64 temperature (0 = greedy), u32 top_k (0 = all), u64 seed>   rows
 * GENERATE_OK: per row, in order: u8 ok; if 1: str text, without control tokens; if 0: as in SCORE_OK. After all
 *          rows: f64 FLOPs, as in SCORE_OK. With
 *          temperature 0 the text depends only on the adapter and the input; otherwise it depends on the seed too.
 *
 * METHOD:  str config.json, and then as CONFIGURE
 * METHOD_OK: what the method needs with these options on a backbone with the configuration of the request, whatever this
 *          engine's backbone is: u64 values of one adapter, the members of ia3_method_cost (cost.h) in their
 *          order, f64 each, and u32 passes: the members of an ensemble, else 1
 *
 * LINEAR:  list<u32 label, u32 fold, list<u32 word>>    rows; words are numbers, each as often as it occurs
 *          Predicts the rows of each fold by a linear model of bags of words that is fitted to the rows of the other folds:
 *          a baseline that needs no backbone (recipe/linear.h). The numbers of words, of their occurrences and of rows,
 *          together, times the number of labels are at most IA3_MAX_LINEAR.
 *
 * INFO_OK: str name, str path, str device in use ("cpu", "cuda:0"), str device description, str dtype ("bfloat16"),
 *          str model_type, digest backbone, u64 parameters, u64 bytes (weights on the device),
 *          u64 adapter values (fp32 numbers in one (IA)³ adapter), u32 vocab_size, u32 d_model,
 *          u32 encoder layers, u32 decoder layers, f64 dropout_rate,
 *          list<str method, f64 learning_rate, u32 steps (the defaults), u64 values of one adapter with the default
 *               options, u32 number of options, str why a mean of adapters does not do what they do on
 *               average, empty if it does>          the first is the default, (IA)³
 *          list<str parameter, f64 min, f64 max>    limits of TRAIN's parameters: "steps", "batch_size",
 *               "learning_rate", "warmup_ratio", "lm_weight", "unlikelihood_weight", "length_norm_weight", "dropout", "weight_decay", "ema"
 */
typedef enum Ia3LossAveraging {
    IA3_LOSS_BATCH = 0, /* token-weighted over the batch (T-Few's T0-3B runs) */
    IA3_LOSS_EXAMPLE =
        1 /* mean of per-example losses, partial batches at an epoch's end (11B and RAFT runs) */
} Ia3LossAveraging;

/* When a training run ends before its last step: never, or when its loss no longer falls (engine/recipe/stopping.h). */
typedef enum Ia3EarlyStopping { IA3_STOP_NEVER = 0, IA3_STOP_LOSS = 1 } Ia3EarlyStopping;

typedef enum Ia3Optimizer { IA3_OPTIMIZER_ADAFACTOR = 0, IA3_OPTIMIZER_ADAMW = 1 } Ia3Optimizer;

/* Each code corresponds to one SQLSTATE, to which the extension maps it (client_errors.c). */
typedef enum Ia3ErrorCode {
    IA3_E_INTERNAL = 1,       /* XX000 */
    IA3_E_PROTOCOL = 2,       /* 08P01 protocol_violation */
    IA3_E_INVALID = 3,        /* 22023 invalid_parameter_value: an argument is wrong */
    IA3_E_CHOICES = 4,        /* 22023: duplicate, empty or indistinguishable choices */
    IA3_E_TOO_LONG = 5,       /* 54000 program_limit_exceeded */
    IA3_E_BAD_ADAPTER = 6,    /* 22P03 invalid_binary_representation: malformed or for another backbone */
    IA3_E_BAD_CHECKPOINT = 7, /* F0000 config_file_error: unreadable or malformed backbone */
    IA3_E_MEMORY = 8,         /* 53200 out_of_memory */
    IA3_E_CANCELLED = 9,      /* 57014 query_canceled */
    IA3_E_UNAVAILABLE = 10,   /* 57P03 cannot_connect_now: shutting down, busy */
    IA3_E_FILE = 11,          /* 58030 io_error: a file that MERGE writes */
    IA3_E_UNSUPPORTED = 12    /* 0A000 feature_not_supported: not possible with this backbone */
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
    X(DISTINCT_TASKS, distinct_tasks) /* summed over batches; divide for a mean */                           \
    X(DEDUP_ROWS, dedup_rows)                                                                                \
    X(TRUNCATED_ROWS, truncated_rows) /* of predictions and of training */                                   \
    X(CACHE_HITS, cache_hits)                                                                                \
    X(CACHE_MISSES, cache_misses)                                                                            \
    X(CACHED_ADAPTERS, cached_adapters)                                                                      \
    X(CACHED_BYTES, cached_bytes)                                                                            \
    X(TRAIN_JOBS, train_jobs) /* at this moment */                                                           \
    X(TRAIN_STEPS, train_steps)                                                                              \
    X(SCORE_FLOPS, score_flops) /* of what has been computed to the end (cost.h) */                          \
    X(TRAIN_FLOPS, train_flops)                                                                              \
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
 * THE SUPERVISOR starts the engine, with the data directory as working directory, by
 *
 *     ia3_engine serve --name NAME --backbone DIRECTORY --socket PATH [--device SPEC] [--dtype auto|float32|
 *         bfloat16|int8] [--threads N] [--max-batch-tokens N] [--adapter-cache-size BYTES] [--memory-limit
 *         BYTES|auto|auto/N]
 *         --status-fd N --death-fd N
 *
 * and reads lines from the status pipe (each at most 1,000 bytes):
 *
 *     loading PERCENT
 *     ready
 *     failed MESSAGE          the engine then exits with status 1
 *     draining N M            after SIGUSR1, at every change: N training runs and merges and M other requests are left
 *     alive MS                the answer of the I/O thread to bytes that the supervisor wrote to the death pipe: for MS
 *                             milliseconds the compute thread has made no progress although it has work (0: it has made
 *                             some since the last answer, is idle, or loads the backbone)
 *
 * Everything that the engine writes to stderr is a log line, "LEVEL: text", where LEVEL is LOG, WARNING, ERROR or
 * DEBUG. The engine exits on SIGTERM, and when the death pipe, of which it has the reading end, reports end of file. On
 * SIGUSR1 it stops listening, completes all requests, sends GOODBYE to each client and exits with status 0 (at once if
 * it is not ready). Before it binds its socket it unlinks a stale one. It rejects clients whose uid differs from its
 * own (SO_PEERCRED).
 */

#endif
