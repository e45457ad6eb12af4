/*
 * test_targets.c
 *     (IA)³ with other targets than the standard ones: compared with peft (test/golden/targets.py) in scores, losses,
 *     gradients and optimizer steps, finite differences, batches and training jobs of several variants, generation, files
 *     and merging.
 */
#include "golden_examples.h"

#include <dirent.h>
#include <unistd.h>

#include "engine/files/merge.h"
#include "engine/recipe/generate.h"
#include "engine/recipe/score.h"
#include "engine/recipe/train.h"

#define GATED "t5-gated-untied "
#define BOTH  "t5-relu-tied " GATED

static const uint8_t digest[IA3_DIGEST_LEN] = {7};

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
    golden_file file;
    ia3_safetensors *expected;
    golden_examples examples;
    const ia3_layout *layouts[N]; /* like the rest, of the cases */
    float *values[N];
    ia3_adapter *adapters[N];
} fixture;

static const float *
expected(const fixture *f, size_t n, int which, const char *prefix, const char *name)
{
    char full[GOLDEN_MAX_NAME];
    snprintf(full, sizeof full, "%s.%s%s", cases[which].name, prefix, name);
    const ia3_st_tensor *t = ia3_safetensors_find(f->expected, full);
    if (!t || t->bytes != n * sizeof(float))
        fail_msg("%s: %s is missing or not of %zu values", f->g->name, full, n);
    return (const float *) (const void *) t->data;
}

/* The values of a case under names with the prefix, in the order of its layout. */
static float *
gather(const fixture *f, int which, const char *prefix)
{
    const ia3_layout *l = f->layouts[which];
    float *values = malloc(l->n_values * sizeof *values);
    for (int i = 0; i < l->n; i++) {
        const ia3_layout_entry *e = &l->entries[i];
        memcpy(values + e->offset, expected(f, (size_t) e->len, which, prefix, e->name),
               (size_t) e->len * sizeof *values);
    }
    return values;
}

static fixture *
open_fixture(void **state)
{
    fixture *f = calloc(1, sizeof *f);
    ia3_error err = {0};
    char name[64];
    f->g = golden_open(*state);
    snprintf(name, sizeof name, "%s.safetensors", f->g->name);
    f->file = golden_file_of("targets", name);
    f->expected = ia3_safetensors_parse(f->file.data, f->file.len, "expected", IA3_E_INVALID, &err);
    golden_ok(f->expected, &err);
    for (int i = 0; i < N; i++) {
        const ia3_variant v = golden_variant("ia3", cases[i].options);
        f->layouts[i] = ia3_layouts_get(ia3_model_layouts(f->g->m), &v, &err);
        golden_ok(f->layouts[i], &err);
        f->values[i] = gather(f, i, "");
        f->adapters[i] = ia3_adapter_create(f->g->m, f->layouts[i], f->values[i], digest, &err);
        golden_ok(f->adapters[i], &err);
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
    ia3_safetensors_free(f->expected);
    free(f->file.data);
    golden_close(f->g);
    free(f);
}

/* Scores [4] of one input with each of n adapters, all in one batch. */
static void
score(const fixture *f, ia3_adapter *const *adapters, int n, int input, double (*scores)[4])
{
    ia3_score_row rows[16];
    ia3_error err = {0};
    char prefix[32];
    int n_ids;
    snprintf(prefix, sizeof prefix, "input.%d", input);
    int32_t *ids = golden_ints(golden_find(f->g, "%s.ids", prefix), &n_ids);
    ia3_choices *choices = golden_choices(f->g, prefix);
    for (int i = 0; i < n; i++)
        rows[i] = (ia3_score_row){
            .ids = ids, .n_ids = n_ids, .adapter = adapters[i], .choices = choices, .scores = scores[i]};
    golden_ok(ia3_score(f->g->m, rows, n, &err), &err);
    free(ids);
    ia3_choices_free(choices);
}

/* Alone as in peft; in a batch with all the others, the bare backbone and another method as alone. */
static void
test_scores(void **state)
{
    fixture *f = open_fixture(state);
    const ia3_variant lora = golden_variant("lora", "");
    ia3_error err = {0};
    const ia3_layout *l = ia3_layouts_get(ia3_model_layouts(f->g->m), &lora, &err);
    golden_ok(l, &err);
    float *values = calloc(l->n_values, sizeof *values);
    for (size_t i = 0; i < l->n_values; i++)
        values[i] = 0.1f * (float) ((int) (i % 11) - 5);
    ia3_adapter *other = ia3_adapter_create(f->g->m, l, values, digest, &err);
    golden_ok(other, &err);
    ia3_adapter *all[N + 3] = {other,          f->adapters[3], NULL, f->adapters[1],
                               f->adapters[0], f->adapters[2], other};
    for (int input = 0; input < GOLDEN_INPUTS; input++) {
        double together[N + 3][4], alone[1][4];
        char what[64];
        snprintf(what, sizeof what, "scores.%d", input);
        score(f, all, N + 3, input, together);
        for (int i = 0; i < N + 3; i++) {
            score(f, &all[i], 1, input, alone);
            for (int c = 0; c < 4; c++)
                golden_limit(f->g, "mixed batch", fabs(together[i][c] - alone[0][c]),
                             f->g->dtype == IA3_F32 ? 1e-5 : 0.05);
        }
        for (int i = 0; i < N; i++) {
            const float *want = expected(f, 4, i, "", what);
            score(f, &f->adapters[i], 1, input, alone);
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
    return (ia3_recipe){.steps = 1000000,
                        .batch_size = 4,
                        .learning_rate = 3e-3,
                        .lm_weight = 1,
                        .unlikelihood_weight = 1,
                        .length_norm_weight = 1,
                        .dropout = dropout,
                        .seed = 3,
                        .variant = f->layouts[which]->variant};
}

static ia3_train *
job_of(const fixture *f, int which, double dropout, const float *init)
{
    ia3_error err = {0};
    const ia3_recipe recipe = recipe_of(f, which, dropout);
    ia3_train *t = ia3_train_create(f->g->m, f->examples.e, GOLDEN_EXAMPLES, &recipe, init, &err);
    golden_ok(t, &err);
    return t;
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
    float *got = calloc(l->n_values, sizeof *got), *grads = gather(f, which, "grad."),
          *final = gather(f, which, "final.");
    const float *losses = expected(f, 4, which, "", "losses"), *steps = expected(f, 20, which, "", "steps");
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
    for (int s = 0; s < 20; s++) {
        golden_ok(ia3_train_step_on(t, indices + s * 4, golden_no_texts, 4, &err), &err);
        ia3_train_last(t, &report);
        golden_limit(f->g, "loss of a step", fabs(report.loss - steps[s]), 1e-5 * fabs(steps[s]));
    }
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

static double
loss_at(const fixture *f, int which, double dropout, const float *values, float *grads)
{
    static const int batch[] = {1, 8, 9};
    ia3_error err = {0};
    ia3_train *t = job_of(f, which, dropout, values);
    ia3_train_report report = {0};
    golden_ok(ia3_train_gradients(t, batch, golden_no_texts, 3, grads, &report, &err), &err);
    ia3_train_free(t);
    return report.loss;
}

/* The element with the largest gradient of each tensor. */
static void
check_differences(const fixture *f, int which, double dropout)
{
    const ia3_layout *l = f->layouts[which];
    float *values = f->values[which], *grads = malloc(l->n_values * sizeof *grads);
    float *scratch = malloc(l->n_values * sizeof *scratch);
    ia3_train *keep = job_of(f, which, dropout, NULL); /* keeps the backward weights while jobs come and go */
    loss_at(f, which, dropout, values, grads);
    for (int i = 0; i < l->n; i++) {
        const ia3_layout_entry *e = &l->entries[i];
        const double h = 0.02, steps[] = {h, -h, 2 * h, -2 * h};
        double loss[4];
        size_t top = e->offset;
        for (size_t k = e->offset; k < e->offset + (size_t) e->len; k++)
            if (fabsf(grads[k]) > fabsf(grads[top]))
                top = k;
        const float old = values[top];
        for (int s = 0; s < 4; s++) {
            values[top] = (float) (old + steps[s]);
            loss[s] = loss_at(f, which, dropout, values, scratch);
        }
        values[top] = old;
        const double want = (8 * (loss[0] - loss[1]) - (loss[2] - loss[3])) / (12 * h);
        if (fabs(grads[top] - want) > 3e-4 + 0.01 * fabs(want))
            fail_msg("%s: gradient %zu of %s is %g, finite differences say %g", cases[which].name,
                     top - e->offset, e->name, grads[top], want);
    }
    ia3_train_free(keep);
    free(grads);
    free(scratch);
}

static void
test_differences(void **state)
{
    fixture *f = open_fixture(state);
    for (int i = 1; i < N; i++) {
        check_differences(f, i, 0);
        check_differences(f, i, 0.1);
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
    ia3_train *t = ia3_train_create(f->g->m, f->examples.e, GOLDEN_EXAMPLES, &recipe, f->values[which], &err);
    golden_ok(t, &err);
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
        fixture of_merged = {.g = &merged};
        double want[1][4], got[1][4];
        assert_non_null(mkdtemp(directory));
        snprintf(source, sizeof source, "%s/%s", golden_root(), f->g->name);
        snprintf(target, sizeof target, "%s/merged", directory);
        golden_ok(ia3_merge(source, NULL, &f->layouts[i]->variant, f->values[i], target, NULL, &err), &err);
        ia3_checkpoint *ck = ia3_checkpoint_open(target, &err);
        golden_ok(ck, &err);
        merged.m = ia3_model_load(ck, f->g->dev, ia3_methods, NULL, NULL, &err);
        golden_ok(merged.m, &err);
        score(f, &f->adapters[i], 1, 2, want);
        score(&of_merged, (ia3_adapter *[]){NULL}, 1, 2, got);
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
