/*
 * score.h
 *     Rank classification: scores the choices of a batch of rows, which may use different adapters.
 */
#ifndef IA3_SCORE_H
#define IA3_SCORE_H

#include "engine/model/choices.h"
#include "engine/model/model.h"

typedef struct ia3_score_row {
    const ia3_adapter *adapter; /* NULL = the bare backbone */
    const int32_t *ids;         /* input, </s> included */
    int n_ids;
    const ia3_choices *choices;
    double *
        scores; /* result [choices->n]: mean log-likelihood per token of the choice, </s> included, given ones not */
    bool
        repeated; /* result: an earlier row with the same adapter, input and choices served for this one too */
    double
        flops; /* result (engine/model/work.h): for rows with the same input, all counts for the first one */
} ia3_score_row;

/* A trie with more rows than this is scored in pieces, each of which has at most as many. */
#define IA3_PIECE_ROWS 1024

/* The number of tokens that a row adds to a batch, for the token budget: input tokens plus rows of the trie. */
int ia3_score_row_tokens(const ia3_score_row *row);

/*
 * Whether this row's cross-attention uses state_attention (device.h), which is faster if there are few choices. This
 * depends only on the row, so that its result does not depend on the rest of the batch.
 */
bool ia3_score_by_states(const ia3_model *m, const ia3_score_row *row);

/*
 * Computes the scores of all n rows in one batch. Those of an ensemble are the means over its members, each of which takes a pass
 * of its own, with the same members of the other rows. On failure (IA3_E_MEMORY) no score is valid.
 */
bool ia3_score(ia3_model *m, ia3_score_row *rows, int n, ia3_error *err);

#endif
