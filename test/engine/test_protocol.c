/*
 * test_protocol.c
 *     Extracting frames from a byte stream and parsing the payloads of SCORE and TRAIN, without sockets.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <stdlib.h>

#include "engine/serve/frame.h"
#include "engine/serve/parse.h"
#include "engine/model/methods/methods.h"

/* Makes a frame with a payload of the n bytes 0, 1, 2, ... */
static void
make_frame(ia3_writer *w, uint8_t type, uint32_t request, size_t n)
{
    ia3_frame_begin(w, (Ia3Message) type, request);
    for (size_t i = 0; i < n; i++)
        ia3_put_u8(w, (uint8_t) i);
    ia3_frame_finish(w);
}

static void
check_frame(const ia3_frame *f, uint8_t type, uint32_t request, size_t n)
{
    assert_int_equal(f->type, type);
    assert_int_equal(f->request, request);
    assert_int_equal(f->len, n);
    for (size_t i = 0; i < n; i++)
        assert_int_equal(f->data[i], (uint8_t) i);
}

/* Frames of many sizes, one after another, in pieces of every size. */
static void
test_pieces(void **state)
{
    static const size_t sizes[] = {0, 1, 3, 70000, 0, 300};
    ia3_writer stream = {0}, w = {0};
    for (int i = 0; i < 6; i++) {
        make_frame(&w, (uint8_t) (10 + i), (uint32_t) (i * 0x01020304), sizes[i]);
        stream.grow = w.grow;
        ia3_put_bytes(&stream, w.data, w.len);
    }
    static const size_t pieces[] = {1, 2, 7, 9, 4096, 1 << 20};
    for (int k = 0; k < 6; k++) {
        ia3_frame_reader reader = {0};
        int got = 0;
        for (size_t at = 0; at < stream.len;) {
            size_t n = stream.len - at < pieces[k] ? stream.len - at : pieces[k];
            const uint8_t *p = stream.data + at;
            at += n;
            while (n > 0) {
                ia3_frame frame;
                ia3_frame_status status = ia3_frame_feed(&reader, &p, &n, &frame);
                if (status == IA3_FRAME_MORE) {
                    assert_int_equal(n, 0);
                    break;
                }
                assert_int_equal(status, IA3_FRAME_COMPLETE);
                check_frame(&frame, (uint8_t) (10 + got), (uint32_t) (got * 0x01020304), sizes[got]);
                free(frame.data);
                got++;
            }
        }
        assert_int_equal(got, 6);
        assert_int_equal(ia3_frame_held(&reader), 0);
    }
    free(stream.data);
    free(w.data);
}

/* The reader does not allocate memory for an announced length alone. */
static void
test_announced_length(void **state)
{
    ia3_frame_reader reader = {0};
    uint8_t head[IA3_FRAME_HEADER] = {0, 0, 0, 0x20, IA3_SCORE}; /* 512 MB */
    const uint8_t *p = head;
    size_t n = sizeof head;
    ia3_frame frame;
    assert_int_equal(ia3_frame_feed(&reader, &p, &n, &frame), IA3_FRAME_MORE);
    assert_true(ia3_frame_held(&reader) <= 65536);
    ia3_frame_reader_clear(&reader);

    static const uint8_t bad[][4] = {{0, 0, 0, 0}, {4, 0, 0, 0}, {1, 0, 0, 0x20}, {255, 255, 255, 255}};
    for (int i = 0; i < 4; i++) {
        p = bad[i];
        n = 4;
        assert_int_equal(ia3_frame_feed(&reader, &p, &n, &frame), IA3_FRAME_BAD);
        ia3_frame_reader_clear(&reader);
    }
}

/* A reply that is too large becomes an error that the client can read. */
static void
test_large_answer(void **state)
{
    ia3_writer w = {0};
    ia3_frame_begin(&w, IA3_SCORE_OK, 77);
    ia3_put_room(&w, IA3_MAX_FRAME);
    ia3_frame_finish(&w);
    ia3_reader r = {.p = w.data + 4, .end = w.data + w.len};
    assert_true(w.len < 2000);
    assert_int_equal(ia3_get_u8(&r), IA3_ERROR);
    assert_int_equal(ia3_get_u32(&r), 77);
    assert_int_equal(ia3_get_u32(&r), IA3_E_TOO_LONG);
    free(w.data);
}

static void
put_text(ia3_writer *w, const char *s)
{
    ia3_put_str(w, s, strlen(s));
}

/* Writes a SCORE with two sets and three rows; returns the position of the number of rows. */
static size_t
make_score(ia3_writer *w)
{
    ia3_frame_begin(w, IA3_SCORE, 1);
    w->len = 0;
    ia3_put_u32(w, 128);
    ia3_put_u32(w, 1);
    for (int i = 0; i < IA3_DIGEST_LEN; i++)
        ia3_put_u8(w, (uint8_t) i);
    ia3_put_u32(w, 2);
    ia3_put_u8(w, 1); /* multi-label */
    ia3_put_u32(w, 2);
    put_text(w, "yes");
    put_text(w, "no");
    ia3_put_u8(w, 0);
    ia3_put_u32(w, 1);
    put_text(w, "only");
    size_t at = w->len;
    ia3_put_u32(w, 3);
    for (uint32_t i = 0; i < 3; i++) {
        ia3_put_u32(w, 0);
        ia3_put_u32(w, i % 2);
        put_text(w, "some text");
        ia3_put_u32(w, 5);
        ia3_put_u32(w, i); /* fields */
        for (uint32_t f = 0; f < i; f++) {
            ia3_put_u32(w, 4 * f);
            ia3_put_u32(w, 4 * f + 2);
        }
    }
    return at;
}

static void
test_score(void **state)
{
    ia3_writer w = {0};
    make_score(&w);
    ia3_score_message m;
    ia3_error err = {0};
    assert_true(ia3_parse_score(&m, w.data, w.len, &err));
    assert_int_equal(m.max_input_tokens, 128);
    assert_int_equal(m.n_digests, 1);
    assert_int_equal(m.digests[31], 31);
    assert_int_equal(m.sets.n, 2);
    assert_int_equal(m.sets.sets[1].n, 1);
    assert_memory_equal(m.sets.choices[m.sets.sets[1].first].data, "only", 4);
    assert_int_equal(m.sets.sets[0].raw_len, 1 + 4 + 7 + 6);
    assert_true(m.sets.sets[0].multi_label);
    assert_false(m.sets.sets[1].multi_label);
    assert_int_equal(m.n_rows, 3);
    assert_int_equal(m.rows[1].set, 1);
    assert_int_equal(m.rows[2].input.tail, 5);
    assert_int_equal(m.rows[2].input.text.len, 9);
    assert_int_equal(m.rows[0].input.n_fields, 0);
    assert_int_equal(m.rows[2].input.n_fields, 2);
    uint32_t begin, end;
    ia3_wire_field(&m.rows[2].input, 1, &begin, &end);
    assert_int_equal(begin, 4);
    assert_int_equal(end, 6);
    ia3_score_message_free(&m);

    for (size_t n = 0; n < w.len; n++) { /* in a buffer of just that size, for the sanitizers */
        uint8_t *cut = malloc(n ? n : 1);
        memcpy(cut, w.data, n);
        memset(&err, 0, sizeof err);
        assert_false(ia3_parse_score(&m, cut, n, &err));
        assert_int_equal(err.code, IA3_E_PROTOCOL);
        free(cut);
    }
    free(w.data);
}

static void
poke(ia3_writer *w, size_t at, uint32_t v)
{
    for (int i = 0; i < 4; i++)
        w->data[at + (size_t) i] = (uint8_t) (v >> (8 * i));
}

/* Numbers of items that are false, and true ones beyond the limits. */
static void
test_counts(void **state)
{
    ia3_writer w = {0};
    size_t rows = make_score(&w);
    static const uint32_t lies[] = {4, 5, 1000, 0x10000000, 0xffffffff};
    const size_t places[] = {4, 4 + 4 + 32, 4 + 4 + 32 + 4 + 1, rows};
    for (int p = 0; p < 4; p++)
        for (int i = 0; i < 5; i++) {
            ia3_score_message m;
            ia3_error err = {0};
            make_score(&w);
            poke(&w, places[p], lies[i]);
            assert_false(ia3_parse_score(&m, w.data, w.len, &err));
            assert_int_equal(err.code, IA3_E_PROTOCOL);
        }

    make_score(&w);
    w.data[4 + 4 + 32 + 4] = 2; /* no kind of set */
    ia3_score_message m;
    ia3_error err = {0};
    assert_false(ia3_parse_score(&m, w.data, w.len, &err));
    assert_int_equal(err.code, IA3_E_PROTOCOL);

    w.len = 0;
    memset(&err, 0, sizeof err);
    ia3_put_u32(&w, 128);
    ia3_put_u32(&w, IA3_MAX_DIGESTS + 1);
    memset(ia3_put_room(&w, (size_t) (IA3_MAX_DIGESTS + 1) * IA3_DIGEST_LEN), 0,
           (size_t) (IA3_MAX_DIGESTS + 1) * IA3_DIGEST_LEN);
    ia3_put_u32(&w, 0);
    ia3_put_u32(&w, 0);
    assert_false(ia3_parse_score(&m, w.data, w.len, &err));
    assert_int_equal(err.code, IA3_E_TOO_LONG);

    w.len = 0;
    memset(&err, 0, sizeof err);
    ia3_put_u32(&w, 128);
    ia3_put_u32(&w, 0);
    ia3_put_u32(&w, IA3_MAX_SETS + 1);
    for (uint32_t i = 0; i <= IA3_MAX_SETS; i++) {
        ia3_put_u8(&w, 0);
        ia3_put_u32(&w, 0);
    }
    ia3_put_u32(&w, 0);
    assert_false(ia3_parse_score(&m, w.data, w.len, &err));
    assert_int_equal(err.code, IA3_E_TOO_LONG);
    free(w.data);
}

/* Requests whose reply would not fit in a frame are an error before anything is computed. */
static void
test_large_question(void **state)
{
    enum { CHOICES = 4000, ROWS = 18000 }; /* 576 MB of scores */
    ia3_writer w = {0};
    ia3_frame_begin(&w, IA3_SCORE, 1);
    w.len = 0;
    ia3_put_u32(&w, 128);
    ia3_put_u32(&w, 1);
    memset(ia3_put_room(&w, IA3_DIGEST_LEN), 0, IA3_DIGEST_LEN);
    ia3_put_u32(&w, 1);
    ia3_put_u8(&w, 0);
    ia3_put_u32(&w, CHOICES);
    for (int i = 0; i < CHOICES; i++)
        put_text(&w, "x");
    ia3_put_u32(&w, ROWS);
    for (int i = 0; i < ROWS; i++)
        for (int k = 0; k < 5; k++)
            ia3_put_u32(&w, 0);
    ia3_score_message m;
    ia3_error err = {0};
    assert_false(ia3_parse_score(&m, w.data, w.len, &err));
    assert_int_equal(err.code, IA3_E_TOO_LONG);
    free(w.data);
}

static void
test_recipe(void **state)
{
    const ia3_recipe good = {.variant = ia3_variant_standard(ia3_methods[0]),
                             .steps = 1,
                             .batch_size = 1,
                             .learning_rate = 1e-9,
                             .lm_weight = 1,
                             .dropout = -1,
                             .averaging = IA3_LOSS_EXAMPLE};
    ia3_error err = {0};
    assert_true(ia3_recipe_check(&good, &err));
    const double bad[] = {NAN, INFINITY, -INFINITY, -0.5};
    for (int field = 0; field < 5; field++)
        for (int i = 0; i < 4; i++) {
            ia3_recipe r = good;
            double *fields[] = {&r.learning_rate, &r.warmup_ratio, &r.lm_weight, &r.unlikelihood_weight,
                                &r.length_norm_weight};
            *fields[field] = bad[i];
            memset(&err, 0, sizeof err);
            assert_false(ia3_recipe_check(&r, &err));
            assert_int_equal(err.code, IA3_E_INVALID);
        }
    ia3_recipe r = good;
    r.dropout = NAN;
    assert_false(ia3_recipe_check(&r, &err));
}

static void
test_hello(void **state)
{
    ia3_writer w = {0};
    ia3_frame_begin(&w, IA3_HELLO, 1);
    w.len = 0;
    ia3_put_u32(&w, IA3_PROTOCOL_MAGIC);
    ia3_put_u32(&w, IA3_PROTOCOL_VERSION);
    put_text(&w, "pid 1\n\xff and a name that is longer than the buffer");
    char client[16];
    ia3_error err = {0};
    assert_true(ia3_parse_hello(w.data, w.len, client, sizeof client, &err));
    assert_string_equal(client, "pid 1?? and a n"); /* nothing that could forge a log line */
    ia3_put_u8(&w, 0);
    assert_false(ia3_parse_hello(w.data, w.len, client, sizeof client, &err));
    assert_int_equal(err.code, IA3_E_PROTOCOL);
    free(w.data);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_pieces),       cmocka_unit_test(test_announced_length),
        cmocka_unit_test(test_large_answer), cmocka_unit_test(test_score),
        cmocka_unit_test(test_counts),       cmocka_unit_test(test_large_question),
        cmocka_unit_test(test_recipe),       cmocka_unit_test(test_hello),
    };
    return cmocka_run_group_tests_name("protocol", tests, NULL, NULL);
}
