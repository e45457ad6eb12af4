/*
 * test_pieces.c
 *     Choice sets whose tries are scored in pieces: the order of the choices, the pieces, the scores and the memory;
 *     and that scores do not depend on how a batch is divided.
 */
#include "golden_fixture.h"

#include "engine/base/rng.h"
#include "engine/recipe/score.h"

enum { EOS = 1, MAX_LEN = 7 };

typedef struct choice_list {
    int n;
    int32_t (*tokens)[MAX_LEN];
    const int32_t **ids;
    int *len;
} choice_list;

/*
 * Up to 14,000 choices of three to six tokens, with many common prefixes; each ends with a number of its own, so that all
 * differ. The smallest vocabulary has 160 tokens.
 */
static choice_list
make_list(int n)
{
    choice_list l = {n, calloc((size_t) n, sizeof *l.tokens), calloc((size_t) n, sizeof *l.ids),
                     calloc((size_t) n, sizeof(int))};
    for (int i = 0; i < n; i++) {
        int depth = (int) (ia3_mix64((uint64_t) i) % 4), at = 0;
        for (; at < depth; at++)
            l.tokens[i][at] = 3 + (int32_t) (ia3_mix64((uint64_t) i * 7 + (uint64_t) at) % 5);
        l.tokens[i][at++] = 55 + i % 100;
        l.tokens[i][at++] = 8 + i / 100;
        l.tokens[i][at++] = EOS;
        l.ids[i] = l.tokens[i];
        l.len[i] = at;
    }
    return l;
}

static void
free_list(choice_list *l)
{
    free(l->tokens);
    free(l->ids);
    free(l->len);
}

/* The choices of the list from `from` on, every step-th. */
static ia3_choices *
create(const choice_list *l, int from, int step, int start)
{
    const int32_t **ids = calloc((size_t) l->n, sizeof *ids);
    int *len = calloc((size_t) l->n, sizeof *len), n = 0, a, b;
    ia3_error err = {0};
    for (int i = from; i < l->n; i += step) {
        ids[n] = l->ids[i];
        len[n++] = l->len[i];
    }
    ia3_choices *c = ia3_choices_create(ids, len, n, start, &a, &b, &err);
    golden_ok(c, &err);
    free(ids);
    free(len);
    return c;
}

/* The pieces have every choice once and are within the limit, and hardly any rows are in several of them. */
static void
covers_all(void **state)
{
    choice_list l = make_list(3000);
    ia3_choices *c = create(&l, 0, 1, 0);
    int *order = ia3_choices_order(c), *seen = calloc((size_t) l.n, sizeof *seen);
    for (int i = 0; i < l.n; i++)
        seen[order[i]]++;
    for (int i = 0; i < l.n; i++)
        assert_int_equal(seen[i], 1);
    for (int limit = 1; limit < 20000; limit = 3 * limit + 1) {
        int pieces = 0, rows = 0, n = 0;
        for (int from = 0; from < l.n; pieces++) {
            ia3_choices *piece = ia3_choices_piece(c, order, from, limit);
            assert_true(piece->n_rows <= limit || piece->n == 1);
            for (int i = 0; i < piece->n; i++) {
                int whole = order[from + i];
                assert_int_equal(piece->len[i], c->len[whole]);
                assert_memory_equal(piece->ids[i], c->ids[whole], (size_t) piece->len[i] * sizeof(int32_t));
            }
            rows += piece->n_rows;
            n += piece->n;
            from += piece->n;
            ia3_choices_free(piece);
        }
        assert_int_equal(n, l.n);
        assert_true(rows <= c->n_rows + pieces * MAX_LEN);
        if (limit >= c->n_rows)
            assert_int_equal(pieces, 1);
    }
    free(order);
    free(seen);
    ia3_choices_free(c);
    free_list(&l);
}

/*
 * A choice that is scored in a piece has the score that it has among others, on a CPU to the last bit; and the memory of a
 * pass does not depend on the number of choices.
 */
static void
scores_pieces(void **state)
{
    golden *g = golden_open(*state);
    enum { FIRST = 3, STEP = 29 }; /* the choices that are also scored together */
    choice_list l = make_list(6000);
    ia3_choices *all = create(&l, 0, 1, g->config->start_id),
                *some = create(&l, FIRST, STEP, g->config->start_id);
    assert_true(all->n_rows > 2 * IA3_PIECE_ROWS && some->n_rows < IA3_PIECE_ROWS);
    double *scores = calloc((size_t) all->n, sizeof *scores),
           *expected = calloc((size_t) some->n, sizeof *scores);
    double short_scores[7];
    choice_list seven = {7, l.tokens, l.ids, l.len};
    ia3_choices *few = create(&seven, 0, 1, g->config->start_id);
    const int32_t ids[] = {17, 23, 42, 99, 5, EOS};
    /* a row in pieces between two others */
    ia3_score_row rows[] = {{g->adapter, ids, 6, few, short_scores},
                            {g->adapter, ids, 6, all, scores},
                            {g->adapter, ids, 5, few, short_scores}};
    ia3_score_row row = {g->adapter, ids, 6, some, expected};
    ia3_error err = {0};
    size_t before, small, large;

    before = g->dev->ops->memory_used(g->dev);
    golden_ok(ia3_score(g->m, &row, 1, &err), &err);
    small = g->dev->ops->memory_used(g->dev) - before;
    golden_ok(ia3_score(g->m, rows, 3, &err), &err);
    large = g->dev->ops->memory_used(g->dev) - before;
    assert_true(large < 8 * small + ((size_t) 8 << 20));
    for (int i = 0; i < some->n; i++) {
        double got = scores[FIRST + STEP * i];
        if (strcmp(golden_device(), "cpu") == 0)
            assert_memory_equal(&got, &expected[i], sizeof got);
        else
            assert_true(fabs(got - expected[i]) < 1e-3 * fabs(expected[i]));
    }
    assert_false(rows[1].repeated);
    free(scores);
    free(expected);
    ia3_choices_free(all);
    ia3_choices_free(some);
    ia3_choices_free(few);
    free_list(&l);
    golden_close(g);
}

/*
 * Log-probabilities of many decoder rows are computed in slices. A row has the same score, to the last bit on a CPU, in
 * whichever slice it is.
 */
static void
scores_slices(void **state)
{
    enum { ROWS = 12, STEP = 29 };
    golden *g = golden_open(*state);
    choice_list l = make_list(6000);
    ia3_choices *some = create(&l, 0, STEP, g->config->start_id);
    int32_t ids[ROWS][6];
    double *together = calloc((size_t) ROWS * (size_t) some->n, sizeof *together),
           *alone = calloc((size_t) some->n, sizeof *alone);
    ia3_score_row rows[ROWS];
    ia3_error err = {0};
    for (int r = 0; r < ROWS; r++) {
        memcpy(ids[r], (int32_t[]){17, 23, 42, 20 + r, 5, EOS}, sizeof ids[r]);
        rows[r] = (ia3_score_row){g->adapter, ids[r], 6, some, together + (size_t) r * (size_t) some->n};
    }
    assert_true(ROWS * some->n_rows > 4 * 1024); /* more than one slice for its vocabulary and width */
    golden_ok(ia3_score(g->m, rows, ROWS, &err), &err);
    for (int r = 0; r < ROWS; r++) {
        ia3_score_row row = {g->adapter, ids[r], 6, some, alone};
        golden_ok(ia3_score(g->m, &row, 1, &err), &err);
        for (int i = 0; i < some->n; i++) {
            double got = rows[r].scores[i];
            if (strcmp(golden_device(), "cpu") == 0)
                assert_memory_equal(&got, &alone[i], sizeof got);
            else
                assert_true(fabs(got - alone[i]) < 1e-3 * fabs(alone[i]));
        }
    }
    free(together);
    free(alone);
    ia3_choices_free(some);
    free_list(&l);
    golden_close(g);
}

/*
 * On a CPU inputs go through a layer in groups, on a GPU rows through a feed-forward layer in slices. The scores are the same,
 * on a CPU to the last bit, however large these are.
 */
static void
scores_groups(void **state)
{
    enum { ROWS = 9, LONGEST = 1100 /* its attention is computed in slices */ };
    static const int len[ROWS] = {6, 40, 1, LONGEST, 13, 100, 29, 2, 64};
    golden *g = golden_open(*state);
    choice_list l = make_list(40);
    ia3_choices *some = create(&l, 0, 1, g->config->start_id);
    int32_t *ids = calloc((size_t) ROWS * LONGEST, sizeof *ids);
    double *scores = calloc((size_t) 2 * ROWS * (size_t) some->n, sizeof *scores);
    ia3_score_row rows[ROWS];
    ia3_error err = {0};
    const size_t caches[] = {0, 1, 3 * 4 * 256 * 50, 3 * 4 * 256 * 600, 0, 0};
    const int ff_rows[] = {0, 0, 0, 7, 1, 128};
    for (int r = 0; r < ROWS; r++)
        for (int i = 0; i < len[r]; i++)
            ids[r * LONGEST + i] =
                i + 1 < len[r] ? 3 + (int32_t) (ia3_mix64((uint64_t) (r * LONGEST + i)) % 100) : EOS;
    for (size_t c = 0; c < sizeof caches / sizeof caches[0]; c++) {
        double *these = scores + (c > 0) * ROWS * some->n;
        g->dev->cache = caches[c];
        g->dev->ff_rows = ff_rows[c];
        for (int r = 0; r < ROWS; r++)
            rows[r] = (ia3_score_row){r % 2 ? g->adapter : NULL, ids + r * LONGEST, len[r], some,
                                      these + r * some->n};
        golden_ok(ia3_score(g->m, rows, ROWS, &err), &err);
        assert_true(isfinite(these[0]) && these[0] < 0);
        if (c > 0 && strcmp(golden_device(), "cpu") == 0)
            assert_memory_equal(these, scores, (size_t) ROWS * (size_t) some->n * sizeof *scores);
        for (int i = 0; i < ROWS * some->n; i++)
            assert_true(fabs(these[i] - scores[i]) <= (g->dtype == IA3_F32 ? 1e-4 : 0.1));
    }
    free(ids);
    free(scores);
    ia3_choices_free(some);
    free_list(&l);
    golden_close(g);
}

int
main(void)
{
    static const golden_case f32 = {"backbone", IA3_F32}, bf16 = {"backbone", IA3_BF16},
                             few_buckets = {"t5-few-buckets", IA3_F32}, int8 = {"backbone", IA3_INT8};
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(covers_all),
        {"scores_pieces backbone float32", scores_pieces, NULL, NULL, (void *) &f32},
        {"scores_pieces backbone bfloat16", scores_pieces, NULL, NULL, (void *) &bf16},
        {"scores_slices backbone float32", scores_slices, NULL, NULL, (void *) &f32},
        {"scores_slices backbone bfloat16", scores_slices, NULL, NULL, (void *) &bf16},
        {"scores_groups backbone float32", scores_groups, NULL, NULL, (void *) &f32},
        {"scores_groups backbone bfloat16", scores_groups, NULL, NULL, (void *) &bf16},
        {"scores_groups backbone int8", scores_groups, NULL, NULL, (void *) &int8},
        {"scores_pieces t5-few-buckets float32", scores_pieces, NULL, NULL, (void *) &few_buckets},
    };
    return cmocka_run_group_tests_name("pieces", tests, NULL, NULL);
}
