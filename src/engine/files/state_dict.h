/*
 * state_dict.h
 *     The names and shapes of the tensors in a T5 checkpoint of a given configuration.
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
 * Lists all tensors except the embedding and the head, whose names vary (checkpoint.h finds them): first the encoder's,
 * then the decoder's (docs/engine.md §1.4). Returns an array of *n tensors, which the caller frees.
 */
ia3_state_tensor *ia3_state_dict(const ia3_config *config, int *n);

#endif
