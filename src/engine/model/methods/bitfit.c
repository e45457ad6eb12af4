/*
 * bitfit.c
 *     BitFit: a trained bias for each linear layer, y += b, b [out], stored as "base_model.model.<module>.bias", and,
 *     as in T-Few, a scale for the output of each norm.
 */
#include "methods.h"
#include "norm_scale.h"

static void
add_module(ia3_layout *l, const ia3_module *m)
{
    if (m->norm)
        ia3_norm_scale_tensor(l, m);
    else
        ia3_layout_add_vector(l, m->out, 0.0f, "%s.bias", m->name);
}

static bool
runs_on(const ia3_device_ops *ops)
{
    return ops->add_row != NULL && ops->scale_row != NULL;
}

/* Linear layers that are stacked in one product have consecutive biases, like their results. */
static void
add_biases(const ia3_method_rows *r, void *y, const void *x, const ia3_matrix *w, ia3_out out)
{
    r->dev->ops->add_row(r->dev, y, r->values, r->rows, w->out, out);
}

static void
add_biases_bwd(const ia3_method_rows *r, void *dx, const void *dy, const void *x, const ia3_matrix *w,
               ia3_out out)
{
    r->dev->ops->add_row_bwd(r->dev, r->grads, dy, r->rows, w->out);
}

const ia3_method ia3_method_bitfit = {
    .name = "bitfit",
    .module = add_module,
    .marks = (const char *const[]){".bias", NULL},
    .learning_rate = 3e-4,
    .runs_on = runs_on,
    .product = add_biases,
    .product_bwd = add_biases_bwd,
    .norm = ia3_norm_scale,
    .norm_bwd = ia3_norm_scale_bwd,
};
