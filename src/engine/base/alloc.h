/*
 * alloc.h
 *     Small allocations (bookkeeping, strings, token lists): never NULL.
 *
 * When memory is gone the engine says so and exits; the supervisor restarts it and the waiting queries get an error.
 * Large blocks (weights, activations) are asked of the device, which can refuse.
 */
#ifndef IA3_ALLOC_H
#define IA3_ALLOC_H

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

void *ia3_alloc(size_t size); /* zeroed */
void *ia3_alloc_array(size_t n, size_t size);
void *ia3_realloc(void *p, size_t size);
char *ia3_strdup(const char *s);

#ifdef __cplusplus
}
#endif

#endif
