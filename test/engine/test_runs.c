/*
 * test_runs.c
 *     TRAIN_RUNS: several training runs on parts of the same examples have the results that they have one by one.
 */
#include <fcntl.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "engine_requests.h"

#define BACKBONE "test/backbone"
#define RUNS     5

static const test_run runs[RUNS] = {{7, 3, {1, 2, 3}, 0, {0}},
                                    {8, 2, {3, 0}, 2, {1, 5}},
                                    {9, 4, {0, 1, 2, 3}, 4, {0.5, 3, 0, 1}},
                                    {7, 3, {3, 2, 1}, 0, {0}},
                                    {1ull << 40, 1, {2}, 1, {0.125}}};

/* Two labels, of which the first has two verbalizers. */
static const char *const words[] = {"good", "fine", "bad", NULL};
static const uint32_t words_of[] = {2, 1};

static void
start(test_engine *e, const char *max_batch_tokens)
{
    const char *const extra[] = {"--dtype", "float32", "--max-batch-tokens", max_batch_tokens, NULL};
    assert_true(test_engine_start(e, BACKBONE, extra));
}

static test_recipe
make_recipe(void)
{
    test_recipe recipe = test_default_recipe();
    recipe.steps = 7;
    recipe.batch_size = 2;
    recipe.dropout = 0.1;
    recipe.runs = runs;
    recipe.n_runs = RUNS;
    return recipe;
}

/* Reads a str of the reply, which must be what is expected. */
static void
expect_bytes(test_client *c, const uint8_t *expected, size_t len)
{
    size_t n;
    const char *bytes = ia3_get_str(&c->reader, &n);
    assert_int_equal(n, len);
    assert_memory_equal(bytes, expected, n);
}

/* Trains run k by a TRAIN of its own. The result is malloc'd. */
static uint8_t *
train_alone(test_client *c, test_recipe recipe, int k, size_t *len)
{
    recipe.runs = NULL;
    recipe.only = &runs[k];
    recipe.seed = runs[k].seed;
    test_put_training(c, &recipe);
    assert_int_equal(test_call(c, NULL), IA3_TRAIN_OK);
    const char *bytes = ia3_get_str(&c->reader, len);
    uint8_t *copy = malloc(*len);
    memcpy(copy, bytes, *len);
    return copy;
}

/* With a budget for all runs in one pass, for some of them, and for one at a time. */
static void
expect_same(const test_recipe *recipe)
{
    static const char *const budgets[] = {"4096", "100", "1"};
    uint8_t *alone[RUNS];
    size_t len[RUNS];
    for (int b = 0; b < 3; b++) {
        test_engine e;
        test_client c;
        start(&e, budgets[b]);
        test_client_open(&c, &e);
        for (int k = 0; b == 0 && k < RUNS; k++)
            alone[k] = train_alone(&c, *recipe, k, &len[k]);
        int progress;
        test_put_training(&c, recipe);
        assert_int_equal(test_call(&c, &progress), IA3_TRAIN_RUNS_OK);
        assert_true(progress > 0);
        assert_int_equal(ia3_get_u32(&c.reader), RUNS);
        for (int k = 0; k < RUNS; k++) {
            size_t n;
            expect_bytes(&c, alone[k], len[k]);
            const char *metrics = ia3_get_str(&c.reader, &n);
            assert_non_null(memmem(metrics, n, "\"steps\":7", 9));
            assert_int_equal(ia3_get_u32(&c.reader), runs[k].n);
        }
        assert_true(!c.reader.bad && c.reader.p == c.reader.end);
        assert_true(test_stat(&c, IA3_STAT_TRAIN_JOBS) == 0);
        test_client_close(&c);
        assert_int_equal(test_engine_stop(&e, true), 0);
    }
    assert_true(len[0] != len[3] || memcmp(alone[0], alone[3], len[0]) != 0); /* the order matters */
    for (int k = 0; k < RUNS; k++)
        free(alone[k]);
}

static void
test_same(void **state)
{
    const test_recipe recipe = make_recipe();
    expect_same(&recipe);
}

static void
test_same_with_verbalizers(void **state)
{
    test_recipe recipe = make_recipe();
    recipe.choices = words;
    recipe.verbalizers = words_of;
    recipe.n_labels = 2;
    expect_same(&recipe);
}

/* Any number of labels are right, and the first has two verbalizers. */
static void
test_same_multi_label(void **state)
{
    test_recipe recipe = make_recipe();
    recipe.multi_label = true;
    recipe.choices = words;
    recipe.verbalizers = words_of;
    recipe.n_labels = 2;
    recipe.right[0] = 3;
    recipe.right[2] = 1;
    recipe.right[3] = 2;
    expect_same(&recipe);
}

/* The steps of all runs count, and every report says how many there are. */
static void
test_progress(void **state)
{
    test_engine e;
    test_client c;
    start(&e, "1");
    test_client_open(&c, &e);
    test_recipe recipe = make_recipe();
    uint32_t before = 0, step;
    test_put_training(&c, &recipe);
    test_send(&c);
    for (;;) {
        assert_true(test_receive(&c));
        if (c.type != IA3_PROGRESS)
            break;
        step = ia3_get_u32(&c.reader);
        assert_true(step > before);
        before = step;
        assert_int_equal(ia3_get_u32(&c.reader), RUNS * recipe.steps);
    }
    assert_int_equal(c.type, IA3_TRAIN_RUNS_OK);
    assert_int_equal(before, RUNS * recipe.steps);
    test_client_close(&c);
    assert_int_equal(test_engine_stop(&e, true), 0);
}

/* A run that fails ends all of them, and so does CANCEL, and a client that goes away. */
static void
test_ends(void **state)
{
    static const char *const budgets[] = {"4096", "1"};
    for (int b = 0; b < 2; b++) {
        test_engine e;
        test_client c, other;
        start(&e, budgets[b]);
        test_client_open(&c, &e);
        test_client_open(&other, &e);
        test_recipe recipe = make_recipe();
        recipe.learning_rate = 10; /* with this decay every step multiplies the values by about -9 */
        recipe.optimizer = IA3_OPTIMIZER_ADAMW;
        recipe.weight_decay = 1;
        recipe.steps = 150;
        test_put_training(&c, &recipe);
        assert_int_equal(test_call(&c, NULL), IA3_ERROR);
        test_error failed = test_get_error(&c.reader);
        assert_int_equal(failed.code, IA3_E_INVALID);
        assert_non_null(strstr(failed.message, "diverged"));
        assert_true(test_stat(&other, IA3_STAT_TRAIN_JOBS) == 0);

        recipe = make_recipe();
        recipe.steps = 100000;
        test_put_training(&c, &recipe);
        uint32_t number = test_send(&c);
        while (test_stat(&other, IA3_STAT_TRAIN_JOBS) == 0)
            usleep(10000);
        ia3_put_u32(test_begin(&c, IA3_CANCEL), number);
        test_send(&c);
        do
            assert_true(test_receive(&c));
        while (c.type == IA3_PROGRESS);
        assert_int_equal(c.type, IA3_ERROR);
        assert_int_equal(test_get_error(&c.reader).code, IA3_E_CANCELLED);
        assert_true(test_stat(&other, IA3_STAT_TRAIN_JOBS) == 0);

        test_put_training(&c, &recipe);
        test_send(&c);
        while (test_stat(&other, IA3_STAT_TRAIN_JOBS) == 0)
            usleep(10000);
        test_client_close(&c);
        while (test_stat(&other, IA3_STAT_TRAIN_JOBS) != 0)
            usleep(10000);
        test_client_close(&other);
        assert_int_equal(test_engine_stop(&e, true), 0);
    }
}

/* How a training run, or several, end in an engine with so much memory; IA3_TRAIN_OK, IA3_TRAIN_RUNS_OK or IA3_ERROR. */
static int
end_with_memory(int mb, const test_recipe *recipe)
{
    char limit[32];
    snprintf(limit, sizeof limit, "%d", mb << 20);
    const char *const extra[] = {"--dtype", "float32", "--memory-limit", limit, NULL};
    test_engine e;
    test_client c;
    assert_true(test_engine_start(&e, BACKBONE, extra));
    test_client_open(&c, &e);
    test_put_training(&c, recipe);
    int type = test_call(&c, NULL);
    if (type == IA3_ERROR)
        assert_int_equal(test_get_error(&c.reader).code, IA3_E_MEMORY);
    test_client_close(&c);
    assert_int_equal(test_engine_stop(&e, true), 0);
    return type;
}

/* Runs that fit into memory only one by one are trained one by one. */
static void
test_memory(void **state)
{
    test_recipe several = make_recipe();
    several.method = "prefix"; /* with a network that takes far more memory than a pass */
    several.steps = 2;
    test_recipe one = several;
    one.runs = NULL;
    one.only = &runs[2]; /* the longest */
    int mb = 48;         /* enough for the backbone alone */
    while (end_with_memory(mb, &one) == IA3_ERROR)
        assert_true((mb += 4) < 400);
    assert_true(mb > 48);
    assert_int_equal(end_with_memory(mb, &several), IA3_TRAIN_RUNS_OK);
    assert_int_equal(end_with_memory(mb + 4, &several), IA3_TRAIN_RUNS_OK);
}

static void
test_invalid(void **state)
{
    static const test_run outside[] = {{7, 1, {4}, 0, {0}}},
                          empty[] = {{7, 1, {0}, 0, {0}}, {8, 0, {0}, 0, {0}}};
    static const test_run few[] = {{7, 2, {0, 1}, 1, {1}}}, negative[] = {{7, 2, {0, 1}, 2, {1, -1}}};
    static const double zeros[4] = {0}, not_a_number[4] = {1, NAN, 1, 1}, large[4] = {1, 1, 1, 2e12};
    static const uint8_t anything[4];
    test_engine e;
    test_client c;
    start(&e, "4096");
    test_client_open(&c, &e);
    test_recipe bad[15];
    for (int i = 0; i < 15; i++)
        bad[i] = make_recipe();
    bad[0].n_runs = 0;
    bad[1].runs = outside;
    bad[1].n_runs = 1;
    bad[2].runs = empty;
    bad[2].n_runs = 2;
    bad[3].stop = 3;
    bad[4].state = anything;
    bad[4].state_len = sizeof anything;
    bad[5].runs = few;
    bad[6].runs = negative;
    bad[5].n_runs = bad[6].n_runs = 1;
    for (int i = 7; i < 11; i++) {
        bad[i].runs = NULL;
        bad[i].weights = i == 8 ? not_a_number : i == 9 ? large : zeros;
        bad[i].n_weights = i == 10 ? 3 : 4;
    }
    static const uint32_t none[] = {3, 0}, too_few[] = {1, 1};
    for (int i = 11; i < 14; i++) {
        bad[i].choices = words;
        bad[i].verbalizers = i == 11 ? none : i == 12 ? too_few : words_of;
        bad[i].n_labels = 2;
    }
    bad[13].label = 2;
    bad[14].multi_label = true;
    bad[14].right[2] = 5;
    static const char *const messages[] = {"there are no training runs",
                                           "training run 0 refers to example 4 of 4",
                                           "training run 1 has no examples",
                                           "several training runs cannot be paused",
                                           "several training runs cannot be paused",
                                           "there are 1 weights for 2 examples",
                                           "the weight of example 1 is not a number from 0 to 1e+12",
                                           "the weights of all examples are zero",
                                           "the weight of example 1 is not a number from 0 to 1e+12",
                                           "the weight of example 3 is not a number from 0 to 1e+12",
                                           "there are 3 weights for 4 examples",
                                           "label 1 of choice set 0 has no verbalizer",
                                           "choice set 0 has 2 verbalizers for 3 choices",
                                           "example 0 has label 2 of 2 choices",
                                           "example 2 has label 2 of 2 choices"};
    for (int i = 0; i < 15; i++) {
        test_put_training(&c, &bad[i]);
        assert_int_equal(test_call(&c, NULL), IA3_ERROR);
        test_error error = test_get_error(&c.reader);
        assert_int_equal(error.code, IA3_E_INVALID);
        assert_string_equal(error.message, messages[i]);
    }
    test_client_close(&c);
    assert_int_equal(test_engine_stop(&e, true), 0);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_same),
        cmocka_unit_test(test_same_with_verbalizers),
        cmocka_unit_test(test_progress),
        cmocka_unit_test(test_ends),
        cmocka_unit_test(test_memory),
        cmocka_unit_test(test_invalid),
        cmocka_unit_test(test_same_multi_label),
    };
    alarm(1200);
    return cmocka_run_group_tests_name("runs", tests, NULL, NULL);
}
