/*
 * cli_train.c
 *     The command train, which reads examples from stdin and writes an adapter to a file.
 */
#include "cli.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli_input.h"
#include "engine/base/alloc.h"
#include "engine/base/clock.h"
#include "engine/base/log.h"
#include "engine/recipe/metrics.h"

/* The examples: texts are tokenized at once, labels remain strings until all of them are known. */
typedef struct ia3_cli_examples {
    int n, cap;
    int32_t **ids;
    int *n_ids;
    char **labels;
    uint32_t truncated;
} ia3_cli_examples;

static bool
add_example(ia3_server *s, ia3_cli_examples *x, const char *line, size_t len, int number, ia3_error *err)
{
    const char *tab = memrchr(line, '\t', len);
    if (tab == NULL)
        return ia3_fail(err, IA3_E_INVALID, "line %d has no tab between text and label", number);
    if (x->n == x->cap) {
        x->cap = x->cap ? 2 * x->cap : 64;
        x->ids = ia3_realloc(x->ids, (size_t) x->cap * sizeof *x->ids);
        x->n_ids = ia3_realloc(x->n_ids, (size_t) x->cap * sizeof *x->n_ids);
        x->labels = ia3_realloc(x->labels, (size_t) x->cap * sizeof *x->labels);
    }
    bool truncated = false;
    if (!ia3_cli_encode(s, line, (size_t) (tab - line), &x->ids[x->n], &x->n_ids[x->n], &truncated, err))
        return ia3_fail_detail(err, "The error is in line %d.", number);
    x->truncated += truncated;
    size_t label_len = len - (size_t) (tab + 1 - line);
    char *label = ia3_alloc(label_len + 1);
    memcpy(label, tab + 1, label_len);
    x->labels[x->n++] = label;
    return true;
}

static bool
read_examples(ia3_server *s, ia3_cli_examples *x, ia3_error *err)
{
    char *line = NULL;
    size_t cap = 0;
    ssize_t len;
    bool ok = true;
    for (int number = 1; ok && (len = getline(&line, &cap, stdin)) >= 0; number++) {
        if (len > 0 && line[len - 1] == '\n')
            len--;
        if (len > 0)
            ok = add_example(s, x, line, (size_t) len, number, err);
    }
    free(line);
    if (ok && x->n == 0)
        return ia3_fail(err, IA3_E_INVALID, "there are no examples to train on");
    ia3_cli_report_truncated(s, x->truncated, (uint32_t) x->n);
    return ok;
}

static int
find_label(const ia3_span *choices, int n, const char *label)
{
    size_t len = strlen(label);
    for (int i = 0; i < n; i++)
        if (choices[i].len == len && memcmp(choices[i].data, label, len) == 0)
            return i;
    return -1;
}

/* The choices if --choices is not given: the distinct labels in the order of their first appearance. */
static int
distinct_labels(const ia3_cli_examples *x, ia3_span **spans)
{
    *spans = ia3_alloc_array((size_t) x->n, sizeof **spans);
    int n = 0;
    for (int i = 0; i < x->n; i++)
        if (find_label(*spans, n, x->labels[i]) < 0)
            (*spans)[n++] = (ia3_span){.data = x->labels[i], .len = (uint32_t) strlen(x->labels[i])};
    return n;
}

static bool
write_result(ia3_server *s, ia3_train *train, const ia3_loss_record *losses, uint32_t examples,
             uint32_t truncated, double started, ia3_error *err)
{
    const ia3_layout *layout = ia3_train_layout(train);
    float *values = ia3_alloc_array(layout->n_values, sizeof *values);
    ia3_train_values(train, values);
    size_t len;
    uint8_t *bytes = ia3_adapter_serialize(layout, values, &len);
    free(values);
    FILE *f = fopen(s->options->out, "wb");
    bool ok = f && fwrite(bytes, 1, len, f) == len;
    if (f)
        ok = fclose(f) == 0 && ok;
    free(bytes);
    if (!ok)
        return ia3_fail(err, IA3_E_INVALID, "could not write file \"%s\": %s", s->options->out,
                        strerror(errno));
    char *metrics = ia3_metrics_json(losses, examples, ia3_now() - started, truncated);
    printf("%s\n", metrics);
    free(metrics);
    return true;
}

static bool
train_examples(ia3_server *s, const ia3_train_example *examples, int n, uint32_t truncated, ia3_error *err)
{
    double started = ia3_now(), reported = started;
    const ia3_layout *layout;
    float *init = ia3_cli_adapter(s, &layout, err);
    ia3_train *train = NULL;
    const ia3_variant *variant = &s->options->recipe.variant;
    if (init && layout->variant.method != variant->method)
        ia3_fail(err, IA3_E_INVALID, "the adapter to start from was trained with another method");
    const ia3_layout *wanted = init ? ia3_layouts_get(ia3_model_layouts(s->model), variant, err) : NULL;
    if (init && wanted && layout != wanted)
        ia3_fail(err, IA3_E_INVALID, "the adapter to start from was trained with other options");
    if (err->code == 0)
        train = ia3_train_create(s->model, examples, n, &s->options->recipe, init, err);
    free(init);
    if (train == NULL)
        return false;
    ia3_loss_record losses = {.steps = s->options->recipe.steps};
    bool ok = true;
    while (ok && !ia3_train_finished(train)) {
        ok = ia3_train_step(&train, 1, err);
        ia3_train_report report;
        ia3_train_last(train, &report);
        if (ok)
            ia3_loss_record_add(&losses, &report);
        if (ok && ia3_now() - reported >= 1) {
            reported = ia3_now();
            ia3_log(IA3_LOG_LOG, "step %d of %d, loss %.4f", report.step, losses.steps, report.loss);
        }
    }
    ok = ok && write_result(s, train, &losses, (uint32_t) n, truncated, started, err);
    ia3_train_free(train);
    return ok;
}

bool
ia3_cli_train(ia3_server *s, ia3_error *err)
{
    ia3_cli_examples x = {0};
    ia3_span *spans = NULL;
    ia3_choices *choices = NULL;
    ia3_train_example *examples = NULL;
    bool ok = ia3_recipe_check(&s->options->recipe, err) && read_examples(s, &x, err);
    if (ok) {
        int n =
            s->options->choices ? ia3_cli_choices(s->options->choices, &spans) : distinct_labels(&x, &spans);
        choices = ia3_choices_tokenize(s->tokenizer, ia3_model_config(s->model)->start_id, spans, n, err);
        examples = ia3_alloc_array((size_t) x.n, sizeof *examples);
        ok = choices != NULL;
        for (int i = 0; i < x.n && ok; i++) {
            examples[i] = (ia3_train_example){.n_texts = 1,
                                              .ids = (const int32_t *const *) &x.ids[i],
                                              .n_ids = &x.n_ids[i],
                                              .choices = choices,
                                              .label = find_label(spans, n, x.labels[i])};
            if (examples[i].label < 0)
                ok = ia3_fail(err, IA3_E_INVALID, "label \"%.100s\" is not one of the choices", x.labels[i]);
        }
    }
    ok = ok && train_examples(s, examples, x.n, x.truncated, err);
    for (int i = 0; i < x.n; i++) {
        free(x.ids[i]);
        free(x.labels[i]);
    }
    free(x.ids);
    free(x.n_ids);
    free(x.labels);
    free(examples);
    free(spans);
    if (choices)
        ia3_choices_free(choices);
    return ok;
}
