/*
 * weight_tensors.c
 *     Adds the tensors of a backbone to a layout.
 */
#include "weight_tensors.h"

#include <string.h>

#define PREFIX "base_model.model."

void
ia3_weight_tensors(ia3_layout *l, const ia3_module *m)
{
    const char *name = m->name + strlen(PREFIX);

    if (m->norm)
        ia3_layout_add_vector(l, m->out, 0.0f, "%s.weight", name)->required = true;
    else
        ia3_layout_add_matrix(l, m->out, m->in, 0.0f, "%s.weight", name)->required = true;
}

static void
add_biases(ia3_layout *l, const ia3_config *config, const char *stack, int layers)
{
    for (int i = 0; i < (config->bias_every_layer ? layers : 1); i++)
        ia3_layout_add_matrix(l, config->n_buckets, config->n_heads, 0.0f,
                              "%s.block.%d.layer.0.SelfAttention.relative_attention_bias.weight", stack, i)
            ->required = true;
}

void
ia3_weight_tensors_rest(ia3_layout *l, const ia3_config *config)
{
    add_biases(l, config, "encoder", config->n_enc);
    add_biases(l, config, "decoder", config->n_dec);
    ia3_layout_add_matrix(l, config->vocab_size, config->d_model, 0.0f, "shared.weight")->required = true;
    if (config->own_head)
        ia3_layout_add_matrix(l, config->vocab_size, config->d_model, 0.0f, "lm_head.weight")->required =
            true;
}
