/*
 * threads.h
 *     The CPU device's thread pool.
 *
 * One thread at a time (the engine's compute loop) hands out work, and does its share of it as slot 0. Idle workers
 * spin for at most about 20 µs and then sleep on a condition variable, so an idle engine uses no processor time.
 */
#ifndef IA3_CPU_THREADS_H
#define IA3_CPU_THREADS_H

#include <stdbool.h>
#include <stddef.h>

typedef struct ia3_pool ia3_pool;

/* Processes items [begin, end). `slot`, from 0 to threads - 1, says which thread's scratch memory it may use. */
typedef void (*ia3_work_fn)(void *arg, int slot, size_t begin, size_t end);

/* Starts threads - 1 workers. NULL when the system cannot start them. */
ia3_pool *ia3_pool_create(int threads);
void ia3_pool_free(ia3_pool *pool);
int ia3_pool_threads(const ia3_pool *pool);

/*
 * Splits [0, n) into contiguous parts of at least `grain` items, a few per thread, and returns when all are done.
 * The division into parts depends only on n, grain and the number of threads; which thread takes which part
 * varies from run to run. So a kernel must compute an item the same way whatever part it is in, and items must
 * write disjoint memory.
 */
void ia3_parallel(ia3_pool *pool, size_t n, size_t grain, ia3_work_fn fn, void *arg);

/* Does the same for items of very unequal cost: every item is a part of its own. */
void ia3_parallel_dynamic(ia3_pool *pool, size_t n, ia3_work_fn fn, void *arg);

#endif
