/*
 * generate_batch.c
 *     Generates text for the rows of GENERATE requests, on the compute thread.
 */
#include "generate_batch.h"

#include <stdlib.h>
#include <string.h>

#include "adapter_upload.h"
#include "engine/base/alloc.h"
#include "engine/base/clock.h"
#include "engine/base/log.h"
#include "engine/recipe/generate.h"
#include "reclaim.h"

/* Each step copies the logits of all rows to host memory: at most this many bytes, unless there is only one row. */
#define LOGIT_BYTES ((size_t) 64 << 20)

typedef struct ia3_writing {
    ia3_server *server;
    int n;
    ia3_row **rows; /* [n] the rows that have not failed */
    ia3_generate_row *work;
} ia3_writing;

/* Orders rows by max_tokens, so that rows that are computed together end at similar times, and equals by arrival. */
static int
compare_rows(const void *a, const void *b)
{
    const ia3_row *x = *(ia3_row *const *) a, *y = *(ia3_row *const *) b;

    if (x->sampling->max_tokens != y->sampling->max_tokens)
        return x->sampling->max_tokens < y->sampling->max_tokens ? -1 : 1;
    if (x->n_ids != y->n_ids)
        return x->n_ids < y->n_ids ? -1 : 1;
    if (x->request != y->request && x->request->arrived != y->request->arrived)
        return x->request->arrived < y->request->arrived ? -1 : 1;
    return x < y ? -1 : x > y;
}

static void
finish_row(ia3_writing *p, int i)
{
    const ia3_generate_row *w = &p->work[i];
    ia3_row *row = p->rows[i];
    ia3_error err = {0};

    row->flops = w->flops;
    if (w->overflow) {
        ia3_fail(&err, IA3_E_INTERNAL, "backbone's result for this row is not a finite number");
        ia3_fail_detail(&err, "Very large values in an adapter make activations overflow.");
    } else
        ia3_tokenizer_decode(p->server->tokenizer, w->out, w->n_out, &row->text, &row->text_len, &err);
    if (err.code != 0)
        ia3_row_fail(row, &err);
}

/* Computes rows [from, to); if there is too little memory for all of them, in two halves. */
static void
write_range(ia3_writing *p, int from, int to)
{
    ia3_error err = {0};
    bool ok = ia3_generate(p->server->model, p->work + from, to - from, &err);

    if (!ok && ia3_reclaim_after(p->server, &err))
        ok = ia3_generate(p->server->model, p->work + from, to - from, &err);
    if (!ok && err.code == IA3_E_MEMORY && to - from > 1) {
        int middle = from + (to - from) / 2;

        write_range(p, from, middle);
        write_range(p, middle, to);
        return;
    }
    for (int i = from; i < to; i++)
        if (ok)
            finish_row(p, i);
        else
            ia3_row_fail(p->rows[i], &err);
}

/* Adds to the counters of scoring, which include generation; the input of each step is a decoder token. */
static void
count(ia3_writing *p, double started, double ended)
{
    ia3_stats *stats = &p->server->stats;
    double waited = 0, input_tokens = 0, decoder_tokens = 0, flops = 0;
    int tasks = 0;

    for (int i = 0; i < p->n; i++) {
        bool seen = false;

        waited += started - p->rows[i]->request->arrived;
        flops += p->rows[i]->flops;
        input_tokens += p->work[i].n_ids;
        decoder_tokens += p->work[i].n_out + (p->work[i].n_out < p->work[i].max_tokens);
        for (int k = 0; k < i && !seen; k++)
            seen = p->rows[k]->adapter == p->rows[i]->adapter;
        tasks += !seen;
    }
    ia3_stats_add(stats, IA3_STAT_BATCHES, 1);
    ia3_stats_add(stats, IA3_STAT_ROWS, p->n);
    ia3_stats_add(stats, IA3_STAT_INPUT_TOKENS, input_tokens);
    ia3_stats_add(stats, IA3_STAT_DECODER_TOKENS, decoder_tokens);
    ia3_stats_add(stats, IA3_STAT_DISTINCT_TASKS, tasks);
    ia3_stats_add(stats, IA3_STAT_SCORE_FLOPS, flops);
    ia3_stats_add(stats, IA3_STAT_SCORE_SECONDS, ended - started);
    ia3_stats_add(stats, IA3_STAT_SCORE_WAIT_SECONDS, waited);
    ia3_stats_max(stats, IA3_STAT_MAX_BATCH_ROWS, p->n);
}

static ia3_generate_row
work_of(const ia3_row *row)
{
    const ia3_sampling *s = row->sampling;

    return (ia3_generate_row){
        .adapter = row->adapter ? row->adapter->device : NULL,
        .ids = row->ids,
        .n_ids = row->n_ids,
        .max_tokens = (int) s->max_tokens,
        .temperature = s->temperature,
        .top_k = (int) s->top_k,
        .seed = s->seed,
        .cancelled = &row->request->cancelled,
        .out = ia3_alloc_array(s->max_tokens, sizeof(int32_t)),
    };
}

void
ia3_run_generation(ia3_server *s, ia3_row **rows, int n)
{
    ia3_writing p = {.server = s};
    double started = ia3_now();
    size_t per_row = (size_t) ia3_model_config(s->model)->vocab_size * sizeof(float);
    int together = (int) (LOGIT_BYTES / per_row > 1 ? LOGIT_BYTES / per_row : 1);

    qsort(rows, (size_t) n, sizeof *rows, compare_rows);
    p.rows = ia3_alloc_array((size_t) n, sizeof(ia3_row *));
    p.work = ia3_alloc_array((size_t) n, sizeof *p.work);
    for (int i = 0; i < n; i++) {
        ia3_error err = {0};

        if (ia3_row_failed(rows[i]))
            continue;
        if (rows[i]->adapter && rows[i]->adapter->layout->members > 1) {
            ia3_fail(&err, IA3_E_UNSUPPORTED, "an ensemble cannot generate text");
            ia3_fail_hint(&err, "Train one version without the option ensemble.");
            ia3_row_fail(rows[i], &err);
            continue;
        }
        if (!ia3_adapter_to_device(s, rows[i]->adapter, &err)) {
            ia3_row_fail(rows[i], &err);
            continue;
        }
        p.rows[p.n] = rows[i];
        p.work[p.n++] = work_of(rows[i]);
    }
    for (int from = 0; from < p.n; from += together)
        write_range(&p, from, p.n - from < together ? p.n : from + together);
    if (p.n > 0)
        count(&p, started, ia3_now());
    for (int i = 0; i < p.n; i++)
        free(p.work[i].out);
    free(p.rows);
    free(p.work);
}
