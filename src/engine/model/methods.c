/*
 * methods.c
 *     Where the methods that (IA)³ is compared with meet the graph (adapter.h lists them).
 *
 * Their rows are known on the host as runs of one adapter; each run costs calls of its own. (IA)³ knows nothing of
 * this: a batch without other methods takes none of these paths, and its own vectors stay fused in the kernels.
 */
#include "pass.h"

#define OPS p->m->dev->ops
#define DEV p->m->dev

/* An adapter's values at a place, and where their gradient goes. */
static const float *
values_at(const ia3_pass *p, int slot, ia3_place at)
{
    return p->batch->slots[slot] + ia3_place_offset(p->m->layouts[p->batch->methods[slot]], at);
}

static float *
grads_at(const ia3_pass *p, int slot, ia3_place at)
{
    return p->batch->grad_slots[slot] + ia3_place_offset(p->m->layouts[p->batch->methods[slot]], at);
}

static void *
row_at(const void *base, int row, size_t cols, size_t size)
{
    return (char *) base + (size_t) row * cols * size;
}

/* The i-th linear of a product: its place in the fused row, and its factors inside the place's values. */
static ia3_low_rank
low_rank_of(const ia3_matrix *w, int linears, int i, const float *values)
{
    ia3_low_rank l = {.rank = IA3_LORA_RANK,
                      .in = w->in,
                      .out = w->out / linears,
                      .stride = (size_t) w->out,
                      .scale = 1.0f / IA3_LORA_RANK};
    l.a = values + (size_t) i * IA3_LORA_RANK * (size_t) (l.in + l.out);
    l.b = l.a + (size_t) IA3_LORA_RANK * (size_t) l.in;
    return l;
}

void
ia3_pass_product(const ia3_pass *p, const ia3_stack *s, ia3_place at, void *y, const void *x, ia3_matrix *w,
                 ia3_out out)
{
    OPS->matmul(DEV, y, x, s->rows, w, out);
    size_t act = ia3_dtype_size(DEV->dtype), size = out == IA3_OUT_ACT ? act : sizeof(float);
    for (int k = 0; k < s->segments->n; k++) {
        const ia3_segment *g = &s->segments->v[k];
        unsigned has = ia3_method_has(p->batch->methods[g->slot]);
        char *to = row_at(y, g->first, (size_t) w->out, size);
        if (has & IA3_HAS_BIAS)
            OPS->add_row(DEV, to, values_at(p, g->slot, at), g->rows, w->out, out);
        int n = has & IA3_HAS_LOW_RANK ? ia3_part_linears(p->m->layout, at.part) : 0;
        for (int i = 0; i < n; i++) {
            ia3_low_rank l = low_rank_of(w, n, i, values_at(p, g->slot, at));
            OPS->low_rank(DEV, to + (size_t) i * (size_t) l.out * size,
                          row_at(x, g->first, (size_t) w->in, act), g->rows, &l, out);
        }
    }
}

void
ia3_pass_product_bwd(const ia3_pass *p, const ia3_stack *s, ia3_place at, void *dx, const void *dy,
                     const void *x, ia3_matrix *w, ia3_out out)
{
    OPS->matmul_bwd(DEV, dx, dy, s->rows, w, out);
    size_t act = ia3_dtype_size(DEV->dtype), size = out == IA3_OUT_ACT ? act : sizeof(float);
    for (int k = 0; k < s->segments->n; k++) {
        const ia3_segment *g = &s->segments->v[k];
        unsigned has = ia3_method_has(p->batch->methods[g->slot]);
        char *from = row_at(dy, g->first, (size_t) w->out, act);
        if (has & IA3_HAS_BIAS)
            OPS->add_row_bwd(DEV, grads_at(p, g->slot, at), from, g->rows, w->out);
        int n = has & IA3_HAS_LOW_RANK ? ia3_part_linears(p->m->layout, at.part) : 0;
        for (int i = 0; i < n; i++) {
            const float *values = values_at(p, g->slot, at);
            float *grads = grads_at(p, g->slot, at);
            ia3_low_rank l = low_rank_of(w, n, i, values);
            OPS->low_rank_bwd(DEV, row_at(dx, g->first, (size_t) w->in, size), grads + (l.a - values),
                              grads + (l.b - values), from + (size_t) i * (size_t) l.out * act,
                              row_at(x, g->first, (size_t) w->in, act), g->rows, &l, out);
        }
    }
}

void
ia3_pass_scale_norm(const ia3_pass *p, const ia3_stack *s, ia3_place at, void *y)
{
    size_t act = ia3_dtype_size(DEV->dtype), d = (size_t) p->m->config.d_model;
    for (int k = 0; k < s->segments->n; k++) {
        const ia3_segment *g = &s->segments->v[k];
        if (ia3_method_has(p->batch->methods[g->slot]) & IA3_HAS_NORM)
            OPS->scale_row(DEV, row_at(y, g->first, d, act), values_at(p, g->slot, at), g->rows, (int) d);
    }
}

void
ia3_pass_scale_norm_bwd(const ia3_pass *p, const ia3_stack *s, ia3_place at, void *dy, const void *x)
{
    size_t act = ia3_dtype_size(DEV->dtype), d = (size_t) p->m->config.d_model;
    for (int k = 0; k < s->segments->n; k++) {
        const ia3_segment *g = &s->segments->v[k];
        if (ia3_method_has(p->batch->methods[g->slot]) & IA3_HAS_NORM)
            OPS->scale_row_bwd(DEV, row_at(dy, g->first, d, act), grads_at(p, g->slot, at),
                               row_at(x, g->first, d, act), values_at(p, g->slot, at), g->rows, (int) d);
    }
}

/* True when the input begins with a prompt. */
static bool
has_prompt(const ia3_batch *b, int input)
{
    return b->n_others > 0 && ia3_method_has(b->methods[b->slot_of_input.v[input]]) & IA3_HAS_PROMPT;
}

void
ia3_pass_prompts(const ia3_pass *p, float *x)
{
    const ia3_batch *b = p->batch;
    int d = p->m->config.d_model;
    for (int i = 0; i < b->n_inputs; i++)
        if (has_prompt(b, i)) /* without dropout it is a copy */
            OPS->dropout_f32(DEV, x + (size_t) b->enc_offsets.v[i] * d, b->slots[b->slot_of_input.v[i]],
                             IA3_PROMPT_TOKENS, d, (ia3_dropout){0});
}

void
ia3_pass_prompts_bwd(const ia3_pass *p, const float *dx)
{
    const ia3_batch *b = p->batch;
    int d = p->m->config.d_model;
    for (int i = 0; i < b->n_inputs; i++) {
        if (!has_prompt(b, i))
            continue;
        ia3_dropout drop = ia3_pass_dropout(p, &p->enc, 0, IA3_SITE_INPUT);
        if (drop.row_key)
            drop.row_key += b->enc_offsets.v[i];
        OPS->add_dropout(DEV, b->grad_slots[b->slot_of_input.v[i]], dx + (size_t) b->enc_offsets.v[i] * d,
                         IA3_PROMPT_TOKENS, d, drop);
    }
}

const float *const *
ia3_pass_slots(const ia3_pass *p)
{
    const ia3_batch *b = p->batch;
    if (b->n_slots == b->n_others)
        return NULL;
    const float **slots = OPS->arena_alloc(DEV, (size_t) b->n_slots * sizeof *slots);
    OPS->upload(DEV, slots, b->slots, (size_t) b->n_slots * sizeof *slots);
    for (int i = 0; b->n_others > 0 && i < b->n_slots; i++)
        if (b->methods[i] != IA3_METHOD_IA3)
            OPS->upload(DEV, slots + i, &p->m->ones, sizeof *slots);
    return slots;
}

/* What the kernels compute for slots of other methods goes where nobody looks. */
float *const *
ia3_pass_grad_slots(const ia3_pass *p)
{
    const ia3_batch *b = p->batch;
    if (b->n_slots == b->n_others)
        return NULL;
    float **slots = OPS->arena_alloc(DEV, (size_t) b->n_slots * sizeof *slots);
    OPS->upload(DEV, slots, b->grad_slots, (size_t) b->n_slots * sizeof *slots);
    for (int i = 0; b->n_others > 0 && i < b->n_slots; i++) {
        if (b->methods[i] == IA3_METHOD_IA3)
            continue;
        float *nowhere = OPS->arena_alloc(DEV, p->m->layout->n_values * sizeof(float));
        OPS->upload(DEV, slots + i, &nowhere, sizeof nowhere);
    }
    return slots;
}
