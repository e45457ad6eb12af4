/*
 * leads.c
 *     The rows that precede inputs: embeddings that an adapter has for them, or their keys and values in each attention.
 *
 * In the second case such rows go through the stack like all others, but nothing reads what they become: their keys and values
 * are replaced wherever they are computed, and so the gradients end there.
 */
#include "pass.h"

#include <stdlib.h>

#include "engine/base/alloc.h"

#define OPS p->m->dev->ops
#define DEV p->m->dev

/* Where in the values the embeddings of a slot's layout begin, those of the encoder, or those of the decoder after them. */
static size_t
lead_offset(const ia3_pass *p, const ia3_layout *l, bool decoder)
{
    return l->rest + (decoder ? (size_t) l->lead_rows * (size_t) p->m->config.d_model : 0);
}

static int
lead_rows(const ia3_layout *l, bool decoder)
{
    return decoder ? l->dec_lead_rows : l->lead_rows;
}

/* A run of lead rows: its first row in the stack, how many there are, and whose they are. */
typedef struct lead_run {
    int first, rows, slot;
    bool keys;
} lead_run;

/* Run number i of a stack, which may have no rows; false if there are no more runs. */
static bool
lead_at(const ia3_pass *p, const ia3_stack *s, int i, lead_run *run)
{
    const ia3_batch *b = p->batch;
    if (b->n_others == 0 || i >= (s->decoder ? b->dec_leads.n : b->n_inputs))
        return false;
    run->first = s->decoder ? b->dec_leads.v[i] : b->enc_offsets.v[i];
    run->slot = s->decoder ? b->dec_slots.v[run->first] : b->slot_of_input.v[i];
    run->rows = lead_rows(b->layouts[run->slot], s->decoder);
    run->keys = b->layouts[run->slot]->lead_keys;
    return true;
}

/* --- embeddings --- */

/* Without dropout, dropout_f32 is a copy. */
void
ia3_pass_lead(const ia3_pass *p, const ia3_stack *s, float *x)
{
    const int d = p->m->config.d_model;
    lead_run run;
    for (int i = 0; lead_at(p, s, i, &run); i++)
        if (run.rows > 0 && !run.keys)
            OPS->dropout_f32(DEV, x + (size_t) run.first * (size_t) d,
                             p->batch->slots[run.slot] +
                                 lead_offset(p, p->batch->layouts[run.slot], s->decoder),
                             run.rows, d, (ia3_dropout){0});
}

void
ia3_pass_lead_bwd(const ia3_pass *p, const ia3_stack *s, const float *dx)
{
    const int d = p->m->config.d_model;
    lead_run run;
    for (int i = 0; lead_at(p, s, i, &run); i++) {
        if (run.rows == 0 || run.keys || p->batch->grad_slots[run.slot] == NULL)
            continue;
        ia3_dropout drop = ia3_pass_dropout(p, s, 0, IA3_SITE_INPUT);
        if (drop.row_key)
            drop.row_key += run.first;
        OPS->add_dropout(
            DEV, p->batch->grad_slots[run.slot] + lead_offset(p, p->batch->layouts[run.slot], s->decoder),
            dx + (size_t) run.first * (size_t) d, run.rows, d, drop);
    }
}

void
ia3_pass_decoder_lead(const ia3_pass *p, int slot, int k, float *x)
{
    const int d = p->m->config.d_model;
    const ia3_layout *l = p->batch->layouts[slot];
    if (!l->lead_keys)
        OPS->dropout_f32(DEV, x, p->batch->slots[slot] + lead_offset(p, l, true) + (size_t) k * (size_t) d, 1,
                         d, (ia3_dropout){0});
}

/* --- keys and values --- */

/* How many runs of a stack belong to a slot; their first rows are written to `first`, unless this is NULL. */
static int
runs_of(const ia3_pass *p, const ia3_stack *s, int slot, int32_t *first)
{
    lead_run run;
    int n = 0;
    for (int i = 0; lead_at(p, s, i, &run); i++)
        if (run.slot == slot) {
            if (first)
                first[n] = run.first;
            n++;
        }
    return n;
}

void
ia3_pass_find_leads(const ia3_pass *p, ia3_stack *s)
{
    const ia3_batch *b = p->batch;
    const size_t bytes = (size_t) (s->decoder ? b->dec_leads.n : b->n_inputs) * sizeof(int32_t);
    s->lead_keys = NULL;
    if (b->n_keyed == 0 || bytes == 0)
        return;
    int32_t *device = OPS->arena_alloc(DEV, bytes), *host = ia3_alloc(bytes);
    int n = 0;
    for (int slot = 0; slot < b->n_slots; slot++)
        if (b->layouts[slot]->lead_keys)
            n += runs_of(p, s, slot, host + n);
    OPS->upload(DEV, device, host, bytes);
    free(host);
    s->lead_keys = device;
}

/* The places of a slot's keys and values in the rows of a product; *offset: where in a row they begin. */
static ia3_row_places
places_of(const ia3_pass *p, const ia3_stack *s, ia3_place at, int slot, size_t *offset)
{
    const int inner = p->m->config.inner;
    const size_t queries = at.part == IA3_PART_SELF_QKV ? (size_t) inner : 0;
    *offset = queries * ia3_dtype_size(DEV->dtype);
    return (ia3_row_places){.rows = lead_rows(p->batch->layouts[slot], s->decoder),
                            .cols = 2 * inner,
                            .stride = queries + 2 * (size_t) inner};
}

/* Calls an operation for each slot that has keys and values for lead rows. */
static void
for_each_slot(const ia3_pass *p, const ia3_stack *s, ia3_place at, void *y, bool backward)
{
    const ia3_batch *b = p->batch;
    const int32_t *first = s->lead_keys;
    if (first == NULL || (at.part != IA3_PART_SELF_QKV && at.part != IA3_PART_CROSS_KV))
        return;
    for (int slot = 0; slot < b->n_slots; slot++) {
        const ia3_layout *l = b->layouts[slot];
        size_t offset;
        if (!l->lead_keys)
            continue;
        ia3_row_places places = places_of(p, s, at, slot, &offset);
        places.n = runs_of(p, s, slot, NULL);
        places.at = first;
        first += places.n;
        if (places.n == 0)
            continue;
        if (!backward)
            OPS->put_rows(DEV, (char *) y + offset, b->slots[slot] + ia3_place_offset(l, at), &places);
        else if (b->grad_slots[slot])
            OPS->put_rows_bwd(DEV, b->grad_slots[slot] + ia3_place_offset(l, at), (char *) y + offset,
                              &places);
    }
}

void
ia3_pass_lead_keys(const ia3_pass *p, const ia3_stack *s, ia3_place at, void *y)
{
    for_each_slot(p, s, at, y, false);
}

void
ia3_pass_lead_keys_bwd(const ia3_pass *p, const ia3_stack *s, ia3_place at, void *dy)
{
    for_each_slot(p, s, at, dy, true);
}

void
ia3_pass_decoder_keys(const ia3_pass *p, int slot, int layer, int k, void *y)
{
    const ia3_layout *l = p->batch->layouts[slot];
    const ia3_place at = {true, layer, IA3_PART_SELF_QKV};
    size_t offset;
    if (!l->lead_keys)
        return;
    ia3_row_places places = places_of(p, &p->dec, at, slot, &offset);
    places.rows = places.n = 1;
    OPS->put_rows(DEV, (char *) y + offset,
                  p->batch->slots[slot] + ia3_place_offset(l, at) + (size_t) k * (size_t) places.cols,
                  &places);
}
