/*
 * weight_tensors.h
 *     The tensors of a backbone as those of a layout, for methods that replace weights.
 *
 * They have the names of the state dict: those of modules in the order of the places in the graph, so that matrices that the graph stacks
 * (q, k and v; k and v of cross-attention; wi_0 and wi_1) follow each other; then the tables of relative position biases, the embedding, and the
 * head if it is not the embedding.
 */
#ifndef IA3_WEIGHT_TENSORS_H
#define IA3_WEIGHT_TENSORS_H

#include "engine/files/method.h"

void ia3_weight_tensors(ia3_layout *l, const ia3_module *m);
void ia3_weight_tensors_rest(ia3_layout *l, const ia3_config *config);

#endif
