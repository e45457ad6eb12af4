/*
 * bench_int8.c
 *     The speed of matrix products with weights in eight bits, on one thread: bench_int8 [WORD].
 *
 * First it prints, for each sequence of instructions that this processor has, the rate of a loop that only does
 * multiplications and additions between registers: the limit of a kernel that uses this sequence. Then it prints, for
 * the shapes of the backbones and several numbers of rows, the rate of the device's products in eight bits (the
 * rotation and rounding of the rows included), its share of the limit, and the rate of the same products in float32.
 * WORD restricts the shapes to the models whose names begin with it. IA3_CPU_ISA chooses the variant, as always.
 *
 * Rates are billions of multiplications and additions per second of this process's CPU time, the best of several runs.
 */
#define BENCH_CLOCK CLOCK_PROCESS_CPUTIME_ID

#include "bench_common.h"
#include "bench_int8_peak.h"

typedef struct product_case {
    ia3_device *dev;
    ia3_matrix *m;
    void *a, *y;
    int rows;
} product_case;

static void
call(void *arg)
{
    product_case *c = arg;
    c->dev->ops->matmul(c->dev, c->y, c->a, c->rows, c->m, IA3_OUT_ACT);
}

enum { MOST_ROWS = 4096 };

static const struct {
    const char *model, *what;
    int in, out;
} shapes[] = {
    {"small", "qkv", 256, 768},      {"small", "wi", 256, 1024},     {"small", "wo", 512, 256},
    {"small", "head", 256, 8192},    {"T5-base", "qkv", 768, 2304},  {"T5-base", "o", 768, 768},
    {"T5-base", "wi", 768, 4096},    {"T5-base", "wo", 2048, 768},   {"T5-base", "head", 768, 32128},
    {"T5-large", "qkv", 1024, 3072}, {"T5-large", "wi", 1024, 5632}, {"T5-large", "wo", 2816, 1024},
};
static const int row_counts[] = {30, 105, 480, 1024, MOST_ROWS};
enum { N_SHAPES = sizeof shapes / sizeof shapes[0], N_ROWS = sizeof row_counts / sizeof row_counts[0] };

/* Measures one shape on one device, in GOP/s by number of rows. */
static void
measure(ia3_dtype dtype, int shape, double *rates)
{
    ia3_device *dev = bench_open(dtype, 1);
    if (!dev)
        exit(1);
    int in = shapes[shape].in, out = shapes[shape].out;
    product_case c = {.dev = dev, .m = bench_matrix(dev, out, in)};
    c.a = bench_fill(dev, (size_t) MOST_ROWS * (size_t) in, true);
    c.y = dev->ops->alloc(dev, (size_t) MOST_ROWS * (size_t) out * 4);
    for (int r = 0; r < N_ROWS; r++) {
        c.rows = row_counts[r];
        rates[r] = 2e-9 * c.rows * in * out / bench_time(call, &c);
    }
    dev->ops->matrix_free(dev, c.m);
    dev->ops->free(dev, c.a);
    dev->ops->free(dev, c.y);
    dev->ops->close(dev);
}

int
main(int argc, char **argv)
{
    ia3_device *dev = bench_open(IA3_INT8, 1);
    if (!dev)
        return 1;
    const bench_int8_sequence *used = bench_int8_used(strstr(dev->description, "avx512") != NULL);
    printf("%s\n", dev->description);
    dev->ops->close(dev);
    for (int i = 0; i < bench_int8_n_sequences; i++)
        if (bench_int8_sequences[i].available())
            printf("%-40s %6.0f GOP/s%s\n", bench_int8_sequences[i].name,
                   bench_int8_peak(&bench_int8_sequences[i]),
                   used == &bench_int8_sequences[i] ? ", the limit of this variant" : "");
    if (!used)
        return 0;
    printf("%-9s %-5s %6s %6s %6s %7s %6s %8s %6s\n", "", "", "in", "out", "rows", "int8", "share", "float32",
           "times");
    for (int s = 0; s < N_SHAPES; s++) {
        double eight[N_ROWS], full[N_ROWS];
        if (argc > 1 && strncmp(shapes[s].model, argv[1], strlen(argv[1])) != 0)
            continue;
        measure(IA3_INT8, s, eight);
        measure(IA3_F32, s, full);
        double peak = bench_int8_peak(used);
        for (int r = 0; r < N_ROWS; r++)
            printf("%-9s %-5s %6d %6d %6d %7.0f %6.2f %8.0f %6.2f\n", shapes[s].model, shapes[s].what,
                   shapes[s].in, shapes[s].out, row_counts[r], eight[r], eight[r] / peak, full[r],
                   eight[r] / full[r]);
    }
    return 0;
}
