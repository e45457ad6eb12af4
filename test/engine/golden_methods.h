/*
 * golden_methods.h
 *     What the tests of methods, of their variants and of the optimizer share: the values that a reference computed for a
 *     golden checkpoint, scores with several adapters in one batch, training jobs, and what gradients are compared with.
 *
 * Whatever a function here cannot open, find or compute fails the running test. The caller frees pointers that are not
 * const, and releases layouts.
 */
#ifndef IA3_GOLDEN_METHODS_H
#define IA3_GOLDEN_METHODS_H

#include "golden_examples.h"

#include "engine/recipe/score.h"

/* --- expected values --- */

/* test/golden/FOLDER/CONFIGURATION.safetensors, with tensors of fp32. */
typedef struct golden_reference {
    const char *name; /* of the configuration */
    golden_file file;
    ia3_safetensors *tensors;
} golden_reference;

static inline void
golden_reference_open(golden_reference *r, const golden *g, const char *folder)
{
    char name[64];
    ia3_error err = {0};
    snprintf(name, sizeof name, "%s.safetensors", g->name);
    r->name = g->name;
    r->file = golden_file_of(folder, name);
    r->tensors = ia3_safetensors_parse(r->file.data, r->file.len, "expected", IA3_E_INVALID, &err);
    golden_ok(r->tensors, &err);
}

static inline void
golden_reference_close(golden_reference *r)
{
    ia3_safetensors_free(r->tensors);
    free(r->file.data);
}

/* The tensor of this name, which must have n values; valid until the reference is closed. */
__attribute__((format(printf, 3, 4))) static inline const float *
golden_expected(const golden_reference *r, size_t n, const char *format, ...)
{
    char name[GOLDEN_MAX_NAME];
    va_list args;
    va_start(args, format);
    vsnprintf(name, sizeof name, format, args);
    va_end(args);
    const ia3_st_tensor *t = ia3_safetensors_find(r->tensors, name);
    if (!t || t->dtype != IA3_F32 || t->bytes != n * sizeof(float))
        fail_msg("%s: %s is missing or not of %zu values", r->name, name, n);
    return (const float *) (const void *) t->data;
}

/* The tensors whose names are a prefix and the name of an entry of the layout, in the order of the layout. */
__attribute__((format(printf, 3, 4))) static inline float *
golden_gather(const golden_reference *r, const ia3_layout *l, const char *format, ...)
{
    char prefix[64];
    float *values = malloc(l->n_values * sizeof *values);
    va_list args;
    va_start(args, format);
    vsnprintf(prefix, sizeof prefix, format, args);
    va_end(args);
    for (int i = 0; i < l->n; i++) {
        const ia3_layout_entry *e = &l->entries[i];
        memcpy(values + e->offset, golden_expected(r, (size_t) e->len, "%s%s", prefix, e->name),
               (size_t) e->len * sizeof *values);
    }
    return values;
}

/* --- layouts, adapters and their scores --- */

static inline const ia3_layout *
golden_layout(const golden *g, const ia3_variant *v)
{
    ia3_error err = {0};
    const ia3_layout *l = ia3_layouts_get(ia3_model_layouts(g->m), v, &err);
    golden_ok(l, &err);
    return l;
}

static inline ia3_adapter *
golden_adapter(const golden *g, const ia3_layout *l, const float *values)
{
    static const uint8_t digest[IA3_DIGEST_LEN] = {7};
    ia3_error err = {0};
    ia3_adapter *a = ia3_adapter_create(g->m, l, values, digest, &err);
    golden_ok(a, &err);
    return a;
}

/* Scores of the four choices of one input with each of n adapters (NULL: the bare backbone), all in one batch. */
static inline void
golden_score(const golden *g, ia3_adapter *const *adapters, int n, int input, double (*scores)[4])
{
    ia3_score_row *rows = calloc((size_t) n, sizeof *rows);
    ia3_error err = {0};
    char prefix[32];
    int n_ids;
    snprintf(prefix, sizeof prefix, "input.%d", input);
    int32_t *ids = golden_ints(golden_find(g, "%s.ids", prefix), &n_ids);
    ia3_choices *choices = golden_choices(g, prefix);
    assert_int_equal(choices->n, 4);
    for (int i = 0; i < n; i++)
        rows[i] = (ia3_score_row){
            .ids = ids, .n_ids = n_ids, .adapter = adapters[i], .choices = choices, .scores = scores[i]};
    golden_ok(ia3_score(g->m, rows, n, &err), &err);
    free(rows);
    free(ids);
    ia3_choices_free(choices);
}

/*
 * The most likely token after the t tokens that were written so far, according to scoring, which needs choices of more than
 * one token: t is at least 1. None of the choices ends the text.
 */
static inline int32_t
golden_likeliest(const golden *g, const ia3_adapter *adapter, const int32_t *ids, int n_ids,
                 const int32_t *written, int t)
{
    int n = g->config->vocab_size - 1, bad_a, bad_b, best = 0;
    int32_t *tokens = malloc((size_t) n * (size_t) (t + 1) * sizeof *tokens);
    const int32_t **choices = malloc((size_t) n * sizeof *choices);
    int *len = malloc((size_t) n * sizeof *len);
    double *scores = malloc((size_t) n * sizeof *scores);
    ia3_error err = {0};
    for (int v = 0; v < n; v++) {
        int32_t *choice = tokens + (size_t) v * (size_t) (t + 1);
        memcpy(choice, written, (size_t) t * sizeof *choice);
        choice[t] = v < g->config->eos_id ? v : v + 1;
        choices[v] = choice;
        len[v] = t + 1;
    }
    ia3_choices *c = ia3_choices_create(choices, len, n, g->config->start_id, &bad_a, &bad_b, &err);
    golden_ok(c, &err);
    ia3_score_row row = {.ids = ids, .n_ids = n_ids, .adapter = adapter, .choices = c, .scores = scores};
    golden_ok(ia3_score(g->m, &row, 1, &err), &err);
    for (int v = 1; v < n; v++)
        best = scores[v] > scores[best] ? v : best;
    int32_t token = choices[best][t];
    ia3_choices_free(c);
    free(tokens);
    free(choices);
    free(len);
    free(scores);
    return token;
}

/* --- training --- */

/* What the references train with: every loss of the recipe, no dropout, and a million steps (oracle.py's `falling`). */
static inline ia3_recipe
golden_recipe(const ia3_variant *v)
{
    return (ia3_recipe){.steps = 1000000,
                        .batch_size = 4,
                        .learning_rate = 3e-3,
                        .lm_weight = 1,
                        .unlikelihood_weight = 1,
                        .length_norm_weight = 1,
                        .seed = 3,
                        .variant = *v};
}

/* A job with all examples. `init`: the values that it starts from (NULL: those of a new adapter). */
static inline ia3_train *
golden_job(const golden *g, const golden_examples *x, const ia3_recipe *recipe, const float *init)
{
    ia3_error err = {0};
    ia3_train *t = ia3_train_create(g->m, x->e, GOLDEN_EXAMPLES, recipe, init, &err);
    golden_ok(t, &err);
    if (x->weights)
        golden_ok(ia3_train_weigh(t, x->weights, &err), &err);
    return t;
}

/*
 * Takes n steps of four examples each: those that `indices` names, or all in turn if it is NULL. The loss of each step must
 * be that of `losses` to 3e-6, relatively; NULL compares nothing.
 */
static inline void
golden_check_steps(const golden *g, const char *what, ia3_train *t, const int32_t *indices, int n,
                   const float *losses)
{
    ia3_error err = {0};
    for (int s = 0; s < n; s++) {
        int batch[4];
        ia3_train_report report = {0};
        for (int k = 0; k < 4; k++)
            batch[k] = indices ? indices[4 * s + k] : (4 * s + k) % GOLDEN_EXAMPLES;
        golden_ok(ia3_train_step_on(t, batch, golden_no_texts, 4, &err), &err);
        ia3_train_last(t, &report);
        assert_int_equal(report.step, s + 1);
        if (losses)
            golden_limit(g, what, fabs(report.loss - losses[s]), 3e-6 * fabs(losses[s]));
    }
}

/*
 * The error of each tensor's gradients must be at most 2e-4 of its own largest value or of a thousandth of the largest value
 * of all, whichever is larger. Biases of keys need the latter: their gradient is zero, because adding the
 * same vector to all keys does not change attention.
 */
static inline void
golden_check_gradients(const golden *g, const ia3_layout *l, const float *got, const float *want)
{
    float *zeros = calloc(l->n_values, sizeof *zeros);
    const double scale = golden_max(want, zeros, l->n_values);
    for (int i = 0; i < l->n; i++) {
        const ia3_layout_entry *e = &l->entries[i];
        const double size = golden_max(want + e->offset, zeros, (size_t) e->len);
        golden_limit(g, e->name, golden_max(got + e->offset, want + e->offset, (size_t) e->len),
                     2e-4 * (size + 1e-3 * scale));
    }
    free(zeros);
}

/*
 * The values after steps must be those of the reference: the difference of each tensor is at most 1e-4 of its values, and at
 * most 2e-3 of how far they moved. Elements whose gradient before the first step was below 1e-6 of the tensor's largest are
 * left out, because it is rounding that gives their step its sign; so are tensors with such gradients only (biases of keys).
 */
static inline void
golden_check_values(const golden *g, const ia3_layout *l, const float *start, const float *grads,
                    const float *got, const float *want)
{
    float *zeros = calloc(l->n_values, sizeof *zeros);
    const double scale = golden_max(grads, zeros, l->n_values);
    size_t left_out = 0;
    for (int i = 0; i < l->n; i++) {
        const ia3_layout_entry *e = &l->entries[i];
        const size_t end = e->offset + (size_t) e->len;
        const double size = golden_max(grads + e->offset, zeros, (size_t) e->len);
        double difference = 0, norm = 0, moved = 0;
        for (size_t v = e->offset; v < end; v++) {
            const double d = (double) got[v] - want[v], m = (double) want[v] - start[v];
            if (fabs(grads[v]) < 1e-6 * fmax(size, scale)) {
                left_out++;
                continue;
            }
            difference += d * d;
            norm += (double) want[v] * want[v];
            moved += m * m;
        }
        golden_limit(g, e->name, sqrt(difference), fmin(1e-4 * sqrt(norm), 2e-3 * sqrt(moved)));
    }
    if (getenv("IA3_GOLDEN_VERBOSE"))
        printf("    %zu of %zu values left out\n", left_out, l->n_values);
    free(zeros);
}

/* The loss of three of the examples with these values, and its gradients. */
static inline double
golden_loss(const golden *g, const golden_examples *x, const ia3_recipe *recipe, const float *values,
            float *grads)
{
    static const int batch[] = {1, 8, 9};
    ia3_error err = {0};
    ia3_train *t = golden_job(g, x, recipe, values);
    ia3_train_report report = {0};
    golden_ok(ia3_train_gradients(t, batch, golden_no_texts, 3, grads, &report, &err), &err);
    ia3_train_free(t);
    return report.loss;
}

/* The derivative of the loss for one of the values, from differences of fourth order; h is their step. */
static inline double
golden_difference(const golden *g, const golden_examples *x, const ia3_recipe *recipe, float *values,
                  size_t at, double h, float *scratch)
{
    const double steps[] = {h, -h, 2 * h, -2 * h};
    double loss[4];
    const float old = values[at];
    for (int s = 0; s < 4; s++) {
        values[at] = (float) (old + steps[s]);
        loss[s] = golden_loss(g, x, recipe, values, scratch);
    }
    values[at] = old;
    return (8 * (loss[0] - loss[1]) - (loss[2] - loss[3])) / (12 * h);
}

/*
 * Compares the gradients of golden_loss at these values with finite differences, for the element of each tensor whose
 * gradient is the largest. With `kinks` (methods that change the results of sub-layers have those of ReLU), where the step
 * crosses one, a shorter step has to agree. The recipe tells the variant and the dropout.
 */
static inline void
golden_check_differences(const golden *g, const golden_examples *x, const ia3_recipe *recipe,
                         const float *values, bool kinks)
{
    const ia3_layout *l = golden_layout(g, &recipe->variant);
    const size_t bytes = l->n_values * sizeof(float);
    float *moved = malloc(bytes), *grads = malloc(bytes), *scratch = malloc(bytes);
    ia3_train *keep = golden_job(g, x, recipe, NULL); /* keeps the backward weights while jobs come and go */
    memcpy(moved, values, bytes);
    golden_loss(g, x, recipe, values, grads);
    for (int i = 0; i < l->n; i++) {
        const ia3_layout_entry *e = &l->entries[i];
        size_t top = e->offset;
        for (size_t k = e->offset; k < e->offset + (size_t) e->len; k++)
            if (fabsf(grads[k]) > fabsf(grads[top]))
                top = k;
        double h = 0.02, want = golden_difference(g, x, recipe, moved, top, h, scratch);
        while (fabs(grads[top] - want) > 3e-4 + 0.01 * fabs(want) && kinks && h > 0.002)
            want = golden_difference(g, x, recipe, moved, top, h /= 3, scratch);
        if (!(fabs(grads[top] - want) <= 3e-4 + (h < 0.02 ? 0.02 : 0.01) * fabs(want)))
            fail_msg("%s %s, dropout %g: gradient %zu of %s is %g, finite differences say %g",
                     recipe->variant.method->name, ia3_variant_text(&recipe->variant), recipe->dropout,
                     top - e->offset, e->name, grads[top], want);
    }
    ia3_train_free(keep);
    ia3_layout_release(l);
    free(moved);
    free(grads);
    free(scratch);
}

#endif
