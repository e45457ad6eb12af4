/*
 * layout.c
 *     The flat layout of (IA)³ vectors and their names in peft.
 */
#include "adapter.h"

#include <stdio.h>
#include <stdlib.h>

static void
add(ia3_layout *l, int len, bool feedforward, const char *stack, int block, int layer, const char *module)
{
    ia3_layout_entry *e = &l->entries[l->n++];

    snprintf(e->name, sizeof e->name, "base_model.model.%s.block.%d.layer.%d.%s.ia3_l", stack, block, layer,
             module);
    e->offset = l->n_values;
    e->len = len;
    e->feedforward = feedforward;
    l->n_values += (size_t) len;
}

/*
 * n_values = n_enc·(2·inner + d_ff) + n_dec·(4·inner + d_ff); the limits of config.c keep it far below 2^40.
 * Never NULL.
 */
ia3_layout *
ia3_layout_create(const ia3_config *config)
{
    ia3_layout *l = ia3_alloc(sizeof *l);

    l->n_enc = config->n_enc;
    l->n_dec = config->n_dec;
    l->inner = config->inner;
    l->d_ff = config->d_ff;
    l->gated = config->gated;
    l->entries = ia3_alloc_array(3 * (size_t) l->n_enc + 5 * (size_t) l->n_dec, sizeof *l->entries);
    for (int i = 0; i < l->n_enc; i++) {
        add(l, l->inner, false, "encoder", i, 0, "SelfAttention.k");
        add(l, l->inner, false, "encoder", i, 0, "SelfAttention.v");
        add(l, l->d_ff, true, "encoder", i, 1, "DenseReluDense.wo");
    }
    for (int i = 0; i < l->n_dec; i++) {
        add(l, l->inner, false, "decoder", i, 0, "SelfAttention.k");
        add(l, l->inner, false, "decoder", i, 0, "SelfAttention.v");
        add(l, l->inner, false, "decoder", i, 1, "EncDecAttention.k");
        add(l, l->inner, false, "decoder", i, 1, "EncDecAttention.v");
        add(l, l->d_ff, true, "decoder", i, 2, "DenseReluDense.wo");
    }
    return l;
}

/* NULL is allowed. */
void
ia3_layout_free(ia3_layout *layout)
{
    if (layout == NULL)
        return;
    free(layout->entries);
    free(layout);
}
