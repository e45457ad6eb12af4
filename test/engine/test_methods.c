/*
 * test_methods.c
 *     The methods other than (IA)³: scores, losses, gradients and optimizer steps compared with peft and transformers
 *     (test/golden/methods.py), gradients compared with finite differences of our own loss, and invariants: a new
 *     adapter does not change the backbone's results, and batches of several methods have the same results as each
 *     alone.
 */
#include "golden_methods.h"

#include "engine/model/weights.h"
#include "engine/recipe/generate.h"

/* The configurations in test/golden/methods; training was computed for one of them. */
#define TRAINED "t5-gated-untied "
#define BOTH    "t5-relu-tied " TRAINED

/* How many methods there are; the first is (IA)³. */
#define ONE(name) +1
enum { N_METHODS = IA3_METHODS(ONE) };

/* A configuration with an adapter of each method; that of (IA)³ is the golden one. */
typedef struct fixture {
    golden *g;
    golden_reference expected;
    float *values[N_METHODS];
    ia3_adapter *adapters[N_METHODS];
    golden_examples examples;
} fixture;

/* What methods.py computes: the configurations of the earliest versions, and a bottleneck that is wide enough to matter. */
static ia3_variant
variant_of(int method)
{
    ia3_error err = {0};
    ia3_variant v;
    const char *name = ia3_methods[method]->name;
    const char *record = strcmp(name, "adapter") == 0         ? "{\"bottleneck\": 5}"
                         : strncmp(name, "compacter", 9) == 0 ? "{\"bottleneck\": 8}"
                         : strcmp(name, "said") == 0          ? "{\"intrinsic_dim\": 200}"
                         : strcmp(name, "fish") == 0          ? "{\"keep_ratio\": 0.05}"
                                                              : "";
    golden_ok(ia3_variant_read(&v, ia3_methods[method], record, strlen(record), &err), &err);
    return v;
}

/* It is freed with the model. */
static const ia3_layout *
layout_of(const fixture *f, int method)
{
    const ia3_variant v = variant_of(method);
    return golden_layout(f->g, &v);
}

/* What is expected of a method under names with this prefix. */
static float *
gather(const fixture *f, int method, const char *prefix)
{
    return golden_gather(&f->expected, layout_of(f, method), "%s.%s", ia3_methods[method]->name, prefix);
}

/* All weights of the backbone, of which every third is reduced and every third enlarged, as the reference has them. */
static float *
other_weights(const fixture *f, const ia3_layout *l)
{
    float *values = malloc(l->n_values * sizeof *values);
    ia3_error err = {0};
    golden_ok(ia3_weights_read(f->g->ck, l, values, &err), &err);
    for (int i = 0; i < l->n; i++)
        for (int k = 0; k < l->entries[i].len; k++)
            values[l->entries[i].offset + (size_t) k] *= (float) (1 + 0.0625 * (k % 3 - 1));
    return values;
}

static fixture *
open_fixture(void **state)
{
    fixture *f = calloc(1, sizeof *f);
    f->g = golden_open(*state);
    golden_reference_open(&f->expected, f->g, "methods");
    for (int i = 0; i < N_METHODS; i++) {
        if (i == 0) {
            f->values[i] = malloc(f->g->layout->n_values * sizeof(float));
            memcpy(f->values[i], f->g->vectors, f->g->layout->n_values * sizeof(float));
        } else if (layout_of(f, i)->weights)
            f->values[i] = other_weights(f, layout_of(f, i));
        else
            f->values[i] = gather(f, i, "");
        f->adapters[i] = golden_adapter(f->g, layout_of(f, i), f->values[i]);
    }
    assert_null(ia3_methods[N_METHODS]);
    golden_examples_open(f->g, &f->examples);
    return f;
}

static void
close_fixture(fixture *f)
{
    golden_examples_close(&f->examples);
    for (int i = 0; i < N_METHODS; i++) {
        ia3_adapter_free(f->g->m, f->adapters[i]);
        free(f->values[i]);
    }
    golden_reference_close(&f->expected);
    golden_close(f->g);
    free(f);
}

static ia3_recipe
recipe_of(int method)
{
    const ia3_variant v = variant_of(method);
    ia3_recipe recipe = golden_recipe(&v);
    if (ia3_methods[method]->fixed_step)
        recipe.learning_rate = 3e-2;
    return recipe;
}

static ia3_train *
job_of(const fixture *f, const ia3_recipe *recipe, const float *init)
{
    return golden_job(f->g, &f->examples, recipe, init);
}

/* --- against peft and transformers --- */

static void
test_scores(void **state)
{
    fixture *f = open_fixture(state);
    for (int input = 0; input < GOLDEN_INPUTS; input++) {
        double scores[N_METHODS][4];
        for (int m = 1; m < N_METHODS; m++) {
            char what[64];
            const float *want = golden_expected(&f->expected, 4, "%s.scores.%d", ia3_methods[m]->name, input);
            golden_score(f->g, &f->adapters[m], 1, input, &scores[m]);
            snprintf(what, sizeof what, "scores of %s", ia3_methods[m]->name);
            for (int c = 0; c < 4; c++)
                golden_limit(f->g, what, fabs(scores[m][c] - want[c]), f->g->dtype == IA3_F32 ? 1e-4 : 0.15);
        }
    }
    close_fixture(f);
}

/* Twenty steps have the losses of the reference, and lead to its values. */
static void
check_steps(const fixture *f, int method, ia3_train *t, const float *grads)
{
    const ia3_layout *l = layout_of(f, method);
    const char *name = ia3_methods[method]->name;
    float *want = gather(f, method, "final."), *got = calloc(l->n_values, sizeof *got);
    golden_check_steps(f->g, name, t, NULL, 20, golden_expected(&f->expected, 20, "%s.curve", name));
    ia3_train_values(t, got);
    golden_check_values(f->g, l, f->values[method], grads, got, want);
    free(want);
    free(got);
}

static void
test_gradients_and_steps(void **state)
{
    static const int batch[] = {0, 1, 2, 3, 4};
    fixture *f = open_fixture(state);
    ia3_error err = {0};
    for (int m = 1; m < N_METHODS; m++) {
        const ia3_layout *l = layout_of(f, m);
        ia3_recipe recipe = recipe_of(m);
        ia3_train *t = job_of(f, &recipe, f->values[m]);
        ia3_train_report report = {0};
        float *grads = malloc(l->n_values * sizeof *grads), *want = gather(f, m, "grad.");
        golden_ok(ia3_train_gradients(t, batch, golden_no_texts, 5, grads, &report, &err), &err);
        const float *losses = golden_expected(&f->expected, 4, "%s.losses", ia3_methods[m]->name);
        golden_limit(f->g, "loss", fabs(report.loss - losses[0]), 1e-5 * fmax(1, fabs(losses[0])));
        golden_check_gradients(f->g, l, grads, want);
        check_steps(f, m, t, want);
        free(want);
        free(grads);
        ia3_train_free(t);
    }
    close_fixture(f);
}

/* --- finite differences of our own loss, with and without dropout --- */

static void
test_differences(void **state)
{
    fixture *f = open_fixture(state);
    for (int m = 1; m < N_METHODS; m++) {
        ia3_recipe recipe = recipe_of(m);
        golden_check_differences(f->g, &f->examples, &recipe, f->values[m], ia3_methods[m]->output != NULL);
        recipe.dropout = 0.1;
        golden_check_differences(f->g, &f->examples, &recipe, f->values[m], ia3_methods[m]->output != NULL);
    }
    close_fixture(f);
}

/* --- the choice of weights --- */

/* Before the first step the weights are chosen that have the largest Fisher information in the reference. */
static void
test_mask(void **state)
{
    fixture *f = open_fixture(state);
    ia3_error err = {0};
    for (int m = 0; m < N_METHODS; m++) {
        const ia3_layout *l = layout_of(f, m);
        if (l->kept == 0)
            continue;
        const ia3_recipe recipe = recipe_of(m);
        ia3_train *t = job_of(f, &recipe, NULL);
        ia3_train_report report = {0};
        float *chosen = malloc(l->n_values * sizeof *chosen), *after = malloc(l->n_values * sizeof *after);
        for (int i = 0; i < GOLDEN_EXAMPLES;
             i++) { /* without dropout, more draws of them would not tell more */
            golden_ok(ia3_train_step(&t, 1, &err), &err);
            ia3_train_last(t, &report);
            assert_int_equal(report.step, 0);
        }
        ia3_train_values(t, chosen);
        const float *want = golden_expected(&f->expected, l->kept, "%s.chosen", ia3_methods[m]->name);
        size_t same = 0;
        for (size_t i = 0, k = 0; i < l->kept && k < l->kept;) {
            const size_t a = ia3_kept_position(l, chosen, i), b = (size_t) want[k];
            same += a == b;
            i += a <= b;
            k += b <= a;
        }
        golden_limit(f->g, "mask", (double) (l->kept - same), 0.001 * (double) l->kept);
        golden_ok(ia3_train_step(&t, 1, &err), &err);
        ia3_train_last(t, &report);
        assert_int_equal(report.step, 1);
        ia3_train_values(t, after);
        assert_memory_equal(after, chosen, 2 * l->kept * sizeof *after);
        assert_memory_not_equal(after, chosen, l->n_values * sizeof *after);
        ia3_train_free(t);
        free(chosen);
        free(after);
    }
    close_fixture(f);
}

/* --- invariants --- */

/* A new prefix has the keys and values that the reference computes for the tokens that the engine draws. */
static void
test_new_prefix(void **state)
{
    fixture *f = open_fixture(state);
    for (int m = 0; m < N_METHODS; m++) {
        const ia3_layout *l = layout_of(f, m);
        if (!l->lead_keys)
            continue;
        const ia3_recipe recipe = recipe_of(m);
        ia3_train *t = job_of(f, &recipe, NULL);
        float *got = malloc(l->n_values * sizeof *got), *want = gather(f, m, "start.");
        float *zeros = calloc(l->n_values, sizeof *zeros);
        ia3_train_values(t, got);
        golden_limit(f->g, "new prefix", golden_max(got, want, l->n_values),
                     (f->g->dtype == IA3_F32 ? 1e-5 : 0.03) * golden_max(want, zeros, l->n_values));
        ia3_train_free(t);
        free(got);
        free(want);
        free(zeros);
    }
    close_fixture(f);
}

static void
test_fresh_is_bare(void **state)
{
    fixture *f = open_fixture(state);
    ia3_adapter *none = NULL;
    double bare[1][4], fresh[1][4];
    golden_score(f->g, &none, 1, 1, bare);
    for (int m = 0; m < N_METHODS; m++) {
        ia3_recipe recipe = recipe_of(m);
        ia3_train *t = job_of(f, &recipe, NULL);
        float *values = malloc(layout_of(f, m)->n_values * sizeof *values);
        ia3_train_values(t, values);
        ia3_adapter *a = golden_adapter(f->g, layout_of(f, m), values);
        golden_score(f->g, &a, 1, 1, fresh);
        bool near = ia3_methods[m]->output != NULL && !ia3_methods[m]->fused; /* begins with small numbers */
        for (int c = 0; near && c < 4; c++)
            golden_limit(f->g, "fresh", fabs(fresh[0][c] - bare[0][c]), 0.1);
        if (layout_of(f, m)->lead_rows > 0 || near)
            assert_memory_not_equal(fresh, bare, sizeof bare); /* any prompt is one */
        else
            assert_memory_equal(fresh, bare, sizeof bare);
        ia3_adapter_free(f->g->m, a);
        ia3_train_free(t);
        free(values);
    }
    close_fixture(f);
}

static void
test_mixed_is_one_by_one(void **state)
{
    fixture *f = open_fixture(state);
    ia3_adapter *all[2 * N_METHODS] = {NULL};
    double together[2 * N_METHODS][4], alone[1][4];
    for (int m = 0; m < N_METHODS; m++)
        all[2 * m + 1] = f->adapters[m]; /* between them the bare backbone */
    for (int input = 0; input < GOLDEN_INPUTS; input++) {
        golden_score(f->g, all, 2 * N_METHODS, input, together);
        for (int m = 0; m < 2 * N_METHODS; m++) {
            golden_score(f->g, &all[m], 1, input, alone);
            for (int c = 0; c < 4; c++)
                golden_limit(f->g, "mixed batch", fabs(together[m][c] - alone[0][c]),
                             f->g->dtype == IA3_F32 ? 1e-5 : 0.05);
        }
    }
    close_fixture(f);
}

/* Jobs of all methods that are stepped together have the same results as alone. */
static void
test_jobs_together(void **state)
{
    fixture *f = open_fixture(state);
    ia3_error err = {0};
    ia3_train *jobs[N_METHODS];
    ia3_recipe recipes[N_METHODS];
    for (int m = 0; m < N_METHODS; m++) {
        recipes[m] = recipe_of(m);
        recipes[m].dropout = 0.1;
        jobs[m] = job_of(f, &recipes[m], f->values[m]);
    }
    for (int s = 0; s < 4; s++)
        golden_ok(ia3_train_step(jobs, N_METHODS, &err), &err);
    for (int m = 0; m < N_METHODS; m++) {
        size_t n = layout_of(f, m)->n_values;
        float *together = malloc(n * sizeof *together), *alone = malloc(n * sizeof *alone);
        ia3_train *t = job_of(f, &recipes[m], f->values[m]);
        for (int s = 0; s < 4; s++)
            golden_ok(ia3_train_step(&t, 1, &err), &err);
        ia3_train_values(jobs[m], together);
        ia3_train_values(t, alone);
        double mean = 0;
        for (size_t i = 0; i < n; i++)
            mean += fabs((double) together[i] - alone[i]) / (double) n;
        /*
         * The gradient of some values is zero but for rounding, such as that of the biases of keys. Steps follow its sign, which on
         * a GPU depends on what else is in the batch.
         */
        bool same_sums = f->g->dtype == IA3_F32 && !golden_real_gpu();
        golden_limit(f->g, "jobs together", mean, same_sums ? 2e-6 : 2e-3);
        assert_memory_not_equal(alone, f->values[m], n * sizeof *alone);
        ia3_train_free(t);
        ia3_train_free(jobs[m]);
        free(together);
        free(alone);
    }
    close_fixture(f);
}

/* Training reduces the loss; a restored job continues bit for bit; the number of threads does not change the bits. */
static void
test_training(void **state)
{
    for (int m = 1; m < N_METHODS; m++) {
        float *first = NULL;
        for (int threads = 1; threads <= 3; threads += 2) {
            golden_threads = threads;
            fixture *f = open_fixture(state);
            ia3_error err = {0};
            ia3_recipe recipe = recipe_of(m);
            recipe.learning_rate = ia3_methods[m]->start ? 0.1 : 0.05;
            recipe.batch_size = GOLDEN_EXAMPLES;
            ia3_train *t = job_of(f, &recipe, f->values[m]), *resumed = job_of(f, &recipe, f->values[m]);
            ia3_train_report report;
            double before = 0;
            for (int s = 0; s < 20; s++) {
                if (s == 10) {
                    size_t len;
                    uint8_t *saved = ia3_train_save(t, &len, &err);
                    golden_ok(ia3_train_restore(resumed, saved, len, &err), &err);
                    free(saved);
                }
                golden_ok(ia3_train_step(s < 10 ? &t : &resumed, 1, &err), &err);
                if (s >= 10)
                    golden_ok(ia3_train_step(&t, 1, &err), &err);
                ia3_train_last(t, &report);
                before = s == 0 ? report.loss : before;
            }
            if (!(report.loss < before - 0.1))
                fail_msg("%s: the loss went from %g to %g", ia3_methods[m]->name, before, report.loss);
            size_t bytes = layout_of(f, m)->n_values * sizeof(float);
            float *values = malloc(bytes), *again = malloc(bytes);
            ia3_train_values(t, values);
            ia3_train_values(resumed, again);
            assert_memory_equal(values, again, bytes);
            if (first)
                assert_memory_equal(values, first, bytes);
            free(again);
            free(first);
            first = values;
            ia3_train_free(t);
            ia3_train_free(resumed);
            close_fixture(f);
        }
        free(first);
    }
    golden_threads = 2;
}

static void
test_generation(void **state)
{
    fixture *f = open_fixture(state);
    ia3_generate_row rows[N_METHODS];
    int32_t out[N_METHODS][4];
    ia3_error err = {0};
    int n_ids;
    int32_t *ids = golden_ints(golden_find(f->g, "input.1.ids"), &n_ids);
    for (int m = 0; m < N_METHODS; m++)
        rows[m] = (ia3_generate_row){
            .adapter = f->adapters[m], .ids = ids, .n_ids = n_ids, .max_tokens = 4, .out = out[m]};
    golden_ok(ia3_generate(f->g->m, rows, N_METHODS, &err), &err);
    for (int m = 0; m < N_METHODS; m++)
        for (int t = 1; t < rows[m].n_out; t++)
            assert_int_equal(out[m][t], golden_likeliest(f->g, f->adapters[m], ids, n_ids, out[m], t));
    free(ids);
    close_fixture(f);
}

/* --- files --- */

static void
test_files(void **state)
{
    fixture *f = open_fixture(state);
    ia3_layouts *layouts = ia3_model_layouts(f->g->m);
    for (int m = 0; m < N_METHODS; m++) {
        ia3_error err = {0};
        const ia3_layout *layout;
        size_t len, n = layout_of(f, m)->n_values;
        uint8_t *bytes = ia3_adapter_serialize(layout_of(f, m), f->values[m], &len);
        float *values = ia3_adapter_parse_any(layouts, bytes, len, &layout, &err);
        golden_ok(values, &err);
        assert_ptr_equal(layout->variant.method, ia3_methods[m]);
        assert_int_equal(layout->n_values, n);
        ia3_layout_release(layout);
        assert_memory_equal(values, f->values[m], n * sizeof *values);
        free(values);
        assert_null(ia3_adapter_parse(layout_of(f, (m + 1) % N_METHODS), bytes, len, &err));
        assert_int_equal(err.code, IA3_E_BAD_ADAPTER);
        free(bytes);
    }
    close_fixture(f);
}

/* Adapters in which the first tensor is missing, is twice as long, or contains NaN. */
static void
test_bad_files(void **state)
{
    fixture *f = open_fixture(state);
    ia3_layouts *layouts = ia3_model_layouts(f->g->m);
    for (int m = 1; m < N_METHODS; m++) {
        ia3_error err = {0};
        const ia3_layout *layout;
        ia3_layout l = *layout_of(f, m);
        size_t len;
        uint8_t *bytes;
        if (l.n > 1) { /* not of a prompt: it would be empty */
            l.entries++;
            l.n--;
            bytes = ia3_adapter_serialize(&l, f->values[m], &len);
            assert_null(ia3_adapter_parse_any(layouts, bytes, len, &layout, &err));
            assert_non_null(strstr(err.message, "missing"));
            free(bytes);
            err = (ia3_error){0};
            l.entries--;
            l.n++;
        }
        const int wrong = l.expanded ? 1 : 0; /* the length of an intrinsic vector is free */
        ia3_layout_entry *e = &l.entries[wrong];
        const int cols = e->cols;
        e->cols /= 2;
        bytes = ia3_adapter_serialize(&l, f->values[m], &len);
        e->cols = cols;
        assert_null(ia3_adapter_parse_any(layouts, bytes, len, &layout, &err));
        assert_non_null(strstr(err.message, "shape"));
        free(bytes);
        err = (ia3_error){0};
        f->values[m][0] = NAN;
        bytes = ia3_adapter_serialize(&l, f->values[m], &len);
        assert_null(ia3_adapter_parse_any(layouts, bytes, len, &layout, &err));
        assert_non_null(strstr(err.message, "finite"));
        free(bytes);
    }
    ia3_recipe recipe = recipe_of(0);
    recipe.variant.method = NULL;
    ia3_error err = {0};
    assert_null(ia3_train_create(f->g->m, f->examples.e, GOLDEN_EXAMPLES, &recipe, NULL, &err));
    assert_int_equal(err.code, IA3_E_INVALID);
    close_fixture(f);
}

int
main(void)
{
    static const golden_test tests[] = {
        {"scores", test_scores, true, BOTH},
        {"gradients and steps", test_gradients_and_steps, false, TRAINED},
        {"finite differences", test_differences, false, TRAINED},
        {"mask", test_mask, false, TRAINED},
        {"new prefix", test_new_prefix, true, BOTH},
        {"fresh is bare", test_fresh_is_bare, true, BOTH},
        {"mixed is one by one", test_mixed_is_one_by_one, true, BOTH},
        {"jobs together", test_jobs_together, true, BOTH},
        {"training", test_training, false, TRAINED},
        {"generation", test_generation, false, BOTH},
        {"files", test_files, false, BOTH},
        {"bad files", test_bad_files, false, TRAINED},
    };
    return golden_run("methods", tests, sizeof tests / sizeof *tests);
}
