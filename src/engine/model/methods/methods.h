/*
 * methods.h
 *     The list of all methods, for whoever loads a model.
 *
 * A method is a descriptor (engine/files/method.h) in a file of this folder.
 */
#ifndef IA3_METHODS_H
#define IA3_METHODS_H

#include "engine/files/method.h"

/*
 * Ends with NULL. The first is the default, and the one that is fused into the kernels. New ones go to the end: a saved
 * state of a training run knows its method by the place in this list.
 */
extern const ia3_method *const ia3_methods[];

extern const ia3_method ia3_method_ia3, ia3_method_lora, ia3_method_bitfit, ia3_method_layernorm,
    ia3_method_prompt;

#endif
