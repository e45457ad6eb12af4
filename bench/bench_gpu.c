/*
 * bench_gpu.c
 *     Runs the engine's scoring and training functions on random weights of any shape, for scripts/gpu-check.
 *
 *   bench_gpu --device SPEC --dtype TYPE --config CONFIG.json [--threads N] [--tokens N]
 *
 * Reads commands, one per line, and answers each with a line of JSON ({"error": TEXT} if the command failed). The
 * backbone is moved to the device by the first command that needs it.
 *
 *   open                          loads the backbone: bytes of its weights, the device's description
 *   rate N                        a matrix product of N x N with N x N, repeated: floating-point operations per second
 *   score CHOICES ROWS ADAPTERS S batches of ROWS rows for S seconds, CHOICES choices each, ADAPTERS taking turns
 *   give_way CHOICES ROWS N       batches of ROWS rows, N that give way as they do in a server where nothing else waits
 *                                 (serve/compute_thread.c), and N that do not, in turn: for each kind the processor
 *                                 seconds of the fastest batch and the median
 *   train STEPS WARM CHOICES      STEPS steps of 1,000 in batches of 8, after WARM that are not timed
 *   memory                        bytes on the device: all, and of the weights
 *   write DIR                     the backbone as a checkpoint (config.json has to be there already)
 *   load DIR                      a checkpoint from its files to a device of its own
 *   quit
 *
 * An input consists of N (103) random tokens, including the end of the sequence; a choice has two tokens and the end.
 * "host" is the processor time that the timed part took, on a GPU that for enqueuing the work. "flops" are those of the matrix products that the work cannot do without (bench_products.h).
 */
#include <errno.h>
#include <getopt.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "bench_products.h"
#include "bench_weights.h"
#include "engine/base/alloc.h"
#include "engine/base/clock.h"
#include "engine/cli/cli_input.h"
#include "engine/model/methods/methods.h"
#include "engine/recipe/score.h"
#include "engine/recipe/train.h"
#include "engine/serve/queue.h"

enum { POOL = 8192, EXAMPLES = 50, BATCH = 8, CHOICE_TOKENS = 3 };

typedef struct bench {
    const char *spec, *config_path;
    ia3_dtype dtype;
    int threads, tokens;
    ia3_config config;
    bench_weights weights;
    ia3_device *dev;
    ia3_model *model;
    int32_t *ids; /* [POOL][tokens] */
    int n_adapters;
    ia3_adapter **adapters;
} bench;

static double
now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double) t.tv_sec + 1e-9 * (double) t.tv_nsec;
}

static double
cpu_seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double) t.tv_sec + 1e-9 * (double) t.tv_nsec;
}

/* Prints the object and frees it; if it is NULL, prints the error. */
static void
answer(json_t *object, const ia3_error *err)
{
    if (object == NULL)
        object = json_pack("{s:o}", "error", json_sprintf("%s %s", err->message, err->detail));
    if (object == NULL) /* a message that is not UTF-8 */
        object = json_pack("{s:s}", "error", "unknown");
    json_dumpf(object, stdout, JSON_COMPACT);
    printf("\n");
    fflush(stdout);
    json_decref(object);
}

static bool
open_model(bench *b, ia3_error *err)
{
    if (b->model)
        return true;
    if (b->dev == NULL)
        b->dev = ia3_device_open(b->spec, b->dtype, b->threads, 0, err);
    if (b->dev == NULL)
        return false;
    ia3_checkpoint *ck =
        ia3_checkpoint_in_memory(&b->config, IA3_BF16, true, bench_weights_source, &b->weights);
    b->model = ia3_model_load(ck, b->dev, ia3_methods, NULL, NULL, err);
    ia3_checkpoint_close(ck);
    return b->model != NULL;
}

/* Waits until everything before has been computed. */
static void
synchronize(ia3_device *dev, const void *p)
{
    char byte[4];
    dev->ops->download(dev, byte, p, sizeof byte);
}

static json_t *
open_command(bench *b, ia3_error *err)
{
    double started = now();
    if (!open_model(b, err))
        return NULL;
    return json_pack("{s:s,s:s,s:s,s:I,s:I,s:f}", "device", b->dev->name, "description", b->dev->description,
                     "dtype", b->dev->dtype == IA3_BF16 ? "bfloat16" : "float32", "parameters",
                     (json_int_t) ia3_model_parameters(b->model), "weights",
                     (json_int_t) ia3_model_bytes(b->model), "seconds", now() - started);
}

/* --- the device's rate --- */

static json_t *
rate(bench *b, int n, ia3_error *err)
{
    if (!open_model(b, err))
        return NULL;
    ia3_device *dev = b->dev;
    uint16_t *block = bench_random_block((size_t) n * (size_t) n, 1 / sqrt(n), 4);
    ia3_host_tensor host = {block, IA3_BF16, n, n};
    ia3_matrix *w = dev->ops->matrix_create(dev, &host, 1, err);
    void *x = w ? dev->ops->table_create(dev, &host, err) : NULL;
    void *y = x ? dev->ops->alloc(dev, (size_t) n * (size_t) n * ia3_dtype_size(dev->dtype)) : NULL;
    double seconds = 0;
    int64_t products = 0;
    if (x && !y)
        ia3_fail(err, IA3_E_MEMORY, "out of memory for a product");
    for (int64_t count = 4; y && seconds < 0.5; count *= 2) {
        double started = now();
        for (int64_t i = 0; i < count; i++)
            dev->ops->matmul(dev, y, x, n, w, IA3_OUT_ACT);
        synchronize(dev, y);
        seconds = now() - started;
        products = count;
    }
    if (w)
        dev->ops->matrix_free(dev, w);
    if (x)
        dev->ops->free(dev, x);
    if (y)
        dev->ops->free(dev, y);
    free(block);
    if (seconds == 0)
        return NULL;
    return json_pack("{s:f,s:f}", "seconds", seconds, "flops", 2.0 * n * n * n * (double) products);
}

/* --- inputs --- */

static int32_t
random_token(const bench *b, uint64_t seed)
{
    return 3 + (int32_t) (ia3_mix64(seed) % (uint64_t) (b->config.vocab_size - 3));
}

static void
make_inputs(bench *b)
{
    size_t n = (size_t) POOL * (size_t) b->tokens;
    b->ids = ia3_alloc_array(n, sizeof *b->ids);
    for (size_t i = 0; i < n; i++)
        b->ids[i] = (i + 1) % (size_t) b->tokens == 0 ? b->config.eos_id : random_token(b, i);
}

/* n choices that differ in their first token. */
static ia3_choices *
make_choices(const bench *b, int n, ia3_error *err)
{
    int32_t *ids = ia3_alloc_array((size_t) n * CHOICE_TOKENS, sizeof *ids);
    const int32_t **rows = ia3_alloc_array((size_t) n, sizeof *rows);
    int *len = ia3_alloc_array((size_t) n, sizeof *len), bad_a, bad_b;
    for (int i = 0; i < n; i++) {
        int32_t *c = ids + (size_t) i * CHOICE_TOKENS;
        c[0] = 3 + (i * 37 + 11) % (b->config.vocab_size - 3);
        for (int t = 1; t < CHOICE_TOKENS - 1; t++)
            c[t] = random_token(b, (uint64_t) (1000 + i * 8 + t) << 32);
        c[CHOICE_TOKENS - 1] = b->config.eos_id;
        rows[i] = c;
        len[i] = CHOICE_TOKENS;
    }
    ia3_choices *choices = ia3_choices_create(rows, len, n, b->config.start_id, &bad_a, &bad_b, err);
    free(ids);
    free(rows);
    free(len);
    return choices;
}

/* Makes at least n adapters with values near one, as in trained ones. */
static bool
make_adapters(bench *b, int n, ia3_error *err)
{
    static const uint8_t digest[IA3_DIGEST_LEN];
    size_t values = ia3_model_layout(b->model)->n_values;
    if (n <= b->n_adapters)
        return true;
    float *host = ia3_alloc_array(values, sizeof *host);
    b->adapters = ia3_realloc(b->adapters, (size_t) n * sizeof *b->adapters);
    while (b->n_adapters < n) {
        for (size_t i = 0; i < values; i++)
            host[i] = 1.0f + 0.1f * (float) ((double) (ia3_mix64(i * 1000 + (uint64_t) b->n_adapters) >> 40) /
                                                 (1 << 24) -
                                             0.5);
        ia3_adapter *a = ia3_adapter_create(b->model, ia3_model_layout(b->model), host, digest, err);
        if (a == NULL)
            break;
        b->adapters[b->n_adapters++] = a;
    }
    free(host);
    return b->n_adapters >= n;
}

/* --- scoring --- */

static ia3_score_row *
make_rows(const bench *b, int n, int n_adapters, const ia3_choices *choices, double *scores)
{
    ia3_score_row *rows = ia3_alloc_array((size_t) n, sizeof *rows);
    for (int i = 0; i < n; i++)
        rows[i] = (ia3_score_row){.adapter = n_adapters ? b->adapters[i % n_adapters] : NULL,
                                  .ids = b->ids + (size_t) (i % POOL) * (size_t) b->tokens,
                                  .n_ids = b->tokens,
                                  .choices = choices,
                                  .scores = scores + (size_t) i * (size_t) choices->n};
    return rows;
}

static bool
check_scores(const double *scores, size_t n, ia3_error *err)
{
    for (size_t i = 0; i < n; i++)
        if (!isfinite(scores[i]) || scores[i] >= 0)
            return ia3_fail(err, IA3_E_INTERNAL, "score %zu is %g", i, scores[i]);
    return true;
}

static json_t *
score(bench *b, int n_choices, int n, int n_adapters, double seconds, ia3_error *err)
{
    if (n < 1 || n > POOL)
        ia3_fail(err, IA3_E_INVALID, "a batch has 1 to %d rows", POOL);
    if (err->code || !open_model(b, err) || !make_adapters(b, n_adapters, err))
        return NULL;
    ia3_choices *choices = make_choices(b, n_choices, err);
    if (choices == NULL)
        return NULL;
    double *scores = ia3_alloc_array((size_t) n * (size_t) n_choices, sizeof *scores);
    ia3_score_row *rows = make_rows(b, n, n_adapters, choices, scores);
    bench_products products = {0};
    bench_products_forward(&products, &b->config, (int64_t) n * b->tokens, (int64_t) n * choices->n_rows,
                           (int64_t) n * b->tokens);

    bool ok = ia3_score(b->model, rows, n, err) && /* untimed, for one-time allocations */
              check_scores(scores, (size_t) n * (size_t) n_choices, err);
    double started = now(), taken = 0, host = cpu_seconds();
    int64_t batches = 0;
    while (ok && (taken < seconds || batches < 2)) {
        ok = ia3_score(b->model, rows, n, err);
        taken = now() - started;
        batches++;
    }
    free(rows);
    free(scores);
    ia3_choices_free(choices);
    if (!ok)
        return NULL;
    host = cpu_seconds() - host;
    return json_pack("{s:f,s:f,s:I,s:i,s:f}", "seconds", taken, "host", host, "rows",
                     (json_int_t) (batches * n), "batch_rows", n, "flops",
                     bench_products_flops(&products) * (double) batches);
}

/* --- what it costs to give way --- */

typedef struct waiting {
    ia3_queue *queue;
    double looked; /* when */
    int calls;
} waiting;

/* ia3_give_way_fn: looks for other work as the compute thread does; there is none. */
static bool
look_for_work(void *arg)
{
    waiting *w = arg;
    if (ia3_queue_stopping(w->queue))
        return false;
    ia3_row_batch *batch = ia3_alloc(sizeof *batch);
    int n_doomed;
    w->looked = ia3_now();
    ia3_queue_give_way(w->queue, IA3_ROW_QUICK, IA3_ROW_SHORT, batch);
    free(batch);
    free(ia3_queue_take_doomed(w->queue, &n_doomed));
    w->looked = ia3_now();
    w->calls++;
    return true;
}

static int
compare_doubles(const void *a, const void *b)
{
    double x = *(const double *) a, y = *(const double *) b;
    return (x > y) - (x < y);
}

/* Times [0][n] without and [1][n] with giving way, in turn. */
static bool
measure_give_way(bench *b, ia3_score_row *rows, int n_rows, waiting *w, double *times, int n, ia3_error *err)
{
    for (int i = 0; i < 2 * n; i++) {
        int gives = (i + i / 2) % 2; /* 0 1 1 0 … */
        ia3_give_way way = {gives ? look_for_work : NULL, w};
        ia3_model_set_give_way(b->model, way);
        double started = cpu_seconds();
        if (!ia3_score(b->model, rows, n_rows, err))
            return false;
        times[gives * n + i / 2] = cpu_seconds() - started;
    }
    return true;
}

static json_t *
give_way(bench *b, int n_choices, int n_rows, int n, ia3_error *err)
{
    if (n_rows < 1 || n_rows > POOL || n < 1)
        ia3_fail(err, IA3_E_INVALID, "a batch has 1 to %d rows, and there is at least one", POOL);
    if (err->code || !open_model(b, err))
        return NULL;
    ia3_choices *choices = make_choices(b, n_choices, err);
    if (choices == NULL)
        return NULL;
    ia3_stats stats = {0};
    waiting w = {.queue = ia3_queue_create(STDERR_FILENO, n_rows * b->tokens, &stats)};
    double *scores = ia3_alloc_array((size_t) n_rows * (size_t) n_choices, sizeof *scores),
           *times = ia3_alloc_array(2 * (size_t) n, sizeof *times);
    ia3_score_row *rows = make_rows(b, n_rows, 0, choices, scores);
    bool ok = ia3_score(b->model, rows, n_rows, err) && /* for one-time allocations */
              measure_give_way(b, rows, n_rows, &w, times, n, err);
    ia3_model_set_give_way(b->model, (ia3_give_way){NULL, NULL});
    json_t *j = NULL;
    if (ok) {
        qsort(times, (size_t) n, sizeof *times, compare_doubles);
        qsort(times + n, (size_t) n, sizeof *times, compare_doubles);
        j = json_pack("{s:[f,f],s:[f,f],s:i}", "without", times[0], times[n / 2], "with", times[n],
                      times[n + n / 2], "calls", w.calls / n);
    }
    free(rows);
    free(times);
    free(scores);
    ia3_queue_free(w.queue);
    ia3_choices_free(choices);
    return j;
}

/* --- training --- */

static ia3_train *
create_training(bench *b, const ia3_choices *choices, ia3_error *err)
{
    ia3_train_example examples[EXAMPLES];
    static const int32_t *ids[EXAMPLES]; /* must outlive the job */
    for (int i = 0; i < EXAMPLES; i++) {
        ids[i] = b->ids + (size_t) i * (size_t) b->tokens;
        examples[i] = (ia3_train_example){
            .n_texts = 1, .ids = &ids[i], .n_ids = &b->tokens, .choices = choices, .label = i % choices->n};
    }
    ia3_recipe recipe = {.variant = ia3_variant_standard(ia3_methods[0]),
                         .steps = 1000,
                         .batch_size = BATCH,
                         .learning_rate = 3e-3,
                         .warmup_ratio = 0.06,
                         .lm_weight = 1,
                         .unlikelihood_weight = 1,
                         .length_norm_weight = 1,
                         .dropout = -1};
    return ia3_train_create(b->model, examples, EXAMPLES, &recipe, NULL, err);
}

/* Checks that all values are finite and that training changed them. */
static bool
check_vectors(ia3_train *t, float *values, ia3_error *err)
{
    size_t n = ia3_train_layout(t)->n_values, moved = 0;
    ia3_train_values(t, values);
    for (size_t i = 0; i < n; i++) {
        if (!isfinite(values[i]))
            return ia3_fail(err, IA3_E_INTERNAL, "value %zu of the trained vectors is %g", i,
                            (double) values[i]);
        moved += values[i] != 1.0f;
    }
    if (moved * 2 < n)
        return ia3_fail(err, IA3_E_INTERNAL, "training moved %zu of %zu values", moved, n);
    return true;
}

static json_t *
train(bench *b, int steps, int warm, int n_choices, ia3_error *err)
{
    if (!open_model(b, err))
        return NULL;
    ia3_choices *choices = make_choices(b, n_choices, err);
    ia3_train *t = choices ? create_training(b, choices, err) : NULL;
    bool ok = t != NULL;
    ia3_train_report first = {0}, last = {0};
    float *values = ok ? ia3_alloc_array(ia3_train_layout(t)->n_values, sizeof *values) : NULL;
    for (int i = 0; ok && i < warm; i++) {
        ok = ia3_train_step(&t, 1, err);
        ia3_train_last(t, &first);
    }
    double started = now(), host = cpu_seconds();
    for (int i = 0; ok && i < steps; i++)
        ok = ia3_train_step(&t, 1, err);
    host = cpu_seconds() - host;
    if (ok)
        ia3_train_values(t, values); /* waits for the last step */
    double taken = now() - started;
    json_t *j = NULL;
    if (ok && check_vectors(t, values, err)) {
        bench_products products = {0};
        int64_t enc = (int64_t) steps * BATCH * b->tokens,
                dec = (int64_t) steps * BATCH * n_choices * CHOICE_TOKENS;
        bench_products_forward(&products, &b->config, enc, dec, enc);
        bench_products_backward(&products, &b->config, enc, dec);
        ia3_train_last(t, &last);
        j = json_pack("{s:f,s:f,s:i,s:f,s:f,s:f}", "seconds", taken, "host", host, "steps", steps, "flops",
                      bench_products_flops(&products), "first_loss", first.loss, "last_loss", last.loss);
    }
    free(values);
    if (t)
        ia3_train_free(t);
    if (choices)
        ia3_choices_free(choices);
    return j;
}

/* --- files --- */

static json_t *
write_checkpoint(bench *b, const char *directory, ia3_error *err)
{
    char path[600];
    double started = now();
    snprintf(path, sizeof path, "%s/model.safetensors", directory);
    if (!bench_weights_write(&b->weights, &b->config, path)) {
        ia3_fail(err, IA3_E_INVALID, "cannot write \"%s\": %s", path, strerror(errno));
        return NULL;
    }
    return json_pack("{s:f}", "seconds", now() - started);
}

/* Measures the time until a checkpoint can be used, and separately that for the digest of its weights. */
static json_t *
load_checkpoint(bench *b, const char *directory, ia3_error *err)
{
    uint8_t digest[IA3_DIGEST_LEN];
    double started = now();
    ia3_device *dev = ia3_device_open(b->spec, b->dtype, b->threads, 0, err);
    double opened = now();
    ia3_checkpoint *ck = dev ? ia3_checkpoint_open(directory, err) : NULL;
    ia3_model *m = ck ? ia3_model_load(ck, dev, ia3_methods, NULL, NULL, err) : NULL;
    ia3_adapter *a = NULL;
    json_t *j = NULL;
    if (m) {
        float *ones = ia3_alloc_array(ia3_model_layout(m)->n_values, sizeof *ones);
        a = ia3_adapter_create(m, ia3_model_layout(m), ones, digest, err);
        if (a)
            synchronize(dev, a->values);
        free(ones);
    }
    double loaded = now();
    if (a && ia3_checkpoint_digest(ck, digest, NULL, NULL, err))
        j = json_pack("{s:f,s:f,s:f,s:I}", "open", opened - started, "load", loaded - opened, "digest",
                      now() - loaded, "weights", (json_int_t) ia3_model_bytes(m));
    if (a)
        ia3_adapter_free(m, a);
    ia3_model_free(m);
    ia3_checkpoint_close(ck);
    if (dev)
        dev->ops->close(dev);
    return j;
}

static json_t *
memory(bench *b, ia3_error *err)
{
    if (!open_model(b, err))
        return NULL;
    return json_pack("{s:I,s:I}", "used", (json_int_t) b->dev->ops->memory_used(b->dev), "weights",
                     (json_int_t) ia3_model_bytes(b->model));
}

/* --- main --- */

static bool
command(bench *b, const char *line)
{
    ia3_error err = {0};
    json_t *j = NULL;
    char path[512];
    int n, m, k;
    double seconds;
    if (strncmp(line, "quit", 4) == 0)
        return false;
    if (strncmp(line, "open", 4) == 0)
        j = open_command(b, &err);
    else if (strncmp(line, "memory", 6) == 0)
        j = memory(b, &err);
    else if (sscanf(line, "rate %d", &n) == 1)
        j = rate(b, n, &err);
    else if (sscanf(line, "score %d %d %d %lf", &n, &m, &k, &seconds) == 4)
        j = score(b, n, m, k, seconds, &err);
    else if (sscanf(line, "give_way %d %d %d", &n, &m, &k) == 3)
        j = give_way(b, n, m, k, &err);
    else if (sscanf(line, "train %d %d %d", &n, &m, &k) == 3)
        j = train(b, n, m, k, &err);
    else if (sscanf(line, "write %511s", path) == 1)
        j = write_checkpoint(b, path, &err);
    else if (sscanf(line, "load %511s", path) == 1)
        j = load_checkpoint(b, path, &err);
    else
        ia3_fail(&err, IA3_E_INVALID, "unknown command: %s", line);
    answer(j, &err);
    return true;
}

static bool
read_config(bench *b, ia3_error *err)
{
    size_t len;
    char *text = (char *) ia3_cli_read_file(b->config_path, &len, err);
    bool ok = text && ia3_config_parse(&b->config, text, len, b->config_path, err);
    free(text);
    return ok;
}

static bool
read_arguments(bench *b, int argc, char **argv)
{
    static const struct option options[] = {
        {"device", required_argument, NULL, 'd'}, {"dtype", required_argument, NULL, 't'},
        {"config", required_argument, NULL, 'c'}, {"threads", required_argument, NULL, 'j'},
        {"tokens", required_argument, NULL, 'n'}, {0}};
    for (int o; (o = getopt_long(argc, argv, "", options, NULL)) != -1;) {
        if (o == 'd')
            b->spec = optarg;
        else if (o == 't')
            b->dtype = strcmp(optarg, "float32") == 0 ? IA3_F32 : IA3_BF16;
        else if (o == 'c')
            b->config_path = optarg;
        else if (o == 'j')
            b->threads = atoi(optarg);
        else if (o == 'n')
            b->tokens = atoi(optarg);
        else
            return false;
    }
    return b->config_path != NULL && b->tokens > 1;
}

int
main(int argc, char **argv)
{
    static bench b = {.spec = "cuda", .dtype = IA3_BF16, .tokens = 103};
    ia3_error err = {0};
    if (!read_arguments(&b, argc, argv)) {
        fprintf(stderr, "usage: bench_gpu --config FILE [--device SPEC] [--dtype TYPE] [--threads N] "
                        "[--tokens N]\n");
        return 2;
    }
    if (!read_config(&b, &err)) {
        fprintf(stderr, "bench_gpu: %s\n", err.message);
        return 1;
    }
    bench_weights_create(&b.weights, &b.config);
    make_inputs(&b);
    char *line = NULL;
    size_t cap = 0;
    while (getline(&line, &cap, stdin) > 0 && command(&b, line))
        ;
    free(line);
    for (int i = 0; i < b.n_adapters; i++)
        ia3_adapter_free(b.model, b.adapters[i]);
    free(b.adapters);
    ia3_model_free(b.model);
    if (b.dev)
        b.dev->ops->close(b.dev);
    bench_weights_free(&b.weights);
    free(b.ids);
    return 0;
}
