/*
 * test_attention_shapes.c
 *     Attention in every shape that a kernel may treat differently: head sizes, lengths around the sizes of tiles,
 *     strides of fused matrix products, and calls that leave out each optional part. Every element of every result is
 *     compared with a computation in double precision, and memory between the rows must not change.
 */
#include "attention_fixture.h"

/* The gradients of a problem by the chain rule, in double precision. */
typedef struct gradients {
    double *dq, *dkv;       /* like q, kv */
    double *slots[N_SLOTS]; /* like slots */
    double *bias;           /* like bias */
} gradients;

static size_t
n_bias(const problem *p)
{
    return (size_t) p->n_heads * (2 * (size_t) p->span - 1);
}

static gradients
make_gradients(const problem *p)
{
    gradients g;
    g.dq = calloc(n_q(p) * (size_t) p->q_stride + 1, sizeof(double));
    g.dkv = calloc(n_k(p) * (size_t) p->kv_stride + 1, sizeof(double));
    for (int i = 0; i < N_SLOTS; i++)
        g.slots[i] = calloc(OFFSET + 2 * (size_t) p->inner, sizeof(double));
    g.bias = calloc(n_bias(p), sizeof(double));
    return g;
}

static void
free_gradients(gradients *g)
{
    free(g->dq);
    free(g->dkv);
    for (int i = 0; i < N_SLOTS; i++)
        free(g->slots[i]);
    free(g->bias);
}

/* Adds the contribution of one query and head, for dout; computes Σ P·dP over the keys first. */
static void
reference_bwd_row(const problem *p, int s, int32_t row, int h, const double *dout, double lse, gradients *g,
                  const int32_t *keys, int n, double *weight, double *dp)
{
    const double *l = p->slots[p->slot_of[s]] + OFFSET, *q = p->q + (size_t) row * (size_t) p->q_stride;
    double *dl = g->slots[p->slot_of[s]] + OFFSET, sum = 0;
    int base = h * p->d, i = p->tree ? p->depth[row] : row - p->q_off[s], inner = p->inner;
    for (int x = 0; x < n; x++) {
        const double *kv = p->kv + (size_t) keys[x] * (size_t) p->kv_stride;
        double score = p->biased ? p->bias[h * (2 * p->span - 1) + x - i + p->span - 1] : 0;
        dp[x] = 0;
        for (int c = base; c < base + p->d; c++) {
            score += q[c] * kv[c] * (p->scaled ? l[c] : 1);
            dp[x] += dout[c] * kv[inner + c] * (p->scaled ? l[inner + c] : 1);
        }
        dp[x] *= drop_factor(p->p, (uint32_t) (SITE + h), p->keys[row], (uint32_t) x);
        weight[x] = exp(score - lse);
        sum += weight[x] * dp[x];
    }
    for (int x = 0; x < n; x++) {
        const double *kv = p->kv + (size_t) keys[x] * (size_t) p->kv_stride;
        double *dkv = g->dkv + (size_t) keys[x] * (size_t) p->kv_stride, ds = weight[x] * (dp[x] - sum);
        g->bias[h * (2 * p->span - 1) + x - i + p->span - 1] += ds;
        double kept = weight[x] * drop_factor(p->p, (uint32_t) (SITE + h), p->keys[row], (uint32_t) x);
        for (int c = base; c < base + p->d; c++) {
            double lk = p->scaled ? l[c] : 1, lv = p->scaled ? l[inner + c] : 1;
            g->dq[(size_t) row * (size_t) p->q_stride + (size_t) c] += ds * kv[c] * lk;
            dkv[c] += ds * q[c] * lk;
            dkv[inner + c] += kept * dout[c] * lv;
            dl[c] += ds * q[c] * kv[c];
            dl[inner + c] += kept * dout[c] * kv[inner + c];
        }
    }
}

static gradients
reference_bwd(const problem *p, const double *dout, const double *lse)
{
    gradients g = make_gradients(p);
    int32_t *keys = calloc(n_k(p) + 1, sizeof *keys);
    double *weight = calloc(n_k(p) + 1, sizeof *weight), *dp = calloc(n_k(p) + 1, sizeof *dp);
    for (int s = 0; s < p->n_seq; s++)
        for (int32_t row = p->q_off[s]; row < p->q_off[s + 1]; row++) {
            int n = visible(p, s, row, keys);
            for (int h = 0; h < p->n_heads; h++)
                reference_bwd_row(p, s, row, h, dout + (size_t) row * (size_t) p->inner,
                                  lse[row * p->n_heads + h], &g, keys, n, weight, dp);
        }
    free(keys);
    free(weight);
    free(dp);
    return g;
}

enum { SENTINEL = 77 };

/* Fills an act array with a number that bf16 represents exactly. */
static void
fill(ia3_device *dev, void *p, size_t n)
{
    uint16_t half = ia3_f32_to_bf16(SENTINEL);
    float one = SENTINEL;
    char *host = calloc(n + 1, 4);
    for (size_t i = 0; i < n; i++)
        if (is_bf16(dev))
            memcpy(host + i * sizeof half, &half, sizeof half);
        else
            memcpy(host + i * sizeof one, &one, sizeof one);
    dev->ops->upload(dev, p, host, n * ia3_dtype_size(dev->dtype));
    free(host);
}

/* Compares columns [first, first + cols) of rows of `stride` elements; all others must be as fill() left them. */
static void
check_rows(const char *what, double *got, const double *want, size_t rows, size_t stride, size_t cols,
           double tolerance)
{
    for (size_t r = 0; r < rows; r++)
        for (size_t c = cols; c < stride; c++) {
            if (got[r * stride + c] != SENTINEL)
                fail_msg("%s: row %zu was written at column %zu, behind its end", what, r, c);
            got[r * stride + c] = 0;
        }
    assert_close(what, got, want, rows * stride, tolerance);
}

/* The optional parts that a call leaves out. slack: a factor for tolerances; 0 means 1. */
typedef struct options {
    bool no_lse, no_dq, no_dl, no_bias;
    double slack;
} options;

static void
check_gradients(ia3_device *dev, problem *p, on_device *o, const gradients *want, options left_out)
{
    double tolerance = (is_bf16(dev) ? 1.5e-2 : 2e-5) * (left_out.slack ? left_out.slack : 1);
    bool with_dq = !left_out.no_dq, with_dl = !left_out.no_dl;
    double *dq = get_act(dev, o->dq, n_q(p) * (size_t) p->q_stride);
    double *dkv = get_act(dev, o->dkv, n_k(p) * (size_t) p->kv_stride);
    if (with_dq)
        check_rows("dq", dq, want->dq, n_q(p), (size_t) p->q_stride, (size_t) p->inner, tolerance);
    check_rows("dk, dv", dkv, want->dkv, n_k(p), (size_t) p->kv_stride, 2 * (size_t) p->inner, tolerance);
    free(dq);
    free(dkv);
    for (int i = 0; i < N_SLOTS; i++) {
        double *dl = get_f32(dev, o->grads[i], OFFSET + 2 * (size_t) p->inner);
        if (with_dl)
            assert_close("dl", dl, want->slots[i], OFFSET + 2 * (size_t) p->inner, tolerance);
        for (size_t x = 0; x < OFFSET + 2 * (size_t) p->inner && !with_dl; x++)
            assert_true(dl[x] == 0.0);
        free(dl);
    }
    if (o->g.dbias) {
        double *dbias = get_f32(dev, o->dbias, n_bias(p));
        for (size_t i = 0; i < n_bias(p); i++)
            dbias[i] -= 1;
        assert_close("dbias", dbias, want->bias, n_bias(p), tolerance);
        free(dbias);
    }
}

/* Asks for the gradient of the bias, which is added to ones. */
static void
ask_for_bias(ia3_device *dev, const problem *p, on_device *o)
{
    double *ones = calloc(n_bias(p), sizeof *ones);
    for (size_t i = 0; i < n_bias(p); i++)
        ones[i] = 1;
    o->g.dbias = o->dbias = put_f32(dev, ones, n_bias(p));
    free(ones);
}

static void
check(ia3_device *dev, problem p, options left_out)
{
    /* a product of bf16 by a vector in fp32 may be taken as two of bf16, which keep 16 bits */
    double slack = left_out.slack ? left_out.slack : 1, lse_tolerance = (is_bf16(dev) ? 6e-6 : 2e-6) * slack;
    on_device o = upload_problem(dev, &p);
    size_t n = n_q(&p) * (size_t) p.inner, n_lse = n_q(&p) * (size_t) p.n_heads;
    double *want = calloc(n + 1, sizeof *want), *want_lse = calloc(n_lse + 1, sizeof *want_lse);
    reference(&p, want, want_lse);
    if (left_out.no_lse) {
        float *lse = o.a.lse;
        o.a.lse = NULL;
        dev->ops->attention(dev, &o.a);
        o.a.lse = lse;
    } else {
        dev->ops->attention(dev, &o.a);
        double *lse = get_f32(dev, o.a.lse, n_lse);
        assert_close("lse", lse, want_lse, n_lse, lse_tolerance);
        free(lse);
    }
    double *out = get_act(dev, o.a.out, n);
    assert_close("out", out, want, n, (is_bf16(dev) ? 6e-3 : 5e-6) * slack);
    free(out);
    free(want);
    if (!left_out.no_lse) {
        double *r = random_values(n, 1.0);
        o.g.dout = o.dout = put_act(dev, r, n);
        fill(dev, o.dq, n_q(&p) * (size_t) p.q_stride);
        fill(dev, o.dkv, n_k(&p) * (size_t) p.kv_stride);
        if (left_out.no_dq)
            o.g.dq = NULL;
        if (left_out.no_dl)
            o.g.grad_k.slots = o.g.grad_v.slots = NULL;
        if (!left_out.no_bias)
            ask_for_bias(dev, &p, &o);
        dev->ops->attention_bwd(dev, &o.a, &o.g);
        gradients g = reference_bwd(&p, r, want_lse);
        check_gradients(dev, &p, &o, &g, left_out);
        free_gradients(&g);
        free(r);
    }
    free(want_lse);
    free_on_device(dev, &o);
    free_problem(&p);
}

/* Strides of self-attention's fused product, q beside k and v. */
static problem
fused(int n_heads, int d, int n_seq, const int *q_len, const int *k_len, bool scaled, bool biased, float drop)
{
    int inner = n_heads * d;
    return make_problem_strided(n_heads, d, n_seq, q_len, k_len, false, scaled, biased, drop, 3 * inner,
                                3 * inner);
}

/* Strides of cross-attention: q alone, k beside v. */
static problem
crossed(int n_heads, int d, int n_seq, const int *q_len, const int *k_len, float drop)
{
    int inner = n_heads * d;
    return make_problem_strided(n_heads, d, n_seq, q_len, k_len, false, true, false, drop, inner, 2 * inner);
}

static void
on_head_sizes(ia3_device *dev)
{
    const int sizes[] = {8, 16, 24, 32, 40, 48, 64, 80, 96, 128, 1, 7, 12, 20, 136, 192};
    const int len[] = {5, 19};
    seed_random(21);
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        check(dev, fused(2, sizes[i], 2, len, len, true, true, 0), (options){0});
        check(dev, fused(1, sizes[i], 2, len, len, false, true, 0.3f), (options){0});
    }
}

static void
on_lengths(ia3_device *dev)
{
    const int len[] = {1, 16, 17, 31, 32, 33, 63, 64, 65, 103};
    seed_random(22);
    check(dev, fused(1, 64, 10, len, len, true, true, 0), (options){0});
    check(dev, fused(2, 32, 10, len, len, true, true, 0.1f), (options){0});
    const int two[] = {66, 129};
    check(dev, fused(1, 128, 2, two, two, true, true, 0.1f), (options){0});
    check(dev, fused(1, 12, 2, two, two, true, true, 0.1f), (options){0});
}

/* More tiles of keys than there are blocks to share them, for both the fast and the generic kernels. */
static void
on_long_keys(ia3_device *dev)
{
    const int q[] = {3, 2}, k[] = {600, 70};
    seed_random(23);
    check(dev, crossed(1, 16, 2, q, k, 0), (options){0});
    check(dev, crossed(1, 9, 2, q, k, 0.2f), (options){0});
}

/*
 * If one key has all the weight, dq is the difference of dP and dout · out, which are equal except for the rounding of
 * out. This is why tolerances have a slack.
 */
static void
on_lopsided_lengths(ia3_device *dev)
{
    const int q[] = {1, 70, 0, 2, 5}, k[] = {40, 1, 9, 130, 64};
    seed_random(24);
    check(dev, crossed(2, 64, 5, q, k, 0), (options){.slack = 2});
    check(dev, crossed(2, 32, 5, q, k, 0.4f), (options){.slack = 2});
}

static void
on_parts_left_out(ia3_device *dev)
{
    const int len[] = {9, 21, 1};
    seed_random(25);
    check(dev, fused(2, 16, 3, len, len, true, true, 0), (options){.no_lse = true});
    check(dev, fused(2, 16, 3, len, len, true, true, 0.1f), (options){.no_dq = true});
    check(dev, fused(2, 16, 3, len, len, true, true, 0), (options){.no_dl = true});
    check(dev, fused(2, 16, 3, len, len, false, false, 0), (options){.no_dq = true, .no_dl = true});
    check(dev, fused(2, 16, 3, len, len, true, true, 0), (options){.no_bias = true});
    check(dev, fused(2, 10, 3, len, len, true, true, 0), (options){.no_lse = true});
    check(dev, fused(2, 10, 3, len, len, true, true, 0.1f), (options){.no_dq = true});
    check(dev, fused(2, 10, 3, len, len, true, true, 0), (options){.no_dl = true});
    check(dev, fused(2, 10, 3, len, len, true, true, 0.1f), (options){.no_bias = true});
    check(dev, make_problem(2, 16, 3, len, len, true, true, true, 0), (options){.no_bias = true});
    check(dev, make_problem(2, 16, 3, len, len, true, true, true, 0), (options){.no_lse = true});
    check(dev, make_problem(2, 16, 3, len, len, true, true, true, 0.1f), (options){.no_dq = true});
    check(dev, make_problem(2, 16, 3, len, len, true, true, true, 0), (options){.no_dl = true});
}

/* Trees of many rows, wide heads, and paths longer than a warp is wide. */
static void
on_trees(ia3_device *dev)
{
    const int len[] = {1, 40, 3, 80}, few[] = {11, 2};
    seed_random(26);
    check(dev, make_problem(2, 64, 4, len, len, true, true, true, 0), (options){0});
    check(dev, make_problem(1, 32, 4, len, len, true, true, true, 0.2f), (options){0});
    check(dev, make_problem(1, 128, 2, few, few, true, true, true, 0.2f), (options){0});
    check(dev, make_problem(1, 130, 2, few, few, true, false, false, 0), (options){0});
    problem chain = make_problem(1, 16, 1, len + 3, len + 3, true, true, true, 0.1f);
    for (int32_t r = 0; r < len[3]; r++) {
        chain.parent[r] = r - 1;
        chain.depth[r] = r;
    }
    chain.max_k = len[3];
    check(dev, chain, (options){0});
}

/* Scores as large as those of T5, for which rounding a product to bf16 would cause errors of tenths. */
static void
on_large_scores(ia3_device *dev)
{
    const int len[] = {48};
    seed_random(27);
    problem p = fused(1, 64, 1, len, len, true, true, 0);
    for (size_t i = 0; i < n_q(&p) * (size_t) p.q_stride; i++)
        p.q[i] *= 10;
    check(dev, p, (options){.slack = 4});
}

static void
on_nothing(ia3_device *dev)
{
    const int none[] = {0, 0};
    seed_random(28);
    check(dev, fused(1, 16, 2, none, none, true, true, 0), (options){0});
    check(dev, fused(1, 10, 2, none, none, true, true, 0), (options){0});
    check(dev, make_problem(1, 16, 2, none, none, true, true, true, 0), (options){0});
}

/* Lengths just below, at and above the CPU's tiles of 48 queries and 128 keys. */
static void
on_tile_edges(ia3_device *dev)
{
    const int q[] = {47, 48, 49, 97}, k[] = {127, 128, 129, 257};
    seed_random(29);
    check(dev, crossed(1, 64, 4, q, k, 0), (options){.slack = 2});
    check(dev, crossed(1, 20, 4, k, q, 0.2f), (options){.slack = 2});
    check(dev, fused(1, 32, 2, k, k, true, true, 0.1f), (options){.slack = 2});
    const int one[] = {1, 2}, many[] = {129, 385};
    check(dev, crossed(1, 16, 2, one, many, 0), (options){.slack = 4});
    check(dev, crossed(1, 16, 2, many, one, 0), (options){.slack = 4});
}

/* Scores that rise, or fall, with the index of the key, so that each tile has a larger maximum than those before it, or none. */
static void
on_sloping_scores(ia3_device *dev)
{
    const int len[] = {300};
    const double slopes[] = {0.2, -0.2, 3, -3};
    seed_random(30);
    for (size_t i = 0; i < sizeof slopes / sizeof slopes[0]; i++) {
        problem p = fused(1, 16, 1, len, len, true, true, 0);
        for (int x = 0; x < 2 * p.span - 1; x++)
            p.bias[x] = slopes[i] * (x - p.span);
        check(dev, p, (options){.slack = 16});
    }
}

/* One key has all the weight, wherever it is and however large its score is. */
static void
on_one_key(ia3_device *dev)
{
    const int q[] = {5}, k[] = {300};
    const int at[] = {0, 127, 128, 299};
    const double sizes[] = {100, 1e15};
    seed_random(31);
    for (size_t i = 0; i < 8; i++) {
        problem p = crossed(1, 16, 1, q, k, 0);
        for (int c = 0; c < p.d; c++) {
            for (int r = 0; r < q[0]; r++)
                p.q[r * p.q_stride + c] = 0.5 + r;
            for (int s = 0; s < N_SLOTS; s++)
                p.slots[s][OFFSET + c] = 1;
            p.kv[at[i / 2] * p.kv_stride + c] = sizes[i % 2];
        }
        on_device o = upload_problem(dev, &p);
        dev->ops->attention(dev, &o.a);
        double *out = get_act(dev, o.a.out, n_q(&p) * (size_t) p.inner), want[16];
        const double *l = p.slots[p.slot_of[0]] + OFFSET + p.inner;
        for (int c = 0; c < p.d; c++)
            want[c] = p.kv[at[i / 2] * p.kv_stride + p.inner + c] * l[c];
        for (int r = 0; r < q[0]; r++)
            assert_close("out", out + r * p.inner, want, (size_t) p.d, is_bf16(dev) ? 4e-3 : 1e-6);
        free(out);
        free_on_device(dev, &o);
        free_problem(&p);
    }
}

/* A query's result has the same bits in any slice of the queries. */
static void
on_slices(ia3_device *dev)
{
    const int len[] = {150}, slices[] = {1, 17, 48, 64, 96};
    seed_random(32);
    problem p = fused(2, 32, 1, len, len, true, true, 0);
    on_device o = upload_problem(dev, &p);
    size_t n = n_q(&p) * (size_t) p.inner, size = ia3_dtype_size(dev->dtype);
    dev->ops->attention(dev, &o.a);
    double *whole = get_act(dev, o.a.out, n);
    for (size_t i = 0; i < sizeof slices / sizeof slices[0]; i++) {
        fill(dev, o.a.out, n);
        for (int32_t at = 0; at < len[0]; at += slices[i]) {
            int32_t q_off[2] = {0, len[0] - at < slices[i] ? len[0] - at : slices[i]};
            ia3_attention a = o.a;
            a.q_offsets = put_bytes(dev, q_off, sizeof q_off);
            a.max_q = q_off[1];
            a.q = (char *) o.q + (size_t) at * (size_t) p.q_stride * size;
            a.out = (char *) o.a.out + (size_t) at * (size_t) p.inner * size;
            a.lse = NULL;
            a.bias -= at;
            dev->ops->attention(dev, &a);
            dev->ops->free(dev, (void *) (uintptr_t) a.q_offsets);
        }
        double *sliced = get_act(dev, o.a.out, n);
        assert_memory_equal(whole, sliced, n * sizeof *whole);
        free(sliced);
    }
    free(whole);
    free_on_device(dev, &o);
    free_problem(&p);
}

#define FOR_EACH_DTYPE(name)                                                                                 \
    static void test_##name(void **state)                                                                    \
    {                                                                                                        \
        for_each_dtype(on_##name);                                                                           \
    }
FOR_EACH_DTYPE(head_sizes)
FOR_EACH_DTYPE(lengths)
FOR_EACH_DTYPE(long_keys)
FOR_EACH_DTYPE(lopsided_lengths)
FOR_EACH_DTYPE(parts_left_out)
FOR_EACH_DTYPE(trees)
FOR_EACH_DTYPE(large_scores)
FOR_EACH_DTYPE(nothing)
FOR_EACH_DTYPE(tile_edges)
FOR_EACH_DTYPE(sloping_scores)
FOR_EACH_DTYPE(one_key)
FOR_EACH_DTYPE(slices)

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_head_sizes),     cmocka_unit_test(test_lengths),
        cmocka_unit_test(test_long_keys),      cmocka_unit_test(test_lopsided_lengths),
        cmocka_unit_test(test_parts_left_out), cmocka_unit_test(test_trees),
        cmocka_unit_test(test_large_scores),   cmocka_unit_test(test_nothing),
        cmocka_unit_test(test_tile_edges),     cmocka_unit_test(test_sloping_scores),
        cmocka_unit_test(test_one_key),        cmocka_unit_test(test_slices),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
