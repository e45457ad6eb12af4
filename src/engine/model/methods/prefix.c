/*
 * prefix.c
 *     Prefix tuning (Li and Liang, arXiv 2101.00190) as T-Few has it: keys and values, `prefix_length` of them, precede those of
 *     the input in every attention; those of cross-attention the encoder's output. Stored as T-Few's "prefix_direct",
 *     "base_model.model.encoder.block.0.layer.0.SelfAttention.prefix_direct" [length, 2·inner], keys before values.
 *
 * The prefixes of self-attention have the first positions, and what follows them is counted from there; so they are what rows
 * before the input would have for keys and values (lead_keys in layout.h).
 */
#include "methods.h"
#include "prefix.h"

#include <string.h>

#define TENSOR ".prefix_direct"

enum { LENGTH };
static const ia3_method_option options[] = {
    [LENGTH] =
        {.name = "prefix_length", .kind = IA3_OPTION_WHOLE, .min = 1, .max = 256, .standard = 2, .before = 2},
    {.name = NULL},
};

/* An attention's keys and values belong to the module of its keys, without the ".k". */
static void
add_module(ia3_layout *l, const ia3_module *m)
{
    if (m->norm || (m->kind != IA3_KIND_K && m->kind != IA3_KIND_CROSS_K))
        return;

    ia3_layout_entry *e = ia3_layout_add_matrix(l, (int) ia3_option(l, LENGTH), 2 * m->out, 0.0f,
                                                "%.*s" TENSOR, (int) strlen(m->name) - 2, m->name);

    e->uses = 0;
    e->required = true;
}

static void
add_tensors(ia3_layout *l, const ia3_config *config)
{
    (void) config;
    l->lead_rows = l->dec_lead_rows = (int) ia3_option(l, LENGTH);
    l->lead_keys = true;
}

static void
guess(const ia3_safetensors *st, ia3_variant *v)
{
    for (int i = 0; i < st->n; i++) {
        const ia3_st_tensor *t = &st->tensors[i];

        if (t->ndim == 2 && ia3_name_ends_with(t->name, strlen(t->name), TENSOR))
            v->options[LENGTH] = (double) t->shape[0];
    }
}

static bool
runs_on(const ia3_device_ops *ops)
{
    return ops->put_rows != NULL && ops->dense != NULL;
}

const ia3_method ia3_method_prefix = {
    .name = "prefix",
    .options = options,
    .module = add_module,
    .tensors = add_tensors,
    .guess = guess,
    .marks = (const char *const[]){TENSOR, NULL},
    .peft_type = "PREFIX_TUNING",
    .peft_lacks = "PEFT's prefix tuning has keys and values for the decoder's self-attention only. T-Few's, "
                  "which ia3 has, "
                  "also has them for the encoder's and for cross-attention.",
    .learning_rate = 1e-2,
    .steps = 1000,
    .reparameterization = &ia3_prefix_network,
    .runs_on = runs_on,
};
