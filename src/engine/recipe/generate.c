/*
 * generate.c
 *     Generates text token by token with cached keys and values.
 *
 * Every layer stores the results of its fused q, k, v matrix products of all steps: cache[layer][step][row][3·inner].
 * The keys of one row are then n·3·inner elements apart, which attention supports by its stride, and the result of each
 * step is written to its final place, so nothing is copied.
 *
 * Lead rows of the decoder are steps of their own before the first token. Rows with fewer of them begin later, so that all
 * rows choose their tokens in the same steps.
 */
#include "generate.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "by_weights.h"
#include "engine/base/alloc.h"
#include "engine/base/rng.h"
#include "engine/model/pass.h"
#include "engine/model/work.h"

#define OPS g->m->dev->ops
#define DEV g->m->dev

typedef struct generation {
    ia3_model *m;
    ia3_generate_row *rows;
    int n, max_tokens, lead; /* lead: the most lead rows of any row */
    bool
        together; /* all rows begin with the same step, and the device attends to all at once (ia3_device.keys_apart) */
    int *first; /* host memory [n]: the step with which a row begins, the others' `lead` minus its own */
    const ia3_batch *batch;
    ia3_pass pass;
    char **cache,
        **cross; /* host arrays [layers] of device memory, act: [lead + max_tokens][n][3·inner]; [encoder rows][2·inner] */
    void *q, *attended; /* act [n, inner] */
    float *logits;      /* device [n, vocab] */
    float *host_logits;
    int32_t *token;         /* host memory [n]: input of the next step */
    int32_t *device_token;  /* the same on the device */
    int32_t *one_query;     /* device {0, 1}: the query of a single row */
    int32_t *keys;          /* device [n] {0, steps of this row so far}; `together`: offsets [n + 1] */
    int32_t *host_keys;     /* the same in host memory */
    int32_t *query_per_row; /* device 0 … n */
    bool *done;
    int n_done;
} generation;

static void *
act_room(generation *g, size_t rows, size_t cols)
{
    return OPS->arena_alloc(DEV, rows * cols * ia3_dtype_size(DEV->dtype));
}

/* Computes the cross-attention keys and values of all layers and allocates all buffers of the steps. */
static void
prepare(generation *g)
{
    const ia3_config *c = &g->m->config;
    ia3_stack *s = &g->pass.dec;
    size_t n = g->n, inner = c->inner, d = c->d_model;
    for (int i = 0; i < c->n_dec; i++) {
        ia3_bias_cover(g->m, g->pass.w->dec[i].self.bias, g->lead + g->max_tokens);
        g->cache[i] = act_room(g, n * (g->lead + g->max_tokens), 3 * inner);
        g->cross[i] = act_room(g, g->pass.enc.rows, 2 * inner);
        ia3_pass_product(&g->pass, &g->pass.enc, (ia3_place){true, i, IA3_PART_CROSS_KV}, g->cross[i],
                         g->pass.enc.out, g->pass.w->dec[i].cross.kv, IA3_OUT_ACT);
    }
    g->q = act_room(g, n, inner);
    g->attended = act_room(g, n, inner);
    g->logits = OPS->arena_alloc(DEV, n * c->vocab_size * sizeof(float));
    g->device_token = OPS->arena_alloc(DEV, n * sizeof(int32_t));
    g->one_query = OPS->arena_alloc(DEV, 2 * sizeof(int32_t));
    g->keys = OPS->arena_alloc(DEV, 2 * n * sizeof(int32_t));
    g->query_per_row = OPS->arena_alloc(DEV, (n + 1) * sizeof(int32_t));
    const int32_t one[2] = {0, 1};
    OPS->upload(DEV, g->one_query, one, sizeof one);
    for (int i = 0; i <= g->n; i++)
        OPS->upload(DEV, g->query_per_row + i, &(int32_t){i}, sizeof(int32_t));

    s->rows = g->n;
    s->ids = g->device_token;
    s->offsets = g->query_per_row;
    s->slot_of_row = g->pass.slot_of_input; /* one decoder row per input */
    s->max_rows = 1;
    s->x = OPS->arena_alloc(DEV, n * d * sizeof(float));
    s->normed = act_room(g, n, d);
    s->out = act_room(g, n, d);
}

/* The step that row i begins with. Until then it computes something that is not used, from the present step alone. */
static int
first_step(const generation *g, int i, int step)
{
    return step < g->first[i] ? step : g->first[i];
}

/* Replaces keys and values of rows that have a lead row in this step. */
static void
put_lead_keys(generation *g, int layer, int step, char *qkv)
{
    const size_t row_bytes = 3 * (size_t) g->m->config.inner * ia3_dtype_size(DEV->dtype);
    for (int i = 0; i < g->n && step < g->lead; i++)
        if (step >= g->first[i])
            ia3_pass_decoder_keys(&g->pass, g->batch->slot_of_input.v[i], layer, step - g->first[i],
                                  qkv + (size_t) i * row_bytes);
}

/*
 * Attention of the rows from i on to their own steps so far: of all rows if these are `together`, else of row i. Rows are apart in
 * the cache by their place in a step.
 */
static void
attend(generation *g, const ia3_attention *all, int layer, int i, int step)
{
    size_t inner = g->m->config.inner, size = ia3_dtype_size(DEV->dtype), row_bytes = 3 * inner * size;
    int begin = first_step(g, i, step);
    const char *now = (const char *) all->q,
               *kept = g->cache[layer] + ((size_t) begin * g->n + (size_t) i) * row_bytes;
    ia3_attention a = *all;
    a.n_seq = g->together ? g->n : 1;
    a.q_offsets = g->together ? g->query_per_row : g->one_query;
    a.k_offsets = g->together ? g->keys : g->keys + 2 * i;
    a.max_q = 1;
    a.max_k = step + 1 - begin;
    a.parent = a.depth = NULL;
    a.q = now + (size_t) i * row_bytes;
    a.k = kept + inner * size;
    a.v = kept + 2 * inner * size;
    a.kv_stride = (size_t) g->n * 3 * inner;
    a.kv_apart = g->together ? 3 * inner : 0;
    /* the only query has the last position, not 0, so the table of distances is shifted */
    a.bias = all->bias ? all->bias - (step - begin) : NULL;
    a.scale_k.slot_of = all->scale_k.slot_of + i;
    a.scale_v.slot_of = all->scale_v.slot_of + i;
    a.out = (char *) g->attended + (size_t) i * inner * size;
    OPS->attention(DEV, &a);
}

static void
self_attention(generation *g, int layer, int step)
{
    const ia3_self_attention *w = &g->pass.w->dec[layer].self;
    ia3_stack *s = &g->pass.dec;
    size_t inner = g->m->config.inner, size = ia3_dtype_size(DEV->dtype), row_bytes = 3 * inner * size;
    char *now = g->cache[layer] + (size_t) step * g->n * row_bytes;
    ia3_sublayer_enter(&g->pass, s, layer, IA3_PART_SELF_NORM, w->norm, NULL, NULL);
    ia3_place at = {true, layer, IA3_PART_SELF_QKV};
    ia3_pass_product(&g->pass, s, at, now, s->normed, w->qkv, IA3_OUT_ACT);
    put_lead_keys(g, layer, step, now);
    ia3_saved_attention here = {.q = now, .out = g->attended};
    ia3_attention all;
    ia3_pass_self_attention(&g->pass, s, layer, &here, &all);
    for (int i = 0; i < (g->together ? 1 : g->n); i++)
        attend(g, &all, layer, i, step);
    ia3_sublayer_leave(&g->pass, s, g->attended, w->o, layer, IA3_SITE_SELF_OUT);
}

static void
cross_attention(generation *g, int layer)
{
    const ia3_cross_attention *w = &g->pass.w->dec[layer].cross;
    ia3_stack *s = &g->pass.dec;
    ia3_sublayer_enter(&g->pass, s, layer, IA3_PART_CROSS_NORM, w->norm, NULL, NULL);
    ia3_place at = {true, layer, IA3_PART_CROSS_Q};
    ia3_pass_product(&g->pass, s, at, g->q, s->normed, w->q, IA3_OUT_ACT);
    ia3_saved_attention here = {.q = g->q, .kv = g->cross[layer], .out = g->attended};
    ia3_attention a;
    ia3_pass_cross_attention(&g->pass, layer, &here, &a);
    OPS->attention(DEV, &a);
    ia3_sublayer_leave(&g->pass, s, g->attended, w->o, layer, IA3_SITE_CROSS_OUT);
}

/* Replaces the embeddings of rows that have a lead row in this step. */
static void
put_leads(generation *g, int step)
{
    for (int i = 0; i < g->n && step < g->lead; i++)
        if (step >= g->first[i])
            ia3_pass_decoder_lead(&g->pass, g->batch->slot_of_input.v[i], step - g->first[i],
                                  g->pass.dec.x + (size_t) i * (size_t) g->m->config.d_model);
}

/* How many keys each row has. */
static void
upload_keys(generation *g, int step)
{
    int n = g->together ? g->n + 1 : 2 * g->n;
    for (int i = 0; i < g->n; i++) {
        int keys = step + 1 - first_step(g, i, step);
        if (g->together) {
            g->host_keys[i] = i * keys;
            g->host_keys[i + 1] = (i + 1) * keys;
        } else {
            g->host_keys[2 * i] = 0;
            g->host_keys[2 * i + 1] = keys;
        }
    }
    OPS->upload(DEV, g->keys, g->host_keys, (size_t) n * sizeof(int32_t));
}

/* Computes the logits of the next token of every row and copies them to host_logits, unless this is a step of lead rows. */
static void
decode_step(generation *g, int step)
{
    const ia3_config *c = &g->m->config;
    ia3_stack *s = &g->pass.dec;
    upload_keys(g, step);
    OPS->upload(DEV, g->device_token, g->token, (size_t) g->n * sizeof(int32_t));
    OPS->embed(DEV, s->x, g->device_token, g->n, c->d_model, g->pass.w->embedding);
    put_leads(g, step);
    for (int i = 0; i < c->n_dec; i++) {
        self_attention(g, i, step);
        cross_attention(g, i);
        ia3_sublayer_feed_forward(&g->pass, s, i);
    }
    if (step < g->lead)
        return;
    OPS->rmsnorm(DEV, s->out, NULL, s->x, g->pass.w->dec_norm, g->n, c->d_model, c->eps);
    ia3_pass_norm(&g->pass, s, (ia3_place){true, c->n_dec, IA3_PART_SELF_NORM}, s->out);
    OPS->matmul(DEV, g->logits, s->out, g->n, g->pass.w->head, IA3_OUT_F32);
    OPS->download(DEV, g->host_logits, g->logits, (size_t) g->n * c->vocab_size * sizeof(float));
}

static int32_t
most_likely(const float *logits, int n)
{
    int32_t best = 0;
    for (int32_t i = 1; i < n; i++)
        if (logits[i] > logits[best])
            best = i;
    return best;
}

static int
descending(const void *a, const void *b)
{
    float x = *(const float *) a, y = *(const float *) b;
    return x < y ? 1 : x > y ? -1 : 0;
}

/* The k-th largest logit; sampling ignores tokens below it. */
static float
cutoff(const float *logits, int n, int k)
{
    if (k <= 0 || k >= n)
        return -INFINITY;
    float *sorted = ia3_alloc_array(n, sizeof *sorted);
    memcpy(sorted, logits, (size_t) n * sizeof *sorted);
    qsort(sorted, n, sizeof *sorted, descending);
    float least = sorted[k - 1];
    free(sorted);
    return least;
}

/* Draws a token from softmax(scale · logits / temperature) with its cumulative distribution function. */
static int32_t
sample(const ia3_generate_row *row, const float *logits, int n, double scale, int step)
{
    float least = cutoff(logits, n, row->top_k), top = logits[most_likely(logits, n)];
    double sharp = scale / row->temperature, sum = 0;
    for (int i = 0; i < n; i++)
        if (logits[i] >= least)
            sum += exp(sharp * (logits[i] - top));
    uint64_t bits = ia3_mix64(ia3_mix64(row->seed) + (uint64_t) step) >> 11;
    double left = (double) bits * 0x1p-53 * sum;
    int32_t last = 0;
    for (int32_t i = 0; i < n; i++) {
        if (logits[i] < least)
            continue;
        last = i;
        left -= exp(sharp * (logits[i] - top));
        if (left < 0)
            break;
    }
    return last;
}

/* Chooses the next token of every row that is not finished. */
static void
choose(generation *g, int step)
{
    const ia3_config *c = &g->m->config;
    for (int i = 0; i < g->n; i++) {
        ia3_generate_row *row = &g->rows[i];
        if (g->done[i])
            continue;
        const float *logits = g->host_logits + (size_t) i * c->vocab_size;
        int32_t token = most_likely(logits, c->vocab_size);
        row->overflow = !isfinite(logits[token]);
        if (row->temperature > 0 && !row->overflow)
            token = sample(row, logits, c->vocab_size, g->m->logit_scale, step);
        g->token[i] = token;
        bool end = row->overflow || ia3_config_ends(c, token);
        if (!end)
            row->out[row->n_out++] = token;
        g->done[i] = end || row->n_out == row->max_tokens || (row->cancelled && atomic_load(row->cancelled));
        g->n_done += g->done[i];
    }
}

static void
run(void *arg)
{
    generation *g = arg;
    ia3_pass_encode(&g->pass, g->m, g->batch, false);
    prepare(g);
    int step = 0;
    for (; step < g->lead + g->max_tokens && g->n_done < g->n; step++) {
        ia3_model_give_way(g->m);
        decode_step(g, step);
        if (step >= g->lead)
            choose(g, step - g->lead);
    }
    for (int i = 0; i < g->n; i++)
        g->rows[i].flops = ia3_generation_flops(g->m, g->batch, i, step, g->lead, g->first[i]);
}

/* For rows with the same weights. */
static bool
generate_alike(ia3_model *m, void *arg, int n, ia3_error *err)
{
    ia3_generate_row *rows = arg;
    ia3_batch batch;
    ia3_batch_init(&batch);
    generation g = {.m = m, .rows = rows, .n = n, .batch = &batch};
    g.cache = ia3_alloc_array(m->config.n_dec, sizeof *g.cache);
    g.cross = ia3_alloc_array(m->config.n_dec, sizeof *g.cross);
    g.host_logits = ia3_alloc_array((size_t) n * m->config.vocab_size, sizeof(float));
    g.token = ia3_alloc_array(n, sizeof *g.token);
    g.done = ia3_alloc_array(n, sizeof *g.done);
    g.first = ia3_alloc_array(n, sizeof *g.first);
    g.host_keys = ia3_alloc_array(2 * (size_t) n, sizeof *g.host_keys);
    for (int i = 0; i < n; i++) {
        const ia3_adapter *adapter = rows[i].adapter;
        const float *values = adapter && !adapter->weights ? adapter->values : m->ones;
        const ia3_layout *layout = adapter ? adapter->layout : m->layout;
        batch.weights = adapter ? adapter->weights : NULL;
        ia3_batch_add_input(&batch, rows[i].ids, rows[i].n_ids, ia3_batch_find_slot(&batch, layout, values));
        g.first[i] = layout->dec_lead_rows;
        g.lead = g.first[i] > g.lead ? g.first[i] : g.lead;
        g.token[i] = m->config.start_id;
        rows[i].n_out = 0;
        rows[i].overflow = false;
        if (rows[i].max_tokens > g.max_tokens)
            g.max_tokens = rows[i].max_tokens;
    }
    g.together = m->dev->keys_apart;
    for (int i = 0; i < n; i++) {
        g.first[i] = g.lead - g.first[i];
        g.together = g.together && g.first[i] == 0;
    }
    ia3_batch_one_row_each(&batch);
    bool ok = ia3_model_guarded(m, run, &g, err);
    free(g.cache);
    free(g.cross);
    free(g.host_logits);
    free(g.token);
    free(g.done);
    free(g.first);
    free(g.host_keys);
    ia3_batch_free(&batch);
    return ok;
}

static const ia3_adapter *
adapter_of(const void *row)
{
    return ((const ia3_generate_row *) row)->adapter;
}

bool
ia3_generate(ia3_model *m, ia3_generate_row *rows, int n, ia3_error *err)
{
    const ia3_rows_by_weights all = {rows, sizeof *rows, n, adapter_of, generate_alike};
    return ia3_compute_by_weights(m, &all, err);
}
