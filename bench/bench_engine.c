/*
 * bench_engine.c
 *     Runs the engine's scoring and training functions on token ids from a file, for `scripts/bench cpu`.
 *
 *   bench_engine score --backbone DIR --choices - [--dtype T] [--threads N] INPUTS.json [ADAPTER...]
 *
 * Reads commands, one per line, and answers each with a line of JSON:
 *
 *   score SET ROWS OUT     scores the first ROWS rows with the choices SET and the first adapter; writes the scores to
 *                          the file OUT
 *   mixed SET ROWS OUT     the same, but each row with the adapter of its task
 *   train STEPS DROPOUT FILE
 *                          does STEPS steps over the batches of INPUTS.json; writes the vectors to FILE, unless that is
 *                          "-"; "loss" is that of the last step
 *   inputs FILE            goes on with the rows, choices and batches of another file
 *   quit
 *
 * Rows are scored in the order of the file, in batches of at most --max-batch-tokens, as the server does. "seconds" is
 * the time of the engine's work alone. "products" are the matrix products with weights that real tokens need; for
 * cross-attention they depend on what ia3_score_by_states chooses.
 */
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "bench_products.h"
#include "engine/base/alloc.h"
#include "engine/cli/cli_input.h"
#include "engine/files/adapter.h"
#include "engine/model/methods/methods.h"
#include "engine/recipe/score.h"
#include "engine/recipe/train.h"
#include "engine/serve/serve.h"

typedef struct inputs {
    json_t *json;
    int n_rows;
    int32_t **ids;
    int *n_ids, *task, *label;
} inputs;

typedef struct bench {
    ia3_server server;
    inputs in;
    int n_adapters;
    ia3_adapter **adapters;
    json_t *set; /* the current choices: [row % n][choice][token] */
    ia3_choices **choices;
    int n_sets;
} bench;

/* A measurement: elapsed seconds, and processor seconds of all threads together. */
typedef struct timing {
    double seconds, cpu;
} timing;

static double
read_clock(clockid_t clock)
{
    struct timespec t;
    clock_gettime(clock, &t);
    return (double) t.tv_sec + 1e-9 * (double) t.tv_nsec;
}

static void
start(timing *t)
{
    t->seconds -= read_clock(CLOCK_MONOTONIC);
    t->cpu -= read_clock(CLOCK_PROCESS_CPUTIME_ID);
}

static void
stop(timing *t)
{
    t->seconds += read_clock(CLOCK_MONOTONIC);
    t->cpu += read_clock(CLOCK_PROCESS_CPUTIME_ID);
}

static void
die(const char *what, const ia3_error *err)
{
    fprintf(stderr, "bench_engine: %s%s%s\n", what, err ? ": " : "", err ? err->message : "");
    exit(1);
}

static int32_t *
ids_of(const json_t *array, int *n)
{
    *n = (int) json_array_size(array);
    int32_t *ids = ia3_alloc_array((size_t) *n, sizeof *ids);
    for (int i = 0; i < *n; i++)
        ids[i] = (int32_t) json_integer_value(json_array_get(array, (size_t) i));
    return ids;
}

static void
read_inputs(inputs *in, const char *path)
{
    json_error_t problem;
    in->json = json_load_file(path, 0, &problem);
    if (in->json == NULL)
        die(problem.text, NULL);
    json_t *rows = json_object_get(in->json, "rows");
    in->n_rows = (int) json_array_size(rows);
    in->ids = ia3_alloc_array((size_t) in->n_rows, sizeof *in->ids);
    in->n_ids = ia3_alloc_array((size_t) in->n_rows, sizeof(int));
    in->task = ia3_alloc_array((size_t) in->n_rows, sizeof(int));
    in->label = ia3_alloc_array((size_t) in->n_rows, sizeof(int));
    for (int i = 0; i < in->n_rows; i++) {
        const json_t *row = json_array_get(rows, (size_t) i);
        in->ids[i] = ids_of(json_object_get(row, "ids"), &in->n_ids[i]);
        in->task[i] = (int) json_integer_value(json_object_get(row, "task"));
        in->label[i] = (int) json_integer_value(json_object_get(row, "label"));
    }
}

static void
free_inputs(inputs *in)
{
    for (int i = 0; i < in->n_rows; i++)
        free(in->ids[i]);
    free(in->ids);
    free(in->n_ids);
    free(in->task);
    free(in->label);
    json_decref(in->json);
    *in = (inputs){0};
}

static ia3_choices *
choices_of(bench *b, const json_t *list)
{
    int n = (int) json_array_size(list), bad_a, bad_b, *len = ia3_alloc_array((size_t) n, sizeof *len);
    int32_t **ids = ia3_alloc_array((size_t) n, sizeof *ids);
    for (int i = 0; i < n; i++)
        ids[i] = ids_of(json_array_get(list, (size_t) i), &len[i]);
    ia3_error err = {0};
    ia3_choices *c = ia3_choices_create((const int32_t *const *) ids, len, n,
                                        ia3_model_config(b->server.model)->start_id, &bad_a, &bad_b, &err);
    if (c == NULL)
        die("choices", &err);
    for (int i = 0; i < n; i++)
        free(ids[i]);
    free(ids);
    free(len);
    return c;
}

static void
drop_set(bench *b)
{
    for (int i = 0; i < b->n_sets; i++)
        ia3_choices_free(b->choices[i]);
    free(b->choices);
    b->choices = NULL;
    b->n_sets = 0;
    b->set = NULL;
}

/* Selects the named set of choices; row i has choices[set_of[i]]. */
static void
use_set(bench *b, const char *name)
{
    json_t *set = json_object_get(json_object_get(b->in.json, "choices"), name);
    if (set == NULL)
        die("no such set of choices", NULL);
    if (set == b->set)
        return;
    drop_set(b);
    b->set = set;
    b->n_sets = (int) json_array_size(set);
    b->choices = ia3_alloc_array((size_t) b->n_sets, sizeof *b->choices);
    for (int i = 0; i < b->n_sets; i++)
        b->choices[i] = choices_of(b, json_array_get(set, (size_t) i));
}

static const ia3_choices *
choices_of_row(const bench *b, int row)
{
    return b->choices[b->in.task[row] % b->n_sets];
}

/* --- answers --- */

static json_t *
products_json(const bench_products *p)
{
    json_t *list = json_array();
    for (int i = 0; i < p->n; i++)
        json_array_append_new(list, json_pack("[i,i,I]", p->v[i].k, p->v[i].n, (json_int_t) p->v[i].rows));
    return list;
}

static void
answer(timing t, const bench_products *p, int64_t enc_rows, int64_t dec_rows, double loss)
{
    json_t *j = json_pack("{s:f,s:f,s:f,s:I,s:I,s:o,s:f}", "seconds", t.seconds, "cpu", t.cpu, "flops",
                          bench_products_flops(p), "encoder_rows", (json_int_t) enc_rows, "decoder_rows",
                          (json_int_t) dec_rows, "products", products_json(p), "loss", loss);
    json_dumpf(j, stdout, JSON_COMPACT);
    printf("\n");
    fflush(stdout);
    json_decref(j);
}

/* --- scoring --- */

static void
score(bench *b, const char *set, int n, bool mixed, const char *out)
{
    use_set(b, set);
    n = n < b->in.n_rows ? n : b->in.n_rows;
    ia3_score_row *rows = ia3_alloc_array((size_t) n, sizeof *rows);
    bench_products products = {0};
    int64_t enc_rows = 0, dec_rows = 0, kv_rows = 0;
    for (int i = 0; i < n; i++) {
        const ia3_choices *c = choices_of_row(b, i);
        int a = mixed ? b->in.task[i] % b->n_adapters : 0;
        rows[i] = (ia3_score_row){.adapter = b->n_adapters ? b->adapters[a] : NULL,
                                  .ids = b->in.ids[i],
                                  .n_ids = b->in.n_ids[i],
                                  .choices = c,
                                  .scores = ia3_alloc_array((size_t) c->n, sizeof(double))};
        enc_rows += rows[i].n_ids;
        dec_rows += c->n_rows;
        kv_rows += ia3_score_by_states(b->server.model, &rows[i]) ? c->n_rows : rows[i].n_ids;
    }
    bench_products_forward(&products, ia3_model_config(b->server.model), enc_rows, dec_rows, kv_rows);

    ia3_error err = {0};
    timing t = {0};
    start(&t);
    for (int i = 0, next; i < n; i = next) {
        int tokens = 0;
        for (next = i; next < n && next - i < IA3_MAX_BATCH_ROWS; next++) {
            tokens += ia3_score_row_tokens(&rows[next]);
            if (next > i && tokens > b->server.options->max_batch_tokens)
                break;
        }
        if (!ia3_score(b->server.model, rows + i, next - i, &err))
            die("score", &err);
    }
    stop(&t);

    FILE *f = fopen(out, "wb");
    for (int i = 0; i < n; i++) {
        if (f)
            fwrite(rows[i].scores, sizeof(double), (size_t) rows[i].choices->n, f);
        free(rows[i].scores);
    }
    if (f == NULL || fclose(f) != 0)
        die("cannot write the scores", NULL);
    free(rows);
    answer(t, &products, enc_rows, dec_rows, 0);
}

/* --- training --- */

static void
write_adapter(ia3_train *t, const char *path)
{
    const ia3_layout *layout = ia3_train_layout(t);
    float *values = ia3_alloc_array(layout->n_values, sizeof *values);
    size_t len;
    ia3_train_values(t, values);
    uint8_t *bytes = ia3_adapter_serialize(layout, values, &len);
    FILE *f = fopen(path, "wb");
    if (f == NULL || fwrite(bytes, 1, len, f) != len || fclose(f) != 0)
        die("cannot write the adapter", NULL);
    free(bytes);
    free(values);
}

static ia3_train *
create_training(bench *b, int steps, double dropout, ia3_train_example *examples)
{
    for (int i = 0; i < b->in.n_rows; i++)
        examples[i] = (ia3_train_example){.n_texts = 1,
                                          .ids = (const int32_t *const *) &b->in.ids[i],
                                          .n_ids = &b->in.n_ids[i],
                                          .choices = choices_of_row(b, i),
                                          .label = b->in.label[i]};
    ia3_recipe recipe = {.variant = ia3_variant_standard(ia3_methods[0]),
                         .steps = steps,
                         .batch_size = 8,
                         .learning_rate = 3e-3,
                         .warmup_ratio = 0.06,
                         .lm_weight = 1,
                         .unlikelihood_weight = 1,
                         .length_norm_weight = 1,
                         .dropout = dropout};
    ia3_error err = {0};
    ia3_train *t = ia3_train_create(b->server.model, examples, b->in.n_rows, &recipe, NULL, &err);
    if (t == NULL)
        die("train", &err);
    return t;
}

/* With dropout every choice is a chain of its own, because each has its own masks. */
static void
train(bench *b, int steps, double dropout, const char *out)
{
    use_set(b, "train");
    const ia3_config *config = ia3_model_config(b->server.model);
    ia3_train_example *examples = ia3_alloc_array((size_t) b->in.n_rows, sizeof *examples);
    int *texts = ia3_alloc_array((size_t) b->in.n_rows, sizeof *texts);
    ia3_train *t = create_training(b, steps, dropout, examples);
    json_t *batches = json_object_get(b->in.json, "batches");
    bench_products products = {0};
    int64_t enc_rows = 0, dec_rows = 0;
    timing took = {0};
    for (int k = 0; k < steps; k++) {
        int n;
        int32_t *batch = ids_of(json_array_get(batches, (size_t) k % json_array_size(batches)), &n);
        for (int i = 0; i < n; i++) {
            const ia3_choices *c = examples[batch[i]].choices;
            enc_rows += b->in.n_ids[batch[i]];
            for (int j = 0; dropout > 0 && j < c->n; j++)
                dec_rows += c->len[j];
            dec_rows += dropout > 0 ? 0 : c->n_rows;
        }
        ia3_error err = {0};
        start(&took);
        if (!ia3_train_step_on(t, batch, texts, n, &err))
            die("train", &err);
        stop(&took);
        free(batch);
    }
    bench_products_forward(&products, config, enc_rows, dec_rows, enc_rows);
    bench_products_backward(&products, config, enc_rows, dec_rows);
    if (strcmp(out, "-") != 0)
        write_adapter(t, out);
    ia3_train_report report;
    ia3_train_last(t, &report);
    ia3_train_free(t);
    free(examples);
    free(texts);
    answer(took, &products, enc_rows, dec_rows, report.loss);
}

/* --- main --- */

static void
load_adapters(bench *b, int n, char **paths)
{
    static const uint8_t no_digest[IA3_DIGEST_LEN];
    b->n_adapters = n;
    b->adapters = ia3_alloc_array((size_t) n, sizeof *b->adapters);
    for (int i = 0; i < n; i++) {
        ia3_error err = {0};
        size_t len;
        const ia3_layout *layout;
        uint8_t *data = ia3_cli_read_file(paths[i], &len, &err);
        float *values =
            data ? ia3_adapter_parse_any(ia3_model_layouts(b->server.model), data, len, &layout, &err) : NULL;
        if (values)
            b->adapters[i] = ia3_adapter_create(b->server.model, layout, values, no_digest, &err);
        if (b->adapters[i] == NULL)
            die(paths[i], &err);
        free(values);
        free(data);
    }
}

static void
use_inputs(bench *b, const char *path)
{
    drop_set(b);
    free_inputs(&b->in);
    read_inputs(&b->in, path);
    printf("{}\n");
    fflush(stdout);
}

static bool
command(bench *b, const char *line)
{
    char set[64], out[512];
    double dropout;
    int n;
    if (sscanf(line, "score %63s %d %511s", set, &n, out) == 3)
        score(b, set, n, false, out);
    else if (sscanf(line, "mixed %63s %d %511s", set, &n, out) == 3)
        score(b, set, n, true, out);
    else if (sscanf(line, "train %d %lf %511s", &n, &dropout, out) == 3)
        train(b, n, dropout, out);
    else if (sscanf(line, "inputs %511s", out) == 1)
        use_inputs(b, out);
    else if (strncmp(line, "quit", 4) == 0)
        return false;
    else
        die("unknown command", NULL);
    return true;
}

int
main(int argc, char **argv)
{
    static bench b;
    static ia3_options options;
    int status = ia3_options_parse(&options, argc, argv);
    if (status >= 0)
        return status;
    if (options.n_arguments < 1)
        die("no file of inputs given", NULL);
    b.server.options = &options;
    ia3_error err = {0};
    if (!ia3_server_load(&b.server, NULL, &err))
        die("cannot load", &err);
    read_inputs(&b.in, options.arguments[0]);
    load_adapters(&b, options.n_arguments - 1, options.arguments + 1);
    printf("{\"ready\": true}\n");
    fflush(stdout);
    char *line = NULL;
    size_t cap = 0;
    while (getline(&line, &cap, stdin) > 0 && command(&b, line))
        ;
    free(line);
    return 0;
}
