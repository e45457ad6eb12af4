/*
 * test_ensemble.c
 *     Ensembles: their scores are the means of their members', alone and in batches with other adapters; their options and
 *     their files.
 */
#include "golden_examples.h"

#include "engine/files/ensemble.h"
#include "engine/recipe/score.h"
#include "engine/recipe/train.h"

#define BOTH "t5-relu-tied t5-gated-untied "

static const uint8_t digest[IA3_DIGEST_LEN] = {7};

/* --- no model is needed --- */

static void
test_options(void **state)
{
    static const struct {
        const char *options, *message;
    } wrong[] = {{"{\"ensemble\": 0}", "ensemble must be between 1 and 32"},
                 {"{\"ensemble\": 33}", "ensemble must be between 1 and 32"},
                 {"{\"ensemble\": -1e300}", "ensemble must be between 1 and 32"},
                 {"{\"ensemble\": 2.5}", "ensemble must be a whole number"},
                 {"{\"ensemble\": \"2\"}", "ensemble must be a whole number"},
                 {"{\"ensemble\": null}", "ensemble must be a whole number"}};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        ia3_error err = {0};
        ia3_variant v = golden_variant("layernorm", "");
        assert_false(ia3_variant_change(&v, wrong[i].options, strlen(wrong[i].options), &err));
        assert_int_equal(err.code, IA3_E_INVALID);
        assert_string_equal(err.message, wrong[i].message);
    }
    static const struct {
        const char *method, *options, *text;
    } right[] = {{"ia3", "{\"ensemble\": 1}", ""},
                 {"ia3", "{\"ensemble\": 32}", "{\"ensemble\": 32}"},
                 {"prompt", "{\"ensemble\": 5, \"decoder\": false}",
                  "{\"prompt_length\": 10, \"decoder\": false, \"ensemble\": 5}"}};
    for (size_t i = 0; i < sizeof right / sizeof *right; i++) {
        ia3_variant v = golden_variant(right[i].method, right[i].options), again;
        ia3_error err = {0};
        char *text = ia3_variant_text(&v);
        assert_string_equal(text, right[i].text);
        golden_ok(ia3_variant_read(&again, v.method, text, strlen(text), &err), &err);
        assert_true(ia3_variant_equal(&v, &again));
        free(text);
    }
}

static void
test_names(void **state)
{
    static const struct {
        const char *name;
        int member;
        const char *rest;
    } names[] = {{"member.0.a.b", 0, "a.b"}, {"member.31.x", 31, "x"},
                 {"member.99.", 99, ""},     {"member.00.a", -1, "member.00.a"},
                 {"member.100.a", -1, NULL}, {"member.5", -1, NULL},
                 {"member.", -1, NULL},      {"member.-1.a", -1, NULL},
                 {"amember.1.a", -1, NULL},  {"", -1, NULL}};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        const char *rest;
        assert_int_equal(ia3_ensemble_member(names[i].name, &rest), names[i].member);
        assert_string_equal(rest, names[i].rest ? names[i].rest : names[i].name);
    }
}

/* --- with a model --- */

static const struct {
    const char *method, *options; /* of a member */
    int members;
} cases[] = {{"ia3", "", 3},
             {"ia3", "{\"targets\": [\"q\", \"k\", \"o\"]}", 2},
             {"lora", "{\"rank\": 3}", 2},
             {"lora", "{\"rank\": 3, \"vectors\": true}", 2},
             {"bitfit", "", 2},
             {"prompt", "{\"prompt_length\": 3}", 4},
             {"prefix", "{\"prefix_length\": 3}", 2},
             {"said", "{\"intrinsic_dim\": 150}", 3},
             {"ia3", "", 32}};
enum { N = sizeof cases / sizeof *cases };

static const ia3_layout *
layout_of(const golden *g, ia3_variant v)
{
    ia3_error err = {0};
    const ia3_layout *l = ia3_layouts_get(ia3_model_layouts(g->m), &v, &err);
    golden_ok(l, &err);
    return l;
}

static ia3_variant
variant_of_case(int i)
{
    ia3_variant v = golden_variant(cases[i].method, cases[i].options);
    v.members = cases[i].members;
    return v;
}

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

/* Scores [4] of the first input with each of n adapters, all in one batch; the FLOPs of each. */
static void
score(const golden *g, ia3_adapter *const *adapters, int n, double (*scores)[4], double *flops)
{
    ia3_score_row rows[16];
    ia3_error err = {0};
    int n_ids;
    int32_t *ids = golden_ints(golden_find(g, "input.0.ids"), &n_ids);
    ia3_choices *choices = golden_choices(g, "input.0");
    for (int i = 0; i < n; i++)
        rows[i] = (ia3_score_row){
            .ids = ids, .n_ids = n_ids, .adapter = adapters[i], .choices = choices, .scores = scores[i]};
    golden_ok(ia3_score(g->m, rows, n, &err), &err);
    for (int i = 0; i < n; i++)
        flops[i] = rows[i].flops;
    free(ids);
    ia3_choices_free(choices);
}

/* The mean of the scores of adapters that are the members, made one by one. */
static void
score_members(const golden *g, int which, const float *values, double mean[4], double *flops)
{
    ia3_variant v = variant_of_case(which);
    v.members = 1;
    const ia3_layout *l = layout_of(g, v);
    ia3_error err = {0};
    memset(mean, 0, 4 * sizeof *mean);
    *flops = 0;
    for (int k = 0; k < cases[which].members; k++) {
        ia3_adapter *a = ia3_adapter_create(g->m, l, values + (size_t) k * l->n_values, digest, &err);
        double scores[1][4], f;
        golden_ok(a, &err);
        score(g, &a, 1, scores, &f);
        for (int c = 0; c < 4; c++)
            mean[c] += scores[0][c] / cases[which].members;
        *flops += f;
        ia3_adapter_free(g->m, a);
    }
    ia3_layout_release(l);
}

static void
test_scores(void **state)
{
    golden *g = golden_open(*state);
    ia3_adapter *all[N + 2] = {g->adapter};
    double want[N][4], want_flops[N], got[N + 2][4], flops[N + 2], alone[1][4];
    ia3_error err = {0};
    for (int i = 0; i < N; i++) {
        const ia3_layout *l = layout_of(g, variant_of_case(i));
        float *values = random_values(l, (uint64_t) i + 4);
        assert_int_equal(l->members, cases[i].members);
        all[i + 1] = ia3_adapter_create(g->m, l, values, digest, &err);
        golden_ok(all[i + 1], &err);
        score_members(g, i, values, want[i], &want_flops[i]);
        ia3_layout_release(l);
        free(values);
    }
    score(g, all, N + 2, got, flops); /* with a single adapter and the bare backbone */
    for (int i = 0; i < N + 2; i++) {
        double f;
        score(g, &all[i], 1, alone, &f);
        for (int c = 0; c < 4; c++) {
            golden_limit(g, "in a batch", fabs(got[i][c] - alone[0][c]), g->dtype == IA3_F32 ? 1e-5 : 0.05);
            if (i >= 1 && i <= N)
                golden_limit(g, cases[i - 1].method, fabs(alone[0][c] - want[i - 1][c]), 1e-6);
        }
        assert_true(f == flops[i]);
        if (i >= 1 && i <= N)
            assert_true(f == want_flops[i - 1]);
    }
    for (int i = 1; i <= N; i++)
        ia3_adapter_free(g->m, all[i]);
    golden_close(g);
}

static void
expect_bad(const golden *g, const ia3_layout *l, const float *values, const char *message)
{
    ia3_error err = {0};
    const ia3_layout *found;
    size_t len;
    uint8_t *bytes = ia3_adapter_serialize(l, values, &len);
    assert_null(ia3_adapter_parse_any(ia3_model_layouts(g->m), bytes, len, &found, &err));
    assert_int_equal(err.code, IA3_E_BAD_ADAPTER);
    assert_string_equal(err.message, message);
    free(bytes);
}

static void
test_files(void **state)
{
    golden *g = golden_open(*state);
    for (int i = 0; i < N; i++) {
        const ia3_layout *l = layout_of(g, variant_of_case(i)), *found;
        float *values = random_values(l, 3);
        ia3_error err = {0};
        size_t len;
        uint8_t *bytes = ia3_adapter_serialize(l, values, &len);
        float *again = ia3_adapter_parse_any(ia3_model_layouts(g->m), bytes, len, &found, &err);
        golden_ok(again, &err);
        assert_ptr_equal(found, l);
        assert_memory_equal(again, values, l->n_values * sizeof *values);
        ia3_layout_release(found);
        free(bytes);
        free(again);

        ia3_layout part = *l; /* the first tensor of the last member is missing */
        char message[200];
        const int n = l->n / l->members;
        part.entries = malloc((size_t) l->n * sizeof *part.entries);
        memcpy(part.entries, l->entries, (size_t) l->n * sizeof *part.entries);
        part.entries[l->n - n] = part.entries[--part.n];
        snprintf(message, sizeof message, "adapter: tensor \"%s\" is missing", l->entries[l->n - n].name);
        if (n > 1)
            expect_bad(g, &part, values, message);
        part.n = l->n;
        part.entries[l->n - n] = l->entries[l->n - n];
        part.entries[l->n - 1] = l->entries[l->n - 1];
        strcpy(part.entries[0].name, l->entries[0].name + strlen("member.0.")); /* of no member */
        snprintf(message, sizeof message, "adapter: tensor \"%s\" does not belong to this ensemble",
                 part.entries[0].name);
        if (n > 1)
            expect_bad(g, &part, values, message);
        part.entries = part.entries + n; /* without the first member */
        part.n = l->n - n;
        expect_bad(g, &part, values, "ensemble must be between 1 and 32");
        free(part.entries - n);
        ia3_layout_release(l);
        free(values);
    }
    golden_close(g);
}

/* Members are trained one by one, as the server does. */
static void
test_training(void **state)
{
    golden *g = golden_open(*state);
    const ia3_recipe recipe = {
        .steps = 1, .batch_size = 1, .learning_rate = 1e-3, .lm_weight = 1, .variant = variant_of_case(0)};
    int n_ids;
    int32_t *ids = golden_ints(golden_find(g, "input.0.ids"), &n_ids);
    ia3_choices *choices = golden_choices(g, "input.0");
    const ia3_train_example e = {
        .n_texts = 1, .ids = (const int32_t *const *) &ids, .n_ids = &n_ids, .choices = choices};
    ia3_error err = {0};
    assert_null(ia3_train_create(g->m, &e, 1, &recipe, NULL, &err));
    assert_string_equal(err.message, "the members of an ensemble are trained one by one");
    free(ids);
    ia3_choices_free(choices);
    golden_close(g);
}

int
main(void)
{
    static const struct CMUnitTest plain[] = {cmocka_unit_test(test_options), cmocka_unit_test(test_names)};
    static const golden_test tests[] = {{"scores", test_scores, true, BOTH},
                                        {"files", test_files, false, BOTH},
                                        {"training", test_training, false, BOTH}};
    int failed = cmocka_run_group_tests_name("options", plain, NULL, NULL);
    return failed + golden_run("ensemble", tests, sizeof tests / sizeof *tests);
}
