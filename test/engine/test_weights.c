/*
 * test_weights.c
 *     Versions that replace weights of the backbone: their copies on the device, a backbone in int8, training that starts from them, and
 *     what is refused because of its size.
 */
#include "golden_methods.h"

#include <openssl/sha.h>

#include "engine/model/weights.h"
#include "engine_requests.h"

#define BACKBONE "test/backbone"

/* A version as an engine gets it. */
typedef struct version {
    const char *method, *options;
    uint8_t digest[IA3_DIGEST_LEN], *bytes;
    size_t len;
} version;

/* The layout for the backbone that engines are started with; the caller frees it. */
static ia3_layout *
layout_of(const ia3_checkpoint *ck, const char *method, const char *options)
{
    return ia3_layout_create(ia3_checkpoint_config(ck), golden_variant(method, options));
}

static ia3_checkpoint *
open_backbone(void)
{
    ia3_error err = {0};
    ia3_checkpoint *ck = ia3_checkpoint_open(BACKBONE, &err);
    golden_ok(ck, &err);
    return ck;
}

static version
make_version(const ia3_layout *l, const char *method, const char *options, const float *values)
{
    version v = {.method = method, .options = options};
    v.bytes = ia3_adapter_serialize(l, values, &v.len);
    SHA256(v.bytes, v.len, v.digest);
    if (options[0] == '\0')
        return v;
    uint8_t both[IA3_DIGEST_LEN + 64];
    assert_true(strlen(options) <= 64);
    memcpy(both, v.digest, IA3_DIGEST_LEN);
    memcpy(both + IA3_DIGEST_LEN, options, strlen(options));
    SHA256(both, IA3_DIGEST_LEN + strlen(options), v.digest);
    return v;
}

/* The backbone's weights, of which every third is reduced and every third enlarged; others for another `shift`. */
static void
change(float *values, size_t n, int shift)
{
    for (size_t i = 0; i < n; i++)
        values[i] *= 1 + 0.0625f * ((float) ((i + (size_t) shift) % 3) - 1);
}

static version
full_version(int shift)
{
    ia3_checkpoint *ck = open_backbone();
    ia3_layout *l = layout_of(ck, "full", "");
    float *values = malloc(l->n_values * sizeof *values);
    ia3_error err = {0};
    golden_ok(ia3_weights_read(ck, l, values, &err), &err);
    change(values, l->n_values, shift);
    const version v = make_version(l, "full", "", values);
    free(values);
    ia3_layout_free(l);
    ia3_checkpoint_close(ck);
    return v;
}

static void
put(test_client *c, const version *v)
{
    ia3_writer *w = test_begin(c, IA3_PUT_ADAPTER);
    ia3_put_bytes(w, v->digest, IA3_DIGEST_LEN);
    test_put_text(w, v->method);
    test_put_text(w, v->options);
    ia3_put_str(w, (const char *) v->bytes, v->len);
    assert_int_equal(test_call(c, NULL), IA3_OK);
}

/* Scores a row with each of n versions (NULL: the bare backbone) in one request, and returns the type of the reply. */
static uint8_t
score(test_client *c, const version *const *versions, int n, double (*scores)[2])
{
    static const uint8_t bare[IA3_DIGEST_LEN];
    test_rows rows = {.sets = {test_training_choices}, .n_digests = n, .n_rows = n};
    for (int i = 0; i < n; i++) {
        rows.digests[i] = versions[i] ? versions[i]->digest : bare;
        rows.rows[i] = (test_row){.text = test_training_texts[0], .adapter = (uint32_t) i};
    }
    test_put_rows(c, &rows);
    const uint8_t type = test_call(c, NULL);
    for (int i = 0; type == IA3_SCORE_OK && i < n; i++)
        test_get_scores(c, scores[i], 2);
    return type;
}

static void
start(test_engine *e, test_client *c, const char *memory_limit)
{
    const char *const extra[] = {"--dtype", "float32", "--memory-limit", memory_limit, NULL};
    assert_true(test_engine_start(e, BACKBONE, extra));
    test_client_open(c, e);
}

static void
stop(test_engine *e, test_client *c)
{
    test_client_close(c);
    assert_int_equal(test_engine_stop(e, true), 0);
}

/* --- memory --- */

enum { N = 3 };

/* The scores of a version alone are what an engine without a limit computes. */
static void
check(test_client *c, const version *v, const double *expected)
{
    double scores[1][2];
    assert_int_equal(score(c, &v, 1, scores), IA3_SCORE_OK);
    assert_memory_equal(scores[0], expected, sizeof scores[0]);
}

static void
expect_missing(test_client *c, const version *v)
{
    assert_int_equal(score(c, &v, 1, NULL), IA3_MISSING);
    assert_int_equal(ia3_get_u32(&c->reader), 1);
    assert_memory_equal(ia3_get_bytes(&c->reader, IA3_DIGEST_LEN), v->digest, IA3_DIGEST_LEN);
}

/*
 * With 400 MB there is room for two versions of 71 MB in half of what the backbone's 40 MB leave: the one that has not been used for the
 * longest time goes, and is right when it comes back. A request for all three gets them.
 */
static void
test_eviction(void **state)
{
    version v[N];
    const version *all[N];
    double expected[N][2], scores[N][2];
    test_engine e;
    test_client c;
    start(&e, &c, "0");
    for (int i = 0; i < N; i++) {
        v[i] = full_version(i);
        all[i] = &v[i];
        put(&c, &v[i]);
        assert_int_equal(score(&c, &all[i], 1, &expected[i]), IA3_SCORE_OK);
        assert_true(i == 0 || fabs(expected[i][0] - expected[0][0]) > 1e-3);
    }
    assert_true(test_stat(&c, IA3_STAT_CACHED_ADAPTERS) == N);
    stop(&e, &c);

    start(&e, &c, "400000000");
    for (int i = 0; i < N; i++) {
        put(&c, &v[i]);
        check(&c, &v[i], expected[i]);
    }
    assert_true(test_stat(&c, IA3_STAT_CACHED_ADAPTERS) == 2);
    assert_in_range((uint64_t) test_stat(&c, IA3_STAT_CACHED_BYTES), 140000000, 180000000);
    check(&c, &v[1], expected[1]);
    expect_missing(&c, &v[0]);
    put(&c, &v[0]);
    check(&c, &v[0], expected[0]);
    check(&c, &v[1], expected[1]);
    expect_missing(&c, &v[2]);

    assert_int_equal(score(&c, all, N, scores), IA3_MISSING);
    put(&c, &v[2]);
    assert_int_equal(score(&c, all, N, scores), IA3_SCORE_OK);
    assert_memory_equal(scores, expected, sizeof scores);
    assert_true(test_stat(&c, IA3_STAT_CACHED_ADAPTERS) == 2);
    stop(&e, &c);
    for (int i = 0; i < N; i++)
        free(v[i].bytes);
}

/* A row of the version fails; the engine has it no longer if it made room for others. */
static void
expect_no_room(test_client *c, const version *v)
{
    test_rows rows = {.sets = {test_training_choices}, .n_digests = 1, .digests = {v->digest}, .n_rows = 1};
    rows.rows[0] = (test_row){.text = test_training_texts[0]};
    put(c, v);
    test_put_rows(c, &rows);
    assert_int_equal(test_call(c, NULL), IA3_SCORE_OK);
    assert_int_equal(ia3_get_u8(&c->reader), 0);
    const test_error error = test_get_error(&c->reader);
    assert_int_equal(error.code, IA3_E_MEMORY);
    assert_memory_equal(error.message, "out of memory", strlen("out of memory"));
    assert_string_equal(error.detail, "A version of the method \"full\" has weights of its own, of 38 MB.");
}

static void
expect_no_training(test_client *c)
{
    test_recipe recipe = test_default_recipe();
    int progress;
    recipe.method = "full";
    test_put_training(c, &recipe);
    assert_int_equal(test_call(c, &progress), IA3_ERROR);
    assert_int_equal(progress, 0);
    const test_error error = test_get_error(&c->reader);
    assert_int_equal(error.code, IA3_E_MEMORY);
    assert_string_equal(error.message, "out of memory for the training state");
    assert_string_equal(
        error.detail, "The method \"full\" needs 169 MB: 31 MB for each of the weights, their gradients and "
                      "their second moments, and about 76 MB for the copies that passes use.");
}

/* What does not fit fails with its size, training before its first step, and leaves the memory to others. */
static void
test_no_room(void **state)
{
    const version v = full_version(0), *bare = NULL;
    double scores[1][2];
    test_engine e;
    test_client c;
    start(&e, &c, "70000000");
    for (int i = 0; i < 3; i++) {
        expect_no_room(&c, &v);
        expect_no_training(&c);
        assert_int_equal(score(&c, &bare, 1, scores), IA3_SCORE_OK);
    }
    stop(&e, &c);
    free(v.bytes);
}

/* --- versions that training starts from --- */

static version
said_version(void)
{
    static const char options[] = "{\"intrinsic_dim\": 1000}";
    ia3_checkpoint *ck = open_backbone();
    ia3_layout *l = layout_of(ck, "said", options);
    float *values = malloc(l->n_values * sizeof *values);
    for (size_t i = 0; i < l->n_values; i++)
        values[i] = 0.01f * ((float) (i % 7) - 3);
    const version v = make_version(l, "said", options, values);
    free(values);
    ia3_layout_free(l);
    ia3_checkpoint_close(ck);
    return v;
}

/* Weights that are spread over the whole backbone. */
static version
fish_version(void)
{
    static const char options[] = "{\"keep_ratio\": 0.0002}";
    ia3_checkpoint *ck = open_backbone();
    ia3_layout *l = layout_of(ck, "fish", options);
    float *values = calloc(l->n_values, sizeof *values);
    assert_true(l->kept > 1000);
    for (size_t i = 0; i < l->kept; i++) {
        ia3_keep_position(l, values, i, i * (l->expanded->n_values / l->kept));
        values[2 * l->kept + i] = 0.1f;
    }
    for (int i = 3; i < l->n; i++)
        values[l->entries[i].offset] = l->entries[i].start;
    const version v = make_version(l, "fish", options, values);
    free(values);
    ia3_layout_free(l);
    ia3_checkpoint_close(ck);
    return v;
}

/* Two steps from a version, malloc'd. */
static uint8_t *
train_from(test_client *c, const version *v, size_t *len)
{
    test_recipe recipe = test_default_recipe();
    recipe.steps = 2;
    recipe.method = v->method;
    recipe.options = v->options;
    recipe.init = v->digest;
    test_put_training(c, &recipe);
    assert_int_equal(test_call(c, NULL), IA3_TRAIN_OK);
    const char *bytes = ia3_get_str(&c->reader, len);
    uint8_t *copy = malloc(*len);
    memcpy(copy, bytes, *len);
    return copy;
}

/* Devices have other values of these versions than those that were trained; training starts from the latter even so. */
static void
test_start_from_device(void **state)
{
    version v[] = {said_version(), fish_version(), full_version(0)};
    test_engine e;
    test_client c;
    start(&e, &c, "0");
    for (size_t i = 0; i < sizeof v / sizeof *v; i++) {
        const version *one = &v[i], *both[] = {&v[i], NULL};
        size_t len, again_len;
        double scores[2][2];
        put(&c, one);
        uint8_t *trained = train_from(&c, one, &len);
        assert_int_equal(len, one->len);
        assert_memory_not_equal(trained, one->bytes, len);
        assert_int_equal(score(&c, both, 2, scores), IA3_SCORE_OK);
        assert_true(fabs(scores[0][0] - scores[1][0]) > 1e-4); /* it is on the device, and does something */
        uint8_t *again = train_from(&c, one, &again_len);
        assert_int_equal(again_len, len);
        assert_memory_equal(again, trained, len);
        free(trained);
        free(again);
    }
    stop(&e, &c);
    for (size_t i = 0; i < sizeof v / sizeof *v; i++)
        free(v[i].bytes);
}

/* --- a backbone in int8 --- */

/* A version of "full" with the backbone's own values, or with others. */
static ia3_adapter *
full_adapter(const golden *g, bool changed)
{
    const ia3_variant v = golden_variant("full", "");
    const ia3_layout *l = golden_layout(g, &v);
    float *values = malloc(l->n_values * sizeof *values);
    ia3_error err = {0};
    golden_ok(ia3_weights_read(g->ck, l, values, &err), &err);
    if (changed)
        change(values, l->n_values, 0);
    ia3_adapter *a = golden_adapter(g, l, values);
    ia3_layout_release(l);
    free(values);
    return a;
}

/* A version's weights become int8 as the backbone's do; it can be used, but not trained there. */
static void
test_int8(void **state)
{
    if (strcmp(golden_device(), "cpu") != 0)
        skip(); /* no other device has int8 */
    static const golden_case cases[] = {{"t5-gated-untied", IA3_INT8}, {"t5-gated-untied", IA3_F32}};
    double scores[2][3][4];
    for (int i = 0; i < 2; i++) {
        golden *g = golden_open(&cases[i]);
        ia3_adapter *adapters[] = {NULL, full_adapter(g, false), full_adapter(g, true)};
        golden_score(g, adapters, 3, 0, scores[i]);
        assert_memory_equal(scores[i][0], scores[i][1], sizeof scores[i][0]);
        for (int k = 1; k < 3; k++)
            ia3_adapter_free(g->m, adapters[k]);
        if (i == 0) {
            golden_examples x;
            golden_examples_open(g, &x);
            const ia3_variant v = golden_variant("full", "");
            const ia3_recipe recipe = golden_recipe(&v);
            ia3_error err = {0};
            assert_null(ia3_train_create(g->m, x.e, GOLDEN_EXAMPLES, &recipe, NULL, &err));
            assert_int_equal(err.code, IA3_E_UNSUPPORTED);
            assert_string_equal(err.message, "cannot train on a backbone in int8");
            golden_examples_close(&x);
        }
        golden_close(g);
    }
    double rounding = 0, effect = 0;
    for (int c = 0; c < 4; c++) {
        rounding = fmax(rounding, fabs(scores[0][2][c] - scores[1][2][c]));
        effect = fmax(effect, fabs(scores[0][2][c] - scores[0][0][c]));
    }
    if (!(rounding < effect / 3))
        fail_msg("the version changes scores by %g, but int8 by %g", effect, rounding);
}

/* --- sizes --- */

/* T0-3B: versions of "full" do not fit in a message, those of "fish" do unless they have many weights. */
static void
test_too_large(void **state)
{
    static const char json[] =
        "{\"model_type\": \"t5\", \"vocab_size\": 32128, \"d_model\": 2048, \"d_kv\": 64, \"d_ff\": 5120,"
        " \"num_heads\": 32, \"num_layers\": 24, \"feed_forward_proj\": \"gated-gelu\","
        " \"tie_word_embeddings\": false}";
    static const struct {
        const char *method, *options, *detail;
    } large[] = {
        {"full", "", "Each would have 11399028736 bytes, but the limit is 535822336."},
        {"full", "{\"ensemble\": 2}", "Each would have 22798057472 bytes, but the limit is 535822336."},
        {"fish", "{\"keep_ratio\": 0.02}", "Each would have 683941724 bytes, but the limit is 535822336."},
    };
    const ia3_variant few = golden_variant("fish", "{\"keep_ratio\": 0.015}");
    ia3_config config;
    ia3_error err = {0};
    golden_ok(ia3_config_parse(&config, json, sizeof json - 1, "config.json", &err), &err);
    config.own_head = true;
    ia3_layouts *ls = ia3_layouts_create(&config, ia3_methods);
    for (size_t i = 0; i < sizeof large / sizeof *large; i++) {
        const ia3_variant v = golden_variant(large[i].method, large[i].options);
        char message[128];
        err = (ia3_error){0};
        snprintf(message, sizeof message, "adapters of this configuration of the method \"%s\" are too large",
                 large[i].method);
        assert_null(ia3_layouts_get(ls, &v, &err));
        assert_int_equal(err.code, IA3_E_TOO_LONG);
        assert_string_equal(err.message, message);
        assert_string_equal(err.detail, large[i].detail);
    }
    const ia3_layout *l = ia3_layouts_get(ls, &few, &err);
    golden_ok(l, &err);
    ia3_layout_release(l);
    ia3_layouts_free(ls);
}

static const void *
zeros_of(const char *name, int64_t rows, int64_t cols, void *zeros)
{
    return zeros;
}

/* A version fits in a message, but the state of its training does not: this is known before the first step. */
static void
test_no_checkpoints(void **state)
{
    static const char json[] =
        "{\"model_type\": \"t5\", \"vocab_size\": 720000, \"d_model\": 64, \"d_kv\": 8, \"d_ff\": 64,"
        " \"num_heads\": 2, \"num_layers\": 1, \"feed_forward_proj\": \"relu\"}";
    static const struct {
        const char *method, *options, *detail;
    } cases[] = {
        {"full", "", "The state and the version would have 527 MB, but the limit is 511 MB."},
        {"fish", "{\"keep_ratio\": 0.5}",
         "The state and the version would have 791 MB, but the limit is 511 MB."},
    };
    int32_t ids[] = {5, 6, 1}, yes[] = {7, 1}, no[] = {8, 1};
    const int32_t *text = ids, *const texts[] = {yes, no};
    const int len[] = {2, 2}, n_ids = 3;
    int a, b;
    ia3_config config;
    ia3_error err = {0};
    golden_ok(ia3_config_parse(&config, json, sizeof json - 1, "config.json", &err), &err);
    void *zeros = calloc(720000 * 64, sizeof(float));
    ia3_checkpoint *ck = ia3_checkpoint_in_memory(&config, IA3_F32, false, zeros_of, zeros);
    ia3_device *dev = ia3_device_open(golden_device(), IA3_F32, 2, 500000000, &err);
    golden_ok(dev, &err);
    ia3_model *m = ia3_model_load(ck, dev, ia3_methods, NULL, NULL, &err);
    golden_ok(m, &err);
    ia3_model_set_checkpoint(m, ck);
    ia3_choices *choices = ia3_choices_create(texts, len, 2, config.start_id, &a, &b, &err);
    golden_ok(choices, &err);
    const ia3_train_example example = {.n_texts = 1, .ids = &text, .n_ids = &n_ids, .choices = choices};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const ia3_variant v = golden_variant(cases[i].method, cases[i].options);
        ia3_recipe recipe = golden_recipe(&v);
        char message[128];
        recipe.stop = 10;
        err = (ia3_error){0};
        snprintf(message, sizeof message,
                 "training with the method \"%s\" cannot be saved in checkpoints on this backbone",
                 cases[i].method);
        assert_null(ia3_train_create(m, &example, 1, &recipe, NULL, &err));
        assert_int_equal(err.code, IA3_E_TOO_LONG);
        assert_string_equal(err.message, message);
        assert_string_equal(err.detail, cases[i].detail);
        assert_string_equal(err.hint, "Train in one piece, with checkpoint_every => 0.");

        recipe.stop = 0; /* only the memory is in the way */
        err = (ia3_error){0};
        assert_null(ia3_train_create(m, &example, 1, &recipe, NULL, &err));
        assert_int_equal(err.code, IA3_E_MEMORY);
    }
    ia3_choices_free(choices);
    ia3_model_free(m);
    dev->ops->close(dev);
    ia3_checkpoint_close(ck);
    free(zeros);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_eviction),          cmocka_unit_test(test_no_room),
        cmocka_unit_test(test_start_from_device), cmocka_unit_test(test_int8),
        cmocka_unit_test(test_too_large),         cmocka_unit_test(test_no_checkpoints),
    };
    return cmocka_run_group_tests_name("weights", tests, NULL, NULL);
}
