/*
 * bench_matmul.c
 *     The speed of matrix products with frozen weights: bench_matmul [threads].
 *
 * It prints GFLOP/s of y = a·Wᵀ (written as act, and added to fp32) and of da = dy·W.
 */
#include "bench_common.h"

typedef struct product_case {
    ia3_device *dev;
    ia3_matrix *m;
    void *a, *y;
    int rows;
    ia3_out out;
    bool backward;
} product_case;

static void
call(void *arg)
{
    product_case *c = arg;
    if (c->backward)
        c->dev->ops->matmul_bwd(c->dev, c->y, c->a, c->rows, c->m, c->out);
    else
        c->dev->ops->matmul(c->dev, c->y, c->a, c->rows, c->m, c->out);
}

int
main(int argc, char **argv)
{
    static const int shapes[][2] = {{768, 256},  {256, 256},  {1024, 256}, {256, 512},
                                    {3072, 768}, {768, 3072}, {4096, 1024}};
    static const int rows[] = {8, 64, 100, 480, 1024};
    int threads = argc > 1 ? atoi(argv[1]) : 0;
    for (int dtype = IA3_F32; dtype <= IA3_BF16; dtype++) {
        ia3_device *dev = bench_open((ia3_dtype) dtype, threads);
        if (!dev)
            continue;
        printf("%s, %s; GFLOP/s\n   out    in  rows      act     added  backward\n", dev->description,
               dtype == IA3_F32 ? "float32" : "bfloat16");
        for (size_t s = 0; s < sizeof shapes / sizeof shapes[0]; s++) {
            int out = shapes[s][0], in = shapes[s][1], widest = out > in ? out : in;
            product_case c = {.dev = dev, .m = bench_matrix(dev, out, in)};
            c.a = bench_fill(dev, (size_t) 1024 * (size_t) widest, true);
            c.y = bench_fill(dev, (size_t) 1024 * (size_t) widest, false);
            for (size_t r = 0; r < sizeof rows / sizeof rows[0]; r++) {
                double flops = 2.0 * rows[r] * out * in * 1e-9;
                c.rows = rows[r];
                c.backward = false;
                c.out = IA3_OUT_ADD_F32;
                double added = bench_time(call, &c);
                c.out = IA3_OUT_ACT;
                double act = bench_time(call, &c);
                c.backward = true;
                double backward = bench_time(call, &c);
                printf("%6d %5d %5d %8.0f  %8.0f  %8.0f\n", out, in, rows[r], flops / act, flops / added,
                       flops / backward);
            }
            dev->ops->matrix_free(dev, c.m);
            dev->ops->free(dev, c.a);
            dev->ops->free(dev, c.y);
        }
        dev->ops->close(dev);
    }
    return 0;
}
