/*
 * score_batch.c
 *     Scores the rows of a batch.
 */
#include "score_batch.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "adapter_upload.h"
#include "engine/base/alloc.h"
#include "engine/base/clock.h"
#include "engine/base/log.h"
#include "reclaim.h"

/* A batch being scored. */
typedef struct ia3_scoring {
    ia3_server *server;
    int n;
    ia3_score_row rows[IA3_MAX_BATCH_ROWS];
    ia3_row *row_of[IA3_MAX_BATCH_ROWS]; /* the batch row that each of `rows` belongs to */
} ia3_scoring;

/* Orders rows by length and equals by arrival, so that the result does not depend on the implementation of qsort. */
static int
compare_rows(const void *a, const void *b)
{
    const ia3_row *x = *(ia3_row *const *) a, *y = *(ia3_row *const *) b;
    if (x->n_ids != y->n_ids)
        return x->n_ids < y->n_ids ? -1 : 1;
    if (x->request != y->request) {
        if (x->request->client != y->request->client)
            return x->request->client < y->request->client ? -1 : 1;
        if (x->request->arrived != y->request->arrived)
            return x->request->arrived < y->request->arrived ? -1 : 1;
        return x->request->id < y->request->id ? -1 : 1;
    }
    return x < y ? -1 : x > y;
}

/* Computes rows [from, to); if there is too little memory for all of them, in two halves. */
static void
score_range(ia3_scoring *p, int from, int to)
{
    if (from == to)
        return;
    ia3_error err = {0};
    bool ok = ia3_score(p->server->model, p->rows + from, to - from, &err);
    if (!ok && ia3_reclaim_after(p->server, &err))
        ok = ia3_score(p->server->model, p->rows + from, to - from, &err);
    if (ok) {
        for (int i = from; i < to; i++) {
            p->row_of[i]->flops = p->rows[i].flops;
            for (int c = 0; c < p->rows[i].choices->n; c++)
                if (isnan(p->rows[i].scores[c])) {
                    ia3_error nan = {0};
                    ia3_fail(&nan, IA3_E_INTERNAL, "backbone's result for this row is not a finite number");
                    ia3_fail_detail(&nan, "Very large values in an adapter make activations overflow.");
                    ia3_row_fail(p->row_of[i], &nan);
                    break;
                }
        }
        return;
    }
    if (err.code == IA3_E_MEMORY && to - from > 1) {
        int middle = from + (to - from) / 2;
        score_range(p, from, middle);
        score_range(p, middle, to);
        return;
    }
    for (int i = from; i < to; i++)
        ia3_row_fail(p->row_of[i], &err);
}

/* Updates the counters. Rows that repeat another row of the batch count as rows, but not as tokens. */
static void
count_batch(ia3_scoring *p, const ia3_row_batch *batch, double started, double ended)
{
    ia3_stats *stats = &p->server->stats;
    double waited = 0, input_tokens = 0, decoder_tokens = 0, flops = 0;
    for (int i = 0; i < batch->n; i++)
        waited += started - batch->rows[i]->request->arrived;
    int tasks = 0, repeated = 0;
    for (int i = 0; i < p->n; i++) {
        flops += p->row_of[i]->flops;
        if (p->rows[i].repeated) {
            repeated++;
            continue;
        }
        input_tokens += p->rows[i].n_ids;
        decoder_tokens += p->rows[i].choices->n_rows;
        /* rows of a task need not be neighbours, so look for the adapter among all earlier rows */
        bool seen = false;
        for (int k = 0; k < i && !seen; k++)
            seen = p->rows[k].adapter == p->rows[i].adapter;
        tasks += !seen;
    }
    ia3_stats_add(stats, IA3_STAT_BATCHES, 1);
    ia3_stats_add(stats, IA3_STAT_ROWS, batch->n);
    ia3_stats_add(stats, IA3_STAT_INPUT_TOKENS, input_tokens);
    ia3_stats_add(stats, IA3_STAT_DECODER_TOKENS, decoder_tokens);
    ia3_stats_add(stats, IA3_STAT_DISTINCT_TASKS, tasks);
    ia3_stats_add(stats, IA3_STAT_DEDUP_ROWS, repeated);
    ia3_stats_add(stats, IA3_STAT_SCORE_FLOPS, flops);
    ia3_stats_add(stats, IA3_STAT_SCORE_SECONDS, ended - started);
    ia3_stats_add(stats, IA3_STAT_SCORE_WAIT_SECONDS, waited);
    ia3_stats_max(stats, IA3_STAT_MAX_BATCH_ROWS, batch->n);
}

void
ia3_score_batch(ia3_server *s, ia3_row_batch *batch)
{
    ia3_scoring *p = ia3_alloc(sizeof *p);
    p->server = s;
    double started = ia3_now();
    qsort(batch->rows, (size_t) batch->n, sizeof *batch->rows, compare_rows);
    for (int i = 0; i < batch->n; i++) {
        ia3_row *row = batch->rows[i];
        ia3_error err = {0};
        if (ia3_row_failed(row))
            continue;
        if (!ia3_adapter_to_device(s, row->adapter, &err)) {
            ia3_row_fail(row, &err);
            continue;
        }
        p->rows[p->n] = (ia3_score_row){.adapter = row->adapter ? row->adapter->device : NULL,
                                        .ids = row->ids,
                                        .n_ids = row->n_ids,
                                        .choices = row->set->choices,
                                        .scores = row->scores};
        p->row_of[p->n++] = row;
    }
    score_range(p, 0, p->n);
    if (p->n > 0)
        count_batch(p, batch, started, ia3_now());
    free(p);
}
