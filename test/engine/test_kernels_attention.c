/*
 * test_kernels_attention.c
 *     Attention, forward and backward, against a reference in double and its finite differences.
 */
#include "device_common.h"

enum { MAX_SEQ = 8, N_SLOTS = 2, OFFSET = 3 };

/* A problem; arrays hold what the device holds, in double. */
typedef struct problem {
    int n_heads, d, n_seq;
    int32_t q_off[MAX_SEQ + 1], k_off[MAX_SEQ + 1];
    bool tree, scaled, biased;
    float p; /* dropout */
    int inner, q_stride, kv_stride, span, max_q, max_k;
    double *q, *kv;         /* [rows, stride]; k at column 0, v at column inner */
    double *bias;           /* [n_heads, 2 span - 1] */
    double *slots[N_SLOTS]; /* [OFFSET + 2 inner]: l_k, l_v */
    int32_t slot_of[MAX_SEQ];
    int32_t *parent, *depth;
    uint64_t *keys;
} problem;

static size_t
n_q(const problem *p)
{
    return (size_t) p->q_off[p->n_seq];
}

static size_t
n_k(const problem *p)
{
    return (size_t) p->k_off[p->n_seq];
}

/* Random trees: mostly chains, with branches. */
static void
make_trees(problem *p)
{
    p->parent = calloc(n_q(p) + 1, sizeof *p->parent);
    p->depth = calloc(n_q(p) + 1, sizeof *p->depth);
    p->max_k = 0;
    for (int s = 0; s < p->n_seq; s++)
        for (int32_t r = p->q_off[s]; r < p->q_off[s + 1]; r++) {
            int32_t first = p->q_off[s];
            bool root = r == first;
            p->parent[r] = root ? -1 : random_below(2) ? r - 1 : first + random_below(r - first);
            p->depth[r] = root ? 0 : p->depth[p->parent[r]] + 1;
            if (p->depth[r] + 1 > p->max_k)
                p->max_k = p->depth[r] + 1;
        }
}

static problem
make_problem(int n_heads, int d, int n_seq, const int *q_len, const int *k_len, bool tree, bool scaled,
             bool biased, float drop)
{
    problem p = {.n_heads = n_heads,
                 .d = d,
                 .n_seq = n_seq,
                 .tree = tree,
                 .scaled = scaled,
                 .biased = biased,
                 .p = drop,
                 .inner = n_heads * d};
    for (int s = 0; s < n_seq; s++) {
        p.q_off[s + 1] = p.q_off[s] + q_len[s];
        p.k_off[s + 1] = p.k_off[s] + k_len[s];
        p.max_q = q_len[s] > p.max_q ? q_len[s] : p.max_q;
        p.max_k = k_len[s] > p.max_k ? k_len[s] : p.max_k;
        p.slot_of[s] = random_below(N_SLOTS);
    }
    p.span = (p.max_q > p.max_k ? p.max_q : p.max_k) + 2;
    p.q_stride = p.inner + 3;
    p.kv_stride = 2 * p.inner + 5;
    p.q = random_values(n_q(&p) * (size_t) p.q_stride, 1.5);
    p.kv = random_values(n_k(&p) * (size_t) p.kv_stride, 1.0);
    p.bias = random_values((size_t) n_heads * (2 * (size_t) p.span - 1), 1.0);
    for (int i = 0; i < N_SLOTS; i++)
        p.slots[i] = random_values(OFFSET + 2 * (size_t) p.inner, 1.5);
    p.keys = calloc(n_q(&p) + 1, sizeof *p.keys);
    for (size_t i = 0; i < n_q(&p); i++)
        p.keys[i] = ia3_row_key(7, 1, 2, (uint32_t) i);
    if (tree)
        make_trees(&p);
    return p;
}

static void
free_problem(problem *p)
{
    free(p->q);
    free(p->kv);
    free(p->bias);
    for (int i = 0; i < N_SLOTS; i++)
        free(p->slots[i]);
    free(p->parent);
    free(p->depth);
    free(p->keys);
}

enum { SITE = 100 };

/* The rows that query `row` (absolute) sees, in key order; returns how many. */
static int
visible(const problem *p, int s, int32_t row, int32_t *keys)
{
    int n = 0;
    if (!p->tree) {
        for (int32_t k = p->k_off[s]; k < p->k_off[s + 1]; k++)
            keys[n++] = k;
        return n;
    }
    for (int32_t r = row; r >= 0; r = p->parent[r])
        keys[p->depth[r]] = r;
    return p->depth[row] + 1;
}

/* out [n_q, inner] and lse [n_q, n_heads] from the definition. */
static void
reference(const problem *p, double *out, double *lse)
{
    int32_t *keys = calloc(n_k(p) + 1, sizeof *keys);
    double *w = calloc(n_k(p) + 1, sizeof *w);
    for (int s = 0; s < p->n_seq; s++)
        for (int32_t row = p->q_off[s]; row < p->q_off[s + 1]; row++)
            for (int h = 0; h < p->n_heads; h++) {
                const double *l = p->slots[p->slot_of[s]] + OFFSET;
                int n = visible(p, s, row, keys), base = h * p->d;
                int i = p->tree ? p->depth[row] : row - p->q_off[s];
                double max = -1e300, sum = 0;
                for (int x = 0; x < n; x++) {
                    const double *k = p->kv + (size_t) keys[x] * (size_t) p->kv_stride;
                    w[x] = p->biased ? p->bias[h * (2 * p->span - 1) + x - i + p->span - 1] : 0;
                    for (int c = base; c < base + p->d; c++)
                        w[x] += p->q[(size_t) row * (size_t) p->q_stride + (size_t) c] * k[c] *
                                (p->scaled ? l[c] : 1);
                    max = fmax(max, w[x]);
                }
                for (int x = 0; x < n; x++)
                    sum += exp(w[x] - max);
                lse[row * p->n_heads + h] = max + log(sum);
                for (int c = base; c < base + p->d; c++) {
                    double o = 0;
                    for (int x = 0; x < n; x++)
                        o += exp(w[x] - max) / sum *
                             drop_factor(p->p, (uint32_t) (SITE + h), p->keys[row], (uint32_t) x) *
                             p->kv[(size_t) keys[x] * (size_t) p->kv_stride + (size_t) (p->inner + c)] *
                             (p->scaled ? l[p->inner + c] : 1);
                    out[(size_t) row * (size_t) p->inner + (size_t) c] = o;
                }
            }
    free(keys);
    free(w);
}

/* The device's copy of a problem. */
typedef struct on_device {
    ia3_attention a;
    ia3_attention_grad g;
    void *q, *kv, *dq, *dkv, *dout;
    float *bias, *slots[N_SLOTS], *grads[N_SLOTS];
    const float **slot_table;
    float **grad_table;
    int32_t *q_off, *k_off, *slot_of, *parent, *depth;
    uint64_t *keys;
} on_device;

static on_device
upload_problem(ia3_device *dev, problem *p)
{
    on_device o = {0};
    size_t size = ia3_dtype_size(dev->dtype), n_slot = OFFSET + 2 * (size_t) p->inner;
    o.q = put_act(dev, p->q, n_q(p) * (size_t) p->q_stride);
    o.kv = put_act(dev, p->kv, n_k(p) * (size_t) p->kv_stride);
    o.bias = put_f32(dev, p->bias, (size_t) p->n_heads * (2 * (size_t) p->span - 1));
    const float *slots[N_SLOTS];
    float *grads[N_SLOTS];
    for (int i = 0; i < N_SLOTS; i++) {
        double *zeros = calloc(n_slot, sizeof *zeros);
        slots[i] = o.slots[i] = put_f32(dev, p->slots[i], n_slot);
        grads[i] = o.grads[i] = put_f32(dev, zeros, n_slot);
        free(zeros);
    }
    o.slot_table = put_bytes(dev, slots, sizeof slots);
    o.grad_table = put_bytes(dev, grads, sizeof grads);
    o.q_off = put_bytes(dev, p->q_off, sizeof p->q_off);
    o.k_off = put_bytes(dev, p->k_off, sizeof p->k_off);
    o.slot_of = put_bytes(dev, p->slot_of, sizeof p->slot_of);
    o.keys = put_bytes(dev, p->keys, n_q(p) * sizeof *p->keys);
    if (p->tree) {
        o.parent = put_bytes(dev, p->parent, n_q(p) * sizeof(int32_t));
        o.depth = put_bytes(dev, p->depth, n_q(p) * sizeof(int32_t));
    }
    const float *const *table = p->scaled ? o.slot_table : NULL;
    o.a = (ia3_attention){.n_heads = p->n_heads,
                          .d_kv = p->d,
                          .n_seq = p->n_seq,
                          .q_offsets = o.q_off,
                          .k_offsets = p->tree ? o.q_off : o.k_off,
                          .max_q = p->max_q,
                          .max_k = p->max_k,
                          .q = o.q,
                          .k = o.kv,
                          .v = (char *) o.kv + (size_t) p->inner * size,
                          .q_stride = (size_t) p->q_stride,
                          .kv_stride = (size_t) p->kv_stride,
                          .bias = p->biased ? o.bias : NULL,
                          .bias_span = p->span,
                          .parent = o.parent,
                          .depth = o.depth,
                          .scale_k = {table, o.slot_of, OFFSET},
                          .scale_v = {table, o.slot_of, OFFSET + (size_t) p->inner},
                          .dropout = {p->p, SITE, o.keys}};
    o.a.out = dev->ops->alloc(dev, n_q(p) * (size_t) p->inner * size + 1);
    o.a.lse = dev->ops->alloc(dev, n_q(p) * (size_t) p->n_heads * sizeof(float) + 1);
    o.dq = dev->ops->alloc(dev, n_q(p) * (size_t) p->q_stride * size + 1);
    o.dkv = dev->ops->alloc(dev, n_k(p) * (size_t) p->kv_stride * size + 1);
    o.g.dq = o.dq;
    o.g.dk = o.dkv;
    o.g.dv = (char *) o.dkv + (size_t) p->inner * size;
    o.g.grad_k = (ia3_scale_grad){o.grad_table, o.slot_of, OFFSET, N_SLOTS};
    o.g.grad_v = (ia3_scale_grad){o.grad_table, o.slot_of, OFFSET + (size_t) p->inner, N_SLOTS};
    return o;
}

static void
free_on_device(ia3_device *dev, on_device *o)
{
    void *all[] = {o->q,        o->kv,       o->dq,       o->dkv,        o->dout,       o->bias,  o->slots[0],
                   o->slots[1], o->grads[0], o->grads[1], o->slot_table, o->grad_table, o->q_off, o->k_off,
                   o->slot_of,  o->parent,   o->depth,    o->keys,       o->a.out,      o->a.lse};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        dev->ops->free(dev, all[i]);
}

/* Σ out·r, whose gradients the backward pass must give for dout = r. */
static double
loss(const problem *p, const double *r)
{
    size_t n = n_q(p) * (size_t) p->inner;
    double *out = calloc(n + 1, sizeof *out), *lse = calloc(n_q(p) * (size_t) p->n_heads + 1, sizeof *lse),
           sum = 0;
    reference(p, out, lse);
    for (size_t i = 0; i < n; i++)
        sum += out[i] * r[i];
    free(out);
    free(lse);
    return sum;
}

/* Compares some of the gradients of `x` (columns [0, cols) of rows of `stride`) with central differences. */
static void
check_gradient(const char *what, problem *p, const double *r, double *x, const double *got, size_t rows,
               size_t stride, size_t cols, double tolerance)
{
    enum { SAMPLES = 48 };
    double want[SAMPLES], have[SAMPLES];
    for (int i = 0; i < SAMPLES; i++) {
        size_t at = (size_t) random_below((int) rows) * stride + (size_t) random_below((int) cols);
        double saved = x[at], e = 1e-5;
        x[at] = saved + e;
        double up = loss(p, r);
        x[at] = saved - e;
        double down = loss(p, r);
        x[at] = saved;
        want[i] = (up - down) / (2 * e);
        have[i] = got[at];
    }
    assert_close(what, have, want, SAMPLES, tolerance);
}

static void
check_backward(ia3_device *dev, problem *p, on_device *o)
{
    double tolerance = is_bf16(dev) ? 1.5e-2 : 2e-5;
    double *r = random_values(n_q(p) * (size_t) p->inner, 1.0);
    o->g.dout = o->dout = put_act(dev, r, n_q(p) * (size_t) p->inner);
    dev->ops->attention_bwd(dev, &o->a, &o->g);
    double *dq = get_act(dev, o->dq, n_q(p) * (size_t) p->q_stride);
    double *dkv = get_act(dev, o->dkv, n_k(p) * (size_t) p->kv_stride);
    check_gradient("dq", p, r, p->q, dq, n_q(p), (size_t) p->q_stride, (size_t) p->inner, tolerance);
    check_gradient("dk, dv", p, r, p->kv, dkv, n_k(p), (size_t) p->kv_stride, 2 * (size_t) p->inner,
                   tolerance);
    free(dq);
    free(dkv);
    for (int i = 0; i < N_SLOTS && p->scaled; i++) {
        double *dl = get_f32(dev, o->grads[i], OFFSET + 2 * (size_t) p->inner);
        for (int x = 0; x < OFFSET; x++)
            assert_true(dl[x] == 0.0);
        check_gradient("dl", p, r, p->slots[i] + OFFSET, dl + OFFSET, 1, 0, 2 * (size_t) p->inner, tolerance);
        free(dl);
    }
    free(r);
}

static void
check(ia3_device *dev, problem p)
{
    on_device o = upload_problem(dev, &p);
    size_t n = n_q(&p) * (size_t) p.inner, n_lse = n_q(&p) * (size_t) p.n_heads;
    double *want = calloc(n, sizeof *want), *want_lse = calloc(n_lse, sizeof *want_lse);
    reference(&p, want, want_lse);
    dev->ops->attention(dev, &o.a);
    double *out = get_act(dev, o.a.out, n), *lse = get_f32(dev, o.a.lse, n_lse);
    assert_close("out", out, want, n, is_bf16(dev) ? 4e-3 : 5e-6);
    assert_close("lse", lse, want_lse, n_lse, 2e-6);
    free(out);
    free(lse);
    free(want);
    free(want_lse);
    check_backward(dev, &p, &o);
    free_on_device(dev, &o);
    free_problem(&p);
}

static void
on_encoder_sequences(ia3_device *dev)
{
    const int sizes[] = {5, 1, 17, 33}, longer[] = {70, 3};
    seed_random(11);
    check(dev, make_problem(3, 16, 4, sizes, sizes, false, true, true, 0));
    check(dev, make_problem(2, 64, 2, longer, longer, false, true, true, 0));
    check(dev, make_problem(1, 7, 4, sizes, sizes, false, false, false, 0));
}

static void
on_cross_attention(ia3_device *dev)
{
    const int q[] = {3, 66, 1, 9}, k[] = {20, 2, 1, 31};
    seed_random(12);
    check(dev, make_problem(2, 16, 4, q, k, false, true, false, 0));
}

static void
on_dropout(ia3_device *dev)
{
    const int sizes[] = {5, 65, 1}, small[] = {7, 12, 2};
    seed_random(13);
    check(dev, make_problem(2, 16, 3, sizes, sizes, false, true, true, 0.25f));
    check(dev, make_problem(2, 16, 3, small, small, true, true, true, 0.25f));
}

static void
on_trees(ia3_device *dev)
{
    const int sizes[] = {1, 9, 24, 2};
    seed_random(14);
    check(dev, make_problem(3, 16, 4, sizes, sizes, true, true, true, 0));
    check(dev, make_problem(2, 20, 4, sizes, sizes, true, false, true, 0));
}

static void
test_encoder(void **state)
{
    for_each_dtype(on_encoder_sequences);
}

static void
test_cross(void **state)
{
    for_each_dtype(on_cross_attention);
}

static void
test_dropout(void **state)
{
    for_each_dtype(on_dropout);
}

static void
test_trees(void **state)
{
    for_each_dtype(on_trees);
}

/* Sequences of no queries or no keys are legal beside others. */
static void
on_empty_sequences(ia3_device *dev)
{
    const int q[] = {0, 4, 3}, k[] = {5, 0, 6};
    seed_random(15);
    problem p = make_problem(2, 16, 3, q, k, false, true, false, 0);
    on_device o = upload_problem(dev, &p);
    size_t n = n_q(&p) * (size_t) p.inner;
    double *r = random_values(n, 1.0);
    dev->ops->attention(dev, &o.a);
    o.g.dout = o.dout = put_act(dev, r, n);
    dev->ops->attention_bwd(dev, &o.a, &o.g);
    double *out = get_act(dev, o.a.out, n), *dq = get_act(dev, o.dq, n_q(&p) * (size_t) p.q_stride);
    double *dkv = get_act(dev, o.dkv, n_k(&p) * (size_t) p.kv_stride);
    for (int i = 0; i < 4 * p.inner; i++)
        assert_true(out[i] == 0.0);
    for (int row = 0; row < 4; row++)
        for (int c = 0; c < p.inner; c++)
            assert_true(dq[row * p.q_stride + c] == 0.0);
    for (int row = 0; row < 5; row++)
        for (int c = 0; c < 2 * p.inner; c++)
            assert_true(dkv[row * p.kv_stride + c] == 0.0);
    for (size_t i = 4 * (size_t) p.inner; i < n; i++)
        assert_true(isfinite(out[i]) && out[i] != 0.0);
    free(out);
    free(dq);
    free(dkv);
    free(r);
    free_on_device(dev, &o);
    free_problem(&p);
}

static void
test_empty(void **state)
{
    for_each_dtype(on_empty_sequences);
}

/* Bits of out for a sequence alone and among others. */
static void
on_batch_invariance(ia3_device *dev)
{
    const int sizes[] = {13, 37, 5, 66};
    seed_random(16);
    problem p = make_problem(2, 32, 4, sizes, sizes, false, true, true, 0);
    on_device o = upload_problem(dev, &p);
    size_t n = n_q(&p) * (size_t) p.inner;
    dev->ops->attention(dev, &o.a);
    double *together = get_act(dev, o.a.out, n);
    for (int s = 0; s < 4; s++) {
        ia3_attention one = o.a;
        one.n_seq = 1;
        one.q_offsets += s;
        one.k_offsets += s;
        one.scale_k.slot_of += s;
        one.scale_v.slot_of += s;
        one.max_q = one.max_k = sizes[s];
        dev->ops->attention(dev, &one);
    }
    double *alone = get_act(dev, o.a.out, n);
    assert_memory_equal(together, alone, n * sizeof *alone);
    free(together);
    free(alone);
    free_on_device(dev, &o);
    free_problem(&p);
}

static void
test_batch_invariance(void **state)
{
    for_each_dtype(on_batch_invariance);
}

/* A tree that is a chain equals causal attention computed query by query without a tree. */
static void
on_chain(ia3_device *dev)
{
    const int sizes[] = {12};
    seed_random(17);
    problem p = make_problem(2, 16, 1, sizes, sizes, true, true, true, 0);
    for (int r = 0; r < sizes[0]; r++) {
        p.parent[r] = r - 1;
        p.depth[r] = r;
    }
    p.max_k = sizes[0];
    on_device o = upload_problem(dev, &p);
    size_t n = n_q(&p) * (size_t) p.inner, size = ia3_dtype_size(dev->dtype);
    dev->ops->attention(dev, &o.a);
    double *tree = get_act(dev, o.a.out, n);
    for (int32_t r = 0; r < sizes[0]; r++) {
        /* query r sees keys 0..r; its index 0 must meet the bias of j - r */
        int32_t q_off[2] = {0, 1}, k_off[2] = {0, r + 1};
        ia3_attention one = o.a;
        one.parent = one.depth = NULL;
        one.q = (char *) o.q + (size_t) r * (size_t) p.q_stride * size;
        one.out = (char *) o.a.out + (size_t) r * (size_t) p.inner * size;
        one.lse = o.a.lse + r * p.n_heads;
        one.bias = o.bias - r;
        one.q_offsets = put_bytes(dev, q_off, sizeof q_off);
        one.k_offsets = put_bytes(dev, k_off, sizeof k_off);
        one.max_q = 1;
        one.max_k = r + 1;
        dev->ops->attention(dev, &one);
        dev->ops->free(dev, (void *) (uintptr_t) one.q_offsets);
        dev->ops->free(dev, (void *) (uintptr_t) one.k_offsets);
    }
    double *flat = get_act(dev, o.a.out, n);
    assert_close("chain", tree, flat, n, is_bf16(dev) ? 8e-3 : 2e-6);
    free(tree);
    free(flat);
    free_on_device(dev, &o);
    free_problem(&p);
}

static void
test_chain(void **state)
{
    for_each_dtype(on_chain);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_encoder), cmocka_unit_test(test_cross), cmocka_unit_test(test_dropout),
        cmocka_unit_test(test_trees),   cmocka_unit_test(test_empty), cmocka_unit_test(test_batch_invariance),
        cmocka_unit_test(test_chain),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
