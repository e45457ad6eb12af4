/*
 * adapter.c
 *     Adapters (Houlsby et al., arXiv 1902.00751) as T-Few has them: a bottleneck behind each feed-forward sub-layer, which
 *     changes its result y before dropout, y + relu(y·Dᵀ + d)·Uᵀ + u, D [bottleneck, d_model]; and a scale for the output of each
 *     norm. Stored under the names of T-Few's modules, "base_model.model.encoder.block.0.layer.1.adapter.down_proj.weight".
 */
#include "methods.h"
#include "norm_scale.h"

#include <string.h>

#include "engine/base/rng.h"

#define DOWN      ".adapter.down_proj.weight"
#define UP        ".adapter.up_proj.weight"
#define REDUCTION 32
#define DEVIATION 0.02f /* of the initial weights */

enum { BOTTLENECK };
static const ia3_method_option options[] = {
    [BOTTLENECK] = {.name = "bottleneck",
                    .kind = IA3_OPTION_WHOLE,
                    .min = 0,
                    .max = IA3_MAX_BOTTLENECK,
                    .standard = 0,
                    .before = 0,
                    .divisor = REDUCTION},
    {.name = NULL},
};

static void
add_module(ia3_layout *l, const ia3_module *m)
{
    static const char module[] = ".DenseReluDense.wo";

    if (m->norm) {
        ia3_norm_scale_tensor(l, m);
        return;
    }
    if (m->kind != IA3_KIND_WO)
        return;

    int layer = (int) (strlen(m->name) - strlen(module)), width = (int) ia3_option(l, BOTTLENECK);

    ia3_layout_add_matrix(l, width, m->out, 0.0f, "%.*s" DOWN, layer, m->name)->partner = 1;
    ia3_layout_add_matrix(l, m->out, width, 0.0f, "%.*s" UP, layer, m->name)->partner = -1;
    ia3_layout_add_vector(l, width, 0.0f, "%.*s.adapter.down_proj.bias", layer, m->name);
    ia3_layout_add_vector(l, m->out, 0.0f, "%.*s.adapter.up_proj.bias", layer, m->name);
}

static void
guess(const ia3_safetensors *st, ia3_variant *v)
{
    for (int i = 0; i < st->n; i++) {
        const ia3_st_tensor *t = &st->tensors[i];

        if (t->ndim == 2 && ia3_name_ends_with(t->name, strlen(t->name), DOWN))
            v->options[BOTTLENECK] = (double) t->shape[0];
    }
}

/* The values of a place: D, U, d and u one after another. */
static ia3_bottleneck
bottleneck_of(const ia3_method_rows *r)
{
    ia3_bottleneck b = {.width = (int) ia3_option(r->layout, BOTTLENECK), .cols = r->d_model};
    size_t n = (size_t) b.width * (size_t) b.cols;

    b.down = r->values;
    b.up = b.down + n;
    b.down_bias = b.up + n;
    b.up_bias = b.down_bias + b.width;
    return b;
}

/* Matrices are random and small, so a new adapter changes little, but not nothing. */
static bool
start(const ia3_layout *l, const ia3_start *s, float *values, ia3_error *err)
{
    for (int i = 0; i < l->n; i++) {
        const ia3_layout_entry *e = &l->entries[i];
        for (size_t k = e->offset; e->ndim == 2 && k < e->offset + (size_t) e->len; k++)
            values[k] = DEVIATION * ia3_draw_normal(s->seed, IA3_STREAM_INIT, k);
    }
    return true;
}

static bool
runs_on(const ia3_device_ops *ops)
{
    return ops->bottleneck != NULL && ops->scale_row != NULL;
}

static void
output(const ia3_method_rows *r, float *y)
{
    ia3_bottleneck b = bottleneck_of(r);
    r->dev->ops->bottleneck(r->dev, y, r->rows, &b);
}

static void
output_bwd(const ia3_method_rows *r, void *dy, const float *y)
{
    ia3_bottleneck b = bottleneck_of(r);
    ia3_bottleneck_grad g = {.down = r->grads,
                             .down_bias = r->grads + (b.down_bias - b.down),
                             .up = r->grads + (b.up - b.down),
                             .up_bias = r->grads + (b.up_bias - b.down)};
    r->dev->ops->bottleneck_bwd(r->dev, dy, &g, y, r->rows, &b);
}

const ia3_method ia3_method_adapter = {
    .name = "adapter",
    .options = options,
    .module = add_module,
    .guess = guess,
    .marks = (const char *const[]){DOWN, UP, NULL},
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
