/*
 * choices.h
 *     A set of candidate answers, tokenized, as a prefix trie.
 *
 * The decoder inputs of choice c are [start] + c[:-1]; choices with a common prefix share its rows. Each row of the
 * trie is a distinct proper prefix of some choice. A row together with a token that follows this prefix in some choice
 * is a "pair": its log-probability has to be computed. The final </s> is predicted but never an input.
 */
#ifndef IA3_CHOICES_H
#define IA3_CHOICES_H

#include <stdint.h>

#include "engine/base/error.h"

typedef struct ia3_choices {
    int n;         /* choices */
    int32_t **ids; /* [n][len], </s> included */
    int *len;      /* [n] */
    /* the trie's rows; parents precede their children */
    int n_rows;
    int32_t *row_token;  /* [n_rows] decoder input (the start token at row 0) */
    int32_t *row_parent; /* [n_rows], -1 at row 0 */
    int32_t *row_depth;  /* [n_rows] */
    int n_pairs;
    int32_t *pair_offsets; /* [n_rows + 1]: the pairs of a row */
    int32_t *pair_token;   /* [n_pairs] */
    int max_depth;         /* nodes on the longest path */
    int **choice_pairs;    /* [n][len]: the pair that scores each token of a choice */
    int *
        given; /* [n] tokens at the beginning of a choice that are not scored (ia3_choices_contrast); NULL: none */
    /* private: where the arrays in ids and choice_pairs are */
    int32_t *all_ids;
    int *all_choice_pairs;
} ia3_choices;

/*
 * Builds the trie of n choices; ids [n][len] are copied. The error is IA3_E_CHOICES when there are no choices, when one
 * is empty (only </s>), or when two have the same tokens; then *bad_a and *bad_b are the indices of the choices at
 * fault (bad_b = -1 if it is only one).
 */
ia3_choices *ia3_choices_create(const int32_t *const *ids, const int *len, int n, int32_t start_id,
                                int *bad_a, int *bad_b, ia3_error *err);
void ia3_choices_free(ia3_choices *c);

/*
 * Makes choices 2i and 2i + 1 alternatives of each other, for all i: the tokens that both begin with are given, and only those
 * after them are scored. n must be even. Returns the first i whose alternatives have no token in common, or -1.
 */
int ia3_choices_contrast(ia3_choices *c);

/* How many tokens of choice i are given. */
static inline int
ia3_choices_given(const ia3_choices *c, int i)
{
    return c->given ? c->given[i] : 0;
}

/* An order of the choices in which those that share prefixes are neighbours: malloc'd [n]. */
int *ia3_choices_order(const ia3_choices *c);

/*
 * A set of the choices from order[from] on, as many as have at most max_rows rows, but at least one. With all prefixes of
 * its choices, the piece stands for itself: a choice gets the same score from the whole set and from the piece.
 */
ia3_choices *ia3_choices_piece(const ia3_choices *c, const int *order, int from, int max_rows);

#endif
