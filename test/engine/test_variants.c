/*
 * test_variants.c
 *     Methods with other options than the standard ones: counts of values, options in JSON, identities between variants,
 *     finite differences, and several variants of one method in one batch.
 */
#include "golden_methods.h"

#include "engine/recipe/generate.h"

#define GATED "t5-gated-untied "
#define BOTH  "t5-relu-tied " GATED

/* --- no model is needed --- */

/* The numbers of values for T0-3B; without options those of the paper. */
static void
test_counts(void **state)
{
    static const struct {
        const char *method, *options;
        size_t values;
    } cases[] = {
        {"ia3", "", 540672},
        {"ia3", "{\"targets\": [\"q\", \"k\", \"v\", \"o\", \"wo\"]}", 540672 + 2 * 72 * 2048},
        {"ia3", "{\"targets\": [\"wo\"]}", 48 * 5120},
        {"ia3", "{\"targets\": [\"EncDecAttention.k\", \"EncDecAttention.o\"]}", 2 * 24 * 2048},
        {"lora", "", 9097216},
        {"lora", "{\"norms\": false}", 8847360},
        {"lora", "{\"rank\": 1}", 8847360 / 4 + 249856},
        {"lora", "{\"rank\": 8, \"targets\": [\"q\", \"v\"], \"norms\": false}", 8 * 72 * 2 * (2048 + 2048)},
        {"lora", "{\"targets\": [\"wo\"], \"norms\": false}", 4 * 48 * (5120 + 2048)},
        {"lora", "{\"vectors\": true}", 9097216 + 540672},
        {"adapter", "", 12934144},
        {"adapter", "{\"bottleneck\": 32}", 48 * (2 * 32 * 2048 + 32 + 2048) + 249856},
        {"compacter", "", 870400}, /* 807 K in the paper, and 540 K: docs/sql.md */
        {"compacter++", "", 560128},
        {"compacter++", "{\"bottleneck\": 256}", 48 * (2 * 64 + 2 * 2048 + 3 * 256 + 2048) + 249856},
        {"bitfit", "", 1331200},
        {"bitfit", "{\"targets\": [\"q\", \"k\", \"v\", \"o\", \"wi_0\", \"wi_1\", \"wo\"]}", 1429504},
        {"layernorm", "", 249856},
        {"prompt", "", 40960},
        {"prompt", "{\"prompt_length\": 100}", 409600},
        {"prompt", "{\"decoder\": false}", 20480},
        {"prefix", "", 589824},
        {"prefix", "{\"prefix_length\": 7}", 7 * 72 * 2 * 2048},
        {"said", "", 19999}, /* 20 K in the paper, and 500 K */
        {"said", "{\"intrinsic_dim\": 500000}", 499999},
        {"full", "", 2849757184},
        {"fish", "", 5699514}, /* 5.7 M in the paper, and 570 K */
        {"fish", "{\"keep_ratio\": 0.0002}", 569951},
    };
    const ia3_config c = {.n_enc = 24,
                          .n_dec = 24,
                          .d_model = 2048,
                          .inner = 2048,
                          .d_ff = 5120,
                          .vocab_size = 32128,
                          .n_buckets = 32,
                          .n_heads = 32,
                          .gated = true,
                          .own_head = true};

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        ia3_layout *l = ia3_layout_create(&c, golden_variant(cases[i].method, cases[i].options));
        const size_t values = l->n_values - (size_t) l->cost.positions;
        if (values != cases[i].values)
            fail_msg("%s %s has %zu values", cases[i].method, cases[i].options, values);
        ia3_layout_free(l);
    }
}

/* The numbers of steps of T-Few's configurations. */
static void
test_steps(void **state)
{
    for (int i = 0; ia3_methods[i]; i++) {
        const char *name = ia3_methods[i]->name;
        const int steps = strcmp(name, "said") == 0            ? 3000
                          : strcmp(name, "fish") == 0          ? 1500
                          : strcmp(name, "full") == 0          ? 300
                          : strcmp(name, "adapter") == 0       ? 500
                          : strncmp(name, "compacter", 9) == 0 ? 500
                                                               : 1000;
        assert_int_equal(ia3_methods[i]->steps, steps);
    }
}

/* The default width of a bottleneck is a 32nd of d_model, as far as there is room for it; of Compacter's, a multiple of four. */
static void
test_widths(void **state)
{
    static const int widths[][3] = {{8, 1, 4},      {32, 1, 4},        {63, 1, 4},
                                    {64, 2, 4},     {224, 7, 4},       {384, 12, 12},
                                    {1024, 32, 32}, {16384, 512, 512}, {65536, 512, 512}};
    static const char *const methods[] = {"adapter", "compacter"};
    for (size_t i = 0; i < sizeof widths / sizeof *widths; i++) {
        const ia3_config c = {.n_enc = 1, .n_dec = 1, .d_model = widths[i][0], .inner = 8, .d_ff = 8};
        for (int m = 0; m < 2; m++) {
            ia3_layout *l = ia3_layout_create(&c, golden_variant(methods[m], ""));
            assert_int_equal(l->variant.options[0], widths[i][m + 1]);
            ia3_layout_free(l);
        }
    }
}

static void
test_json(void **state)
{
    static const struct {
        const char *method, *options, *message;
    } wrong[] = {
        {"ia3", "{\"targets\": [\"wi_1\"]}", "invalid module \"wi_1\" in targets"},
        {"ia3", "{\"targets\": [\"k\", \"SelfAttention.wo\"]}",
         "invalid module \"SelfAttention.wo\" in targets"},
        {"ia3", "{\"rank\": 4}", "the method \"ia3\" has no option \"rank\""},
        {"prompt", "{\"tokens\": 4}", "the method \"prompt\" has no option \"tokens\""},
        {"lora", "{\"rank\": 0}", "rank must be between 1 and 64"},
        {"lora", "{\"rank\": 2.5}", "rank must be a whole number"},
        {"lora", "{\"rank\": \"4\"}", "rank must be a number"},
        {"lora", "{\"rank\": null}", "rank must be a number"},
        {"lora", "{\"norms\": 1}", "norms must be true or false"},
        {"lora", "{\"vectors\": 1}", "vectors must be true or false"},
        {"lora", "{\"rank\": 4, \"rank\": 8}", "the options of the method \"lora\" are not a JSON object"},
        {"lora", "[]", "the options of the method \"lora\" are not a JSON object"},
        {"lora", "{", "the options of the method \"lora\" are not a JSON object"},
        {"lora", "{\"targets\": \"q\"}", "targets must be a list"},
        {"lora", "{\"targets\": []}", "targets must not be empty"},
        {"lora", "{\"targets\": [1]}", "targets has an element that is not a string"},
        {"lora", "{\"targets\": [\"q\", \"x\"]}", "invalid module \"x\" in targets"},
        {"compacter", "{\"bottleneck\": 6}",
         "bottleneck must be a multiple of 4 with the method \"compacter\""},
        {"compacter++", "{\"bottleneck\": 516}", "bottleneck must be between 0 and 512"},
        {"prefix", "{\"prefix_length\": 257}", "prefix_length must be between 1 and 256"},
        {"said", "{\"intrinsic_dim\": 2}", "intrinsic_dim must be between 3 and 16777216"},
        {"fish", "{\"keep_ratio\": 1.5}", "keep_ratio must be between 1e-09 and 1"},
        {"full", "{\"keep_ratio\": 1}", "the method \"full\" has no option \"keep_ratio\""},
        {"said", "{\"rank\": 2}", "the method \"said\" has no option \"rank\""},
        {"prefix", "{\"prompt_length\": 2}", "the method \"prefix\" has no option \"prompt_length\""},
    };
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        ia3_error err = {0};
        ia3_variant v = golden_variant(wrong[i].method, "");
        assert_false(ia3_variant_change(&v, wrong[i].options, strlen(wrong[i].options), &err));
        assert_int_equal(err.code, IA3_E_INVALID);
        assert_string_equal(err.message, wrong[i].message);
    }

    /* the canonical form; it is read again as it was, and so are records of earlier releases */
    ia3_variant v = golden_variant("lora", "{\"targets\": [\"v\", \"q\", \"v\"], \"alpha\": 0.1}"), again;
    ia3_error err = {0};
    char *text = ia3_variant_text(&v);
    assert_string_equal(
        text, "{\"rank\": 4, \"alpha\": 0.10000000000000001, \"targets\": [\"q\", \"v\"], \"norms\": true}");
    golden_ok(ia3_variant_read(&again, v.method, text, strlen(text), &err), &err);
    assert_true(ia3_variant_equal(&v, &again));
    free(text);
    golden_ok(ia3_variant_read(&again, v.method, "", 0, &err), &err);
    v = golden_variant("lora", "{\"norms\": false}");
    assert_true(ia3_variant_equal(&v, &again));
    v = golden_variant("prompt", "{\"prompt_length\": 7, \"decoder\": false}");
    golden_ok(ia3_variant_read(&again, v.method, "{\"tokens\": 7}", 13, &err), &err);
    assert_true(ia3_variant_equal(&v, &again));
    assert_false(ia3_variant_read(&again, v.method, "{\"tokens\": 7, \"new\": 1}", 24, &err));
    assert_int_equal(err.code, IA3_E_UNSUPPORTED);
    v = golden_variant("ia3", "{\"targets\": [\"wo\", \"EncDecAttention.v\", \"k\", \"SelfAttention.v\"]}");
    text = ia3_variant_text(&v);
    assert_string_equal(text, "");
    free(text);
    v = golden_variant("ia3", "{\"targets\": [\"wo\", \"EncDecAttention.v\", \"q\"]}");
    text = ia3_variant_text(&v);
    assert_string_equal(text, "{\"targets\": [\"q\", \"EncDecAttention.v\", \"wo\"]}");
    free(text);
}

/* Layouts exist once, as long as somebody has them; kinds of layers that the backbone lacks make no difference. */
static void
test_layouts(void **state)
{
    const ia3_config c = {.n_enc = 1, .n_dec = 1, .d_model = 4, .inner = 4, .d_ff = 8, .gated = true};
    ia3_layouts *ls = ia3_layouts_create(&c, ia3_methods);
    ia3_error err = {0};
    const ia3_variant q = golden_variant("lora", "{\"targets\": [\"q\"]}");
    const ia3_variant q_wi = golden_variant("lora", "{\"targets\": [\"q\", \"wi\"]}"),
                      standard = golden_variant("lora", "");
    const ia3_variant none = golden_variant("lora", "{\"targets\": [\"wi\"]}");

    const ia3_layout *a = ia3_layouts_get(ls, &q, &err), *b = ia3_layouts_get(ls, &q_wi, &err);
    golden_ok(a, &err);
    assert_ptr_equal(a, b);
    ia3_layout_release(b);
    assert_ptr_equal(ia3_layout_retain(a), a);
    ia3_layout_release(a);
    ia3_layout_release(a);
    b = ia3_layouts_get(ls, &standard, &err);
    assert_ptr_equal(b, ia3_layouts_standard(ls, 1));
    ia3_layout_release(b);
    ia3_layout_release(NULL);
    assert_null(ia3_layouts_get(ls, &none, &err));
    assert_int_equal(err.code, IA3_E_INVALID);
    ia3_layouts_free(ls);

    const ia3_config large = {
        .n_enc = 24, .n_dec = 24, .d_model = 1024, .inner = 16384, .d_ff = 65536, .gated = true};
    const ia3_variant rank64 = golden_variant("lora", "{\"rank\": 64}");
    ls = ia3_layouts_create(&large, ia3_methods);
    err = (ia3_error){0};
    assert_null(ia3_layouts_get(ls, &rank64, &err));
    assert_int_equal(err.code, IA3_E_TOO_LONG);
    ia3_layouts_free(ls);

    /* Compacter divides d_model by four */
    const ia3_config odd = {.n_enc = 1, .n_dec = 1, .d_model = 6, .inner = 4, .d_ff = 8};
    const ia3_variant compacter = golden_variant("compacter", "");
    ls = ia3_layouts_create(&odd, ia3_methods);
    err = (ia3_error){0};
    assert_null(ia3_layouts_get(ls, &compacter, &err));
    assert_int_equal(err.code, IA3_E_INVALID);
    assert_string_equal(err.message, "the backbone cannot have adapters of the method \"compacter\"");

    /* SAID has a factor for each module: 8 linear layers and norms of the encoder, 13 of the decoder, and their last norms */
    const ia3_variant few = golden_variant("said", "{\"intrinsic_dim\": 24}"),
                      enough = golden_variant("said", "{\"intrinsic_dim\": 25}");
    err = (ia3_error){0};
    assert_null(ia3_layouts_get(ls, &few, &err));
    assert_int_equal(err.code, IA3_E_INVALID);
    assert_string_equal(err.message, "intrinsic_dim must be at least 25 for this backbone");
    a = ia3_layouts_get(ls, &enough, &err);
    golden_ok(a, &err);
    assert_int_equal(a->entries[0].len, 1);
    assert_int_equal(a->entries[1].len, 23);
    ia3_layout_release(a);
    ia3_layouts_free(ls);
}

/* --- with a model --- */

typedef struct fixture {
    golden *g;
    golden_examples examples;
} fixture;

static fixture *
open_fixture(void **state)
{
    fixture *f = calloc(1, sizeof *f);
    f->g = golden_open(*state);
    golden_examples_open(f->g, &f->examples);
    return f;
}

static void
close_fixture(fixture *f)
{
    golden_examples_close(&f->examples);
    golden_close(f->g);
    free(f);
}

static const ia3_layout *
layout_of(const fixture *f, const char *method, const char *options)
{
    const ia3_variant v = golden_variant(method, options);
    return golden_layout(f->g, &v);
}

/* Values that change much; the same for the same seed. */
static float *
random_values(const ia3_layout *l, uint64_t seed)
{
    float *values = malloc(l->n_values * sizeof *values);
    for (size_t i = 0; i < l->n_values; i++) {
        seed = seed * 6364136223846793005u + 1442695040888963407u;
        values[i] = 0.5f * ((float) (seed >> 40) / (1 << 23) - 1);
    }
    return values;
}

static double
loss_at(const fixture *f, const ia3_layout *l, const float *values, float *grads)
{
    const ia3_recipe recipe = golden_recipe(&l->variant);
    return golden_loss(f->g, &f->examples, &recipe, values, grads);
}

/*
 * Copies the entries that `from` has to `to`, where they fill the first rows or columns of larger matrices; the rest is
 * zero. `back` copies in the other direction.
 */
static void
embed(const ia3_layout *from, float *small, const ia3_layout *to, float *large, bool back)
{
    for (int i = 0; i < from->n; i++) {
        const ia3_layout_entry *s = &from->entries[i], *d = ia3_layout_find(to, s->name);
        assert_non_null(d);
        for (int r = 0; r < s->rows; r++)
            for (int c = 0; c < s->cols; c++) {
                float *x = small + s->offset + (size_t) r * (size_t) s->cols + c;
                float *y = large + d->offset + (size_t) r * (size_t) d->cols + c;
                *(back ? x : y) = *(back ? y : x);
            }
    }
}

/* An adapter is the same as a larger one that is filled up with zeros: in scores, loss and the gradients of its values. */
static void
check_same(const fixture *f, const char *method, const char *small, const char *large)
{
    const ia3_layout *s = layout_of(f, method, small), *l = layout_of(f, method, large);
    float *a = random_values(s, 3), *b = calloc(l->n_values, sizeof *b);
    float *ga = malloc(s->n_values * sizeof *ga), *gb = malloc(l->n_values * sizeof *gb);
    float *part = malloc(s->n_values * sizeof *part), *zeros = calloc(s->n_values, sizeof *zeros);
    embed(s, a, l, b, false);
    ia3_adapter *adapters[] = {golden_adapter(f->g, s, a), golden_adapter(f->g, l, b), NULL};
    double scores[3][4];
    golden_score(f->g, adapters, 3, 0, scores);
    for (int c = 0; c < 4; c++)
        golden_limit(f->g, large, fabs(scores[0][c] - scores[1][c]), f->g->dtype == IA3_F32 ? 1e-5 : 0.05);
    assert_true(fabs(scores[0][0] - scores[2][0]) > 1e-3);
    if (f->g->dtype == IA3_F32) {
        double x = loss_at(f, s, a, ga), y = loss_at(f, l, b, gb);
        golden_limit(f->g, "loss", fabs(x - y), 1e-5 * fabs(x));
        embed(s, part, l, gb, true);
        golden_limit(f->g, "gradients", golden_max(ga, part, s->n_values),
                     1e-4 * golden_max(ga, zeros, s->n_values));
    }
    ia3_adapter_free(f->g->m, adapters[0]);
    ia3_adapter_free(f->g->m, adapters[1]);
    ia3_layout_release(s);
    ia3_layout_release(l);
    free(a);
    free(b);
    free(ga);
    free(gb);
    free(part);
    free(zeros);
}

static void
test_identities(void **state)
{
    fixture *f = open_fixture(state);
    check_same(f, "lora", "{\"rank\": 4, \"alpha\": 1}", "{\"rank\": 8, \"alpha\": 2}");
    check_same(f, "lora", "{\"rank\": 3, \"alpha\": 6}", "{\"rank\": 64, \"alpha\": 128}");
    check_same(f, "lora", "{\"rank\": 5, \"alpha\": 5, \"targets\": [\"q\"]}", "{\"rank\": 5, \"alpha\": 5}");
    check_same(f, "lora", "{\"targets\": [\"k\", \"wo\", \"wi\", \"wi_1\"]}", "{}");
    check_same(f, "lora", "{\"targets\": [\"v\", \"o\"]}",
               "{\"targets\": [\"v\", \"o\", \"q\", \"wi\", \"wi_0\"]}");
    check_same(f, "bitfit", "{\"targets\": [\"k\", \"o\", \"wi_1\", \"wi\"]}", "{}");
    check_same(f, "lora", "{\"targets\": [\"EncDecAttention.q\", \"SelfAttention.v\"]}", "{}");
    check_same(f, "bitfit", "{}",
               "{\"targets\": [\"q\", \"k\", \"v\", \"o\", \"wi_0\", \"wi_1\", \"wi\", \"wo\"]}");
    close_fixture(f);
}

static void
check_differences(const fixture *f, double dropout, const char *method, const char *options)
{
    const ia3_layout *l = layout_of(f, method, options);
    ia3_recipe recipe = golden_recipe(&l->variant);
    float *values = random_values(l, 5);
    recipe.dropout = dropout;
    golden_check_differences(f->g, &f->examples, &recipe, values, false);
    ia3_layout_release(l);
    free(values);
}

static void
test_differences(void **state)
{
    fixture *f = open_fixture(state);
    check_differences(f, 0, "lora", "{\"rank\": 11, \"alpha\": 3, \"targets\": [\"k\", \"o\", \"wi_1\"]}");
    check_differences(f, 0, "lora", "{\"rank\": 1, \"targets\": [\"q\", \"v\", \"wi_0\", \"wo\"]}");
    check_differences(f, 0, "lora", "{\"rank\": 2, \"norms\": false}");
    check_differences(f, 0, "lora", "{\"rank\": 2, \"norms\": false, \"vectors\": true}");
    check_differences(f, 0, "lora",
                      "{\"rank\": 2, \"targets\": [\"SelfAttention.q\", \"EncDecAttention.v\"]}");
    check_differences(f, 0, "bitfit", "{\"targets\": [\"q\", \"v\", \"wi_0\"]}");
    check_differences(f, 0, "prompt", "{\"prompt_length\": 2}");
    check_differences(f, 0, "prefix", "{\"prefix_length\": 5}");
    check_differences(f, 0, "compacter", "{\"bottleneck\": 16}");
    check_differences(f, 0, "said", "{\"intrinsic_dim\": 60}");
    check_differences(f, 0, "said", "{\"intrinsic_dim\": 2000}");
    check_differences(f, 0, "prompt", "{\"prompt_length\": 5, \"decoder\": false}");
    /* with dropout, every choice has rows of its own */
    check_differences(f, 0.1, "prompt", "{\"prompt_length\": 3}");
    check_differences(f, 0.1, "prefix", "{\"prefix_length\": 1}");
    check_differences(f, 0.1, "lora", "{\"rank\": 2, \"targets\": [\"q\", \"wo\"]}");
    close_fixture(f);
}

/* Adapters of different variants in one batch have the scores that each has alone, and differ. */
static void
test_mixed(void **state)
{
    static const struct {
        const char *method, *options;
    } cases[] = {{"lora", ""},
                 {"prompt", "{\"prompt_length\": 1}"},
                 {"lora", "{\"rank\": 9, \"alpha\": 4}"},
                 {"lora", "{\"rank\": 9, \"alpha\": 5}"},
                 {"ia3", ""},
                 {"lora", "{\"rank\": 3, \"vectors\": true}"},
                 {"lora", "{\"norms\": false}"},
                 {"bitfit", ""},
                 {"bitfit", "{\"targets\": [\"k\"]}"},
                 {"compacter", "{\"bottleneck\": 16}"},
                 {"compacter++", "{\"bottleneck\": 16}"},
                 {"compacter++", "{\"bottleneck\": 512}"},
                 {"prompt", "{\"prompt_length\": 40}"},
                 {"prefix", "{\"prefix_length\": 1}"},
                 {"prefix", "{\"prefix_length\": 40}"},
                 {"prompt", "{\"prompt_length\": 40, \"decoder\": false}"},
                 {"said", "{\"intrinsic_dim\": 100}"},
                 {"said", ""},
                 {"lora", "{\"targets\": [\"q\", \"v\"]}"}};
    enum { N = sizeof cases / sizeof *cases };
    fixture *f = open_fixture(state);
    ia3_adapter *adapters[N];
    double together[N][4], alone[N][4];
    for (int i = 0; i < N; i++) {
        const ia3_layout *l = layout_of(f, cases[i].method, cases[i].options);
        float *values = random_values(l, 9);
        adapters[i] = golden_adapter(f->g, l, values);
        ia3_layout_release(l); /* the adapter has it */
        free(values);
    }
    golden_score(f->g, adapters, N, 0, together);
    for (int i = 0; i < N; i++) {
        golden_score(f->g, &adapters[i], 1, 0, &alone[i]);
        for (int c = 0; c < 4; c++)
            golden_limit(f->g, "mixed", fabs(together[i][c] - alone[i][c]),
                         f->g->dtype == IA3_F32 ? 1e-5 : 0.05);
        for (int k = 0; k < i; k++)
            assert_memory_not_equal(alone[k], alone[i], sizeof alone[i]);
    }
    for (int i = 0; i < N; i++)
        ia3_adapter_free(f->g->m, adapters[i]);
    close_fixture(f);
}

/* The sum of the log-probabilities of one choice's tokens. */
static double
log_probability(const fixture *f, ia3_adapter *adapter, const int32_t *ids, int n_ids, const int32_t *choice,
                int n)
{
    int bad_a, bad_b;
    double result;
    ia3_error err = {0};
    ia3_choices *c = ia3_choices_create(&choice, &n, 1, f->g->config->start_id, &bad_a, &bad_b, &err);
    golden_ok(c, &err);
    ia3_score_row row = {.ids = ids, .n_ids = n_ids, .adapter = adapter, .choices = c, .scores = &result};
    golden_ok(ia3_score(f->g->m, &row, 1, &err), &err);
    ia3_choices_free(c);
    return n * result;
}

/*
 * A prompt that consists of tokens' embeddings is the same as these tokens in front. The decoder's begins with the start
 * token, so that the bare backbone can be asked about a choice that has the rest of the prompt, and the start token again,
 * before its own tokens.
 */
static void
test_prompt_of_tokens(void **state)
{
    enum { LENGTH = 3, N = 4 };
    static const int32_t front[LENGTH] = {7, 11, 5}, choice[N] = {9, 4, 12, 1};
    fixture *f = open_fixture(state);
    const int32_t start = f->g->config->start_id, behind[LENGTH] = {start, 6, 13};
    const ia3_layout *l = layout_of(f, "prompt", "{\"prompt_length\": 3}");
    const ia3_host_tensor *embedding = ia3_checkpoint_embedding(f->g->ck);
    const size_t d = (size_t) f->g->config->d_model;
    assert_int_equal(embedding->dtype, IA3_F32);
    assert_int_equal(l->n_values, 2 * LENGTH * d);

    float *values = malloc(l->n_values * sizeof *values);
    int32_t longer[64], in_front[LENGTH + N];
    int n_ids;
    int32_t *ids = golden_ints(golden_find(f->g, "input.1.ids"), &n_ids);
    assert_true(n_ids + LENGTH <= 64);
    for (int i = 0; i < LENGTH; i++) {
        memcpy(values + (size_t) i * d, (const float *) embedding->data + (size_t) front[i] * d,
               d * sizeof *values);
        memcpy(values + (size_t) (LENGTH + i) * d, (const float *) embedding->data + (size_t) behind[i] * d,
               d * sizeof *values);
        longer[i] = front[i];
        in_front[i] = i + 1 < LENGTH ? behind[i + 1] : start;
    }
    memcpy(longer + LENGTH, ids, (size_t) n_ids * sizeof *ids);
    memcpy(in_front + LENGTH, choice, sizeof choice);

    ia3_adapter *prompt = golden_adapter(f->g, l, values);
    double got = log_probability(f, prompt, ids, n_ids, choice, N);
    double want = log_probability(f, NULL, longer, n_ids + LENGTH, in_front, LENGTH + N) -
                  log_probability(f, NULL, longer, n_ids + LENGTH, in_front, LENGTH);
    golden_limit(f->g, "prompt of tokens", fabs(got - want), f->g->dtype == IA3_F32 ? 1e-4 : 0.1);
    ia3_adapter_free(f->g->m, prompt);
    ia3_layout_release(l);
    free(values);
    free(ids);
    close_fixture(f);
}

/* What another method has, and LoRA with these options as well, means the same there if the factors change nothing: loss, gradients. */
static void
check_part(const fixture *f, const char *method, const char *options)
{
    const ia3_layout *s = layout_of(f, method, ""), *l = layout_of(f, "lora", options);
    float *a = random_values(s, 3), *b = calloc(l->n_values, sizeof *b);
    float *ga = malloc(s->n_values * sizeof *ga), *gb = malloc(l->n_values * sizeof *gb);
    float *part = malloc(s->n_values * sizeof *part), *zeros = calloc(s->n_values, sizeof *zeros);
    embed(s, a, l, b, false);
    double x = loss_at(f, s, a, ga), y = loss_at(f, l, b, gb);
    golden_limit(f->g, "loss", fabs(x - y), 1e-5 * fabs(x));
    embed(s, part, l, gb, true);
    golden_limit(f->g, "gradients", golden_max(ga, part, s->n_values),
                 1e-4 * golden_max(ga, zeros, s->n_values));
    ia3_layout_release(s);
    ia3_layout_release(l);
    free(a);
    free(b);
    free(ga);
    free(gb);
    free(part);
    free(zeros);
}

static void
test_parts(void **state)
{
    fixture *f = open_fixture(state);
    check_part(f, "layernorm", "");
    check_part(f, "ia3", "{\"norms\": false, \"vectors\": true}");
    close_fixture(f);
}

/* Prompts and prefixes of different lengths in one batch: rows begin at different steps, and each writes what scoring says. */
static void
test_generation(void **state)
{
    static const struct {
        const char *method, *options;
    } cases[] = {
        {"prompt", "{\"prompt_length\": 1}"}, {"prompt", "{\"prompt_length\": 9}"},
        {"prefix", "{\"prefix_length\": 5}"}, {"prompt", "{\"prompt_length\": 4, \"decoder\": false}"},
        {"prefix", "{\"prefix_length\": 1}"}, {"prompt", "{\"prompt_length\": 4}"}};
    enum { N = 1 + sizeof cases / sizeof *cases, TOKENS = 4 };
    fixture *f = open_fixture(state);
    ia3_adapter *adapters[N] = {NULL};
    ia3_generate_row rows[N];
    int32_t out[N][TOKENS], alone[TOKENS];
    ia3_error err = {0};
    int n_ids;
    int32_t *ids = golden_ints(golden_find(f->g, "input.1.ids"), &n_ids);
    for (int i = 0; i < N; i++) {
        if (i > 0) {
            const ia3_layout *l = layout_of(f, cases[i - 1].method, cases[i - 1].options);
            float *values = random_values(l, (uint64_t) i);
            adapters[i] = golden_adapter(f->g, l, values);
            ia3_layout_release(l);
            free(values);
        }
        rows[i] = (ia3_generate_row){
            .adapter = adapters[i], .ids = ids, .n_ids = n_ids, .max_tokens = TOKENS, .out = out[i]};
    }
    golden_ok(ia3_generate(f->g->m, rows, N, &err), &err);
    for (int i = 0; i < N; i++) {
        ia3_generate_row row = rows[i];
        row.out = alone;
        golden_ok(ia3_generate(f->g->m, &row, 1, &err), &err);
        assert_int_equal(row.n_out, rows[i].n_out);
        assert_memory_equal(alone, out[i], (size_t) row.n_out * sizeof *alone);
        for (int t = 1; t < row.n_out; t++)
            assert_int_equal(golden_likeliest(f->g, adapters[i], ids, n_ids, alone, t), alone[t]);
        ia3_adapter_free(f->g->m, adapters[i]);
    }
    free(ids);
    close_fixture(f);
}

/* A file tells its variant, except for alpha. */
static void
test_files(void **state)
{
    static const char *const methods[] = {"lora", "prompt", "bitfit", "lora", "prefix", "lora", "said"};
    static const char *const options[] = {"{\"rank\": 7, \"targets\": [\"q\", \"wi_0\"]}",
                                          "{\"prompt_length\": 3}",
                                          "{\"targets\": [\"k\"]}",
                                          "{\"norms\": false}",
                                          "{\"prefix_length\": 9}",
                                          "{\"rank\": 2, \"vectors\": true}",
                                          "{\"intrinsic_dim\": 321}"};
    fixture *f = open_fixture(state);
    for (size_t i = 0; i < sizeof methods / sizeof *methods; i++) {
        const ia3_layout *l = layout_of(f, methods[i], options[i]), *found;
        float *values = random_values(l, 2);
        ia3_error err = {0};
        size_t len;
        uint8_t *bytes = ia3_adapter_serialize(l, values, &len);
        float *again = ia3_adapter_parse_any(ia3_model_layouts(f->g->m), bytes, len, &found, &err);
        golden_ok(again, &err);
        assert_ptr_equal(found, l);
        assert_memory_equal(values, again, l->n_values * sizeof *values);
        ia3_layout_release(found);
        ia3_layout_release(l);
        free(values);
        free(again);
        free(bytes);
    }
    /* a matrix with more rows than the largest rank */
    ia3_layout *l = ia3_layout_create(f->g->config, golden_variant("lora", "{\"norms\": false}"));
    const ia3_layout *found;
    ia3_error err = {0};
    size_t len;
    l->n = 1;
    l->entries[0].rows = 65;
    float *values = calloc(65 * (size_t) l->entries[0].cols, sizeof *values);
    uint8_t *bytes = ia3_adapter_serialize(l, values, &len);
    assert_null(ia3_adapter_parse_any(ia3_model_layouts(f->g->m), bytes, len, &found, &err));
    assert_int_equal(err.code, IA3_E_BAD_ADAPTER);
    assert_string_equal(err.message, "rank must be between 1 and 64");
    free(bytes);
    free(values);
    ia3_layout_free(l);

    /* no prefix at all is not a prefix that changes nothing */
    l = ia3_layout_create(f->g->config, golden_variant("prefix", ""));
    values = random_values(l, 4);
    l->n = f->g->config->n_enc;
    bytes = ia3_adapter_serialize(l, values, &len);
    err = (ia3_error){0};
    assert_null(ia3_adapter_parse_any(ia3_model_layouts(f->g->m), bytes, len, &found, &err));
    assert_int_equal(err.code, IA3_E_BAD_ADAPTER);
    assert_non_null(strstr(err.message, "decoder.block.0.layer.0.SelfAttention.prefix_direct\" is missing"));
    free(bytes);
    free(values);
    ia3_layout_free(l);
    close_fixture(f);
}

int
main(void)
{
    static const struct CMUnitTest plain[] = {
        cmocka_unit_test(test_counts), cmocka_unit_test(test_steps),   cmocka_unit_test(test_widths),
        cmocka_unit_test(test_json),   cmocka_unit_test(test_layouts),
    };
    static const golden_test tests[] = {
        {"identities", test_identities, true, BOTH}, {"finite differences", test_differences, false, GATED},
        {"mixed", test_mixed, true, BOTH},           {"prompt of tokens", test_prompt_of_tokens, true, BOTH},
        {"parts", test_parts, false, GATED},         {"generation", test_generation, false, BOTH},
        {"files", test_files, false, GATED},
    };
    int failed = cmocka_run_group_tests_name("options", plain, NULL, NULL);
    return failed + golden_run("variants", tests, sizeof tests / sizeof *tests);
}
