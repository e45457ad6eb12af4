/*
 * test_verbalizers.c
 *     Training with several verbalizers for a label does what training on the drawn sets of choices does, bit for bit.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "common/protocol.h"
#include "engine/base/rng.h"
#include "engine/model/methods/methods.h"
#include "engine/recipe/train.h"

#define CHECKPOINT "test/golden/t5-relu-tied"

/* The first label has three verbalizers, the second one two. */
enum { EOS = 1, N = 5, TEXTS = 2, FIRST = 3, SECOND = 2, SETS = FIRST * SECOND, STEPS = 9, BATCH = 3 };

static ia3_device *dev;
static ia3_model *model;
static const int32_t texts[N][TEXTS][3] = {{{10, 20, EOS}, {21, 10, EOS}},
                                           {{11, 20, EOS}, {21, 11, EOS}},
                                           {{12, 20, EOS}, {21, 12, EOS}},
                                           {{13, 20, EOS}, {21, 13, EOS}},
                                           {{14, 20, EOS}, {21, 14, EOS}}};
static const int32_t *lists[N][TEXTS];
static const int lens[TEXTS] = {3, 3};
static const int32_t words[FIRST + SECOND][3] = {{5, 6, EOS}, {5, 8, EOS}, {9, EOS}, {7, EOS}, {7, 4, EOS}};
static const int word_lens[FIRST + SECOND] = {3, 3, 2, 2, 3};
static ia3_choices *all;        /* the words */
static ia3_choices *sets[SETS]; /* each pair of verbalizers of the two labels */
static int starts[] = {0, FIRST, FIRST + SECOND};
static const ia3_verbalizers verbalizers = {.n = 2, .first = starts};
static ia3_train_example examples[N];              /* with verbalizers */
static ia3_train_example drawn_examples[N * SETS]; /* with each of the sets */

static ia3_choices *
make_choices(const int *which, int n)
{
    const int32_t *ids[FIRST + SECOND];
    int len[FIRST + SECOND], a, b;
    ia3_error err = {0};
    for (int i = 0; i < n; i++) {
        ids[i] = words[which[i]];
        len[i] = word_lens[which[i]];
    }
    return ia3_choices_create(ids, len, n, 0, &a, &b, &err);
}

static int
set_up(void **state)
{
    ia3_error err = {0};
    ia3_checkpoint *ck = ia3_checkpoint_open(CHECKPOINT, &err);
    const char *spec = getenv("IA3_TEST_DEVICE");
    dev = ia3_device_open(spec ? spec : "cpu", IA3_F32, 2, 0, &err);
    if (!ck || !dev || !(model = ia3_model_load(ck, dev, ia3_methods, NULL, NULL, &err))) {
        print_error("%s\n", err.message);
        return -1;
    }
    ia3_checkpoint_close(ck);
    all = make_choices((const int[]){0, 1, 2, 3, 4}, FIRST + SECOND);
    for (int s = 0; s < SETS; s++)
        sets[s] = make_choices((const int[]){s / SECOND, FIRST + s % SECOND}, 2);
    for (int i = 0; i < N; i++) {
        for (int k = 0; k < TEXTS; k++)
            lists[i][k] = texts[i][k];
        examples[i] = (ia3_train_example){.n_texts = TEXTS,
                                          .ids = lists[i],
                                          .n_ids = lens,
                                          .choices = all,
                                          .verbalizers = &verbalizers,
                                          .label = i % 2};
        for (int s = 0; s < SETS; s++) {
            drawn_examples[i * SETS + s] = examples[i];
            drawn_examples[i * SETS + s].verbalizers = NULL;
            drawn_examples[i * SETS + s].choices = sets[s];
        }
    }
    return 0;
}

static int
tear_down(void **state)
{
    for (int s = 0; s < SETS; s++)
        ia3_choices_free(sets[s]);
    ia3_choices_free(all);
    ia3_model_free(model);
    dev->ops->close(dev);
    return 0;
}

static ia3_recipe
recipe(double dropout)
{
    return (ia3_recipe){.variant = ia3_variant_standard(ia3_methods[0]),
                        .steps = STEPS,
                        .batch_size = BATCH,
                        .learning_rate = 3e-3,
                        .warmup_ratio = 0.06,
                        .lm_weight = 1,
                        .unlikelihood_weight = 1,
                        .length_norm_weight = 1,
                        .dropout = dropout,
                        .averaging = IA3_LOSS_BATCH,
                        .seed = 42};
}

static ia3_train *
create(const ia3_train_example *of, int n, const ia3_recipe *r)
{
    ia3_error err = {0};
    ia3_train *t = ia3_train_create(model, of, n, r, NULL, &err);
    if (!t)
        fail_msg("%s", err.message);
    return t;
}

static float *
values_of(ia3_train *t)
{
    float *v = malloc(ia3_model_layout(model)->n_values * sizeof(float));
    ia3_train_values(t, v);
    return v;
}

/* The values after steps with verbalizers; frees the job. */
static float *
finish(ia3_train *t)
{
    ia3_error err = {0};
    while (!ia3_train_finished(t))
        if (!ia3_train_step(&t, 1, &err))
            fail_msg("%s", err.message);
    float *v = values_of(t);
    ia3_train_free(t);
    return v;
}

static void
expect_same(float *a, float *b)
{
    assert_memory_equal(a, b, ia3_model_layout(model)->n_values * sizeof(float));
    free(a);
    free(b);
}

/* What docs/engine.md §3.2 says, once more. */
static uint32_t
draw_verbalizer(uint64_t access, uint32_t label, uint32_t below)
{
    return ia3_draw(42, IA3_STREAM_VERBALIZER, access * IA3_MAX_CHOICES + label, below);
}

/* The order of an epoch. */
static void
shuffle(int epoch, int order[N])
{
    for (int i = 0; i < N; i++)
        order[i] = i;
    for (int i = N - 1; i > 0; i--) {
        int j =
            (int) ia3_draw(42, IA3_STREAM_SHUFFLE, (uint64_t) epoch << 32 | (uint32_t) i, (uint32_t) i + 1);
        int swap = order[i];
        order[i] = order[j];
        order[j] = swap;
    }
}

/* N is not a multiple of BATCH, so each epoch has one batch, and the rest of its examples is dropped. */
static float *
train_on_drawn(const ia3_recipe *r, bool *varied)
{
    ia3_train *t = create(drawn_examples, N * SETS, r);
    ia3_error err = {0};
    uint64_t access = 0;
    int used_sets = 0;
    for (int k = 0; k < STEPS; k++) {
        int order[N], batch[BATCH], text[BATCH];
        shuffle(k, order);
        for (int i = 0; i < BATCH; i++, access++) {
            const int set =
                (int) (draw_verbalizer(access, 0, FIRST) * SECOND + draw_verbalizer(access, 1, SECOND));
            batch[i] = order[i] * SETS + set;
            text[i] = (int) ia3_draw(42, IA3_STREAM_TEXT, access, TEXTS);
            used_sets |= 1 << set;
        }
        if (!ia3_train_step_on(t, batch, text, BATCH, &err))
            fail_msg("%s", err.message);
    }
    *varied = used_sets == (1 << SETS) - 1;
    float *v = values_of(t);
    ia3_train_free(t);
    return v;
}

static void
same_as_drawn_sets(void **state)
{
    for (int dropout = 0; dropout < 2; dropout++) {
        ia3_recipe r = recipe(dropout * 0.1);
        bool varied;
        float *expected = train_on_drawn(&r, &varied);
        assert_true(varied);
        expect_same(finish(create(examples, N, &r)), expected);
    }
}

/* Where no label has several verbalizers there is nothing to draw. */
static void
one_each_changes_nothing(void **state)
{
    ia3_recipe r = recipe(0);
    int first[] = {0, 1, 2};
    const ia3_verbalizers one = {.n = 2, .first = first};
    ia3_train_example plain[N], with[N];
    for (int i = 0; i < N; i++) {
        plain[i] = drawn_examples[i * SETS];
        with[i] = plain[i];
        with[i].verbalizers = &one;
    }
    expect_same(finish(create(with, N, &r)), finish(create(plain, N, &r)));
}

static void
each_is_drawn_as_often(void **state)
{
    int counts[FIRST] = {0}, same = 0;
    for (uint64_t access = 0; access < 30000; access++) {
        ia3_choices *c = ia3_verbalizers_draw(&verbalizers, all, 7, access);
        assert_int_equal(c->n, 2);
        int which = c->ids[0][0] == 9 ? 2 : c->ids[0][1] == 8 ? 1 : 0;
        counts[which]++;
        same += (c->len[1] == 3) == (which == 0);
        ia3_choices_free(c);
    }
    for (int k = 0; k < FIRST; k++)
        assert_in_range(counts[k], 9700, 10300); /* the standard deviation is 82 */
    assert_in_range(same, 14600, 15400);         /* labels are drawn independently of each other */
}

static void
paused_and_continued(void **state)
{
    ia3_recipe r = recipe(0), paused = r;
    ia3_error err = {0};
    size_t len;
    paused.stop = 4;
    ia3_train *t = create(examples, N, &paused);
    while (!ia3_train_finished(t))
        assert_true(ia3_train_step(&t, 1, &err));
    uint8_t *saved = ia3_train_save(t, &len, &err);
    assert_non_null(saved);
    ia3_train_free(t);

    int other_starts[] = {0, 2, FIRST + SECOND};
    const ia3_verbalizers other = {.n = 2, .first = other_starts};
    ia3_train_example others[N];
    memcpy(others, examples, sizeof others);
    for (int i = 0; i < N; i++)
        others[i].verbalizers = &other;
    t = create(others, N, &r);
    assert_false(ia3_train_restore(t, saved, len, &err));
    assert_int_equal(err.code, IA3_E_INVALID);
    ia3_train_free(t);

    t = create(examples, N, &r);
    assert_true(ia3_train_restore(t, saved, len, &err));
    free(saved);
    expect_same(finish(t), finish(create(examples, N, &r)));
}

static void
invalid(void **state)
{
    ia3_recipe r = recipe(0);
    ia3_error err = {0};
    ia3_train_example bad = examples[0];
    bad.label = 2; /* of five choices, but two labels */
    assert_null(ia3_train_create(model, &bad, 1, &r, NULL, &err));
    assert_int_equal(err.code, IA3_E_INVALID);

    ia3_train *t = create(examples, N, &r);
    const int batch[] = {3}, text[] = {0};
    float *grads = malloc(ia3_model_layout(model)->n_values * sizeof(float));
    ia3_train_report report;
    memset(&err, 0, sizeof err);
    assert_false(ia3_train_gradients(t, batch, text, 1, grads, &report, &err));
    assert_string_equal(err.message, "example 4 has verbalizers");
    memset(&err, 0, sizeof err);
    assert_false(ia3_train_step_on(t, batch, text, 1, &err));
    assert_int_equal(err.code, IA3_E_INVALID);
    free(grads);
    ia3_train_free(t);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(same_as_drawn_sets),
        cmocka_unit_test(one_each_changes_nothing),
        cmocka_unit_test(each_is_drawn_as_often),
        cmocka_unit_test(paused_and_continued),
        cmocka_unit_test(invalid),
    };
    return cmocka_run_group_tests_name("verbalizers", tests, set_up, tear_down);
}
