/*
 * test_cost.c
 *     The counts of common/cost.h: FLOPs are compared with the multiplications of the operations that passes really call,
 *     and the memory of a training step with what it allocates.
 *
 * A table of operations that counts stands before the device's own.
 */
#include "golden_fixture.h"

#include "common/cost.h"
#include "engine/base/alloc.h"
#include "engine/model/work.h"
#include "engine/recipe/generate.h"
#include "engine/recipe/score.h"
#include "engine/recipe/train.h"

/* --- counting --- */

static const ia3_device_ops *own; /* the device's operations */
static double macs;               /* multiply-adds so far */
static size_t used, peak;         /* bytes of the arena that the model's code has allocated */

enum { MAX_MARKS = 1 << 16 };
static struct mark {
    size_t mark, used;
} marks[MAX_MARKS];
static int n_marks;

static void *
arena_alloc(ia3_device *dev, size_t bytes)
{
    used += bytes;
    peak = used > peak ? used : peak;
    return own->arena_alloc(dev, bytes);
}

static size_t
arena_mark(ia3_device *dev)
{
    assert_true(n_marks < MAX_MARKS);
    marks[n_marks] = (struct mark){own->arena_mark(dev), used};
    return marks[n_marks++].mark;
}

static void
arena_release(ia3_device *dev, size_t mark)
{
    while (n_marks > 0 && marks[n_marks - 1].mark > mark)
        n_marks--;
    for (int i = n_marks - 1; i >= 0 && marks[i].mark == mark; i--)
        used = marks[i].used;
    own->arena_release(dev, mark);
}

static double
product(int rows, const ia3_matrix *w)
{
    return (double) rows * w->in * w->out;
}

static void
matmul(ia3_device *dev, void *y, const void *a, int rows, ia3_matrix *w, ia3_out out)
{
    macs += product(rows, w);
    own->matmul(dev, y, a, rows, w, out);
}

static void
matmul_bwd(ia3_device *dev, void *da, const void *dy, int rows, ia3_matrix *w, ia3_out out)
{
    macs += product(rows, w);
    own->matmul_bwd(dev, da, dy, rows, w, out);
}

static void
matmul_grad(ia3_device *dev, float *dw, const void *dy, const void *a, int rows, int out, int in)
{
    macs += (double) rows * out * in;
    own->matmul_grad(dev, dw, dy, a, rows, out, in);
}

static bool
norm_matmul(ia3_device *dev, void *y, const float *x, const float *norm, float eps, int rows, ia3_matrix *w,
            const ia3_gated *gated)
{
    bool done = own->norm_matmul(dev, y, x, norm, eps, rows, w, gated);
    macs += done ? product(rows, w) : 0;
    return done;
}

static int32_t *
host(ia3_device *dev, const int32_t *ints, int n)
{
    int32_t *copy = malloc(((size_t) n + 1) * sizeof *copy);
    own->download(dev, copy, ints, (size_t) n * sizeof *copy);
    return copy;
}

/* The pairs of a query and a key; *rows becomes the number of queries. */
static double
pairs_of(ia3_device *dev, const ia3_attention *a, double *rows)
{
    int32_t *q = host(dev, a->q_offsets, a->n_seq + 1), *k = host(dev, a->k_offsets, a->n_seq + 1);
    int32_t *depth = a->parent ? host(dev, a->depth, q[a->n_seq]) : NULL;
    double pairs = 0;
    for (int s = 0; s < a->n_seq; s++)
        for (int i = q[s]; i < q[s + 1]; i++)
            pairs += depth ? depth[i] + 1 : k[s + 1] - k[s];
    *rows = q[a->n_seq] - q[0];
    free(q);
    free(k);
    free(depth);
    return pairs;
}

static void
attention(ia3_device *dev, const ia3_attention *a)
{
    double rows;
    macs += 2 * pairs_of(dev, a, &rows) * a->n_heads * a->d_kv;
    own->attention(dev, a);
}

static void
attention_bwd(ia3_device *dev, const ia3_attention *a, const ia3_attention_grad *g)
{
    double rows;
    macs += (g->dq ? 5 : 4) * pairs_of(dev, a, &rows) * a->n_heads * a->d_kv;
    own->attention_bwd(dev, a, g);
}

static void
state_attention(ia3_device *dev, const ia3_attention *a, const void *states, ia3_matrix *w)
{
    double rows, pairs = pairs_of(dev, a, &rows);
    macs += rows * w->in * w->out + 2 * pairs * a->n_heads * w->in;
    own->state_attention(dev, a, states, w);
}

static void
vocab_logprobs(ia3_device *dev, float *lp, float *lse, const void *h, int rows, ia3_matrix *head, float scale,
               const int32_t *pair_offsets, const int32_t *tokens)
{
    macs += product(rows, head);
    own->vocab_logprobs(dev, lp, lse, h, rows, head, scale, pair_offsets, tokens);
}

static void
vocab_logprobs_bwd(ia3_device *dev, float *dh, float *dhead, const float *dlp, const float *lse,
                   const void *h, int rows, ia3_matrix *head, float scale, const int32_t *pair_offsets,
                   const int32_t *tokens)
{
    macs += (dhead ? 3 : 2) * product(rows, head);
    own->vocab_logprobs_bwd(dev, dh, dhead, dlp, lse, h, rows, head, scale, pair_offsets, tokens);
}

static void
low_rank(ia3_device *dev, void *y, const void *x, int rows, const ia3_low_rank *l, ia3_out out)
{
    macs += (double) rows * l->rank * (l->in + l->out);
    own->low_rank(dev, y, x, rows, l, out);
}

/* x·Aᵀ again, dy·B, and the gradients of x, A and B */
static void
low_rank_bwd(ia3_device *dev, void *dx, float *da, float *db, const void *dy, const void *x, int rows,
             const ia3_low_rank *l, ia3_out out)
{
    macs += (double) rows * l->rank * (3.0 * l->in + 2.0 * l->out);
    own->low_rank_bwd(dev, dx, da, db, dy, x, rows, l, out);
}

static void
bottleneck(ia3_device *dev, float *y, int rows, const ia3_bottleneck *b)
{
    macs += 2.0 * rows * b->width * b->cols;
    own->bottleneck(dev, y, rows, b);
}

/* y·Dᵀ again, dy·U, and the gradients of y, D and U */
static void
bottleneck_bwd(ia3_device *dev, void *dy, const ia3_bottleneck_grad *g, const float *y, int rows,
               const ia3_bottleneck *b)
{
    macs += 5.0 * rows * b->width * b->cols;
    own->bottleneck_bwd(dev, dy, g, y, rows, b);
}

/* A layer multiplies each of its factors' numbers by IA3_PHM numbers of a row, and the rules by one. */
static double
phm_products(const ia3_phm *m)
{
    return IA3_PHM * (IA3_PHM * IA3_PHM + (double) m->in + m->out);
}

static void
phm(ia3_device *dev, float *y, int rows, const ia3_phm_bottleneck *b)
{
    macs += rows * (phm_products(&b->down) + phm_products(&b->up));
    own->phm(dev, y, rows, b);
}

/* All again, except for the result, and the gradients of all inputs and all factors */
static void
phm_bwd(ia3_device *dev, void *dy, const ia3_phm_bottleneck_grad *g, const float *y, int rows,
        const ia3_phm_bottleneck *b)
{
    macs += rows * (3 * (phm_products(&b->down) + phm_products(&b->up)) - (double) IA3_PHM * b->up.out);
    own->phm_bwd(dev, dy, g, y, rows, b);
}

static void
dense(ia3_device *dev, float *y, const float *x, int rows, const ia3_dense *l)
{
    macs += (double) rows * l->in * l->out;
    own->dense(dev, y, x, rows, l);
}

/* the gradients of x and W */
static void
dense_bwd(ia3_device *dev, float *dx, const ia3_dense_grad *g, float *dy, const float *y, const float *x,
          int rows, const ia3_dense *l)
{
    macs += 2.0 * rows * l->in * l->out;
    own->dense_bwd(dev, dx, g, dy, y, x, rows, l);
}

static void
start_counting(ia3_device *dev)
{
    static ia3_device_ops ops;
    own = dev->ops;
    ops = *own;
    ops.arena_alloc = arena_alloc;
    ops.arena_mark = arena_mark;
    ops.arena_release = arena_release;
    ops.matmul = matmul;
    ops.matmul_bwd = matmul_bwd;
    ops.matmul_grad = matmul_grad;
    ops.norm_matmul = own->norm_matmul ? norm_matmul : NULL;
    ops.attention = attention;
    ops.attention_bwd = attention_bwd;
    ops.state_attention = own->state_attention ? state_attention : NULL;
    ops.vocab_logprobs = vocab_logprobs;
    ops.vocab_logprobs_bwd = vocab_logprobs_bwd;
    ops.low_rank = own->low_rank ? low_rank : NULL;
    ops.low_rank_bwd = own->low_rank_bwd ? low_rank_bwd : NULL;
    ops.bottleneck = own->bottleneck ? bottleneck : NULL;
    ops.bottleneck_bwd = own->bottleneck_bwd ? bottleneck_bwd : NULL;
    ops.phm = own->phm ? phm : NULL;
    ops.phm_bwd = own->phm_bwd ? phm_bwd : NULL;
    ops.dense = own->dense ? dense : NULL;
    ops.dense_bwd = own->dense_bwd ? dense_bwd : NULL;
    dev->ops = &ops;
    macs = 0;
    used = peak = 0;
    n_marks = 0;
}

static void
stop_counting(ia3_device *dev)
{
    dev->ops = own;
}

/* --- cases --- */

/* `flops` must be what has been counted since the last call. */
static void
expect_flops(const golden *g, const char *what, double flops)
{
    if (flops != 2 * macs || macs == 0)
        fail_msg("%s %s: %s has %.0f FLOPs, counted were %.0f", g->name, golden_dtype(g->dtype), what, flops,
                 2 * macs);
    macs = 0;
}

/* n choices of t tokens that share nothing but the start token. The smallest vocabulary has 128 tokens. */
static ia3_choices *
choices_of(const golden *g, int n, int t)
{
    int32_t *ids[64];
    int len[64], a, b;
    ia3_error err = {0};
    for (int i = 0; i < n; i++) {
        ids[i] = malloc((size_t) t * sizeof **ids);
        len[i] = t;
        for (int k = 0; k < t - 1; k++)
            ids[i][k] = 3 + (i + 61 * k) % 125;
        ids[i][t - 1] = 1;
    }
    ia3_choices *c =
        ia3_choices_create((const int32_t *const *) ids, len, n, g->config->start_id, &a, &b, &err);
    golden_ok(c, &err);
    for (int i = 0; i < n; i++)
        free(ids[i]);
    return c;
}

static int32_t *
input_of(int n, int seed)
{
    int32_t *ids = malloc((size_t) n * sizeof *ids);
    for (int i = 0; i < n; i++)
        ids[i] = i == n - 1 ? 1 : 3 + (7 * i + seed) % 125;
    return ids;
}

/* Rows of the bare backbone and of every method, equal inputs, few and many choices; and each alone. */
static void
scores(void **state)
{
    golden *g = golden_open(*state);
    static const uint8_t digest[IA3_DIGEST_LEN] = {3};
    enum { MAX = 64 };
    ia3_adapter *adapters[MAX] = {NULL};
    ia3_score_row rows[2 * MAX];
    double results[2 * MAX][8], sum = 0;
    ia3_choices *two = choices_of(g, 2, 2), *seven = choices_of(g, 7, 5);
    int32_t *ids = input_of(70, 1);
    ia3_error err = {0};
    int n = 0, n_methods = 0;
    for (; ia3_methods[n_methods]; n_methods++) {
        const ia3_layout *l = ia3_layouts_standard(ia3_model_layouts(g->m), n_methods);
        float *values = calloc(l->n_values, sizeof *values);
        if (ia3_model_has_method(g->m, ia3_methods[n_methods], &err)) {
            adapters[n_methods] = ia3_adapter_create(g->m, l, values, digest, &err);
            golden_ok(adapters[n_methods], &err);
        }
        free(values);
    }
    for (int i = -1; i < n_methods; i++) {
        if (i >= 0 && adapters[i] == NULL)
            continue;
        const ia3_adapter *adapter = i < 0 ? NULL : adapters[i];
        rows[n] = (ia3_score_row){adapter, ids, i < 0 ? 70 : 40 + i, i % 2 ? two : seven, results[n]};
        n++;
        rows[n] = (ia3_score_row){adapter, ids, i < 0 ? 70 : 41, seven, results[n]};
        n++;
    }
    start_counting(g->dev);
    golden_ok(ia3_score(g->m, rows, n, &err), &err);
    for (int i = 0; i < n; i++)
        sum += rows[i].flops;
    expect_flops(g, "a mixed batch", sum);
    for (int i = 0; i < n; i++) {
        golden_ok(ia3_score(g->m, &rows[i], 1, &err), &err);
        expect_flops(g, rows[i].adapter ? rows[i].adapter->layout->variant.method->name : "the backbone",
                     rows[i].flops);
    }
    stop_counting(g->dev);
    for (int i = 0; i < n_methods; i++)
        if (adapters[i])
            ia3_adapter_free(g->m, adapters[i]);
    ia3_choices_free(two);
    ia3_choices_free(seven);
    free(ids);
    golden_close(g);
}

/* A row whose choices are scored in pieces: the encoder runs once, cross-attention's keys and values each time. */
static void
pieces(void **state)
{
    golden *g = golden_open(*state);
    enum { N = 1500 };
    int32_t tokens[N][3];
    const int32_t *ids[N];
    int len[N], a, b;
    static double results[N];
    ia3_error err = {0};
    for (int i = 0; i < N; i++) {
        tokens[i][0] = 3 + i / 110;
        tokens[i][1] = 10 + i % 110;
        tokens[i][2] = 1;
        ids[i] = tokens[i];
        len[i] = 3;
    }
    ia3_choices *c = ia3_choices_create(ids, len, N, g->config->start_id, &a, &b, &err);
    golden_ok(c, &err);
    assert_true(c->n_rows > IA3_PIECE_ROWS);
    int32_t *input = input_of(25, 2);
    ia3_score_row row = {g->adapter, input, 25, c, results};
    start_counting(g->dev);
    golden_ok(ia3_score(g->m, &row, 1, &err), &err);
    expect_flops(g, "a row in pieces", row.flops);
    stop_counting(g->dev);
    ia3_choices_free(c);
    free(input);
    golden_close(g);
}

/* Two rows, of which one ends earlier, are computed together until both have ended. */
static void
generation(void **state)
{
    golden *g = golden_open(*state);
    int32_t *ids = input_of(30, 4), out[2][9];
    ia3_generate_row rows[] = {
        {.adapter = g->adapter, .ids = ids, .n_ids = 30, .max_tokens = 9, .out = out[0]},
        {.ids = ids + 10, .n_ids = 20, .max_tokens = 2, .out = out[1]}};
    ia3_error err = {0};
    start_counting(g->dev);
    golden_ok(ia3_generate(g->m, rows, 2, &err), &err);
    expect_flops(g, "generation", rows[0].flops + rows[1].flops);
    stop_counting(g->dev);

    /* with the decoder's part of a prompt, before which the other row idles */
    static const uint8_t digest[IA3_DIGEST_LEN] = {4};
    const ia3_variant v = ia3_variant_standard(ia3_method_require(ia3_methods, "prompt", 6, &err));
    const ia3_layout *l = ia3_layouts_get(ia3_model_layouts(g->m), &v, &err);
    golden_ok(l, &err);
    float *values = calloc(l->n_values, sizeof *values);
    ia3_adapter *prompt = ia3_adapter_create(g->m, l, values, digest, &err);
    golden_ok(prompt, &err);
    rows[1].adapter = prompt;
    start_counting(g->dev);
    golden_ok(ia3_generate(g->m, rows, 2, &err), &err);
    expect_flops(g, "generation behind a prompt", rows[0].flops + rows[1].flops);
    stop_counting(g->dev);
    ia3_adapter_free(g->m, prompt);
    ia3_layout_release(l);
    free(values);
    free(ids);
    golden_close(g);
}

/* What ia3_cost says about a step, apart from its inputs. */
static double
predicted_step(const golden *g, const ia3_variant *variant)
{
    ia3_error err = {0};
    const ia3_layout *l = ia3_layouts_get(ia3_model_layouts(g->m), variant, &err);
    golden_ok(l, &err);
    const double macs_of_step = l->cost.step;
    assert_true((l->cost.trained > 0) == (variant->method->reparameterization != NULL));
    ia3_layout_release(l);
    return 2 * macs_of_step;
}

/* What ia3_cost says about an input of n tokens and choices that share nothing. */
static double
predicted(const golden *g, const ia3_variant *variant, ia3_pass_kind kind, bool chains, double n,
          double choices, double t)
{
    ia3_error err = {0};
    const ia3_layout *l = ia3_layouts_get(ia3_model_layouts(g->m), variant, &err);
    golden_ok(l, &err);
    const ia3_sizes sizes = ia3_sizes_of(g->config);
    const ia3_method_cost of_layout = l->cost, *cost = &of_layout;
    ia3_layout_release(l);
    n += cost->lead_rows;
    const ia3_pass_rows rows = chains ? ia3_rows_of_chains(n, cost->decoder_lead_rows, choices, t)
                                      : ia3_rows_of_trie(n, cost->decoder_lead_rows, choices, t);
    return ia3_forward_flops(&sizes, &rows, cost) +
           (kind == IA3_PASS_TRAINING ? ia3_backward_flops(&sizes, &rows, cost) : 0);
}

/* Scores of choices that share nothing cost what the sizes alone say, if there are keys and values. */
static void
sizes_alone(void **state)
{
    golden *g = golden_open(*state);
    ia3_choices *c = choices_of(g, 7, 5);
    int32_t *ids = input_of(33, 1);
    double results[8];
    ia3_error err = {0};
    ia3_score_row row = {g->adapter, ids, 33, c, results};
    start_counting(g->dev);
    golden_ok(ia3_score(g->m, &row, 1, &err), &err);
    if (!ia3_score_by_states(g->m, &row))
        expect_flops(g, "an input", predicted(g, &g->layout->variant, IA3_PASS_SCORES, false, 33, 7, 5));
    stop_counting(g->dev);
    const ia3_sizes sizes = ia3_sizes_of(g->config);
    assert_true(ia3_vector_values(&sizes) == (double) g->layout->n_values);
    double embeddings = (double) g->config->vocab_size * g->config->d_model;
    double all = (double) ia3_model_parameters(g->m), n = ia3_parameters_without_embeddings(&sizes);
    assert_true(all == n + embeddings || all == n + 2 * embeddings);
    ia3_choices_free(c);
    free(ids);
    golden_close(g);
}

static void
train_step(golden *g, ia3_variant variant, double dropout)
{
    const ia3_method *method = variant.method;
    enum { N = 5, CHOICES = 3, T = 4 };
    int32_t *ids[N];
    int n_ids[N], order[N];
    ia3_choices *c = choices_of(g, CHOICES, T);
    ia3_train_example examples[N];
    ia3_error err = {0};
    double flops = predicted_step(g, &variant);
    for (int i = 0; i < N; i++) {
        n_ids[i] = 12 + 9 * i;
        ids[i] = input_of(n_ids[i], i);
        order[i] = i;
        examples[i] = (ia3_train_example){.n_texts = 1,
                                          .ids = (const int32_t *const *) &ids[i],
                                          .n_ids = &n_ids[i],
                                          .choices = c,
                                          .label = i % CHOICES};
        flops += predicted(g, &variant, IA3_PASS_TRAINING, dropout > 0, n_ids[i], CHOICES, T);
    }
    ia3_recipe recipe = {.variant = variant,
                         .steps = 10,
                         .batch_size = N,
                         .learning_rate = 1e-3,
                         .lm_weight = 1,
                         .unlikelihood_weight = 1,
                         .length_norm_weight = 1,
                         .dropout = dropout,
                         .seed = 1};
    ia3_train *t = ia3_train_create(g->m, examples, N, &recipe, NULL, &err);
    golden_ok(t, &err);
    if (method->mask_draws > 0) /* these belong to the first step */
        golden_ok(ia3_train_step_on(t, order, (const int[N]){0}, N, &err), &err);
    start_counting(g->dev);
    golden_ok(ia3_train_step_on(t, order, (const int[N]){0}, N, &err), &err);
    ia3_train_report report;
    ia3_train_last(t, &report);
    assert_true(report.flops == flops);
    expect_flops(g, method->name, report.flops);
    stop_counting(g->dev);
    if (method->fused && ia3_variant_equal(&variant, &g->layout->variant) && dropout == 0) {
        const ia3_sizes sizes = ia3_sizes_of(g->config);
        const double act = (double) ia3_dtype_size(g->dev->dtype);
        const ia3_element_sizes e = {.matrix = act, .table = act, .act = act};
        ia3_pass_rows rows = {0};
        for (int i = 0; i < N; i++) {
            ia3_pass_rows r = ia3_rows_of_trie(n_ids[i], 0, CHOICES, T);
            rows.encoder_rows += r.encoder_rows;
            rows.decoder_rows += r.decoder_rows;
        }
        double bytes = ia3_step_bytes(&sizes, &rows, &e);
        if (getenv("IA3_GOLDEN_VERBOSE"))
            printf("    %s %s: %.0f bytes, allocated %zu\n", g->name, golden_dtype(g->dtype), bytes, peak);
        /* offsets, depths and the like are not in the formula */
        assert_true(bytes <= (double) peak && bytes > 0.99 * (double) peak);
    }
    ia3_train_free(t);
    for (int i = 0; i < N; i++)
        free(ids[i]);
    ia3_choices_free(c);
}

/* Steps of every method, with tries and with chains. */
static void
training(void **state)
{
    golden *g = golden_open(*state);
    ia3_error err = {0};
    for (int i = 0; ia3_methods[i]; i++) {
        if (!ia3_model_has_method(g->m, ia3_methods[i], &err))
            continue;
        train_step(g, ia3_variant_standard(ia3_methods[i]), 0);
        train_step(g, ia3_variant_standard(ia3_methods[i]), 0.1);
    }
    static const struct {
        const char *method, *options;
    } variants[] = {{"lora", "{\"rank\": 1}"},
                    {"ia3", "{\"targets\": [\"q\", \"k\", \"wo\"]}"},
                    {"ia3", "{\"targets\": [\"q\", \"v\", \"o\"]}"},
                    {"lora", "{\"rank\": 20, \"targets\": [\"k\", \"o\", \"wo\"]}"},
                    {"lora", "{\"rank\": 2, \"vectors\": true}"},
                    {"adapter", "{\"bottleneck\": 7}"},
                    {"compacter", "{\"bottleneck\": 12}"},
                    {"prompt", "{\"prompt_length\": 1}"},
                    {"prefix", "{\"prefix_length\": 5}"},
                    {"said", ""},
                    {"prompt", "{\"decoder\": false}"}};
    for (size_t i = 0; i < sizeof variants / sizeof *variants; i++) {
        ia3_variant v = ia3_variant_standard(
            ia3_method_require(ia3_methods, variants[i].method, strlen(variants[i].method), &err));
        golden_ok(ia3_variant_change(&v, variants[i].options, strlen(variants[i].options), &err), &err);
        if (ia3_model_has_method(g->m, v.method, &err))
            train_step(g, v, 0);
    }
    golden_close(g);
}

int
main(void)
{
    static const golden_test tests[] = {{"scores", scores, true, GOLDEN_ALL GOLDEN_MINI, true},
                                        {"pieces", pieces, true, GOLDEN_FEW, true},
                                        {"generation", generation, true, GOLDEN_FEW GOLDEN_MINI, true},
                                        {"sizes alone", sizes_alone, true, GOLDEN_ALL GOLDEN_MINI, false},
                                        {"training", training, true, GOLDEN_FEW GOLDEN_MINI, false}};
    return golden_run("cost", tests, sizeof tests / sizeof *tests);
}
