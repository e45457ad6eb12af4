/*
 * score.h
 *     Rank classification of a batch: mixed adapters, each distinct (adapter, input) encoded once.
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
    double *scores; /* out [choices->n]: mean log-likelihood per token */
    bool
        repeated; /* out: an earlier row has the same adapter, input and choices, and was computed for both */
} ia3_score_row;

/* Tokens a row adds to a batch, for the token budget: input tokens + trie rows. */
int ia3_score_row_tokens(const ia3_score_row *row);

/*
 * Whether the row's cross-attention goes over the encoder's output without keys and values of it (state_attention of
 * device.h), because its choices are few. A matter of the row alone, so that its result does not depend on the batch.
 */
bool ia3_score_by_states(const ia3_model *m, const ia3_score_row *row);

/* Computes all rows in one batch. On failure (out of memory) no score is valid. */
bool ia3_score(ia3_model *m, ia3_score_row *rows, int n, ia3_error *err);

#endif
