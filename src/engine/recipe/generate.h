/*
 * generate.h
 *     Free text from the decoder: greedy, or sampled with a seed. Mixed adapters in one batch, as in scoring.
 */
#ifndef IA3_GENERATE_H
#define IA3_GENERATE_H

#include <stdatomic.h>

#include "engine/model/model.h"

typedef struct ia3_generate_row {
    const ia3_adapter *adapter; /* NULL = the bare backbone */
    const int32_t *ids;         /* input, </s> included */
    int n_ids;
    int max_tokens;               /* >= 1; generation ends there or with </s> */
    double temperature;           /* 0 = greedy: the most likely token, the lowest id among equals */
    int top_k;                    /* sampling: among the k most likely; 0 = all */
    uint64_t seed;                /* sampling: same seed, same text, whatever else is in the batch */
    const atomic_bool *cancelled; /* NULL, or set by another thread: nobody wants the rest any more */
    int32_t *out;                 /* out [max_tokens]: tokens without </s> */
    int n_out;                    /* out */
    bool overflow;                /* out: the backbone computed no number; n_out tokens came before */
} ia3_generate_row;

/* Generates for all rows in one batch. On failure (out of memory) no output is valid. */
bool ia3_generate(ia3_model *m, ia3_generate_row *rows, int n, ia3_error *err);

#endif
