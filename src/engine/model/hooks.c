/*
 * hooks.c
 *     Calls the methods' hooks (engine/files/method.h) at their places in the graph.
 *
 * A batch records, in host memory, which runs of rows belong to adapters whose methods have hooks; each run needs calls
 * of its own. The fused method has no hooks, so a batch that uses only this method makes no such calls.
 */
#include "pass.h"

#define OPS p->m->dev->ops
#define DEV p->m->dev

static const ia3_method *
method_of(const ia3_pass *p, const ia3_segment *g)
{
    return p->batch->layouts[g->slot]->variant.method;
}

/* The arguments of a hook for the adapter of a slot; its values for this place begin at `offset`. */
static ia3_method_rows
rows_from(const ia3_pass *p, int slot, size_t offset, int rows)
{
    const ia3_batch *b = p->batch;
    return (ia3_method_rows){.dev = DEV,
                             .layout = b->layouts[slot],
                             .values = b->slots[slot] + offset,
                             .grads = b->grad_slots[slot] ? b->grad_slots[slot] + offset : NULL,
                             .rows = rows,
                             .d_model = p->m->config.d_model};
}

static ia3_method_rows
rows_at(const ia3_pass *p, const ia3_segment *g, ia3_place at)
{
    const ia3_layout *l = p->batch->layouts[g->slot];
    ia3_method_rows r = rows_from(p, g->slot, ia3_place_offset(l, at), g->rows);
    r.linears = ia3_part_linears(l, at.part);
    for (int i = 0; i < r.linears; i++)
        r.kinds[i] = ia3_part_kind(l, at.part, i);
    return r;
}

static void *
row_at(const void *base, int row, size_t cols, size_t size)
{
    return (char *) base + (size_t) row * cols * size;
}

void
ia3_pass_product(const ia3_pass *p, const ia3_stack *s, ia3_place at, void *y, const void *x, ia3_matrix *w,
                 ia3_out out)
{
    OPS->matmul(DEV, y, x, s->rows, w, out);
    size_t act = ia3_dtype_size(DEV->dtype), size = out == IA3_OUT_ACT ? act : sizeof(float);
    for (int k = 0; k < s->segments->n; k++) {
        const ia3_segment *g = &s->segments->v[k];
        if (method_of(p, g)->product == NULL)
            continue;
        ia3_method_rows r = rows_at(p, g, at);
        method_of(p, g)->product(&r, row_at(y, g->first, (size_t) w->out, size),
                                 row_at(x, g->first, (size_t) w->in, act), w, out);
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
        if (method_of(p, g)->product_bwd == NULL)
            continue;
        ia3_method_rows r = rows_at(p, g, at);
        method_of(p, g)->product_bwd(&r, row_at(dx, g->first, (size_t) w->in, size),
                                     row_at(dy, g->first, (size_t) w->out, act),
                                     row_at(x, g->first, (size_t) w->in, act), w, out);
    }
}

void
ia3_pass_norm(const ia3_pass *p, const ia3_stack *s, ia3_place at, void *y)
{
    size_t act = ia3_dtype_size(DEV->dtype), d = (size_t) p->m->config.d_model;
    for (int k = 0; k < s->segments->n; k++) {
        const ia3_segment *g = &s->segments->v[k];
        if (method_of(p, g)->norm == NULL)
            continue;
        ia3_method_rows r = rows_at(p, g, at);
        method_of(p, g)->norm(&r, row_at(y, g->first, d, act));
    }
}

void
ia3_pass_norm_bwd(const ia3_pass *p, const ia3_stack *s, ia3_place at, void *dy, const void *x)
{
    size_t act = ia3_dtype_size(DEV->dtype), d = (size_t) p->m->config.d_model;
    for (int k = 0; k < s->segments->n; k++) {
        const ia3_segment *g = &s->segments->v[k];
        if (method_of(p, g)->norm_bwd == NULL)
            continue;
        ia3_method_rows r = rows_at(p, g, at);
        method_of(p, g)->norm_bwd(&r, row_at(dy, g->first, d, act), row_at(x, g->first, d, act));
    }
}

/* The lead rows of input i; their number is 0 if its method has none. */
static ia3_method_rows
lead_of(const ia3_pass *p, int i)
{
    const ia3_batch *b = p->batch;
    int slot = b->slot_of_input.v[i];
    if (b->n_others == 0 || b->layouts[slot]->lead_rows == 0)
        return (ia3_method_rows){.rows = 0};
    return rows_from(p, slot, b->layouts[slot]->rest, b->layouts[slot]->lead_rows);
}

void
ia3_pass_lead(const ia3_pass *p, float *x)
{
    const ia3_batch *b = p->batch;
    for (int i = 0; i < b->n_inputs; i++) {
        ia3_method_rows r = lead_of(p, i);
        if (r.rows > 0)
            r.layout->variant.method->lead(&r, x + (size_t) b->enc_offsets.v[i] * r.d_model);
    }
}

void
ia3_pass_lead_bwd(const ia3_pass *p, const float *dx)
{
    const ia3_batch *b = p->batch;
    for (int i = 0; i < b->n_inputs; i++) {
        ia3_method_rows r = lead_of(p, i);
        if (r.rows == 0)
            continue;
        ia3_dropout drop = ia3_pass_dropout(p, &p->enc, 0, IA3_SITE_INPUT);
        if (drop.row_key)
            drop.row_key += b->enc_offsets.v[i];
        r.layout->variant.method->lead_bwd(&r, dx + (size_t) b->enc_offsets.v[i] * r.d_model, drop);
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
        if (!b->layouts[i]->variant.method->fused)
            OPS->upload(DEV, slots + i, &p->m->ones, sizeof *slots);
    return slots;
}

/* The kernels also compute (IA)³ gradients for slots of other methods, which go to memory that is never read. */
float *const *
ia3_pass_grad_slots(const ia3_pass *p)
{
    const ia3_batch *b = p->batch;
    if (b->n_slots == b->n_others)
        return NULL;
    float **slots = OPS->arena_alloc(DEV, (size_t) b->n_slots * sizeof *slots);
    OPS->upload(DEV, slots, b->grad_slots, (size_t) b->n_slots * sizeof *slots);
    for (int i = 0; b->n_others > 0 && i < b->n_slots; i++) {
        if (b->layouts[i]->variant.method->fused)
            continue;
        float *nowhere = OPS->arena_alloc(DEV, p->m->layout->n_values * sizeof(float));
        OPS->upload(DEV, slots + i, &nowhere, sizeof nowhere);
    }
    return slots;
}
