/*
 * test_train_memory.c
 *     Training when the device runs out of memory between passes: a step is made as a whole or not at all, and repeating
 *     it gives the result that it would have had.
 */
#include "device_common.h"

#include "engine/model/methods/methods.h"
#include "engine/recipe/train.h"

enum { LIMIT = 512 << 20, N_EXAMPLES = 3, EOS = 1, MAX_BLOCKS = 256 };

/* Many of the backbone's matrices are so large that several threads or blocks share their step. */
static ia3_checkpoint *ck;
static ia3_device *dev;
static ia3_model *m;
static ia3_choices *choices;
static ia3_train_example examples[N_EXAMPLES];
static int32_t texts[N_EXAMPLES][3];
static const int32_t *text_list[N_EXAMPLES];
static const int text_len = 3;

/* The device's operations, of which two can be made to run out of memory. */
static const ia3_device_ops *real;
static ia3_device_ops ops;
static bool squeeze_step, squeeze_weights;
static size_t slack; /* what is left for a step */

/* Calls Adafactor with `slack` bytes of memory. */
static void
squeezed_adafactor(ia3_device *d, const ia3_adafactor *jobs, int n)
{
    void *blocks[MAX_BLOCKS];
    int n_blocks = 0;
    if (!squeeze_step) {
        real->adafactor(d, jobs, n);
        return;
    }
    real->arena_trim(d, 0);
    void *left = slack > 0 ? real->alloc(d, slack) : NULL;
    for (size_t size = LIMIT; size >= 64;) {
        void *p = real->alloc(d, size);
        if (p == NULL)
            size /= 2;
        else {
            assert_true(n_blocks < MAX_BLOCKS);
            blocks[n_blocks++] = p;
        }
    }
    real->free(d, left);
    /* The operation may jump to where dev->oom points; the memory is returned before that. */
    jmp_buf env, *outer = d->oom;
    assert_non_null(outer);
    const int jumped = setjmp(env);
    if (jumped == 0) {
        d->oom = &env;
        real->adafactor(d, jobs, n);
    }
    d->oom = outer;
    for (int i = 0; i < n_blocks; i++)
        real->free(d, blocks[i]);
    if (jumped)
        longjmp(*outer, jumped);
}

static void
squeezed_update(ia3_device *d, ia3_matrix *matrix, const float *values)
{
    if (squeeze_weights) /* as a device that needs this much for a copy of the weights */
        real->arena_alloc(d, (size_t) 2 * LIMIT);
    real->matrix_update(d, matrix, values);
}

static int
set_up(void **state)
{
    static const int32_t yes[] = {5, 6, EOS}, no[] = {7, EOS};
    ia3_error err = {0};
    int a, b;
    ck = ia3_checkpoint_open("test/backbone", &err);
    assert_non_null(ck);
    dev = open_device(IA3_F32, 2, LIMIT);
    m = ia3_model_load(ck, dev, ia3_methods, NULL, NULL, &err);
    assert_non_null(m);
    ia3_model_set_checkpoint(m, ck);
    real = dev->ops;
    ops = *real;
    ops.adafactor = squeezed_adafactor;
    ops.matrix_update = squeezed_update;
    dev->ops = &ops;
    choices = ia3_choices_create((const int32_t *const[]){yes, no}, (const int[]){3, 2}, 2,
                                 ia3_model_config(m)->start_id, &a, &b, &err);
    for (int i = 0; i < N_EXAMPLES; i++) {
        memcpy(texts[i], (const int32_t[]){10 + i, 20, EOS}, sizeof texts[i]);
        text_list[i] = texts[i];
        examples[i] = (ia3_train_example){
            .n_texts = 1, .ids = &text_list[i], .n_ids = &text_len, .choices = choices, .label = i % 2};
    }
    return 0;
}

static int
tear_down(void **state)
{
    ia3_choices_free(choices);
    ia3_model_free(m);
    ia3_checkpoint_close(ck);
    dev->ops = real;
    dev->ops->close(dev);
    return 0;
}

static ia3_train *
create(const char *method)
{
    ia3_error err = {0};
    const ia3_recipe recipe = {
        .learning_rate = 1e-3,
        .steps = 100,
        .batch_size = 1,
        .lm_weight = 1,
        .unlikelihood_weight = 1,
        .length_norm_weight = 1,
        .seed = 1,
        .variant = ia3_variant_standard(ia3_method_require(ia3_methods, method, strlen(method), &err))};
    ia3_train *t = ia3_train_create(m, examples, N_EXAMPLES, &recipe, NULL, &err);
    if (t == NULL)
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

/* Whether a step runs out of memory. If so, nothing has changed. */
static bool
step_fails(ia3_train *t)
{
    const size_t bytes = ia3_train_layout(t)->n_values * sizeof(float);
    float *before = malloc(bytes), *after = malloc(bytes);
    ia3_train_report last, now;
    ia3_error err = {0};
    ia3_train_last(t, &last);
    ia3_train_values(t, before);
    const bool ok = ia3_train_step(&t, 1, &err);
    if (!ok) {
        assert_int_equal(err.code, IA3_E_MEMORY);
        ia3_train_values(t, after);
        ia3_train_last(t, &now);
        assert_int_equal(now.step, last.step);
        assert_memory_equal(after, before, bytes);
    }
    free(before);
    free(after);
    return !ok;
}

/* The jobs are in the same state, with second moments. */
static void
check_same(ia3_train *a, ia3_train *b)
{
    ia3_error err = {0};
    size_t len_a, len_b;
    uint8_t *state_a = ia3_train_save(a, &len_a, &err), *state_b = ia3_train_save(b, &len_b, &err);
    assert_non_null(state_a);
    assert_non_null(state_b);
    assert_int_equal(len_a, len_b);
    assert_memory_equal(state_a, state_b, len_a);
    free(state_a);
    free(state_b);
}

/* With ever more memory a step fails, without any change, until there is enough for all of it. */
static void
step_is_whole(void **state)
{
    static const char *const methods[] = {"ia3", "full"};
    for (size_t i = 0; i < sizeof methods / sizeof *methods; i++) {
        ia3_train *t = create(methods[i]), *undisturbed = create(methods[i]);
        int failed = 0;
        step(t); /* so that there are second moments */
        squeeze_step = true;
        for (slack = 0; step_fails(t); slack += (size_t) 16 << 10)
            assert_true(++failed < 256);
        squeeze_step = false;
        assert_true(failed >= (strcmp(methods[i], "full") == 0 ? 3 : 1));
        step(t);
        for (int s = 0; s < 3; s++)
            step(undisturbed);
        check_same(t, undisturbed);
        ia3_train_free(t);
        ia3_train_free(undisturbed);
    }
}

/* So it is if there is no memory for the copy of the trained weights that the next pass uses, also that of the first pass. */
static void
copy_is_repeated(void **state)
{
    squeeze_weights = true;
    ia3_train *t = create("full");
    assert_true(step_fails(t));
    squeeze_weights = false;
    step(t);
    squeeze_weights = true;
    assert_true(step_fails(t));
    assert_true(step_fails(t));
    squeeze_weights = false;
    step(t);
    ia3_train *undisturbed = create("full");
    step(undisturbed);
    step(undisturbed);
    check_same(t, undisturbed);
    ia3_train_free(t);
    ia3_train_free(undisturbed);
}

/* A state without the choice of weights would not be one to continue from. */
static void
save_needs_choice(void **state)
{
    ia3_train *t = create("fish");
    ia3_train_report last;
    ia3_error err = {0};
    size_t len;
    step(t); /* the first draw */
    ia3_train_last(t, &last);
    assert_int_equal(last.step, 0);
    assert_null(ia3_train_save(t, &len, &err));
    assert_int_equal(err.code, IA3_E_INVALID);
    assert_string_equal(err.message, "the weights that are trained have not been chosen");
    while (last.step == 0) {
        step(t);
        ia3_train_last(t, &last);
    }
    err = (ia3_error){0};
    uint8_t *saved = ia3_train_save(t, &len, &err);
    assert_non_null(saved);
    free(saved);
    ia3_train_free(t);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(step_is_whole), cmocka_unit_test(copy_is_repeated),
                                       cmocka_unit_test(save_needs_choice)};

    return cmocka_run_group_tests_name("memory of training", tests, set_up, tear_down);
}
