/*
 * test_reclaim.c
 *     When memory is short, versions on the device that no request uses make room for training, for passes and for other
 *     versions, and the client that ran out of memory notices nothing.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>
#include <openssl/sha.h>

#include "engine_requests.h"

#define BACKBONE "test/backbone"

/* As many rows, if they are long enough, take more memory in a pass than training leaves beside a version. */
#define ROWS 64

static const char *const choices[] = {"good", "bad", NULL};

/* What training all weights has given (full), and the memory that it needed. */
typedef struct version {
    uint8_t *values;
    size_t len, memory;
} version;

static void
start(test_engine *e, test_client *c, size_t memory)
{
    char limit[32];
    snprintf(limit, sizeof limit, "%zu", memory);
    const char *const extra[] = {"--dtype", "float32", "--memory-limit", limit, "--max-batch-tokens",
                                 "100000",  NULL};
    assert_true(test_engine_start(e, BACKBONE, extra));
    test_client_open(c, e);
}

static void
stop(test_engine *e, test_client *c)
{
    test_client_close(c);
    assert_int_equal(test_engine_stop(e, true), 0);
}

/* Trains all weights; true, or false for lack of memory. The result (malloc'd; may be NULL) is the version's values. */
static bool
train(test_client *c, uint8_t **values, size_t *len)
{
    test_recipe recipe = test_default_recipe();
    recipe.steps = 2;
    recipe.method = "full";
    test_put_training(c, &recipe);
    if (test_call(c, NULL) == IA3_ERROR) {
        assert_int_equal(test_get_error(&c->reader).code, IA3_E_MEMORY);
        return false;
    }
    assert_int_equal(c->type, IA3_TRAIN_OK);
    const char *bytes = ia3_get_str(&c->reader, len);
    if (values) {
        *values = malloc(*len);
        memcpy(*values, bytes, *len);
    }
    return true;
}

static void
put(test_client *c, const uint8_t *values, size_t len)
{
    uint8_t digest[IA3_DIGEST_LEN];
    SHA256(values, len, digest);
    ia3_writer *w = test_begin(c, IA3_PUT_ADAPTER);
    ia3_put_bytes(w, digest, IA3_DIGEST_LEN);
    test_put_text(w, "full");
    test_put_text(w, "");
    ia3_put_str(w, (const char *) values, len);
    assert_int_equal(test_call(c, NULL), IA3_OK);
}

/* Scores a short text with a version. */
static void
score(test_client *c, const uint8_t *values, size_t len, double scores[2])
{
    uint8_t digest[IA3_DIGEST_LEN];
    SHA256(values, len, digest);
    test_rows rows = {
        .digests = {digest}, .n_digests = 1, .sets = {choices}, .n_rows = 1, .rows = {{.text = "cold soup"}}};
    test_put_rows(c, &rows);
    assert_int_equal(test_call(c, NULL), IA3_SCORE_OK);
    test_get_scores(c, scores, 2);
}

/* Scores different texts of so many words, all in one pass. */
static void
score_many(test_client *c, int words, double scores[ROWS][2])
{
    char texts[ROWS][8000];
    test_rows rows = {.max_input_tokens = 1600, .sets = {choices}, .n_rows = ROWS};
    for (int i = 0; i < ROWS; i++) {
        int len = snprintf(texts[i], sizeof texts[i], "%d", i);
        for (int k = 0; k < words; k++)
            len += snprintf(texts[i] + len, sizeof texts[i] - (size_t) len, " word");
        rows.rows[i].text = texts[i];
    }
    test_put_rows(c, &rows);
    assert_int_equal(test_call(c, NULL), IA3_SCORE_OK);
    for (int i = 0; i < ROWS; i++)
        test_get_scores(c, scores[i], 2);
}

/* The least memory, in steps of 4 MB, with which all weights can be trained by an engine that does nothing else. */
static size_t
least_memory(uint8_t **values, size_t *len)
{
    for (size_t memory = (size_t) 48 << 20; memory < (size_t) 400 << 20; memory += (size_t) 4 << 20) {
        test_engine e;
        test_client c;
        start(&e, &c, memory);
        const bool ok = train(&c, values, len);
        stop(&e, &c);
        if (ok)
            return memory;
    }
    fail_msg("training takes too much memory");
    return 0;
}

/* An engine with a version whose weights are on the device and stay there; the scores of a text. */
static void
start_with_version(test_engine *e, test_client *c, version *v, double scores[2])
{
    start(e, c, v->memory);
    put(c, v->values, v->len);
    score(c, v->values, v->len, scores);
    assert_true(test_stat(c, IA3_STAT_CACHED_BYTES) > 1.9 * (double) v->len);
}

/* The version is no longer there, but sent again it gives the same scores. */
static void
check_evicted(test_client *c, version *v, const double before[2])
{
    double after[2];
    assert_true(test_stat(c, IA3_STAT_CACHED_BYTES) == 0);
    put(c, v->values, v->len);
    score(c, v->values, v->len, after);
    assert_memory_equal(before, after, sizeof after);
}

static void
test_training(void **state)
{
    version *v = *state;
    size_t len;
    double before[2];
    test_engine e;
    test_client c;
    start_with_version(&e, &c, v, before);
    assert_true(train(&c, NULL, &len));
    assert_int_equal(len, v->len);
    check_evicted(&c, v, before);
    stop(&e, &c);
}

static void
test_pass(void **state)
{
    static double alone[ROWS][2], beside[ROWS][2];
    version *v = *state;
    double before[2];
    test_engine e;
    test_client c;
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    skip(); /* such a pass takes a minute then */
#endif
    int words = 0;
    bool evicted = false;
    while (!evicted && (words += 500) <= 1500) {
        start_with_version(&e, &c, v, before);
        score_many(&c, words, beside);
        evicted = test_stat(&c, IA3_STAT_CACHED_BYTES) == 0;
        if (!evicted)
            stop(&e, &c);
    }
    assert_true(evicted);
    check_evicted(&c, v, before);
    stop(&e, &c);
    start(&e, &c, v->memory);
    score_many(&c, words, alone);
    stop(&e, &c);
    assert_memory_equal(alone, beside, sizeof alone);
}

static int
set_up(void **state)
{
    static version v;
    v.memory = least_memory(&v.values, &v.len);
    *state = &v;
    return 0;
}

static int
tear_down(void **state)
{
    free(((version *) *state)->values);
    return 0;
}

int
main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_training), cmocka_unit_test(test_pass)};
    alarm(600);
    return cmocka_run_group_tests_name("reclaim", tests, set_up, tear_down);
}
