/*
 * norm_scale.c
 *     The hooks of methods that scale the output of norms.
 */
#include "norm_scale.h"

void
ia3_norm_scale_tensor(ia3_layout *l, const ia3_module *norm)
{
    ia3_layout_add_vector(l, norm->out, 1.0f, "%s.scale", norm->name);
}

void
ia3_norm_scale(const ia3_method_rows *r, void *y)
{
    r->dev->ops->scale_row(r->dev, y, r->values, r->rows, r->d_model);
}

void
ia3_norm_scale_bwd(const ia3_method_rows *r, void *dy, const void *x)
{
    r->dev->ops->scale_row_bwd(r->dev, dy, r->grads, x, r->values, r->rows, r->d_model);
}
