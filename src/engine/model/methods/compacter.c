/*
 * compacter.c
 *     Compacter (Karimi Mahabadi et al., arXiv 2106.04647) as T-Few has it: bottlenecks as those of adapters, whose two
 *     matrices are sums of Kronecker products (ia3_phm), behind each sub-layer of self-attention and feed-forward, or, as
 *     compacter++, of feed-forward only; and a scale for the output of each norm. Stored under the names of T-Few's modules,
 *     "base_model.model.encoder.block.0.layer.1.adapter.down_sampler.phm_rule".
 */
#include "methods.h"
#include "norm_scale.h"

#include <math.h>
#include <string.h>

#include "engine/base/rng.h"

#define RULE      ".phm_rule"
#define LEFT      ".W_left"
#define RIGHT     ".W_right"
#define DOWN      ".adapter.down_sampler"
#define UP        ".adapter.up_sampler"
#define REDUCTION 32
#define DEVIATION 0.02f /* of the initial rules */

enum { N = IA3_PHM };

enum { BOTTLENECK };
static const ia3_method_option options[] = {
    [BOTTLENECK] = {.name = "bottleneck",
                    .kind = IA3_OPTION_WHOLE,
                    .min = 0,
                    .max = IA3_MAX_BOTTLENECK,
                    .standard = 0,
                    .before = 0,
                    .divisor = REDUCTION,
                    .multiple = N},
    {.name = NULL},
};

/* The factors of one layer; `module` is the name of the sub-layer's, of `len` bytes. */
static void
add_factors(ia3_layout *l, const char *module, int len, const char *layer, int in, int out, bool last)
{
    ia3_layout_add_matrices(l, N, N, N, 0.0f, "%.*s%s" RULE, len, module, layer)->partner = 1;

    ia3_layout_entry *left =
        ia3_layout_add_matrices(l, N, in / N, 1, 0.0f, "%.*s%s" LEFT, len, module, layer);

    left->uses = N;
    left->partner = 1;

    ia3_layout_entry *right =
        ia3_layout_add_matrices(l, N, 1, out / N, 0.0f, "%.*s%s" RIGHT, len, module, layer);

    right->uses = N;
    right->partner = last ? -1 : 1;
}

/* `product`: the end of the name of a sub-layer's last product, without which it is the name of the sub-layer. */
static void
add_bottleneck(ia3_layout *l, const ia3_module *m, const char *product)
{
    const int len = (int) (strlen(m->name) - strlen(product)), width = (int) ia3_option(l, BOTTLENECK);

    add_factors(l, m->name, len, DOWN, m->out, width, false);
    add_factors(l, m->name, len, UP, width, m->out, true);
    ia3_layout_add_vector(l, width, 0.0f, "%.*s" DOWN ".b", len, m->name);
    ia3_layout_add_vector(l, m->out, 0.0f, "%.*s" UP ".b", len, m->name);
}

static void
add_module_plus(ia3_layout *l, const ia3_module *m)
{
    if (m->norm)
        ia3_norm_scale_tensor(l, m);
    else if (m->kind == IA3_KIND_WO)
        add_bottleneck(l, m, ".DenseReluDense.wo");
}

static void
add_module(ia3_layout *l, const ia3_module *m)
{
    if (!m->norm && m->kind == IA3_KIND_O)
        add_bottleneck(l, m, ".SelfAttention.o");
    else
        add_module_plus(l, m);
}

/* The width is four times that of a right factor. */
static void
guess(const ia3_safetensors *st, ia3_variant *v)
{
    for (int i = 0; i < st->n; i++) {
        const ia3_st_tensor *t = &st->tensors[i];

        if (t->ndim == 3 && t->shape[2] <= IA3_MAX_BOTTLENECK &&
            ia3_name_ends_with(t->name, strlen(t->name), DOWN RIGHT))
            v->options[BOTTLENECK] = (double) (N * t->shape[2]);
    }
}

/* The part of `values` that begins at *at, which is moved behind it. */
static const float *
take(const float **at, size_t n)
{
    const float *values = *at;

    *at += n;
    return values;
}

/* The values of a place in the order of add_bottleneck. */
static ia3_phm_bottleneck
bottleneck_of(const ia3_method_rows *r)
{
    const int width = (int) ia3_option(r->layout, BOTTLENECK);
    const float *at = r->values;
    ia3_phm_bottleneck b = {.down = {.in = r->d_model, .out = width}, .up = {.in = width, .out = r->d_model}};

    for (int i = 0; i < 2; i++) {
        ia3_phm *m = i == 0 ? &b.down : &b.up;

        m->rule = take(&at, (size_t) N * N * N);
        m->left = take(&at, (size_t) m->in);
        m->right = take(&at, (size_t) m->out);
    }
    b.down.bias = take(&at, (size_t) width);
    b.up.bias = at;
    return b;
}

static ia3_phm_grad
grad_of(const ia3_method_rows *r, const ia3_phm *m)
{
    return (ia3_phm_grad){.rule = r->grads + (m->rule - r->values),
                          .left = r->grads + (m->left - r->values),
                          .right = r->grads + (m->right - r->values),
                          .bias = r->grads + (m->bias - r->values)};
}

/*
 * Rules are normally distributed; the factors uniformly, as T-Few initialises them (Glorot and Bengio, with a gain of √2): so a new
 * adapter changes little, but not nothing.
 */
static bool
start(const ia3_layout *l, const ia3_start *s, float *values, ia3_error *err)
{
    for (int i = 0; i < l->n; i++) {
        const ia3_layout_entry *e = &l->entries[i];
        const float limit = (float) sqrt(12.0 / (e->rows + e->cols));

        for (size_t k = e->offset; e->ndim == 3 && k < e->offset + (size_t) e->len; k++)
            values[k] = e->rows == N && e->cols == N
                            ? DEVIATION * ia3_draw_normal(s->seed, IA3_STREAM_INIT, k)
                            : limit * ia3_draw_uniform(s->seed, IA3_STREAM_INIT, k);
    }
    return true;
}

static bool
runs_on(const ia3_device_ops *ops)
{
    return ops->phm != NULL && ops->scale_row != NULL;
}

static void
output(const ia3_method_rows *r, float *y)
{
    ia3_phm_bottleneck b = bottleneck_of(r);
    r->dev->ops->phm(r->dev, y, r->rows, &b);
}

static void
output_bwd(const ia3_method_rows *r, void *dy, const float *y)
{
    ia3_phm_bottleneck b = bottleneck_of(r);
    ia3_phm_bottleneck_grad g = {.down = grad_of(r, &b.down), .up = grad_of(r, &b.up)};
    r->dev->ops->phm_bwd(r->dev, dy, &g, y, r->rows, &b);
}

/* The first sub-layer of a block is self-attention, which compacter++ leaves as it is. */
const ia3_method ia3_method_compacter = {
    .name = "compacter",
    .options = options,
    .d_model_multiple = N,
    .module = add_module,
    .guess = guess,
    .marks = (const char *const[]){".layer.0" DOWN RULE, ".layer.0" DOWN RIGHT, NULL},
    .learning_rate = 3e-3,
    .steps = 500,
    .start = start,
    .runs_on = runs_on,
    .outputs = 1 << IA3_PART_SELF_O | 1 << IA3_PART_FF_WO,
    .output = output,
    .output_bwd = output_bwd,
    .norm = ia3_norm_scale,
    .norm_bwd = ia3_norm_scale_bwd,
};

const ia3_method ia3_method_compacter_plus = {
    .name = "compacter++",
    .options = options,
    .d_model_multiple = N,
    .module = add_module_plus,
    .guess = guess,
    .marks = (const char *const[]){DOWN RULE, DOWN RIGHT, NULL},
    .learning_rate = 3e-3,
    .steps = 500,
    .start = start,
    .runs_on = runs_on,
    .outputs = 1 << IA3_PART_FF_WO,
    .output = output,
    .output_bwd = output_bwd,
    .norm = ia3_norm_scale,
    .norm_bwd = ia3_norm_scale_bwd,
};
