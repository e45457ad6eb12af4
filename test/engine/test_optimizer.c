/*
 * test_optimizer.c
 *     The variants of the optimizer, AdamW and averages of values, compared with PyTorch (test/golden/optimizers.py).
 */
#include "golden_methods.h"

static const struct {
    const char *name;
    Ia3Optimizer optimizer;
    double rate, decay, ema;
} cases[] = {{"adamw", IA3_OPTIMIZER_ADAMW, 3e-3, 0, 0},
             {"decay", IA3_OPTIMIZER_ADAMW, 1e-2, 0.1, 0.9},
             {"average", IA3_OPTIMIZER_ADAFACTOR, 3e-3, 0, 0.8}};
enum { N = sizeof cases / sizeof *cases };

typedef struct fixture {
    golden *g;
    golden_reference expected;
    golden_examples examples;
} fixture;

static fixture *
open_fixture(void **state)
{
    fixture *f = calloc(1, sizeof *f);
    f->g = golden_open(*state);
    golden_reference_open(&f->expected, f->g, "optimizers");
    golden_examples_open(f->g, &f->examples);
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
recipe_of(const fixture *f, int which)
{
    ia3_recipe recipe = golden_recipe(&f->g->layout->variant);
    recipe.learning_rate = cases[which].rate;
    recipe.optimizer = cases[which].optimizer;
    recipe.weight_decay = cases[which].decay;
    recipe.ema = cases[which].ema;
    return recipe;
}

static ia3_train *
job_of(const fixture *f, const ia3_recipe *recipe)
{
    return golden_job(f->g, &f->examples, recipe, f->g->vectors);
}

/* Losses to 1e-5; vectors to 1e-4, relative to their lengths. */
static void
check_steps(const fixture *f, int which)
{
    const ia3_layout *l = f->g->layout;
    const ia3_recipe recipe = recipe_of(f, which);
    ia3_train *t = job_of(f, &recipe);
    float *got = malloc(l->n_values * sizeof *got);
    float *want = golden_gather(&f->expected, l, "%s.final.", cases[which].name);
    int n;
    int32_t *indices = golden_ints(golden_find(f->g, "steps.indices"), &n);
    ia3_train_values(t, got);
    assert_memory_equal(got, f->g->vectors, l->n_values * sizeof *got);
    golden_check_steps(f->g, cases[which].name, t, indices, 20,
                       golden_expected(&f->expected, 20, "%s.steps", cases[which].name));
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
test_steps(void **state)
{
    fixture *f = open_fixture(state);
    for (int i = 0; i < N; i++)
        check_steps(f, i);
    close_fixture(f);
}

/* Jobs with different optimizers that are stepped together have the results that each has alone. */
static void
test_together(void **state)
{
    fixture *f = open_fixture(state);
    const size_t n = f->g->layout->n_values;
    float *a = malloc(n * sizeof *a), *b = malloc(n * sizeof *b);
    ia3_recipe recipes[N + 1];
    ia3_train *jobs[N + 1];
    ia3_error err = {0};
    for (int i = 0; i <= N; i++) {
        recipes[i] = recipe_of(f, i % N);
        recipes[i].dropout = 0.1;
        if (i == N) { /* the usual one */
            recipes[i].optimizer = IA3_OPTIMIZER_ADAFACTOR;
            recipes[i].weight_decay = recipes[i].ema = 0;
        }
        jobs[i] = job_of(f, &recipes[i]);
    }
    for (int s = 0; s < 5; s++)
        golden_ok(ia3_train_step(jobs, N + 1, &err), &err);
    for (int i = 0; i <= N; i++) {
        ia3_train *alone = job_of(f, &recipes[i]);
        for (int s = 0; s < 5; s++)
            golden_ok(ia3_train_step(&alone, 1, &err), &err);
        ia3_train_values(jobs[i], a);
        ia3_train_values(alone, b);
        double mean = 0;
        for (size_t k = 0; k < n; k++)
            mean += fabs((double) a[k] - b[k]) / (double) n;
        golden_limit(f->g, "together", mean, 2e-6);
        assert_memory_not_equal(a, f->g->vectors, n * sizeof *a);
        ia3_train_free(alone);
        ia3_train_free(jobs[i]);
    }
    free(a);
    free(b);
    close_fixture(f);
}

/* The values of a new prefix after ten steps, and the losses of the first and the last. */
static void
train_prefix(const fixture *f, Ia3Optimizer optimizer, double ema, float *values, double losses[2])
{
    ia3_recipe recipe = recipe_of(f, 0);
    recipe.variant = golden_variant("prefix", "");
    recipe.optimizer = optimizer;
    recipe.learning_rate = 1e-2;
    recipe.ema = ema;
    recipe.batch_size = GOLDEN_EXAMPLES;
    ia3_error err = {0};
    ia3_train *t = golden_job(f->g, &f->examples, &recipe, NULL);
    for (int s = 0; s < 10; s++) {
        ia3_train_report report;
        golden_ok(ia3_train_step(&t, 1, &err), &err);
        ia3_train_last(t, &report);
        losses[s > 0] = report.loss;
    }
    ia3_train_values(t, values);
    ia3_train_free(t);
}

/* Where other values are trained than the adapter's, the optimizer changes those, and averages are of the adapter's. */
static void
test_prefix(void **state)
{
    fixture *f = open_fixture(state);
    const ia3_variant v = golden_variant("prefix", "");
    const ia3_layout *l = golden_layout(f->g, &v);
    const size_t n = l->n_values;
    float *last = malloc(n * sizeof *last), *averaged = malloc(n * sizeof *averaged);
    for (int optimizer = IA3_OPTIMIZER_ADAFACTOR; optimizer <= IA3_OPTIMIZER_ADAMW; optimizer++) {
        double losses[2];
        train_prefix(f, (Ia3Optimizer) optimizer, 0, last, losses);
        assert_true(losses[1] < losses[0] - 0.1);
        train_prefix(f, (Ia3Optimizer) optimizer, 1e-9, averaged, losses); /* hardly an average */
        golden_limit(f->g, "average", golden_max(last, averaged, n), 1e-5);
        train_prefix(f, (Ia3Optimizer) optimizer, 0.5, averaged, losses);
        assert_true(golden_max(last, averaged, n) > 1e-3);
    }
    ia3_layout_release(l);
    free(last);
    free(averaged);
    close_fixture(f);
}

static void
test_refused(void **state)
{
    fixture *f = open_fixture(state);
    static const struct {
        ia3_recipe r;
        const char *message;
    } wrong[] = {
        {{.optimizer = 2}, "unknown optimizer"},
        {{.weight_decay = 0.1}, "weight_decay needs the optimizer \"adamw\""},
        {{.optimizer = IA3_OPTIMIZER_ADAMW, .weight_decay = 1.5}, "weight_decay must be between 0 and 1"},
        {{.ema = 1}, "ema must be between 0 and 0.99999"},
        {{.ema = -0.1}, "ema must be between 0 and 0.99999"},
        {{.ema = 0.5, .stop = 5}, "this optimizer cannot be paused"},
        {{.optimizer = IA3_OPTIMIZER_ADAMW, .stop = 5}, "this optimizer cannot be paused"},
    };
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        ia3_recipe r = recipe_of(f, 0);
        ia3_error err = {0};
        r.optimizer = wrong[i].r.optimizer;
        r.weight_decay = wrong[i].r.weight_decay;
        r.ema = wrong[i].r.ema;
        r.stop = wrong[i].r.stop;
        assert_null(ia3_train_create(f->g->m, f->examples.e, GOLDEN_EXAMPLES, &r, NULL, &err));
        assert_string_equal(err.message, wrong[i].message);
    }
    ia3_recipe r = recipe_of(f, 0);
    ia3_train *t = job_of(f, &r);
    ia3_error err = {0};
    size_t len;
    uint8_t *state_bytes = ia3_train_save(t, &len, &err);
    assert_false(ia3_train_restore(t, state_bytes, len, &err));
    assert_int_equal(err.code, IA3_E_UNSUPPORTED);
    free(state_bytes);
    ia3_train_free(t);
    close_fixture(f);
}

int
main(void)
{
    static const golden_test tests[] = {{"steps", test_steps, false, "t5-gated-untied "},
                                        {"together", test_together, false, "t5-gated-untied "},
                                        {"prefix", test_prefix, false, "t5-gated-untied "},
                                        {"refused", test_refused, false, "t5-gated-untied "}};
    return golden_run("optimizer", tests, sizeof tests / sizeof *tests);
}
