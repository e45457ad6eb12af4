/*
 * state_dict.c
 *     Lists the tensors of a T5 model under the names that transformers gives them.
 */
#include "state_dict.h"

#include <stdarg.h>
#include <stdio.h>

#include "engine/base/alloc.h"

typedef struct list {
    ia3_state_tensor *tensors;
    int n;
} list;

static void __attribute__((format(printf, 5, 6)))
add(list *l, int ndim, int64_t rows, int64_t cols, const char *format, ...)
{
    ia3_state_tensor *t = &l->tensors[l->n++];
    va_list args;

    va_start(args, format);
    vsnprintf(t->name, sizeof t->name, format, args);
    va_end(args);
    t->ndim = ndim;
    t->rows = rows;
    t->cols = cols;
}

/* `prefix` is "encoder.block.3.layer.0", `module` "SelfAttention" or "EncDecAttention". */
static void
add_attention(list *l, const ia3_config *c, const char *prefix, const char *module, bool bias)
{
    static const char names[] = "qkv";

    for (int i = 0; i < 3; i++)
        add(l, 2, c->inner, c->d_model, "%s.%s.%c.weight", prefix, module, names[i]);
    add(l, 2, c->d_model, c->inner, "%s.%s.o.weight", prefix, module);
    if (bias)
        add(l, 2, c->n_buckets, c->n_heads, "%s.%s.relative_attention_bias.weight", prefix, module);
    add(l, 1, 1, c->d_model, "%s.layer_norm.weight", prefix);
}

static void
add_feed_forward(list *l, const ia3_config *c, const char *prefix)
{
    if (c->gated) {
        add(l, 2, c->d_ff, c->d_model, "%s.DenseReluDense.wi_0.weight", prefix);
        add(l, 2, c->d_ff, c->d_model, "%s.DenseReluDense.wi_1.weight", prefix);
    } else
        add(l, 2, c->d_ff, c->d_model, "%s.DenseReluDense.wi.weight", prefix);
    add(l, 2, c->d_model, c->d_ff, "%s.DenseReluDense.wo.weight", prefix);
    add(l, 1, 1, c->d_model, "%s.layer_norm.weight", prefix);
}

static void
add_stack(list *l, const ia3_config *c, const char *stack, int layers, bool cross)
{
    char prefix[64];

    for (int i = 0; i < layers; i++) {
        snprintf(prefix, sizeof prefix, "%s.block.%d.layer.0", stack, i);
        add_attention(l, c, prefix, "SelfAttention", i == 0 || c->bias_every_layer);
        if (cross) {
            snprintf(prefix, sizeof prefix, "%s.block.%d.layer.1", stack, i);
            add_attention(l, c, prefix, "EncDecAttention", false);
        }
        snprintf(prefix, sizeof prefix, "%s.block.%d.layer.%d", stack, i, cross ? 2 : 1);
        add_feed_forward(l, c, prefix);
    }
    add(l, 1, 1, c->d_model, "%s.final_layer_norm.weight", stack);
}

ia3_state_tensor *
ia3_state_dict(const ia3_config *config, int *n)
{
    /* A block has at most q, k, v, o, bias and norm, twice in the decoder, and wi_0, wi_1, wo and norm. */
    list l = {ia3_alloc_array(16 * ((size_t) config->n_enc + config->n_dec) + 2, sizeof(ia3_state_tensor)),
              0};

    add_stack(&l, config, "encoder", config->n_enc, false);
    add_stack(&l, config, "decoder", config->n_dec, true);
    *n = l.n;
    return l.tensors;
}
