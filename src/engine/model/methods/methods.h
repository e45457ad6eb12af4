/*
 * methods.h
 *     The list of all methods, which code that loads a model passes to ia3_model_load().
 *
 * Each method is a descriptor (engine/files/method.h), named ia3_method_NAME, in a file of this folder.
 */
#ifndef IA3_METHODS_H
#define IA3_METHODS_H

#include "engine/files/method.h"

/*
 * The first method is the default and the one that is fused into the kernels. New methods must be added at the end,
 * because a saved training state identifies its method by the index in this list. If adapters of one method also have
 * the marks of a second one, the first must precede it (bitfit has the scales of layernorm, as adapter and Compacter do; adapter has
 * biases as well; compacter has what compacter++ has and more).
 */
#define IA3_METHODS(METHOD)                                                                                  \
    METHOD(ia3)                                                                                              \
    METHOD(lora)                                                                                             \
    METHOD(adapter)                                                                                          \
    METHOD(compacter)                                                                                        \
    METHOD(compacter_plus)                                                                                   \
    METHOD(bitfit) METHOD(layernorm) METHOD(prompt) METHOD(prefix) METHOD(said) METHOD(full) METHOD(fish)

#define IA3_DECLARE_METHOD(name) extern const ia3_method ia3_method_##name;
IA3_METHODS(IA3_DECLARE_METHOD)
#undef IA3_DECLARE_METHOD

/* Ends with NULL. */
extern const ia3_method *const ia3_methods[];

#endif
