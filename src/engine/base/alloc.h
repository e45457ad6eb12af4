/*
 * alloc.h
 *     Small allocations (bookkeeping, strings, token lists) that never return NULL.
 *
 * When there is no memory, the engine logs an error and exits; the supervisor restarts it, and the queries that wait
 * for it report an error. Large blocks (weights, activations) come from the device, whose functions can fail. Sizes are
 * in bytes; free() releases the memory.
 */
#ifndef IA3_ALLOC_H
#define IA3_ALLOC_H

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

void *ia3_alloc(size_t size);                 /* zeroed */
void *ia3_alloc_array(size_t n, size_t size); /* n elements of `size` bytes, zeroed */
void *ia3_realloc(void *p, size_t size);      /* new memory is not zeroed */
char *ia3_strdup(const char *s);

#ifdef __cplusplus
}
#endif

#endif
