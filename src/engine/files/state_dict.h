/*
 * state_dict.h
 *     The tensors that a T5 of a given configuration consists of, under the names that files have for them.
 */
#ifndef IA3_STATE_DICT_H
#define IA3_STATE_DICT_H

#include "engine/files/config.h"

typedef struct ia3_state_tensor {
    char name[96];
    int ndim;           /* 1 for the norms */
    int64_t rows, cols; /* [out, in]; rows = 1 when ndim is 1 */
} ia3_state_tensor;

/*
 * Everything but the embedding and the head, whose stored names vary (checkpoint.h resolves them), in the
 * order encoder, decoder (engine.md §1.4). Returns *n tensors that the caller frees.
 */
ia3_state_tensor *ia3_state_dict(const ia3_config *config, int *n);

#endif
