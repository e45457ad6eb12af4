/*
 * bench_ops.c
 *     Puts functions that measure in the place of a device's operations.
 */
#include "bench_ops.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static bench_ops ops;
static const ia3_device_ops *real;

static double
seconds(clockid_t clock)
{
    struct timespec t;
    clock_gettime(clock, &t);
    return (double) t.tv_sec + 1e-9 * (double) t.tv_nsec;
}

bench_seconds
bench_ops_now(void)
{
    return (bench_seconds){seconds(CLOCK_MONOTONIC), seconds(CLOCK_PROCESS_CPUTIME_ID)};
}

const bench_ops *
bench_ops_counted(void)
{
    return &ops;
}

void
bench_ops_repeat(void)
{
    ops.repeated = true;
    ops.at = 0;
}

static double
smaller(double a, double b)
{
    return a < b ? a : b;
}

static void
keep_shortest(int op, bench_seconds took, int rows, const bench_work *work)
{
    if (ops.at == ops.cap) {
        ops.cap = ops.cap ? 2 * ops.cap : 1024;
        ops.calls = realloc(ops.calls, (size_t) ops.cap * sizeof *ops.calls);
    }
    bench_call *c = &ops.calls[ops.at++];
    if (ops.at > ops.n_calls) {
        *c = (bench_call){op, rows, *work, took};
        ops.n_calls = ops.at;
        return;
    }
    if (c->op != op) {
        fprintf(stderr, "bench_ops: passes differ at call %d\n", ops.at);
        exit(1);
    }
    c->time.wall = smaller(c->time.wall, took.wall);
    c->time.busy = smaller(c->time.busy, took.busy);
}

/* Adds the time since `start` to the operation of this name. */
static bench_op *
spent(const char *name, bench_part part, bench_seconds start, int rows, bench_work work)
{
    bench_seconds end = bench_ops_now(), took = {end.wall - start.wall, end.busy - start.busy};
    int i = 0;
    while (i < ops.n && strcmp(ops.v[i].name, name) != 0)
        i++;
    bench_op *op = &ops.v[i];
    if (i == ops.n) {
        if (ops.n == sizeof ops.v / sizeof ops.v[0]) {
            fprintf(stderr, "bench_ops: too many operations\n");
            exit(1);
        }
        ops.n++;
        snprintf(op->name, sizeof op->name, "%s", name);
        op->part = part;
    }
    op->time.wall += took.wall;
    op->time.busy += took.busy;
    op->calls++;
    op->rows += rows;
    op->flops += work.products;
    if (ops.repeated)
        keep_shortest(i, took, rows, &work);
    return op;
}

static double
act_size(const ia3_device *dev)
{
    return (double) ia3_dtype_size(dev->dtype);
}

static double
weight_size(const ia3_device *dev)
{
    return dev->weights == IA3_INT8 ? 1 : (double) ia3_dtype_size(dev->weights);
}

/* --- products --- */

static void
spent_product(const char *what, ia3_device *dev, bench_seconds start, int rows, int k, int n)
{
    char name[48];
    snprintf(name, sizeof name, "%s %d->%d", what, k, n);
    spent(name, BENCH_PRODUCTS, start, rows,
          (bench_work){.products = 2.0 * rows * k * n, .weights = weight_size(dev) * k * n});
}

static void
timed_matmul(ia3_device *dev, void *y, const void *a, int rows, ia3_matrix *w, ia3_out out)
{
    bench_seconds start = bench_ops_now();
    real->matmul(dev, y, a, rows, w, out);
    spent_product("matmul", dev, start, rows, w->in, w->out);
}

static void
timed_matmul_bwd(ia3_device *dev, void *da, const void *dy, int rows, ia3_matrix *w, ia3_out out)
{
    bench_seconds start = bench_ops_now();
    real->matmul_bwd(dev, da, dy, rows, w, out);
    spent_product("matmul_bwd", dev, start, rows, w->out, w->in);
}

static void
timed_matmul_grad(ia3_device *dev, float *dw, const void *dy, const void *a, int rows, int out, int in)
{
    bench_seconds start = bench_ops_now();
    real->matmul_grad(dev, dw, dy, a, rows, out, in);
    spent_product("matmul_grad", dev, start, rows, in, out);
}

/* --- attention --- */

static const char *
attention_kind(const ia3_attention *a)
{
    return a->parent ? "tree" : a->q_offsets == a->k_offsets ? "self" : "cross";
}

/* The number of attention weights of one head; in trees each query attends to itself and its ancestors. */
static double
attention_weights(const ia3_attention *a)
{
    double n = 0;
    if (a->parent)
        for (int i = 0; i < a->q_offsets[a->n_seq]; i++)
            n += a->depth[i] + 1;
    else
        for (int s = 0; s < a->n_seq; s++)
            n += (double) (a->q_offsets[s + 1] - a->q_offsets[s]) * (a->k_offsets[s + 1] - a->k_offsets[s]);
    return n;
}

/* `products` per weight, each over a head's width; `passes` over queries, keys, values and results. */
static bench_work
attention_work(const ia3_device *dev, const ia3_attention *a, int products, int passes)
{
    double weights = attention_weights(a) * a->n_heads, inner = a->n_heads * a->d_kv;
    double rows = 2.0 * a->q_offsets[a->n_seq] + 2.0 * a->k_offsets[a->n_seq];
    return (bench_work){.sums = 2.0 * products * weights * a->d_kv,
                        .exps = weights,
                        .masks = a->dropout.p > 0 && a->dropout.row_key ? weights : 0,
                        .bytes = passes * rows * inner * act_size(dev)};
}

static void
timed_attention(ia3_device *dev, const ia3_attention *a)
{
    char name[48];
    bench_seconds start = bench_ops_now();
    real->attention(dev, a);
    snprintf(name, sizeof name, "attention, %s", attention_kind(a));
    spent(name, BENCH_ATTENTION, start, 0, attention_work(dev, a, 2, 1));
}

static void
timed_attention_bwd(ia3_device *dev, const ia3_attention *a, const ia3_attention_grad *g)
{
    char name[48];
    bench_seconds start = bench_ops_now();
    real->attention_bwd(dev, a, g);
    snprintf(name, sizeof name, "attention_bwd, %s", attention_kind(a));
    spent(name, BENCH_ATTENTION, start, 0, attention_work(dev, a, 5, 2));
}

static void
timed_state_attention(ia3_device *dev, const ia3_attention *a, const void *states, ia3_matrix *w)
{
    bench_seconds start = bench_ops_now();
    real->state_attention(dev, a, states, w);
    double inner = a->n_heads * a->d_kv, queries = a->q_offsets[a->n_seq];
    double weights = attention_weights(a) * a->n_heads;
    spent("attention, states", BENCH_ATTENTION, start, 0,
          (bench_work){.products = 4.0 * queries * inner * w->in,
                       .sums = 4.0 * weights * w->in,
                       .exps = weights,
                       .bytes = act_size(dev) * a->k_offsets[a->n_seq] * w->in,
                       .weights = weight_size(dev) * w->in * w->out});
}

/* --- what is done to each element --- */

static void
spent_elements(const char *name, bench_part part, bench_seconds start, double n, double bytes_each,
               const ia3_dropout *drop)
{
    spent(name, part, start, 0,
          (bench_work){.bytes = n * bytes_each, .masks = drop && drop->p > 0 && drop->row_key ? n : 0});
}

#define TIMED(name, part, params, args, n, bytes_each, drop)                                                 \
    static void timed_##name params                                                                          \
    {                                                                                                        \
        bench_seconds start = bench_ops_now();                                                               \
        real->name args;                                                                                     \
        spent_elements(#name, part, start, (double) (n), bytes_each, drop);                                  \
    }

TIMED(embed, BENCH_OTHER,
      (ia3_device * dev, float *x, const int32_t *ids, int rows, int d, const void *table),
      (dev, x, ids, rows, d, table), (double) rows *d, 4 + act_size(dev), NULL)
TIMED(rmsnorm, BENCH_NORMS,
      (ia3_device * dev, void *y, float *rstd, const float *x, const float *w, int rows, int d, float eps),
      (dev, y, rstd, x, w, rows, d, eps), (double) rows *d, 4 + act_size(dev), NULL)
TIMED(rmsnorm_bwd, BENCH_NORMS,
      (ia3_device * dev, float *dx, const void *dy, const float *x, const float *w, const float *rstd,
       int rows, int d),
      (dev, dx, dy, x, w, rstd, rows, d), (double) rows *d, 12 + act_size(dev), NULL)
TIMED(add_dropout, BENCH_DROPOUT,
      (ia3_device * dev, float *x, const float *y, int rows, int d, ia3_dropout drop),
      (dev, x, y, rows, d, drop), (double) rows *d, 12, &drop)
TIMED(dropout_f32, BENCH_DROPOUT,
      (ia3_device * dev, float *y, const float *x, int rows, int d, ia3_dropout drop),
      (dev, y, x, rows, d, drop), (double) rows *d, 8, &drop)
TIMED(dropout_act, BENCH_DROPOUT,
      (ia3_device * dev, void *y, const void *x, int rows, int d, ia3_dropout drop),
      (dev, y, x, rows, d, drop), (double) rows *d, 2 * act_size(dev), &drop)
TIMED(dropout_f32_to_act, BENCH_DROPOUT,
      (ia3_device * dev, void *y, const float *x, int rows, int d, ia3_dropout drop),
      (dev, y, x, rows, d, drop), (double) rows *d, 4 + act_size(dev), &drop)
TIMED(upload, BENCH_OTHER, (ia3_device * dev, void *to, const void *from, size_t n), (dev, to, from, n), n, 2,
      NULL)
TIMED(download, BENCH_OTHER, (ia3_device * dev, void *to, const void *from, size_t n), (dev, to, from, n), n,
      2, NULL)
TIMED(zero, BENCH_OTHER, (ia3_device * dev, void *p, size_t n), (dev, p, n), n, 1, NULL)

static double
adafactor_values(const ia3_adafactor *jobs, int n)
{
    double values = 0;
    for (int i = 0; i < n; i++)
        values += jobs[i].tensor_offsets[jobs[i].n_tensors];
    return values;
}

TIMED(adafactor, BENCH_OTHER, (ia3_device * dev, const ia3_adafactor *jobs, int n), (dev, jobs, n),
      adafactor_values(jobs, n), 24, NULL)

static bench_work
gated_work(const ia3_device *dev, int rows, const ia3_gated *p, bool backward)
{
    double n = (double) rows * p->d_ff;
    bool costly = p->act != IA3_RELU;
    return (bench_work){.gelus = costly && !backward ? n : 0,
                        .gelu_grads = costly && backward ? n : 0,
                        .masks = p->dropout.p > 0 && p->dropout.row_key ? n : 0,
                        .bytes =
                            n * act_size(dev) * ((p->gated ? 3 : 2) + (backward ? p->gated ? 2 : 1 : 0))};
}

static void
timed_gated_act(ia3_device *dev, void *h, const void *g, int rows, const ia3_gated *p)
{
    bench_seconds start = bench_ops_now();
    real->gated_act(dev, h, g, rows, p);
    spent("gated_act", BENCH_GATES, start, 0, gated_work(dev, rows, p, false));
}

static void
timed_gated_act_bwd(ia3_device *dev, void *dg, const void *dh, const void *g, int rows, const ia3_gated *p,
                    ia3_scale_grad grad)
{
    bench_seconds start = bench_ops_now();
    real->gated_act_bwd(dev, dg, dh, g, rows, p, grad);
    spent("gated_act_bwd", BENCH_GATES, start, 0, gated_work(dev, rows, p, true));
}

/* A product with the norm before it and perhaps the activation after it, which need not be in memory. */
static bool
timed_norm_matmul(ia3_device *dev, void *y, const float *x, const float *norm, float eps, int rows,
                  ia3_matrix *w, const ia3_gated *p)
{
    char name[48];
    bench_seconds start = bench_ops_now();
    if (!real->norm_matmul(dev, y, x, norm, eps, rows, w, p))
        return false;
    snprintf(name, sizeof name, "matmul %d->%d, norm%s", w->in, w->out, p ? ", gate" : "");
    spent(name, BENCH_PRODUCTS, start, rows,
          (bench_work){.products = 2.0 * rows * w->in * w->out,
                       .gelus = p && p->act != IA3_RELU ? (double) rows * p->d_ff : 0,
                       .bytes = (double) rows * (4.0 * w->in + act_size(dev) * (p ? p->d_ff : w->out)),
                       .weights = weight_size(dev) * w->in * w->out});
    return true;
}

/* --- the vocabulary --- */

/* The backward pass computes the logits again, because nobody could store them. */
static bench_work
vocab_work(const ia3_device *dev, int rows, const ia3_matrix *head, int products)
{
    double weights = (double) head->in * head->out;
    return (bench_work){.products = 2.0 * products * rows * weights,
                        .exps = (double) rows * head->out,
                        .weights = products * weights * weight_size(dev)};
}

static void
timed_vocab_logprobs(ia3_device *dev, float *lp, float *lse, const void *h, int rows, ia3_matrix *head,
                     float scale, const int32_t *offsets, const int32_t *tokens)
{
    bench_seconds start = bench_ops_now();
    real->vocab_logprobs(dev, lp, lse, h, rows, head, scale, offsets, tokens);
    spent("vocab_logprobs", BENCH_VOCABULARY, start, rows, vocab_work(dev, rows, head, 1));
}

static void
timed_vocab_logprobs_bwd(ia3_device *dev, float *dh, float *dhead, const float *dlp, const float *lse,
                         const void *h, int rows, ia3_matrix *head, float scale, const int32_t *offsets,
                         const int32_t *tokens)
{
    bench_seconds start = bench_ops_now();
    real->vocab_logprobs_bwd(dev, dh, dhead, dlp, lse, h, rows, head, scale, offsets, tokens);
    spent("vocab_logprobs_bwd", BENCH_VOCABULARY, start, rows, vocab_work(dev, rows, head, dhead ? 3 : 2));
}

void
bench_ops_wrap(ia3_device *dev)
{
    static ia3_device_ops timed;
    real = dev->ops;
    timed = *real;
#define WRAP(name) timed.name = timed_##name
    WRAP(matmul), WRAP(matmul_bwd), WRAP(attention), WRAP(attention_bwd), WRAP(embed), WRAP(rmsnorm);
    WRAP(rmsnorm_bwd), WRAP(add_dropout), WRAP(dropout_f32), WRAP(dropout_act), WRAP(dropout_f32_to_act);
    WRAP(gated_act), WRAP(gated_act_bwd), WRAP(vocab_logprobs), WRAP(vocab_logprobs_bwd), WRAP(adafactor);
    WRAP(matmul_grad), WRAP(upload), WRAP(download), WRAP(zero);
    if (real->norm_matmul)
        WRAP(norm_matmul);
    if (real->state_attention)
        WRAP(state_attention);
    dev->ops = &timed;
}
