/*
 * test_lora_vectors.c
 *     LoRA together with the vectors of (IA)³, compared with peft and transformers (test/golden/methods.py): scores, also beside
 *     (IA)³ with other targets, and the losses and the values of training.
 */
#include "golden_methods.h"

#define OPTIONS "{\"norms\": false, \"vectors\": true}"

typedef struct fixture {
    golden *g;
    golden_reference expected;
    golden_examples examples;
    const ia3_layout *layout;
    float *values;
} fixture;

static fixture *
open_fixture(void **state)
{
    fixture *f = calloc(1, sizeof *f);
    f->g = golden_open(*state);
    golden_reference_open(&f->expected, f->g, "methods");
    golden_examples_open(f->g, &f->examples);
    const ia3_variant v = golden_variant("lora", OPTIONS);
    f->layout = golden_layout(f->g, &v);
    f->values = golden_gather(&f->expected, f->layout, "lora_vectors.");
    return f;
}

static void
close_fixture(fixture *f)
{
    ia3_layout_release(f->layout);
    golden_examples_close(&f->examples);
    golden_reference_close(&f->expected);
    free(f->values);
    golden_close(f->g);
    free(f);
}

/* The scores of an input in a batch with the bare backbone, and, if it is not NULL, another adapter. */
static void
check_scores(const fixture *f, ia3_adapter *a, ia3_adapter *other, int input)
{
    double scores[3][4];
    char what[32];
    snprintf(what, sizeof what, "scores.%d", input);
    const float *want = golden_expected(&f->expected, 4, "lora_vectors.%s", what);
    golden_score(f->g, (ia3_adapter *[]){NULL, a, other}, other ? 3 : 2, input, scores);
    for (int c = 0; c < 4; c++)
        golden_limit(f->g, what, fabs(scores[1][c] - want[c]), f->g->dtype == IA3_F32 ? 1e-4 : 0.15);
}

static void
test_scores(void **state)
{
    fixture *f = open_fixture(state);
    const ia3_variant v = golden_variant("ia3", "{\"targets\": [\"q\", \"k\", \"wo\"]}");
    const ia3_layout *placed = golden_layout(f->g, &v);
    float *ones = malloc(placed->n_values * sizeof *ones);
    for (size_t i = 0; i < placed->n_values; i++)
        ones[i] = 1.5f;
    ia3_adapter *a = golden_adapter(f->g, f->layout, f->values), *other = golden_adapter(f->g, placed, ones);
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
    const ia3_recipe recipe = golden_recipe(&f->layout->variant);
    return golden_job(f->g, &f->examples, &recipe, f->values);
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
    float *grads = malloc(l->n_values * sizeof *grads);
    float *want = golden_gather(&f->expected, l, "lora_vectors.grad.");
    const float *losses = golden_expected(&f->expected, 4, "lora_vectors.losses");
    golden_ok(ia3_train_gradients(t, batch, golden_no_texts, 5, grads, &report, &err), &err);
    golden_limit(f->g, "loss", fabs(report.loss - losses[0]), 1e-5 * fabs(losses[0]));
    golden_check_gradients(f->g, l, grads, want);
    ia3_train_free(t);
    free(grads);
    free(want);
    close_fixture(f);
}

/* Twenty steps have the losses of the reference, and lead to its values. */
static void
test_steps(void **state)
{
    fixture *f = open_fixture(state);
    const ia3_layout *l = f->layout;
    float *want = golden_gather(&f->expected, l, "lora_vectors.final."),
          *grads = golden_gather(&f->expected, l, "lora_vectors.grad."),
          *got = malloc(l->n_values * sizeof *got);
    ia3_train *t = job_of(f);
    golden_check_steps(f->g, "curve", t, NULL, 20, golden_expected(&f->expected, 20, "lora_vectors.curve"));
    ia3_train_values(t, got);
    golden_check_values(f->g, l, f->values, grads, got, want);
    ia3_train_free(t);
    free(grads);
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
