/*
 * test_weighting.c
 *     Weights of training examples: losses, gradients and optimizer steps compared with a reference
 *     (test/golden/weighting.py), finite differences, equal weights, weights of zero, states and the choice of a FISH mask.
 */
#include "golden_methods.h"

#define BOTH "t5-relu-tied t5-gated-untied "

typedef struct fixture {
    golden *g;
    golden_reference expected;
    golden_examples examples;
    double weights[GOLDEN_EXAMPLES]; /* of the reference */
} fixture;

static fixture *
open_fixture(void **state)
{
    fixture *f = calloc(1, sizeof *f);
    f->g = golden_open(*state);
    golden_reference_open(&f->expected, f->g, "weighting");
    golden_examples_open(f->g, &f->examples);
    for (int i = 0; i < GOLDEN_EXAMPLES; i++)
        f->weights[i] = golden_expected(&f->expected, GOLDEN_EXAMPLES, "weights")[i];
    f->examples.weights = f->weights;
    return f;
}

static void
close_fixture(fixture *f)
{
    golden_examples_close(&f->examples);
    golden_reference_close(&f->expected);
    golden_close(f->g);
    free(f);
}

static ia3_recipe
recipe_of(const fixture *f, Ia3LossAveraging averaging)
{
    ia3_recipe recipe = golden_recipe(&f->g->layout->variant);
    recipe.averaging = averaging;
    return recipe;
}

static const char *
mode_name(Ia3LossAveraging averaging)
{
    return averaging == IA3_LOSS_EXAMPLE ? "example" : "batch";
}

/* The losses of five examples, of which one weighs nothing, and their gradients. */
static void
check_gradients(const fixture *f, Ia3LossAveraging averaging)
{
    static const int batch[] = {0, 1, 2, 3, 4};
    const char *mode = mode_name(averaging);
    const ia3_layout *l = f->g->layout;
    const float *losses = golden_expected(&f->expected, 4, "%s.losses", mode);
    const float *of_losses = golden_expected(&f->expected, 3, "of_losses");
    float *got = malloc(l->n_values * sizeof *got), *want = golden_gather(&f->expected, l, "%s.grad.", mode);
    ia3_recipe recipe = recipe_of(f, averaging);
    ia3_train_report r = {0};
    ia3_error err = {0};
    recipe.batch_size = 5;
    recipe.lm_weight = of_losses[0];
    recipe.unlikelihood_weight = of_losses[1];
    recipe.length_norm_weight = of_losses[2];
    ia3_train *t = golden_job(f->g, &f->examples, &recipe, f->g->vectors);
    golden_ok(ia3_train_gradients(t, batch, golden_no_texts, 5, got, &r, &err), &err);
    const double all[] = {r.loss, r.lm_loss, r.unlikelihood_loss, r.length_norm_loss};
    for (int k = 0; k < 4; k++)
        golden_limit(f->g, mode, fabs(all[k] - losses[k]), 1e-5 * fabs(losses[k]));
    golden_check_gradients(f->g, l, got, want);
    ia3_train_free(t);
    free(got);
    free(want);
}

static void
check_steps(const fixture *f, Ia3LossAveraging averaging)
{
    const char *mode = mode_name(averaging);
    const ia3_layout *l = f->g->layout;
    const ia3_recipe recipe = recipe_of(f, averaging);
    float *got = malloc(l->n_values * sizeof *got), *want = golden_gather(&f->expected, l, "%s.final.", mode);
    int n;
    int32_t *indices = golden_ints(golden_find(f->g, "steps.indices"), &n);
    ia3_train *t = golden_job(f->g, &f->examples, &recipe, f->g->vectors);
    golden_check_steps(f->g, mode, t, indices, 20, golden_expected(&f->expected, 20, "%s.steps", mode));
    ia3_train_values(t, got);
    for (int i = 0; i < l->n; i++) {
        const ia3_layout_entry *e = &l->entries[i];
        golden_limit(f->g, e->name, golden_relative(got + e->offset, want + e->offset, (size_t) e->len),
                     1e-4);
    }
    ia3_train_free(t);
    free(indices);
    free(got);
    free(want);
}

static void
test_reference(void **state)
{
    fixture *f = open_fixture(state);
    check_gradients(f, IA3_LOSS_BATCH);
    check_gradients(f, IA3_LOSS_EXAMPLE);
    check_steps(f, IA3_LOSS_BATCH);
    check_steps(f, IA3_LOSS_EXAMPLE);
    close_fixture(f);
}

static void
test_differences(void **state)
{
    fixture *f = open_fixture(state);
    static const double weights[GOLDEN_EXAMPLES] = {1, 3, 1, 1, 1, 1, 1, 1, 0.5, 0.25};
    f->examples.weights = weights;
    for (int k = 0; k < 4; k++) {
        ia3_recipe recipe = recipe_of(f, k & 1 ? IA3_LOSS_EXAMPLE : IA3_LOSS_BATCH);
        recipe.dropout = k & 2 ? 0.1 : 0;
        golden_check_differences(f->g, &f->examples, &recipe, f->g->vectors, false);
    }
    close_fixture(f);
}

/* The values after six steps with these weights; NULL: without any. The caller frees them. */
static float *
train(fixture *f, const ia3_recipe *recipe, const double *weights)
{
    const ia3_layout *l = golden_layout(f->g, &recipe->variant);
    float *values = malloc(l->n_values * sizeof *values);
    ia3_error err = {0};
    f->examples.weights = weights;
    ia3_train *t = golden_job(f->g, &f->examples, recipe, NULL);
    for (int steps = 0; steps < 6;) {
        ia3_train_report report;
        golden_ok(ia3_train_step(&t, 1, &err), &err);
        ia3_train_last(t, &report);
        steps = report.step;
    }
    ia3_train_values(t, values);
    ia3_train_free(t);
    ia3_layout_release(l);
    return values;
}

static bool
same(const fixture *f, float *a, float *b)
{
    bool equal = memcmp(a, b, f->g->layout->n_values * sizeof *a) == 0;
    free(a);
    free(b);
    return equal;
}

/* Equal weights, whatever they are, change no bit, and nor does a common factor. */
static void
test_ratios(void **state)
{
    fixture *f = open_fixture(state);
    double ones[GOLDEN_EXAMPLES], tenths[GOLDEN_EXAMPLES], tiny[GOLDEN_EXAMPLES], large[GOLDEN_EXAMPLES];
    for (int i = 0; i < GOLDEN_EXAMPLES; i++) {
        ones[i] = 1;
        tenths[i] = 0.1;
        tiny[i] = 5e-324;
        large[i] = f->weights[i] * 0x1p30;
    }
    for (int k = 0; k < 2; k++) {
        ia3_recipe recipe = recipe_of(f, k ? IA3_LOSS_EXAMPLE : IA3_LOSS_BATCH);
        recipe.dropout = 0.1;
        assert_true(same(f, train(f, &recipe, ones), train(f, &recipe, NULL)));
        assert_true(same(f, train(f, &recipe, tenths), train(f, &recipe, NULL)));
        assert_true(same(f, train(f, &recipe, tiny), train(f, &recipe, NULL)));
        assert_true(same(f, train(f, &recipe, large), train(f, &recipe, f->weights)));
        assert_false(same(f, train(f, &recipe, f->weights), train(f, &recipe, NULL)));
    }
    close_fixture(f);
}

/* Batches of examples that all weigh nothing change nothing, and leave all values finite. */
static void
test_zeros(void **state)
{
    fixture *f = open_fixture(state);
    static const int nothing[] = {2, 8};
    const size_t n = f->g->layout->n_values;
    const ia3_recipe recipe = recipe_of(f, IA3_LOSS_BATCH);
    float *values = malloc(n * sizeof *values);
    ia3_train_report report;
    ia3_error err = {0};
    ia3_train *t = golden_job(f->g, &f->examples, &recipe, f->g->vectors);
    for (int s = 0; s < 3; s++) {
        golden_ok(ia3_train_step_on(t, nothing, golden_no_texts, 2, &err), &err);
        ia3_train_last(t, &report);
        assert_true(report.loss == 0);
    }
    ia3_train_values(t, values);
    assert_memory_equal(values, f->g->vectors, n * sizeof *values);
    golden_ok(ia3_train_step_on(t, (const int[]){1}, golden_no_texts, 1, &err), &err);
    ia3_train_values(t, values);
    assert_memory_not_equal(values, f->g->vectors, n * sizeof *values);
    for (size_t i = 0; i < n; i++)
        assert_true(isfinite(values[i]));
    ia3_train_free(t);
    free(values);
    close_fixture(f);
}

/* A state is continued with the same weights, up to a factor, and refused with others, or none. */
static void
test_states(void **state)
{
    fixture *f = open_fixture(state);
    ia3_recipe recipe = recipe_of(f, IA3_LOSS_BATCH);
    ia3_error err = {0};
    double others[GOLDEN_EXAMPLES], twice[GOLDEN_EXAMPLES];
    for (int i = 0; i < GOLDEN_EXAMPLES; i++)
        twice[i] = others[i] = 2 * f->weights[i];
    others[3] += 1;
    float *whole = train(f, &recipe, f->weights), *values = malloc(f->g->layout->n_values * sizeof *values);
    ia3_train *t = golden_job(f->g, &f->examples, &recipe, NULL);
    for (int s = 0; s < 3; s++)
        golden_ok(ia3_train_step(&t, 1, &err), &err);
    size_t len;
    uint8_t *saved = ia3_train_save(t, &len, &err);
    ia3_train_free(t);
    const double *const refused[] = {others, NULL};
    for (int k = 0; k < 2; k++) {
        f->examples.weights = refused[k];
        t = golden_job(f->g, &f->examples, &recipe, NULL);
        assert_false(ia3_train_restore(t, saved, len, &err));
        assert_string_equal(err.message,
                            "the saved state belongs to a training run with other examples or options");
        memset(&err, 0, sizeof err);
        ia3_train_free(t);
    }
    f->examples.weights = twice;
    t = golden_job(f->g, &f->examples, &recipe, NULL);
    golden_ok(ia3_train_restore(t, saved, len, &err), &err);
    for (int s = 0; s < 3; s++)
        golden_ok(ia3_train_step(&t, 1, &err), &err);
    ia3_train_values(t, values);
    assert_true(same(f, values, whole));
    ia3_train_free(t);
    free(saved);
    close_fixture(f);
}

/*
 * The positions of the weights that a FISH mask chooses for these examples, in order. Both numbers of examples divide that of
 * the draws, so each is drawn once. The caller frees the positions.
 */
static size_t *
chosen(const fixture *f, const ia3_train_example *examples, int n, const double *weights, size_t *kept)
{
    ia3_recipe recipe = recipe_of(f, IA3_LOSS_BATCH);
    ia3_error err = {0};
    recipe.variant = golden_variant("fish", "{\"keep_ratio\": 0.02}");
    const ia3_layout *l = golden_layout(f->g, &recipe.variant);
    float *values = malloc(l->n_values * sizeof *values);
    ia3_train *t = ia3_train_create(f->g->m, examples, n, &recipe, NULL, &err);
    golden_ok(t, &err);
    if (weights)
        golden_ok(ia3_train_weigh(t, weights, &err), &err);
    golden_ok(ia3_train_step_on(t, (const int[]){0}, golden_no_texts, 1, &err), &err);
    ia3_train_values(t, values);
    *kept = l->kept;
    size_t *positions = malloc(l->kept * sizeof *positions);
    for (size_t i = 0; i < l->kept; i++)
        positions[i] = ia3_kept_position(l, values, i);
    ia3_train_free(t);
    ia3_layout_release(l);
    free(values);
    return positions;
}

/* Of two ascending lists of n, how many of one are not in the other. */
static size_t
count_others(const size_t *a, const size_t *b, size_t n)
{
    size_t common = 0;
    for (size_t i = 0, k = 0; i < n && k < n;) {
        common += a[i] == b[k];
        const bool next_a = a[i] <= b[k], next_b = b[k] <= a[i];
        i += next_a;
        k += next_b;
    }
    return n - common;
}

/* Squared gradients are summed with weights: an example of weight 3 counts as three copies of it. */
static void
test_fish(void **state)
{
    fixture *f = open_fixture(state);
    const ia3_train_example *e = f->examples.e;
    const ia3_train_example two[] = {e[0], e[5]}, four[] = {e[0], e[0], e[0], e[5]};
    size_t n, m;
    size_t *weighted = chosen(f, two, 2, (const double[]){3, 1}, &n), *copied = chosen(f, four, 4, NULL, &m);
    size_t *plain = chosen(f, two, 2, NULL, &n);
    assert_int_equal(n, m);
    assert_true(count_others(weighted, copied, n) <= n / 200); /* those that rounding decides */
    assert_true(count_others(weighted, plain, n) > n / 50);
    free(weighted);
    free(copied);
    free(plain);
    close_fixture(f);
}

static void
test_refused(void **state)
{
    fixture *f = open_fixture(state);
    const ia3_recipe recipe = recipe_of(f, IA3_LOSS_BATCH);
    static const double wrong[] = {-1, NAN, INFINITY, 1.001e12};
    double weights[GOLDEN_EXAMPLES] = {0};
    f->examples.weights = NULL;
    ia3_train *t = golden_job(f->g, &f->examples, &recipe, NULL);
    for (int k = 0; k <= 4; k++) {
        ia3_error err = {0};
        weights[4] = k < 4 ? wrong[k] : 0;
        assert_false(ia3_train_weigh(t, weights, &err));
        assert_int_equal(err.code, IA3_E_INVALID);
        assert_string_equal(err.message, k < 4 ? "the weight of example 4 is not a number from 0 to 1e+12"
                                               : "the weights of all examples are zero");
    }
    ia3_train_free(t);
    close_fixture(f);
}

int
main(void)
{
    static const golden_test tests[] = {
        {"reference", test_reference, false, BOTH},
        {"differences", test_differences, false, "t5-gated-untied "},
        {"ratios", test_ratios, false, BOTH},
        {"zeros", test_zeros, false, "t5-relu-tied "},
        {"states", test_states, false, "t5-relu-tied "},
        {"fish", test_fish, false, "t5-relu-tied "},
        {"refused", test_refused, false, "t5-relu-tied "},
    };
    return golden_run("weighting", tests, sizeof tests / sizeof *tests);
}
