/*
 * test_stopping.c
 *     Early stopping: the rule on curves that are made up, and training runs that it ends in the engine.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>
#include <jansson.h>

#include "engine/recipe/stopping.h"
#include "engine_requests.h"

#define BACKBONE "test/backbone"

/* --- the rule --- */

/* The step after which a run with this curve ends; 0: it does not. */
static int
end_of(double (*loss)(int step), int steps, double warmup_ratio)
{
    ia3_stopping s = ia3_stopping_begin(steps, warmup_ratio);
    for (int step = 1; step <= steps; step++)
        if (ia3_stopping_add(&s, loss(step)))
            return step;
    return 0;
}

static double
falling(int step)
{
    return 5 - 0.004 * step;
}

static double
constant(int step)
{
    return 1.25;
}

static double
rising(int step)
{
    return 1 + 0.001 * step;
}

/* Falls up to step 410, where a window ends, and not afterwards. */
static double
settling(int step)
{
    return step < 410 ? 4 - 0.005 * step : 1.95;
}

/* The same with noise that is larger than what a window falls, with a mean of 0 over every five steps. */
static double
noisy(int step)
{
    static const double noise[] = {0.9, -1.1, 0.4, 0.6, -0.8};
    return settling(step) + noise[step % 5];
}

/* Falls more and more slowly. */
static double
exponential(int step)
{
    return 1 + 3 * exp(-step / 120.0);
}

static double
scaled(int step)
{
    return 1000 + 1e6 * noisy(step);
}

/* A flat window, a lower one, and so on: never two flat ones in a row before step 660. */
static double
stairs(int step)
{
    return step <= 660 ? 10 - (step - 61) / 100 : 1;
}

static double
bad_window(int step)
{
    return step == 530 ? NAN : settling(step);
}

static double
infinite(int step)
{
    return step % 7 == 0 ? INFINITY : 1;
}

/* High before the warm-up is over: if that counted, the first window would fall from it. */
static double
high_at_first(int step)
{
    return step <= 60 ? 100 : 1;
}

static void
test_rule(void **state)
{
    assert_int_equal(ia3_stopping_earliest(1000, 0.06), 60 + 3 * 50);
    assert_int_equal(end_of(falling, 1000, 0.06), 0);
    assert_int_equal(end_of(constant, 1000, 0.06), 210);
    assert_int_equal(end_of(rising, 1000, 0.06), 210);
    /* windows end at 60 + 50 k: the one up to 410 is the last that falls much, the mean of the next is below its */
    assert_int_equal(end_of(settling, 1000, 0.06), 560);
    assert_int_equal(end_of(noisy, 1000, 0.06), 560);
    assert_int_equal(end_of(scaled, 1000, 0.06), 560);
    assert_int_equal(end_of(bad_window, 1000, 0.06), 660);
    assert_int_equal(end_of(infinite, 1000, 0.06), 0);
    assert_int_equal(end_of(high_at_first, 1000, 0.06), 210);
    assert_int_equal(end_of(stairs, 1000, 0.06), 810);
    /* what is left to fall, 3 e^(-t/120), is less than 1 % of the whole after 553 steps of the falling part */
    assert_int_equal(end_of(exponential, 1000, 0.06), 760);
}

static void
test_windows(void **state)
{
    assert_int_equal(ia3_stopping_earliest(200, 0.06), 12 + 30);
    assert_int_equal(end_of(constant, 200, 0.06), 42);
    assert_int_equal(ia3_stopping_earliest(219, 0), 30);
    assert_int_equal(ia3_stopping_earliest(220, 0), 33);
    assert_int_equal(end_of(constant, 220, 0), 33);
    assert_int_equal(ia3_stopping_earliest(1000000, 1), 1150000);
    assert_int_equal(ia3_stopping_earliest(33, 0.06), 32);
    assert_int_equal(ia3_stopping_earliest(1, 0.06), 31);
    assert_int_equal(end_of(constant, 30, 0.06), 0);
}

/* --- in the engine --- */

static void
start(test_engine *e, test_client *c, const char *max_batch_tokens)
{
    const char *const extra[] = {"--dtype", "float32", "--max-batch-tokens", max_batch_tokens, NULL};
    assert_true(test_engine_start(e, BACKBONE, extra));
    test_client_open(c, e);
}

static void
stop(test_engine *e, test_client *c)
{
    test_client_close(c);
    assert_int_equal(test_engine_stop(e, true), 0);
}

static test_recipe
make_recipe(void)
{
    test_recipe recipe = test_default_recipe();
    recipe.steps = 120;
    recipe.learning_rate = 0.03;
    recipe.dropout = 0;
    recipe.early_stopping = IA3_STOP_LOSS;
    return recipe;
}

typedef struct trained {
    size_t len;
    uint8_t *vectors; /* malloc'd */
    json_t *metrics;
} trained;

static void
read_trained(test_client *c, trained *t)
{
    size_t n;
    const char *bytes = ia3_get_str(&c->reader, &t->len);
    t->vectors = malloc(t->len);
    memcpy(t->vectors, bytes, t->len);
    const char *metrics = ia3_get_str(&c->reader, &n);
    t->metrics = json_loadb(metrics, n, 0, NULL);
    assert_non_null(t->metrics);
    ia3_get_u32(&c->reader);
}

/* Trains by a TRAIN; the last report says that all is done. */
static trained
train(test_client *c, const test_recipe *recipe)
{
    uint32_t step = 0, steps = 1;
    trained t;
    test_put_training(c, recipe);
    test_send(c);
    while (assert_true(test_receive(c)), c->type == IA3_PROGRESS) {
        step = ia3_get_u32(&c->reader);
        steps = ia3_get_u32(&c->reader);
        assert_true(step <= steps);
    }
    assert_int_equal(c->type, IA3_TRAIN_OK);
    if (recipe->stop == 0)
        assert_int_equal(step, steps);
    read_trained(c, &t);
    return t;
}

static void
free_trained(trained *t)
{
    free(t->vectors);
    json_decref(t->metrics);
}

static int
steps_of(const trained *t)
{
    return (int) json_integer_value(json_object_get(t->metrics, "steps"));
}

/* What the metrics say of the end of a member. */
static int
member_steps(const trained *t, size_t member, const char **ended_by)
{
    json_t *o = json_object_get(t->metrics, "early_stopping");
    assert_non_null(o);
    assert_string_equal(json_string_value(json_object_get(o, "rule")), "loss");
    *ended_by = json_string_value(json_array_get(json_object_get(o, "ended_by"), member));
    return (int) json_integer_value(json_array_get(json_object_get(o, "steps"), member));
}

static void
assert_same(const trained *a, const trained *b)
{
    assert_int_equal(a->len, b->len);
    assert_memory_equal(a->vectors, b->vectors, a->len);
}

/* A run that ends early has the vectors and the losses of the same run without early stopping at that step. */
static void
test_ends(void **state)
{
    test_engine e;
    test_client c;
    const char *ended_by;
    start(&e, &c, "4096");
    test_recipe recipe = make_recipe();
    trained early = train(&c, &recipe);
    const int step = steps_of(&early);
    assert_true(step > 38 && step < 120); /* otherwise the test tests nothing */
    assert_int_equal((step - 8) % 10, 0);
    assert_int_equal(member_steps(&early, 0, &ended_by), step);
    assert_string_equal(ended_by, "flat");
    json_t *rule = json_object_get(early.metrics, "early_stopping");
    assert_int_equal(json_integer_value(json_object_get(rule, "max_steps")), 120);

    recipe.early_stopping = IA3_STOP_NEVER;
    recipe.stop = (uint32_t) step;
    trained paused = train(&c, &recipe);
    assert_same(&early, &paused);
    assert_null(json_object_get(paused.metrics, "early_stopping"));
    recipe.stop = 0;
    trained whole = train(&c, &recipe);
    assert_int_equal(steps_of(&whole), 120);
    assert_int_equal(early.len, whole.len);
    assert_memory_not_equal(early.vectors, whole.vectors, early.len);
    /* a point of the curve has one or two steps; the average is over the last tenth */
    json_t *curve = json_object_get(early.metrics, "loss_curve");
    const size_t n = json_array_size(curve),
                 of_whole = json_array_size(json_object_get(whole.metrics, "loss_curve"));
    assert_true(of_whole == 100 && n > 0 && n < 100);
    double last = json_number_value(json_array_get(curve, n - 1)),
           loss = json_number_value(json_object_get(early.metrics, "loss"));
    assert_true(fabs(last - loss) < 0.05 * (json_number_value(json_array_get(curve, 0)) - last));
    free_trained(&early);
    free_trained(&paused);
    free_trained(&whole);
    stop(&e, &c);
}

/* Each run of TRAIN_RUNS, and each member of an ensemble, ends by its own losses, whatever shares its passes. */
static void
test_several(void **state)
{
    static const test_run runs[] = {
        {7, 3, {1, 2, 3}, 0, {0}}, {8, 2, {3, 0}, 0, {0}}, {42, 4, {0, 1, 2, 3}, 0, {0}}};
    static const char *const budgets[] = {"4096", "1"};
    trained alone[3], both[2];
    for (int b = 0; b < 2; b++) {
        test_engine e;
        test_client c;
        uint32_t step = 0, steps = 1;
        const char *ended_by;
        start(&e, &c, budgets[b]);
        test_recipe recipe = make_recipe();
        for (int k = 0; b == 0 && k < 3; k++) {
            recipe.only = &runs[k];
            recipe.seed = runs[k].seed;
            alone[k] = train(&c, &recipe);
        }
        recipe.only = NULL;
        recipe.runs = runs;
        recipe.n_runs = 3;
        test_put_training(&c, &recipe);
        test_send(&c);
        while (assert_true(test_receive(&c)), c.type == IA3_PROGRESS) {
            step = ia3_get_u32(&c.reader);
            steps = ia3_get_u32(&c.reader);
            assert_true(step <= steps);
        }
        assert_int_equal(c.type, IA3_TRAIN_RUNS_OK);
        assert_int_equal(step, steps);
        assert_int_equal(ia3_get_u32(&c.reader), 3);
        for (int k = 0; k < 3; k++) {
            trained t;
            read_trained(&c, &t);
            assert_same(&t, &alone[k]);
            assert_int_equal(steps_of(&t), steps_of(&alone[k]));
            free_trained(&t);
        }
        assert_true(!c.reader.bad && c.reader.p == c.reader.end);

        recipe.runs = NULL;
        recipe.options = "{\"ensemble\": 2}";
        both[b] = train(&c, &recipe);
        assert_int_equal(member_steps(&both[b], 0, &ended_by), steps_of(&alone[2])); /* its seed is 42, too */
        assert_string_equal(ended_by, "flat");
        const int second = member_steps(&both[b], 1, &ended_by);
        assert_true(second > 38 &&
                    steps_of(&both[b]) == (second > steps_of(&alone[2]) ? second : steps_of(&alone[2])));
        stop(&e, &c);
    }
    assert_same(&both[0], &both[1]);
    for (int k = 0; k < 3; k++)
        free_trained(&alone[k]);
    for (int b = 0; b < 2; b++)
        free_trained(&both[b]);
}

static void
test_invalid(void **state)
{
    static const uint8_t anything[4];
    test_engine e;
    test_client c;
    start(&e, &c, "4096");
    test_recipe bad[5];
    for (int i = 0; i < 5; i++)
        bad[i] = make_recipe();
    bad[0].early_stopping = 2;
    bad[1].steps = 32;
    bad[2].warmup_ratio = 0.8;
    bad[3].stop = 50;
    bad[4].state = anything;
    bad[4].state_len = sizeof anything;
    static const struct {
        uint32_t code;
        const char *message, *detail;
    } errors[] = {
        {IA3_E_INVALID, "unknown early_stopping", ""},
        {IA3_E_INVALID, "there are too few steps for early_stopping",
         "With 32 steps and this warm-up, a training run could not end before step 32."},
        {IA3_E_INVALID, "there are too few steps for early_stopping",
         "With 120 steps and this warm-up, a training run could not end before step 126."},
        {IA3_E_UNSUPPORTED, "a training run with early stopping cannot be paused", ""},
        {IA3_E_UNSUPPORTED, "a training run with early stopping cannot be continued", ""},
    };
    for (int i = 0; i < 5; i++) {
        test_put_training(&c, &bad[i]);
        assert_int_equal(test_call(&c, NULL), IA3_ERROR);
        test_error error = test_get_error(&c.reader);
        assert_int_equal(error.code, errors[i].code);
        assert_string_equal(error.message, errors[i].message);
        assert_string_equal(error.detail, errors[i].detail);
    }
    stop(&e, &c);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rule),    cmocka_unit_test(test_windows), cmocka_unit_test(test_ends),
        cmocka_unit_test(test_several), cmocka_unit_test(test_invalid),
    };
    alarm(1200);
    return cmocka_run_group_tests_name("stopping", tests, NULL, NULL);
}
