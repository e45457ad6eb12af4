/*
 * test_gradient.c
 *     Training compared with transformers and peft: losses, gradients of every vector (also compared with finite
 *     differences of our own loss), twenty optimizer steps, and reproducibility.
 *
 * The expected values come from a float64 run. The error of a loss below 0.1 is measured relative to 0.1, because the
 * unlikelihood term, without its constant, crosses zero.
 */
#include "golden_examples.h"

#include "engine/recipe/train.h"

/* T-Few's recipe as in the golden files: no dropout, 20 steps of which 2.4 are warm-up. */
static ia3_recipe
golden_recipe(const golden *g)
{
    const float *r = golden_values(g, 4, "steps.recipe");
    return (ia3_recipe){.variant = ia3_variant_standard(ia3_methods[0]),
                        .steps = (int) r[0],
                        .batch_size = (int) r[1],
                        .learning_rate =
                            round(r[2] * 1e6) / 1e6, /* the number before it was rounded to a float */
                        .warmup_ratio = round(r[3] * 1e6) / 1e6,
                        .lm_weight = 1,
                        .unlikelihood_weight = 1,
                        .length_norm_weight = 1,
                        .seed = 1};
}

static ia3_train *
job_of(const golden *g, const golden_examples *x, const ia3_recipe *recipe, const float *init)
{
    ia3_error err = {0};
    ia3_train *t = ia3_train_create(g->m, x->e, GOLDEN_EXAMPLES, recipe, init, &err);
    golden_ok(t, &err);
    return t;
}

/* The limit for losses in bfloat16. */
static double
half_losses(void)
{
    return golden_real_gpu() ? 2e-2 : 1e-2;
}

static double
loss_error(const ia3_train_report *r, const float *want)
{
    double got[] = {r->loss, r->lm_loss, r->unlikelihood_loss, r->length_norm_loss}, worst = 0;
    for (int i = 0; i < 4; i++) {
        double d = fabs(got[i] - want[i]) / fmax(fabs(want[i]), 0.1);
        worst = d <= worst ? worst : isnan(d) ? INFINITY : d;
    }
    return worst;
}

/* --- against the oracle --- */

/* Compares each vector's gradient with that of the float64 run. */
static void
check_gradients(const golden *g, const char *batch, const char *mode, const float *grads)
{
    for (int i = 0; i < g->layout->n; i++) {
        const ia3_layout_entry *e = &g->layout->entries[i];
        const float *want = golden_values(g, (size_t) e->len, "%s.%s.grad.%s", batch, mode, e->name);
        char what[192];
        snprintf(what, sizeof what, "gradient (%s, %s) of %s", batch, mode, e->name);
        if (g->dtype == IA3_F32)
            golden_limit(g, what, golden_relative(grads + e->offset, want, (size_t) e->len), 1e-4);
        else
            golden_limit(g, what, 1 - golden_cosine(grads + e->offset, want, (size_t) e->len), 0.01);
    }
}

static void
test_batch(const golden *g, const golden_examples *x, const char *batch, Ia3LossAveraging averaging)
{
    const char *mode = averaging == IA3_LOSS_BATCH ? "batch" : "example";
    const float *weights = golden_values(g, 3, "%s.weights", batch);
    ia3_recipe recipe = golden_recipe(g);
    recipe.lm_weight = weights[0];
    recipe.unlikelihood_weight = weights[1];
    recipe.length_norm_weight = weights[2];
    recipe.averaging = averaging;
    int n;
    int32_t *indices = golden_ints(golden_find(g, "%s.indices", batch), &n);
    recipe.batch_size = n; /* what per-example losses are divided by */
    float *grads = malloc(g->layout->n_values * sizeof *grads);
    ia3_train *t = job_of(g, x, &recipe, g->vectors);
    ia3_train_report report = {0};
    ia3_error err = {0};
    golden_ok(ia3_train_gradients(t, indices, golden_no_texts, n, grads, &report, &err), &err);
    assert_int_equal(report.examples, n);
    assert_int_equal(report.step, 0);
    double error = loss_error(&report, golden_values(g, 4, "%s.%s.losses", batch, mode));
    golden_limit(g, "losses", error, g->dtype == IA3_F32 ? 1e-5 : half_losses());
    check_gradients(g, batch, mode, grads);
    ia3_train_free(t);
    free(indices);
    free(grads);
}

static void
test_losses_and_gradients(void **state)
{
    golden *g = golden_open(*state);
    golden_examples x;
    golden_examples_open(g, &x);
    test_batch(g, &x, "tfew", IA3_LOSS_BATCH);
    test_batch(g, &x, "tfew", IA3_LOSS_EXAMPLE);
    test_batch(g, &x, "ragged", IA3_LOSS_BATCH);
    test_batch(g, &x, "ragged", IA3_LOSS_EXAMPLE);
    golden_examples_close(&x);
    golden_close(g);
}

static double
final_error(const golden *g, const float *values)
{
    double worst = 0;
    for (int i = 0; i < g->layout->n; i++) {
        const ia3_layout_entry *e = &g->layout->entries[i];
        worst = fmax(worst, golden_max(values + e->offset,
                                       golden_values(g, (size_t) e->len, "steps.final.%s", e->name),
                                       (size_t) e->len));
    }
    return worst;
}

static double
mean_final_error(const golden *g, const float *values)
{
    double sum = 0;
    for (int i = 0; i < g->layout->n; i++) {
        const ia3_layout_entry *e = &g->layout->entries[i];
        const float *want = golden_values(g, (size_t) e->len, "steps.final.%s", e->name);
        sum += golden_mean(values + e->offset, want, (size_t) e->len) * (double) e->len;
    }
    return sum / (double) g->layout->n_values;
}

/*
 * Adafactor's first steps follow the sign of the gradient, which the order of a sum decides where the gradient is nearly
 * zero: a GPU may be a step away in single values.
 */
static void
check_final(const golden *g, const float *values, double half_limit, double step)
{
    bool half = g->dtype == IA3_BF16;
    golden_limit(g, "vectors after 20 steps", final_error(g, values),
                 half                ? half_limit
                 : golden_real_gpu() ? step
                                     : 1e-5);
    if (!half)
        golden_limit(g, "vectors after 20 steps, mean", mean_final_error(g, values), 1e-6);
}

static void
test_steps(void **state)
{
    golden *g = golden_open(*state);
    golden_examples x;
    golden_examples_open(g, &x);
    ia3_recipe recipe = golden_recipe(g);
    int n, steps = recipe.steps, size = recipe.batch_size;
    int32_t *indices = golden_ints(golden_find(g, "steps.indices"), &n);
    assert_int_equal(n, steps * size);
    const float *losses = golden_values(g, (size_t) steps * 4, "steps.losses");
    float *values = malloc(g->layout->n_values * sizeof *values);
    ia3_train *t = job_of(g, &x, &recipe, g->vectors);
    ia3_error err = {0};
    double worst = 0;
    for (int s = 0; s < steps; s++) {
        assert_false(ia3_train_finished(t));
        golden_ok(ia3_train_step_on(t, indices + (size_t) s * size, golden_no_texts, size, &err), &err);
        ia3_train_report report;
        ia3_train_last(t, &report);
        assert_int_equal(report.step, s + 1);
        worst = fmax(worst, loss_error(&report, losses + (size_t) s * 4));
        if (s == 0) { /* the schedule begins at zero */
            ia3_train_values(t, values);
            assert_memory_equal(values, g->vectors, g->layout->n_values * sizeof *values);
        }
    }
    assert_true(ia3_train_finished(t));
    ia3_train_values(t, values);
    /* test/backbone has many more vectors: in bfloat16 as close as transformers' own bfloat16 run */
    bool mini = strcmp(g->name, "backbone") == 0, half = g->dtype == IA3_BF16;
    double hf_losses = half && mini ? *golden_values(g, 1, "hf_bfloat16.steps") : 0;
    double hf_final = half && mini ? *golden_values(g, 1, "hf_bfloat16.final_max") : 0;
    golden_limit(g, "losses of 20 steps", worst,
                 half                ? fmax(half_losses(), hf_losses)
                 : golden_real_gpu() ? 1e-4
                                     : 1e-5);
    check_final(g, values, fmax(5e-3, hf_final), recipe.learning_rate);
    ia3_train_free(t);
    free(indices);
    free(values);
    golden_examples_close(&x);
    golden_close(g);
}

/* --- finite differences of our own loss --- */

typedef struct differences {
    const golden *g;
    const golden_examples *x;
    ia3_recipe recipe;
    float *values, *grads, *scratch; /* scratch: gradients nobody wants */
} differences;

/* The loss after adding h to element i of the vectors. */
static double
loss_at(differences *d, size_t i, double h)
{
    static const int batch[] = {1, 8, 9};
    float old = d->values[i];
    d->values[i] = (float) (old + h);
    ia3_train *t = job_of(d->g, d->x, &d->recipe, d->values);
    ia3_train_report report = {0};
    ia3_error err = {0};
    golden_ok(
        ia3_train_gradients(t, batch, golden_no_texts, 3, h == 0 ? d->grads : d->scratch, &report, &err),
        &err);
    ia3_train_free(t);
    d->values[i] = old;
    return report.loss;
}

/*
 * Central differences of fourth order. The fp32 loss has noise of about 1e-6, so with h = 0.02 a difference is accurate
 * to about 5e-5. ReLU has a kink, and of thousands of hidden units some always cross zero within the stencil, so the
 * limits for models with ReLU are wider here (the comparison with the float64 run has a limit of 1e-4).
 */
static double
difference(differences *d, size_t i)
{
    const double h = 0.02;
    return (8 * (loss_at(d, i, h) - loss_at(d, i, -h)) - (loss_at(d, i, 2 * h) - loss_at(d, i, -2 * h))) /
           (12 * h);
}

/* Checks the elements of a vector with the largest gradients, where a difference is most accurate, and one other. */
static void
check_vector(differences *d, const ia3_layout_entry *e)
{
    size_t picks[4] = {0};
    for (int k = 0; k < 3; k++)
        for (int j = 0; j < e->len; j++) {
            size_t i = e->offset + (size_t) j;
            bool taken = (k > 0 && picks[0] == i) || (k > 1 && picks[1] == i);
            if (!taken && (picks[k] == 0 || fabsf(d->grads[i]) > fabsf(d->grads[picks[k]])))
                picks[k] = i;
        }
    picks[3] = e->offset + (size_t) e->len / 2;
    double slack = d->g->config->act == IA3_RELU ? 0.1 : 0.01;
    for (int k = 0; k < 4; k++) {
        double want = difference(d, picks[k]), got = d->grads[picks[k]];
        double scale = fabs(d->grads[picks[0]]);
        if (fabs(got - want) > 2e-4 + slack * scale)
            fail_msg("%s: gradient %zu of %s is %g, finite differences say %g", d->g->name,
                     picks[k] - e->offset, e->name, got, want);
    }
}

static void
run_differences(golden *g, double dropout)
{
    golden_examples x;
    golden_examples_open(g, &x);
    size_t bytes = g->layout->n_values * sizeof(float);
    differences d = {.g = g, .x = &x, .recipe = golden_recipe(g)};
    d.recipe.dropout = dropout;
    d.values = malloc(bytes);
    d.grads = malloc(bytes);
    d.scratch = malloc(bytes);
    memcpy(d.values, g->vectors, bytes);
    ia3_train *keep = job_of(g, &x, &d.recipe, NULL); /* keeps the backward weights while jobs come and go */
    loss_at(&d, 0, 0);
    for (int i = 0; i < g->layout->n; i++)
        check_vector(&d, &g->layout->entries[i]);
    ia3_train_free(keep);
    free(d.values);
    free(d.grads);
    free(d.scratch);
    golden_examples_close(&x);
}

static void
test_differences(void **state)
{
    golden *g = golden_open(*state);
    run_differences(g, 0);
    golden_close(g);
}

/* Dropout masks depend only on seed and step, so the loss is a differentiable function of the vectors. */
static void
test_differences_with_dropout(void **state)
{
    golden *g = golden_open(*state);
    run_differences(g, 0.1);
    golden_close(g);
}

/* --- reproducible, independent --- */

/* Steps of a run. Sanitizers are slow, and what they look for is in the first ones. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
enum { STEPS = 3, JOINS = 1 };
#else
enum { STEPS = 8, JOINS = 3 };
#endif

/* The values of a new job after n ordinary steps. */
static float *
train_alone(const golden *g, const golden_examples *x, const ia3_recipe *recipe, const float *init, int n)
{
    ia3_error err = {0};
    ia3_train *t = job_of(g, x, recipe, init);
    for (int s = 0; s < n; s++)
        golden_ok(ia3_train_step(&t, 1, &err), &err);
    float *values = malloc(g->layout->n_values * sizeof *values);
    ia3_train_values(t, values);
    ia3_train_free(t);
    return values;
}

static void
test_reproducible(void **state)
{
    golden *g = golden_open(*state);
    golden_examples x;
    golden_examples_open(g, &x);
    size_t bytes = g->layout->n_values * sizeof(float);
    ia3_recipe recipe = golden_recipe(g), other = recipe, plain = recipe;
    recipe.dropout = other.dropout = 0.1;
    other.seed = 2;
    float *first = train_alone(g, &x, &recipe, NULL, STEPS),
          *again = train_alone(g, &x, &recipe, NULL, STEPS);
    float *seed2 = train_alone(g, &x, &other, NULL, STEPS), *dry = train_alone(g, &x, &plain, NULL, STEPS);
    assert_memory_equal(first, again, bytes);
    assert_memory_not_equal(first, seed2, bytes);
    assert_memory_not_equal(first, dry, bytes);
    free(first);
    free(again);
    free(seed2);
    free(dry);
    golden_examples_close(&x);
    golden_close(g);
}

/*
 * Jobs with different seeds, initial values, learning rates and dropout that are stepped together, one of which joins
 * late, have the same results as alone. Other jobs change the shapes of matrix products and so the last bits of
 * gradients, and Adafactor makes a whole step even if only the sign of a tiny gradient changes. So the limit for the
 * mean difference is narrow, while the largest difference may be one step.
 */
static void
test_jobs_together(void **state)
{
    golden *g = golden_open(*state);
    golden_examples x;
    golden_examples_open(g, &x);
    ia3_error err = {0};
    size_t n = g->layout->n_values;
    ia3_recipe recipes[3] = {golden_recipe(g), golden_recipe(g), golden_recipe(g)};
    recipes[1].seed = 7;
    recipes[1].batch_size = 3;
    recipes[1].dropout = 0.1;
    recipes[2].learning_rate = 1e-3;
    recipes[2].unlikelihood_weight = 0;
    const float *inits[3] = {NULL, g->vectors, NULL};
    ia3_train *jobs[3];
    for (int j = 0; j < 3; j++)
        jobs[j] = job_of(g, &x, &recipes[j], inits[j]);
    float *together = malloc(n * sizeof *together);
    for (int s = 0; s < STEPS; s++)
        golden_ok(ia3_train_step(jobs, s < JOINS ? 2 : 3, &err), &err);
    for (int j = 0; j < 3; j++) {
        float *alone = train_alone(g, &x, &recipes[j], inits[j], j < 2 ? STEPS : STEPS - JOINS);
        ia3_train_values(jobs[j], together);
        double mean = 0;
        for (size_t i = 0; i < n; i++)
            mean += fabs((double) together[i] - alone[i]) / (double) n;
        golden_limit(g, "jobs together, mean difference", mean, g->dtype == IA3_F32 ? 1e-6 : 3e-4);
        golden_limit(g, "jobs together, largest difference", golden_max(together, alone, n), 6e-3);
        free(alone);
        ia3_train_free(jobs[j]);
    }
    free(together);
    golden_examples_close(&x);
    golden_close(g);
}

/* Steps with dropout give identical bits with any number of threads. */
static void
test_threads(void **state)
{
    static const int counts[] = {1, 2, 5};
    float *values[3];
    size_t bytes = 0;
    for (int i = 0; i < 3; i++) {
        golden_threads = counts[i];
        golden *g = golden_open(*state);
        golden_examples x;
        golden_examples_open(g, &x);
        bytes = g->layout->n_values * sizeof(float);
        ia3_recipe recipe = golden_recipe(g);
        recipe.dropout = 0.1;
        values[i] = train_alone(g, &x, &recipe, NULL, STEPS);
        golden_examples_close(&x);
        golden_close(g);
    }
    golden_threads = 2;
    assert_memory_equal(values[0], values[1], bytes);
    assert_memory_equal(values[0], values[2], bytes);
    for (int i = 0; i < 3; i++)
        free(values[i]);
}

/* Computing gradients does not change the values; a step does. */
static void
test_gradients_leave_the_job_alone(void **state)
{
    static const int batch[] = {0, 1};
    golden *g = golden_open(*state);
    golden_examples x;
    golden_examples_open(g, &x);
    ia3_error err = {0};
    ia3_train_report report;
    size_t n = g->layout->n_values, bytes = n * sizeof(float);
    float *grads = malloc(bytes), *again = malloc(bytes), *values = malloc(bytes);
    ia3_recipe recipe = golden_recipe(g);
    recipe.warmup_ratio = 0; /* so that the first step has the full learning rate */
    ia3_train *t = job_of(g, &x, &recipe, g->vectors);
    golden_ok(ia3_train_gradients(t, batch, golden_no_texts, 2, grads, &report, &err), &err);
    golden_ok(ia3_train_gradients(t, batch, golden_no_texts, 2, again, &report, &err), &err);
    assert_memory_equal(grads, again, bytes);
    ia3_train_values(t, values);
    assert_memory_equal(values, g->vectors, bytes);
    golden_ok(ia3_train_step_on(t, batch, golden_no_texts, 2, &err), &err);
    ia3_train_values(t, values);
    assert_memory_not_equal(values, g->vectors, bytes);
    ia3_train_free(t);
    free(grads);
    free(again);
    free(values);
    golden_examples_close(&x);
    golden_close(g);
}

/* An invalid recipe or example is an error that names it. */
static void
test_bad_recipes(void **state)
{
    golden *g = golden_open(*state);
    golden_examples x;
    golden_examples_open(g, &x);
    static const struct {
        const char *field;
        ia3_recipe recipe;
    } bad[] = {
        {"steps", {.steps = 0, .batch_size = 1, .learning_rate = 1, .lm_weight = 1}},
        {"batch_size", {.steps = 1, .batch_size = 0, .learning_rate = 1, .lm_weight = 1}},
        {"learning_rate", {.steps = 1, .batch_size = 1, .learning_rate = NAN, .lm_weight = 1}},
        {"warmup_ratio",
         {.steps = 1, .batch_size = 1, .learning_rate = 1, .warmup_ratio = 1.5, .lm_weight = 1}},
        {"lm_weight", {.steps = 1, .batch_size = 1, .learning_rate = 1, .lm_weight = -1}},
        {"dropout", {.steps = 1, .batch_size = 1, .learning_rate = 1, .lm_weight = 1, .dropout = 1}},
        {"weights", {.steps = 1, .batch_size = 1, .learning_rate = 1}},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        ia3_error err = {0};
        ia3_recipe recipe = bad[i].recipe;
        recipe.variant = ia3_variant_standard(ia3_methods[0]);
        assert_null(ia3_train_create(g->m, x.e, GOLDEN_EXAMPLES, &recipe, NULL, &err));
        assert_int_equal(err.code, IA3_E_INVALID);
        assert_non_null(strstr(err.message, bad[i].field));
    }
    ia3_error err = {0};
    ia3_recipe recipe = golden_recipe(g);
    x.e[3].label = x.e[3].choices->n;
    assert_null(ia3_train_create(g->m, x.e, GOLDEN_EXAMPLES, &recipe, NULL, &err));
    assert_int_equal(err.code, IA3_E_INVALID);
    golden_examples_close(&x);
    golden_close(g);
}

int
main(void)
{
    static const golden_test tests[] = {
        {"bad recipes", test_bad_recipes, false, GOLDEN_FEW},
        {"losses and gradients", test_losses_and_gradients, true, GOLDEN_ALL GOLDEN_MINI},
        {"20 steps", test_steps, true, GOLDEN_ALL GOLDEN_MINI},
        {"finite differences", test_differences, false, GOLDEN_ALL},
        {"finite differences with dropout", test_differences_with_dropout, false, GOLDEN_FEW},
        {"same seed, same bits", test_reproducible, true, GOLDEN_FEW GOLDEN_MINI},
        {"any number of threads", test_threads, true, GOLDEN_FEW GOLDEN_MINI},
        {"jobs together", test_jobs_together, true, GOLDEN_FEW GOLDEN_MINI},
        {"gradients leave the job alone", test_gradients_leave_the_job_alone, true, GOLDEN_FEW GOLDEN_MINI},
    };
    return golden_run("gradient", tests, sizeof tests / sizeof *tests);
}
