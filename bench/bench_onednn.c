/*
 * bench_onednn.c
 *     oneDNN's own rate for matrix products with frozen weights, which scripts/bench cpu takes as the limit.
 *
 *   bench_onednn float32|bfloat16|int8 THREADS K:N...
 *
 * For each shape it prints a line "K N GFLOP/s" for y [rows, N] = a [rows, K] · weights. The weights are in oneDNN's
 * preferred layout, results have the type of the activations (int8: unsigned activations, signed weights, float32
 * results without scales), and oneDNN uses its own threads. The number is the best of 512, 1024 and 2048 rows and of
 * several runs each.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "kernels/cpu/onednn_compat.h"

extern void omp_set_num_threads(int n);

typedef struct kind {
    const char *name;
    dnnl_data_type_t src, weights, dst;
    size_t src_size, weights_size, dst_size;
} kind;

static const kind kinds[] = {{"float32", dnnl_f32, dnnl_f32, dnnl_f32, 4, 4, 4},
                             {"bfloat16", dnnl_bf16, dnnl_bf16, dnnl_bf16, 2, 2, 2},
                             {"int8", dnnl_u8, dnnl_s8, dnnl_f32, 1, 1, 4}};

static double
now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double) t.tv_sec + 1e-9 * (double) t.tv_nsec;
}

static void
check(bool ok, const char *what)
{
    if (!ok) {
        fprintf(stderr, "bench_onednn: %s\n", what);
        exit(1);
    }
}

/* Allocates memory for a layout and fills it with small values that are neither zero nor denormal in any type. */
static dnnl_memory_t
filled(dnnl_engine_t engine, ia3_md_ptr md)
{
    size_t bytes = dnnl_memory_desc_get_size(md);
    void *data = aligned_alloc(64, (bytes + 63) / 64 * 64);
    dnnl_memory_t memory;
    check(data && dnnl_memory_create(&memory, md, engine, data) == dnnl_success, "out of memory");
    memset(data, 0x3c, bytes);
    return memory;
}

static void
drop(dnnl_memory_t memory)
{
    void *data;
    dnnl_memory_get_data_handle(memory, &data);
    dnnl_memory_destroy(memory);
    free(data);
}

/* Runs a primitive for a tenth of a second, but at least five times; returns the shortest time in seconds. */
static double
fastest(dnnl_primitive_t primitive, dnnl_stream_t stream, dnnl_exec_arg_t args[3])
{
    double best = 1e30, begin = now();
    for (int run = 0; run < 5 || now() - begin < 0.1; run++) {
        double started = now();
        check(dnnl_primitive_execute(primitive, stream, 3, args) == dnnl_success &&
                  dnnl_stream_wait(stream) == dnnl_success,
              "a product failed");
        double took = now() - started;
        best = took < best ? took : best;
    }
    return best;
}

static double
rate(dnnl_engine_t engine, dnnl_stream_t stream, const kind *t, int64_t rows, int64_t k, int64_t n)
{
    ia3_md src = {0}, weights = {0}, dst = {0};
    dnnl_dims_t dims = {k, n};
    dnnl_primitive_desc_t pd = NULL;
    dnnl_primitive_t primitive = NULL;
    check(ia3_md_matrix(&src, rows, k, t->src, k, 1) && ia3_md_matrix(&dst, rows, n, t->dst, n, 1) &&
              ia3_md_init_any(&weights, 2, dims, t->weights) &&
              ia3_matmul_pd(&pd, engine, &src, &weights, &dst, NULL) &&
              dnnl_primitive_create(&primitive, pd) == dnnl_success,
          "oneDNN has no such product");
    dnnl_exec_arg_t args[3] = {
        {DNNL_ARG_SRC, filled(engine, ia3_md_get(&src))},
        {DNNL_ARG_WEIGHTS, filled(engine, dnnl_primitive_desc_query_md(pd, dnnl_query_weights_md, 0))},
        {DNNL_ARG_DST, filled(engine, ia3_md_get(&dst))}};
    double seconds = fastest(primitive, stream, args);
    for (int i = 0; i < 3; i++)
        drop(args[i].memory);
    dnnl_primitive_destroy(primitive);
    dnnl_primitive_desc_destroy(pd);
    ia3_md_release(&src);
    ia3_md_release(&weights);
    ia3_md_release(&dst);
    return 2e-9 * (double) rows * (double) k * (double) n / seconds;
}

int
main(int argc, char **argv)
{
    check(argc > 3, "usage: bench_onednn TYPE THREADS K:N...");
    const kind *t = NULL;
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        if (strcmp(argv[1], kinds[i].name) == 0)
            t = &kinds[i];
    check(t, "unknown type");
    omp_set_num_threads(atoi(argv[2]));
    dnnl_engine_t engine;
    dnnl_stream_t stream;
    check(dnnl_engine_create(&engine, dnnl_cpu, 0) == dnnl_success &&
              dnnl_stream_create(&stream, engine, dnnl_stream_default_flags) == dnnl_success,
          "no oneDNN");
    for (int i = 3; i < argc; i++) {
        int k, n;
        check(sscanf(argv[i], "%d:%d", &k, &n) == 2, "shapes are K:N");
        double best = 0;
        for (int64_t rows = 512; rows <= 2048; rows *= 2) {
            double r = rate(engine, stream, t, rows, k, n);
            best = r > best ? r : best;
        }
        printf("%d %d %.1f\n", k, n, best);
        fflush(stdout);
    }
    return 0;
}
