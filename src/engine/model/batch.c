/*
 * batch.c
 *     Packs inputs and choice sets into one batch.
 */
#include "batch.h"

#include <stdlib.h>
#include <string.h>

#include "engine/base/alloc.h"

static int32_t *
ints_room(ia3_ints *a, int n)
{
    if (a->v == NULL || a->n + n > a->cap) {
        int cap = a->cap ? a->cap : 64;
        while (cap < a->n + n)
            cap *= 2;
        a->v = ia3_realloc(a->v, (size_t) cap * sizeof *a->v);
        a->cap = cap;
    }
    int32_t *at = a->v + a->n;
    a->n += n;
    return at;
}

static void
push(ia3_ints *a, int32_t v)
{
    *ints_room(a, 1) = v;
}

void
ia3_batch_init(ia3_batch *b)
{
    memset(b, 0, sizeof *b);
    push(&b->enc_offsets, 0);
    push(&b->dec_offsets, 0);
    push(&b->pair_offsets, 0);
}

void
ia3_batch_free(ia3_batch *b)
{
    ia3_ints *all[] = {&b->enc_ids,     &b->enc_offsets, &b->slot_of_input, &b->dec_ids,
                       &b->dec_offsets, &b->dec_parent,  &b->dec_depth,     &b->pair_offsets,
                       &b->pair_tokens, &b->enc_slots,   &b->dec_slots,     &b->dec_leads};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        free(all[i]->v);
    free(b->slots);
    free(b->grad_slots);
    free(b->layouts);
    free(b->enc_segments.v);
    free(b->dec_segments.v);
    free(b->enc_keys);
    free(b->dec_keys);
}

int
ia3_batch_add_slot(ia3_batch *b, const ia3_layout *layout, const float *values, float *grads)
{
    layout = ia3_layout_in_passes(layout);
    b->layouts = ia3_realloc(b->layouts, (size_t) (b->n_slots + 1) * sizeof *b->layouts);
    b->layouts[b->n_slots] = layout;
    b->n_others += !layout->variant.method->fused;
    b->n_hooked += layout->hooks;
    b->n_keyed += layout->lead_keys;
    b->n_scaled += layout->variant.method->fused || layout->vectors;
    b->n_placed += layout->variant.method->fused && !layout->plain;
    b->slots = ia3_realloc(b->slots, (size_t) (b->n_slots + 1) * sizeof *b->slots);
    b->grad_slots = ia3_realloc(b->grad_slots, (size_t) (b->n_slots + 1) * sizeof *b->grad_slots);
    b->slots[b->n_slots] = values;
    b->grad_slots[b->n_slots] = grads;
    return b->n_slots++;
}

int
ia3_batch_find_slot(ia3_batch *b, const ia3_layout *layout, const float *values)
{
    for (int s = 0; s < b->n_slots; s++)
        if (b->slots[s] == values)
            return s;
    return ia3_batch_add_slot(b, layout, values, NULL);
}

/* Records a run of rows if their slot's adapter has hooks; it follows all runs recorded so far. */
static void
note_rows(const ia3_batch *b, ia3_segments *s, int first, int rows, int slot)
{
    if (b->n_hooked == 0 || !b->layouts[slot]->hooks || rows == 0)
        return;
    ia3_segment *last = s->n > 0 ? &s->v[s->n - 1] : NULL;
    if (last && last->slot == slot && last->first + last->rows == first) {
        last->rows += rows;
        return;
    }
    if (s->n == s->cap) {
        s->cap = s->cap ? 2 * s->cap : 16;
        s->v = ia3_realloc(s->v, (size_t) s->cap * sizeof *s->v);
    }
    s->v[s->n++] = (ia3_segment){first, rows, slot};
}

void
ia3_batch_one_row_each(ia3_batch *b)
{
    for (int i = 0; i < b->n_inputs; i++)
        note_rows(b, &b->dec_segments, i, 1, b->slot_of_input.v[i]);
}

static void
push_times(ia3_ints *a, int32_t v, int n)
{
    int32_t *at = ints_room(a, n);
    for (int i = 0; i < n; i++)
        at[i] = v;
}

int
ia3_batch_add_input(ia3_batch *b, const int32_t *ids, int n, int slot)
{
    int first = b->enc_ids.n, lead = b->n_others > 0 ? b->layouts[slot]->lead_rows : 0;
    push_times(&b->enc_ids, 0, lead); /* placeholders, whose rows the pass replaces */
    memcpy(ints_room(&b->enc_ids, n), ids, (size_t) n * sizeof *ids);
    n += lead;
    note_rows(b, &b->enc_segments, first, n, slot);
    push(&b->enc_offsets, b->enc_ids.n);
    push(&b->slot_of_input, slot);
    push_times(&b->enc_slots, slot, n);
    push(&b->dec_offsets, b->dec_ids.n);
    if (n > b->max_input)
        b->max_input = n;
    return b->n_inputs++;
}

/* Updates the offsets and maxima for decoder rows that were just added to the last input. */
static void
close_rows(ia3_batch *b, int depth)
{
    b->dec_offsets.v[b->n_inputs] = b->dec_ids.n;
    int rows = b->dec_ids.n - b->dec_offsets.v[b->n_inputs - 1];
    int slot = b->slot_of_input.v[b->n_inputs - 1], noted = b->dec_slots.n;
    note_rows(b, &b->dec_segments, noted, b->dec_ids.n - noted, slot);
    push_times(&b->dec_slots, slot, b->dec_ids.n - noted);
    if (rows > b->max_dec)
        b->max_dec = rows;
    if (depth > b->max_depth)
        b->max_depth = depth;
}

/* The number of the decoder's lead rows for the last input. */
static int
count_leads(const ia3_batch *b)
{
    return b->n_others > 0 ? b->layouts[b->slot_of_input.v[b->n_inputs - 1]]->dec_lead_rows : 0;
}

/* Adds the lead rows, a chain of placeholders, and returns the last one; -1 if there are none. */
static int32_t
add_leads(ia3_batch *b)
{
    int n = count_leads(b);
    if (n == 0)
        return -1;
    push(&b->dec_leads, b->dec_ids.n);
    for (int i = 0; i < n; i++) {
        push(&b->dec_parent, i == 0 ? -1 : b->dec_ids.n - 1);
        push(&b->dec_ids, 0);
        push(&b->dec_depth, i);
        push(&b->pair_offsets, b->pair_tokens.n);
    }
    return b->dec_ids.n - 1;
}

int
ia3_batch_add_trie(ia3_batch *b, const ia3_choices *c)
{
    int begin = b->dec_offsets.v[b->n_inputs - 1], n_leads = count_leads(b);
    int32_t lead = n_leads > 0 && b->dec_ids.n > begin ? begin + n_leads - 1 : add_leads(b);
    int base = b->dec_ids.n, first = b->pair_tokens.n;
    memcpy(ints_room(&b->dec_ids, c->n_rows), c->row_token, (size_t) c->n_rows * sizeof(int32_t));
    memcpy(ints_room(&b->pair_tokens, c->n_pairs), c->pair_token, (size_t) c->n_pairs * sizeof(int32_t));
    int32_t *parent = ints_room(&b->dec_parent, c->n_rows), *depth = ints_room(&b->dec_depth, c->n_rows);
    int32_t *offset = ints_room(&b->pair_offsets, c->n_rows);
    for (int r = 0; r < c->n_rows; r++) {
        parent[r] = c->row_parent[r] < 0 ? lead : base + c->row_parent[r];
        depth[r] = n_leads + c->row_depth[r];
        offset[r] = first + c->pair_offsets[r + 1];
    }
    close_rows(b, n_leads + c->max_depth);
    return first;
}

int
ia3_batch_add_chains(ia3_batch *b, const ia3_choices *c)
{
    int first = b->pair_tokens.n, n_leads = count_leads(b);
    for (int i = 0; i < c->n; i++) {
        int32_t lead = add_leads(b);
        for (int t = 0; t < c->len[i]; t++) {
            /* the decoder's input is the start token (row 0 of the trie), then the choice without its last token */
            push(&b->dec_parent, t == 0 ? lead : b->dec_ids.n - 1);
            push(&b->dec_ids, t == 0 ? c->row_token[0] : c->ids[i][t - 1]);
            push(&b->dec_depth, n_leads + t);
            push(&b->pair_tokens, c->ids[i][t]);
            push(&b->pair_offsets, b->pair_tokens.n);
        }
    }
    close_rows(b, n_leads + c->max_depth);
    return first;
}
