/*
 * test_linear.c
 *     LINEAR: its predictions, which scikit-learn's LogisticRegression(solver="liblinear", tol=1e-4) makes too, and requests
 *     that are refused.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "engine/recipe/linear.h"
#include "engine_client.h"

#define BACKBONE "test/backbone"
#define ROWS     40

/* Rows from a generator of numbers: each label has a word of its own, which a third of the rows lack; others are noise. */
static uint32_t
make_row(uint32_t i, uint32_t *label, uint32_t words[6])
{
    uint32_t x = i * 2654435761u;
    *label = (x >> 7) % 3;
    for (int k = 0; k < 5; k++) {
        x = x * 1664525u + 1013904223u;
        words[k] = 3 + (x >> 16) % 9;
    }
    words[5] = (x >> 9) % 3 == 0 ? 3 : *label;
    return 6;
}

static const uint32_t expected[ROWS] = {2, 0, 1, 2, 1, 0, 1, 1, 2, 2, 2, 0, 2, 2, 1, 0, 1, 1, 2, 1,
                                        0, 2, 2, 0, 2, 0, 1, 0, 1, 1, 2, 0, 1, 2, 1, 0, 1, 0, 1, 0};

static void
test_predictions(void **state)
{
    ia3_linear_row rows[ROWS];
    uint32_t words[ROWS][6], predicted[ROWS];
    atomic_bool cancelled = false;
    ia3_error err = {0};
    for (uint32_t i = 0; i < ROWS; i++) {
        rows[i].n = make_row(i, &rows[i].label, words[i]);
        rows[i].fold = i % 4;
        rows[i].words = words[i];
    }
    assert_true(ia3_linear_cross(rows, ROWS, 12, 4, &cancelled, predicted, &err));
    for (int i = 0; i < ROWS; i++)
        assert_int_equal(predicted[i], expected[i]);
    cancelled = true;
    assert_false(ia3_linear_cross(rows, ROWS, 12, 4, &cancelled, predicted, &err));
    assert_int_equal(err.code, IA3_E_CANCELLED);
}

/* Folds whose other rows have one label, or none at all. */
static void
test_one_label(void **state)
{
    uint32_t word[3] = {0, 1, 0}, predicted[3];
    ia3_linear_row rows[3] = {{5, 0, 1, &word[0]}, {5, 1, 1, &word[1]}, {7, 2, 1, &word[2]}};
    atomic_bool cancelled = false;
    ia3_error err = {0};
    assert_true(ia3_linear_cross(rows, 3, 2, 3, &cancelled, predicted, &err));
    assert_int_equal(predicted[2], 5);
    assert_true(ia3_linear_cross(rows, 1, 2, 1, &cancelled, predicted, &err));
    assert_int_equal(predicted[0], 5);
}

static void
put_row(ia3_writer *w, uint32_t label, uint32_t fold, uint32_t word)
{
    ia3_put_u32(w, label);
    ia3_put_u32(w, fold);
    ia3_put_u32(w, 1);
    ia3_put_u32(w, word);
}

static void
test_requests(void **state)
{
    static const char *const extra[] = {"--dtype", "float32", NULL};
    static const struct {
        uint32_t label, fold, word, code;
    } bad[] = {{0, 1024, 0, IA3_E_INVALID},
               {0, 0xffffffff, 0, IA3_E_INVALID},
               {0, 0, IA3_MAX_LINEAR, IA3_E_TOO_LONG},
               {0, 0, 0xffffffff, IA3_E_TOO_LONG},
               {0xffffffff, 0, 0, IA3_E_TOO_LONG},
               {IA3_MAX_LINEAR / 64, 0, 64, IA3_E_TOO_LONG}};
    test_engine e;
    test_client c;
    assert_true(test_engine_start(&e, BACKBONE, extra));
    test_client_open(&c, &e);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        ia3_writer *w = test_begin(&c, IA3_LINEAR);
        ia3_put_u32(w, 1);
        put_row(w, bad[i].label, bad[i].fold, bad[i].word);
        assert_int_equal(test_call(&c, NULL), IA3_ERROR);
        assert_int_equal(test_get_error(&c.reader).code, bad[i].code);
    }
    ia3_writer *w = test_begin(&c, IA3_LINEAR);
    ia3_put_u32(w, 1); /* few words and labels, but one word occurs often */
    ia3_put_u32(w, IA3_MAX_LINEAR / 1024);
    ia3_put_u32(w, 0);
    ia3_put_u32(w, 1024);
    for (uint32_t i = 0; i < 1024; i++)
        ia3_put_u32(w, 0);
    assert_int_equal(test_call(&c, NULL), IA3_ERROR);
    assert_int_equal(test_get_error(&c.reader).code, IA3_E_TOO_LONG);
    w = test_begin(&c, IA3_LINEAR);
    ia3_put_u32(w, 4);
    for (uint32_t i = 0; i < 4; i++)
        put_row(w, i % 2, i / 2, i % 2);
    assert_int_equal(test_call(&c, NULL), IA3_LINEAR_OK);
    assert_int_equal(ia3_get_u32(&c.reader), 4);
    for (uint32_t i = 0; i < 4; i++)
        assert_int_equal(ia3_get_u32(&c.reader), i % 2);
    assert_true(!c.reader.bad && c.reader.p == c.reader.end);
    w = test_begin(&c, IA3_LINEAR);
    ia3_put_u32(w, 0);
    assert_int_equal(test_call(&c, NULL), IA3_LINEAR_OK);
    assert_int_equal(ia3_get_u32(&c.reader), 0);
    for (int cut = 0; cut < 2; cut++) { /* a byte too few, a byte too many */
        test_client broken;
        test_client_open(&broken, &e);
        w = test_begin(&broken, IA3_LINEAR);
        ia3_put_u32(w, 1);
        put_row(w, 0, 0, 0);
        if (cut == 0)
            w->len--;
        else
            ia3_put_u8(w, 0);
        assert_int_equal(test_call(&broken, NULL), IA3_ERROR);
        assert_int_equal(test_get_error(&broken.reader).code, IA3_E_PROTOCOL);
        test_client_close(&broken);
    }
    test_client_close(&c);
    assert_int_equal(test_engine_stop(&e, true), 0);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_predictions),
        cmocka_unit_test(test_one_label),
        cmocka_unit_test(test_requests),
    };
    alarm(600);
    return cmocka_run_group_tests_name("linear", tests, NULL, NULL);
}
