/*
 * test_generate.c
 *     Generated text: greedy decoding as in transformers and peft, batches compared with single rows, seeded sampling.
 */
#include "golden_fixture.h"

#include "engine/recipe/generate.h"
#include "engine/recipe/score.h"

#define MAX_TOKENS 12

/* One line of generation.tsv. If it ends with a 1 (</s>), generation ends there. */
typedef struct expectation {
    char name[32];
    int input;
    int32_t ids[MAX_TOKENS + 1];
    int n;
    bool ends;
} expectation;

static int
read_expectations(expectation *e, int cap)
{
    golden_file f = golden_file_of(".", "generation.tsv");
    int n = 0;
    for (char *line = strtok((char *) f.data, "\n"); line; line = strtok(NULL, "\n")) {
        assert_true(n < cap);
        memset(&e[n], 0, sizeof *e);
        int used = 0;
        assert_int_equal(sscanf(line, "%31[^\t]\t%d\t%n", e[n].name, &e[n].input, &used), 2);
        for (char *at = line + used, *end; *at; at = *end ? end + 1 : end) {
            e[n].ids[e[n].n++] = (int32_t) strtol(at, &end, 10);
            assert_true(end > at);
        }
        e[n].ends = e[n].n > 0 && e[n].ids[e[n].n - 1] == 1;
        n++;
    }
    free(f.data);
    return n;
}

static ia3_generate_row
row_of(golden *g, int input, int max_tokens, int32_t *out)
{
    char name[64];
    snprintf(name, sizeof name, "input.%d.ids", input);
    const ia3_st_tensor *t = ia3_safetensors_find(g->expected, name);
    assert_non_null(t);
    int n = (int) t->shape[0];
    int32_t *ids = malloc((size_t) n * sizeof *ids);
    for (int i = 0; i < n; i++)
        ids[i] = (int32_t) ((const float *) t->data)[i];
    return (ia3_generate_row){
        .adapter = g->adapter, .ids = ids, .n_ids = n, .max_tokens = max_tokens, .out = out};
}

static void
run(golden *g, ia3_generate_row *rows, int n)
{
    ia3_error err = {0};
    golden_ok(ia3_generate(g->m, rows, n, &err), &err);
}

static void
free_row(ia3_generate_row *row)
{
    free((void *) row->ids);
}

static void
greedy(void **state)
{
    golden *g = golden_open(*state);
    expectation all[32];
    int n = read_expectations(all, 32), seen = 0;
    for (int i = 0; i < n; i++) {
        if (strcmp(all[i].name, g->name) != 0)
            continue;
        int32_t out[MAX_TOKENS];
        ia3_generate_row row = row_of(g, all[i].input, MAX_TOKENS, out);
        run(g, &row, 1);
        int tokens = all[i].n - all[i].ends;
        assert_true(row.n_out >= tokens);
        assert_memory_equal(out, all[i].ids, (size_t) tokens * sizeof *out);
        if (all[i].ends)
            assert_int_equal(row.n_out, tokens);
        free_row(&row);
        seen++;
    }
    assert_true(seen > 0);
    golden_close(g);
}

/* Rows of different lengths, limits, adapters and temperatures have the same result in a batch as alone. */
static void
batch_is_one_by_one(void **state)
{
    golden *g = golden_open(*state);
    int32_t together[4][MAX_TOKENS], alone[MAX_TOKENS];
    ia3_generate_row rows[4];
    for (int i = 0; i < 4; i++)
        rows[i] = row_of(g, i % GOLDEN_INPUTS, i == 1 ? 3 : MAX_TOKENS, together[i]);
    rows[2].adapter = NULL;
    rows[3].temperature = 0.8;
    rows[3].top_k = 20;
    rows[3].seed = 5;
    run(g, rows, 4);
    assert_true(rows[1].n_out <= 3);
    for (int i = 0; i < 4; i++) {
        ia3_generate_row one = rows[i];
        one.out = alone;
        run(g, &one, 1);
        assert_int_equal(one.n_out, rows[i].n_out);
        assert_memory_equal(alone, together[i], (size_t) one.n_out * sizeof *alone);
        free_row(&rows[i]);
    }
    golden_close(g);
}

/* The same seed gives the same text, other seeds give other texts, and with one candidate sampling is greedy. */
static void
sampling(void **state)
{
    golden *g = golden_open(*state);
    int32_t greedy_out[MAX_TOKENS], first[MAX_TOKENS], out[MAX_TOKENS];
    ia3_generate_row best = row_of(g, 0, MAX_TOKENS, greedy_out), row = row_of(g, 0, MAX_TOKENS, first);
    run(g, &best, 1);
    row.temperature = 2;
    row.seed = 1;
    run(g, &row, 1);
    int n = row.n_out;
    row.out = out;
    run(g, &row, 1);
    assert_int_equal(row.n_out, n);
    assert_memory_equal(out, first, (size_t) n * sizeof *out);
    bool differs = false;
    for (row.seed = 2; row.seed < 6; row.seed++) {
        run(g, &row, 1);
        differs |= row.n_out != n || memcmp(out, first, (size_t) n * sizeof *out) != 0;
    }
    assert_true(differs);
    row.top_k = 1;
    run(g, &row, 1);
    assert_int_equal(row.n_out, best.n_out);
    assert_memory_equal(out, greedy_out, (size_t) best.n_out * sizeof *out);
    free_row(&best);
    free_row(&row);
    golden_close(g);
}

/* The frequencies of the first sampled token follow the distribution that scoring computes. */
static void
frequencies(void **state)
{
    golden *g = golden_open(*state);
    enum { DRAWS = 4000, BATCH = 50 };
    int vocab = g->config->vocab_size;
    int *count = calloc((size_t) vocab, sizeof *count);
    int32_t out[BATCH];
    ia3_generate_row rows[BATCH];
    for (int i = 0; i < BATCH; i++) {
        rows[i] = row_of(g, 0, 1, &out[i]);
        rows[i].temperature = 1;
    }
    for (int k = 0; k < DRAWS / BATCH; k++) {
        for (int i = 0; i < BATCH; i++)
            rows[i].seed = (uint64_t) (k * BATCH + i);
        run(g, rows, BATCH);
        for (int i = 0; i < BATCH; i++)
            count[rows[i].n_out ? out[i] : 1]++;
    }
    /* log p of token v as first token: the pair (start, v) of a trie in which v is a choice's first token */
    ia3_error err = {0};
    double worst = 0;
    for (int v = 2; v < vocab; v++) {
        int32_t ids[2] = {v, 1};
        double score, with_eos, p;
        int a, b;
        ia3_choices *c =
            ia3_choices_create((const int32_t *const[]){ids}, (const int[]){2}, 1, 0, &a, &b, &err);
        ia3_score_row s = {.adapter = g->adapter,
                           .ids = rows[0].ids,
                           .n_ids = rows[0].n_ids,
                           .choices = c,
                           .scores = &score};
        golden_ok(ia3_score(g->m, &s, 1, &err), &err);
        with_eos = 2 * score;
        ia3_choices_free(c);
        /* p(v) >= p(v </s>): the sampled frequency may not fall below it by more than noise */
        p = exp(with_eos);
        double noise = 4 * sqrt(p * (1 - p) / DRAWS);
        worst = fmax(worst, p - noise - (double) count[v] / DRAWS);
    }
    assert_true(worst <= 0);
    for (int i = 0; i < BATCH; i++)
        free_row(&rows[i]);
    free(count);
    golden_close(g);
}

int
main(void)
{
    static const golden_case cases[] = {{"t5-relu-tied", IA3_F32},
                                        {"t5-gated-untied", IA3_F32},
                                        {"umt5-bias-per-layer", IA3_F32},
                                        {"t5-few-buckets", IA3_F32},
                                        {"backbone", IA3_F32}};
#define CASE(test, i)                                                                                        \
    {                                                                                                        \
#test, test, NULL, NULL, (void *) &cases[i]                                                          \
    }
    const struct CMUnitTest tests[] = {
        CASE(greedy, 0),
        CASE(greedy, 1),
        CASE(greedy, 2),
        CASE(greedy, 3),
        CASE(greedy, 4),
        CASE(batch_is_one_by_one, 0),
        CASE(batch_is_one_by_one, 2),
        CASE(sampling, 1),
        CASE(frequencies, 0),
    };
    return cmocka_run_group_tests_name("generate", tests, NULL, NULL);
}
