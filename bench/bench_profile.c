/*
 * bench_profile.c
 *     Shows which device operations take the time of training or scoring:
 *
 *   bench_profile train OPTION... < lines of text<TAB>label      (the commands and options of ia3_engine)
 *   bench_profile score OPTION... < lines of text
 *
 * Two clocks are read before and after each operation of the device: elapsed time, and the CPU time of all threads
 * together, which other work on the machine does not change. The output is easiest to read with --threads 1. Matrix
 * products are listed by shape, with their mean number of rows and their rate. What is left of the total is the time of
 * the model code. The first steps touch memory for the first time, so compare runs of different lengths.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "engine/cli/cli.h"
#include "engine/serve/options.h"
#include "engine/serve/serve.h"

typedef struct entry {
    char name[48];
    double wall, busy, flops;
    long calls, rows;
} entry;

typedef struct reading {
    double wall, busy;
} reading;

enum { MOST = 64 };
static entry entries[MOST];
static const ia3_device_ops *real;

static double
seconds(clockid_t clock)
{
    struct timespec t;
    clock_gettime(clock, &t);
    return (double) t.tv_sec + 1e-9 * (double) t.tv_nsec;
}

static reading
now(void)
{
    return (reading){seconds(CLOCK_MONOTONIC), seconds(CLOCK_PROCESS_CPUTIME_ID)};
}

/* Adds the time since `start` to the entry of this name. */
static entry *
spent(const char *name, reading start)
{
    reading end = now();
    entry *e = entries;
    while (e < entries + MOST - 1 && e->name[0] && strcmp(e->name, name) != 0)
        e++;
    snprintf(e->name, sizeof e->name, "%s", name);
    e->wall += end.wall - start.wall;
    e->busy += end.busy - start.busy;
    e->calls++;
    return e;
}

static void
spent_product(const char *what, reading start, int rows, int k, int n)
{
    char name[48];
    snprintf(name, sizeof name, "%s %d->%d", what, k, n);
    entry *e = spent(name, start);
    e->rows += rows;
    e->flops += 2.0 * rows * k * n;
}

static void
timed_matmul(ia3_device *dev, void *y, const void *a, int rows, ia3_matrix *w, ia3_out out)
{
    reading start = now();
    real->matmul(dev, y, a, rows, w, out);
    spent_product("matmul", start, rows, w->in, w->out);
}

static void
timed_matmul_bwd(ia3_device *dev, void *da, const void *dy, int rows, ia3_matrix *w, ia3_out out)
{
    reading start = now();
    real->matmul_bwd(dev, da, dy, rows, w, out);
    spent_product("matmul_bwd", start, rows, w->out, w->in);
}

static void
timed_attention(ia3_device *dev, const ia3_attention *a)
{
    reading start = now();
    real->attention(dev, a);
    spent(a->parent                      ? "attention, tree"
          : a->q_offsets == a->k_offsets ? "attention, self"
                                         : "attention, cross",
          start);
}

static void
timed_state_attention(ia3_device *dev, const ia3_attention *a, const void *states, ia3_matrix *w)
{
    reading t = now();
    real->state_attention(dev, a, states, w);
    spent("attention, states", t);
}

static void
timed_attention_bwd(ia3_device *dev, const ia3_attention *a, const ia3_attention_grad *g)
{
    reading start = now();
    real->attention_bwd(dev, a, g);
    spent(a->parent                      ? "attention_bwd, tree"
          : a->q_offsets == a->k_offsets ? "attention_bwd, self"
                                         : "attention_bwd, cross",
          start);
}

#define TIMED(name, params, ...)                                                                             \
    static void timed_##name params                                                                          \
    {                                                                                                        \
        reading start = now();                                                                               \
        real->name(__VA_ARGS__);                                                                             \
        spent(#name, start);                                                                                 \
    }

TIMED(embed, (ia3_device * dev, float *x, const int32_t *ids, int rows, int d, const void *table), dev, x,
      ids, rows, d, table)
TIMED(rmsnorm,
      (ia3_device * dev, void *y, float *rstd, const float *x, const float *w, int rows, int d, float eps),
      dev, y, rstd, x, w, rows, d, eps)
TIMED(rmsnorm_bwd,
      (ia3_device * dev, float *dx, const void *dy, const float *x, const float *w, const float *rstd,
       int rows, int d),
      dev, dx, dy, x, w, rstd, rows, d)
TIMED(add_dropout, (ia3_device * dev, float *x, const float *y, int rows, int d, ia3_dropout drop), dev, x, y,
      rows, d, drop)
TIMED(dropout_f32, (ia3_device * dev, float *y, const float *x, int rows, int d, ia3_dropout drop), dev, y, x,
      rows, d, drop)
TIMED(dropout_act, (ia3_device * dev, void *y, const void *x, int rows, int d, ia3_dropout drop), dev, y, x,
      rows, d, drop)
TIMED(dropout_f32_to_act, (ia3_device * dev, void *y, const float *x, int rows, int d, ia3_dropout drop), dev,
      y, x, rows, d, drop)
TIMED(gated_act, (ia3_device * dev, void *h, const void *g, int rows, const ia3_gated *p), dev, h, g, rows, p)
TIMED(gated_act_bwd,
      (ia3_device * dev, void *dg, const void *dh, const void *g, int rows, const ia3_gated *p,
       ia3_scale_grad grad),
      dev, dg, dh, g, rows, p, grad)
TIMED(vocab_logprobs,
      (ia3_device * dev, float *lp, float *lse, const void *h, int rows, ia3_matrix *head, float scale,
       const int32_t *offsets, const int32_t *tokens),
      dev, lp, lse, h, rows, head, scale, offsets, tokens)
TIMED(vocab_logprobs_bwd,
      (ia3_device * dev, float *dh, const float *dlp, const float *lse, const void *h, int rows,
       ia3_matrix *head, float scale, const int32_t *offsets, const int32_t *tokens),
      dev, dh, dlp, lse, h, rows, head, scale, offsets, tokens)
TIMED(adafactor, (ia3_device * dev, const ia3_adafactor *jobs, int n), dev, jobs, n)
TIMED(upload, (ia3_device * dev, void *to, const void *from, size_t n), dev, to, from, n)
TIMED(download, (ia3_device * dev, void *to, const void *from, size_t n), dev, to, from, n)
TIMED(zero, (ia3_device * dev, void *p, size_t n), dev, p, n)

static void
wrap(ia3_device *dev)
{
    static ia3_device_ops ops;
    real = dev->ops;
    ops = *real;
#define WRAP(name) ops.name = timed_##name
    WRAP(matmul), WRAP(matmul_bwd), WRAP(attention), WRAP(attention_bwd), WRAP(state_attention), WRAP(embed),
        WRAP(rmsnorm);
    WRAP(rmsnorm_bwd), WRAP(add_dropout), WRAP(dropout_f32), WRAP(dropout_act), WRAP(dropout_f32_to_act);
    WRAP(gated_act), WRAP(gated_act_bwd), WRAP(vocab_logprobs), WRAP(vocab_logprobs_bwd), WRAP(adafactor);
    WRAP(upload), WRAP(download), WRAP(zero);
    dev->ops = &ops;
}

static void
report(reading start)
{
    reading end = now();
    double wall = end.wall - start.wall, busy = end.busy - start.busy, other_wall = wall, other_busy = busy;
    fprintf(stderr, "%-26s %7s %9s %9s %6s\n", "", "calls", "passed", "busy", "%");
    for (const entry *e = entries; e < entries + MOST && e->calls; e++) {
        fprintf(stderr, "%-26s %7ld %9.3f %9.3f %6.1f", e->name, e->calls, e->wall, e->busy,
                100 * e->busy / busy);
        if (e->flops > 0)
            fprintf(stderr, "  %5ld rows, %4.0f GFLOP/s", e->rows / e->calls, 1e-9 * e->flops / e->busy);
        fputc('\n', stderr);
        other_wall -= e->wall;
        other_busy -= e->busy;
    }
    fprintf(stderr, "%-26s %7s %9.3f %9.3f %6.1f\n", "all else", "", other_wall, other_busy,
            100 * other_busy / busy);
    fprintf(stderr, "%-26s %7s %9.3f %9.3f\n", "whole", "", wall, busy);
}

int
main(int argc, char **argv)
{
    ia3_error err = {0};
    ia3_options options;
    int status = ia3_options_parse(&options, argc, argv);
    if (status >= 0)
        return status;
    if (strcmp(options.command, "train") != 0 && strcmp(options.command, "score") != 0) {
        fprintf(stderr, "usage: bench_profile train|score OPTION...\n");
        return 2;
    }
    ia3_server s = {.options = &options};
    if (!ia3_server_load(&s, NULL, &err)) {
        fprintf(stderr, "%s\n", err.message);
        return 1;
    }
    wrap(s.device);
    reading start = now();
    if (!(strcmp(options.command, "train") == 0 ? ia3_cli_train(&s, &err) : ia3_cli_score(&s, &err))) {
        fprintf(stderr, "%s\n", err.message);
        return 1;
    }
    report(start);
    return 0;
}
