/*
 * bench_common.h
 *     Timing for the benchmarks of device operations, which are built like this:
 *
 *   make -f src/engine/engine.mk build/release/bench/bench_matmul
 */
#ifndef IA3_BENCH_COMMON_H
#define IA3_BENCH_COMMON_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "engine/device/device.h"
#include "kernels/cpu/act.h"

/* On a busy machine, -DBENCH_CLOCK=CLOCK_PROCESS_CPUTIME_ID gives better measurements of one thread. */
#ifndef BENCH_CLOCK
#define BENCH_CLOCK CLOCK_MONOTONIC
#endif

static inline double
bench_now(void)
{
    struct timespec t;
    clock_gettime(BENCH_CLOCK, &t);
    return (double) t.tv_sec + 1e-9 * (double) t.tv_nsec;
}

/* The fastest of five runs of about 20 ms each, in seconds per call; if BENCH_QUICK is set, of one call. */
static inline double
bench_time(void (*call)(void *arg), void *arg)
{
    call(arg);
    double start = bench_now(), best = 1e30;
    call(arg);
    double once = bench_now() - start;
    if (getenv("BENCH_QUICK"))
        return once;
    int n = once < 0.02 ? (int) (0.02 / (once + 1e-7)) + 1 : 1;
    for (int run = 0; run < 5; run++) {
        start = bench_now();
        for (int i = 0; i < n; i++)
            call(arg);
        double t = (bench_now() - start) / n;
        best = t < best ? t : best;
    }
    return best;
}

static inline ia3_device *
bench_open(ia3_dtype dtype, int threads)
{
    ia3_error err = {0};
    ia3_device *dev = ia3_device_open("cpu", dtype, threads, 0, &err);
    if (!dev)
        fprintf(stderr, "%s\n", err.message);
    return dev;
}

/* Allocates n elements, act or fp32, and fills them with small numbers. */
static inline void *
bench_fill(ia3_device *dev, size_t n, bool act)
{
    bool bf16 = act && dev->dtype == IA3_BF16;
    void *p = dev->ops->alloc(dev, n * 4);
    for (size_t i = 0; i < n; i++) {
        float v = (float) ((i * 2654435761u >> 8) & 1023) / 1024.0f - 0.5f;
        if (bf16)
            ((uint16_t *) p)[i] = ia3_f32_to_bf16(v);
        else
            ((float *) p)[i] = v;
    }
    return p;
}

static inline ia3_matrix *
bench_matrix(ia3_device *dev, int out, int in)
{
    ia3_error err = {0};
    float *w = bench_fill(dev, (size_t) out * (size_t) in, false);
    ia3_host_tensor t = {w, IA3_F32, out, in};
    ia3_matrix *m = dev->ops->matrix_create(dev, &t, 1, &err);
    /* weights in eight bits have no backward pass */
    if (!m || (dev->weights != IA3_INT8 && !dev->ops->matrix_prepare_backward(dev, m, &err))) {
        fprintf(stderr, "%s\n", err.message);
        exit(1);
    }
    dev->ops->free(dev, w);
    return m;
}

#endif
