/*
 * request.h
 *     A SCORE, GENERATE, TRAIN, TRAIN_RUNS or MERGE request, or TOKENIZE for a long text, on its way through the engine. The I/O
 *     thread parses it. It tokenizes the texts of SCORE, GENERATE and TRAIN in slices, but leaves long texts to a thread of
 *     their own (long_texts.h), and the compute thread computes these requests; MERGE has no texts and is carried out by
 *     a thread of its own, and so is LINEAR (errands.h). Then the I/O thread sends the reply and frees the request.
 *
 * Threads: the I/O thread fills in a row before it publishes it (ia3_queue_publish). From then until the DONE event,
 * rows, results and `error` belong to the compute thread. Likewise the results and `error` belong to the thread for
 * errands from ia3_errands_add until DONE. While the request is `away`, what is not yet published belongs to the thread for long texts.
 * All threads read `cancelled`.
 */
#ifndef IA3_REQUEST_H
#define IA3_REQUEST_H

#include <stdatomic.h>

#include "adapter_cache.h"
#include "choice_sets.h"
#include "engine/base/stats.h"
#include "engine/recipe/linear.h"
#include "engine/recipe/score.h"
#include "engine/recipe/train.h"
#include "frame.h"

/* One row of a SCORE or GENERATE request. See ia3_row_failed() for when it has failed. */
typedef struct ia3_row {
    struct ia3_request *request;
    ia3_cached_adapter *adapter;  /* NULL: the bare backbone */
    const ia3_choice_set *set;    /* NULL: GENERATE */
    const ia3_sampling *sampling; /* NULL: SCORE */
    int32_t *ids;
    int n_ids;
    double *scores; /* [set->choices->n], inside request->scores */
    double flops;   /* that were spent on it (engine/model/work.h) */
    char *text;     /* generated, malloc'd [text_len] */
    size_t text_len;
    ia3_writer
        error; /* if the row failed: the part of SCORE_OK that begins with the error code; else empty */
} ia3_row;

typedef struct ia3_train_result {
    uint8_t *adapter; /* safetensors */
    size_t adapter_len;
    char *metrics;
    uint8_t *state; /* NULL unless the training run is paused (recipe.stop) */
    size_t state_len;
} ia3_train_result;

/* A training run of TRAIN or TRAIN_RUNS. */
typedef struct ia3_run {
    uint64_t seed;
    uint32_t n;         /* examples */
    uint32_t *examples; /* [n] indices in request->examples; NULL: all of them, in their order */
    double *weights;    /* [n] of the examples; NULL: all weigh the same */
    ia3_train_result result;
} ia3_run;

typedef struct ia3_request {
    Ia3Message
        type; /* IA3_SCORE, IA3_GENERATE, IA3_TRAIN, IA3_TRAIN_RUNS, IA3_MERGE, IA3_LINEAR or IA3_TOKENIZE */
    uint32_t id;
    uint64_t client; /* identifies the connection; requests of one client wait in one lane */
    atomic_bool cancelled;
    double arrived;
    ia3_error error; /* set if the whole request failed */

    /* used only by the I/O thread */
    struct ia3_connection *connection; /* NULL after it was closed */
    struct ia3_request *prev, *next;   /* the connection's outstanding requests */
    struct ia3_request *next_prepare;  /* used by the thread for long texts while `away` */
    bool away;                         /* with that thread */
    bool dropped;                      /* is to be cancelled when it comes back */
    /* The payload; `score`, `train` and `merge` point into it. Freed with the first two when everything is tokenized. */
    uint8_t *frame;
    size_t frame_len;
    size_t bytes, accounted; /* memory in use; how much of it is included in ia3_io.request_bytes */
    ia3_score_message score;
    ia3_train_message train;
    uint32_t n_adapters;
    ia3_cached_adapter **adapters; /* [number of digests]; NULL: the bare backbone */
    uint32_t n_sets, sets_done;
    ia3_choice_set **sets;
    uint32_t n_prepared; /* number of rows or texts that are tokenized */

    /* SCORE and GENERATE */
    uint32_t n_rows;
    ia3_row *rows;
    double *scores;            /* SCORE */
    ia3_sampling *sampling;    /* GENERATE */
    uint32_t n_ready, n_taken; /* protected by the queue's lock */
    uint32_t n_wanted; /* rows to be done: all of them, or those taken before it was cancelled; likewise */
    uint32_t n_done;   /* likewise */
    struct ia3_request *lane_next;
    bool in_lane;

    /* TRAIN */
    ia3_train_example *examples;
    uint32_t n_examples, n_texts;
    uint32_t *right;    /* the right labels of multi-label examples */
    int32_t **text_ids; /* [n_texts]; of TOKENIZE, one */
    int *text_lens;
    ia3_verbalizers *verbalizers; /* [n_sets]; n is 0 where each choice is a label */
    uint32_t n_truncated;
    uint32_t n_runs; /* of TRAIN, one */
    ia3_run *runs;
    ia3_recipe recipe;
    uint8_t *state; /* the saved state to continue from; NULL: a new training run */
    size_t state_len;

    ia3_span text; /* TOKENIZE: in `frame` */

    struct { /* LINEAR */
        uint32_t n, n_words, n_folds;
        ia3_linear_row *rows; /* [n], each with words of its own */
        uint32_t *predicted;  /* [n] */
    } linear;

    /* MERGE (merger.h): points into `frame` */
    struct {
        ia3_span method, adapter, directory;
    } merge;
} ia3_request;

/* Requests in the order of their arrival, linked through next_prepare. */
typedef struct ia3_request_list {
    ia3_request *first, **last;
} ia3_request_list;

static inline void
ia3_request_list_init(ia3_request_list *list)
{
    list->first = NULL;
    list->last = &list->first;
}

static inline void
ia3_request_list_append(ia3_request_list *list, ia3_request *r)
{
    r->next_prepare = NULL;
    *list->last = r;
    list->last = &r->next_prepare;
}

/* Returns whether the request was in the list. */
static inline bool
ia3_request_list_remove(ia3_request_list *list, ia3_request *r)
{
    ia3_request **at = &list->first;
    while (*at && *at != r)
        at = &(*at)->next_prepare;
    if (*at == NULL)
        return false;
    *at = r->next_prepare;
    if (list->last == &r->next_prepare)
        list->last = at;
    return true;
}

/* Everything that preparing a request needs. */
typedef struct ia3_request_context {
    const ia3_tokenizer *tok;
    const ia3_method *const *methods;
    ia3_layouts *layouts;    /* of their adapters */
    uint64_t backbone_bytes; /* of the weights on the device */
    ia3_adapter_cache *adapters;
    ia3_choice_sets *sets;
    ia3_stats *stats;
} ia3_request_context;

/*
 * Parses the payload of SCORE, GENERATE, TRAIN or TRAIN_RUNS. Takes ownership of frame->data even on failure. NULL on error;
 * IA3_E_PROTOCOL means that the connection must be closed.
 */
ia3_request *ia3_request_parse(const ia3_frame *frame, const ia3_method *const *methods, ia3_error *err);

/*
 * Takes references to the request's adapters. Returns how many different digests are not in the cache and writes these
 * to `missing`, which must have room for all digests of the request.
 */
uint32_t ia3_request_acquire(ia3_request *r, ia3_request_context *x, uint8_t *missing);
uint32_t ia3_request_n_digests(const ia3_request *r);

/*
 * Tokenizes until everything is done, the next text is long, or ia3_now() passes `deadline`. Returns true when nothing is left to do: all rows
 * are ready, or r->error is set. After false, the first n_prepared rows are ready, except in a TRAIN request.
 */
bool ia3_request_prepare(ia3_request *r, ia3_request_context *x, double deadline);

/* Texts of more bytes are tokenized by a thread of their own. */
#define IA3_LONG_TEXT 8192

/* Whether ia3_request_prepare() has stopped because the next text is long. */
bool ia3_request_awaits_long_text(const ia3_request *r);

/* Tokenizes the next text, which is long; r->error is set if the whole request has failed. */
void ia3_request_prepare_long_text(ia3_request *r, ia3_request_context *x);

/* A TOKENIZE request for a long text, which lies in the frame; takes ownership of frame->data. */
ia3_request *ia3_request_tokenize(const ia3_frame *frame, const char *text, size_t len);

/* Writes the payload of TOKENIZE_OK. ids: [n]. */
void ia3_put_tokens(ia3_writer *w, const ia3_tokenizer *tok, const int32_t *ids, int n);

void ia3_request_free(ia3_request *r, ia3_request_context *x);

/* Writes the reply to a finished request: SCORE_OK, GENERATE_OK, TRAIN_OK, TRAIN_RUNS_OK, TOKENIZE_OK, OK or ERROR. */
void ia3_request_reply(ia3_writer *w, const ia3_request *r, const ia3_tokenizer *tok);

/* Whether this is a TRAIN or TRAIN_RUNS request. */
static inline bool
ia3_request_trains(const ia3_request *r)
{
    return r->type == IA3_TRAIN || r->type == IA3_TRAIN_RUNS;
}

/* Whether this is a SCORE or GENERATE request, whose rows wait in lanes and are computed in batches. */
static inline bool
ia3_request_has_rows(const ia3_request *r)
{
    return r->type == IA3_SCORE || r->type == IA3_GENERATE;
}

/* Sets the error of a row that failed while it was computed. A row whose choice set is unusable has also failed. */
void ia3_row_fail(ia3_row *row, const ia3_error *err);
static inline bool
ia3_row_failed(const ia3_row *row)
{
    return row->error.len > 0 || (row->set != NULL && row->set->choices == NULL);
}

/*
 * Handles PUT_ADAPTER: checks that the adapter matches its digest and fits the backbone, and adds it to the cache.
 * Returns the entry with a reference. Errors: IA3_E_PROTOCOL, IA3_E_BAD_ADAPTER, IA3_E_INVALID.
 */
ia3_cached_adapter *ia3_put_adapter(ia3_request_context *x, const uint8_t *payload, size_t len,
                                    ia3_error *err);

#endif
