/*
 * test_server_generate.c
 *     GENERATE requests as a backend makes them, and decoding tokens to text.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <openssl/sha.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

#include "engine/files/tokenizer.h"
#include "engine/serve/parse.h"
#include "engine_client.h"
#include "engine_requests.h"

#define BACKBONE "test/backbone"

static test_engine engine;

static int
start_engine(void **state)
{
    static const char *const extra[] = {"--dtype", "float32", NULL};
    assert_true(test_engine_start(&engine, BACKBONE, extra));
    return 0;
}

static int
stop_engine(void **state)
{
    int status = test_engine_stop(&engine, true);
    return WIFEXITED(status) && WEXITSTATUS(status) == 0 ? 0 : -1;
}

typedef struct row {
    uint32_t adapter;
    const char *text;
    uint32_t tail; /* 0 = the end of the text */
    uint32_t max_tokens;
    double temperature;
    uint32_t top_k;
    uint64_t seed;
} row;

static void
put_request(ia3_writer *w, uint32_t max_input_tokens, const uint8_t *digest, const row *rows, uint32_t n)
{
    static const uint8_t bare[IA3_DIGEST_LEN];
    ia3_put_u32(w, max_input_tokens);
    ia3_put_u32(w, digest ? 2 : 1);
    ia3_put_bytes(w, bare, sizeof bare);
    if (digest)
        ia3_put_bytes(w, digest, IA3_DIGEST_LEN);
    ia3_put_u32(w, n);
    for (uint32_t i = 0; i < n; i++) {
        ia3_put_u32(w, rows[i].adapter);
        test_put_input(w, rows[i].text, rows[i].tail, NULL, 0);
        ia3_put_u32(w, rows[i].max_tokens);
        ia3_put_f64(w, rows[i].temperature);
        ia3_put_u32(w, rows[i].top_k);
        ia3_put_u64(w, rows[i].seed);
    }
}

static void
get_text(test_client *c, char *text, size_t size)
{
    size_t n;
    assert_int_equal(ia3_get_u8(&c->reader), 1);
    const char *s = ia3_get_str(&c->reader, &n);
    assert_true(!c->reader.bad && n < size);
    memcpy(text, s, n);
    text[n] = '\0';
}

/* Generates the texts of n rows in one request. */
static void
generate(test_client *c, const uint8_t *digest, const row *rows, uint32_t n, char texts[][512])
{
    put_request(test_begin(c, IA3_GENERATE), 256, digest, rows, n);
    assert_int_equal(test_call(c, NULL), IA3_GENERATE_OK);
    for (uint32_t i = 0; i < n; i++)
        get_text(c, texts[i], 512);
    assert_true(test_get_flops(c) > 0);
}

/* Trains on the four examples of engine_requests.h; returns the malloc'd adapter, which the engine then knows. */
static void
train(test_client *c, uint8_t digest[IA3_DIGEST_LEN])
{
    test_recipe recipe = test_default_recipe();
    recipe.steps = 150;
    recipe.learning_rate = 0.01;
    test_put_training(c, &recipe);
    assert_int_equal(test_call(c, NULL), IA3_TRAIN_OK);
    size_t len;
    const char *bytes = ia3_get_str(&c->reader, &len);
    uint8_t *adapter = malloc(len);
    assert_true(!c->reader.bad && len > 0 && adapter != NULL);
    memcpy(adapter, bytes, len);
    SHA256(adapter, len, digest);
    ia3_writer *w = test_begin(c, IA3_PUT_ADAPTER);
    ia3_put_bytes(w, digest, IA3_DIGEST_LEN);
    test_put_text(w, "ia3");
    test_put_text(w, ""); /* options */
    ia3_put_str(w, (const char *) adapter, len);
    assert_int_equal(test_call(c, NULL), IA3_OK);
    free(adapter);
}

/* After training, generation produces the labels of the examples and ends with them. */
static void
test_trained_labels(void **state)
{
    test_client c;
    uint8_t digest[IA3_DIGEST_LEN];
    char texts[5][512], alone[1][512];
    row rows[5];
    test_client_open(&c, &engine);
    train(&c, digest);
    for (int i = 0; i < 4; i++)
        rows[i] = (row){.adapter = 1, .text = test_training_texts[i], .max_tokens = 16 + (uint32_t) i};
    rows[4] = (row){.adapter = 0, .text = test_training_texts[0], .max_tokens = 8};
    generate(&c, digest, rows, 5, texts);
    for (int i = 0; i < 4; i++)
        assert_string_equal(texts[i], test_training_choices[test_training_labels[i]]);
    /* the bare backbone in the same batch generates what it generates alone */
    assert_string_not_equal(texts[4], texts[0]);
    generate(&c, NULL, &rows[4], 1, alone);
    assert_string_equal(alone[0], texts[4]);
    test_client_close(&c);
}

static void
test_sampling(void **state)
{
    test_client c;
    char a[3][512], b[1][512], longer[2][512];
    row rows[3];
    test_client_open(&c, &engine);
    for (int i = 0; i < 3; i++)
        rows[i] = (row){.text = "a review of a film:", .max_tokens = 24, .temperature = 1.0, .seed = 7};
    rows[1].seed = 8;
    rows[2].top_k = 1; /* only the most likely token is left: greedy */
    generate(&c, NULL, rows, 3, a);
    assert_string_not_equal(a[0], a[1]);
    generate(&c, NULL, &rows[0], 1, b); /* the text depends on the seed and not on other rows */
    assert_string_equal(a[0], b[0]);
    rows[0].temperature = 0;
    generate(&c, NULL, rows, 1, b);
    assert_string_equal(a[2], b[0]);

    /* fewer tokens are the beginning of more */
    rows[1].temperature = 50; /* any token, hardly ever the end */
    rows[0] = rows[1];
    rows[0].max_tokens = 3;
    generate(&c, NULL, rows, 2, longer);
    assert_true(strlen(longer[0]) > 0 && strlen(longer[0]) < strlen(longer[1]));
    assert_memory_equal(longer[0], longer[1], strlen(longer[0]));
    test_client_close(&c);
}

/* An invalid row fails alone, an invalid request as a whole; the connection remains open. */
static void
test_errors(void **state)
{
    static const row bad[] = {
        {.text = "x", .max_tokens = 0},
        {.text = "x", .max_tokens = IA3_MAX_NEW_TOKENS + 1},
        {.text = "x", .max_tokens = 1, .temperature = -1},
        {.text = "x", .max_tokens = 1, .temperature = NAN},
        {.text = "x", .max_tokens = 1, .temperature = INFINITY},
        {.text = "x", .max_tokens = 1, .top_k = 0x80000000u},
        {.text = "x", .max_tokens = 1, .tail = 2},
        {.text = "x", .max_tokens = 1, .adapter = 1},
    };
    test_client c;
    test_client_open(&c, &engine);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        put_request(test_begin(&c, IA3_GENERATE), 256, NULL, &bad[i], 1);
        assert_int_equal(test_call(&c, NULL), IA3_ERROR);
        assert_int_equal(test_get_error(&c.reader).code, IA3_E_INVALID);
    }
    row rows[3] = {{.text = "x", .max_tokens = 2},
                   {.text = "a tail that is far too long for so few tokens", .tail = 1, .max_tokens = 2},
                   {.text = "broken \xff byte", .max_tokens = 2}};
    put_request(test_begin(&c, IA3_GENERATE), 5, NULL, rows, 3);
    assert_int_equal(test_call(&c, NULL), IA3_GENERATE_OK);
    char text[512];
    get_text(&c, text, sizeof text);
    assert_int_equal(ia3_get_u8(&c.reader), 0);
    assert_int_equal(test_get_error(&c.reader).code, IA3_E_TOO_LONG);
    assert_int_equal(ia3_get_u8(&c.reader), 0);
    assert_int_equal(test_get_error(&c.reader).code, IA3_E_INVALID);

    uint8_t unknown[IA3_DIGEST_LEN] = {1};
    put_request(test_begin(&c, IA3_GENERATE), 256, unknown, rows, 1);
    assert_int_equal(test_call(&c, NULL), IA3_MISSING);
    put_request(test_begin(&c, IA3_GENERATE), 256, NULL, NULL, 0);
    assert_int_equal(test_call(&c, NULL), IA3_GENERATE_OK);
    assert_true(test_get_flops(&c) == 0);

    ia3_put_u32(test_begin(&c, IA3_GENERATE), 256); /* cut off */
    assert_int_equal(test_call(&c, NULL), IA3_ERROR);
    assert_int_equal(test_get_error(&c.reader).code, IA3_E_PROTOCOL);
    assert_false(test_receive(&c));
    test_client_close(&c);
}

/* Long texts whose client has gone do not delay others. */
static void
test_cancel(void **state)
{
    test_client slow, other;
    test_client_open(&slow, &engine);
    test_client_open(&other, &engine);
    static row rows[200];
    for (int i = 0; i < 200; i++) /* sampled from everything: </s> is unlikely to come soon */
        rows[i] = (row){
            .text = "on and on", .max_tokens = IA3_MAX_NEW_TOKENS, .temperature = 50, .seed = (uint64_t) i};
    put_request(test_begin(&slow, IA3_GENERATE), 256, NULL, rows, 200);
    uint32_t id = test_send(&slow);
    while (test_stat(&other, IA3_STAT_QUEUE_ROWS) == 0) /* it has begun, and more is waiting */
        ;
    ia3_put_u32(test_begin(&slow, IA3_CANCEL), id);
    test_send(&slow);
    assert_true(test_receive(&slow));
    assert_int_equal(slow.type, IA3_ERROR);
    assert_int_equal(slow.request, id);
    assert_int_equal(test_get_error(&slow.reader).code, IA3_E_CANCELLED);
    assert_true(test_stat(&other, IA3_STAT_QUEUE_ROWS) == 0);
    row one = {.text = "x", .max_tokens = 1};
    char text[1][512];
    generate(&slow, NULL, &one, 1, text);
    test_client_close(&slow);
    test_client_close(&other);
}

/* Scoring and generation for several clients at the same time. */
static void
test_mixed(void **state)
{
    static const char *const set[] = {"good", "bad", NULL};
    test_client c[4];
    char alone[1][512], text[512];
    double want[2], scores[2];
    row one = {.text = "the soup was cold", .max_tokens = 12};
    test_rows rows = {.sets = {set}, .n_rows = 1, .rows = {{.text = "the soup was cold"}}};
    for (int i = 0; i < 4; i++)
        test_client_open(&c[i], &engine);
    generate(&c[0], NULL, &one, 1, alone);
    test_put_rows(&c[0], &rows);
    assert_int_equal(test_call(&c[0], NULL), IA3_SCORE_OK);
    test_get_scores(&c[0], want, 2);
    for (int i = 0; i < 4; i++) {
        if (i % 2)
            test_put_rows(&c[i], &rows);
        else
            put_request(test_begin(&c[i], IA3_GENERATE), 256, NULL, &one, 1);
        test_send(&c[i]);
    }
    for (int i = 0; i < 4; i++) {
        assert_true(test_receive(&c[i]));
        assert_int_equal(c[i].type, i % 2 ? IA3_SCORE_OK : IA3_GENERATE_OK);
        if (i % 2) {
            test_get_scores(&c[i], scores, 2);
            assert_true(fabs(scores[0] - want[0]) < 1e-4 && fabs(scores[1] - want[1]) < 1e-4);
        } else {
            get_text(&c[i], text, sizeof text);
            assert_string_equal(text, alone[0]);
        }
        test_client_close(&c[i]);
    }
}

static void
check_decoded(const ia3_tokenizer *tok, const int32_t *ids, int n, const char *want)
{
    char *text;
    size_t len;
    ia3_error err = {0};
    if (!ia3_tokenizer_decode(tok, ids, n, &text, &len, &err))
        fail_msg("%s", err.message);
    assert_string_equal(text, want);
    assert_int_equal(len, strlen(want));
    free(text);
}

static void
test_decode(void **state)
{
    static const char *const texts[] = {"", "A-Z are letters; 10.5% aren't.", "Crème café",
                                        "literal </s> stays"};
    ia3_error err = {0};
    ia3_tokenizer *tok = ia3_tokenizer_open(BACKBONE, 8192, &err);
    assert_non_null(tok);
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        int32_t *ids;
        int n;
        assert_true(ia3_tokenizer_encode(tok, texts[i], strlen(texts[i]), &ids, NULL, &n, &err));
        bool known = true;
        for (int k = 0; k < n; k++)
            known &= ids[k] != ia3_tokenizer_unk(tok);
        assert_true(known);                   /* otherwise this text would prove nothing */
        check_decoded(tok, ids, n, texts[i]); /* </s> at the end leaves nothing */
        free(ids);
    }
    const int32_t strange[] = {0, 1, -1, 8191, INT32_MAX, INT32_MIN};
    check_decoded(tok, strange, 6, "");
    const int32_t unknown[] = {ia3_tokenizer_unk(tok)};
    check_decoded(tok, unknown, 1, " \xe2\x81\x87 ");
    ia3_tokenizer_close(tok);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_decode),   cmocka_unit_test(test_errors), cmocka_unit_test(test_trained_labels),
        cmocka_unit_test(test_sampling), cmocka_unit_test(test_cancel), cmocka_unit_test(test_mixed),
    };
    return cmocka_run_group_tests_name("GENERATE", tests, start_engine, stop_engine);
}
