/*
 * threads.c
 *     The thread pool: how jobs are published, claimed part by part, and completed.
 *
 * A job is divided into parts, which free threads claim one by one. It is complete when all parts are, even if
 * some workers never woke up for it. So a worker that the operating system has not scheduled, because the machine
 * is busy with other things, delays nothing except a part that it has already begun.
 *
 * Locking: `ticket` holds the job's generation and its next unclaimed part in one word. A thread claims a part by
 * compare-and-swap on this word, so a late worker can never claim a part of a job that it has not seen. A job
 * cannot end while one of its parts is claimed, so a worker reads the job's fields only after a claim. To publish
 * a job, the caller stores the ticket (release) under the mutex; spinning workers see the store, sleeping ones are
 * woken. `unfinished` counts parts; the thread that finishes the last one wakes the caller if it sleeps.
 */
#include "threads.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <time.h>

#include "engine/base/heartbeat.h"
#include "onednn_compat.h"

#define SPIN_NANOSECONDS 20000

/* Parts per thread: enough that others can make up for a thread that is interrupted, few enough for good cache use. */
#define PARTS_PER_THREAD 4

typedef struct ia3_worker {
    ia3_pool *pool;
    int slot;
    pthread_t thread;
} ia3_worker;

struct ia3_pool {
    int threads;
    pthread_mutex_t mutex;
    pthread_cond_t work, done;
    atomic_uint_fast64_t ticket; /* generation << 32 | next part */
    atomic_int unfinished;
    int sleepers;       /* under the mutex */
    bool caller_sleeps; /* under the mutex */
    atomic_bool stop;
    /* the job */
    ia3_work_fn fn;
    void *arg;
    size_t n;
    uint32_t parts;
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

static uint32_t
generation_of(uint64_t ticket)
{
    return (uint32_t) (ticket >> 32);
}

/* Wakes the caller if this was the last part of the job. */
static void
finish_part(ia3_pool *pool)
{
    if (atomic_fetch_sub_explicit(&pool->unfinished, 1, memory_order_acq_rel) != 1)
        return;
    pthread_mutex_lock(&pool->mutex);
    if (pool->caller_sleeps)
        pthread_cond_signal(&pool->done);
    pthread_mutex_unlock(&pool->mutex);
}

static void
run_part(ia3_pool *pool, int slot, size_t part)
{
    size_t base = pool->n / pool->parts, extra = pool->n % pool->parts;
    size_t begin = part * base + (part < extra ? part : extra);
    pool->fn(pool->arg, slot, begin, begin + base + (part < extra ? 1 : 0));
    ia3_heartbeat();
}

/*
 * Claims parts of this generation's job until none is left or the next job has been published. Tickets count down
 * to zero, so the number of parts need not be stored anywhere else.
 */
static void
take_parts(ia3_pool *pool, int slot, uint32_t generation)
{
    uint64_t ticket = atomic_load_explicit(&pool->ticket, memory_order_acquire);
    while (generation_of(ticket) == generation && (uint32_t) ticket > 0) {
        if (atomic_compare_exchange_weak_explicit(&pool->ticket, &ticket, ticket - 1, memory_order_acq_rel,
                                                  memory_order_acquire)) {
            run_part(pool, slot, pool->parts - (uint32_t) ticket);
            finish_part(pool);
            ticket = atomic_load_explicit(&pool->ticket, memory_order_acquire);
        }
    }
}

/* Waits for a generation other than `seen`: spins for a short time, then sleeps. */
static uint32_t
wait_for_work(ia3_pool *pool, uint32_t seen)
{
    uint32_t now;
    uint64_t until = now_ns() + SPIN_NANOSECONDS;
    do {
        for (int i = 0; i < 32; i++) {
            now = generation_of(atomic_load_explicit(&pool->ticket, memory_order_acquire));
            if (now != seen)
                return now;
            relax();
        }
    } while (now_ns() < until);
    pthread_mutex_lock(&pool->mutex);
    pool->sleepers++;
    while ((now = generation_of(atomic_load_explicit(&pool->ticket, memory_order_acquire))) == seen)
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
    uint32_t seen = 0;
    pthread_setname_np(pthread_self(), "ia3 worker");
    ia3_onednn_single_thread();
    for (;;) {
        seen = wait_for_work(pool, seen);
        if (atomic_load_explicit(&pool->stop, memory_order_acquire))
            return NULL;
        take_parts(pool, w->slot, seen);
    }
}

/* Begins the next generation, a job of this many parts, and returns its number. */
static uint32_t
publish(ia3_pool *pool, uint32_t parts)
{
    pthread_mutex_lock(&pool->mutex);
    uint32_t generation = generation_of(atomic_load_explicit(&pool->ticket, memory_order_relaxed)) + 1;
    atomic_store_explicit(&pool->ticket, (uint64_t) generation << 32 | parts, memory_order_release);
    if (pool->sleepers > 0)
        pthread_cond_broadcast(&pool->work);
    pthread_mutex_unlock(&pool->mutex);
    return generation;
}

static void
wait_for_parts(ia3_pool *pool)
{
    uint64_t until = now_ns() + SPIN_NANOSECONDS;
    do {
        for (int i = 0; i < 32; i++) {
            if (atomic_load_explicit(&pool->unfinished, memory_order_acquire) == 0)
                return;
            relax();
        }
    } while (now_ns() < until);
    pthread_mutex_lock(&pool->mutex);
    pool->caller_sleeps = true;
    while (atomic_load_explicit(&pool->unfinished, memory_order_acquire) != 0)
        pthread_cond_wait(&pool->done, &pool->mutex);
    pool->caller_sleeps = false;
    pthread_mutex_unlock(&pool->mutex);
}

static void
run(ia3_pool *pool, size_t n, size_t parts, ia3_work_fn fn, void *arg)
{
    if (n == 0)
        return;
    ia3_onednn_single_thread(); /* the caller may be a different thread from last time */
    pool->fn = fn;
    pool->arg = arg;
    pool->n = n;
    pool->parts = parts > 1 ? (uint32_t) parts : 1;
    if (parts <= 1 || pool->threads == 1) {
        for (uint32_t part = 0; part < pool->parts; part++)
            run_part(pool, 0, part);
        return;
    }
    atomic_store_explicit(&pool->unfinished, (int) parts, memory_order_relaxed);
    take_parts(pool, 0, publish(pool, (uint32_t) parts));
    wait_for_parts(pool);
}

void
ia3_parallel(ia3_pool *pool, size_t n, size_t grain, ia3_work_fn fn, void *arg)
{
    size_t parts = grain > 1 ? n / grain : n, most = (size_t) pool->threads * PARTS_PER_THREAD;
    run(pool, n, parts < most ? parts : most, fn, arg);
}

void
ia3_parallel_dynamic(ia3_pool *pool, size_t n, ia3_work_fn fn, void *arg)
{
    const size_t most = INT32_MAX; /* the most that a ticket and `unfinished` can hold */
    run(pool, n, n < most ? n : most, fn, arg);
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
    /* Workers block all signals, so that the process's other threads handle them. */
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
    publish(pool, 0);
    for (int i = 1; i < pool->threads; i++)
        pthread_join(pool->workers[i].thread, NULL);
    pthread_mutex_destroy(&pool->mutex);
    pthread_cond_destroy(&pool->work);
    pthread_cond_destroy(&pool->done);
    free(pool);
}
