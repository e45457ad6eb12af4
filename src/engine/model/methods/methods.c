/*
 * methods.c
 *     The list of methods.
 */
#include "methods.h"

#include <stddef.h>

/* A method whose marks are tensors that another has too comes behind that one (bitfit has the norms of layernorm). */
const ia3_method *const ia3_methods[] = {&ia3_method_ia3,       &ia3_method_lora,   &ia3_method_bitfit,
                                         &ia3_method_layernorm, &ia3_method_prompt, NULL};
