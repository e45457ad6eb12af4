/*
 * test_server_labels.c
 *     Rows of ordinary and of multi-label sets in one batch of a running engine.
 */
#include "engine_requests.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <unistd.h>
#include <cmocka.h>

#define BACKBONE  "test/backbone"
#define TOLERANCE 1e-4

enum { ROWS = 24, SETS = 4 };

static const char *const topics[] = {"account", "billing", "bug", "slow reply", NULL};
static const char *const sentiment[] = {"positive", "negative", NULL};
static const char *const one[] = {"billing", NULL};
static const char *const texts[] = {"the invoice was charged twice", "nobody answers my calls", "it is"};
static const int n_of_set[SETS] = {4, 2, 4, 1};

static int
start_engine(void **state)
{
    static test_engine engine;
    static const char *const extra[] = {"--dtype", "float32", NULL};
    *state = &engine;
    return test_engine_start(&engine, BACKBONE, extra) ? 0 : -1;
}

static int
stop_engine(void **state)
{
    return test_engine_stop(*state, true);
}

/* The scores in one batch are those alone, and a set of the other kind with the same choices means something else. */
static void
test_mixed(void **state)
{
    test_client c;
    test_client_open(&c, *state);
    test_rows rows = {.sets = {topics, sentiment, topics, one}, .multi_label = 1 | 8, .n_rows = ROWS};
    double got[ROWS][4], alone[4];
    for (uint32_t i = 0; i < ROWS; i++)
        rows.rows[i] = (test_row){.text = texts[i % 3], .set = i / 3 % SETS};
    test_put_rows(&c, &rows);
    assert_int_equal(test_call(&c, NULL), IA3_SCORE_OK);
    for (int i = 0; i < ROWS; i++)
        test_get_scores(&c, got[i], n_of_set[rows.rows[i].set]);
    assert_true(test_get_flops(&c) > 0);
    for (int i = 0; i < ROWS; i++) {
        const int n = n_of_set[rows.rows[i].set];
        test_rows single = rows;
        single.n_rows = 1;
        single.rows[0] = rows.rows[i];
        test_put_rows(&c, &single);
        assert_int_equal(test_call(&c, NULL), IA3_SCORE_OK);
        test_get_scores(&c, alone, n);
        for (int k = 0; k < n; k++)
            assert_true(fabs(alone[k] - got[i][k]) < TOLERANCE);
    }
    for (int i = 0; i < 3; i++) {
        assert_true(fabs(got[i][1] - got[9 + i][0]) < TOLERANCE); /* a label does not depend on others */
        assert_true(fabs(got[i][1] - got[6 + i][1]) > 0.01);
    }
    test_client_close(&c);
}

/* However many labels there are, the input is encoded once: it costs more than the labels do. */
static void
test_flops(void **state)
{
    double flops[2];
    char text[1600] = "";
    for (int i = 0; i < 300; i++)
        strcat(text, "word ");
    for (int k = 0; k < 2; k++) {
        test_client c;
        double scores[4];
        test_client_open(&c, *state);
        test_rows rows = {.max_input_tokens = 512,
                          .sets = {k == 0 ? one : topics},
                          .multi_label = 1,
                          .n_rows = 1,
                          .rows = {{.text = text}}};
        test_put_rows(&c, &rows);
        assert_int_equal(test_call(&c, NULL), IA3_SCORE_OK);
        test_get_scores(&c, scores, k == 0 ? 1 : 4);
        flops[k] = test_get_flops(&c);
        test_client_close(&c);
    }
    assert_true(flops[1] > flops[0] && flops[1] < 1.5 * flops[0]);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_mixed), cmocka_unit_test(test_flops)};
    alarm(1200);
    return cmocka_run_group_tests_name("server labels", tests, start_engine, stop_engine);
}
