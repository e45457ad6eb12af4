/*
 * test_targets.c
 *     (IA)³ with other targets than the standard ones: compared with peft (test/golden/targets.py) in scores, losses,
 *     gradients and optimizer steps, finite differences, batches and training jobs of several variants, generation, files
 *     and merging.
 */
#include "golden_methods.h"

#include <dirent.h>
#include <unistd.h>

#include "engine/files/merge.h"
#include "engine/recipe/generate.h"

#define GATED "t5-gated-untied "
#define BOTH  "t5-relu-tied " GATED

static const struct {
    const char *name, *options;
} cases[] = {{"standard", ""},
             {"all", "{\"targets\": [\"q\", \"k\", \"v\", \"o\", \"wo\"]}"},
             {"wo", "{\"targets\": [\"wo\"]}"},
             {"some", "{\"targets\": [\"SelfAttention.q\", \"EncDecAttention.q\", \"EncDecAttention.k\", "
                      "\"SelfAttention.v\", \"EncDecAttention.o\"]}"}};
enum { N = sizeof cases / sizeof *cases };

typedef struct fixture {
    golden *g;
    golden_reference expected;
    golden_examples examples;
    const ia3_layout *layouts[N]; /* like the rest, of the cases */
    float *values[N];
    ia3_adapter *adapters[N];
} fixture;

static fixture *
open_fixture(void **state)
{
    fixture *f = calloc(1, sizeof *f);
    f->g = golden_open(*state);
    golden_reference_open(&f->expected, f->g, "targets");
    for (int i = 0; i < N; i++) {
        const ia3_variant v = golden_variant("ia3", cases[i].options);
        f->layouts[i] = golden_layout(f->g, &v);
        f->values[i] = golden_gather(&f->expected, f->layouts[i], "%s.", cases[i].name);
        f->adapters[i] = golden_adapter(f->g, f->layouts[i], f->values[i]);
    }
    golden_examples_open(f->g, &f->examples);
    return f;
}

static void
close_fixture(fixture *f)
{
    golden_examples_close(&f->examples);
    for (int i = 0; i < N; i++) {
        ia3_adapter_free(f->g->m, f->adapters[i]);
        ia3_layout_release(f->layouts[i]);
        free(f->values[i]);
    }
    golden_reference_close(&f->expected);
    golden_close(f->g);
    free(f);
}

/* Alone as in peft; in a batch with all the others, the bare backbone and another method as alone. */
static void
test_scores(void **state)
{
    fixture *f = open_fixture(state);
    const ia3_variant lora = golden_variant("lora", "");
    const ia3_layout *l = golden_layout(f->g, &lora);
    float *values = calloc(l->n_values, sizeof *values);
    for (size_t i = 0; i < l->n_values; i++)
        values[i] = 0.1f * (float) ((int) (i % 11) - 5);
    ia3_adapter *other = golden_adapter(f->g, l, values);
    ia3_adapter *all[N + 3] = {other,          f->adapters[3], NULL, f->adapters[1],
                               f->adapters[0], f->adapters[2], other};
    for (int input = 0; input < GOLDEN_INPUTS; input++) {
        double together[N + 3][4], alone[1][4];
        golden_score(f->g, all, N + 3, input, together);
        for (int i = 0; i < N + 3; i++) {
            golden_score(f->g, &all[i], 1, input, alone);
            for (int c = 0; c < 4; c++)
                golden_limit(f->g, "mixed batch", fabs(together[i][c] - alone[0][c]),
                             f->g->dtype == IA3_F32 ? 1e-5 : 0.05);
        }
        for (int i = 0; i < N; i++) {
            const float *want = golden_expected(&f->expected, 4, "%s.scores.%d", cases[i].name, input);
            golden_score(f->g, &f->adapters[i], 1, input, alone);
            for (int c = 0; c < 4; c++)
                golden_limit(f->g, cases[i].name, fabs(alone[0][c] - want[c]),
                             f->g->dtype == IA3_F32 ? 1e-4 : 0.15);
        }
    }
    ia3_adapter_free(f->g->m, other);
    ia3_layout_release(l);
    free(values);
    close_fixture(f);
}

static ia3_recipe
recipe_of(const fixture *f, int which, double dropout)
{
    ia3_recipe recipe = golden_recipe(&f->layouts[which]->variant);
    recipe.dropout = dropout;
    return recipe;
}

static ia3_train *
job_of(const fixture *f, int which, double dropout, const float *init)
{
    const ia3_recipe recipe = recipe_of(f, which, dropout);
    return golden_job(f->g, &f->examples, &recipe, init);
}

/* The distance relative to the length, without elements whose gradient is noise. */
static double
distance(const float *got, const float *want, const float *grads, int n)
{
    double difference = 0, length = 0, top = 0;
    for (int i = 0; i < n; i++)
        top = fmax(top, fabs(grads[i]));
    for (int i = 0; i < n; i++)
        if (fabs(grads[i]) > 1e-6 * top) {
            difference += pow((double) got[i] - want[i], 2);
            length += pow(want[i], 2);
        }
    return sqrt(difference / fmax(length, 1e-30));
}

static void
check_training(const fixture *f, int which)
{
    static const int batch[] = {0, 1, 2, 3, 4};
    const ia3_layout *l = f->layouts[which];
    float *got = calloc(l->n_values, sizeof *got),
          *grads = golden_gather(&f->expected, l, "%s.grad.", cases[which].name),
          *final = golden_gather(&f->expected, l, "%s.final.", cases[which].name);
    const float *losses = golden_expected(&f->expected, 4, "%s.losses", cases[which].name);
    ia3_train *t = job_of(f, which, 0, f->values[which]);
    ia3_train_report report = {0};
    ia3_error err = {0};
    int n;
    int32_t *indices = golden_ints(golden_find(f->g, "steps.indices"), &n);
    golden_ok(ia3_train_gradients(t, batch, golden_no_texts, 5, got, &report, &err), &err);
    golden_limit(f->g, "loss", fabs(report.loss - losses[0]), 1e-5 * fabs(losses[0]));
    for (int i = 0; i < l->n; i++)
        golden_limit(f->g, l->entries[i].name,
                     distance(got + l->entries[i].offset, grads + l->entries[i].offset,
                              grads + l->entries[i].offset, l->entries[i].len),
                     2e-4);
    golden_check_steps(f->g, "loss of a step", t, indices, 20,
                       golden_expected(&f->expected, 20, "%s.steps", cases[which].name));
    ia3_train_values(t, got);
    for (int i = 0; i < l->n; i++)
        golden_limit(f->g, l->entries[i].name,
                     distance(got + l->entries[i].offset, final + l->entries[i].offset,
                              grads + l->entries[i].offset, l->entries[i].len),
                     1e-4);
    ia3_train_free(t);
    free(indices);
    free(got);
    free(grads);
    free(final);
}

static void
test_training(void **state)
{
    fixture *f = open_fixture(state);
    for (int i = 0; i < N; i++)
        check_training(f, i);
    close_fixture(f);
}

static void
test_differences(void **state)
{
    fixture *f = open_fixture(state);
    for (int i = 1; i < N; i++) {
        ia3_recipe recipe = recipe_of(f, i, 0);
        golden_check_differences(f->g, &f->examples, &recipe, f->values[i], false);
        recipe.dropout = 0.1;
        golden_check_differences(f->g, &f->examples, &recipe, f->values[i], false);
    }
    close_fixture(f);
}

/* The loss of all examples falls. */
static void
check_learning(const fixture *f, int which)
{
    ia3_recipe recipe = recipe_of(f, which, 0);
    ia3_train_report report;
    ia3_error err = {0};
    double first = 0;
    recipe.batch_size = GOLDEN_EXAMPLES;
    recipe.learning_rate = 0.05;
    ia3_train *t = golden_job(f->g, &f->examples, &recipe, f->values[which]);
    for (int s = 0; s < 20; s++) {
        golden_ok(ia3_train_step(&t, 1, &err), &err);
        ia3_train_last(t, &report);
        first = s == 0 ? report.loss : first;
    }
    if (!(report.loss < first - 0.1))
        fail_msg("%s: the loss went from %g to %g", cases[which].name, first, report.loss);
    ia3_train_free(t);
}

/* Jobs that are stepped together have the results that each has alone; a new adapter is bare. */
static void
test_jobs(void **state)
{
    fixture *f = open_fixture(state);
    ia3_error err = {0};
    ia3_train *together[N];
    for (int i = 0; i < N; i++)
        together[i] = job_of(f, i, 0.1, f->values[i]);
    for (int s = 0; s < 4; s++)
        golden_ok(ia3_train_step(together, N, &err), &err);
    for (int i = 0; i < N; i++) {
        const size_t n = f->layouts[i]->n_values;
        float *a = malloc(n * sizeof *a), *b = malloc(n * sizeof *b);
        ia3_train *alone = job_of(f, i, 0.1, f->values[i]), *fresh = job_of(f, i, 0, NULL);
        for (int s = 0; s < 4; s++)
            golden_ok(ia3_train_step(&alone, 1, &err), &err);
        ia3_train_values(together[i], a);
        ia3_train_values(alone, b);
        golden_limit(f->g, "jobs together", golden_max(a, b, n), f->g->dtype == IA3_F32 ? 2e-5 : 2e-2);
        assert_memory_not_equal(a, f->values[i], n * sizeof *a);
        ia3_train_values(fresh, a);
        for (size_t k = 0; k < n; k++)
            assert_true(a[k] == 1.0f);
        check_learning(f, i);
        ia3_train_free(alone);
        ia3_train_free(fresh);
        ia3_train_free(together[i]);
        free(a);
        free(b);
    }
    close_fixture(f);
}

/* Each generates with all others what it generates alone. */
static void
test_generation(void **state)
{
    enum { TOKENS = 5 };
    fixture *f = open_fixture(state);
    ia3_generate_row rows[N];
    int32_t out[N][TOKENS], alone[TOKENS];
    ia3_error err = {0};
    int n_ids;
    int32_t *ids = golden_ints(golden_find(f->g, "input.1.ids"), &n_ids);
    for (int i = 0; i < N; i++)
        rows[i] = (ia3_generate_row){
            .adapter = f->adapters[i], .ids = ids, .n_ids = n_ids, .max_tokens = TOKENS, .out = out[i]};
    golden_ok(ia3_generate(f->g->m, rows, N, &err), &err);
    for (int i = 0; i < N; i++) {
        ia3_generate_row row = rows[i];
        row.out = alone;
        golden_ok(ia3_generate(f->g->m, &row, 1, &err), &err);
        assert_int_equal(row.n_out, rows[i].n_out);
        assert_memory_equal(alone, out[i], (size_t) row.n_out * sizeof *alone);
    }
    free(ids);
    close_fixture(f);
}

/* A file tells its targets, and the configuration names them as peft's list. */
static void
test_files(void **state)
{
    static const char *const targets[N] = {
        "[\"k\", \"v\", \"wo\"]", "[\"q\", \"k\", \"v\", \"o\", \"wo\"]", "[\"wo\"]",
        "[\"q\", \"EncDecAttention.k\", \"SelfAttention.v\", \"EncDecAttention.o\"]"};
    fixture *f = open_fixture(state);
    for (int i = 0; i < N; i++) {
        const ia3_layout *l = f->layouts[i], *found;
        ia3_error err = {0};
        size_t len;
        uint8_t *bytes = ia3_adapter_serialize(l, f->values[i], &len);
        float *again = ia3_adapter_parse_any(ia3_model_layouts(f->g->m), bytes, len, &found, &err);
        golden_ok(again, &err);
        assert_ptr_equal(found, l);
        assert_memory_equal(again, f->values[i], l->n_values * sizeof *again);
        json_t *peft = l->variant.method->peft(&l->variant);
        char *text = json_dumps(json_object_get(peft, "target_modules"), 0);
        assert_string_equal(text, targets[i]);
        text = (free(text), json_dumps(json_object_get(peft, "feedforward_modules"), 0));
        assert_string_equal(text, i == 3 ? "[]" : "[\"wo\"]");
        free(text);
        json_decref(peft);
        ia3_layout_release(found);
        free(again);
        free(bytes);
    }
    close_fixture(f);
}

/* The merged checkpoint alone scores as the backbone does with the adapter. */
static void
test_merge(void **state)
{
    fixture *f = open_fixture(state);
    for (int i = 1; i < N; i++) {
        char directory[] = "/tmp/ia3-targets-XXXXXX", source[512], target[512], command[600];
        ia3_error err = {0};
        golden merged = *f->g;
        double want[1][4], got[1][4];
        assert_non_null(mkdtemp(directory));
        snprintf(source, sizeof source, "%s/%s", golden_root(), f->g->name);
        snprintf(target, sizeof target, "%s/merged", directory);
        golden_ok(ia3_merge(source, NULL, &f->layouts[i]->variant, f->values[i], target, NULL, &err), &err);
        ia3_checkpoint *ck = ia3_checkpoint_open(target, &err);
        golden_ok(ck, &err);
        merged.m = ia3_model_load(ck, f->g->dev, ia3_methods, NULL, NULL, &err);
        golden_ok(merged.m, &err);
        golden_score(f->g, &f->adapters[i], 1, 2, want);
        golden_score(&merged, (ia3_adapter *[]){NULL}, 1, 2, got);
        for (int c = 0; c < 4; c++)
            golden_limit(f->g, "merged", fabs(got[0][c] - want[0][c]), 1e-5);
        ia3_model_free(merged.m);
        ia3_checkpoint_close(ck);
        snprintf(command, sizeof command, "rm -r %s", directory);
        assert_int_equal(system(command), 0);
    }
    close_fixture(f);
}

int
main(void)
{
    static const golden_test tests[] = {
        {"scores", test_scores, true, BOTH},
        {"training", test_training, false, BOTH},
        {"differences", test_differences, false, GATED},
        {"jobs", test_jobs, true, BOTH},
        {"generation", test_generation, true, BOTH},
        {"files", test_files, false, BOTH},
        {"merge", test_merge, false, BOTH},
    };
    return golden_run("targets", tests, sizeof tests / sizeof *tests);
}
