/*
 * test_kernels_attention.c
 *     Attention, forward and backward, compared with a computation in double precision and its finite differences.
 */
#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

#include "attention_fixture.h"

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

/* Compares some of the gradients of x (columns [0, cols) of rows of `stride` elements) with central differences. */
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

/* Checks that the gradient of the bias has been added to `before`. */
static void
check_bias_gradient(ia3_device *dev, problem *p, const float *dbias, const double *before, const double *r,
                    double tolerance)
{
    const size_t width = 2 * (size_t) p->span - 1, n = (size_t) p->n_heads * width;
    double *got = get_f32(dev, dbias, n);
    for (size_t i = 0; i < n; i++)
        got[i] -= before[i];
    check_gradient("dbias", p, r, p->bias, got, (size_t) p->n_heads, width, width, tolerance);
    free(got);
}

static void
check_backward(ia3_device *dev, problem *p, on_device *o, double tolerance)
{
    const size_t n_bias = (size_t) p->n_heads * (2 * (size_t) p->span - 1);
    double *r = random_values(n_q(p) * (size_t) p->inner, 1.0), *before = random_values(n_bias, 1.0);
    o->g.dout = o->dout = put_act(dev, r, n_q(p) * (size_t) p->inner);
    if (p->biased)
        o->g.dbias = o->dbias = put_f32(dev, before, n_bias);
    dev->ops->attention_bwd(dev, &o->a, &o->g);
    if (o->dbias)
        check_bias_gradient(dev, p, o->dbias, before, r, tolerance);
    free(before);
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
    /* bfloat16: scaled queries are taken in two parts of eight bits */
    assert_close("lse", lse, want_lse, n_lse, is_bf16(dev) ? 1e-5 : 2e-6);
    free(out);
    free(lse);
    free(want);
    free(want_lse);
    check_backward(dev, &p, &o, is_bf16(dev) ? 1.5e-2 : 2e-5);
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

/* Sequences without queries or without keys are allowed beside others. */
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

/* The output for a sequence has identical bits alone and among others. */
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

/* Opens a GPU with hardly more memory than the problem takes, or a CPU. */
static ia3_device *
open_tight(ia3_dtype dtype, problem *p)
{
    ia3_device *dev = open_device(dtype, 2, 0);
    on_device o = upload_problem(dev, p);
    size_t used = dev->ops->memory_used(dev);
    free_on_device(dev, &o);
    char name[sizeof dev->name];
    memcpy(name, dev->name, sizeof name);
    dev->ops->close(dev);
    return open_device(dtype, 2, strncmp(name, "cuda", 4) == 0 ? used + (64 << 10) : 0);
}

/* The gradients of the last sequence alone, in its rows among the others' and in memory that has room only for it. */
static void
shifted(ia3_dtype dtype)
{
    const int sizes[] = {70, 80, 2}, d = 16;
    seed_random(18);
    problem p = make_problem_strided(2, d, 3, sizes, sizes, false, false, true, 0, 2 * d, 4 * d);
    ia3_device *dev = open_tight(dtype, &p);
    on_device o = upload_problem(dev, &p);
    size_t n = n_q(&p) * (size_t) p.inner, n_dq = n_q(&p) * (size_t) p.q_stride,
           last = n_dq - 2 * (size_t) p.q_stride;
    double *r = random_values(n, 1.0);
    o.g.dout = o.dout = put_act(dev, r, n);
    o.g.grad_k.slots = o.g.grad_v.slots = NULL;
    dev->ops->attention(dev, &o.a);
    ia3_attention one = o.a;
    one.n_seq = 1;
    one.q_offsets += 2;
    one.k_offsets += 2;
    one.max_q = one.max_k = sizes[2];
    dev->ops->attention_bwd(dev, &one, &o.g);
    double *alone = get_act(dev, o.dq, n_dq);
    dev->ops->attention_bwd(dev, &o.a, &o.g);
    double *together = get_act(dev, o.dq, n_dq);
    assert_close("dq", alone + last, together + last, n_dq - last, is_bf16(dev) ? 1e-2 : 1e-5);
    free(alone);
    free(together);
    free(r);
    free_on_device(dev, &o);
    dev->ops->close(dev);
    free_problem(&p);
}

static void
test_shifted(void **state)
{
    shifted(IA3_F32);
    shifted(IA3_BF16);
}

/* A tree that is a chain gives the same results as causal attention computed query by query without a tree. */
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

/*
 * Scores that are hundreds apart give the right results and, on a CPU, lead to no arithmetic with denormal numbers, which takes
 * a hundred times as long.
 */
static void
test_large_scores(void **state)
{
    const int sizes[] = {150, 20};
    seed_random(19);
    problem p = make_problem(2, 64, 2, sizes, sizes, false, true, true, 0);
    for (size_t i = 0; i < n_q(&p) * (size_t) p.q_stride; i++)
        p.q[i] *= 16;
    ia3_device *dev = open_device(IA3_F32, 1, 0);
    on_device o = upload_problem(dev, &p);
    size_t n = n_q(&p) * (size_t) p.inner;
    double *want = calloc(n, sizeof *want), *lse = calloc(n_q(&p) * 2, sizeof *lse);
    double *r = random_values(n, 1.0);
    reference(&p, want, lse);
    o.g.dout = o.dout = put_act(dev, r, n);
#if defined(__x86_64__)
    _mm_setcsr(_mm_getcsr() & ~(unsigned) _MM_EXCEPT_MASK);
#endif
    dev->ops->attention(dev, &o.a);
    dev->ops->attention_bwd(dev, &o.a, &o.g);
#if defined(__x86_64__)
    if (strcmp(dev->name, "cpu") == 0)
        assert_int_equal(_mm_getcsr() & (_MM_EXCEPT_DENORM | _MM_EXCEPT_UNDERFLOW), 0);
#endif
    double *out = get_act(dev, o.a.out, n);
    assert_close("out", out, want, n, 1e-4);
    free(out);
    free(want);
    free(lse);
    free(r);
    free_on_device(dev, &o);
    o = upload_problem(dev, &p);
    dev->ops->attention(dev, &o.a);
    check_backward(dev, &p, &o, 1e-3);
    free_on_device(dev, &o);
    dev->ops->close(dev);
    free_problem(&p);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_encoder),      cmocka_unit_test(test_cross),
        cmocka_unit_test(test_dropout),      cmocka_unit_test(test_trees),
        cmocka_unit_test(test_empty),        cmocka_unit_test(test_batch_invariance),
        cmocka_unit_test(test_chain),        cmocka_unit_test(test_shifted),
        cmocka_unit_test(test_large_scores),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
