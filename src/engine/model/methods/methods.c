/*
 * methods.c
 *     The list of methods.
 */
#include "methods.h"

#include <stddef.h>

#define POINTER(name) &ia3_method_##name,

const ia3_method *const ia3_methods[] = {IA3_METHODS(POINTER) NULL};
