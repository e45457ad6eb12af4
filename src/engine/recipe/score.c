/*
 * score.c
 *     Rank classification of a batch of rows with different adapters.
 *
 * Rows with the same adapter and input share one input of the pass (two, if it has both small and large choice sets);
 * each distinct choice set adds its trie to that input. A row with very many choices is scored in pieces of its trie, so
 * that memory does not grow with their number. A score is the mean log-likelihood per token of a choice.
 */
#include "score.h"

#include <stdlib.h>
#include <string.h>

#include "by_weights.h"
#include "engine/base/alloc.h"
#include "engine/base/rng.h"
#include "engine/model/pass.h"
#include "engine/model/work.h"

int
ia3_score_row_tokens(const ia3_score_row *row)
{
    return row->n_ids + row->choices->n_rows;
}

/*
 * Keys and values cost 2·d_model·inner multiplications per token of the input. state_attention costs as many per
 * decoder row, and 2·d_model more per decoder row, token and head; these count twice here, because they are computed in
 * smaller pieces at half the speed.
 */
bool
ia3_score_by_states(const ia3_model *m, const ia3_score_row *row)
{
    const ia3_config *c = &m->config;
    if (!m->few_by_states || m->trace || (row->adapter && !row->adapter->layout->variant.method->fused))
        return false;
    double tokens = row->n_ids, rows = row->choices->n_rows;
    return 2 * rows * (c->inner + c->n_heads * tokens) < tokens * c->inner;
}

/* A hash table of row indices (open addressing), for grouping rows by adapter and input. */
typedef struct grouping {
    const ia3_score_row *rows;
    const bool *by_states;
    int *table;
    size_t mask;
} grouping;

static uint64_t
hash_input(const ia3_score_row *row)
{
    uint64_t h = ia3_mix64((uint64_t) (uintptr_t) row->adapter);
    for (int i = 0; i < row->n_ids; i++)
        h = ia3_mix64(h ^ (uint32_t) row->ids[i]);
    return h;
}

static bool
same_input(const grouping *g, int i, int j)
{
    const ia3_score_row *a = &g->rows[i], *b = &g->rows[j];
    return g->by_states[i] == g->by_states[j] && a->adapter == b->adapter && a->n_ids == b->n_ids &&
           memcmp(a->ids, b->ids, (size_t) a->n_ids * sizeof *a->ids) == 0;
}

/* The first row with the same input as row i; inserts i if there is none. */
static int
first_of_input(grouping *g, int i)
{
    for (size_t at = hash_input(&g->rows[i]) & g->mask;; at = (at + 1) & g->mask) {
        if (g->table[at] < 0) {
            g->table[at] = i;
            return i;
        }
        if (same_input(g, g->table[at], i))
            return g->table[at];
    }
}

/* leader[i] = the first row with the same (adapter, input, kind of cross-attention) as row i. */
static int *
find_leaders(const ia3_score_row *rows, const bool *by_states, int n)
{
    size_t size = 16;
    while (size < 2 * (size_t) n)
        size *= 2;
    grouping g = {
        .rows = rows, .by_states = by_states, .table = ia3_alloc_array(size, sizeof(int)), .mask = size - 1};
    for (size_t i = 0; i < size; i++)
        g.table[i] = -1;
    int *leader = ia3_alloc_array(n, sizeof(int));
    for (int i = 0; i < n; i++)
        leader[i] = first_of_input(&g, i);
    free(g.table);
    return leader;
}

static int
slot_of(ia3_batch *b, const ia3_model *m, const ia3_adapter *adapter)
{
    const float *values = adapter && !adapter->weights ? adapter->values : m->ones;
    b->weights = adapter ? adapter->weights : NULL;
    return ia3_batch_find_slot(b, adapter ? adapter->layout : m->layout, values);
}

/*
 * Adds one input with the choice sets of all rows of its group, which are linked by next[], and sets the first pair of
 * each row. Rows with the same choice set share their pairs. Returns the input's index.
 */
static int
add_group(ia3_batch *b, const ia3_model *m, ia3_score_row *rows, const int *next, int leader, int *first_pair)
{
    int input =
        ia3_batch_add_input(b, rows[leader].ids, rows[leader].n_ids, slot_of(b, m, rows[leader].adapter));
    for (int i = leader; i >= 0; i = next[i]) {
        int twin = leader;
        while (twin != i && rows[twin].choices != rows[i].choices)
            twin = next[twin];
        rows[i].repeated = twin != i;
        first_pair[i] = twin != i ? first_pair[twin] : ia3_batch_add_trie(b, rows[i].choices);
    }
    return input;
}

/* Builds the batch. Inputs that use state_attention come last. input_of: of the first row of each group; else -1. */
static void
build(ia3_batch *b, const ia3_model *m, ia3_score_row *rows, int n, int *first_pair, int *input_of)
{
    bool *states = ia3_alloc_array(n, sizeof(bool));
    for (int i = 0; i < n; i++)
        states[i] = ia3_score_by_states(m, &rows[i]);
    int *leader = find_leaders(rows, states, n), *next = ia3_alloc_array(n, sizeof(int));
    int *tail = ia3_alloc_array(n, sizeof(int));
    for (int i = 0; i < n; i++) {
        next[i] = -1;
        tail[i] = i;
        input_of[i] = -1;
        if (leader[i] != i) {
            next[tail[leader[i]]] = i;
            tail[leader[i]] = i;
        }
    }
    for (int i = 0; i < n; i++)
        if (leader[i] == i && !states[i])
            input_of[i] = add_group(b, m, rows, next, i, first_pair);
    int by_keys = b->n_inputs;
    for (int i = 0; i < n; i++)
        if (leader[i] == i && states[i])
            input_of[i] = add_group(b, m, rows, next, i, first_pair);
    b->n_by_states = b->n_inputs - by_keys;
    free(states);
    free(leader);
    free(next);
    free(tail);
}

/* Removes the slots if no rows have anything but weights, so that no vectors are needed. */
static void
drop_ones(ia3_batch *b, const ia3_model *m)
{
    if (b->n_slots == 1 && b->slots[0] == m->ones)
        b->n_slots = 0;
}

static double
score_of(const ia3_choices *c, int i, const float *lp)
{
    double sum = 0;
    const int given = ia3_choices_given(c, i);
    for (int t = given; t < c->len[i]; t++)
        sum += lp[c->choice_pairs[i][t]];
    return sum / (c->len[i] - given);
}

static void
collect(const ia3_score_row *row, const float *lp)
{
    for (int i = 0; i < row->choices->n; i++)
        row->scores[i] = score_of(row->choices, i, lp);
}

typedef struct score_pass {
    ia3_model *m;
    const ia3_batch *batch;
    float *lp;
} score_pass;

static void
run_pass(void *arg)
{
    score_pass *s = arg;
    ia3_pass p;
    ia3_pass_forward(&p, s->m, s->batch, false, s->lp);
}

static bool
score_together(ia3_model *m, ia3_score_row *rows, int n, ia3_error *err)
{
    ia3_batch batch;
    ia3_batch_init(&batch);
    int *first_pair = ia3_alloc_array(n, sizeof *first_pair);
    int *input_of = ia3_alloc_array(n, sizeof *input_of);
    build(&batch, m, rows, n, first_pair, input_of);
    for (int i = 0; i < n; i++)
        rows[i].flops = input_of[i] < 0 ? 0 : ia3_input_flops(m, &batch, input_of[i], IA3_PASS_SCORES);
    drop_ones(&batch, m);

    score_pass s = {.m = m, .batch = &batch, .lp = ia3_alloc_array(batch.pair_tokens.n, sizeof(float))};
    bool ok = ia3_model_guarded(m, run_pass, &s, err);
    for (int i = 0; ok && i < n; i++)
        collect(&rows[i], s.lp + first_pair[i]);

    free(s.lp);
    free(first_pair);
    free(input_of);
    ia3_batch_free(&batch);
    return ok;
}

/* One row whose choices are scored piece by piece. The batch of a piece has the row's input and the piece's trie. */
typedef struct piecewise {
    ia3_model *m;
    ia3_score_row *row;
    int *order;
    ia3_choices *piece;
    ia3_batch batch;
    float *lp;
} piecewise;

static void
begin_piece(piecewise *s, int from)
{
    const ia3_score_row *row = s->row;
    s->piece = ia3_choices_piece(row->choices, s->order, from, IA3_PIECE_ROWS);
    ia3_batch_init(&s->batch);
    ia3_batch_add_input(&s->batch, row->ids, row->n_ids, slot_of(&s->batch, s->m, row->adapter));
    ia3_batch_add_trie(&s->batch, s->piece);
    drop_ones(&s->batch, s->m);
    s->lp = ia3_alloc_array(s->batch.pair_tokens.n, sizeof(float));
}

static void
end_piece(piecewise *s)
{
    if (s->piece == NULL)
        return;
    ia3_choices_free(s->piece);
    ia3_batch_free(&s->batch);
    free(s->lp);
    s->piece = NULL;
}

/* The encoder runs only once; a pass that decodes more does not need its earlier batches. */
static void
run_pieces(void *arg)
{
    piecewise *s = arg;
    ia3_score_row *row = s->row;
    ia3_pass p = {0};
    row->flops = 0;
    for (int from = 0; from < row->choices->n; from += s->piece->n) {
        end_piece(s);
        begin_piece(s, from);
        row->flops += ia3_input_flops(s->m, &s->batch, 0, from == 0 ? IA3_PASS_SCORES : IA3_PASS_MORE);
        if (from == 0)
            ia3_pass_forward(&p, s->m, &s->batch, false, s->lp);
        else
            ia3_pass_decode_more(&p, &s->batch, s->lp);
        for (int i = 0; i < s->piece->n; i++)
            row->scores[s->order[from + i]] = score_of(s->piece, i, s->lp);
    }
}

static bool
score_in_pieces(ia3_model *m, ia3_score_row *row, ia3_error *err)
{
    piecewise s = {.m = m, .row = row, .order = ia3_choices_order(row->choices)};
    bool ok = ia3_model_guarded(m, run_pieces, &s, err);
    end_piece(&s);
    free(s.order);
    row->repeated = false;
    return ok;
}

static bool
is_large(const ia3_score_row *row)
{
    return row->choices->n_rows > IA3_PIECE_ROWS;
}

/* Rows with the same weights. */
static bool
score_alike(ia3_model *m, void *arg, int n, ia3_error *err)
{
    ia3_score_row *rows = arg;
    bool ok = true;
    for (int from = 0, to; ok && from < n; from = to) {
        to = from + 1;
        if (is_large(&rows[from])) {
            ok = score_in_pieces(m, &rows[from], err);
            continue;
        }
        while (to < n && !is_large(&rows[to]))
            to++;
        ok = score_together(m, rows + from, to - from, err);
    }
    return ok;
}

static const ia3_adapter *
adapter_of(const void *row)
{
    return ((const ia3_score_row *) row)->adapter;
}

static bool
score_rows(ia3_model *m, ia3_score_row *rows, int n, ia3_error *err)
{
    const ia3_rows_by_weights all = {rows, sizeof *rows, n, adapter_of, score_alike};
    return ia3_compute_by_weights(m, &all, err);
}

static int
members_of(const ia3_score_row *row)
{
    return row->adapter ? row->adapter->layout->members : 1;
}

/* The rows with the k-th of their members, which are added to the sums in rows[].scores; `part` [n], `scores` as many as all choices. */
static bool
add_members(ia3_model *m, ia3_score_row *rows, int n, int k, ia3_score_row *part, double *scores,
            ia3_error *err)
{
    int n_part = 0;
    for (int i = 0; i < n; i++) {
        if (k >= members_of(&rows[i]))
            continue;
        part[n_part] = rows[i];
        if (rows[i].adapter && rows[i].adapter->members)
            part[n_part].adapter = &rows[i].adapter->members[k];
        part[n_part++].scores = scores;
        scores += rows[i].choices->n;
    }
    if (!score_rows(m, part, n_part, err))
        return false;
    for (int i = 0, at = 0; i < n; i++) {
        if (k >= members_of(&rows[i]))
            continue;
        for (int c = 0; c < rows[i].choices->n; c++)
            rows[i].scores[c] = (k > 0 ? rows[i].scores[c] : 0) + part[at].scores[c];
        rows[i].flops = (k > 0 ? rows[i].flops : 0) + part[at].flops;
        rows[i].repeated = part[at++].repeated;
    }
    return true;
}

bool
ia3_score(ia3_model *m, ia3_score_row *rows, int n, ia3_error *err)
{
    int members = 1;
    size_t choices = 0;
    for (int i = 0; i < n; i++) {
        members = members_of(&rows[i]) > members ? members_of(&rows[i]) : members;
        choices += (size_t) rows[i].choices->n;
    }
    if (members == 1)
        return score_rows(m, rows, n, err);

    ia3_score_row *part = ia3_alloc_array((size_t) n, sizeof *part);
    double *scores = ia3_alloc_array(choices, sizeof *scores);
    bool ok = true;
    for (int k = 0; ok && k < members; k++)
        ok = add_members(m, rows, n, k, part, scores, err);
    for (int i = 0; ok && i < n; i++)
        for (int c = 0; c < rows[i].choices->n; c++)
            rows[i].scores[c] /= members_of(&rows[i]);
    free(part);
    free(scores);
    return ok;
}
