/*
 * choices.h
 *     A set of candidate answers, tokenized, as a prefix trie.
 *
 * Decoder inputs of choice c are [start] + c[:-1]; choices that share a prefix share the rows of it. A trie
 * row is one distinct proper prefix; the row of a prefix predicts every token that continues it in some
 * choice ("pairs"). The final </s> is predicted but never an input.
 */
#ifndef IA3_CHOICES_H
#define IA3_CHOICES_H

#include <stdint.h>

#include "engine/base/error.h"

typedef struct ia3_choices {
    int n;         /* choices */
    int32_t **ids; /* [n][len], </s> included */
    int *len;      /* [n] */
    /* the trie: rows in an order in which parents come first */
    int n_rows;
    int32_t *row_token;  /* [n_rows] decoder input (the start token at row 0) */
    int32_t *row_parent; /* [n_rows], -1 at row 0 */
    int32_t *row_depth;  /* [n_rows] */
    int n_pairs;
    int32_t *pair_offsets; /* [n_rows + 1]: the pairs of a row */
    int32_t *pair_token;   /* [n_pairs] */
    int max_depth;         /* nodes on the longest path */
    int **choice_pairs;    /* [n][len]: the pair that scores each token of a choice */
} ia3_choices;

/*
 * Takes ownership of nothing; copies ids. Errors (IA3_E_CHOICES) when there are none, one is empty (</s> only)
 * or two are the same token sequence; *bad_a and *bad_b then name the culprits (bad_b = -1 for one).
 */
ia3_choices *ia3_choices_create(const int32_t *const *ids, const int *len, int n, int32_t start_id,
                                int *bad_a, int *bad_b, ia3_error *err);
void ia3_choices_free(ia3_choices *c);

#endif
