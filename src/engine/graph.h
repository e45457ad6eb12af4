/*
 * graph.h
 *     Which tensors the graph of a configuration needs, under their state-dict names.
 */
#ifndef IA3_GRAPH_H
#define IA3_GRAPH_H

#include "config.h"

typedef struct ia3_graph_tensor {
    char name[96];
    int ndim;           /* 1 for the norms */
    int64_t rows, cols; /* [out, in]; rows = 1 when ndim is 1 */
} ia3_graph_tensor;

/*
 * Everything but the embedding and the head, whose stored names vary (checkpoint.h resolves them), in the
 * order encoder, decoder (engine.md §1.4). Returns *n tensors that the caller frees.
 */
ia3_graph_tensor *ia3_graph_tensors(const ia3_config *config, int *n);

#endif
