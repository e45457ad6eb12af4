/*
 * methods.h
 *     The list of all methods, which code that loads a model passes to ia3_model_load().
 *
 * A method is a descriptor (engine/files/method.h) in a file of this folder, named ia3_method_NAME.
 */
#ifndef IA3_METHODS_H
#define IA3_METHODS_H

#include "engine/files/method.h"

/*
 * The first is the default, and the one that is fused into the kernels. New ones go to the end: a saved state of a
 * training run knows its method by the place in this list. A method whose marks are tensors that another has too comes
 * behind that one (bitfit has the norms of layernorm).
 */
#define IA3_METHODS(METHOD) METHOD(ia3) METHOD(lora) METHOD(bitfit) METHOD(layernorm) METHOD(prompt)

#define IA3_DECLARE_METHOD(name) extern const ia3_method ia3_method_##name;
IA3_METHODS(IA3_DECLARE_METHOD)
#undef IA3_DECLARE_METHOD

/* Ends with NULL. */
extern const ia3_method *const ia3_methods[];

#endif
