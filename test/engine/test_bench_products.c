/*
 * test_bench_products.c
 *     The numbers of matrix products by which benchmarks divide, compared with numbers computed by hand.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "bench/bench_products.h"

/* T5-v1.1-base */
static const ia3_config base = {.vocab_size = 32128,
                                .d_model = 768,
                                .d_kv = 64,
                                .n_heads = 12,
                                .d_ff = 2048,
                                .inner = 768,
                                .n_enc = 12,
                                .n_dec = 12,
                                .gated = true};

/* All dimensions are different, there is no gate, and the stacks have different numbers of layers. */
static const ia3_config odd = {
    .vocab_size = 100, .d_model = 10, .inner = 6, .d_ff = 20, .n_enc = 3, .n_dec = 2, .gated = false};

static int64_t
rows_of(const bench_products *p, int k, int n)
{
    for (int i = 0; i < p->n; i++)
        if (p->v[i].k == k && p->v[i].n == n)
            return p->v[i].rows;
    return -1;
}

/* Multiplications per input token: 84,934,656 in the encoder and 14,155,776 for cross-attention's keys and values; per
 * decoder row 99,090,432 in the layers and 24,674,304 for the vocabulary. */
static void
test_base(void **state)
{
    bench_products one = {0}, other = {0};
    bench_products_forward(&one, &base, 1, 0, 1);
    assert_true(bench_products_flops(&one) == 2.0 * (84934656 + 14155776));
    bench_products_forward(&other, &base, 0, 1, 0);
    assert_true(bench_products_flops(&other) == 2.0 * (99090432 + 24674304));
}

/* 7 input tokens, 5 decoder rows: 3·7 + 2·5 = 31 rows of the products that both stacks have. */
static void
test_forward(void **state)
{
    bench_products p = {0};
    bench_products_forward(&p, &odd, 7, 5, 7);
    assert_int_equal(rows_of(&p, 10, 18), 31);     /* q, k, v */
    assert_int_equal(rows_of(&p, 6, 10), 31 + 10); /* o, cross o */
    assert_int_equal(rows_of(&p, 10, 20), 31);     /* wi */
    assert_int_equal(rows_of(&p, 20, 10), 31);     /* wo */
    assert_int_equal(rows_of(&p, 10, 6), 2 * 5);   /* cross q */
    assert_int_equal(rows_of(&p, 10, 12), 2 * 7);  /* cross k, v */
    assert_int_equal(rows_of(&p, 10, 100), 5);     /* vocabulary */
    assert_int_equal(p.n, 7);
}

/* The transposed products, without q, k, v of the first layers: 31 - 7 - 5 = 19 rows of these. */
static void
test_backward(void **state)
{
    bench_products p = {0};
    bench_products_backward(&p, &odd, 7, 5);
    assert_int_equal(rows_of(&p, 18, 10), 19);
    assert_int_equal(rows_of(&p, 10, 6), 31 + 10);
    assert_int_equal(rows_of(&p, 20, 10), 31);
    assert_int_equal(rows_of(&p, 10, 20), 31);
    assert_int_equal(rows_of(&p, 6, 10), 2 * 5);
    assert_int_equal(rows_of(&p, 12, 10), 2 * 7);
    assert_int_equal(rows_of(&p, 100, 10), 5);
    assert_int_equal(p.n, 7);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_base), cmocka_unit_test(test_forward),
                                       cmocka_unit_test(test_backward)};

    return cmocka_run_group_tests_name("bench products", tests, NULL, NULL);
}
