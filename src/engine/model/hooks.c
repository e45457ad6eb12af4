/*
 * hooks.c
 *     Calls the methods' hooks (engine/files/method.h) at their places in the graph.
 *
 * A batch records, in host memory, which runs of rows belong to adapters with hooks; each run needs calls of its own. The
 * fused method's standard adapters have no hooks, so a batch that uses only these makes no such calls.
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

/* All layers are alike. */
static bool
changes_output(const ia3_pass *p, const ia3_stack *s, const ia3_segment *g, ia3_part part)
{
    return method_of(p, g)->outputs >> part & 1 &&
           ia3_place_values(p->batch->layouts[g->slot], (ia3_place){s->decoder, 0, part}) > 0;
}

/* What methods add to a product that has been computed; `plain`: but not where they change the sub-layer's result. */
static void
add_to_product(const ia3_pass *p, const ia3_stack *s, ia3_place at, void *y, const void *x, ia3_matrix *w,
               ia3_out out, bool plain)
{
    size_t act = ia3_dtype_size(DEV->dtype), size = out == IA3_OUT_ACT ? act : sizeof(float);
    for (int k = 0; k < s->segments->n; k++) {
        const ia3_segment *g = &s->segments->v[k];
        if (method_of(p, g)->product == NULL || (plain && changes_output(p, s, g, at.part)))
            continue;
        ia3_method_rows r = rows_at(p, g, at);
        method_of(p, g)->product(&r, row_at(y, g->first, (size_t) w->out, size),
                                 row_at(x, g->first, (size_t) w->in, act), w, out);
    }
}

void
ia3_pass_product(const ia3_pass *p, const ia3_stack *s, ia3_place at, void *y, const void *x, ia3_matrix *w,
                 ia3_out out)
{
    OPS->matmul(DEV, y, x, s->rows, w, out);
    add_to_product(p, s, at, y, x, w, out, false);
    ia3_pass_lead_keys(p, s, at, y);
}

void
ia3_pass_product_bwd(const ia3_pass *p, const ia3_stack *s, ia3_place at, void *dx, void *dy, const void *x,
                     ia3_matrix *w, ia3_out out)
{
    ia3_pass_lead_keys_bwd(p, s, at, dy);
    OPS->matmul_bwd(DEV, dx, dy, s->rows, w, out);
    if (p->batch->weight_grads)
        OPS->matmul_grad(DEV, p->batch->weight_grads + ia3_place_offset(p->batch->weight_layout, at), dy, x,
                         s->rows, w->out, w->in);
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

bool
ia3_pass_changes_outputs(const ia3_pass *p, const ia3_stack *s, ia3_part part)
{
    for (int k = 0; k < s->segments->n; k++)
        if (changes_output(p, s, &s->segments->v[k], part))
            return true;
    return false;
}

/* y, and keep, if any, begin with the first row of the run. */
static void
change_output(const ia3_pass *p, const ia3_segment *g, ia3_place at, float *y, float *keep)
{
    ia3_method_rows r = rows_at(p, g, at);
    if (keep)
        OPS->dropout_f32(DEV, keep, y, g->rows, r.d_model, (ia3_dropout){0});
    method_of(p, g)->output(&r, y);
}

void
ia3_pass_output(const ia3_pass *p, const ia3_stack *s, ia3_place at, float *y, float *keep)
{
    size_t d = p->m->config.d_model;
    for (int k = 0; k < s->segments->n; k++) {
        const ia3_segment *g = &s->segments->v[k];
        size_t first = (size_t) g->first * d;
        if (changes_output(p, s, g, at.part))
            change_output(p, g, at, y + first, keep ? keep + first : NULL);
    }
}

/* x += a·Wᵀ for a run of rows whose method changes the result. */
static void
add_changed(const ia3_pass *p, const ia3_stack *s, const ia3_segment *g, ia3_place at, const void *a,
            ia3_matrix *w, float *keep)
{
    size_t d = p->m->config.d_model, first = (size_t) g->first * d, mark = OPS->arena_mark(DEV);
    float *y = OPS->arena_alloc(DEV, (size_t) g->rows * d * sizeof *y);
    const void *from = row_at(a, g->first, (size_t) w->in, ia3_dtype_size(DEV->dtype));
    OPS->matmul(DEV, y, from, g->rows, w, IA3_OUT_F32);
    if (method_of(p, g)->product != NULL) {
        ia3_method_rows r = rows_at(p, g, at);
        method_of(p, g)->product(&r, y, from, w, IA3_OUT_F32);
    }
    change_output(p, g, at, y, keep ? keep + first : NULL);
    OPS->add_dropout(DEV, s->x + first, y, g->rows, (int) d, (ia3_dropout){0});
    OPS->arena_release(DEV, mark);
}

/* Rows of other methods are added to directly, as if the batch had no others: so their results do not depend on these. */
void
ia3_pass_add_product(const ia3_pass *p, const ia3_stack *s, ia3_place at, const void *a, ia3_matrix *w,
                     float *keep)
{
    if (!ia3_pass_changes_outputs(p, s, at.part)) {
        ia3_pass_product(p, s, at, s->x, a, w, IA3_OUT_ADD_F32);
        return;
    }
    size_t d = p->m->config.d_model, act = ia3_dtype_size(DEV->dtype);
    int done = 0;
    for (int k = 0; k <= s->segments->n; k++) {
        const ia3_segment *g = k < s->segments->n ? &s->segments->v[k] : NULL;
        if (g && !changes_output(p, s, g, at.part))
            continue;
        int end = g ? g->first : s->rows;
        if (end > done)
            OPS->matmul(DEV, s->x + (size_t) done * d, row_at(a, done, (size_t) w->in, act), end - done, w,
                        IA3_OUT_ADD_F32);
        if (g) {
            add_changed(p, s, g, at, a, w, keep);
            done = g->first + g->rows;
        }
    }
    add_to_product(p, s, at, s->x, a, w, IA3_OUT_ADD_F32, true);
}

void
ia3_pass_output_bwd(const ia3_pass *p, const ia3_stack *s, ia3_place at, void *dy, const float *y)
{
    size_t act = ia3_dtype_size(DEV->dtype), d = (size_t) p->m->config.d_model;
    for (int k = 0; k < s->segments->n; k++) {
        const ia3_segment *g = &s->segments->v[k];
        if (!changes_output(p, s, g, at.part))
            continue;
        ia3_method_rows r = rows_at(p, g, at);
        method_of(p, g)->output_bwd(&r, row_at(dy, g->first, d, act), y + (size_t) g->first * d);
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
