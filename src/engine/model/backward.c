/*
 * backward.c
 *     The backward pass, which computes the gradients of adapters. The backbone is frozen, so for each weight there is
 *     one matrix product, for the gradient of its input, and none for the gradient of the weight; unless weights are trained.
 *
 * dx is the gradient of the residual stream, in fp32. Each sub-layer x += drop(F(norm x)) adds its share to dx, in
 * reverse order. The encoder's output collects gradients from the keys and values of every decoder layer. The pass
 * stops at the (IA)³ vectors of the first layer, because nothing below them is trained, unless another method has
 * values there.
 *
 * Inputs of matrix products are recomputed only where methods other than (IA)³ need them: the norm's output with their
 * scales, for what they add to the product, and without them, for the gradient of the scales. They are also needed for the gradients
 * of weights.
 */
#include <stdio.h>

#include "engine/base/heartbeat.h"
#include "pass.h"

#define OPS p->m->dev->ops
#define DEV p->m->dev

/*
 * The state of the backward pass through one stack. Between two sub-layers dy = drop(dx) is the gradient of the result of the
 * lower one.
 */
typedef struct descent {
    ia3_stack *s;
    float *dx;  /* [rows, d_model] */
    void *dy;   /* act [rows, d_model] */
    float *enc; /* decoder only: gradient of the encoder's output [encoder rows, d_model] */
} descent;

static void *
act_room(const ia3_pass *p, size_t rows, size_t cols)
{
    return OPS->arena_alloc(DEV, rows * cols * ia3_dtype_size(DEV->dtype));
}

/* Whether something needs the inputs of matrix products. */
static bool
needs_inputs(const ia3_pass *p, const ia3_stack *s)
{
    return s->segments->n > 0 || p->batch->weight_grads != NULL;
}

/* Recomputes the norm's output as act, without other methods' scales; NULL if nothing needs it. */
static void *
normed(const ia3_pass *p, const ia3_stack *s, const float *x, const float *norm)
{
    if (!needs_inputs(p, s))
        return NULL;
    void *y = act_room(p, s->rows, p->m->config.d_model);
    OPS->rmsnorm(DEV, y, NULL, x, norm, s->rows, p->m->config.d_model, p->m->config.eps);
    return y;
}

/* A sub-layer by the site of its result. The layer -1 is below all. */
typedef struct below {
    int layer;
    ia3_site site;
} below;

/* Where the gradients of a place's weights are added; NULL: they are not trained. */
static float *
grads_at(const ia3_pass *p, ia3_place at)
{
    const ia3_batch *b = p->batch;
    return b->weight_grads ? b->weight_grads + ia3_place_offset(b->weight_layout, at) : NULL;
}

/* The same for a tensor that belongs to no place. */
static float *
grads_of(const ia3_pass *p, const char *name)
{
    const ia3_batch *b = p->batch;
    return b->weight_grads ? b->weight_grads + ia3_layout_find(b->weight_layout, name)->offset : NULL;
}

/* dx += the gradient dy through the norm at a place; then dy = drop(dx) for the sub-layer below. */
static void
pass_norm(const ia3_pass *p, descent *d, ia3_place at, const float *x, const float *norm, const float *rstd,
          below next)
{
    int rows = d->s->rows, dim = p->m->config.d_model;
    float *dnorm = grads_at(p, at);
    if (dnorm)
        OPS->rmsnorm_grad(DEV, dnorm, d->dy, x, rstd, rows, dim);
    if (next.layer < 0) {
        OPS->rmsnorm_bwd(DEV, d->dx, d->dy, x, norm, rstd, rows, dim);
        return;
    }
    const ia3_dropout drop = ia3_pass_dropout(p, d->s, next.layer, next.site);
    if (OPS->norm_bwd_drop != NULL)
        OPS->norm_bwd_drop(DEV, d->dx, d->dy, x, norm, rstd, drop, rows, dim);
    else {
        OPS->rmsnorm_bwd(DEV, d->dx, d->dy, x, norm, rstd, rows, dim);
        OPS->dropout_f32_to_act(DEV, d->dy, d->dx, rows, dim, drop);
    }
}

/*
 * Leaves a sub-layer: dx += the gradient through its first matrix product (part + 1) and its norm (part), and enters the next
 * one.
 */
static void
leave(const ia3_pass *p, descent *d, int layer, ia3_part part, void *dproduct, ia3_matrix *w,
      const float *norm, const float *x, const float *rstd, below next)
{
    const void *unscaled = d->s->segments->n > 0 ? normed(p, d->s, x, norm) : NULL;
    ia3_place product = {d->s->decoder, layer, part + 1}, at = {d->s->decoder, layer, part};
    void *input = normed(p, d->s, x, norm);
    if (input)
        ia3_pass_norm(p, d->s, at, input);
    ia3_pass_product_bwd(p, d->s, product, d->dy, dproduct, input, w, IA3_OUT_ACT);
    ia3_pass_norm_bwd(p, d->s, at, d->dy, unscaled);
    pass_norm(p, d, at, x, norm, rstd, next);
}

static void
feed_forward(const ia3_pass *p, descent *d, int layer)
{
    const ia3_stack *s = d->s;
    const ia3_ff *w = s->decoder ? &p->w->dec[layer].ff : &p->w->enc[layer].ff;
    const ia3_saved_ff *kept = &s->saved[layer].ff;
    size_t mark = OPS->arena_mark(DEV);
    void *dh = act_room(p, s->rows, p->m->config.d_ff), *dg = act_room(p, s->rows, w->wi->out);
    ia3_gated g;
    ia3_pass_gated(p, s, layer, &g);
    ia3_place out = {s->decoder, layer, IA3_PART_FF_WO};
    ia3_pass_output_bwd(p, s, out, d->dy, kept->y);
    void *h = NULL;
    if (needs_inputs(p, s)) {
        h = act_room(p, s->rows, p->m->config.d_ff);
        OPS->gated_act(DEV, h, kept->g, s->rows, &g);
    }
    ia3_pass_product_bwd(p, s, out, dh, d->dy, h, w->wo, IA3_OUT_ACT);
    OPS->gated_act_bwd(DEV, dg, dh, kept->g, s->rows, &g, ia3_pass_scale_grad(p, g.scale));
    leave(p, d, layer, IA3_PART_FF_NORM, dg, w->wi, w->norm, kept->x, kept->rstd,
          (below){layer, s->decoder ? IA3_SITE_CROSS_OUT : IA3_SITE_SELF_OUT});
    OPS->arena_release(DEV, mark);
}

static void
cross_attention(const ia3_pass *p, descent *d, int layer)
{
    const ia3_cross_attention *w = &p->w->dec[layer].cross;
    const ia3_saved_attention *kept = &d->s->saved[layer].cross;
    size_t inner = p->m->config.inner, size = ia3_dtype_size(DEV->dtype), mark = OPS->arena_mark(DEV);
    void *dout = act_room(p, d->s->rows, inner), *dq = act_room(p, d->s->rows, inner);
    char *dkv = act_room(p, p->enc.rows, 2 * inner);
    ia3_attention a;
    ia3_pass_cross_attention(p, layer, kept, &a);
    ia3_place out = {true, layer, IA3_PART_CROSS_O}, kv = {true, layer, IA3_PART_CROSS_KV};
    ia3_pass_output_bwd(p, d->s, out, d->dy, kept->y);
    ia3_pass_product_bwd(p, d->s, out, dout, d->dy, kept->out, w->o, IA3_OUT_ACT);
    ia3_attention_grad g = {.dout = dout,
                            .dq = dq,
                            .dk = dkv,
                            .dv = dkv + inner * size,
                            .grad_k = ia3_pass_scale_grad(p, a.scale_k),
                            .grad_v = ia3_pass_scale_grad(p, a.scale_v)};
    OPS->attention_bwd(DEV, &a, &g);
    ia3_pass_product_bwd(p, &p->enc, kv, d->enc, dkv, p->enc.out, w->kv, IA3_OUT_ADD_F32);
    leave(p, d, layer, IA3_PART_CROSS_NORM, dq, w->q, w->norm, kept->x, kept->rstd,
          (below){layer, IA3_SITE_SELF_OUT});
    OPS->arena_release(DEV, mark);
}

/* Zeros for the gradient of an attention's bias by distance; NULL if it is not trained. */
static float *
bias_room(const ia3_pass *p, const ia3_bias *bias)
{
    if (!p->batch->weight_grads)
        return NULL;
    size_t bytes = (size_t) p->m->config.n_heads * (2 * (size_t) bias->span - 1) * sizeof(float);
    float *dbias = OPS->arena_alloc(DEV, bytes);
    OPS->zero(DEV, dbias, bytes);
    return dbias;
}

/* The layer's own table, or that of the first layer, which all use. */
static void
add_bias_gradient(const ia3_pass *p, bool decoder, int layer, const ia3_bias *bias, const float *dbias)
{
    const ia3_config *c = &p->m->config;
    char name[128];
    if (!dbias)
        return;
    snprintf(name, sizeof name, "%s.block.%d.layer.0.SelfAttention.relative_attention_bias.weight",
             decoder ? "decoder" : "encoder", c->bias_every_layer ? layer : 0);
    OPS->bias_table_grad(DEV, grads_of(p, name), dbias, bias->bucket_of, c->n_buckets, c->n_heads,
                         bias->span);
}

static void
self_attention(const ia3_pass *p, descent *d, int layer)
{
    const ia3_stack *s = d->s;
    const ia3_self_attention *w = s->decoder ? &p->w->dec[layer].self : &p->w->enc[layer].self;
    const ia3_saved_attention *kept = &s->saved[layer].self;
    size_t inner = p->m->config.inner, size = ia3_dtype_size(DEV->dtype), mark = OPS->arena_mark(DEV);
    void *dout = act_room(p, s->rows, inner);
    char *dqkv = act_room(p, s->rows, 3 * inner);
    ia3_attention a;
    ia3_pass_self_attention(p, s, layer, kept, &a);
    ia3_place out = {s->decoder, layer, IA3_PART_SELF_O};
    ia3_pass_output_bwd(p, s, out, d->dy, kept->y);
    bool further = layer > 0 || needs_inputs(p, s);
    ia3_pass_product_bwd(p, s, out, dout, d->dy, kept->out, w->o, IA3_OUT_ACT);
    ia3_attention_grad g = {.dout = dout,
                            .dq = further ? dqkv : NULL,
                            .dk = dqkv + inner * size,
                            .dv = dqkv + 2 * inner * size,
                            .grad_k = ia3_pass_scale_grad(p, a.scale_k),
                            .grad_v = ia3_pass_scale_grad(p, a.scale_v),
                            .dbias = bias_room(p, w->bias)};
    OPS->attention_bwd(DEV, &a, &g);
    add_bias_gradient(p, s->decoder, layer, w->bias, g.dbias);
    if (further)
        leave(p, d, layer, IA3_PART_SELF_NORM, dqkv, w->qkv, w->norm, kept->x, kept->rstd,
              (below){layer - 1, IA3_SITE_FF_OUT});
    OPS->arena_release(DEV, mark);
}

/* Begins with the gradient of a stack's output (fp32) and takes it through its dropout and final norm. */
static void
begin(const ia3_pass *p, descent *d, ia3_stack *s, const float *dout, const float *norm)
{
    int dim = p->m->config.d_model;
    d->s = s;
    d->dx = OPS->arena_alloc(DEV, (size_t) s->rows * dim * sizeof(float));
    d->dy = act_room(p, s->rows, dim);
    OPS->zero(DEV, d->dx, (size_t) s->rows * dim * sizeof(float));
    OPS->dropout_f32_to_act(DEV, d->dy, dout, s->rows, dim, ia3_pass_dropout(p, s, 0, IA3_SITE_OUTPUT));
    ia3_place at = {s->decoder, s->n_layers, IA3_PART_SELF_NORM};
    if (s->segments->n > 0)
        ia3_pass_norm_bwd(p, s, at, d->dy, normed(p, s, s->x, norm));
    pass_norm(p, d, at, s->x, norm, s->final_rstd, (below){s->n_layers - 1, IA3_SITE_FF_OUT});
}

/* Ends with the gradient of a stack's embeddings, before their dropout, which becomes that of the table. */
static void
end(const ia3_pass *p, const descent *d)
{
    const ia3_stack *s = d->s;
    const int dim = p->m->config.d_model;
    ia3_pass_lead_bwd(p, s, d->dx);
    float *table = grads_of(p, "shared.weight");
    if (!table)
        return;
    if (ia3_pass_drops(p))
        OPS->dropout_f32(DEV, d->dx, d->dx, s->rows, dim, ia3_pass_dropout(p, s, 0, IA3_SITE_INPUT));
    OPS->embed_grad(DEV, table, d->dx, s->ids, s->rows, dim);
}

void
ia3_pass_backward(ia3_pass *p, const float *dlp)
{
    ia3_model *m = p->m;
    size_t dim = m->config.d_model, pairs = p->batch->pair_tokens.n;
    float *dlp_device = OPS->arena_alloc(DEV, pairs * sizeof(float));
    float *dh = OPS->arena_alloc(DEV, (size_t) p->dec.rows * dim * sizeof(float));
    descent d = {.enc = OPS->arena_alloc(DEV, (size_t) p->enc.rows * dim * sizeof(float))};
    OPS->upload(DEV, dlp_device, dlp, pairs * sizeof(float));
    OPS->zero(DEV, d.enc, (size_t) p->enc.rows * dim * sizeof(float));
    float *dhead = grads_of(p, m->config.own_head ? "lm_head.weight" : "shared.weight");
    OPS->vocab_logprobs_bwd(DEV, dh, dhead, dlp_device, p->lse, p->dec.out, p->dec.rows, p->w->head,
                            m->logit_scale, p->pair_offsets, p->pair_tokens);

    begin(p, &d, &p->dec, dh, p->w->dec_norm);
    for (int i = m->config.n_dec - 1; i >= 0; i--) {
        ia3_heartbeat();
        feed_forward(p, &d, i);
        cross_attention(p, &d, i);
        self_attention(p, &d, i);
    }
    end(p, &d);
    begin(p, &d, &p->enc, d.enc, p->w->enc_norm);
    for (int i = m->config.n_enc - 1; i >= 0; i--) {
        ia3_heartbeat();
        feed_forward(p, &d, i);
        self_attention(p, &d, i);
    }
    end(p, &d);
    ia3_pass_finish_gradients(p);
}
