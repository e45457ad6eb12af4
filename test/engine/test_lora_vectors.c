/*
 * test_lora_vectors.c
 *     LoRA together with the vectors of (IA)³, compared with peft and transformers (test/golden/methods.py): scores, also beside
 *     (IA)³ with other targets, and the losses and the values of training.
 */
#include "golden_examples.h"

#include "engine/recipe/score.h"
#include "engine/recipe/train.h"

#define OPTIONS "{\"norms\": false, \"vectors\": true}"

typedef struct fixture {
    golden *g;
    golden_file file;
    ia3_safetensors *expected;
    golden_examples examples;
    const ia3_layout *layout;
    float *values;
} fixture;

static const float *
expected(const fixture *f, size_t n, const char *name)
{
    char full[GOLDEN_MAX_NAME];
    snprintf(full, sizeof full, "lora_vectors.%s", name);
    const ia3_st_tensor *t = ia3_safetensors_find(f->expected, full);
    if (!t || t->bytes != n * sizeof(float))
        fail_msg("%s: %s is missing or not of %zu values", f->g->name, full, n);
    return (const float *) (const void *) t->data;
}

/* The values under "<prefix><entry>", in the order of the layout. */
static float *
gather(const fixture *f, const char *prefix)
{
    const ia3_layout *l = f->layout;
    float *values = malloc(l->n_values * sizeof *values);
    for (int i = 0; i < l->n; i++) {
        char name[128];
        snprintf(name, sizeof name, "%s%s", prefix, l->entries[i].name);
        memcpy(values + l->entries[i].offset, expected(f, (size_t) l->entries[i].len, name),
               (size_t) l->entries[i].len * sizeof *values);
    }
    return values;
}

static const ia3_layout *
layout_of(const golden *g, const char *method, const char *options)
{
    const ia3_variant v = golden_variant(method, options);
    ia3_error err = {0};
    const ia3_layout *l = ia3_layouts_get(ia3_model_layouts(g->m), &v, &err);
    golden_ok(l, &err);
    return l;
}

static fixture *
open_fixture(void **state)
{
    fixture *f = calloc(1, sizeof *f);
    ia3_error err = {0};
    char name[64];
    f->g = golden_open(*state);
    snprintf(name, sizeof name, "%s.safetensors", f->g->name);
    f->file = golden_file_of("methods", name);
    f->expected = ia3_safetensors_parse(f->file.data, f->file.len, "expected", IA3_E_INVALID, &err);
    golden_ok(f->expected, &err);
    golden_examples_open(f->g, &f->examples);
    f->layout = layout_of(f->g, "lora", OPTIONS);
    f->values = gather(f, "");
    return f;
}

static void
close_fixture(fixture *f)
{
    ia3_layout_release(f->layout);
    golden_examples_close(&f->examples);
    ia3_safetensors_free(f->expected);
    free(f->file.data);
    free(f->values);
    golden_close(f->g);
    free(f);
}

static ia3_adapter *
adapter_of(const fixture *f, const ia3_layout *l, const float *values)
{
    static const uint8_t digest[IA3_DIGEST_LEN] = {9};
    ia3_error err = {0};
    ia3_adapter *a = ia3_adapter_create(f->g->m, l, values, digest, &err);
    golden_ok(a, &err);
    return a;
}

/* The scores of an input in a batch with the bare backbone, and, if it is not NULL, another adapter. */
static void
check_scores(const fixture *f, ia3_adapter *a, ia3_adapter *other, int input)
{
    double scores[3][4];
    ia3_score_row rows[3];
    ia3_error err = {0};
    char prefix[32], what[32];
    int n_ids;
    snprintf(prefix, sizeof prefix, "input.%d", input);
    snprintf(what, sizeof what, "scores.%d", input);
    int32_t *ids = golden_ints(golden_find(f->g, "%s.ids", prefix), &n_ids);
    ia3_choices *choices = golden_choices(f->g, prefix);
    ia3_adapter *adapters[] = {NULL, a, other};
    for (int i = 0; i < 3; i++)
        rows[i] = (ia3_score_row){
            .ids = ids, .n_ids = n_ids, .adapter = adapters[i], .choices = choices, .scores = scores[i]};
    golden_ok(ia3_score(f->g->m, rows, other ? 3 : 2, &err), &err);
    const float *want = expected(f, 4, what);
    for (int c = 0; c < 4; c++)
        golden_limit(f->g, what, fabs(scores[1][c] - want[c]), f->g->dtype == IA3_F32 ? 1e-4 : 0.15);
    free(ids);
    ia3_choices_free(choices);
}

static void
test_scores(void **state)
{
    fixture *f = open_fixture(state);
    const ia3_layout *placed = layout_of(f->g, "ia3", "{\"targets\": [\"q\", \"k\", \"wo\"]}");
    float *ones = malloc(placed->n_values * sizeof *ones);
    for (size_t i = 0; i < placed->n_values; i++)
        ones[i] = 1.5f;
    ia3_adapter *a = adapter_of(f, f->layout, f->values), *other = adapter_of(f, placed, ones);
    for (int input = 0; input < GOLDEN_INPUTS; input++) {
        check_scores(f, a, NULL, input);
        check_scores(f, a, other, input);
    }
    ia3_adapter_free(f->g->m, a);
    ia3_adapter_free(f->g->m, other);
    ia3_layout_release(placed);
    free(ones);
    close_fixture(f);
}

static ia3_train *
job_of(const fixture *f)
{
    const ia3_recipe recipe = {.steps = 1000000,
                               .batch_size = 4,
                               .learning_rate = 3e-3,
                               .lm_weight = 1,
                               .unlikelihood_weight = 1,
                               .length_norm_weight = 1,
                               .seed = 3,
                               .variant = f->layout->variant};
    ia3_error err = {0};
    ia3_train *t = ia3_train_create(f->g->m, f->examples.e, GOLDEN_EXAMPLES, &recipe, f->values, &err);
    golden_ok(t, &err);
    return t;
}

static void
test_gradients(void **state)
{
    static const int batch[] = {0, 1, 2, 3, 4};
    fixture *f = open_fixture(state);
    const ia3_layout *l = f->layout;
    ia3_train *t = job_of(f);
    ia3_train_report report = {0};
    ia3_error err = {0};
    float *grads = malloc(l->n_values * sizeof *grads), *want = gather(f, "grad.");
    float *zeros = calloc(l->n_values, sizeof *zeros);
    golden_ok(ia3_train_gradients(t, batch, golden_no_texts, 5, grads, &report, &err), &err);
    golden_limit(f->g, "loss", fabs(report.loss - expected(f, 4, "losses")[0]),
                 1e-5 * fabs(expected(f, 4, "losses")[0]));
    const double scale = golden_max(want, zeros, l->n_values);
    for (int i = 0; i < l->n; i++) {
        const ia3_layout_entry *e = &l->entries[i];
        const double size = golden_max(want + e->offset, zeros, (size_t) e->len);
        golden_limit(f->g, e->name, golden_max(grads + e->offset, want + e->offset, (size_t) e->len),
                     2e-4 * (size + 1e-3 * scale));
    }
    ia3_train_free(t);
    free(grads);
    free(want);
    free(zeros);
    close_fixture(f);
}

/* The losses of twenty steps, and the values after five others, are those of the reference. */
static void
test_steps(void **state)
{
    enum { CURVE = 20, STEPS = 5, BATCH = 4 };
    fixture *f = open_fixture(state);
    const ia3_layout *l = f->layout;
    ia3_error err = {0};
    ia3_train *t = job_of(f);
    const float *curve = expected(f, CURVE, "curve");
    for (int s = 0; s < CURVE; s++) {
        int batch[BATCH];
        ia3_train_report report = {0};
        for (int k = 0; k < BATCH; k++)
            batch[k] = (BATCH * s + k) % GOLDEN_EXAMPLES;
        golden_ok(ia3_train_step_on(t, batch, golden_no_texts, BATCH, &err), &err);
        ia3_train_last(t, &report);
        golden_limit(f->g, "curve", fabs(report.loss - curve[s]), 1e-5 * fabs(curve[s]));
    }
    ia3_train_free(t);

    int n;
    int32_t *indices = golden_ints(golden_find(f->g, "steps.indices"), &n);
    float *want = gather(f, "final."), *got = malloc(l->n_values * sizeof *got);
    t = job_of(f);
    for (int s = 0; s < STEPS; s++)
        golden_ok(ia3_train_step_on(t, indices + s * BATCH, golden_no_texts, BATCH, &err), &err);
    ia3_train_values(t, got);
    for (int i = 0; i < l->n; i++) {
        const ia3_layout_entry *e = &l->entries[i];
        double difference = 0, length = 0;
        for (size_t k = e->offset; k < e->offset + (size_t) e->len; k++) {
            difference += pow((double) got[k] - want[k], 2);
            length += pow(want[k], 2);
        }
        golden_limit(f->g, e->name, sqrt(difference / length), 1e-4);
    }
    ia3_train_free(t);
    free(indices);
    free(want);
    free(got);
    close_fixture(f);
}

int
main(void)
{
    static const golden_test tests[] = {{"scores", test_scores, true, "t5-relu-tied t5-gated-untied "},
                                        {"gradients", test_gradients, false, "t5-gated-untied "},
                                        {"steps", test_steps, false, "t5-gated-untied "}};
    return golden_run("lora_vectors", tests, sizeof tests / sizeof *tests);
}
