/*
 * test_kernels_matmul.c
 *     Matrix products with frozen weights, and log-probabilities over the vocabulary: their values and gradients, and
 *     that the bits of a result do not depend on other rows or on the number of threads.
 */
#include "device_common.h"

/* A weight [out, in] in double precision, and on the device, made from two stacked parts of different types. */
typedef struct weight {
    int out, in;
    double *w;
    ia3_matrix *m;
} weight;

static weight
make_weight(ia3_device *dev, int out, int in)
{
    weight x = {.out = out, .in = in, .w = random_values((size_t) out * (size_t) in, 1.0)};
    int first = out / 3; /* rows of the part stored as bfloat16 */
    uint16_t *half = calloc((size_t) out * (size_t) in, sizeof *half);
    float *full = calloc((size_t) out * (size_t) in, sizeof *full);
    for (size_t i = 0; i < (size_t) out * (size_t) in; i++) {
        if (i < (size_t) first * (size_t) in) {
            half[i] = ia3_f32_to_bf16((float) x.w[i]);
            x.w[i] = ia3_bf16_to_f32(half[i]);
        } else {
            full[i] = (float) x.w[i];
            x.w[i] = round_weight(dev, x.w[i]);
        }
    }
    ia3_host_tensor parts[2] = {{half, IA3_BF16, first, in},
                                {full + (size_t) first * (size_t) in, IA3_F32, out - first, in}};
    ia3_error err = {0};
    x.m = first ? dev->ops->matrix_create(dev, parts, 2, &err)
                : dev->ops->matrix_create(dev, parts + 1, 1, &err);
    assert_non_null(x.m);
    assert_int_equal(x.m->out, out);
    assert_int_equal(x.m->in, in);
    free(half);
    free(full);
    return x;
}

static void
free_weight(ia3_device *dev, weight *x)
{
    dev->ops->matrix_free(dev, x->m);
    free(x->w);
}

/* y[rows, n] (+)= a[rows, k]·B with B(k, n) = w[k·rs + n·cs] */
static void
product(double *y, const double *a, const double *w, int rows, int n, int k, int rs, int cs, bool add)
{
    for (int r = 0; r < rows; r++)
        for (int j = 0; j < n; j++) {
            double sum = add ? y[(size_t) r * (size_t) n + (size_t) j] : 0;
            for (int i = 0; i < k; i++)
                sum += a[(size_t) r * (size_t) k + (size_t) i] *
                       w[(size_t) i * (size_t) rs + (size_t) j * (size_t) cs];
            y[(size_t) r * (size_t) n + (size_t) j] = sum;
        }
}

/* Checks all three ways of writing the result, in one direction. */
static void
check_product(ia3_device *dev, const weight *x, int rows, bool backward)
{
    int k = backward ? x->out : x->in, n = backward ? x->in : x->out;
    size_t n_y = (size_t) rows * (size_t) n;
    double *a = random_values((size_t) rows * (size_t) k, 1.0), *before = random_values(n_y, 5.0);
    double *want = calloc(n_y + 1, sizeof *want);
    void *pa = put_act(dev, a, (size_t) rows * (size_t) k), *py = dev->ops->alloc(dev, 4 * n_y + 1);
    void (*op)(ia3_device *, void *, const void *, int, ia3_matrix *, ia3_out) =
        backward ? dev->ops->matmul_bwd : dev->ops->matmul;
    product(want, a, x->w, rows, n, k, backward ? x->in : 1, backward ? 1 : x->in, false);
    op(dev, py, pa, rows, x->m, IA3_OUT_F32);
    double *y = get_f32(dev, py, n_y);
    assert_close("product, fp32", y, want, n_y, 1e-5);
    free(y);
    op(dev, py, pa, rows, x->m, IA3_OUT_ACT);
    y = get_act(dev, py, n_y);
    assert_close("product, act", y, want, n_y, is_bf16(dev) ? 4e-3 : 1e-5);
    free(y);
    float *sum = put_f32(dev, before, n_y);
    product(before, a, x->w, rows, n, k, backward ? x->in : 1, backward ? 1 : x->in, true);
    op(dev, sum, pa, rows, x->m, IA3_OUT_ADD_F32);
    y = get_f32(dev, sum, n_y);
    assert_close("product, added", y, before, n_y, 1e-5);
    free(y);
    free(a);
    free(before);
    free(want);
    dev->ops->free(dev, pa);
    dev->ops->free(dev, py);
    dev->ops->free(dev, sum);
}

static void
on_products(ia3_device *dev)
{
    static const int shapes[][2] = {{1, 1},     {7, 5},     {64, 33},   {100, 256},
                                    {1024, 40}, {1025, 24}, {1700, 65}, {24, 1100}};
    static const int rows[] = {0, 1, 3, 4, 7, 61, 64, 131};
    seed_random(21);
    for (size_t s = 0; s < sizeof shapes / sizeof shapes[0]; s++) {
        weight x = make_weight(dev, shapes[s][0], shapes[s][1]);
        ia3_error err = {0};
        size_t forward = x.m->bytes;
        assert_true(forward >= (size_t) x.out * (size_t) x.in * ia3_dtype_size(dev->weights));
        assert_true(dev->ops->matrix_prepare_backward(dev, x.m, &err));
        if (strcmp(dev->name, "cpu") == 0) /* keeps a second copy; a GPU multiplies with the first */
            assert_true(x.m->bytes > forward);
        for (size_t r = 0; r < sizeof rows / sizeof rows[0]; r++) {
            check_product(dev, &x, rows[r], false);
            check_product(dev, &x, rows[r], true);
        }
        dev->ops->matrix_release_backward(dev, x.m);
        assert_int_equal(x.m->bytes, forward);
        free_weight(dev, &x);
    }
}

static void
test_products(void **state)
{
    for_each_dtype(on_products);
}

/*
 * Compares two results of the same computation. On the CPU they must have identical bits. On a GPU the library may use
 * another order of summation for another number of rows, so bf16 results may differ in the last bit (2^-8).
 */
static void
assert_same_rows(const ia3_device *dev, ia3_out out, const char *a, const char *b, size_t n)
{
    const bool bf16 = out == IA3_OUT_ACT && is_bf16(dev);
    if (strncmp(dev->name, "cuda", 4) != 0) {
        assert_memory_equal(a, b, n * (bf16 ? 2 : 4));
        return;
    }
    double *x = calloc(n, sizeof *x), *y = calloc(n, sizeof *y);
    for (size_t i = 0; i < n; i++) {
        x[i] = bf16 ? ia3_bf16_to_f32(((const uint16_t *) (const void *) a)[i])
                    : ((const float *) (const void *) a)[i];
        y[i] = bf16 ? ia3_bf16_to_f32(((const uint16_t *) (const void *) b)[i])
                    : ((const float *) (const void *) b)[i];
    }
    assert_close("split rows", y, x, n, bf16 ? 4e-3 : 1e-5);
    free(x);
    free(y);
}

/* The same rows in one call, and in two calls that split them at every place. */
static void
on_split_rows(ia3_device *dev)
{
    enum { ROWS = 93 };
    static const int shapes[][2] = {{256, 256}, {1280, 96}, {40, 512}, {48, 3000}};
    size_t size = ia3_dtype_size(dev->dtype);
    seed_random(22);
    for (size_t s = 0; s < sizeof shapes / sizeof shapes[0]; s++) {
        weight x = make_weight(dev, shapes[s][0], shapes[s][1]);
        double *a = random_values((size_t) ROWS * (size_t) x.in, 1.0),
               *y0 = random_values((size_t) ROWS * (size_t) x.out, 1);
        void *pa = put_act(dev, a, (size_t) ROWS * (size_t) x.in);
        for (int out = IA3_OUT_ACT; out <= IA3_OUT_ADD_F32; out++) {
            size_t out_size = out == IA3_OUT_ACT ? size : 4, bytes = (size_t) ROWS * (size_t) x.out * 4;
            char *whole = calloc(1, bytes), *parts = calloc(1, bytes);
            char *py = (char *) put_f32(dev, y0, (size_t) ROWS * (size_t) x.out);
            char *pz = (char *) put_f32(dev, y0, (size_t) ROWS * (size_t) x.out);
            dev->ops->matmul(dev, py, pa, ROWS, x.m, (ia3_out) out);
            dev->ops->download(dev, whole, py, bytes);
            for (int split = 1; split < ROWS; split += 9) {
                dev->ops->free(dev, pz);
                pz = (char *) put_f32(dev, y0, (size_t) ROWS * (size_t) x.out);
                dev->ops->matmul(dev, pz, pa, split, x.m, (ia3_out) out);
                dev->ops->matmul(dev, pz + (size_t) split * (size_t) x.out * out_size,
                                 (char *) pa + (size_t) split * (size_t) x.in * size, ROWS - split, x.m,
                                 (ia3_out) out);
                dev->ops->download(dev, parts, pz, bytes);
                assert_same_rows(dev, (ia3_out) out, whole, parts, (size_t) ROWS * (size_t) x.out);
            }
            free(whole);
            free(parts);
            dev->ops->free(dev, py);
            dev->ops->free(dev, pz);
        }
        free(a);
        free(y0);
        dev->ops->free(dev, pa);
        free_weight(dev, &x);
    }
}

static void
test_split_rows(void **state)
{
    for_each_dtype(on_split_rows);
}

/* Makes rows with 0 to 4 targets each, some of them repeated. */
typedef struct vocab {
    weight head;
    int rows, n_pairs;
    float scale;
    double *h;
    int32_t *offsets, *tokens;
    void *ph;
    int32_t *po, *pt;
} vocab;

static vocab
make_vocab(ia3_device *dev, int rows, int size, int d, float scale)
{
    vocab v = {.head = make_weight(dev, size, d), .rows = rows, .scale = scale};
    v.h = random_values((size_t) rows * (size_t) d, 2.0);
    v.offsets = calloc((size_t) rows + 1, sizeof *v.offsets);
    v.tokens = calloc(4 * (size_t) rows + 1, sizeof *v.tokens);
    for (int r = 0; r < rows; r++) {
        int n = random_below(5);
        for (int i = 0; i < n; i++, v.n_pairs++) {
            int repeated = i == 2 ? v.tokens[v.n_pairs - 1] : random_below(size);
            v.tokens[v.n_pairs] = i == 1 ? size - 1 : repeated;
        }
        v.offsets[r + 1] = v.n_pairs;
    }
    v.ph = put_act(dev, v.h, (size_t) rows * (size_t) d);
    v.po = put_bytes(dev, v.offsets, sizeof *v.offsets * ((size_t) rows + 1));
    v.pt = put_bytes(dev, v.tokens, sizeof *v.tokens * ((size_t) v.n_pairs + 1));
    return v;
}

static void
free_vocab(ia3_device *dev, vocab *v)
{
    free_weight(dev, &v->head);
    free(v->h);
    free(v->offsets);
    free(v->tokens);
    dev->ops->free(dev, v->ph);
    dev->ops->free(dev, v->po);
    dev->ops->free(dev, v->pt);
}

/* Computes lp, lse and the gradients of Σ dlp·lp; that of the weights is added to dhead. */
static void
vocab_reference(const vocab *v, const double *dlp, double *lp, double *lse, double *dh, double *dhead)
{
    int n = v->head.out, d = v->head.in;
    double *logits = calloc((size_t) n, sizeof *logits);
    for (int r = 0; r < v->rows; r++) {
        double sum = 0, max = -1e300;
        product(logits, v->h + (size_t) r * (size_t) d, v->head.w, 1, n, d, 1, d, false);
        for (int i = 0; i < n; i++)
            max = fmax(max, logits[i] *= v->scale);
        for (int i = 0; i < n; i++)
            sum += exp(logits[i] - max);
        lse[r] = max + log(sum);
        for (int i = 0; i < n; i++) {
            double dlogit = 0;
            for (int32_t p = v->offsets[r]; p < v->offsets[r + 1]; p++) {
                lp[p] = logits[v->tokens[p]] - lse[r];
                dlogit += dlp[p] * ((v->tokens[p] == i) - exp(logits[i] - lse[r]));
            }
            for (int c = 0; c < d; c++) {
                dh[r * d + c] += v->scale * dlogit * v->head.w[(size_t) i * (size_t) d + (size_t) c];
                dhead[(size_t) i * (size_t) d + (size_t) c] += v->scale * dlogit * v->h[r * d + c];
            }
        }
    }
    free(logits);
}

static void
vocab_case(ia3_device *dev, int rows, int size, int d, float scale)
{
    vocab v = make_vocab(dev, rows, size, d, scale);
    size_t n_h = (size_t) rows * (size_t) d, n_p = (size_t) v.n_pairs;
    double *dlp = random_values(n_p, 1.0), *lp = calloc(n_p + 1, sizeof *lp), *dh = calloc(n_h, sizeof *dh);
    double *lse = calloc((size_t) rows, sizeof *lse);
    float *plp = dev->ops->alloc(dev, 4 * n_p + 4), *plse = dev->ops->alloc(dev, 4 * (size_t) rows);
    float *pdh = dev->ops->alloc(dev, 4 * n_h), *pdlp = put_f32(dev, dlp, n_p);
    const size_t n_w = (size_t) size * (size_t) d;
    double *dhead = random_values(n_w, 0.1);
    float *pdhead = put_f32(dev, dhead, n_w);
    vocab_reference(&v, dlp, lp, lse, dh, dhead);
    ia3_error err = {0};
    assert_true(dev->ops->matrix_prepare_backward(dev, v.head.m, &err));
    dev->ops->vocab_logprobs(dev, plp, plse, v.ph, rows, v.head.m, scale, v.po, v.pt);
    dev->ops->vocab_logprobs_bwd(dev, pdh, pdhead, pdlp, plse, v.ph, rows, v.head.m, scale, v.po, v.pt);
    double *got_lp = get_f32(dev, plp, n_p), *got_lse = get_f32(dev, plse, (size_t) rows);
    double *got_dh = get_f32(dev, pdh, n_h);
    assert_close("lp", got_lp, lp, n_p, 2e-6);
    assert_close("lse", got_lse, lse, (size_t) rows, 2e-6);
    /* a sum over the vocabulary in fp32, in whatever order */
    assert_close("dh", got_dh, dh, n_h, is_bf16(dev) ? 5e-3 : size < 100000 ? 1e-5 : 5e-5);
    double *got_dhead = get_f32(dev, pdhead, n_w);
    /* a probability is as exact as the logit in its exponent, which is in the hundreds with scale 40 */
    assert_close("dhead", got_dhead, dhead, n_w, is_bf16(dev) ? 5e-3 : scale > 1 ? 5e-5 : 1e-5);
    double *host[] = {dlp, lp, dh, lse, got_lp, got_lse, got_dh, dhead, got_dhead};
    void *device[] = {plp, plse, pdh, pdlp, pdhead};
    for (int i = 0; i < 9; i++)
        free(host[i]);
    for (int i = 0; i < 5; i++)
        dev->ops->free(dev, device[i]);
    free_vocab(dev, &v);
}

static void
on_vocab(ia3_device *dev)
{
    seed_random(23);
    vocab_case(dev, 1, 50, 8, 1.0f);
    vocab_case(dev, 70, 1100, 32, 0.3f);
    vocab_case(dev, 3, 5000, 33, 1.0f);
    dev->ops->vocab_logprobs(dev, NULL, NULL, NULL, 0, NULL, 1.0f, NULL, NULL);
}

static void
test_vocab(void **state)
{
    for_each_dtype(on_vocab);
}

/* Logits far beyond the range of exp() do not cause an overflow. */
static void
on_large_logits(ia3_device *dev)
{
    seed_random(24);
    vocab_case(dev, 6, 700, 64, 40.0f);
}

static void
test_large_logits(void **state)
{
    for_each_dtype(on_large_logits);
}

/* mT5's vocabulary, with more logits than a device keeps at a time. */
static void
on_many_logits(ia3_device *dev)
{
    seed_random(26);
    vocab_case(dev, 72, 250112, 4, 1.0f);
}

static void
test_many_logits(void **state)
{
    for_each_dtype(on_many_logits);
}

/*
 * Computes a product and its gradient from weights that are bfloat16 numbers: y [rows, out], then da [rows, in]. dy is y.
 * False if the activations are bfloat16.
 */
static bool
from_halves(ia3_dtype dtype, int rows, int out, int in, char *result)
{
    ia3_device *dev = open_device(dtype, 2, 0);
    const size_t n = (size_t) out * (size_t) in, n_y = (size_t) rows * (size_t) out,
                 n_a = (size_t) rows * (size_t) in;
    seed_random(27);
    double *a = random_values(n_a, 1.0);
    uint16_t *w = calloc(n, sizeof *w);
    for (size_t i = 0; i < n; i++)
        w[i] = ia3_f32_to_bf16((float) random_number());
    ia3_host_tensor t = {w, IA3_BF16, out, in};
    ia3_error err = {0};
    ia3_matrix *m = dev->ops->matrix_create(dev, &t, 1, &err);
    bool wide = !is_bf16(dev);
    if (wide) {
        float *pa = put_act(dev, a, n_a), *y = dev->ops->alloc(dev, 4 * (n_y + n_a));
        assert_true(dev->ops->matrix_prepare_backward(dev, m, &err));
        dev->ops->matmul(dev, y, pa, rows, m, IA3_OUT_ACT);
        dev->ops->matmul_bwd(dev, y + n_y, y, rows, m, IA3_OUT_F32);
        dev->ops->download(dev, result, y, 4 * (n_y + n_a));
        dev->ops->free(dev, pa);
        dev->ops->free(dev, y);
    }
    dev->ops->matrix_free(dev, m);
    dev->ops->close(dev);
    free(a);
    free(w);
    return wide;
}

/* Where bfloat16 is not multiplied, weights stored in it give the bits that they give when stored in float32. */
static void
test_halves(void **state)
{
    static const int shapes[][2] = {{1, 1}, {7, 5}, {40, 255}, {33, 264}, {1100, 24}, {20, 2500}};
    static const int rows[] = {1, 5, 6, 7, 12, 13, 61};
    bool compared = false;
    for (size_t s = 0; s < sizeof shapes / sizeof shapes[0]; s++)
        for (size_t r = 0; r < sizeof rows / sizeof rows[0]; r++) {
            int out = shapes[s][0], in = shapes[s][1];
            size_t bytes = 4 * (size_t) rows[r] * (size_t) (out + in);
            char *full = malloc(bytes), *half = malloc(bytes);
            bool wide = from_halves(IA3_BF16, rows[r], out, in, half);
            assert_true(from_halves(IA3_F32, rows[r], out, in, full));
            if (wide)
                assert_memory_equal(half, full, bytes);
            compared |= wide;
            free(full);
            free(half);
        }
    if (!compared)
        skip();
}

/* One, two and three threads give identical bits. */
static void
run_with_threads(ia3_dtype dtype, int threads, char *result, size_t bytes)
{
    enum { ROWS = 150, SIZE = 1500, D = 128 };
    ia3_device *dev = open_device(dtype, threads, 0);
    seed_random(25);
    vocab v = make_vocab(dev, ROWS, SIZE, D, 0.5f);
    double *dlp = random_values((size_t) v.n_pairs, 1.0);
    float *plp = dev->ops->alloc(dev, 4 * (size_t) v.n_pairs + 4), *plse = dev->ops->alloc(dev, 4 * ROWS);
    float *pdh = dev->ops->alloc(dev, 4 * ROWS * D), *pdlp = put_f32(dev, dlp, (size_t) v.n_pairs);
    float *py = dev->ops->alloc(dev, 4 * ROWS * SIZE);
    ia3_error err = {0};
    assert_true(dev->ops->matrix_prepare_backward(dev, v.head.m, &err));
    dev->ops->matmul(dev, py, v.ph, ROWS, v.head.m, IA3_OUT_F32);
    dev->ops->vocab_logprobs(dev, plp, plse, v.ph, ROWS, v.head.m, v.scale, v.po, v.pt);
    dev->ops->vocab_logprobs_bwd(dev, pdh, NULL, pdlp, plse, v.ph, ROWS, v.head.m, v.scale, v.po, v.pt);
    assert_true(bytes == 4 * (ROWS * SIZE + ROWS + ROWS * D));
    dev->ops->download(dev, result, py, 4 * ROWS * SIZE);
    dev->ops->download(dev, result + 4 * ROWS * SIZE, plse, 4 * ROWS);
    dev->ops->download(dev, result + 4 * (ROWS * SIZE + ROWS), pdh, 4 * ROWS * D);
    void *device[] = {plp, plse, pdh, pdlp, py};
    for (int i = 0; i < 5; i++)
        dev->ops->free(dev, device[i]);
    free(dlp);
    free_vocab(dev, &v);
    dev->ops->close(dev);
}

static void
test_threads(void **state)
{
    enum { BYTES = 4 * (150 * 1500 + 150 + 150 * 128) };
    char *one = malloc(BYTES), *more = malloc(BYTES);
    for (int dtype = IA3_F32; dtype <= IA3_BF16; dtype++) {
        ia3_device *dev = open_device((ia3_dtype) dtype, 1, 0);
        if (!dev)
            continue;
        dev->ops->close(dev);
        run_with_threads((ia3_dtype) dtype, 1, one, BYTES);
        for (int threads = 2; threads <= 3; threads++) {
            run_with_threads((ia3_dtype) dtype, threads, more, BYTES);
            assert_memory_equal(one, more, BYTES);
        }
    }
    free(one);
    free(more);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_products),    cmocka_unit_test(test_split_rows),
        cmocka_unit_test(test_vocab),       cmocka_unit_test(test_large_logits),
        cmocka_unit_test(test_many_logits), cmocka_unit_test(test_threads),
        cmocka_unit_test(test_halves),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
