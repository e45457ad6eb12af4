/*
 * test_give_way.c
 *     Long work gives way to other work: results are the same as without, abandoned work leaves nothing behind, and short
 *     rows of other clients are answered before a generation, a long row or a long text that began earlier.
 */
#include "golden_fixture.h"

#include <poll.h>
#include <unistd.h>

#include "engine/recipe/generate.h"
#include "engine/recipe/score.h"
#include "engine/serve/parse.h"
#include "engine_client.h"
#include "engine_requests.h"

#define LONG_TOKENS  1100 /* three slices of attention */
#define SHORT_TOKENS 20
#define N_CHOICES    2

/* A row of pseudo-random tokens that ends with </s>. */
typedef struct input {
    int32_t ids[LONG_TOKENS];
    int n;
    double scores[N_CHOICES];
} input;

typedef struct meanwhile {
    golden *g;
    ia3_choices *choices;
    input row;
    int calls, stop_at; /* false at this call; 0: never */
    double expected[N_CHOICES];
} meanwhile;

static input
input_of(int n, uint32_t seed)
{
    input x = {.n = n};
    for (int i = 0; i < n; i++) {
        seed = seed * 1664525u + 1013904223u;
        x.ids[i] = i == n - 1 ? 1 : 3 + (int32_t) (seed >> 8) % 8000;
    }
    return x;
}

static ia3_choices *
two_choices(golden *g)
{
    static const int32_t a[] = {100, 1}, b[] = {200, 300, 1};
    const int32_t *const ids[] = {a, b};
    const int len[] = {2, 3};
    int bad_a, bad_b;
    ia3_error err = {0};
    ia3_choices *choices = ia3_choices_create(ids, len, N_CHOICES, g->config->start_id, &bad_a, &bad_b, &err);
    golden_ok(choices, &err);
    return choices;
}

static bool
score(golden *g, const ia3_choices *choices, input *x, ia3_error *err)
{
    ia3_score_row row = {g->adapter, x->ids, x->n, choices, x->scores};
    return ia3_score(g->m, &row, 1, err);
}

static bool
run_other_work(void *arg)
{
    meanwhile *w = arg;
    ia3_error err = {0};
    ia3_give_way none = {NULL, NULL}, mine = ia3_model_set_give_way(w->g->m, none);
    golden_ok(score(w->g, w->choices, &w->row, &err), &err);
    assert_memory_equal(w->row.scores, w->expected, sizeof w->expected);
    ia3_model_set_give_way(w->g->m, mine);
    return ++w->calls != w->stop_at;
}

static meanwhile
other_work(golden *g, ia3_choices *choices)
{
    meanwhile w = {.g = g, .choices = choices, .row = input_of(SHORT_TOKENS, 7)};
    ia3_error err = {0};
    golden_ok(score(g, choices, &w.row, &err), &err);
    memcpy(w.expected, w.row.scores, sizeof w.expected);
    return w;
}

static golden *
open_mini(void)
{
    golden_case c = {"backbone", IA3_F32};
    return golden_open(&c);
}

/* The sub-layers of the encoder and of the decoder, three slices in each layer of the encoder, the log-probabilities. */
static int
calls_of_long_row(const golden *g)
{
    return g->config->n_enc * (2 + 3) + 3 * g->config->n_dec + 1;
}

static void
test_long_row(void **state)
{
    golden *g = open_mini();
    ia3_choices *choices = two_choices(g);
    meanwhile w = other_work(g, choices);
    input x = input_of(LONG_TOKENS, 1), alone = x;
    ia3_error err = {0};
    golden_ok(score(g, choices, &alone, &err), &err);
    ia3_model_set_give_way(g->m, (ia3_give_way){run_other_work, &w});
    golden_ok(score(g, choices, &x, &err), &err);
    assert_int_equal(w.calls, calls_of_long_row(g));
    assert_memory_equal(x.scores, alone.scores, sizeof x.scores);
    ia3_choices_free(choices);
    golden_close(g);
}

/* Abandoned wherever that is possible: the error says so, the memory comes back, and the next pass is right. */
static void
test_abandoned(void **state)
{
    golden *g = open_mini();
    ia3_choices *choices = two_choices(g);
    input alone = input_of(LONG_TOKENS, 1);
    ia3_error err = {0};
    golden_ok(score(g, choices, &alone, &err), &err);
    meanwhile w = other_work(g, choices);
    size_t used = g->dev->ops->arena_mark(g->dev);
    for (int at = 1; at <= calls_of_long_row(g); at++) {
        input x = input_of(LONG_TOKENS, 1);
        ia3_error abandoned = {0};
        w.calls = 0;
        w.stop_at = at;
        ia3_model_set_give_way(g->m, (ia3_give_way){run_other_work, &w});
        assert_false(score(g, choices, &x, &abandoned));
        assert_int_equal(abandoned.code, IA3_E_CANCELLED);
        assert_int_equal(w.calls, at);
        assert_int_equal(g->dev->ops->arena_mark(g->dev), used);
    }
    ia3_model_set_give_way(g->m, (ia3_give_way){NULL, NULL});
    input again = input_of(LONG_TOKENS, 1);
    golden_ok(score(g, choices, &again, &err), &err);
    assert_memory_equal(again.scores, alone.scores, sizeof alone.scores);
    ia3_choices_free(choices);
    golden_close(g);
}

static void
test_generation(void **state)
{
    enum { MAX = 12 };
    golden *g = open_mini();
    ia3_choices *choices = two_choices(g);
    meanwhile w = other_work(g, choices);
    input x = input_of(SHORT_TOKENS, 3);
    int32_t out[2][MAX];
    ia3_generate_row alone = {.ids = x.ids, .n_ids = x.n, .max_tokens = MAX, .out = out[0]}, row = alone;
    ia3_error err = {0};
    golden_ok(ia3_generate(g->m, &alone, 1, &err), &err);
    assert_true(alone.n_out > 1);
    row.out = out[1];
    ia3_model_set_give_way(g->m, (ia3_give_way){run_other_work, &w});
    golden_ok(ia3_generate(g->m, &row, 1, &err), &err);
    assert_int_equal(row.n_out, alone.n_out);
    assert_memory_equal(out[1], out[0], (size_t) row.n_out * sizeof *row.out);
    /* the encoder's sub-layers, and every token, </s> included */
    assert_int_equal(w.calls, 2 * g->config->n_enc + (row.n_out < MAX ? row.n_out + 1 : MAX));

    w.calls = 0;
    w.stop_at = 2 * g->config->n_enc + 2;
    assert_false(ia3_generate(g->m, &row, 1, &err));
    assert_int_equal(err.code, IA3_E_CANCELLED);
    ia3_choices_free(choices);
    golden_close(g);
}

static test_engine engine;

static int
start_engine(void **state)
{
    static const char *const extra[] = {"--dtype", "float32", "--max-batch-tokens", "512", NULL};
    assert_true(test_engine_start(&engine, "test/backbone", extra));
    return 0;
}

static int
stop_engine(void **state)
{
    int status = test_engine_stop(&engine, true);
    return WIFEXITED(status) && WEXITSTATUS(status) == 0 ? 0 : -1;
}

static bool
has_answer(const test_client *c)
{
    struct pollfd p = {.fd = c->fd, .events = POLLIN};
    return poll(&p, 1, 0) == 1;
}

static void
send_short_row(test_client *c)
{
    static const char *const choices[] = {"billing", "a bug", NULL};
    test_rows rows = {.sets = {choices}, .n_rows = 1, .rows = {{.text = "the invoice is wrong"}}};
    test_put_rows(c, &rows);
    test_send(c);
}

static void
put_generation(test_client *c, const char *text, uint32_t rows, uint32_t max_tokens)
{
    static const uint8_t bare[IA3_DIGEST_LEN];
    ia3_writer *w = test_begin(c, IA3_GENERATE);
    ia3_put_u32(w, 512);
    ia3_put_u32(w, 1);
    ia3_put_bytes(w, bare, sizeof bare);
    ia3_put_u32(w, rows);
    for (uint32_t i = 0; i < rows; i++) {
        ia3_put_u32(w, 0);
        test_put_input(w, text, 0, NULL, 0);
        ia3_put_u32(w, max_tokens);
        ia3_put_f64(w, 1e30); /* every token is as likely as any other: it goes on to the end */
        ia3_put_u32(w, 0);
        ia3_put_u64(w, i);
    }
}

static void
test_rows_pass_generation(void **state)
{
    test_client writing, scoring;
    test_client_open(&writing, &engine);
    test_client_open(&scoring, &engine);
    put_generation(&writing, "hello", 64, IA3_MAX_NEW_TOKENS); /* many seconds */
    test_send(&writing);
    usleep(100000); /* by now it is being computed */
    for (int i = 0; i < 3; i++) {
        send_short_row(&scoring);
        assert_true(test_receive(&scoring));
        assert_int_equal(scoring.type, IA3_SCORE_OK);
        assert_false(has_answer(&writing));
    }
    test_client_close(&writing); /* nobody waits for it: the engine forgets it */
    while (test_stat(&scoring, IA3_STAT_CONNECTIONS) > 1)
        usleep(10000);
    send_short_row(&scoring);
    assert_true(test_receive(&scoring));
    assert_int_equal(scoring.type, IA3_SCORE_OK);
    test_client_close(&scoring);
}

static void
test_rows_pass_long_row(void **state)
{
    static const char *const choices[] = {"good", "bad", NULL};
    enum { WORDS = 12000 };
    char *text = malloc(WORDS * 5 + 1);
    for (int i = 0; i < WORDS; i++)
        memcpy(text + 5 * i, "word ", 6);
    test_rows rows = {.max_input_tokens = WORDS, .sets = {choices}, .n_rows = 1, .rows = {{.text = text}}};
    test_client slow, quick;
    test_client_open(&slow, &engine);
    test_client_open(&quick, &engine);
    test_put_rows(&slow, &rows);
    test_send(&slow);
    usleep(100000); /* by now it is being computed: tokenizing takes some milliseconds */
    for (int i = 0; i < 3; i++) {
        send_short_row(&quick);
        assert_true(test_receive(&quick));
        assert_int_equal(quick.type, IA3_SCORE_OK);
    }
    assert_false(has_answer(&slow));
    test_client_close(&slow);
    test_client_close(&quick);
    free(text);
}

static uint32_t
send_rows_of_text(test_client *c, const char *text, int n)
{
    static const char *const choices[] = {"good", "bad", NULL};
    test_rows rows = {.sets = {choices}, .n_rows = n};
    for (int i = 0; i < n; i++)
        rows.rows[i].text = text;
    test_put_rows(c, &rows);
    return test_send(c);
}

/*
 * A request that is cancelled while some of its rows are in a batch, which others wait for as well, and some are not. It
 * must not be sent back, and freed, before the batch has ended.
 */
static void
test_cancelled_in_batch(void **state)
{
    enum { N = 64 };
    char text[120];
    for (int i = 0; i < 119; i++)
        text[i] = i % 5 == 4 ? ' ' : (char) ('a' + i % 5);
    text[119] = '\0';
    test_client staying, leaving, watching;
    test_client_open(&watching, &engine);
    test_client_open(&staying, &engine);
    send_rows_of_text(&staying, text, N);
    for (int i = 0; i < 20; i++) {
        test_client_open(&leaving, &engine);
        uint32_t id = send_rows_of_text(&leaving, text + i, N);
        double batches = test_stat(&watching, IA3_STAT_BATCHES);
        while (test_stat(&watching, IA3_STAT_BATCHES) <
               batches + 2) /* then some of its rows are in a batch */
            usleep(200);
        ia3_put_u32(test_begin(&leaving, IA3_CANCEL), id);
        test_send(&leaving);
        assert_true(test_receive(&leaving));
        assert_int_equal(leaving.request, id);
        if (leaving.type == IA3_ERROR)
            assert_int_equal(test_get_error(&leaving.reader).code, IA3_E_CANCELLED);
        else
            assert_int_equal(leaving.type, IA3_SCORE_OK);
        test_client_close(&leaving);
        if (has_answer(&staying)) {
            assert_true(test_receive(&staying));
            assert_int_equal(staying.type, IA3_SCORE_OK);
            send_rows_of_text(&staying, text, N);
        }
    }
    assert_true(test_receive(&staying));
    assert_int_equal(staying.type, IA3_SCORE_OK);
    test_client_close(&staying);
    test_client_close(&watching);
}

/* `size` bytes of words, zero-terminated; the caller frees it. */
static char *
words(size_t size)
{
    char *text = malloc(size + 1);
    for (size_t i = 0; i < size; i++)
        text[i] = i % 5 == 4 ? ' ' : (char) ('a' + (i / 5 + i) % 20);
    text[size] = '\0';
    return text;
}

/* Texts that take seconds to tokenize do not delay others, and can be abandoned whether or not they have begun. */
static void
test_rows_pass_long_texts(void **state)
{
    enum { N = 32 };
    char *text = words(1000000);
    test_client slow, leaving, quick;
    test_client_open(&slow, &engine);
    test_client_open(&leaving, &engine);
    test_client_open(&quick, &engine);
    send_rows_of_text(&slow, text, N);
    send_rows_of_text(&leaving, text, N);
    test_put_text(test_begin(&leaving, IA3_TOKENIZE), text); /* takes more time than two short rows */
    uint32_t waits = test_send(&leaving);
    send_short_row(&quick);
    assert_true(test_receive(&quick));
    assert_false(has_answer(&leaving));
    for (int i = 0; i < 3; i++) {
        send_short_row(&quick);
        assert_true(test_receive(&quick));
        assert_int_equal(quick.type, IA3_SCORE_OK);
        assert_false(has_answer(&slow));
    }
    ia3_put_u32(test_begin(&leaving, IA3_CANCEL), waits);
    test_send(&leaving);
    assert_true(test_receive(&leaving));
    assert_int_equal(leaving.request, waits);
    if (leaving.type == IA3_ERROR)
        assert_int_equal(test_get_error(&leaving.reader).code, IA3_E_CANCELLED);
    else /* it was done before */
        assert_int_equal(leaving.type, IA3_TOKENIZE_OK);
    test_client_close(&leaving);
    for (uint32_t id = slow.last_request, i = 0; i < 2; i++) { /* the second one is not an error */
        ia3_put_u32(test_begin(&slow, IA3_CANCEL), id);
        test_send(&slow);
    }
    assert_true(test_receive(&slow));
    if (slow.type == IA3_ERROR)
        assert_int_equal(test_get_error(&slow.reader).code, IA3_E_CANCELLED);
    else /* likewise */
        assert_int_equal(slow.type, IA3_SCORE_OK);
    send_short_row(&quick);
    assert_true(test_receive(&quick));
    assert_int_equal(quick.type, IA3_SCORE_OK);
    /* the engine stops although these wait, of which one has rows that are being computed */
    static const char *const choices[] = {"good", "bad", NULL};
    test_rows rows = {.sets = {choices}, .n_rows = N};
    for (int i = 0; i < N; i++)
        rows.rows[i].text = i < N / 2 ? text + 999800 : text;
    test_put_rows(&slow, &rows);
    test_send(&slow);
    send_rows_of_text(&slow, text, N);
    test_client_close(&quick);
    test_client_close(&slow);
    free(text);
}

/* Long and short texts of one request keep their order and have the results that each of them has alone. */
static void
test_mixed_lengths(void **state)
{
    static const char *const choices[] = {"good", "bad", NULL};
    enum { N = 6 };
    char *long_text = words(20000), *longer = words(50000);
    test_rows rows = {.sets = {choices},
                      .n_rows = N,
                      .rows = {{.text = "a"},
                               {.text = long_text},
                               {.text = "b c"},
                               {.text = longer},
                               {.text = long_text + 1},
                               {.text = "d e f"}}};
    double together[N * 2], alone[2];
    test_client c;
    test_client_open(&c, &engine);
    test_put_rows(&c, &rows);
    assert_int_equal(test_call(&c, NULL), IA3_SCORE_OK);
    for (int i = 0; i < N; i++)
        test_get_scores(&c, together + 2 * i, 2);
    for (int i = 0; i < N; i++) {
        test_rows one = {.sets = {choices}, .n_rows = 1, .rows = {rows.rows[i]}};
        test_put_rows(&c, &one);
        assert_int_equal(test_call(&c, NULL), IA3_SCORE_OK);
        test_get_scores(&c, alone, 2);
        assert_memory_equal(alone, together + 2 * i, sizeof alone);
    }

    /* the tokens of a long text are those of its halves, which end between words */
    uint32_t n[3];
    char *parts[3] = {words(20000), words(20000), words(40000)};
    for (int i = 0; i < 3; i++) {
        test_put_text(test_begin(&c, IA3_TOKENIZE), parts[i]);
        assert_int_equal(test_call(&c, NULL), IA3_TOKENIZE_OK);
        n[i] = ia3_get_u32(&c.reader);
        free(parts[i]);
    }
    assert_true(n[0] > 1000);
    assert_int_equal(n[2] - 1, n[0] - 1 + n[1] - 1); /* each ends with </s> */
    test_client_close(&c);
    free(long_text);
    free(longer);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_long_row),
        cmocka_unit_test(test_abandoned),
        cmocka_unit_test(test_generation),
        cmocka_unit_test_setup_teardown(test_rows_pass_generation, start_engine, stop_engine),
        cmocka_unit_test_setup_teardown(test_rows_pass_long_row, start_engine, stop_engine),
        cmocka_unit_test_setup_teardown(test_cancelled_in_batch, start_engine, stop_engine),
        cmocka_unit_test_setup_teardown(test_rows_pass_long_texts, start_engine, stop_engine),
        cmocka_unit_test_setup_teardown(test_mixed_lengths, start_engine, stop_engine),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
