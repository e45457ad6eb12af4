/*
 * test_state_attention.c
 *     Cross-attention over the encoder's states without keys and values (state_attention), on devices that support it.
 *     It is compared with the definition in double precision, with weights in bfloat16 and in eight bits. It must write
 *     only results of its own sequences, its bits must not depend on other sequences or threads, and the model's scores
 *     must be the same whether or not a row uses it.
 */
#include "device_common.h"
#include "engine/recipe/score.h"
#include "golden_fixture.h"
#include "kernels/cpu/matrix.h"

enum { MAX_SEQ = 8, N_SLOTS = 2, OFFSET = 3, GAP = 5 /* behind rows of q */, FIRST = 2 /* unused rows */ };

typedef struct problem {
    int n_heads, d, d_model, n_seq, inner;
    int32_t q_off[MAX_SEQ + 1], k_off[MAX_SEQ + 1], slot_of[MAX_SEQ];
    bool scaled;
    double *q, *e, *w,
        *slots[N_SLOTS]; /* [rows, inner + GAP], [rows, d_model], [2·inner, d_model], [OFFSET + 2·inner] */
} problem;

static problem
make_problem(int n_heads, int d, int d_model, int n_seq, const int *q_len, const int *k_len, bool scaled)
{
    problem p = {.n_heads = n_heads, .d = d, .d_model = d_model, .n_seq = n_seq, .inner = n_heads * d};
    p.scaled = scaled;
    p.q_off[0] = FIRST;
    for (int s = 0; s < n_seq; s++) {
        p.q_off[s + 1] = p.q_off[s] + q_len[s];
        p.k_off[s + 1] = p.k_off[s] + k_len[s];
        p.slot_of[s] = random_below(N_SLOTS);
    }
    size_t weights = 2 * (size_t) p.inner * (size_t) d_model;
    p.q = random_values((size_t) p.q_off[n_seq] * (size_t) (p.inner + GAP), 1.0);
    p.e = random_values((size_t) p.k_off[n_seq] * (size_t) d_model, 1.0);
    p.w = random_values(weights, 3.0 / sqrt(d_model * sqrt(d)));
    for (int i = 0; i < N_SLOTS; i++)
        p.slots[i] = random_values(OFFSET + 2 * (size_t) p.inner, 1.5);
    return p;
}

static void
free_problem(problem *p)
{
    free(p->q);
    free(p->e);
    free(p->w);
    for (int i = 0; i < N_SLOTS; i++)
        free(p->slots[i]);
}

/* The product of row `row` of E and row `column` of W. */
static double
key(const problem *p, int row, int column)
{
    double sum = 0;
    for (int i = 0; i < p->d_model; i++)
        sum += p->e[row * p->d_model + i] * p->w[column * p->d_model + i];
    return sum;
}

/* Computes out [rows, inner] with keys and values; rows that belong to no sequence stay zero. */
static double *
reference(const problem *p)
{
    const int inner = p->inner, n_k = p->k_off[p->n_seq];
    double *kv = calloc((size_t) n_k * 2 * (size_t) inner + 1, sizeof *kv),
           *weight = calloc((size_t) n_k + 1, 8);
    double *out = calloc((size_t) p->q_off[p->n_seq] * (size_t) inner + 1, sizeof *out);
    for (int r = 0; r < n_k; r++)
        for (int c = 0; c < 2 * inner; c++)
            kv[r * 2 * inner + c] = key(p, r, c);
    for (int s = 0; s < p->n_seq; s++) {
        const double *l = p->slots[p->slot_of[s]] + OFFSET;
        for (int row = p->q_off[s]; row < p->q_off[s + 1]; row++)
            for (int h = 0; h < p->n_heads; h++) {
                double max = -1e300, sum = 0;
                for (int k = p->k_off[s]; k < p->k_off[s + 1]; k++) {
                    weight[k] = 0;
                    for (int c = h * p->d; c < (h + 1) * p->d; c++)
                        weight[k] +=
                            p->q[row * (inner + GAP) + c] * kv[k * 2 * inner + c] * (p->scaled ? l[c] : 1);
                    max = fmax(max, weight[k]);
                }
                for (int k = p->k_off[s]; k < p->k_off[s + 1]; k++)
                    sum += weight[k] = exp(weight[k] - max);
                for (int c = h * p->d; c < (h + 1) * p->d; c++)
                    for (int k = p->k_off[s]; k < p->k_off[s + 1]; k++)
                        out[row * inner + c] +=
                            weight[k] / sum * kv[k * 2 * inner + inner + c] * (p->scaled ? l[inner + c] : 1);
            }
    }
    free(kv);
    free(weight);
    return out;
}

/* Converts W to bfloat16 and replaces its values by the rounded ones. */
static ia3_matrix *
put_weights(ia3_device *dev, problem *p)
{
    const size_t half = (size_t) p->inner * (size_t) p->d_model;
    uint16_t *host = malloc(2 * half * sizeof *host);
    for (size_t i = 0; i < 2 * half; i++) {
        host[i] = ia3_f32_to_bf16((float) p->w[i]);
        p->w[i] = ia3_bf16_to_f32(host[i]);
    }
    ia3_host_tensor parts[2] = {
        {.data = (const void *) host, .dtype = IA3_BF16, .rows = p->inner, .cols = p->d_model},
        {.data = (const void *) (host + half), .dtype = IA3_BF16, .rows = p->inner, .cols = p->d_model}};
    ia3_error err = {0};
    ia3_matrix *w = dev->ops->matrix_create(dev, parts, 2, &err);
    assert_non_null(w);
    free(host);
    return w;
}

/* Runs the operation on sequences [first, n_seq) of the problem; the rows of others must not change. */
static double *
run(ia3_device *dev, problem *p, int first)
{
    const size_t rows = (size_t) p->q_off[p->n_seq], n = rows * (size_t) p->inner;
    double *marks = calloc(n + 1, sizeof *marks);
    for (size_t i = 0; i < n; i++)
        marks[i] = 7;
    ia3_matrix *w = put_weights(dev, p);
    assert_true(dev->ops->state_attention_fits(dev, w, p->n_heads, p->d));
    void *q = put_act(dev, p->q, rows * (size_t) (p->inner + GAP)), *out = put_act(dev, marks, n);
    void *e = put_act(dev, p->e, (size_t) p->k_off[p->n_seq] * (size_t) p->d_model);
    const float *slots[N_SLOTS];
    for (int i = 0; i < N_SLOTS; i++)
        slots[i] = put_f32(dev, p->slots[i], OFFSET + 2 * (size_t) p->inner);
    ia3_attention a = {.n_heads = p->n_heads,
                       .d_kv = p->d,
                       .n_seq = p->n_seq - first,
                       .q_offsets = p->q_off + first,
                       .k_offsets = p->k_off + first,
                       .q = q,
                       .q_stride = (size_t) (p->inner + GAP),
                       .scale_k = {p->scaled ? slots : NULL, p->slot_of + first, OFFSET},
                       .scale_v = {p->scaled ? slots : NULL, p->slot_of + first, OFFSET + (size_t) p->inner},
                       .out = out};
    for (int s = first; s < p->n_seq; s++) {
        int n_q = p->q_off[s + 1] - p->q_off[s], n_k = p->k_off[s + 1] - p->k_off[s];
        a.max_q = n_q > a.max_q ? n_q : a.max_q;
        a.max_k = n_k > a.max_k ? n_k : a.max_k;
    }
    size_t mark = dev->ops->arena_mark(dev);
    dev->ops->state_attention(dev, &a, e, w);
    assert_int_equal(dev->ops->arena_mark(dev), mark);
    double *got = get_act(dev, out, n);
    for (size_t i = 0; i < (size_t) p->q_off[first] * (size_t) p->inner; i++)
        assert_true(got[i] == 7);
    dev->ops->matrix_free(dev, w);
    void *all[] = {q, e, out, (void *) slots[0], (void *) slots[1]};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        dev->ops->free(dev, all[i]);
    free(marks);
    return got;
}

/* Opens the device; skips the test if it does not support the operation. */
static ia3_device *
device_of(ia3_dtype dtype, int threads)
{
    ia3_device *dev = open_device(dtype, threads, 0);
    problem p = make_problem(2, 32, 64, 0, NULL, NULL, false);
    bool has = dev && dev->ops->state_attention;
    if (has) {
        ia3_matrix *w = put_weights(dev, &p);
        has = dev->ops->state_attention_fits(dev, w, 2, 32);
        dev->ops->matrix_free(dev, w);
    }
    free_problem(&p);
    if (!has) {
        if (dev)
            dev->ops->close(dev);
        skip();
    }
    return dev;
}

static const struct shape {
    int n_heads, d, d_model, n_seq, q_len[MAX_SEQ], k_len[MAX_SEQ];
} shapes[] = {
    {2, 32, 64, 1, {1}, {1}},
    {1, 64, 192, 3, {1, 5, 2}, {2, 17, 31}},
    {12, 64, 768, 4, {3, 4, 1, 9}, {100, 33, 16, 257}},
    {4,
     64,
     256,
     6,
     {0, 3, 2, 40, 1, 0},
     {9, 0, 64, 65, 15, 0}}, /* sequences without queries, and without states */
    {3, 128, 320, 2, {30, 7}, {48, 130}},
    {40, 32, 576, 2, {1, 2}, {5, 300}}, /* more columns than a panel of weights has */
};

static void
check_shapes(ia3_dtype dtype, double tolerance)
{
    ia3_device *dev = device_of(dtype, 2);
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        for (int scaled = 0; scaled < 2; scaled++) {
            const struct shape *s = &shapes[i];
            char what[64];
            seed_random(40 + i);
            problem p = make_problem(s->n_heads, s->d, s->d_model, s->n_seq, s->q_len, s->k_len, scaled);
            double *got = run(dev, &p, 0), *want = reference(&p);
            size_t first = FIRST * (size_t) p.inner, n = (size_t) p.q_off[p.n_seq] * (size_t) p.inner - first;
            snprintf(what, sizeof what, "shape %zu%s", i, scaled ? ", scaled" : "");
            assert_close(what, got + first, want + first, n, tolerance);
            free(got);
            free(want);
            free_problem(&p);
        }
    dev->ops->close(dev);
}

static void
test_bf16(void **state)
{
    check_shapes(IA3_BF16, 1e-2);
}

static void
test_int8(void **state)
{
    check_shapes(IA3_INT8, 2.5e-2);
}

/* A sequence alone, with others before it, and with other numbers of threads. */
static void
check_bits(ia3_dtype dtype)
{
    ia3_device *dev = device_of(dtype, 1), *more = device_of(dtype, 3);
    const struct shape *s = &shapes[2];
    seed_random(80);
    problem p = make_problem(s->n_heads, s->d, s->d_model, s->n_seq, s->q_len, s->k_len, true);
    size_t n = (size_t) p.q_off[p.n_seq] * (size_t) p.inner;
    double *all = run(dev, &p, 0), *threads = run(more, &p, 0);
    assert_memory_equal(all, threads, n * sizeof *all);
    for (int first = 1; first < p.n_seq; first++) {
        double *some = run(more, &p, first);
        size_t from = (size_t) p.q_off[first] * (size_t) p.inner;
        assert_memory_equal(all + from, some + from, (n - from) * sizeof *all);
        free(some);
    }
    free(all);
    free(threads);
    free_problem(&p);
    dev->ops->close(dev);
    more->ops->close(more);
}

static void
test_bits(void **state)
{
    check_bits(IA3_BF16);
    check_bits(IA3_INT8);
}

/* state_attention_fits must return false for shapes that the operation does not support. */
static void
test_fits(void **state)
{
    ia3_device *dev = device_of(IA3_BF16, 1), *f32 = open_device(IA3_F32, 1, 0);
    static const struct {
        int n_heads, d, d_model;
    } bad[] = {{4, 16, 64}, {2, 48, 64}, {2, 64, 96}, {2, 64, 100}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        problem p = make_problem(bad[i].n_heads, bad[i].d, bad[i].d_model, 0, NULL, NULL, false);
        ia3_matrix *w = put_weights(dev, &p);
        assert_false(dev->ops->state_attention_fits(dev, w, p.n_heads, p.d));
        dev->ops->matrix_free(dev, w);
        free_problem(&p);
    }
    problem p = make_problem(2, 64, 64, 0, NULL, NULL, false);
    ia3_matrix *w = put_weights(f32, &p);
    assert_false(f32->ops->state_attention_fits(f32, w, 2, 64));
    f32->ops->matrix_free(f32, w);
    free_problem(&p);
    dev->ops->close(dev);
    f32->ops->close(f32);
}

/* --- the model --- */

enum { N_ROWS = 4, N_MANY = 60, N_TOKENS = 40 };

static void
ignore(const char *site, const float *values, int rows, int cols, void *arg)
{
}

/*
 * A batch with both few and many choices for the same inputs: each row's scores are identical to those that it gets
 * alone, and close to those with keys and values, which a traced pass uses.
 */
static void
check_model(ia3_dtype dtype, double tolerance)
{
    ia3_device *probe = device_of(dtype, 1);
    probe->ops->close(probe);
    golden_case c = {"backbone", dtype};
    golden *g = golden_open(&c);
    ia3_error err = {0};
    int32_t ids[N_ROWS / 2][N_TOKENS], *many[N_MANY], token[N_MANY][2];
    int len[N_MANY];
    for (int i = 0; i < N_ROWS / 2; i++)
        for (int t = 0; t < N_TOKENS; t++)
            ids[i][t] = t == N_TOKENS - 1 ? 1 : 3 + random_below(8000);
    for (int i = 0; i < N_MANY; i++) {
        token[i][0] = 100 + i;
        token[i][1] = 1;
        many[i] = token[i];
        len[i] = 2;
    }
    int bad_a, bad_b;
    const int32_t *const *ids_of = (const int32_t *const *) many;
    ia3_choices *sets[2];
    for (int i = 0; i < 2; i++)
        sets[i] =
            ia3_choices_create(ids_of, len, i == 0 ? 2 : N_MANY, g->config->start_id, &bad_a, &bad_b, &err);
    golden_ok(sets[0] && sets[1], &err);
    double scores[N_ROWS][N_MANY], other[N_MANY];
    ia3_score_row rows[N_ROWS];
    for (int i = 0; i < N_ROWS; i++)
        rows[i] = (ia3_score_row){g->adapter, ids[i / 2], N_TOKENS, sets[i % 2], scores[i]};
    golden_ok(ia3_score(g->m, rows, N_ROWS, &err), &err);
    for (int i = 0; i < N_ROWS; i++) {
        ia3_score_row one = rows[i];
        one.scores = other;
        golden_ok(ia3_score(g->m, &one, 1, &err), &err);
        assert_memory_equal(other, scores[i], (size_t) one.choices->n * sizeof *other);
        ia3_model_set_trace(g->m, ignore, NULL);
        golden_ok(ia3_score(g->m, &one, 1, &err), &err);
        ia3_model_set_trace(g->m, NULL, NULL);
        bool same = memcmp(other, scores[i], (size_t) one.choices->n * sizeof *other) == 0;
        assert_int_equal(same, i % 2); /* rows with many choices use keys and values anyway */
        for (int k = 0; k < one.choices->n; k++)
            assert_true(fabs(other[k] - scores[i][k]) <= tolerance);
    }
    ia3_choices_free(sets[0]);
    ia3_choices_free(sets[1]);
    golden_close(g);
}

static void
test_model(void **state)
{
    check_model(IA3_BF16, 0.05);
    check_model(IA3_INT8, 0.1);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bf16), cmocka_unit_test(test_int8),  cmocka_unit_test(test_bits),
        cmocka_unit_test(test_fits), cmocka_unit_test(test_model),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
