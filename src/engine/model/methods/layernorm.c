/*
 * layernorm.c
 *     LayerNorm tuning: only a trained scale for the output of each norm.
 */
#include "methods.h"
#include "norm_scale.h"

static void
add_module(ia3_layout *l, const ia3_module *m)
{
    if (m->norm)
        ia3_norm_scale_tensor(l, m);
}

static bool
runs_on(const ia3_device_ops *ops)
{
    return ops->scale_row != NULL;
}

const ia3_method ia3_method_layernorm = {
    .name = "layernorm",
    .module = add_module,
    .marks = (const char *const[]){IA3_NORM_SCALE_SUFFIX, NULL},
    .peft_type = "LN_TUNING",
    .peft_lacks =
        "PEFT's LN_TUNING has a copy of each norm in place of the backbone's. Here, norms have factors.",
    .learning_rate = 3e-4,
    .steps = 1000,
    .runs_on = runs_on,
    .norm = ia3_norm_scale,
    .norm_bwd = ia3_norm_scale_bwd,
};
