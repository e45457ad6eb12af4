/*
 * bitfit.c
 *     BitFit: a trained bias for linear layers, y += b, b [out], stored as "base_model.model.<module>.bias", and, as in
 *     T-Few, a scale for the output of each norm. The standard targets are T-Few's: all but wo.
 */
#include "methods.h"
#include "norm_scale.h"

#include <stdio.h>
#include <string.h>

enum { TARGETS };
static const ia3_method_option options[] = {
    [TARGETS] = {.name = "targets",
                 .kind = IA3_OPTION_KINDS,
                 .standard = IA3_ALL_KINDS & ~(1 << IA3_KIND_WO),
                 .before = IA3_ALL_KINDS},
    {.name = NULL},
};

static bool
is_target(const ia3_layout *l, ia3_kind kind)
{
    return (int) ia3_option(l, TARGETS) >> kind & 1;
}

static void
add_module(ia3_layout *l, const ia3_module *m)
{
    if (m->norm)
        ia3_norm_scale_tensor(l, m);
    else if (is_target(l, m->kind))
        ia3_layout_add_vector(l, m->out, 0.0f, "%s.bias", m->name);
}

/* The targets are the kinds of modules that there are biases for. */
static void
guess(const ia3_safetensors *st, ia3_variant *v)
{
    int targets = 0;

    for (int i = 0; i < st->n; i++)
        targets |= 1 << ia3_kind_of_tensor(st->tensors[i].name, ".bias") & IA3_ALL_KINDS;
    if (targets != 0)
        v->options[TARGETS] = targets;
}

static bool
runs_on(const ia3_device_ops *ops)
{
    return ops->add_row != NULL && ops->scale_row != NULL;
}

/* How many of the linear layers that are stacked in the product are targets. */
static int
count_targets(const ia3_method_rows *r)
{
    int n = 0;

    for (int i = 0; i < r->linears; i++)
        n += is_target(r->layout, r->kinds[i]);
    return n;
}

/*
 * Linear layers that are stacked in one product have consecutive biases, like their results, if all are targets. If only
 * some are, the others get zeros in a row of the arena.
 */
static void
add_biases(const ia3_method_rows *r, void *y, const void *x, const ia3_matrix *w, ia3_out out)
{
    const ia3_device_ops *ops = r->dev->ops;
    const int targets = count_targets(r), each = w->out / r->linears;

    if (targets == r->linears)
        ops->add_row(r->dev, y, r->values, r->rows, w->out, out);
    if (targets == r->linears || targets == 0)
        return;

    size_t mark = ops->arena_mark(r->dev), bytes = (size_t) w->out * sizeof(float);
    float *row = ops->arena_alloc(r->dev, bytes);
    const float *bias = r->values;

    ops->zero(r->dev, row, bytes);
    for (int i = 0; i < r->linears; i++)
        if (is_target(r->layout, r->kinds[i])) {
            ops->dropout_f32(r->dev, row + i * each, bias, 1, each, (ia3_dropout){0});
            bias += each;
        }
    ops->add_row(r->dev, y, row, r->rows, w->out, out);
    ops->arena_release(r->dev, mark);
}

static void
add_biases_bwd(const ia3_method_rows *r, void *dx, const void *dy, const void *x, const ia3_matrix *w,
               ia3_out out)
{
    const ia3_device_ops *ops = r->dev->ops;
    const int targets = count_targets(r), each = w->out / r->linears;

    if (targets == r->linears)
        ops->add_row_bwd(r->dev, r->grads, dy, r->rows, w->out);
    if (targets == r->linears || targets == 0)
        return;

    size_t mark = ops->arena_mark(r->dev), bytes = (size_t) w->out * sizeof(float);
    float *row = ops->arena_alloc(r->dev, bytes), *bias = r->grads;

    ops->zero(r->dev, row, bytes);
    ops->add_row_bwd(r->dev, row, dy, r->rows, w->out);
    for (int i = 0; i < r->linears; i++)
        if (is_target(r->layout, r->kinds[i])) {
            ops->add_dropout(r->dev, bias, row + i * each, 1, each, (ia3_dropout){0});
            bias += each;
        }
    ops->arena_release(r->dev, mark);
}

const ia3_method ia3_method_bitfit = {
    .name = "bitfit",
    .options = options,
    .module = add_module,
    .guess = guess,
    .marks = (const char *const[]){".bias", NULL},
    .learning_rate = 3e-4,
    .steps = 1000,
    .runs_on = runs_on,
    .product = add_biases,
    .product_bwd = add_biases_bwd,
    .norm = ia3_norm_scale,
    .norm_bwd = ia3_norm_scale_bwd,
};
