/*
 * threads.c
 *     The CPU device's pool of threads (see threads.h).
 *
 * Locking: a job is published by raising `generation` under the mutex; workers that spin see the atomic,
 * workers that sleep are woken. `pending` counts workers that have not finished the current job; the last
 * one wakes the caller if it sleeps. Job fields are written before the generation (release) and read after it
 * (acquire).
 */
#include "threads.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <time.h>

#include "onednn_compat.h"

#define SPIN_NANOSECONDS 20000

typedef struct ia3_worker {
    ia3_pool *pool;
    int slot;
    pthread_t thread;
} ia3_worker;

struct ia3_pool {
    int threads;
    pthread_mutex_t mutex;
    pthread_cond_t work, done;
    atomic_uint generation;
    atomic_int pending;
    int sleepers;       /* under the mutex */
    bool caller_sleeps; /* under the mutex */
    atomic_bool stop;
    /* the job */
    ia3_work_fn fn;
    void *arg;
    size_t n;
    int parts;
    bool dynamic;
    atomic_size_t next;
    ia3_worker workers[]; /* [threads], 0 unused */
};

static inline void
relax(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static uint64_t
now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t) t.tv_sec * 1000000000u + (uint64_t) t.tv_nsec;
}

/* What `slot` has to do of the current job. */
static void
run_part(ia3_pool *pool, int slot)
{
    if (slot >= pool->parts)
        return;
    if (pool->dynamic) {
        for (;;) {
            size_t i = atomic_fetch_add_explicit(&pool->next, 1, memory_order_relaxed);
            if (i >= pool->n)
                return;
            pool->fn(pool->arg, slot, i, i + 1);
        }
    }
    size_t base = pool->n / (size_t) pool->parts, extra = pool->n % (size_t) pool->parts, s = (size_t) slot;
    size_t begin = s * base + (s < extra ? s : extra);
    pool->fn(pool->arg, slot, begin, begin + base + (s < extra ? 1 : 0));
}

/* Waits for a generation other than `seen`; spins shortly, then sleeps. */
static unsigned
wait_for_work(ia3_pool *pool, unsigned seen)
{
    unsigned now;
    uint64_t until = now_ns() + SPIN_NANOSECONDS;
    do {
        for (int i = 0; i < 32; i++) {
            now = atomic_load_explicit(&pool->generation, memory_order_acquire);
            if (now != seen)
                return now;
            relax();
        }
    } while (now_ns() < until);
    pthread_mutex_lock(&pool->mutex);
    pool->sleepers++;
    while ((now = atomic_load_explicit(&pool->generation, memory_order_acquire)) == seen)
        pthread_cond_wait(&pool->work, &pool->mutex);
    pool->sleepers--;
    pthread_mutex_unlock(&pool->mutex);
    return now;
}

static void *
worker_main(void *arg)
{
    ia3_worker *w = arg;
    ia3_pool *pool = w->pool;
    unsigned seen = 0;
    ia3_onednn_single_thread();
    for (;;) {
        seen = wait_for_work(pool, seen);
        if (atomic_load_explicit(&pool->stop, memory_order_acquire))
            return NULL;
        run_part(pool, w->slot);
        if (atomic_fetch_sub_explicit(&pool->pending, 1, memory_order_acq_rel) == 1) {
            pthread_mutex_lock(&pool->mutex);
            if (pool->caller_sleeps)
                pthread_cond_signal(&pool->done);
            pthread_mutex_unlock(&pool->mutex);
        }
    }
}

static void
publish(ia3_pool *pool)
{
    pthread_mutex_lock(&pool->mutex);
    atomic_fetch_add_explicit(&pool->generation, 1, memory_order_release);
    if (pool->sleepers > 0)
        pthread_cond_broadcast(&pool->work);
    pthread_mutex_unlock(&pool->mutex);
}

static void
wait_for_workers(ia3_pool *pool)
{
    uint64_t until = now_ns() + SPIN_NANOSECONDS;
    do {
        for (int i = 0; i < 32; i++) {
            if (atomic_load_explicit(&pool->pending, memory_order_acquire) == 0)
                return;
            relax();
        }
    } while (now_ns() < until);
    pthread_mutex_lock(&pool->mutex);
    pool->caller_sleeps = true;
    while (atomic_load_explicit(&pool->pending, memory_order_acquire) != 0)
        pthread_cond_wait(&pool->done, &pool->mutex);
    pool->caller_sleeps = false;
    pthread_mutex_unlock(&pool->mutex);
}

static void
run(ia3_pool *pool, size_t n, size_t parts, bool dynamic, ia3_work_fn fn, void *arg)
{
    if (n == 0)
        return;
    ia3_onednn_single_thread(); /* the caller may be another thread than last time */
    if (parts > (size_t) pool->threads)
        parts = (size_t) pool->threads;
    if (parts <= 1) {
        fn(arg, 0, 0, n);
        return;
    }
    pool->fn = fn;
    pool->arg = arg;
    pool->n = n;
    pool->parts = (int) parts;
    pool->dynamic = dynamic;
    atomic_store_explicit(&pool->next, 0, memory_order_relaxed);
    atomic_store_explicit(&pool->pending, pool->threads - 1, memory_order_relaxed);
    publish(pool);
    run_part(pool, 0);
    wait_for_workers(pool);
}

void
ia3_parallel(ia3_pool *pool, size_t n, size_t grain, ia3_work_fn fn, void *arg)
{
    run(pool, n, grain > 1 ? n / grain : n, false, fn, arg);
}

void
ia3_parallel_dynamic(ia3_pool *pool, size_t n, ia3_work_fn fn, void *arg)
{
    run(pool, n, n, true, fn, arg);
}

int
ia3_pool_threads(const ia3_pool *pool)
{
    return pool->threads;
}

ia3_pool *
ia3_pool_create(int threads)
{
    ia3_pool *pool = calloc(1, sizeof *pool + (size_t) threads * sizeof pool->workers[0]);
    if (!pool)
        return NULL;
    pthread_mutex_init(&pool->mutex, NULL);
    pthread_cond_init(&pool->work, NULL);
    pthread_cond_init(&pool->done, NULL);
    pool->threads = 1;
    /* Signals are for the process's own threads: workers block them all. */
    sigset_t all, old;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    for (int i = 1; i < threads; i++) {
        ia3_worker *w = &pool->workers[i];
        w->pool = pool;
        w->slot = i;
        if (pthread_create(&w->thread, NULL, worker_main, w) != 0)
            break;
        pool->threads = i + 1;
    }
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (pool->threads < threads) {
        ia3_pool_free(pool);
        return NULL;
    }
    return pool;
}

void
ia3_pool_free(ia3_pool *pool)
{
    if (!pool)
        return;
    atomic_store_explicit(&pool->stop, true, memory_order_release);
    publish(pool);
    for (int i = 1; i < pool->threads; i++)
        pthread_join(pool->workers[i].thread, NULL);
    pthread_mutex_destroy(&pool->mutex);
    pthread_cond_destroy(&pool->work);
    pthread_cond_destroy(&pool->done);
    free(pool);
}
