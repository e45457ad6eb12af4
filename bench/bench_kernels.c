/*
 * bench_kernels.c
 *     The time of each operation for the shape of a model: bench_kernels [threads [sequences [length]]].
 *
 * The shape is that of the tests' backbone (test/backbone). It prints one line per operation and direction. For attention it also prints
 * the share of the rate of a matrix product, which is measured just before: what limits attention is its matrix products, two
 * forward and five backward. Use one thread, and -DBENCH_CLOCK=CLOCK_PROCESS_CPUTIME_ID on a busy machine.
 */
#include "bench_common.h"

enum { D = 256, HEADS = 4, DK = 64, FF = 512, VOCAB = 8192 };

typedef struct setup {
    ia3_device *dev;
    int rows, n_seq, length, pairs;
    int32_t *offsets, *slot_of_seq, *slot_of_row, *pair_offsets, *tokens, *parent, *depth;
    uint64_t *keys;
    float *x, *y, *w, *rstd, *l, *dl, *bias, *lse, *lp;
    void *qkv, *out, *dout, *dqkv, *g, *h, *dg;
    const float *slots[1];
    float *grads[1];
    ia3_matrix *head;
    float p;
} setup;

static ia3_dropout
drop(const setup *s)
{
    return (ia3_dropout){s->p, 1, s->keys};
}

static ia3_attention
attention_of(const setup *s, bool tree)
{
    size_t size = ia3_dtype_size(s->dev->dtype), inner = HEADS * DK;
    return (ia3_attention){.n_heads = HEADS,
                           .d_kv = DK,
                           .n_seq = s->n_seq,
                           .q_offsets = s->offsets,
                           .k_offsets = s->offsets,
                           .max_q = s->length,
                           .max_k = s->length,
                           .q = s->qkv,
                           .k = (char *) s->qkv + inner * size,
                           .v = (char *) s->qkv + 2 * inner * size,
                           .q_stride = 3 * inner,
                           .kv_stride = 3 * inner,
                           .bias = s->bias,
                           .bias_span = s->length,
                           .scale_k = {s->slots, s->slot_of_seq, 0},
                           .scale_v = {s->slots, s->slot_of_seq, inner},
                           .parent = tree ? s->parent : NULL,
                           .depth = tree ? s->depth : NULL,
                           .dropout = drop(s),
                           .out = s->out,
                           .lse = s->lse};
}

static void
run_attention(void *arg)
{
    setup *s = arg;
    ia3_attention a = attention_of(s, false);
    s->dev->ops->attention(s->dev, &a);
}

static void
run_attention_bwd(void *arg)
{
    setup *s = arg;
    size_t size = ia3_dtype_size(s->dev->dtype), inner = HEADS * DK;
    ia3_attention a = attention_of(s, false);
    ia3_attention_grad g = {s->dout,
                            s->dqkv,
                            (char *) s->dqkv + inner * size,
                            (char *) s->dqkv + 2 * inner * size,
                            {s->grads, s->slot_of_seq, 0, 1},
                            {s->grads, s->slot_of_seq, inner, 1}};
    s->dev->ops->attention_bwd(s->dev, &a, &g);
}

static void
run_norm(void *arg)
{
    setup *s = arg;
    s->dev->ops->rmsnorm(s->dev, s->out, s->rstd, s->x, s->w, s->rows, D, 1e-6f);
}

static void
run_norm_bwd(void *arg)
{
    setup *s = arg;
    s->dev->ops->rmsnorm_bwd(s->dev, s->y, s->out, s->x, s->w, s->rstd, s->rows, D);
}

static void
run_gated(void *arg)
{
    setup *s = arg;
    ia3_gated p = {IA3_GELU_NEW, true, FF, {s->slots, s->slot_of_row, 0}, drop(s)};
    s->dev->ops->gated_act(s->dev, s->h, s->g, s->rows, &p);
}

static void
run_gated_bwd(void *arg)
{
    setup *s = arg;
    ia3_gated p = {IA3_GELU_NEW, true, FF, {s->slots, s->slot_of_row, 0}, drop(s)};
    s->dev->ops->gated_act_bwd(s->dev, s->dg, s->h, s->g, s->rows, &p,
                               (ia3_scale_grad){s->grads, s->slot_of_row, 0, 1});
}

static void
run_add_dropout(void *arg)
{
    setup *s = arg;
    s->dev->ops->add_dropout(s->dev, s->y, s->x, s->rows, D, drop(s));
}

static void
run_vocab(void *arg)
{
    setup *s = arg;
    s->dev->ops->vocab_logprobs(s->dev, s->lp, s->lse, s->out, s->pairs, s->head, 0.0625f, s->pair_offsets,
                                s->tokens);
}

static void
run_vocab_bwd(void *arg)
{
    setup *s = arg;
    s->dev->ops->vocab_logprobs_bwd(s->dev, s->x, NULL, s->lp, s->lse, s->out, s->pairs, s->head, 0.0625f,
                                    s->pair_offsets, s->tokens);
}

/* A product of T5-base's shape. */
enum { PRODUCT_ROWS = 512, PRODUCT_K = 768, PRODUCT_N = 3072 };

typedef struct product {
    ia3_device *dev;
    ia3_matrix *w;
    void *a, *y;
    float *dw, *values; /* [PRODUCT_N, PRODUCT_K] */
} product;

static void
run_product(void *arg)
{
    product *p = arg;
    p->dev->ops->matmul(p->dev, p->y, p->a, PRODUCT_ROWS, p->w, IA3_OUT_ACT);
}

static void
run_gradient(void *arg)
{
    product *p = arg;
    p->dev->ops->matmul_grad(p->dev, p->dw, p->y, p->a, PRODUCT_ROWS, PRODUCT_N, PRODUCT_K);
}

static void
run_update(void *arg)
{
    product *p = arg;
    p->dev->ops->matrix_update(p->dev, p->w, p->values);
}

static product
prepare_product(ia3_device *dev)
{
    product p = {dev,
                 bench_matrix(dev, PRODUCT_N, PRODUCT_K),
                 bench_fill(dev, (size_t) PRODUCT_ROWS * PRODUCT_K, true),
                 bench_fill(dev, (size_t) PRODUCT_ROWS * PRODUCT_N, true),
                 bench_fill(dev, (size_t) PRODUCT_N * PRODUCT_K, false),
                 bench_fill(dev, (size_t) PRODUCT_N * PRODUCT_K, false)};
    ia3_error err = {0};
    if (!dev->ops->matrix_prepare_backward(dev, p.w, &err))
        exit(1);
    return p;
}

/* Training of weights: the rate of a gradient beside that of the product, and the time to make a matrix from other values. */
static void
print_gradient(product *p)
{
    const double flops = 2.0 * PRODUCT_ROWS * PRODUCT_K * PRODUCT_N;
    const double forward = flops / bench_time(run_product, p), gradient = flops / bench_time(run_gradient, p);
    printf("matmul_grad %.1f GFLOP/s, %.2f of a product's %.1f; matrix_update %.2f ns per value\n",
           gradient * 1e-9, gradient / forward, forward * 1e-9,
           1e9 * bench_time(run_update, p) / (PRODUCT_N * PRODUCT_K));
}

/* Prints the rate in GFLOP/s of an attention that took `seconds`, as a share of the product's. */
static void
print_rate(const setup *s, product *p, int products, double seconds)
{
    double flops = 2.0 * products * HEADS * DK * s->length * (double) s->length * s->n_seq;
    double limit = 2.0 * PRODUCT_ROWS * PRODUCT_K * PRODUCT_N / bench_time(run_product, p);
    printf("  %6.1f GFLOP/s, %.2f of a product's %.1f", flops / seconds * 1e-9, flops / seconds / limit,
           limit * 1e-9);
}

static void
prepare(setup *s)
{
    ia3_device *dev = s->dev;
    size_t rows = (size_t) s->rows;
    s->offsets = calloc((size_t) s->n_seq + 1, sizeof(int32_t));
    s->slot_of_seq = calloc((size_t) s->n_seq, sizeof(int32_t));
    s->slot_of_row = calloc(rows, sizeof(int32_t));
    s->pair_offsets = calloc(rows + 1, sizeof(int32_t));
    s->tokens = calloc(rows + 1, sizeof(int32_t));
    s->keys = calloc(rows, sizeof(uint64_t));
    for (int i = 0; i <= s->n_seq; i++)
        s->offsets[i] = i * s->length;
    for (int i = 0; i <= s->rows; i++)
        s->pair_offsets[i] = i;
    s->x = bench_fill(dev, rows * D, false);
    s->y = bench_fill(dev, rows * D, false);
    s->w = bench_fill(dev, D, false);
    s->rstd = bench_fill(dev, rows, false);
    s->l = bench_fill(dev, 4 * FF, false);
    s->dl = bench_fill(dev, 4 * FF, false);
    s->bias = bench_fill(dev, (size_t) HEADS * 2 * (size_t) s->length, false);
    s->lse = bench_fill(dev, rows * HEADS, false);
    s->lp = bench_fill(dev, rows, false);
    s->qkv = bench_fill(dev, rows * 3 * HEADS * DK, true);
    s->dqkv = bench_fill(dev, rows * 3 * HEADS * DK, true);
    s->out = bench_fill(dev, rows * HEADS * DK, true);
    s->dout = bench_fill(dev, rows * HEADS * DK, true);
    s->g = bench_fill(dev, rows * 2 * FF, true);
    s->dg = bench_fill(dev, rows * 2 * FF, true);
    s->h = bench_fill(dev, rows * FF, true);
    s->slots[0] = s->l;
    s->grads[0] = s->dl;
    s->head = bench_matrix(dev, VOCAB, D);
}

int
main(int argc, char **argv)
{
    static const struct {
        const char *name;
        void (*run)(void *);
        int products; /* that attention needs */
    } ops[] = {
        {"attention", run_attention, 2},
        {"attention_bwd", run_attention_bwd, 5},
        {"rmsnorm", run_norm, 0},
        {"rmsnorm_bwd", run_norm_bwd, 0},
        {"gated_act", run_gated, 0},
        {"gated_act_bwd", run_gated_bwd, 0},
        {"add_dropout", run_add_dropout, 0},
        {"vocab (64 rows)", run_vocab, 0},
        {"vocab_bwd (64 rows)", run_vocab_bwd, 0},
    };
    int threads = argc > 1 ? atoi(argv[1]) : 0;
    for (int dtype = IA3_F32; dtype <= IA3_BF16; dtype++) {
        setup s = {.dev = bench_open((ia3_dtype) dtype, threads),
                   .n_seq = argc > 2 ? atoi(argv[2]) : 8,
                   .length = argc > 3 ? atoi(argv[3]) : 60};
        if (!s.dev)
            continue;
        s.rows = s.n_seq * s.length;
        s.pairs = s.rows < 64 ? s.rows : 64;
        prepare(&s);
        product p = prepare_product(s.dev);
        printf("%s, %s, %d rows; µs        without  with dropout\n", s.dev->description,
               dtype == IA3_F32 ? "float32" : "bfloat16", s.rows);
        for (size_t i = 0; i < sizeof ops / sizeof ops[0]; i++) {
            s.p = 0.0f;
            double plain = bench_time(ops[i].run, &s) * 1e6;
            s.p = 0.1f;
            printf("%-20s %8.1f  %8.1f", ops[i].name, plain, bench_time(ops[i].run, &s) * 1e6);
            if (ops[i].products > 0)
                print_rate(&s, &p, ops[i].products, plain * 1e-6);
            printf("\n");
        }
        print_gradient(&p);
        s.dev->ops->close(s.dev);
    }
    return 0;
}
