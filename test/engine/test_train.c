/*
 * test_train.c
 *     The parts of a training step: batches, schedule, seeds, invalid recipes, saved states. test_gradient.c compares
 *     numbers.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "engine/recipe/train.h"
#include "engine/model/methods/methods.h"

#define CHECKPOINT "test/golden/t5-relu-tied"

enum { EOS = 1, N_EXAMPLES = 50 };

static ia3_device *dev;
static ia3_model *model;
static ia3_choices *choices;
static int32_t texts[N_EXAMPLES][2][4];
static const int32_t *text_list[N_EXAMPLES][2];
static const int text_len[2] = {4, 3};
static ia3_train_example examples[N_EXAMPLES];

static int
set_up(void **state)
{
    ia3_error err = {0};
    const int32_t yes[] = {5, 6, EOS}, no[] = {7, EOS};
    int a, b;
    ia3_checkpoint *ck = ia3_checkpoint_open(CHECKPOINT, &err);
    const char *spec = getenv("IA3_TEST_DEVICE");
    dev = ia3_device_open(spec ? spec : "cpu", IA3_F32, 2, 0, &err);
    if (!ck || !dev || !(model = ia3_model_load(ck, dev, ia3_methods, NULL, NULL, &err))) {
        print_error("%s\n", err.message);
        return -1;
    }
    ia3_checkpoint_close(ck);
    choices = ia3_choices_create((const int32_t *const[]){yes, no}, (const int[]){3, 2}, 2, 0, &a, &b, &err);
    for (int i = 0; i < N_EXAMPLES; i++) {
        for (int k = 0; k < 2; k++) {
            int32_t ids[4] = {10 + i, 20 + k, 30 + i % 7, EOS};
            memcpy(texts[i][k], ids, sizeof ids);
            texts[i][k][text_len[k] - 1] = EOS;
            text_list[i][k] = texts[i][k];
        }
        examples[i] = (ia3_train_example){
            .n_texts = 2, .ids = text_list[i], .n_ids = text_len, .choices = choices, .label = i % 2};
    }
    return 0;
}

static int
tear_down(void **state)
{
    ia3_choices_free(choices);
    ia3_model_free(model);
    dev->ops->close(dev);
    return 0;
}

static ia3_recipe
recipe(void)
{
    return (ia3_recipe){.variant = ia3_variant_standard(ia3_methods[0]),
                        .steps = 20,
                        .batch_size = 8,
                        .learning_rate = 3e-3,
                        .warmup_ratio = 0.06,
                        .lm_weight = 1,
                        .unlikelihood_weight = 1,
                        .length_norm_weight = 1,
                        .dropout = 0,
                        .seed = 42};
}

static ia3_train *
create(const ia3_recipe *r, int n)
{
    ia3_error err = {0};
    ia3_train *t = ia3_train_create(model, examples, n, r, NULL, &err);
    if (!t)
        fail_msg("%s", err.message);
    return t;
}

static void
step(ia3_train *t)
{
    ia3_error err = {0};
    if (!ia3_train_step(&t, 1, &err))
        fail_msg("%s", err.message);
}

static float *
values_of(ia3_train *t)
{
    float *v = malloc(ia3_model_layout(model)->n_values * sizeof(float));
    ia3_train_values(t, v);
    return v;
}

static float *
train(const ia3_recipe *r, int n, ia3_train_report *last)
{
    ia3_train *t = create(r, n);
    while (!ia3_train_finished(t))
        step(t);
    ia3_train_last(t, last);
    float *v = values_of(t);
    ia3_train_free(t);
    return v;
}

static bool
same_values(const float *a, const float *b)
{
    return memcmp(a, b, ia3_model_layout(model)->n_values * sizeof(float)) == 0;
}

/* The warm-up begins with a learning rate of 0: the first step changes nothing, the second changes every vector. */
static void
first_step_has_rate_zero(void **state)
{
    ia3_recipe r = recipe();
    ia3_train *t = create(&r, N_EXAMPLES);
    size_t n = ia3_model_layout(model)->n_values;
    step(t);
    float *v = values_of(t);
    for (size_t i = 0; i < n; i++)
        assert_true(v[i] == 1.0f);
    free(v);
    step(t);
    v = values_of(t);
    size_t moved = 0;
    for (size_t i = 0; i < n; i++)
        moved += v[i] != 1.0f;
    assert_true(moved > n * 9 / 10);
    free(v);
    ia3_train_free(t);
}

static void
batches(Ia3LossAveraging averaging, int n, const int *sizes, int n_sizes)
{
    ia3_recipe r = recipe();
    r.averaging = averaging;
    ia3_train *t = create(&r, n);
    for (int i = 0; i < n_sizes; i++) {
        ia3_train_report report;
        step(t);
        ia3_train_last(t, &report);
        assert_int_equal(report.examples, sizes[i]);
        assert_int_equal(report.step, i + 1);
        assert_true(isfinite(report.loss) && report.loss > 0);
    }
    ia3_train_free(t);
}

static void
incomplete_batches(void **state)
{
    batches(IA3_LOSS_BATCH, 50, (const int[]){8, 8, 8, 8, 8, 8, 8, 8}, 8);
    batches(IA3_LOSS_EXAMPLE, 50, (const int[]){8, 8, 8, 8, 8, 8, 2, 8}, 8);
    batches(IA3_LOSS_BATCH, 3, (const int[]){3, 3, 3}, 3);
}

static void
seeds(void **state)
{
    ia3_recipe r = recipe();
    ia3_train_report last;
    for (int dropout = 0; dropout < 2; dropout++) {
        r.seed = 42;
        r.dropout = dropout ? 0.1 : 0;
        float *a = train(&r, N_EXAMPLES, &last), *b = train(&r, N_EXAMPLES, &last);
        r.seed = 43;
        float *c = train(&r, N_EXAMPLES, &last);
        assert_true(same_values(a, b));
        assert_false(same_values(a, c));
        free(a);
        free(b);
        free(c);
    }
}

/* Dropout changes the course of training, but 150 steps still learn four examples. */
static void
loss_goes_down(void **state)
{
    ia3_recipe r = recipe();
    ia3_train_report first, last;
    r.steps = 150;
    r.learning_rate = 0.03;
    ia3_train *t = create(&r, 4);
    step(t);
    ia3_train_last(t, &first);
    ia3_train_free(t);
    free(train(&r, 4, &last));
    assert_true(last.loss < 0.8 * first.loss);
}

/* A job has the same result with another job beside it, even one with another dropout. */
static void
jobs_are_independent(void **state)
{
    ia3_recipe r[3] = {recipe(), recipe(), recipe()};
    ia3_train_report last;
    r[1].seed = 7;
    r[1].batch_size = 3;
    r[2].dropout = 0.1;
    ia3_train *jobs[3];
    for (int k = 0; k < 3; k++)
        jobs[k] = create(&r[k], N_EXAMPLES - k);
    ia3_error err = {0};
    while (!ia3_train_finished(jobs[0]))
        assert_true(ia3_train_step(jobs, 3, &err));
    for (int k = 0; k < 3; k++) {
        float *together = values_of(jobs[k]), *alone = train(&r[k], N_EXAMPLES - k, &last);
        /* where a gradient is near zero, the last bits of a sum decide the sign of a step */
        double mean = 0, worst = 0;
        size_t n = ia3_model_layout(model)->n_values;
        for (size_t i = 0; i < n; i++) {
            double d = fabs((double) together[i] - alone[i]);
            mean += d / (double) n;
            worst = d <= worst ? worst : isnan(d) ? INFINITY : d;
        }
        assert_true(mean <= 1e-6);
        assert_true(worst <= r[k].learning_rate);
        free(together);
        free(alone);
        ia3_train_free(jobs[k]);
    }
}

static void
starts_from_init(void **state)
{
    ia3_error err = {0};
    size_t n = ia3_model_layout(model)->n_values;
    float *init = malloc(n * sizeof(float));
    for (size_t i = 0; i < n; i++)
        init[i] = 1 + 0.001f * (float) (i % 100);
    ia3_recipe r = recipe();
    ia3_train *t = ia3_train_create(model, examples, N_EXAMPLES, &r, init, &err);
    float *v = values_of(t);
    assert_true(same_values(v, init));
    free(v);
    free(init);
    ia3_train_free(t);
}

/* Trains up to step `stop` from a state (NULL: from the beginning), frees the state and returns the next one. */
static uint8_t *
train_on(ia3_recipe r, int stop, uint8_t *from, size_t *len, float **values)
{
    ia3_error err = {0};
    r.stop = stop;
    ia3_train *t = create(&r, N_EXAMPLES);
    if (from && !ia3_train_restore(t, from, *len, &err))
        fail_msg("%s", err.message);
    free(from);
    while (!ia3_train_finished(t))
        step(t);
    ia3_train_report last;
    ia3_train_last(t, &last);
    assert_int_equal(last.step, stop);
    *values = values_of(t);
    uint8_t *state = ia3_train_save(t, len, &err);
    ia3_train_free(t);
    return state;
}

/* An epoch has 6 steps (7 if it keeps its last batch); the pauses are within it, at its end and at its start. */
static void
resumes_bit_for_bit(void **state)
{
    const int stops[] = {1, 6, 7, 12, 17, 20};
    ia3_recipe r = recipe();
    r.dropout = 0.1;
    for (int averaging = 0; averaging < 2; averaging++) {
        r.averaging = (Ia3LossAveraging) averaging;
        ia3_train_report last;
        float *through = train(&r, N_EXAMPLES, &last);
        uint8_t *paused = NULL;
        size_t len = 0;
        for (size_t i = 0; i < sizeof stops / sizeof *stops; i++) {
            float *v;
            paused = train_on(r, stops[i], paused, &len, &v);
            assert_true(same_values(v, through) == (stops[i] == 20));
            free(v);
        }
        free(paused);
        free(through);
    }
}

static void
refuses_state(const ia3_recipe *r, int n, const uint8_t *bytes, size_t len, const char *why)
{
    ia3_error err = {0};
    ia3_train *t = create(r, n);
    assert_false(ia3_train_restore(t, bytes, len, &err));
    assert_int_equal(err.code, IA3_E_INVALID);
    assert_non_null(strstr(err.message, why));
    ia3_train_free(t);
}

static void
other_states(void **state)
{
    ia3_recipe r = recipe(), other = recipe();
    size_t len = 0;
    float *v;
    uint8_t *s = train_on(r, 3, NULL, &len, &v);
    free(v);
    refuses_state(&r, N_EXAMPLES - 1, s, len, "other examples");
    other.learning_rate *= 2;
    refuses_state(&other, N_EXAMPLES, s, len, "other examples or options");
    other = recipe();
    other.seed++;
    refuses_state(&other, N_EXAMPLES, s, len, "other examples or options");
    texts[7][1][0]++;
    refuses_state(&r, N_EXAMPLES, s, len, "other examples");
    texts[7][1][0]--;
    examples[3].label ^= 1;
    refuses_state(&r, N_EXAMPLES, s, len, "other examples");
    examples[3].label ^= 1;
    for (size_t n = 0; n < 48; n++)
        refuses_state(&r, N_EXAMPLES, s, n, "stat");
    refuses_state(&r, N_EXAMPLES, s, len - 1, "corrupted");
    s[20] = 21; /* the step: more than there are */
    refuses_state(&r, N_EXAMPLES, s, len, "corrupted");
    s[20] = 3;
    s[28] = N_EXAMPLES + 1; /* used up in the epoch */
    refuses_state(&r, N_EXAMPLES, s, len, "corrupted");
    s[0] ^= 1;
    refuses_state(&r, N_EXAMPLES, s, len, "not a saved");
    free(s);
}

static void
refuses(ia3_recipe r, const char *field)
{
    ia3_error err = {0};
    assert_null(ia3_train_create(model, examples, N_EXAMPLES, &r, NULL, &err));
    assert_int_equal(err.code, IA3_E_INVALID);
    assert_non_null(strstr(err.message, field));
}

static void
bad_recipes(void **state)
{
    ia3_recipe r;
#define REFUSE(assignment, field)                                                                            \
    r = recipe();                                                                                            \
    assignment;                                                                                              \
    refuses(r, field)
    REFUSE(r.steps = 0, "steps");
    REFUSE(r.batch_size = 0, "batch_size");
    REFUSE(r.learning_rate = 0, "learning_rate");
    REFUSE(r.learning_rate = NAN, "learning_rate");
    REFUSE(r.warmup_ratio = 1.5, "warmup_ratio");
    REFUSE(r.lm_weight = -1, "lm_weight");
    REFUSE(r.unlikelihood_weight = INFINITY, "unlikelihood_weight");
    REFUSE(r.dropout = 1, "dropout");
    REFUSE(r.dropout = NAN, "dropout");
    REFUSE(r.averaging = 7, "loss_averaging");
    REFUSE(r.stop = 21, "pause");
    REFUSE(r.stop = -1, "pause");
    REFUSE(r.lm_weight = r.unlikelihood_weight = r.length_norm_weight = 0, "zero");
    ia3_error err = {0};
    ia3_train_example bad = examples[0];
    bad.label = 2;
    r = recipe();
    assert_null(ia3_train_create(model, &bad, 1, &r, NULL, &err));
    assert_non_null(strstr(err.message, "example 1"));
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(first_step_has_rate_zero),
        cmocka_unit_test(incomplete_batches),
        cmocka_unit_test(seeds),
        cmocka_unit_test(loss_goes_down),
        cmocka_unit_test(jobs_are_independent),
        cmocka_unit_test(starts_from_init),
        cmocka_unit_test(resumes_bit_for_bit),
        cmocka_unit_test(other_states),
        cmocka_unit_test(bad_recipes),
    };
    return cmocka_run_group_tests_name("train", tests, set_up, tear_down);
}
