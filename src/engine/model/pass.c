/*
 * pass.c
 *     What the forward and the backward pass must agree on: the parameters of attention, and the dropout mask at each
 *     site.
 */
#include "pass.h"

bool
ia3_pass_drops(const ia3_pass *p)
{
    return p->training && p->batch->dropout > 0;
}

/*
 * Sites are numbered so that no two masks of a step coincide: by stack, layer and kind, and in the lowest bits by head,
 * which attention adds.
 */
ia3_dropout
ia3_pass_dropout(const ia3_pass *p, const ia3_stack *s, int layer, ia3_site site)
{
    if (!ia3_pass_drops(p))
        return (ia3_dropout){0};
    uint32_t id = (uint32_t) s->decoder << 28 | (uint32_t) layer << 14 | (uint32_t) site << 11;
    return (ia3_dropout){.p = p->batch->dropout, .site = id, .row_key = s->keys};
}

void
ia3_pass_self_attention(const ia3_pass *p, const ia3_stack *s, int layer, const ia3_saved_attention *w,
                        ia3_attention *a)
{
    const ia3_config *c = &p->m->config;
    size_t size = ia3_dtype_size(p->m->dev->dtype);
    const ia3_bias *bias = s->decoder ? p->w->dec[layer].self.bias : p->w->enc[layer].self.bias;
    *a = (ia3_attention){
        .n_heads = c->n_heads,
        .d_kv = c->d_kv,
        .n_seq = p->batch->n_inputs,
        .q_offsets = s->offsets,
        .k_offsets = s->offsets,
        .max_q = s->max_rows,
        .max_k = s->decoder ? p->batch->max_depth : s->max_rows,
        .q = w->q,
        .k = (const char *) w->q + (size_t) c->inner * size,
        .v = (const char *) w->q + (size_t) 2 * c->inner * size,
        .q_stride = 3 * (size_t) c->inner,
        .kv_stride = 3 * (size_t) c->inner,
        .bias = bias->expanded,
        .bias_span = bias->span,
        .parent = s->decoder ? p->parent : NULL,
        .depth = s->decoder ? p->depth : NULL,
        .scale_k = ia3_pass_scale(p, s->decoder, layer, IA3_VECTOR_K, p->slot_of_input),
        .scale_v = ia3_pass_scale(p, s->decoder, layer, IA3_VECTOR_V, p->slot_of_input),
        .dropout = ia3_pass_dropout(p, s, layer, IA3_SITE_SELF_PROBS),
        .out = w->out,
        .lse = w->lse,
    };
}

void
ia3_pass_cross_attention(const ia3_pass *p, int layer, const ia3_saved_attention *w, ia3_attention *a)
{
    const ia3_config *c = &p->m->config;
    size_t size = ia3_dtype_size(p->m->dev->dtype);
    *a = (ia3_attention){
        .n_heads = c->n_heads,
        .d_kv = c->d_kv,
        .n_seq = p->batch->n_inputs,
        .q_offsets = p->dec.offsets,
        .k_offsets = p->enc.offsets,
        .max_q = p->dec.max_rows,
        .max_k = p->enc.max_rows,
        .q = w->q,
        .k = w->kv,
        .v = w->kv ? (const char *) w->kv + (size_t) c->inner * size : NULL,
        .q_stride = (size_t) c->inner,
        .kv_stride = 2 * (size_t) c->inner,
        .scale_k = ia3_pass_scale(p, true, layer, IA3_VECTOR_CROSS_K, p->slot_of_input),
        .scale_v = ia3_pass_scale(p, true, layer, IA3_VECTOR_CROSS_V, p->slot_of_input),
        .dropout = ia3_pass_dropout(p, &p->dec, layer, IA3_SITE_CROSS_PROBS),
        .out = w->out,
        .lse = w->lse,
    };
}

void
ia3_pass_gated(const ia3_pass *p, const ia3_stack *s, int layer, ia3_gated *g)
{
    *g = (ia3_gated){
        .act = p->m->config.act,
        .gated = p->m->config.gated,
        .d_ff = p->m->config.d_ff,
        .scale = ia3_pass_scale(p, s->decoder, layer, IA3_VECTOR_FF, s->slot_of_row),
        .dropout = ia3_pass_dropout(p, s, layer, IA3_SITE_FF_HIDDEN),
    };
}
