/*
 * prefix_network.c
 *     The network that prefixes are trained through, and its initial values.
 */
#include "prefix.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/alloc.h"
#include "engine/base/half.h"
#include "engine/base/heartbeat.h"
#include "engine/base/rng.h"
#include "engine/model/pass.h"

enum { HIDDEN = 512, N_GROUPS = 3 };

/* The attentions that have all but the last layer in common. */
typedef struct group {
    const char *name;
    bool decoder;
    ia3_part part; /* the place of the adapter's values */
    int layers, length, d_model, out;
    /* where the values begin: the embeddings [length, d_model], W₁ [HIDDEN, d_model], b₁, and W₂ [out, HIDDEN], b₂ of each layer */
    size_t embedding, weight, bias, last;
} group;

static size_t
last_size(const group *g)
{
    return (size_t) g->out * (HIDDEN + 1);
}

static group
group_of(const ia3_layout *l, int d_model, int i)
{
    group g = {.name = i == 0   ? "encoder.SelfAttention"
                       : i == 1 ? "decoder.SelfAttention"
                                : "decoder.EncDecAttention",
               .decoder = i > 0,
               .part = i < 2 ? IA3_PART_SELF_QKV : IA3_PART_CROSS_KV,
               .length = l->lead_rows,
               .d_model = d_model,
               .out = 2 * l->inner};
    size_t at = 0;

    for (int k = 0;; k++) {
        g.layers = k == 0 ? l->n_enc : l->n_dec;
        g.embedding = at;
        g.weight = g.embedding + (size_t) g.length * (size_t) d_model;
        g.bias = g.weight + (size_t) HIDDEN * (size_t) d_model;
        g.last = g.bias + HIDDEN;
        if (k == i)
            return g;
        at = g.last + (size_t) g.layers * last_size(&g);
    }
}

/* The width of the embeddings is that of the first tensor. */
static int
d_model_of(const ia3_layout *l)
{
    return l->trained->entries[0].cols;
}

/* Where W₂ of a layer begins; b₂ follows. */
static size_t
last_at(const group *g, int layer)
{
    return g->last + (size_t) layer * last_size(g);
}

static size_t
prefix_at(const ia3_layout *l, const group *g, int layer)
{
    return ia3_place_offset(l, (ia3_place){g->decoder, layer, g->part});
}

static void
add_tensors(ia3_layout *trained, const ia3_layout *l, const ia3_config *config)
{
    for (int i = 0; i < N_GROUPS; i++) {
        const group g = group_of(l, config->d_model, i);

        ia3_layout_add_matrix(trained, g.length, g.d_model, 0.0f, "%s.prefix_emb.weight", g.name);
        ia3_layout_add_matrix(trained, HIDDEN, g.d_model, 0.0f, "%s.prefix_mlp.0.weight", g.name);
        ia3_layout_add_vector(trained, HIDDEN, 0.0f, "%s.prefix_mlp.0.bias", g.name);
        for (int k = 0; k < g.layers; k++) {
            ia3_layout_add_matrix(trained, g.out, HIDDEN, 0.0f, "%s.%d.prefix_mlp.2.weight", g.name, k);
            ia3_layout_add_vector(trained, g.out, 0.0f, "%s.%d.prefix_mlp.2.bias", g.name, k);
        }
    }
}

/* One product for the result, two for the gradients, of each matrix that embeddings go through. */
static double
step_work(const ia3_layout *trained, const ia3_layout *l)
{
    double macs = 0;

    for (int i = 0; i < N_GROUPS; i++) {
        const group g = group_of(l, trained->entries[0].cols, i);

        macs += (double) HIDDEN * g.d_model + (double) g.layers * HIDDEN * g.out;
    }
    return 3 * l->lead_rows * macs;
}

/* --- training --- */

/* The hidden layers of all groups, and their gradients. */
static size_t
scratch(const ia3_layout *l)
{
    return (size_t) 2 * N_GROUPS * (size_t) l->lead_rows * HIDDEN;
}

static float *
hidden_of(const ia3_trained *t, int i)
{
    return t->scratch + (size_t) i * (size_t) t->layout->lead_rows * HIDDEN;
}

static ia3_dense
first_layer(const ia3_trained *t, const group *g)
{
    return (ia3_dense){.in = g->d_model,
                       .out = HIDDEN,
                       .tanh = true,
                       .weight = t->values + g->weight,
                       .bias = t->values + g->bias};
}

static ia3_dense
last_layer(const ia3_trained *t, const group *g, int layer)
{
    const float *weight = t->values + last_at(g, layer);

    return (ia3_dense){
        .in = HIDDEN, .out = g->out, .weight = weight, .bias = weight + (size_t) g->out * HIDDEN};
}

static void
compute(const ia3_trained *t)
{
    const ia3_device_ops *ops = t->dev->ops;

    for (int i = 0; i < N_GROUPS; i++) {
        const group g = group_of(t->layout, d_model_of(t->layout), i);
        const ia3_dense first = first_layer(t, &g);

        ops->dense(t->dev, hidden_of(t, i), t->values + g.embedding, g.length, &first);
        for (int k = 0; k < g.layers; k++) {
            const ia3_dense last = last_layer(t, &g, k);

            ops->dense(t->dev, t->adapter_values + prefix_at(t->layout, &g, k), hidden_of(t, i), g.length,
                       &last);
        }
    }
}

static void
compute_bwd(const ia3_trained *t)
{
    const ia3_device_ops *ops = t->dev->ops;

    for (int i = 0; i < N_GROUPS; i++) {
        const group g = group_of(t->layout, d_model_of(t->layout), i);
        const ia3_dense first = first_layer(t, &g);
        const ia3_dense_grad grad = {t->grads + g.weight, t->grads + g.bias};
        float *hidden = hidden_of(t, i), *d_hidden = hidden_of(t, N_GROUPS + i);

        ops->zero(t->dev, d_hidden, (size_t) g.length * HIDDEN * sizeof *d_hidden);
        for (int k = 0; k < g.layers; k++) {
            const ia3_dense last = last_layer(t, &g, k);
            float *weight = t->grads + last_at(&g, k);
            const ia3_dense_grad of_last = {weight, weight + (size_t) g.out * HIDDEN};
            const size_t at = prefix_at(t->layout, &g, k);

            ops->dense_bwd(t->dev, d_hidden, &of_last, t->adapter_grads + at, t->adapter_values + at, hidden,
                           g.length, &last);
        }
        ops->dense_bwd(t->dev, t->grads + g.embedding, &grad, d_hidden, hidden, t->values + g.embedding,
                       g.length, &first);
    }
}

/* --- initial values --- */

/* As PyTorch initialises embeddings and linear layers. The random numbers are counted by the positions of the values. */
static void
draw(const group *g, uint64_t seed, float *values)
{
    const float first = 1.0f / sqrtf((float) g->d_model), last = 1.0f / sqrtf((float) HIDDEN);

    for (size_t k = g->embedding; k < g->weight; k++)
        values[k] = ia3_draw_normal(seed, IA3_STREAM_INIT, k);
    for (size_t k = g->weight; k < g->last; k++)
        values[k] = first * ia3_draw_uniform(seed, IA3_STREAM_INIT, k);
    for (int layer = 0; layer < g->layers; layer++) {
        ia3_heartbeat();
        for (size_t k = last_at(g, layer); k < last_at(g, layer + 1); k++)
            values[k] = last * ia3_draw_uniform(seed, IA3_STREAM_INIT, k);
    }
}

static void
compute_hidden(const group *g, const float *values, float *hidden)
{
    for (int r = 0; r < g->length; r++)
        for (int h = 0; h < HIDDEN; h++) {
            const float *e = values + g->embedding + (size_t) r * (size_t) g->d_model;
            const float *w = values + g->weight + (size_t) h * (size_t) g->d_model;
            double sum = values[g->bias + (size_t) h];

            for (int i = 0; i < g->d_model; i++)
                sum += (double) e[i] * w[i];
            hidden[r * HIDDEN + h] = (float) tanh(sum);
        }
}

static double
inner_product(const float *x, const float *y)
{
    double sum = 0;

    for (int i = 0; i < HIDDEN; i++)
        sum += (double) x[i] * y[i];
    return sum;
}

/* The Cholesky factor [n, n] of H·Hᵀ; a row that depends on those before it gets 0 on the diagonal. */
static double *
factorize(const float *hidden, int n)
{
    double *l = ia3_alloc_array((size_t) n * (size_t) n, sizeof *l);

    for (int i = 0; i < n; i++)
        for (int k = 0; k <= i; k++) {
            double sum = inner_product(hidden + i * HIDDEN, hidden + k * HIDDEN);

            for (int m = 0; m < k; m++)
                sum -= l[i * n + m] * l[k * n + m];
            if (k < i)
                l[i * n + k] = l[k * n + k] > 0 ? sum / l[k * n + k] : 0;
            else
                l[i * n + i] = sum > 1e-9 * HIDDEN ? sqrt(sum) : 0;
        }
    return l;
}

/* Solves L·Lᵀ·x = x in place. */
static void
solve(const double *l, int n, double *x)
{
    for (int i = 0; i < n; i++) {
        for (int m = 0; m < i; m++)
            x[i] -= l[i * n + m] * x[m];
        x[i] = l[i * n + i] > 0 ? x[i] / l[i * n + i] : 0;
    }
    for (int i = n - 1; i >= 0; i--) {
        for (int m = i + 1; m < n; m++)
            x[i] -= l[m * n + i] * x[m];
        x[i] = l[i * n + i] > 0 ? x[i] / l[i * n + i] : 0;
    }
}

/* Changes W₂ of each attention as little as possible, such that the adapter's values result. */
static void
fit(const ia3_layout *l, const group *g, const float *prefix, float *values)
{
    float *hidden = ia3_alloc_array((size_t) g->length * HIDDEN, sizeof *hidden);
    double *x = ia3_alloc_array((size_t) g->length, sizeof *x), *factor;

    compute_hidden(g, values, hidden);
    factor = factorize(hidden, g->length);
    for (int k = 0; k < g->layers; k++) {
        const float *want = prefix + prefix_at(l, g, k);
        float *weight = values + last_at(g, k), *bias = weight + (size_t) g->out * HIDDEN;

        ia3_heartbeat();
        for (int o = 0; o < g->out; o++, weight += HIDDEN) {
            for (int r = 0; r < g->length; r++)
                x[r] = want[(size_t) r * (size_t) g->out + (size_t) o] - bias[o] -
                       inner_product(weight, hidden + r * HIDDEN);
            solve(factor, g->length, x);
            for (int i = 0; i < HIDDEN; i++) {
                double sum = weight[i];

                for (int r = 0; r < g->length; r++)
                    sum += x[r] * hidden[r * HIDDEN + i];
                weight[i] = (float) sum;
            }
        }
    }
    free(hidden);
    free(x);
    free(factor);
}

/* A pass over two texts without an adapter, which keeps the keys and values of all attentions. */
typedef struct reading {
    const ia3_layout *l;
    ia3_model *model;
    ia3_batch batch;
    float *prefix, *lp;
} reading;

static void
read_keys(const reading *r, const group *g, int layer, const void *rows, int row_width)
{
    ia3_device *dev = r->model->dev;
    const size_t size = ia3_dtype_size(dev->dtype), n = (size_t) g->length * (size_t) row_width;
    char *host = ia3_alloc(n * size);
    float *to = r->prefix + prefix_at(r->l, g, layer);

    dev->ops->download(dev, host, rows, n * size);
    for (int row = 0; row < g->length; row++)
        for (int i = 0; i < g->out; i++, to++) {
            const char *from =
                host + ((size_t) row * (size_t) row_width + (size_t) (row_width - g->out + i)) * size;
            uint16_t half;

            if (dev->dtype == IA3_F32)
                memcpy(to, from, sizeof *to);
            else {
                memcpy(&half, from, sizeof half);
                *to = ia3_bf16_to_f32(half);
            }
        }
    free(host);
}

static void
read_pass(void *arg)
{
    reading *r = arg;
    const int inner = r->l->inner, d_model = r->model->config.d_model;
    const group enc = group_of(r->l, d_model, 0), dec = group_of(r->l, d_model, 1),
                cross = group_of(r->l, d_model, 2);
    ia3_pass p;

    ia3_pass_forward(&p, r->model, &r->batch, true, r->lp);
    for (int k = 0; k < enc.layers; k++)
        read_keys(r, &enc, k, p.enc.saved[k].self.q, 3 * inner);
    for (int k = 0; k < dec.layers; k++) {
        read_keys(r, &dec, k, p.dec.saved[k].self.q, 3 * inner);
        read_keys(r, &cross, k, p.dec.saved[k].cross.kv, 2 * inner);
    }
}

/* The first `length` tokens of a text that is repeated; without a tokenizer, random common ones. Number i of the two texts. */
static bool
tokens_of(const ia3_model *m, uint64_t seed, int i, int32_t *ids, int length, ia3_error *err)
{
    static const char *const texts[] = {"Question:", "Answer:"};
    const int common = m->config.vocab_size < 5003 ? m->config.vocab_size : 5003;
    int32_t *all;
    int n, before, after;

    if (m->tokenizer == NULL) {
        for (int k = 0; k < length; k++)
            ids[k] = 3 + (int32_t) ia3_draw(seed, IA3_STREAM_INIT, (1ull << 40) + (uint64_t) (i * length + k),
                                            (uint32_t) (common > 3 ? common - 3 : 1));
        return true;
    }
    if (!ia3_tokenizer_encode(m->tokenizer, texts[i], strlen(texts[i]), &all, NULL, &n, err))
        return false;
    ia3_tokenizer_around(m->tokenizer, &before, &after);
    n -= before + after;
    for (int k = 0; k < length; k++)
        ids[k] = n > 0 ? all[before + k % n] : m->config.pad_id;
    free(all);
    return true;
}

/* The keys and values of the texts; their tokens are the encoder's and the decoder's rows. */
static bool
read_texts(const ia3_layout *l, const ia3_start *s, float *prefix, ia3_error *err)
{
    const int n = l->lead_rows;
    int32_t *ints = ia3_alloc_array((size_t) n * 6 + 1, sizeof *ints), *question = ints, *answer = ints + n;
    ia3_choices chain = {.n_rows = n,
                         .row_token = answer,
                         .row_parent = ints + 2 * n,
                         .row_depth = ints + 3 * n,
                         .n_pairs = n,
                         .pair_token = ints + 4 * n, /* any */
                         .pair_offsets = ints + 5 * n,
                         .max_depth = n};
    reading r = {
        .l = l, .model = s->model, .prefix = prefix, .lp = ia3_alloc_array((size_t) n, sizeof(float))};
    bool ok =
        tokens_of(s->model, s->seed, 0, question, n, err) && tokens_of(s->model, s->seed, 1, answer, n, err);

    for (int i = 0; i < n; i++) {
        chain.row_parent[i] = i - 1;
        chain.row_depth[i] = i;
        chain.pair_offsets[i + 1] = i + 1;
    }
    ia3_batch_init(&r.batch);
    if (ok) {
        ia3_batch_add_input(&r.batch, question, n,
                            ia3_batch_add_slot(&r.batch, s->model->layout, s->model->ones, NULL));
        ia3_batch_add_trie(&r.batch, &chain);
        ok = ia3_model_guarded(s->model, read_pass, &r, err);
    }
    ia3_batch_free(&r.batch);
    free(r.lp);
    free(ints);
    return ok;
}

static bool
start(const ia3_layout *l, const ia3_start *s, const float *init, float *values, ia3_error *err)
{
    float *prefix = init ? NULL : ia3_alloc_array(l->n_values, sizeof *prefix);
    bool ok = init || read_texts(l, s, prefix, err);

    for (int i = 0; ok && i < N_GROUPS; i++) {
        const group g = group_of(l, s->config->d_model, i);

        draw(&g, s->seed, values);
        fit(l, &g, init ? init : prefix, values);
    }
    free(prefix);
    return ok;
}

const ia3_reparameterization ia3_prefix_network = {
    .tensors = add_tensors,
    .scratch = scratch,
    .step_work = step_work,
    .start = start,
    .compute = compute,
    .compute_bwd = compute_bwd,
};
