/*
 * request.h
 *     A SCORE, GENERATE, TRAIN or MERGE request on its way: parsed and tokenized by the I/O thread in slices, computed by the
 *     compute thread, answered and freed by the I/O thread.
 *
 * Who touches what: the I/O thread fills a row before it publishes it (ia3_queue_publish); from then until
 * the DONE event, rows, results and `error` belong to the compute thread. `cancelled` is read by both.
 */
#ifndef IA3_REQUEST_H
#define IA3_REQUEST_H

#include <stdatomic.h>

#include "adapter_cache.h"
#include "choice_sets.h"
#include "engine/base/stats.h"
#include "engine/recipe/score.h"
#include "engine/recipe/train.h"
#include "frame.h"

/* One row of a SCORE or GENERATE. Failed when `error` is set or its choice set has no choices. */
typedef struct ia3_row {
    struct ia3_request *request;
    ia3_cached_adapter *adapter;  /* NULL: the bare backbone */
    const ia3_choice_set *set;    /* NULL: GENERATE */
    const ia3_sampling *sampling; /* NULL: SCORE */
    int32_t *ids;
    int n_ids;
    double *scores; /* [set->choices->n], inside request->scores */
    char *text;     /* generated, malloc'd [text_len] */
    size_t text_len;
    ia3_writer error; /* what SCORE_OK says of a failed row, from the code on; empty otherwise */
} ia3_row;

typedef struct ia3_train_result {
    uint8_t *adapter; /* safetensors */
    size_t adapter_len;
    char *metrics;
    uint8_t *state; /* NULL unless the recipe has a stop */
    size_t state_len;
} ia3_train_result;

typedef struct ia3_request {
    Ia3Message type; /* IA3_SCORE, IA3_GENERATE, IA3_TRAIN or IA3_MERGE */
    uint32_t id;
    uint64_t client; /* of the connection: requests of one client wait in one lane */
    atomic_bool cancelled;
    double arrived;
    ia3_error error; /* the whole request failed */

    /* the I/O thread's */
    struct ia3_connection *connection; /* NULL once it is closed */
    struct ia3_request *prev, *next;   /* the connection's outstanding requests */
    struct ia3_request *next_prepare;
    uint8_t *frame; /* what the messages point into; freed with them once everything is tokenized */
    size_t frame_len;
    size_t bytes, accounted; /* memory held; how much of it the server has counted */
    ia3_score_message score;
    ia3_train_message train;
    uint32_t n_adapters;
    ia3_cached_adapter **adapters; /* [digests], NULL = bare */
    uint32_t n_sets, sets_done;
    ia3_choice_set **sets;
    uint32_t n_prepared; /* rows or texts */

    /* SCORE and GENERATE */
    uint32_t n_rows;
    ia3_row *rows;
    double *scores;            /* SCORE */
    ia3_sampling *sampling;    /* GENERATE */
    uint32_t n_ready, n_taken; /* under the queue's lock */
    uint32_t n_done;           /* the compute thread's */
    struct ia3_request *lane_next;
    bool in_lane;

    /* TRAIN */
    ia3_train_example *examples;
    uint32_t n_examples, n_texts;
    int32_t **text_ids; /* [n_texts] */
    int *text_lens;
    uint32_t n_truncated;
    ia3_recipe recipe;
    uint8_t *state; /* to go on from, NULL: begin */
    size_t state_len;
    ia3_train_result result;

    /* MERGE (merger.h): points into the frame */
    struct {
        ia3_span method, adapter, directory;
    } merge;
} ia3_request;

/* What preparing needs. */
typedef struct ia3_request_context {
    const ia3_tokenizer *tok;
    const ia3_method *const *methods;
    ia3_layout *const *layouts; /* of the methods */
    ia3_adapter_cache *adapters;
    ia3_choice_sets *sets;
    ia3_stats *stats;
} ia3_request_context;

/*
 * Parses a SCORE, GENERATE or TRAIN payload. Takes ownership of frame->data in every case. NULL on error; IA3_E_PROTOCOL
 * then means that the connection must be closed.
 */
ia3_request *ia3_request_parse(const ia3_frame *frame, const ia3_method *const *methods, ia3_error *err);

/*
 * Takes references to the adapters. Returns how many of the digests are unknown, each once, and writes them
 * to `missing` (room for all digests of the request).
 */
uint32_t ia3_request_acquire(ia3_request *r, ia3_request_context *x, uint8_t *missing);
uint32_t ia3_request_n_digests(const ia3_request *r);

/*
 * Tokenizes until done or until the clock passes `deadline`. Returns true when there is nothing left to do:
 * all rows are ready or r->error is set. After false, the first n_prepared rows are ready (unless it is a TRAIN).
 */
bool ia3_request_prepare(ia3_request *r, ia3_request_context *x, double deadline);

void ia3_request_free(ia3_request *r, ia3_request_context *x);

/* SCORE_OK, GENERATE_OK, TRAIN_OK, OK or ERROR of a finished request. */
void ia3_request_reply(ia3_writer *w, const ia3_request *r);

/* Its rows wait in lanes and are computed in batches (SCORE, GENERATE). */
static inline bool
ia3_request_has_rows(const ia3_request *r)
{
    return r->type == IA3_SCORE || r->type == IA3_GENERATE;
}

/* For rows that fail while they are computed. */
void ia3_row_fail(ia3_row *row, const ia3_error *err);
static inline bool
ia3_row_failed(const ia3_row *row)
{
    return row->error.len > 0 || (row->set != NULL && row->set->choices == NULL);
}

/*
 * Encodes an input as ia3_tokenizer_encode_input does, after cutting a body of megabytes down to what could
 * ever matter, so that one document does not keep the I/O thread busy for seconds.
 */
bool ia3_encode_input(const ia3_tokenizer *tok, ia3_span text, uint32_t tail, uint32_t max_tokens,
                      int32_t **ids, int *n, bool *truncated, ia3_error *err);

/*
 * PUT_ADAPTER: checks that the bytes are what the digest says and fit the backbone, and puts them into the
 * cache; returns the entry with a reference. Errors: IA3_E_PROTOCOL, IA3_E_BAD_ADAPTER, IA3_E_INVALID.
 */
ia3_cached_adapter *ia3_put_adapter(ia3_request_context *x, const uint8_t *payload, size_t len,
                                    ia3_error *err);

#endif
