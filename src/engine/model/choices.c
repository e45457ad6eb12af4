/*
 * choices.c
 *     Builds the prefix trie of a choice set. A set may have a million choices, so this takes time proportional to its
 *     tokens.
 */
#include "choices.h"

#include <stdlib.h>
#include <string.h>

#include "engine/base/alloc.h"
#include "engine/base/rng.h"

/* A trie under construction. Each row has a linked list of pairs, which lead to the rows of longer prefixes. */
typedef struct pair {
    int32_t token;
    int row;
    int next;   /* next pair of the same row, -1 at the end */
    int child;  /* the row that this token leads to, -1 if no choice continues after it */
    int choice; /* the choice that ends here, -1 if none does */
} pair;

typedef struct builder {
    pair *pairs;
    int n_pairs;
    int *table; /* hash table with open addressing, (row, token) -> pair + 1 */
    size_t mask;
    int *first, *last; /* [row] first and last pair, -1 when none */
    int n_rows;
    int32_t *token, *parent, *depth;
} builder;

static int
add_row(builder *b, int32_t token, int32_t parent)
{
    int row = b->n_rows++;
    b->token[row] = token;
    b->parent[row] = parent;
    b->depth[row] = parent < 0 ? 0 : b->depth[parent] + 1;
    b->first[row] = b->last[row] = -1;
    return row;
}

/* Finds or adds the pair (row, token). */
static int
find_pair(builder *b, int row, int32_t token)
{
    size_t at = (size_t) ia3_mix64((uint64_t) (uint32_t) row << 32 | (uint32_t) token) & b->mask;
    for (; b->table[at]; at = (at + 1) & b->mask) {
        const pair *known = &b->pairs[b->table[at] - 1];
        if (known->row == row && known->token == token)
            return b->table[at] - 1;
    }
    int p = b->n_pairs++;
    b->pairs[p] = (pair){.token = token, .row = row, .next = -1, .child = -1, .choice = -1};
    b->table[at] = p + 1;
    if (b->first[row] < 0)
        b->first[row] = p;
    else
        b->pairs[b->last[row]].next = p;
    b->last[row] = p;
    return p;
}

/* Inserts choice i; returns an earlier choice with the same tokens, or -1. */
static int
insert(builder *b, int i, const int32_t *ids, int len, int *path)
{
    int row = 0;
    for (int t = 0; t < len; t++) {
        int p = find_pair(b, row, ids[t]);
        path[t] = p;
        if (t + 1 < len) {
            if (b->pairs[p].child < 0)
                b->pairs[p].child = add_row(b, ids[t], row);
            row = b->pairs[p].child;
        }
    }
    pair *end = &b->pairs[path[len - 1]];
    if (end->choice >= 0)
        return end->choice;
    end->choice = i;
    return -1;
}

/* Orders the pairs row by row; returns the new index of each pair by its old one. */
static int *
lay_out_pairs(ia3_choices *c, const builder *b)
{
    int *position = ia3_alloc_array(b->n_pairs, sizeof(int));
    c->n_pairs = 0;
    c->pair_offsets = ia3_alloc_array(b->n_rows + 1, sizeof(int32_t));
    c->pair_token = ia3_alloc_array(b->n_pairs, sizeof(int32_t));
    for (int row = 0; row < b->n_rows; row++) {
        for (int p = b->first[row]; p >= 0; p = b->pairs[p].next) {
            position[p] = c->n_pairs;
            c->pair_token[c->n_pairs++] = b->pairs[p].token;
        }
        c->pair_offsets[row + 1] = c->n_pairs;
    }
    return position;
}

static void
begin(builder *b, int total)
{
    size_t size = 16;
    while (size < 2 * (size_t) total)
        size *= 2;
    b->table = ia3_alloc_array(size, sizeof(int));
    b->mask = size - 1;
    b->pairs = ia3_alloc_array(total, sizeof(pair));
    b->first = ia3_alloc_array(total + 1, sizeof(int));
    b->last = ia3_alloc_array(total + 1, sizeof(int));
    b->token = ia3_alloc_array(total + 1, sizeof(int32_t));
    b->parent = ia3_alloc_array(total + 1, sizeof(int32_t));
    b->depth = ia3_alloc_array(total + 1, sizeof(int32_t));
}

static int32_t *
shrink(int32_t *array, int n)
{
    return ia3_realloc(array, (size_t) n * sizeof *array);
}

/* Returns false when choice *bad_b repeats choice *bad_a. */
static bool
build_trie(ia3_choices *c, int32_t start_id, int total, int *bad_a, int *bad_b)
{
    builder b = {0};
    begin(&b, total);
    add_row(&b, start_id, -1);
    for (int i = 0; i < c->n && *bad_a < 0; i++) {
        *bad_a = insert(&b, i, c->ids[i], c->len[i], c->choice_pairs[i]);
        *bad_b = *bad_a < 0 ? -1 : i;
        if (c->len[i] > c->max_depth)
            c->max_depth = c->len[i];
    }
    if (*bad_a < 0) {
        int *position = lay_out_pairs(c, &b);
        for (int i = 0; i < c->n; i++)
            for (int t = 0; t < c->len[i]; t++)
                c->choice_pairs[i][t] = position[c->choice_pairs[i][t]];
        free(position);
    }
    c->n_rows = b.n_rows;
    c->row_token = shrink(b.token, b.n_rows);
    c->row_parent = shrink(b.parent, b.n_rows);
    c->row_depth = shrink(b.depth, b.n_rows);
    free(b.table);
    free(b.pairs);
    free(b.first);
    free(b.last);
    return *bad_a < 0;
}

ia3_choices *
ia3_choices_create(const int32_t *const *ids, const int *len, int n, int32_t start_id, int *bad_a, int *bad_b,
                   ia3_error *err)
{
    *bad_a = *bad_b = -1;
    if (n < 1) {
        ia3_fail(err, IA3_E_CHOICES, "there are no choices");
        return NULL;
    }
    for (int i = 0; i < n; i++)
        if (len[i] < 2) {
            *bad_a = i;
            ia3_fail(err, IA3_E_CHOICES, "choice %d is empty", i + 1);
            return NULL;
        }

    ia3_choices *c = ia3_alloc(sizeof *c);
    int total = 0;
    for (int i = 0; i < n; i++)
        total += len[i];
    c->n = n;
    c->ids = ia3_alloc_array(n, sizeof(int32_t *));
    c->len = ia3_alloc_array(n, sizeof(int));
    c->choice_pairs = ia3_alloc_array(n, sizeof(int *));
    c->all_ids = ia3_alloc_array(total, sizeof(int32_t));
    c->all_choice_pairs = ia3_alloc_array(total, sizeof(int));
    for (int i = 0, at = 0; i < n; at += len[i++]) {
        c->len[i] = len[i];
        c->ids[i] = c->all_ids + at;
        c->choice_pairs[i] = c->all_choice_pairs + at;
        memcpy(c->ids[i], ids[i], (size_t) len[i] * sizeof(int32_t));
    }
    if (!build_trie(c, start_id, total, bad_a, bad_b)) {
        ia3_fail(err, IA3_E_CHOICES, "choices %d and %d have the same tokens", *bad_a + 1, *bad_b + 1);
        ia3_choices_free(c);
        return NULL;
    }
    return c;
}

void
ia3_choices_free(ia3_choices *c)
{
    if (!c)
        return;
    free(c->all_ids);
    free(c->all_choice_pairs);
    free(c->ids);
    free(c->len);
    free(c->row_token);
    free(c->row_parent);
    free(c->row_depth);
    free(c->pair_offsets);
    free(c->pair_token);
    free(c->choice_pairs);
    free(c->given);
    free(c);
}

int
ia3_choices_contrast(ia3_choices *c)
{
    int bad = -1;
    c->given = ia3_alloc_array(c->n, sizeof *c->given);
    for (int i = 0; i + 1 < c->n; i += 2) {
        int common = 0;
        while (common < c->len[i] && common < c->len[i + 1] && c->ids[i][common] == c->ids[i + 1][common])
            common++;
        c->given[i] = c->given[i + 1] = common;
        if (common == 0 && bad < 0)
            bad = i / 2;
    }
    return bad;
}

/* The links of a trie in the direction from parents to children. */
typedef struct descent {
    int *first_child, *sibling; /* [n_rows] rows, -1 at the end */
    int *choice_of_pair;        /* [n_pairs] the choice that ends with the pair, -1 if none does */
} descent;

static descent
find_children(const ia3_choices *c)
{
    descent d = {.first_child = ia3_alloc_array(c->n_rows, sizeof(int)),
                 .sibling = ia3_alloc_array(c->n_rows, sizeof(int)),
                 .choice_of_pair = ia3_alloc_array(c->n_pairs, sizeof(int))};
    for (int r = 0; r < c->n_rows; r++)
        d.first_child[r] = -1;
    for (int r = c->n_rows - 1; r > 0; r--) {
        d.sibling[r] = d.first_child[c->row_parent[r]];
        d.first_child[c->row_parent[r]] = r;
    }
    for (int p = 0; p < c->n_pairs; p++)
        d.choice_of_pair[p] = -1;
    for (int i = 0; i < c->n; i++)
        d.choice_of_pair[c->choice_pairs[i][c->len[i] - 1]] = i;
    return d;
}

int *
ia3_choices_order(const ia3_choices *c)
{
    descent d = find_children(c);
    int *order = ia3_alloc_array(c->n, sizeof(int)), n = 0;
    for (int row = 0; row >= 0;) {
        for (int p = c->pair_offsets[row]; p < c->pair_offsets[row + 1]; p++)
            if (d.choice_of_pair[p] >= 0)
                order[n++] = d.choice_of_pair[p];
        if (d.first_child[row] >= 0) {
            row = d.first_child[row];
            continue;
        }
        while (row > 0 && d.sibling[row] < 0)
            row = c->row_parent[row];
        row = row > 0 ? d.sibling[row] : -1;
    }
    free(d.first_child);
    free(d.sibling);
    free(d.choice_of_pair);
    return order;
}

/* How many rows choice b adds to a trie that ends with choice a; a choice of `len` tokens has that many prefixes. */
static int
rows_added(const ia3_choices *c, int a, int b)
{
    int common = 0;
    while (common < c->len[a] && common < c->len[b] && c->ids[a][common] == c->ids[b][common])
        common++;
    return c->len[b] - common - 1;
}

ia3_choices *
ia3_choices_piece(const ia3_choices *c, const int *order, int from, int max_rows)
{
    int to = from + 1, rows = c->len[order[from]];
    while (to < c->n && rows + rows_added(c, order[to - 1], order[to]) <= max_rows) {
        rows += rows_added(c, order[to - 1], order[to]);
        to++;
    }
    int n = to - from, bad_a, bad_b;
    const int32_t **ids = ia3_alloc_array(n, sizeof *ids);
    int *len = ia3_alloc_array(n, sizeof *len);
    for (int i = 0; i < n; i++) {
        ids[i] = c->ids[order[from + i]];
        len[i] = c->len[order[from + i]];
    }
    ia3_error err = {0};
    ia3_choices *piece = ia3_choices_create(ids, len, n, c->row_token[0], &bad_a, &bad_b, &err);
    if (c->given) {
        piece->given = ia3_alloc_array(n, sizeof *piece->given);
        for (int i = 0; i < n; i++)
            piece->given[i] = c->given[order[from + i]];
    }
    free(ids);
    free(len);
    return piece;
}
