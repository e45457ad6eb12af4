/*
 * generate.h
 *     Generates text with the decoder, greedily or by sampling. As in scoring, the rows of a batch may use different
 *     adapters.
 */
#ifndef IA3_GENERATE_H
#define IA3_GENERATE_H

#include <stdatomic.h>

#include "engine/model/model.h"

typedef struct ia3_generate_row {
    const ia3_adapter *adapter; /* NULL = the bare backbone */
    const int32_t *ids;         /* input, </s> included */
    int n_ids;
    int max_tokens;               /* >= 1; generation ends after this many tokens, or earlier with </s> */
    double temperature;           /* 0: greedy, that is, the most likely token and of equals the lowest id */
    int top_k;                    /* sampling: only among the k most likely tokens; 0 = all */
    uint64_t seed;                /* sampling: the same seed gives the same text in every batch */
    const atomic_bool *cancelled; /* may be NULL; another thread sets it to stop this row */
    int32_t *out;                 /* result [max_tokens]: tokens without </s> */
    int n_out;                    /* result: number of tokens */
    double
        flops; /* result (engine/model/work.h): a row is computed until the last one of the batch is finished */
    bool overflow; /* result: after n_out tokens the backbone's result was not finite */
} ia3_generate_row;

/* Generates text for all n rows in one batch. On failure (IA3_E_MEMORY) no result is valid. */
bool ia3_generate(ia3_model *m, ia3_generate_row *rows, int n, ia3_error *err);

#endif
