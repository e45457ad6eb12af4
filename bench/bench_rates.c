/*
 * bench_rates.c
 *     Measures the processor's limits with all threads at once.
 */
#include "bench_rates.h"

#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "kernels/cpu/isa.h"

#define DECLARE(v) extern const bench_loops bench_loops_##v;
IA3_CPU_VARIANTS(DECLARE)

enum { REPEATS = 9 };
static const double SHORTEST = 0.003; /* seconds of a measurement */
static const double MEGABYTE = 1048576;
static const size_t LARGEST = (size_t) 128 << 20;

/* A measurement of one thread. */
typedef struct thread_job {
    bench_rates *rates; /* its own; the results */
    pthread_barrier_t *together;
    char *memory; /* LARGEST bytes */
} thread_job;

static double
now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double) t.tv_sec + 1e-9 * (double) t.tv_nsec;
}

/* The highest rate at which `loop` does its work. */
static double
best_rate(double (*loop)(size_t n))
{
    if (!loop)
        return 0;
    double best = 0;
    size_t n = 64;
    for (double took = 0; took < SHORTEST; n *= 2) {
        double begin = now();
        loop(n);
        took = now() - begin;
    }
    for (int i = 0; i < REPEATS; i++) {
        double begin = now(), work = loop(n), rate = work / (now() - begin);
        best = rate > best ? rate : best;
    }
    return best;
}

/* Bytes per second of passes over arrays of `bytes` in all. */
static double
best_memory_rate(const thread_job *j, size_t bytes, bool copy)
{
    const bench_loops *loops = j->rates->loops;
    size_t n = bytes / sizeof(float) / 128 * 64;
    float *x = (float *) (void *) j->memory, *y = x + n;
    int passes = bytes < LARGEST ? (int) (LARGEST / 4 / bytes) + 1 : 1;
    double best = 0;
    volatile float sink = 0;
    for (int i = 0; i < (bytes < LARGEST ? REPEATS : 3); i++) {
        double begin = now();
        for (int p = 0; p < passes; p++)
            if (copy)
                loops->scale(y, x, n);
            else
                sink += loops->sum(x, 2 * n);
        double rate = 8.0 * (double) n * passes / (now() - begin);
        best = rate > best ? rate : best;
    }
    return best;
}

static void *
measure_thread(void *arg)
{
    thread_job *j = arg;
    bench_rates *r = j->rates;
    memset(j->memory, 0, LARGEST);
    pthread_barrier_wait(j->together);
    r->f32 = best_rate(r->loops->f32);
    r->bf16 = best_rate(r->loops->bf16);
    r->int8 = best_rate(r->loops->int8);
    r->exp = best_rate(r->loops->exp);
    r->gelu = best_rate(r->loops->gelu);
    r->gelu_grad = best_rate(r->loops->gelu_grad);
    r->mask = best_rate(r->loops->mask);
    pthread_barrier_wait(j->together);
    for (int i = 0; i < BENCH_SIZES; i++) {
        r->sizes[i] = MEGABYTE / 32 * pow(4, i); /* 32 kB to 128 MB */
        r->copy[i] = best_memory_rate(j, (size_t) r->sizes[i], true);
    }
    r->read = best_memory_rate(j, LARGEST, false);
    return NULL;
}

static void
add(bench_rates *to, const bench_rates *from, double share)
{
    to->f32 += share * from->f32;
    to->bf16 += share * from->bf16;
    to->int8 += share * from->int8;
    to->exp += share * from->exp;
    to->gelu += share * from->gelu;
    to->gelu_grad += share * from->gelu_grad;
    to->mask += share * from->mask;
    to->read += share * from->read;
    for (int i = 0; i < BENCH_SIZES; i++) {
        to->sizes[i] = from->sizes[i];
        to->copy[i] += share * from->copy[i];
    }
}

void
bench_rates_measure(bench_rates *r, const char *variant, int threads)
{
    *r = (bench_rates){.threads = threads};
#define CHOOSE(v)                                                                                            \
    if (strcmp(variant, #v) == 0)                                                                            \
        r->loops = &bench_loops_##v;
    IA3_CPU_VARIANTS(CHOOSE)
    pthread_t *ids = calloc((size_t) threads, sizeof *ids);
    thread_job *jobs = calloc((size_t) threads, sizeof *jobs);
    bench_rates *each = calloc((size_t) threads, sizeof *each);
    pthread_barrier_t together;
    pthread_barrier_init(&together, NULL, (unsigned) threads);
    for (int i = 0; i < threads; i++) {
        each[i].loops = r->loops;
        jobs[i] = (thread_job){.rates = &each[i], .together = &together};
        jobs[i].memory = aligned_alloc((size_t) 2 << 20, LARGEST);
        if (jobs[i].memory)
            madvise(jobs[i].memory, LARGEST, MADV_HUGEPAGE); /* as the engine's own memory */
        if (!jobs[i].memory || pthread_create(&ids[i], NULL, measure_thread, &jobs[i]) != 0) {
            fprintf(stderr, "bench_rates: could not start %d threads\n", threads);
            exit(1);
        }
    }
    for (int i = 0; i < threads; i++) {
        pthread_join(ids[i], NULL);
        add(r, &each[i], 1.0 / threads);
        free(jobs[i].memory);
    }
    pthread_barrier_destroy(&together);
    free(ids);
    free(jobs);
    free(each);
}

static double
larger(double a, double b)
{
    return a > b ? a : b;
}

void
bench_rates_keep_best(bench_rates *r, const bench_rates *other)
{
    r->f32 = larger(r->f32, other->f32);
    r->bf16 = larger(r->bf16, other->bf16);
    r->int8 = larger(r->int8, other->int8);
    r->exp = larger(r->exp, other->exp);
    r->gelu = larger(r->gelu, other->gelu);
    r->gelu_grad = larger(r->gelu_grad, other->gelu_grad);
    r->mask = larger(r->mask, other->mask);
    r->read = larger(r->read, other->read);
    for (int i = 0; i < BENCH_SIZES; i++)
        r->copy[i] = larger(r->copy[i], other->copy[i]);
}

double
bench_rates_copy(const bench_rates *r, double bytes)
{
    int i = 0;
    while (i < BENCH_SIZES && r->sizes[i] < bytes)
        i++;
    if (i == 0 || i == BENCH_SIZES)
        return r->copy[i == 0 ? 0 : BENCH_SIZES - 1];
    double t = log(bytes / r->sizes[i - 1]) / log(r->sizes[i] / r->sizes[i - 1]);
    return r->copy[i - 1] + t * (r->copy[i] - r->copy[i - 1]);
}
