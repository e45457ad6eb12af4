/*
 * threads.h
 *     The CPU device's pool of threads.
 *
 * One caller at a time (the compute loop) hands out work; it works along as slot 0. Idle workers sleep on a
 * condition variable after a spin of at most about 20 µs, so an idle engine uses no processor time.
 */
#ifndef IA3_CPU_THREADS_H
#define IA3_CPU_THREADS_H

#include <stdbool.h>
#include <stddef.h>

typedef struct ia3_pool ia3_pool;

/* Processes items [begin, end); slot (0 .. threads-1) says whose scratch memory may be used. */
typedef void (*ia3_work_fn)(void *arg, int slot, size_t begin, size_t end);

/* Starts threads - 1 workers; NULL when the system refuses. */
ia3_pool *ia3_pool_create(int threads);
void ia3_pool_free(ia3_pool *pool);
int ia3_pool_threads(const ia3_pool *pool);

/*
 * Splits [0, n) into contiguous parts of at least `grain` items, a few per thread, and returns when all are
 * done. Parts depend on n, grain and the number of threads alone; who takes which is chance. Kernels must
 * compute an item the same way whatever part it is in, and items must write disjoint memory.
 */
void ia3_parallel(ia3_pool *pool, size_t n, size_t grain, ia3_work_fn fn, void *arg);

/* The same for items of very unequal cost: every item is a part of its own. */
void ia3_parallel_dynamic(ia3_pool *pool, size_t n, ia3_work_fn fn, void *arg);

#endif
