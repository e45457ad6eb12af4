/*
 * bench_limits.c
 *     Measures passes over random weights operation by operation, and prints each one's share of its limit.
 */
#include "bench_limits.h"

#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench_ops.h"
#include "bench_products.h"
#include "bench_rates.h"
#include "bench_weights.h"
#include "engine/cli/cli_input.h"
#include "engine/model/methods/methods.h"
#include "engine/recipe/score.h"
#include "engine/recipe/train.h"
#include "kernels/cpu/isa.h"

enum { CHOICE_TOKENS = 3, MOST_ROWS = 256 };

static const char *const part_names[BENCH_N_PARTS] = {"products", "attention", "vocabulary", "norms",
                                                      "gates",    "dropout",   "other"};

/* What limits a call; the last two are what the time of a pass is compared with. */
typedef enum limit_kind { PRODUCT, SUMS, ELEMENTARY, MEMORY, WEIGHTS, N_LIMITS } limit_kind;
static const char *const limit_names[N_LIMITS] = {"product", "product", "elementary", "memory", "weights"};

typedef struct work {
    bool train, tsv;
    int rows, tokens, n_choices, threads, passes;
    double dropout;
    ia3_dtype dtype;
    ia3_config config;
    const char *shape;
    bench_weights weights;
    ia3_device *dev;
    ia3_model *model;
    int32_t *ids[MOST_ROWS];
    ia3_choices *choices;
    ia3_adapter *adapter;
    bench_rates rates;
    bench_products products; /* what a pass cannot do without */
} work;

/* Times and limits of all calls of an operation in a pass. */
typedef struct line {
    int op; /* of bench_ops; -1: quantisation */
    const char *name;
    bench_part part;
    long calls, rows;
    double seconds, at_limit;
    double by_kind[N_LIMITS]; /* how much of at_limit each kind makes up */
    bench_work work;
} line;

static void
die(const char *what, const ia3_error *err)
{
    fprintf(stderr, "bench_profile --limits: %s%s%s\n", what, err ? ": " : "", err ? err->message : "");
    exit(1);
}

/* --- the limits of a call --- */

static double
ratio(double work, double rate)
{
    return work > 0 ? work / rate : 0;
}

/* The rates of products with weights and of those without; the fastest instruction for the device's types. */
static double
product_rate(const work *w, bool weights)
{
    const bench_rates *r = &w->rates;
    if (weights && w->dev->weights == IA3_INT8)
        return r->int8;
    return w->dev->dtype == IA3_BF16 && r->bf16 > 0 ? r->bf16 : r->f32;
}

/* Seconds that a call takes at least, all threads working; *kind says what limits it. */
static double
limit_of(const work *w, const bench_work *c, limit_kind *kind)
{
    const bench_rates *r = &w->rates;
    double products = ratio(c->products, product_rate(w, true)),
           sums = ratio(c->sums, product_rate(w, false));
    double elementary = ratio(c->exps, r->exp) + ratio(c->gelus, r->gelu) +
                        ratio(c->gelu_grads, r->gelu_grad) + ratio(c->masks, r->mask);
    double weights = ratio(c->weights, r->read);
    double memory = weights + ratio(c->bytes, bench_rates_copy(r, c->bytes / r->threads));
    double arithmetic = products + sums + elementary;
    if (arithmetic >= memory)
        *kind = products >= sums && products >= elementary ? PRODUCT : sums >= elementary ? SUMS : ELEMENTARY;
    else
        *kind = weights > memory / 2 ? WEIGHTS : MEMORY;
    return (arithmetic > memory ? arithmetic : memory) / r->threads;
}

static double
seconds_of(const work *w, const bench_seconds *t)
{
    return w->threads == 1 ? t->busy : t->wall;
}

/* Adds a call to a line. */
static void
add_call(const work *w, line *l, double seconds, int rows, const bench_work *c)
{
    limit_kind kind;
    double limit = limit_of(w, c, &kind);
    l->calls++;
    l->rows += rows;
    l->seconds += seconds;
    l->at_limit += limit;
    l->by_kind[kind] += limit;
    l->work.products += c->products + c->sums;
    l->work.bytes += c->bytes + c->weights;
}

/* --- what is computed --- */

static int32_t
random_token(const work *w, uint64_t seed)
{
    return 3 + (int32_t) (ia3_mix64(seed) % (uint64_t) (w->config.vocab_size - 3));
}

static void
make_inputs(work *w)
{
    int32_t *ids = ia3_alloc_array((size_t) w->n_choices * CHOICE_TOKENS, sizeof *ids);
    const int32_t **rows = ia3_alloc_array((size_t) w->n_choices, sizeof *rows);
    int *len = ia3_alloc_array((size_t) w->n_choices, sizeof *len), bad_a, bad_b;
    for (int i = 0; i < w->rows; i++) {
        w->ids[i] = ia3_alloc_array((size_t) w->tokens, sizeof(int32_t));
        for (int t = 0; t < w->tokens; t++)
            w->ids[i][t] =
                t + 1 < w->tokens ? random_token(w, (uint64_t) i << 32 | (uint64_t) t) : w->config.eos_id;
    }
    for (int i = 0; i < w->n_choices; i++) {
        int32_t *c = ids + (size_t) i * CHOICE_TOKENS;
        c[0] = 3 + (i * 37 + 11) % (w->config.vocab_size - 3);
        for (int t = 1; t < CHOICE_TOKENS; t++)
            c[t] = t + 1 < CHOICE_TOKENS ? random_token(w, (uint64_t) (1000 + i * 8 + t) << 40)
                                         : w->config.eos_id;
        rows[i] = c;
        len[i] = CHOICE_TOKENS;
    }
    ia3_error err = {0};
    w->choices = ia3_choices_create(rows, len, w->n_choices, w->config.start_id, &bad_a, &bad_b, &err);
    if (!w->choices)
        die("choices", &err);
    free(ids);
    free(rows);
    free(len);
}

static void
load(work *w)
{
    static const uint8_t digest[IA3_DIGEST_LEN];
    ia3_error err = {0};
    bench_weights_create(&w->weights, &w->config);
    w->dev = ia3_device_open("cpu", w->dtype, w->threads, 0, &err);
    if (!w->dev)
        die("cpu", &err);
    ia3_checkpoint *ck =
        ia3_checkpoint_in_memory(&w->config, IA3_BF16, true, bench_weights_source, &w->weights);
    w->model = ia3_model_load(ck, w->dev, ia3_methods, NULL, NULL, &err);
    ia3_checkpoint_close(ck);
    if (!w->model)
        die("weights", &err);
    size_t n = ia3_model_layout(w->model)->n_values;
    float *values = ia3_alloc_array(n, sizeof *values);
    for (size_t i = 0; i < n; i++)
        values[i] = 1.0f + 0.001f * (float) (i % 64);
    w->adapter = ia3_adapter_create(w->model, ia3_model_layout(w->model), values, digest, &err);
    free(values);
    if (!w->adapter)
        die("adapter", &err);
}

/* Seconds of a pass, and of what is not an operation of the device: the shortest of all passes. */
typedef struct pass_times {
    double other;
} pass_times;

static void
end_pass(const work *w, bench_seconds start, double before, pass_times *t)
{
    const bench_ops *ops = bench_ops_counted();
    bench_seconds end = bench_ops_now();
    bench_seconds took = {end.wall - start.wall, end.busy - start.busy};
    double in_ops = -before;
    for (int i = 0; i < ops->n; i++)
        in_ops += seconds_of(w, &ops->v[i].time);
    double other = seconds_of(w, &took) - in_ops;
    t->other = t->other == 0 || other < t->other ? other : t->other;
}

static double
seconds_so_far(const work *w)
{
    const bench_ops *ops = bench_ops_counted();
    double sum = 0;
    for (int i = 0; i < ops->n; i++)
        sum += seconds_of(w, &ops->v[i].time);
    return sum;
}

static void
score(work *w, pass_times *t)
{
    ia3_error err = {0};
    ia3_score_row rows[MOST_ROWS];
    int64_t kv_rows = 0;
    for (int i = 0; i < w->rows; i++) {
        rows[i] = (ia3_score_row){.adapter = w->adapter,
                                  .ids = w->ids[i],
                                  .n_ids = w->tokens,
                                  .choices = w->choices,
                                  .scores = ia3_alloc_array((size_t) w->n_choices, sizeof(double))};
        kv_rows += ia3_score_by_states(w->model, &rows[i]) ? w->choices->n_rows : w->tokens;
    }
    bench_products_forward(&w->products, &w->config, (int64_t) w->rows * w->tokens,
                           (int64_t) w->rows * w->choices->n_rows, kv_rows);
    for (int pass = -1; pass < w->passes; pass++) { /* the first one touches memory for the first time */
        if (pass == 0)
            bench_ops_wrap(w->dev);
        double before = seconds_so_far(w);
        bench_ops_repeat();
        bench_seconds start = bench_ops_now();
        if (!ia3_score(w->model, rows, w->rows, &err))
            die("score", &err);
        if (pass >= 0)
            end_pass(w, start, before, t);
    }
    for (int i = 0; i < w->rows; i++)
        free(rows[i].scores);
}

static void
train(work *w, pass_times *t)
{
    ia3_error err = {0};
    ia3_train_example examples[MOST_ROWS];
    int batch[MOST_ROWS], texts[MOST_ROWS] = {0};
    for (int i = 0; i < w->rows; i++) {
        batch[i] = i;
        examples[i] = (ia3_train_example){.n_texts = 1,
                                          .ids = (const int32_t *const *) &w->ids[i],
                                          .n_ids = &w->tokens,
                                          .choices = w->choices,
                                          .label = i % w->n_choices};
    }
    ia3_recipe recipe = {.variant = ia3_variant_standard(ia3_methods[0]),
                         .steps = 1000,
                         .batch_size = w->rows,
                         .learning_rate = 3e-3,
                         .warmup_ratio = 0.06,
                         .lm_weight = 1,
                         .unlikelihood_weight = 1,
                         .length_norm_weight = 1,
                         .dropout = w->dropout};
    ia3_train *job = ia3_train_create(w->model, examples, w->rows, &recipe, NULL, &err);
    if (!job)
        die("train", &err);
    /* with dropout every choice is a chain of its own, because each has its own masks */
    int64_t enc = (int64_t) w->rows * w->tokens,
            dec = (int64_t) w->rows * (w->dropout > 0 ? w->n_choices * CHOICE_TOKENS : w->choices->n_rows);
    bench_products_forward(&w->products, &w->config, enc, dec, enc);
    bench_products_backward(&w->products, &w->config, enc, dec);
    for (int pass = -1; pass < w->passes; pass++) {
        if (pass == 0)
            bench_ops_wrap(w->dev);
        double before = seconds_so_far(w);
        bench_ops_repeat();
        bench_seconds start = bench_ops_now();
        if (!ia3_train_step_on(job, batch, texts, w->rows, &err))
            die("train", &err);
        if (pass >= 0)
            end_pass(w, start, before, t);
    }
    ia3_train_free(job);
}

/* --- quantisation, which is not an operation of its own --- */

static double
shortest_product(const work *w, ia3_matrix *m, const void *a, void *y, int rows)
{
    double best = 1e30;
    for (int i = 0; i < 20; i++) {
        bench_seconds start = bench_ops_now();
        w->dev->ops->matmul(w->dev, y, a, rows, m, IA3_OUT_F32);
        bench_seconds end = bench_ops_now(), took = {end.wall - start.wall, end.busy - start.busy};
        double t = seconds_of(w, &took);
        best = t < best ? t : best;
    }
    return best;
}

/*
 * Seconds for the quantisation of activations [rows, k], which is a part of every product with weights in eight bits:
 * twice the time of a product with few columns, less that of one with twice as many.
 */
static double
quantisation_time(const work *w, int rows, int k)
{
    enum { N = 64 };
    ia3_error err = {0};
    ia3_device *dev = w->dev;
    uint16_t *block = bench_random_block((size_t) k * 2 * N, 1, 5);
    float *a = dev->ops->alloc(dev, (size_t) rows * (size_t) k * sizeof *a);
    float *y = dev->ops->alloc(dev, (size_t) rows * 2 * N * sizeof *y);
    double took[2];
    for (size_t i = 0; i < (size_t) rows * (size_t) k; i++) {
        if (dev->dtype == IA3_BF16)
            ((uint16_t *) (void *) a)[i] = block[i % (2 * N)];
        else
            a[i] = (float) (i % 37) - 18.0f;
    }
    for (int i = 0; i < 2; i++) {
        ia3_host_tensor host = {block, IA3_BF16, (i + 1) * N, k};
        ia3_matrix *m = dev->ops->matrix_create(dev, &host, 1, &err);
        if (!m)
            die("weights", &err);
        took[i] = shortest_product(w, m, a, y, rows);
        dev->ops->matrix_free(dev, m);
    }
    dev->ops->free(dev, a);
    dev->ops->free(dev, y);
    free(block);
    return took[1] < 2 * took[0] ? 2 * took[0] - took[1] : 0;
}

/* Adds a line for the quantisation in all products, whose lines contain it. */
static int
add_quantisation(const work *w, line *lines, int n)
{
    const bench_ops *ops = bench_ops_counted();
    line *l = &lines[n];
    *l = (line){.op = -1, .name = "(of these, quantisation)", .part = BENCH_N_PARTS};
    for (int i = 0; i < n; i++) {
        int k;
        if (lines[i].part != BENCH_PRODUCTS || sscanf(ops->v[lines[i].op].name, "matmul %d->", &k) != 1)
            continue;
        for (int c = 0; c < ops->n_calls; c++) {
            const bench_call *call = &ops->calls[c];
            if (call->op != lines[i].op)
                continue;
            double seconds = -1;
            for (int b = 0; b < c && seconds < 0; b++) /* an equal call before */
                if (ops->calls[b].op == call->op && ops->calls[b].rows == call->rows)
                    seconds = 0;
            if (seconds == 0)
                continue;
            int equal = 0;
            for (int b = c; b < ops->n_calls; b++)
                equal += ops->calls[b].op == call->op && ops->calls[b].rows == call->rows;
            seconds = quantisation_time(w, call->rows, k);
            double values = (double) call->rows * k; /* each takes part in up to eight steps of a rotation */
            bench_work each = {.sums = 16 * values,
                               .bytes = values * ((double) ia3_dtype_size(w->dev->dtype) + 1)};
            for (int b = 0; b < equal; b++)
                add_call(w, l, seconds, call->rows, &each);
        }
    }
    return n + 1;
}

/* --- the table --- */

static int
collect(const work *w, line *lines)
{
    const bench_ops *ops = bench_ops_counted();
    int n = 0;
    for (int i = 0; i < ops->n; i++) {
        line *l = &lines[n++];
        *l = (line){.op = i, .name = ops->v[i].name, .part = ops->v[i].part};
        for (int c = 0; c < ops->n_calls; c++)
            if (ops->calls[c].op == i)
                add_call(w, l, seconds_of(w, &ops->calls[c].time), ops->calls[c].rows, &ops->calls[c].work);
    }
    if (w->dev->weights == IA3_INT8)
        n = add_quantisation(w, lines, n);
    return n;
}

static const char *
limiting(const line *l)
{
    int most = 0;
    for (int k = 1; k < N_LIMITS; k++)
        if (l->by_kind[k] > l->by_kind[most])
            most = k;
    return limit_names[most];
}

static void
print_rates(const work *w)
{
    const bench_rates *r = &w->rates;
    const struct {
        const char *name, *unit;
        double value;
    } rates[] = {{"float32 multiply-add", "GFLOP/s", r->f32},
                 {"bfloat16 multiply-add", "GFLOP/s", r->bf16},
                 {r->loops->int8_name ? r->loops->int8_name() : "", "GOP/s", r->int8},
                 {"exp", "G/s", r->exp},
                 {"gelu_new", "G/s", r->gelu},
                 {"gelu_new and derivative", "G/s", r->gelu_grad},
                 {"dropout multiplier", "G/s", r->mask},
                 {"copy, 32 kB", "GB/s", r->copy[0]},
                 {"copy, 512 kB", "GB/s", r->copy[2]},
                 {"copy, 8 MB", "GB/s", r->copy[4]},
                 {"copy, 128 MB", "GB/s", r->copy[6]},
                 {"read, 128 MB", "GB/s", r->read}};
    if (!w->tsv)
        printf("Limits of each of %d thread%s:\n", w->threads, w->threads == 1 ? "" : "s");
    for (size_t i = 0; i < sizeof rates / sizeof rates[0]; i++) {
        if (rates[i].value == 0)
            continue;
        if (w->tsv)
            printf("rate\t%s\t%.6g\n", rates[i].name, rates[i].value);
        else
            printf("  %-24s %8.2f %s\n", rates[i].name, rates[i].value * 1e-9, rates[i].unit);
    }
}

static void
print_head(const work *w)
{
    if (w->tsv)
        return;
    printf("%s, %s; %s of %s's shape, %d rows of %d tokens, %d choices\n", w->dev->description,
           ia3_device_dtype_name(w->dev), w->train ? "training" : "scoring", w->shape, w->rows, w->tokens,
           w->n_choices);
    print_rates(w);
    printf(
        "What limits a row: product = the rate of multiply-adds of these types; elementary = that of exp, "
        "gelu and\n"
        "dropout multipliers; memory = that of a copy of activations; weights = that of reading weights.\n\n"
        "%-26s %6s %6s %9s %6s  %-10s %8s  %s\n",
        "", "calls", "rows", "ms", "time", "limit", "rate", "share of limit");
}

static void
print_line(const work *w, const line *l, double whole)
{
    bool flops = l->work.products > 0 && l->part != BENCH_N_PARTS;
    double share = l->seconds > 0 ? l->at_limit / l->seconds : 0;
    if (w->tsv) {
        printf("op\t%s\t%s\t%ld\t%.6g\t%.4f\t%s\t%.6g\t%.4f\n", l->name,
               l->part == BENCH_N_PARTS ? "quantisation" : part_names[l->part], l->calls, l->seconds,
               l->seconds / whole, limiting(l), l->at_limit, share);
        return;
    }
    printf("%-26s %6ld ", l->name, l->calls);
    if (l->rows)
        printf("%6ld", l->rows / l->calls);
    else
        printf("%6s", "");
    printf(" %9.3f %5.1f%%  %-10s %8.1f  %.2f\n", l->seconds * 1e3, 100 * l->seconds / whole, limiting(l),
           1e-9 * (flops ? l->work.products : l->work.bytes) / l->seconds, share);
}

static int
by_part_and_time(const void *a, const void *b)
{
    const line *x = a, *y = b;
    if (x->part != y->part)
        return x->part < y->part ? -1 : 1;
    return x->seconds > y->seconds ? -1 : x->seconds < y->seconds;
}

static void
print_summary(const work *w, const line *lines, int n, double whole)
{
    double at_limit = 0;
    for (int p = 0; p <= BENCH_N_PARTS; p++) {
        line sum = {.name = p < BENCH_N_PARTS ? part_names[p] : "quantisation"};
        for (int i = 0; i < n; i++)
            if (lines[i].part == (bench_part) p) {
                sum.seconds += lines[i].seconds;
                sum.at_limit += lines[i].at_limit;
            }
        if (sum.seconds == 0)
            continue;
        if (p < BENCH_N_PARTS)
            at_limit += sum.at_limit;
        if (w->tsv)
            printf("part\t%s\t%.6g\t%.4f\t%.4f\n", sum.name, sum.seconds, sum.seconds / whole,
                   sum.at_limit / sum.seconds);
        else
            printf("%-26s %13s %9.3f %5.1f%% %20s  %.2f\n", sum.name, "", sum.seconds * 1e3,
                   100 * sum.seconds / whole, "", sum.at_limit / sum.seconds);
    }
    double products = bench_products_flops(&w->products) / product_rate(w, true) / w->threads;
    if (w->tsv)
        printf("pass\t%.6g\t%.4f\t%.4f\n", whole, products / whole, at_limit / whole);
    else
        printf("\nwhole pass: %.3f ms; products with weights at their limit: %.2f of it; everything at its "
               "limit: %.2f\n",
               whole * 1e3, products / whole, at_limit / whole);
}

static void
print_table(const work *w, const pass_times *t)
{
    line lines[65];
    int n = collect(w, lines);
    qsort(lines, (size_t) n, sizeof lines[0], by_part_and_time);
    double whole = t->other;
    for (int i = 0; i < n; i++)
        whole += lines[i].part == BENCH_N_PARTS ? 0 : lines[i].seconds;
    print_head(w);
    if (w->tsv)
        print_rates(w);
    for (int i = 0; i < n; i++)
        print_line(w, &lines[i], whole);
    if (w->tsv)
        printf("op\tmodel code\tother\t0\t%.6g\t%.4f\t\t0\t0\n", t->other, t->other / whole);
    else
        printf("%-26s %13s %9.3f %5.1f%%\n\n", "model code", "", t->other * 1e3, 100 * t->other / whole);
    print_summary(w, lines, n, whole);
}

/* --- options --- */

static bool
choose_shape(work *w, const char *name)
{
    static const struct {
        const char *name;
        int vocabulary, d_model, heads, d_kv, d_ff, n_enc, n_dec;
        const char *activation;
    } shapes[] = {{"mini", 16384, 384, 12, 32, 1536, 6, 2, "gelu"},
                  {"base", 32128, 768, 12, 64, 2048, 12, 12, "gated-gelu"},
                  {"large", 32128, 1024, 16, 64, 2816, 24, 24, "gated-gelu"}};
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++) {
        if (strcmp(name, shapes[i].name) != 0)
            continue;
        char text[1000];
        int n = snprintf(
            text, sizeof text,
            "{\"model_type\": \"t5\", \"vocab_size\": %d, \"d_model\": %d, \"d_kv\": %d, \"d_ff\": %d, "
            "\"num_heads\": %d, \"num_layers\": %d, \"num_decoder_layers\": %d, "
            "\"feed_forward_proj\": \"%s\", \"tie_word_embeddings\": false, "
            "\"decoder_start_token_id\": 0, \"pad_token_id\": 0, \"eos_token_id\": 1}",
            shapes[i].vocabulary, shapes[i].d_model, shapes[i].d_kv, shapes[i].d_ff, shapes[i].heads,
            shapes[i].n_enc, shapes[i].n_dec, shapes[i].activation);
        ia3_error err = {0};
        if (!ia3_config_parse(&w->config, text, (size_t) n, name, &err))
            die(name, &err);
        w->shape = name;
        return true;
    }
    return false;
}

static void
read_config(work *w, const char *path)
{
    ia3_error err = {0};
    size_t len;
    char *text = (char *) ia3_cli_read_file(path, &len, &err);
    if (!text || !ia3_config_parse(&w->config, text, len, path, &err))
        die(path, &err);
    free(text);
    w->shape = path;
}

static bool
read_dtype(work *w, const char *name)
{
    w->dtype = strcmp(name, "float32") == 0    ? IA3_F32
               : strcmp(name, "bfloat16") == 0 ? IA3_BF16
               : strcmp(name, "int8") == 0     ? IA3_INT8
                                               : IA3_AUTO;
    return w->dtype != IA3_AUTO;
}

static bool
read_options(work *w, int argc, char **argv)
{
    static const struct option options[] = {{"shape", required_argument, NULL, 's'},
                                            {"config", required_argument, NULL, 'c'},
                                            {"rows", required_argument, NULL, 'r'},
                                            {"tokens", required_argument, NULL, 'n'},
                                            {"choices", required_argument, NULL, 'k'},
                                            {"dtype", required_argument, NULL, 't'},
                                            {"threads", required_argument, NULL, 'j'},
                                            {"passes", required_argument, NULL, 'p'},
                                            {"dropout", required_argument, NULL, 'd'},
                                            {"tsv", no_argument, NULL, 'T'},
                                            {0}};
    for (int o; (o = getopt_long(argc, argv, "", options, NULL)) != -1;) {
        bool ok = true;
        if (o == 's')
            ok = choose_shape(w, optarg);
        else if (o == 'c')
            read_config(w, optarg);
        else if (o == 't')
            ok = read_dtype(w, optarg);
        else if (o == 'd')
            w->dropout = atof(optarg);
        else if (o == 'T')
            w->tsv = true;
        else {
            int *to = o == 'r'   ? &w->rows
                      : o == 'n' ? &w->tokens
                      : o == 'k' ? &w->n_choices
                      : o == 'j' ? &w->threads
                      : o == 'p' ? &w->passes
                                 : NULL;
            ok = to && (*to = atoi(optarg)) > 0;
        }
        if (!ok)
            return false;
    }
    if (optind < argc)
        w->train = strcmp(argv[optind], "train") == 0;
    if (w->rows == 0)
        w->rows = w->train ? 8 : 16;
    return w->rows <= MOST_ROWS && w->tokens > 1;
}

int
bench_limits_main(int argc, char **argv)
{
    static work w = {.tokens = 105, .n_choices = 2, .threads = 1, .passes = 10, .dtype = IA3_F32};
    ia3_error err = {0};
    choose_shape(&w, "base");
    if (!read_options(&w, argc, argv)) {
        fprintf(
            stderr,
            "usage: bench_profile --limits [score|train] [--shape mini|base|large] [--config FILE] [--rows "
            "N] "
            "[--tokens N] [--choices N] [--dtype TYPE] [--threads N] [--passes N] [--dropout P] [--tsv]\n");
        return 2;
    }
    const char *isa = getenv("IA3_CPU_ISA");
    const ia3_cpu_variant *variant = ia3_cpu_choose(isa && *isa ? isa : NULL, &err);
    if (!variant)
        die("IA3_CPU_ISA", &err);
    load(&w);
    make_inputs(&w);
    bench_rates_measure(&w.rates, variant->name, w.threads);
    pass_times t = {0};
    if (w.train)
        train(&w, &t);
    else
        score(&w, &t);
    bench_rates again;
    bench_rates_measure(&again, variant->name, w.threads);
    bench_rates_keep_best(&w.rates, &again);
    print_table(&w, &t);
    return 0;
}
