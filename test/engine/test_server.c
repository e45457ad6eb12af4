/*
 * test_server.c
 *     A running engine, `ia3_engine serve` with test/backbone, as a backend uses it through its socket.
 *     test_server_faults.c tests clients that violate the protocol or die.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <jansson.h>
#include <math.h>
#include <openssl/sha.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "engine/files/adapter.h"
#include "engine_client.h"
#include "engine_requests.h"
#include "engine/model/methods/methods.h"

#define BACKBONE  "test/backbone"
#define TOLERANCE 1e-4 /* of scores, float32 */

static test_engine engine;
static ia3_layout *layout;

static int
start_engine(void **state)
{
    static const char *const extra[] = {"--dtype", "float32", NULL};
    assert_true(test_engine_start(&engine, BACKBONE, extra));
    assert_true(engine.loading_lines > 0);

    FILE *f = fopen(BACKBONE "/config.json", "rb");
    char text[8192];
    size_t n = fread(text, 1, sizeof text, f);
    fclose(f);
    ia3_config config;
    ia3_error err = {0};
    assert_true(ia3_config_parse(&config, text, n, "config.json", &err));
    layout = ia3_layout_create(&config, ia3_variant_standard(ia3_methods[0]));
    return 0;
}

static int
stop_engine(void **state)
{
    int status = test_engine_stop(&engine, true);
    ia3_layout_free(layout);
    return WIFEXITED(status) && WEXITSTATUS(status) == 0 ? 0 : -1;
}

static void
get_name(ia3_reader *r, char name[32])
{
    size_t n;
    const char *s = ia3_get_str(r, &n);
    assert_true(n > 0 && n < 32);
    memcpy(name, s, n);
    name[n] = '\0';
}

static void
check_methods(ia3_reader *r, size_t n_values)
{
    uint32_t n = ia3_get_u32(r);
    for (uint32_t i = 0; i < n; i++) {
        char name[32];
        get_name(r, name);
        assert_string_equal(name, ia3_methods[i]->name);
        assert_true(ia3_get_f64(r) == ia3_methods[i]->learning_rate);
        assert_int_equal(ia3_get_u32(r), ia3_methods[i]->steps);
        uint64_t values = ia3_get_u64(r);
        assert_true(values > 0 && (i > 0 || values == n_values));
        uint32_t options = ia3_get_u32(r);
        for (uint32_t k = 0; k <= options; k++)
            assert_true((ia3_methods[i]->options && ia3_methods[i]->options[k].name) == (k < options));
        const bool factors = strcmp(name, "lora") == 0 || strcmp(name, "said") == 0 ||
                             strcmp(name, "adapter") == 0 || strncmp(name, "compacter", 9) == 0;
        size_t length;
        const char *no_mean = ia3_get_str(r, &length);
        assert_int_equal(length > 0, factors || strcmp(name, "fish") == 0);
        assert_true(length == 0 || (strncmp(no_mean, "Their numbers are factors", 25) == 0) == factors);
    }
    assert_true(n > 0 && ia3_methods[n] == NULL);
}

static void
check_limits(ia3_reader *r)
{
    uint32_t n = ia3_get_u32(r);
    char name[32];
    for (uint32_t i = 0; i < n; i++) {
        get_name(r, name);
        assert_true(i > 0 || strcmp(name, "steps") == 0);
        double min = ia3_get_f64(r);
        assert_true(min < ia3_get_f64(r));
    }
    assert_int_equal(n, 10);
}

static void
test_info(void **state)
{
    test_client c;
    test_client_open(&c, &engine);
    test_begin(&c, IA3_INFO);
    assert_int_equal(test_call(&c, NULL), IA3_INFO_OK);
    const char *want[] = {"test", NULL, "cpu", NULL, "float32", "t5"};
    for (int i = 0; i < 6; i++) {
        size_t n;
        const char *s = ia3_get_str(&c.reader, &n);
        assert_true(n > 0);
        if (want[i]) {
            assert_int_equal(n, strlen(want[i]));
            assert_memory_equal(s, want[i], n);
        }
    }
    ia3_get_bytes(&c.reader, IA3_DIGEST_LEN);
    assert_int_equal(ia3_get_u64(&c.reader), 7869696); /* parameters */
    assert_true(ia3_get_u64(&c.reader) >= 4 * 7869696ull);
    assert_int_equal(ia3_get_u64(&c.reader), layout->n_values);
    assert_int_equal(ia3_get_u32(&c.reader), 8192);
    assert_int_equal(ia3_get_u32(&c.reader), 256);
    assert_int_equal(ia3_get_u32(&c.reader), 6);
    assert_int_equal(ia3_get_u32(&c.reader), 2);
    assert_true(ia3_get_f64(&c.reader) == 0.0);
    check_methods(&c.reader, layout->n_values);
    check_limits(&c.reader);
    assert_true(!c.reader.bad && c.reader.p == c.reader.end);
    test_client_close(&c);
}

static void
test_tokenize(void **state)
{
    test_client c;
    test_client_open(&c, &engine);
    test_put_text(test_begin(&c, IA3_TOKENIZE), "Hello </s>");
    assert_int_equal(test_call(&c, NULL), IA3_TOKENIZE_OK);
    uint32_t n = ia3_get_u32(&c.reader);
    assert_true(n > 4);
    for (uint32_t i = 0; i < n; i++) {
        size_t len;
        uint32_t id = ia3_get_u32(&c.reader);
        const char *piece = ia3_get_str(&c.reader, &len);
        assert_true(len > 0);
        /* the literal is text; only the last token is the control token */
        assert_int_equal(id == 1, i == n - 1);
        assert_int_equal(len == 4 && memcmp(piece, "</s>", 4) == 0, i == n - 1);
    }
    assert_true(!c.reader.bad && c.reader.p == c.reader.end);

    test_put_text(test_begin(&c, IA3_TOKENIZE), "bad \xff byte");
    assert_int_equal(test_call(&c, NULL), IA3_ERROR);
    assert_int_equal(test_get_error(&c.reader).code, IA3_E_INVALID);
    test_put_text(test_begin(&c, IA3_TOKENIZE), ""); /* and the connection remains open */
    assert_int_equal(test_call(&c, NULL), IA3_TOKENIZE_OK);
    assert_int_equal(ia3_get_u32(&c.reader), 1);
    test_client_close(&c);
}

static const char *const sentiment[] = {"positive", "negative", NULL};

static void
test_scores(void **state)
{
    test_client c;
    test_client_open(&c, &engine);
    test_rows rows = {.sets = {sentiment}, .n_rows = 3};
    rows.rows[0] = (test_row){.text = "great movie, loved it"};
    rows.rows[1] = (test_row){.text = "terrible, boring film"};
    rows.rows[2] = (test_row){.text = ""}; /* legal: just </s> */
    double scores[3][2];
    test_put_rows(&c, &rows);
    assert_int_equal(test_call(&c, NULL), IA3_SCORE_OK);
    for (int i = 0; i < 3; i++) {
        test_get_scores(&c, scores[i], 2);
        for (int k = 0; k < 2; k++)
            assert_true(isfinite(scores[i][k]) && scores[i][k] < 0);
    }
    assert_true(test_get_flops(&c) > 0);
    assert_true(scores[0][0] > scores[0][1]);
    /* a worse text lowers the margin of "positive" */
    assert_true(scores[0][0] - scores[0][1] > scores[1][0] - scores[1][1]);

    /* no rows, no sets: an empty answer */
    test_rows none = {0};
    test_put_rows(&c, &none);
    assert_int_equal(test_call(&c, NULL), IA3_SCORE_OK);
    assert_true(test_get_flops(&c) == 0);
    test_client_close(&c);
}

/* A row's scores do not depend on other rows, their order or the connection. */
static void
test_company(void **state)
{
    static const char *const four[] = {"account", "billing", "bug", "negative", NULL};
    test_client a, b;
    test_client_open(&a, &engine);
    test_client_open(&b, &engine);
    test_row row = {.text = "The invoice was charged twice, please refund one of the payments"};
    test_rows alone = {.sets = {sentiment}, .n_rows = 1, .rows = {row}};
    double want[2], got[4];
    test_put_rows(&a, &alone);
    assert_int_equal(test_call(&a, NULL), IA3_SCORE_OK);
    test_get_scores(&a, want, 2);

    test_rows crowd = {.sets = {four, sentiment}, .n_rows = 20};
    char texts[20][200];
    for (int i = 0; i < 20; i++) {
        snprintf(texts[i], sizeof texts[i], "%.*s", 10 * i,
                 "a long text that is cut after some words and then again "
                 "after some more so that there are many lengths of it all "
                 "in one batch that has no padding, and then it ends here");
        crowd.rows[i] = (test_row){.text = texts[i], .set = (uint32_t) (i % 2)};
    }
    row.set = 1;
    crowd.rows[7] = crowd.rows[13] = row;
    test_put_rows(&a, &crowd);
    test_send(&a);
    test_put_rows(&b, &alone);
    assert_int_equal(test_call(&b, NULL), IA3_SCORE_OK);
    test_get_scores(&b, got, 2);
    for (int k = 0; k < 2; k++)
        assert_true(fabs(got[k] - want[k]) < TOLERANCE);
    assert_true(test_receive(&a));
    assert_int_equal(a.type, IA3_SCORE_OK);
    for (int i = 0; i < 20; i++) {
        int n = crowd.rows[i].set == 0 ? 4 : 2;
        test_get_scores(&a, got, n);
        if (i == 7 || i == 13)
            for (int k = 0; k < 2; k++)
                assert_true(fabs(got[k] - want[k]) < TOLERANCE);
    }
    test_client_close(&a);
    test_client_close(&b);
}

static void
test_repeated_rows(void **state)
{
    test_client c;
    test_client_open(&c, &engine);
    double before = test_stat(&c, IA3_STAT_DEDUP_ROWS), rows_before = test_stat(&c, IA3_STAT_ROWS);
    test_rows rows = {.sets = {sentiment}, .n_rows = 30};
    for (int i = 0; i < 30; i++)
        rows.rows[i] = (test_row){.text = i % 3 ? "the same thing again" : "another thing"};
    test_put_rows(&c, &rows);
    assert_int_equal(test_call(&c, NULL), IA3_SCORE_OK);
    double first[3][2], got[2];
    for (int i = 0; i < 30; i++) {
        test_get_scores(&c, i < 3 ? first[i] : got, 2);
        if (i >= 3)
            assert_memory_equal(got, first[i % 3], sizeof got);
    }
    assert_true(test_stat(&c, IA3_STAT_DEDUP_ROWS) - before > 0);
    assert_true(test_stat(&c, IA3_STAT_ROWS) - rows_before == 30);
    assert_true(test_stat(&c, IA3_STAT_QUEUE_ROWS) == 0);
    test_client_close(&c);
}

/* A row that fails does not affect the others. */
static void
check_row_errors(uint32_t multi_label)
{
    static const char *const twice[] = {"yes", "no", "yes", NULL}, *const empty[] = {"yes", "", NULL},
                             *const alike[] = {"\u2603", "\u2602", NULL}, *const none[] = {NULL},
                             *const spaces[] = {"yes", "  ", NULL}, *const bytes[] = {"yes", "\xc3(", NULL};
    char longest[2000] = "";
    for (int i = 0; i < 400; i++)
        strcat(longest, "x1 ");
    const char *const too_long[] = {"yes", longest, NULL};
    test_client c;
    test_client_open(&c, &engine);
    test_rows rows = {.max_input_tokens = 16,
                      .multi_label = multi_label,
                      .sets = {sentiment, twice, empty, alike, none, spaces, bytes, too_long},
                      .n_rows = 10};
    for (uint32_t i = 0; i < 8; i++)
        rows.rows[i] = (test_row){.text = "some text", .set = i};
    rows.rows[8] = (test_row){.text = "\x80 is not UTF-8"};
    rows.rows[9] = (test_row){.text = longest, .tail = 3}; /* nearly all of it is the tail */
    test_put_rows(&c, &rows);
    assert_int_equal(test_call(&c, NULL), IA3_SCORE_OK);
    double scores[2];
    test_get_scores(&c, scores, 2);
    static const struct {
        uint32_t code;
        const char *message;
    } want[] = {{IA3_E_CHOICES, "choice \"yes\" is given twice"},
                {IA3_E_CHOICES, "choice 2 is empty"},
                {IA3_E_CHOICES, "choices \"\u2603\" and \"\u2602\" are indistinguishable"},
                {IA3_E_CHOICES, "there are no choices"},
                {IA3_E_CHOICES, "choice 2 is empty"},
                {IA3_E_INVALID, NULL},
                {IA3_E_TOO_LONG, "choice 2 is too long"},
                {IA3_E_INVALID, NULL},
                {IA3_E_TOO_LONG, NULL}};
    for (int i = 0; i < 9; i++) {
        assert_int_equal(ia3_get_u8(&c.reader), 0);
        test_error e = test_get_error(&c.reader);
        assert_int_equal(e.code, want[i].code);
        if (want[i].message)
            assert_string_equal(e.message, want[i].message);
        assert_true(e.message[0] != '\0');
        if (i == 2)
            assert_non_null(strstr(e.detail, "<unk>"));
    }
    assert_true(test_get_flops(&c) > 0); /* of the first row */
    test_client_close(&c);
}

static void
test_row_errors(void **state)
{
    check_row_errors(0);
    check_row_errors(0xff);
}

/* Truncation keeps the tail, and the text that is dropped does not matter. */
static void
test_truncation(void **state)
{
    char a[6000] = "", b[6000] = "";
    for (int i = 0; i < 500; i++) {
        strcat(a, "word ");
        strcat(b, i < 100 ? "word " : "other ");
    }
    uint32_t tail_a = (uint32_t) strlen(a), tail_b = (uint32_t) strlen(b);
    strcat(a, "Sentiment:");
    strcat(b, "Sentiment:");
    test_client c;
    test_client_open(&c, &engine);
    test_rows rows = {.max_input_tokens = 40, .sets = {sentiment}, .n_rows = 3};
    rows.rows[0] = (test_row){.text = a, .tail = tail_a};
    rows.rows[1] = (test_row){.text = b, .tail = tail_b};
    rows.rows[2] = (test_row){.text = a}; /* no tail: cut at the end */
    test_put_rows(&c, &rows);
    assert_int_equal(test_call(&c, NULL), IA3_SCORE_OK);
    double scores[3][2];
    for (int i = 0; i < 3; i++)
        test_get_scores(&c, scores[i], 2);
    assert_memory_equal(scores[0], scores[1], sizeof scores[0]);
    assert_true(fabs(scores[2][0] - scores[0][0]) > TOLERANCE);
    test_client_close(&c);
}

/* With fields the longest is shortened, which gives the scores of the shorter text, and everything else is kept. */
static void
test_fields(void **state)
{
    char context[6000] = "", text[6200], by_hand[6200];
    for (int i = 0; i < 500; i++)
        strcat(context, "word ");
    snprintf(text, sizeof text, "%sand Sentiment: good?", context);
    context[28 * 5] = '\0'; /* 28 words are left */
    snprintf(by_hand, sizeof by_hand, "%sand Sentiment: good?", context);
    static const ia3_field fields[] = {{0, 2499}, {2515, 2519}};
    test_client c;
    test_client_open(&c, &engine);
    test_put_text(test_begin(&c, IA3_TOKENIZE), by_hand);
    assert_int_equal(test_call(&c, NULL), IA3_TOKENIZE_OK);
    test_rows rows = {.max_input_tokens = ia3_get_u32(&c.reader), .sets = {sentiment}, .n_rows = 2};
    rows.rows[0] = (test_row){.text = by_hand};
    rows.rows[1] = (test_row){.text = text, .n_fields = 2, .fields = fields};
    double before = test_stat(&c, IA3_STAT_TRUNCATED_ROWS), scores[2][2];
    test_put_rows(&c, &rows);
    assert_int_equal(test_call(&c, NULL), IA3_SCORE_OK);
    for (int i = 0; i < 2; i++)
        test_get_scores(&c, scores[i], 2);
    assert_memory_equal(scores[0], scores[1], sizeof scores[0]);
    assert_true(test_stat(&c, IA3_STAT_TRUNCATED_ROWS) == before + 1);
    test_client_close(&c);
}

static uint8_t *
constant_adapter(float value, size_t *len, uint8_t digest[IA3_DIGEST_LEN])
{
    float *values = malloc(layout->n_values * sizeof *values);
    for (size_t i = 0; i < layout->n_values; i++)
        values[i] = value;
    uint8_t *bytes = ia3_adapter_serialize(layout, values, len);
    free(values);
    SHA256(bytes, *len, digest);
    return bytes;
}

static void
put_adapter(test_client *c, const uint8_t *digest, const uint8_t *bytes, size_t len)
{
    ia3_writer *w = test_begin(c, IA3_PUT_ADAPTER);
    ia3_put_bytes(w, digest, IA3_DIGEST_LEN);
    test_put_text(w, "ia3");
    test_put_text(w, "");
    ia3_put_str(w, (const char *) bytes, len);
}

static void
test_adapters(void **state)
{
    test_client c;
    test_client_open(&c, &engine);
    uint8_t digests[3][IA3_DIGEST_LEN] = {{0}};
    size_t len[3];
    uint8_t *ones = constant_adapter(1, &len[1], digests[1]),
            *other = constant_adapter(1.25f, &len[2], digests[2]);
    test_rows rows = {.sets = {sentiment}, .n_digests = 4, .n_rows = 3};
    rows.digests[0] = digests[0];
    rows.digests[1] = digests[1];
    rows.digests[2] = rows.digests[3] = digests[2];
    for (uint32_t i = 0; i < 3; i++)
        rows.rows[i] = (test_row){.text = "great movie, loved it", .adapter = i};
    test_put_rows(&c, &rows);
    assert_int_equal(test_call(&c, NULL), IA3_MISSING);
    assert_int_equal(ia3_get_u32(&c.reader), 2);
    assert_memory_equal(ia3_get_bytes(&c.reader, IA3_DIGEST_LEN), digests[1], IA3_DIGEST_LEN);
    assert_memory_equal(ia3_get_bytes(&c.reader, IA3_DIGEST_LEN), digests[2], IA3_DIGEST_LEN);
    assert_true(c.reader.p == c.reader.end);

    /* under a wrong digest, and bytes that are no adapter */
    put_adapter(&c, digests[1], other, len[2]);
    assert_int_equal(test_call(&c, NULL), IA3_ERROR);
    assert_int_equal(test_get_error(&c.reader).code, IA3_E_BAD_ADAPTER);
    uint8_t junk[100] = {12}, junk_digest[IA3_DIGEST_LEN];
    SHA256(junk, sizeof junk, junk_digest);
    put_adapter(&c, junk_digest, junk, sizeof junk);
    assert_int_equal(test_call(&c, NULL), IA3_ERROR);
    assert_int_equal(test_get_error(&c.reader).code, IA3_E_BAD_ADAPTER);

    put_adapter(&c, digests[1], ones, len[1]);
    assert_int_equal(test_call(&c, NULL), IA3_OK);
    put_adapter(&c, digests[2], other, len[2]);
    assert_int_equal(test_call(&c, NULL), IA3_OK);
    test_put_rows(&c, &rows);
    assert_int_equal(test_call(&c, NULL), IA3_SCORE_OK);
    double scores[3][2];
    for (int i = 0; i < 3; i++)
        test_get_scores(&c, scores[i], 2);
    for (int k = 0; k < 2; k++) {
        assert_true(fabs(scores[0][k] - scores[1][k]) < TOLERANCE); /* ones = the bare backbone */
        assert_true(fabs(scores[0][k] - scores[2][k]) > TOLERANCE);
    }
    assert_true(test_stat(&c, IA3_STAT_CACHED_ADAPTERS) >= 2);
    assert_true(test_stat(&c, IA3_STAT_CACHED_BYTES) >= 2.0 * (double) layout->n_values * 4);
    assert_true(test_stat(&c, IA3_STAT_CACHE_MISSES) >= 2);
    test_put_rows(&c, &rows); /* known now */
    assert_int_equal(test_call(&c, NULL), IA3_SCORE_OK);
    assert_true(test_stat(&c, IA3_STAT_CACHE_HITS) >= 2);
    free(ones);
    free(other);
    test_client_close(&c);
}

static void
check_metrics(const char *text, size_t n, uint32_t steps)
{
    json_error_t e;
    json_t *metrics = json_loadb(text, n, 0, &e);
    assert_non_null(metrics);
    static const char *const numbers[] = {"loss", "lm_loss", "unlikelihood_loss", "length_norm_loss",
                                          "seconds"};
    for (int i = 0; i < 5; i++)
        assert_true(json_is_number(json_object_get(metrics, numbers[i])));
    assert_int_equal(json_integer_value(json_object_get(metrics, "steps")), steps);
    assert_int_equal(json_integer_value(json_object_get(metrics, "examples")), 4);
    assert_int_equal(json_integer_value(json_object_get(metrics, "truncated")), 0);
    json_t *curve = json_object_get(metrics, "loss_curve");
    size_t points = json_array_size(curve);
    assert_true(points >= 2 && points <= 100);
    double first = json_number_value(json_array_get(curve, 0));
    assert_true(json_number_value(json_object_get(metrics, "loss")) < first);
    json_decref(metrics);
}

/* Trains, and predicts with the resulting adapter: the results are the labels of the training examples. */
static void
test_training(void **state)
{
    test_client c;
    test_client_open(&c, &engine);
    test_recipe recipe = test_default_recipe();
    recipe.steps = 60;
    recipe.learning_rate = 0.02;
    int progress;
    time_t began = time(NULL);
    test_put_training(&c, &recipe);
    assert_int_equal(test_call(&c, &progress), IA3_TRAIN_OK);
    assert_in_range(progress, 1,
                    5 * (time(NULL) - began + 1) + 2); /* every 200 ms at most, first and last step */
    size_t len, metrics_len;
    const uint8_t *bytes = (const uint8_t *) ia3_get_str(&c.reader, &len);
    const char *metrics = ia3_get_str(&c.reader, &metrics_len);
    assert_int_equal(ia3_get_u32(&c.reader), 4);
    size_t state_len;
    ia3_get_str(&c.reader, &state_len);
    assert_int_equal(state_len, 0);
    assert_true(!c.reader.bad && c.reader.p == c.reader.end);
    check_metrics(metrics, metrics_len, 60);
    ia3_error err = {0};
    float *values = ia3_adapter_parse(layout, bytes, len, &err);
    assert_non_null(values);
    free(values);

    uint8_t digest[IA3_DIGEST_LEN], *copy = malloc(len);
    memcpy(copy, bytes, len);
    SHA256(copy, len, digest);
    put_adapter(&c, digest, copy, len);
    assert_int_equal(test_call(&c, NULL), IA3_OK);
    test_rows rows = {.sets = {test_training_choices}, .n_digests = 1, .n_rows = 4, .digests = {digest}};
    for (int i = 0; i < 4; i++)
        rows.rows[i] = (test_row){.text = test_training_texts[i]};
    test_put_rows(&c, &rows);
    assert_int_equal(test_call(&c, NULL), IA3_SCORE_OK);
    for (int i = 0; i < 4; i++) {
        double scores[2];
        test_get_scores(&c, scores, 2);
        assert_int_equal(scores[1] > scores[0], test_training_labels[i]);
    }

    /* the same seed gives the same bytes; starting from this adapter gives others */
    test_put_training(&c, &recipe);
    assert_int_equal(test_call(&c, NULL), IA3_TRAIN_OK);
    size_t again_len;
    const uint8_t *again = (const uint8_t *) ia3_get_str(&c.reader, &again_len);
    assert_int_equal(again_len, len);
    assert_memory_equal(again, copy, len);
    recipe.init = digest;
    recipe.steps = 3;
    test_put_training(&c, &recipe);
    assert_int_equal(test_call(&c, NULL), IA3_TRAIN_OK);
    again = (const uint8_t *) ia3_get_str(&c.reader, &again_len);
    assert_int_equal(again_len, len);
    assert_memory_not_equal(again, copy, len);

    uint8_t unknown[IA3_DIGEST_LEN] = {7};
    recipe.init = unknown;
    test_put_training(&c, &recipe);
    assert_int_equal(test_call(&c, NULL), IA3_MISSING);
    assert_int_equal(ia3_get_u32(&c.reader), 1);
    assert_memory_equal(ia3_get_bytes(&c.reader, IA3_DIGEST_LEN), unknown, IA3_DIGEST_LEN);
    free(copy);
    test_client_close(&c);
}

/* A training run in two requests, the second on another connection, gives the same bytes as in one. */
static void
test_pause(void **state)
{
    test_client c;
    test_recipe recipe = test_default_recipe();
    recipe.dropout = 0.1;
    test_client_open(&c, &engine);
    test_put_training(&c, &recipe);
    assert_int_equal(test_call(&c, NULL), IA3_TRAIN_OK);
    size_t len, n;
    const char *bytes = ia3_get_str(&c.reader, &len);
    char *whole = malloc(len);
    memcpy(whole, bytes, len);

    recipe.stop = 4;
    test_put_training(&c, &recipe);
    assert_int_equal(test_call(&c, NULL), IA3_TRAIN_OK);
    bytes = ia3_get_str(&c.reader, &n);
    assert_true(n != len || memcmp(bytes, whole, n) != 0);
    const char *metrics = ia3_get_str(&c.reader, &n);
    check_metrics(metrics, n, 4);
    assert_int_equal(ia3_get_u32(&c.reader), 4);
    bytes = ia3_get_str(&c.reader, &recipe.state_len);
    assert_true(recipe.state_len > 0 && !c.reader.bad && c.reader.p == c.reader.end);
    uint8_t *saved = malloc(recipe.state_len);
    memcpy(saved, bytes, recipe.state_len);
    test_client_close(&c);

    test_client_open(&c, &engine);
    recipe.state = saved;
    recipe.stop = 10;
    test_put_training(&c, &recipe);
    assert_int_equal(test_call(&c, NULL), IA3_TRAIN_OK);
    bytes = ia3_get_str(&c.reader, &n);
    assert_int_equal(n, len);
    assert_memory_equal(bytes, whole, len);
    metrics = ia3_get_str(&c.reader, &n);
    check_metrics(metrics, n, 6);

    recipe.state_len--;
    test_put_training(&c, &recipe);
    assert_int_equal(test_call(&c, NULL), IA3_ERROR);
    assert_int_equal(ia3_get_u32(&c.reader), IA3_E_INVALID);
    recipe.state_len = 0;
    recipe.stop = 11;
    test_put_training(&c, &recipe);
    assert_int_equal(test_call(&c, NULL), IA3_ERROR);
    assert_int_equal(ia3_get_u32(&c.reader), IA3_E_INVALID);
    free(saved);
    free(whole);
    test_client_close(&c);
}

/* Three training runs and scoring at the same time: all finish, and each run has the same result as alone. */
static void
test_together(void **state)
{
    test_client c[3], scorer;
    test_recipe recipe = test_default_recipe();
    recipe.steps = 25;
    recipe.dropout = 0.1;
    uint8_t *alone[3];
    size_t len[3];
    test_client_open(&scorer, &engine);
    for (int i = 0; i < 3; i++) {
        test_client_open(&c[i], &engine);
        recipe.seed = (uint64_t) i;
        test_put_training(&c[i], &recipe);
        assert_int_equal(test_call(&c[i], NULL), IA3_TRAIN_OK);
        const char *bytes = ia3_get_str(&c[i].reader, &len[i]);
        alone[i] = malloc(len[i]);
        memcpy(alone[i], bytes, len[i]);
    }
    assert_true(len[0] != len[1] || memcmp(alone[0], alone[1], len[0]) != 0);
    for (int i = 0; i < 3; i++) {
        recipe.seed = (uint64_t) i;
        test_put_training(&c[i], &recipe);
        test_send(&c[i]);
    }
    test_rows rows = {.sets = {sentiment}, .n_rows = 1, .rows = {{.text = "meanwhile"}}};
    for (int i = 0; i < 5; i++) {
        test_put_rows(&scorer, &rows);
        assert_int_equal(test_call(&scorer, NULL), IA3_SCORE_OK);
    }
    assert_true(test_stat(&scorer, IA3_STAT_TRAIN_STEPS) > 75);
    for (int i = 0; i < 3; i++) {
        do
            assert_true(test_receive(&c[i]));
        while (c[i].type == IA3_PROGRESS);
        assert_int_equal(c[i].type, IA3_TRAIN_OK);
        size_t n;
        const char *bytes = ia3_get_str(&c[i].reader, &n);
        assert_int_equal(n, len[i]);
        if (memcmp(bytes, alone[i], n) != 0) { /* sums over another batch may round differently, not more */
            ia3_error err = {0};
            float *a = ia3_adapter_parse(layout, alone[i], n, &err),
                  *b = ia3_adapter_parse(layout, (const uint8_t *) bytes, n, &err);
            for (size_t k = 0; k < layout->n_values; k++)
                assert_true(fabsf(a[k] - b[k]) < 1e-3f);
            free(a);
            free(b);
        }
        free(alone[i]);
        test_client_close(&c[i]);
    }
    assert_true(test_stat(&scorer, IA3_STAT_TRAIN_JOBS) == 0);
    assert_true(test_stat(&scorer, IA3_STAT_TRAIN_SECONDS) > 0);
    assert_true(test_stat(&scorer, IA3_STAT_BATCHES) > 0);
    assert_true(test_stat(&scorer, IA3_STAT_MAX_BATCH_ROWS) >= 1);
    test_client_close(&scorer);
}

/*
 * The cache has room for one adapter, and a request needs two. The one that was found while the other was missing, and
 * the one that was put, must both still be cached when the request is repeated.
 */
static void
test_small_cache(void **state)
{
    char size[32];
    snprintf(size, sizeof size, "%zu", layout->n_values * sizeof(float));
    const char *const extra[] = {"--dtype", "float32", "--adapter-cache-size", size, NULL};
    test_engine small;
    assert_true(test_engine_start(&small, BACKBONE, extra));
    test_client c;
    test_client_open(&c, &small);
    uint8_t digests[2][IA3_DIGEST_LEN], *bytes[2];
    size_t len[2];
    for (int i = 0; i < 2; i++)
        bytes[i] = constant_adapter(1 + 0.25f * (float) i, &len[i], digests[i]);
    put_adapter(&c, digests[0], bytes[0], len[0]);
    assert_int_equal(test_call(&c, NULL), IA3_OK);
    test_rows rows = {.sets = {sentiment}, .n_digests = 1, .digests = {digests[0]}, .n_rows = 1};
    rows.rows[0] = (test_row){.text = "great movie, loved it"};
    test_put_rows(&c, &rows);
    assert_int_equal(test_call(&c, NULL), IA3_SCORE_OK);

    rows.n_digests = rows.n_rows = 2;
    rows.digests[1] = digests[1];
    rows.rows[1] = (test_row){.text = "great movie, loved it", .adapter = 1};
    test_put_rows(&c, &rows);
    assert_int_equal(test_call(&c, NULL), IA3_MISSING);
    assert_int_equal(ia3_get_u32(&c.reader), 1);
    assert_memory_equal(ia3_get_bytes(&c.reader, IA3_DIGEST_LEN), digests[1], IA3_DIGEST_LEN);
    put_adapter(&c, digests[1], bytes[1], len[1]);
    assert_int_equal(test_call(&c, NULL), IA3_OK);
    test_put_rows(&c, &rows);
    assert_int_equal(test_call(&c, NULL), IA3_SCORE_OK);
    assert_true(test_stat(&c, IA3_STAT_CACHED_ADAPTERS) == 1); /* and not longer than needed */
    for (int i = 0; i < 2; i++)
        free(bytes[i]);
    test_client_close(&c);
    assert_int_equal(test_engine_stop(&small, true), 0);
}

/* Training steps alternate with batches, so a steady stream of rows does not starve a training run. */
static void
test_training_among_rows(void **state)
{
    enum { ROWS = 800 };
    static const char *const extra[] = {"--dtype", "float32", "--max-batch-tokens", "64", NULL};
    static const uint8_t bare[IA3_DIGEST_LEN];
    test_engine busy;
    assert_true(test_engine_start(&busy, BACKBONE, extra));
    test_client rows, training;
    test_client_open(&rows, &busy);
    test_client_open(&training, &busy);
    ia3_writer *w = test_begin(&rows, IA3_SCORE);
    ia3_put_u32(w, 256);
    ia3_put_u32(w, 1);
    ia3_put_bytes(w, bare, sizeof bare);
    ia3_put_u32(w, 1);
    test_put_set(w, sentiment, false);
    ia3_put_u32(w, ROWS);
    for (int i = 0; i < ROWS; i++) {
        char text[64];
        snprintf(text, sizeof text, "row number %d of very many", i);
        ia3_put_u32(w, 0);
        ia3_put_u32(w, 0);
        test_put_input(w, text, 0, NULL, 0);
    }
    test_send(&rows);

    test_recipe recipe = test_default_recipe();
    recipe.steps = 2;
    test_put_training(&training, &recipe);
    assert_int_equal(test_call(&training, NULL), IA3_TRAIN_OK);
    assert_true(test_stat(&training, IA3_STAT_ROWS) < ROWS);
    assert_true(test_receive(&rows));
    assert_int_equal(rows.type, IA3_SCORE_OK);
    test_client_close(&rows);
    test_client_close(&training);
    assert_int_equal(test_engine_stop(&busy, true), 0);
}

int
main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_info),        cmocka_unit_test(test_tokenize),
        cmocka_unit_test(test_scores),      cmocka_unit_test(test_company),
        cmocka_unit_test(test_row_errors),  cmocka_unit_test(test_truncation),
        cmocka_unit_test(test_fields),      cmocka_unit_test(test_repeated_rows),
        cmocka_unit_test(test_adapters),    cmocka_unit_test(test_training),
        cmocka_unit_test(test_pause),       cmocka_unit_test(test_together),
        cmocka_unit_test(test_small_cache), cmocka_unit_test(test_training_among_rows),
    };
    alarm(1200);
    if (argc > 1) /* one test, by name */
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests_name("server", tests, start_engine, stop_engine);
}
