/*
 * test_kernels_weights.c
 *     What training of weights needs: giving matrices and tables other values, gradients of weights, and the operations on
 *     gradients, compared with double precision.
 */
#include "device_common.h"

/* Compares and frees what the device has. */
static void
check(ia3_device *dev, const char *what, float *device, const double *want, size_t n, double tolerance)
{
    double *got = get_f32(dev, device, n);
    assert_close(what, got, want, n, tolerance);
    free(got);
    dev->ops->free(dev, device);
}

/* --- other values for matrices and tables --- */

/* The results of both products with a matrix: fp32 [rows, out], then [rows, in]. */
static char *
both_products(ia3_device *dev, ia3_matrix *m, int rows, const void *a, const void *dy, size_t *bytes)
{
    const size_t n_y = (size_t) rows * (size_t) m->out, n_a = (size_t) rows * (size_t) m->in;
    *bytes = (n_y + n_a) * sizeof(float);
    char *result = malloc(*bytes);
    float *y = dev->ops->alloc(dev, *bytes);
    dev->ops->matmul(dev, y, a, rows, m, IA3_OUT_F32);
    dev->ops->matmul_bwd(dev, y + n_y, dy, rows, m, IA3_OUT_F32);
    dev->ops->download(dev, result, y, *bytes);
    dev->ops->free(dev, y);
    return result;
}

static void
same_products(ia3_device *dev, ia3_matrix *one, ia3_matrix *other, int rows)
{
    const size_t n_y = (size_t) rows * (size_t) one->out, n_a = (size_t) rows * (size_t) one->in;
    double *a = random_values(n_a, 1.0), *dy = random_values(n_y, 1.0);
    void *pa = put_act(dev, a, n_a), *pdy = put_act(dev, dy, n_y);
    size_t bytes;
    char *x = both_products(dev, one, rows, pa, pdy, &bytes),
         *y = both_products(dev, other, rows, pa, pdy, &bytes);
    assert_memory_equal(x, y, bytes);
    free(x);
    free(y);
    free(a);
    free(dy);
    dev->ops->free(dev, pa);
    dev->ops->free(dev, pdy);
}

/* A matrix that got its values from device memory is, bit for bit, one that was made from a file with the same values. */
static void
update_case(ia3_device *dev, int out, int in)
{
    const size_t n = (size_t) out * (size_t) in;
    double *first = random_values(n, 1.0), *second = random_values(n, 1.0);
    float *host = calloc(n, sizeof *host), *p_first = put_f32(dev, first, n),
          *p_second = put_f32(dev, second, n);
    for (size_t i = 0; i < n; i++)
        host[i] = (float) second[i];
    const ia3_host_tensor t = {host, IA3_F32, out, in};
    ia3_error err = {0};
    ia3_matrix *want = dev->ops->matrix_create(dev, &t, 1, &err);
    ia3_matrix *m = dev->ops->matrix_from_values(dev, p_second, out, in, &err);
    assert_non_null(m);
    assert_true(m->out == out && m->in == in && m->bytes == want->bytes);
    assert_true(dev->ops->matrix_prepare_backward(dev, want, &err));
    dev->ops->matrix_update(dev, m, p_first);
    assert_true(dev->ops->matrix_prepare_backward(dev, m, &err));
    size_t bytes = m->bytes;
    dev->ops->matrix_update(dev, m, p_second);
    assert_true(m->bytes == bytes && bytes == want->bytes);
    same_products(dev, m, want, 7);
    dev->ops->matrix_free(dev, m);
    m = dev->ops->matrix_from_values(dev, p_second, out, in, &err);
    assert_true(dev->ops->matrix_prepare_backward(dev, m, &err));
    same_products(dev, m, want, 3);
    dev->ops->matrix_free(dev, m);
    dev->ops->matrix_free(dev, want);
    dev->ops->free(dev, p_first);
    dev->ops->free(dev, p_second);
    free(first);
    free(second);
    free(host);
}

static void
on_updates(ia3_device *dev)
{
    static const int shapes[][2] = {{1, 1},     {7, 5},     {64, 33},   {100, 256}, {40, 1030},
                                    {1025, 24}, {1700, 65}, {512, 512}, {24, 1100}};
    seed_random(41);
    for (size_t s = 0; s < sizeof shapes / sizeof shapes[0]; s++)
        update_case(dev, shapes[s][0], shapes[s][1]);
}

static void
test_updates(void **state)
{
    for_each_dtype(on_updates);
}

/* Part of a table gets other values; a vector is copied. */
static void
on_tables(ia3_device *dev)
{
    enum { ROWS = 9, D = 37, FIRST = 3, UPDATED = 4 };
    seed_random(42);
    double *values = random_values(ROWS * D, 1.0), *others = random_values(UPDATED * D, 1.0);
    float *p = put_f32(dev, values, ROWS * D), *p_others = put_f32(dev, others, UPDATED * D);
    int32_t ids[ROWS] = {0, 1, 2, 3, 4, 5, 6, 7, 8};
    int32_t *p_ids = put_bytes(dev, ids, sizeof ids);
    ia3_error err = {0};
    char *table = dev->ops->table_from_values(dev, p, ROWS, D, &err);
    assert_non_null(table);
    const size_t size = ia3_dtype_size(ia3_device_table_dtype(dev));
    dev->ops->table_update(dev, table + FIRST * D * size, p_others, UPDATED * D);
    dev->ops->table_update(dev, NULL, NULL, 0);
    float *x = dev->ops->alloc(dev, ROWS * D * sizeof *x),
          *copied = dev->ops->alloc(dev, ROWS * D * sizeof *x);
    dev->ops->embed(dev, x, p_ids, ROWS, D, table);
    dev->ops->copy(dev, copied, x, ROWS * D * sizeof *x);
    dev->ops->copy(dev, copied, p, D * sizeof *x);
    dev->ops->copy(dev, NULL, NULL, 0);
    double *want = calloc(ROWS * D, sizeof *want);
    for (size_t i = 0; i < ROWS * D; i++) {
        bool updated = i >= FIRST * D && i < (FIRST + UPDATED) * D;
        want[i] = round_weight(dev, updated ? others[i - FIRST * D] : values[i]);
    }
    double *got = get_f32(dev, x, ROWS * D);
    assert_close("table", got, want, ROWS * D, 0);
    free(got);
    memcpy(want, values, D * sizeof *want);
    check(dev, "copy", copied, want, ROWS * D, 0);
    void *device[] = {p, p_others, p_ids, table, x};
    for (size_t i = 0; i < sizeof device / sizeof *device; i++)
        dev->ops->free(dev, device[i]);
    free(values);
    free(others);
    free(want);
}

static void
test_tables(void **state)
{
    for_each_dtype(on_tables);
}

/* Weights in int8 cannot be trained, and lack of memory is reported. */
static void
test_refusals(void **state)
{
    ia3_device *dev = open_device(IA3_F32, 1, 90 << 20); /* a GPU needs 32 MB for itself */
    enum { ROWS = 4096, COLS = 3072 };
    float *values = dev->ops->alloc(dev, (size_t) ROWS * COLS * sizeof *values);
    ia3_error err = {0};
    assert_non_null(values);
    dev->ops->zero(dev, values, (size_t) ROWS * COLS * sizeof *values);
    assert_null(dev->ops->matrix_from_values(dev, values, ROWS, COLS, &err));
    assert_int_equal(err.code, IA3_E_MEMORY);
    err = (ia3_error){0};
    assert_null(dev->ops->table_from_values(dev, values, ROWS, COLS, &err));
    assert_int_equal(err.code, IA3_E_MEMORY);
    bool cpu = strcmp(dev->name, "cpu") == 0;
    dev->ops->free(dev, values);
    dev->ops->close(dev);
    if (!cpu)
        return;
    dev = open_device(IA3_INT8, 1, 0);
    float one = 1;
    err = (ia3_error){0};
    assert_null(dev->ops->matrix_from_values(dev, &one, 1, 1, &err));
    assert_int_equal(err.code, IA3_E_UNSUPPORTED);
    dev->ops->close(dev);
}

/* --- gradients --- */

static void
matmul_case(ia3_device *dev, int rows, int out, int in)
{
    const size_t n_y = (size_t) rows * (size_t) out, n_a = (size_t) rows * (size_t) in,
                 n_w = (size_t) out * (size_t) in;
    double *dy = random_values(n_y, 1.0), *a = random_values(n_a, 1.0), *dw = random_values(n_w, 1.0);
    void *pdy = put_act(dev, dy, n_y), *pa = put_act(dev, a, n_a);
    float *pdw = put_f32(dev, dw, n_w);
    dev->ops->matmul_grad(dev, pdw, pdy, pa, rows, out, in);
    for (int r = 0; r < rows; r++)
        for (int o = 0; o < out; o++)
            for (int i = 0; i < in; i++)
                dw[(size_t) o * (size_t) in + (size_t) i] +=
                    dy[(size_t) r * (size_t) out + (size_t) o] * a[(size_t) r * (size_t) in + (size_t) i];
    check(dev, "dw", pdw, dw, n_w, 1e-5);
    dev->ops->free(dev, pdy);
    dev->ops->free(dev, pa);
    free(dy);
    free(a);
    free(dw);
}

static void
on_matmul_grad(ia3_device *dev)
{
    static const int shapes[][2] = {{1, 1},    {7, 5},    {64, 33},   {100, 256}, {1, 40},
                                    {1025, 8}, {50, 130}, {193, 100}, {24, 600}};
    static const int rows[] = {0, 1, 2, 3, 8, 17, 64, 131};
    seed_random(43);
    for (size_t s = 0; s < sizeof shapes / sizeof shapes[0]; s++)
        for (size_t r = 0; r < sizeof rows / sizeof rows[0]; r++)
            matmul_case(dev, rows[r], shapes[s][0], shapes[s][1]);
    matmul_case(dev, 2500, 60, 70);
    dev->ops->matmul_grad(dev, NULL, NULL, NULL, 0, 3, 4);
}

static void
test_matmul_grad(void **state)
{
    for_each_dtype(on_matmul_grad);
}

/* Σ r ⊙ (a·Wᵀ), which is linear in W, on the device itself. */
static double
device_loss(ia3_device *dev, ia3_matrix *m, const float *w, const void *a, const double *r, int rows)
{
    const size_t n = (size_t) rows * (size_t) m->out;
    float *y = dev->ops->alloc(dev, n * sizeof *y);
    dev->ops->matrix_update(dev, m, w);
    dev->ops->matmul(dev, y, a, rows, m, IA3_OUT_F32);
    double *got = get_f32(dev, y, n), sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += got[i] * r[i];
    free(got);
    dev->ops->free(dev, y);
    return sum;
}

/* The gradient tells how a product changes when its weights do. Differences of loss(W ± D) are exact for any D. */
static void
on_differences(ia3_device *dev)
{
    enum { ROWS = 29, OUT = 41, IN = 50, N = OUT * IN };
    seed_random(44);
    double *a = random_values(ROWS * IN, 1.0), *r = random_values(ROWS * OUT, 1.0), up[N], down[N],
           zero[N] = {0};
    void *pa = put_act(dev, a, ROWS * IN), *pr = put_act(dev, r, ROWS * OUT);
    float *dw = put_f32(dev, zero, N);
    dev->ops->matmul_grad(dev, dw, pr, pa, ROWS, OUT, IN);
    double *grad = get_f32(dev, dw, N);
    for (int trial = 0; trial < 5; trial++) {
        double want = 0;
        for (int i = 0; i < N; i++) {
            up[i] = round_weight(dev, random_number());
            down[i] = round_weight(dev, up[i] + 0.5 * random_number());
            want += grad[i] * (up[i] - down[i]);
        }
        float *p_up = put_f32(dev, up, N), *p_down = put_f32(dev, down, N);
        ia3_error err = {0};
        ia3_matrix *m = dev->ops->matrix_from_values(dev, p_up, OUT, IN, &err);
        double change = device_loss(dev, m, p_up, pa, r, ROWS) - device_loss(dev, m, p_down, pa, r, ROWS);
        assert_close("change of the loss", &change, &want, 1, 1e-4);
        dev->ops->matrix_free(dev, m);
        dev->ops->free(dev, p_up);
        dev->ops->free(dev, p_down);
    }
    free(grad);
    free(a);
    free(r);
    dev->ops->free(dev, pa);
    dev->ops->free(dev, pr);
    dev->ops->free(dev, dw);
}

static void
test_differences(void **state)
{
    for_each_dtype(on_differences);
}

/* Many rows have the same few ids, others an id of their own, and some ids have no row. */
static void
embed_case(ia3_device *dev, int rows, int ids, int d)
{
    const size_t n_x = (size_t) rows * (size_t) d, n_t = (size_t) ids * (size_t) d;
    double *dx = random_values(n_x, 1.0), *dtable = random_values(n_t, 1.0);
    int32_t *id = calloc((size_t) rows + 1, sizeof *id);
    for (int r = 0; r < rows; r++)
        id[r] = random_below(2) ? random_below(ids) : random_below(ids < 3 ? ids : 3);
    float *pdx = put_f32(dev, dx, n_x), *pdtable = put_f32(dev, dtable, n_t);
    int32_t *p_id = put_bytes(dev, id, (size_t) rows * sizeof *id);
    float *want = calloc(n_t, sizeof *want), *got = calloc(n_t, sizeof *got);
    for (size_t i = 0; i < n_t; i++)
        want[i] = (float) dtable[i];
    for (int r = 0; r < rows; r++)
        for (int i = 0; i < d; i++)
            want[(size_t) id[r] * (size_t) d + (size_t) i] +=
                (float) dx[(size_t) r * (size_t) d + (size_t) i];
    dev->ops->embed_grad(dev, pdtable, pdx, p_id, rows, d);
    dev->ops->download(dev, got, pdtable, n_t * sizeof *got);
    assert_memory_equal(got, want, n_t * sizeof *got); /* since the order is that of the rows */
    void *device[] = {pdx, pdtable, p_id}, *host[] = {dx, dtable, id, want, got};
    for (size_t i = 0; i < sizeof device / sizeof *device; i++)
        dev->ops->free(dev, device[i]);
    for (size_t i = 0; i < sizeof host / sizeof *host; i++)
        free(host[i]);
}

static void
on_embed_grad(ia3_device *dev)
{
    seed_random(45);
    embed_case(dev, 1, 1, 1);
    embed_case(dev, 300, 40, 65);
    embed_case(dev, 700, 500, 24);
    embed_case(dev, 33, 7, 1100);
    embed_case(dev, 0, 5, 8);
    dev->ops->embed_grad(dev, NULL, NULL, NULL, 0, 8);
}

static void
test_embed_grad(void **state)
{
    for_each_dtype(on_embed_grad);
}

static void
norm_case(ia3_device *dev, int rows, int d)
{
    const size_t n = (size_t) rows * (size_t) d;
    double *dy = random_values(n, 1.0), *x = random_values(n, 2.0), *rstd = random_values((size_t) rows, 1.0),
           *dw = random_values((size_t) d, 1.0);
    void *pdy = put_act(dev, dy, n);
    float *px = put_f32(dev, x, n), *p_rstd = put_f32(dev, rstd, (size_t) rows),
          *pdw = put_f32(dev, dw, (size_t) d);
    dev->ops->rmsnorm_grad(dev, pdw, pdy, px, p_rstd, rows, d);
    for (int r = 0; r < rows; r++)
        for (int i = 0; i < d; i++)
            dw[i] += dy[r * d + i] * x[r * d + i] * rstd[r];
    check(dev, "norm", pdw, dw, (size_t) d, 1e-5);
    void *device[] = {pdy, px, p_rstd};
    for (size_t i = 0; i < sizeof device / sizeof *device; i++)
        dev->ops->free(dev, device[i]);
    free(dy);
    free(x);
    free(rstd);
    free(dw);
}

static void
on_norm_grad(ia3_device *dev)
{
    seed_random(46);
    norm_case(dev, 1, 1);
    norm_case(dev, 5, 384);
    norm_case(dev, 700, 65);
    norm_case(dev, 130, 1030);
    norm_case(dev, 0, 16);
    dev->ops->rmsnorm_grad(dev, NULL, NULL, NULL, NULL, 0, 16);
}

static void
test_norm_grad(void **state)
{
    for_each_dtype(on_norm_grad);
}

/* --- the position bias --- */

/* The last bucket has no distance if there is more than one. */
static void
bias_case(ia3_device *dev, int n_buckets, int n_heads, int span)
{
    const size_t width = 2 * (size_t) span - 1, n_bias = width * (size_t) n_heads,
                 n_table = (size_t) n_buckets * (size_t) n_heads;
    double *table = random_values(n_table, 1.0), *dbias = random_values(n_bias, 1.0),
           *dtable = random_values(n_table, 1.0), *bias = calloc(n_bias, sizeof *bias);
    int32_t *bucket = calloc(width, sizeof *bucket);
    for (size_t i = 0; i < width; i++)
        bucket[i] = random_below(n_buckets > 1 ? n_buckets - 1 : 1);
    float *p_table = put_f32(dev, table, n_table), *p_dbias = put_f32(dev, dbias, n_bias),
          *p_dtable = put_f32(dev, dtable, n_table), *p_bias = put_f32(dev, bias, n_bias);
    int32_t *p_bucket = put_bytes(dev, bucket, width * sizeof *bucket);
    dev->ops->bias_expand(dev, p_bias, p_table, p_bucket, n_heads, span);
    dev->ops->bias_table_grad(dev, p_dtable, p_dbias, p_bucket, n_buckets, n_heads, span);
    for (size_t h = 0; h < (size_t) n_heads; h++)
        for (size_t i = 0; i < width; i++) {
            size_t at = (size_t) bucket[i] * (size_t) n_heads + h;
            bias[h * width + i] = table[at];
            dtable[at] += dbias[h * width + i];
        }
    check(dev, "bias", p_bias, bias, n_bias, 0);
    check(dev, "table of biases", p_dtable, dtable, n_table, 1e-5);
    dev->ops->free(dev, p_table);
    dev->ops->free(dev, p_dbias);
    dev->ops->free(dev, p_bucket);
    free(table);
    free(dbias);
    free(dtable);
    free(bias);
    free(bucket);
}

static void
on_bias(ia3_device *dev)
{
    seed_random(47);
    bias_case(dev, 1, 1, 1);
    bias_case(dev, 32, 6, 64);
    bias_case(dev, 5, 3, 300);
    bias_case(dev, 300, 33, 17);
}

static void
test_bias(void **state)
{
    for_each_dtype(on_bias);
}

/* --- element by element --- */

static void
values_case(ia3_device *dev, size_t n)
{
    double *grads = random_values(n, 1.0), *sums = random_values(n, 1.0), *values = random_values(2 * n, 1.0),
           *deltas = random_values(n, 1.0);
    uint32_t *mask = calloc(n / 32 + 1, sizeof *mask);
    int32_t *index = calloc(n + 1, sizeof *index);
    for (size_t i = 0; i < n; i++)
        index[i] = (int32_t) (2 * (n - 1 - i)) + random_below(2);
    for (size_t i = 0; i < n / 32 + 1;
         i++) /* among them empty and full words, and bits behind the last element */
        mask[i] = i % 4 == 1 ? 0 : i % 4 == 2 ? UINT32_MAX : (uint32_t) ia3_mix64(i);
    float *p_grads = put_f32(dev, grads, n), *p_sums = put_f32(dev, sums, n),
          *p_values = put_f32(dev, values, 2 * n), *p_deltas = put_f32(dev, deltas, n);
    uint32_t *p_mask = put_bytes(dev, mask, (n + 31) / 32 * sizeof *mask);
    int32_t *p_index = put_bytes(dev, index, n * sizeof *index);
    dev->ops->add_squares(dev, p_sums, p_grads, n);
    dev->ops->mask_grad(dev, p_grads, p_mask, n);
    dev->ops->scatter_add(dev, p_values, p_index, p_deltas, n);
    for (size_t i = 0; i < n; i++) {
        sums[i] += grads[i] * grads[i];
        values[index[i]] += deltas[i];
        if (!(mask[i / 32] >> i % 32 & 1))
            grads[i] = 0;
    }
    check(dev, "masked", p_grads, grads, n, 0);
    check(dev, "squares", p_sums, sums, n, 1e-6);
    check(dev, "scattered", p_values, values, 2 * n, 1e-6);
    void *device[] = {p_deltas, p_mask, p_index}, *host[] = {grads, sums, values, deltas, mask, index};
    for (size_t i = 0; i < sizeof device / sizeof *device; i++)
        dev->ops->free(dev, device[i]);
    for (size_t i = 0; i < sizeof host / sizeof *host; i++)
        free(host[i]);
}

static void
on_values(ia3_device *dev)
{
    static const size_t sizes[] = {0, 1, 31, 32, 33, 1000, 70001};
    seed_random(48);
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        values_case(dev, sizes[i]);
}

static void
test_values(void **state)
{
    for_each_dtype(on_values);
}

/* --- Adafactor for large matrices --- */

enum { A_TENSORS = 4, A_VALUES = 50 + 300 * 250 + 20 * 30 + 1031 * 65 };
static const int32_t a_offsets[A_TENSORS + 1] = {0, 50, 75050, 75650, A_VALUES};
static const int32_t a_rows[A_TENSORS] = {1, 300, 20, 1031};

/* A step by the definition, for matrices. The second moment is r [rows], then c [cols]. */
static void
adafactor_matrix(double *p, double *g, double *v, int rows, int cols, double beta, double rate)
{
    double mean = 0, values = 0, updates = 0, *c = v + rows;
    const size_t n = (size_t) rows * (size_t) cols;
    for (int x = 0; x < rows + cols; x++)
        v[x] *= beta;
    for (size_t i = 0; i < n; i++) {
        v[i / (size_t) cols] += (1 - beta) * (g[i] * g[i] + 1e-30) / cols;
        c[i % (size_t) cols] += (1 - beta) * (g[i] * g[i] + 1e-30) / rows;
    }
    for (int r = 0; r < rows; r++)
        mean += v[r] / rows;
    for (size_t i = 0; i < n; i++) {
        g[i] /= sqrt(v[i / (size_t) cols] * c[i % (size_t) cols] / mean);
        values += p[i] * p[i] / (double) n;
        updates += g[i] * g[i] / (double) n;
    }
    for (size_t i = 0; i < n; i++)
        p[i] -= rate * fmax(1e-3, sqrt(values)) / fmax(1, sqrt(updates)) * g[i];
}

/* The gradients of a step; many rows have none, as those of an embedding. */
static void
step_gradients(double *g, int step)
{
    for (int i = 0; i < A_VALUES; i++)
        g[i] = (float) ((i / 65 % 3 == 0 ? 0 : 1e-2) * random_number() * step);
}

/* Three steps; `reference`: compares them with double precision. The values are left in `result`. */
static void
adafactor_steps(ia3_device *dev, bool reference, float *result)
{
    seed_random(50);
    double *p = random_values(A_VALUES, 1.0), *g = calloc(A_VALUES, sizeof *g),
           *v = calloc(A_VALUES, sizeof *v);
    int32_t *offsets = put_bytes(dev, a_offsets, sizeof a_offsets),
            *rows = put_bytes(dev, a_rows, sizeof a_rows);
    ia3_adafactor job = {.values = put_f32(dev, p, A_VALUES),
                         .second_moment = put_f32(dev, v, A_VALUES),
                         .tensor_offsets = offsets,
                         .tensor_rows = rows,
                         .n_tensors = A_TENSORS,
                         .learning_rate = 1e-2,
                         .clip_norm = 1,
                         .largest = 300 * 250};
    for (job.step = 1; job.step <= 3; job.step++) {
        double norm = 0;
        step_gradients(g, job.step);
        job.grads = put_f32(dev, g, A_VALUES);
        dev->ops->adafactor(dev, &job, 1);
        dev->ops->free(dev, job.grads);
        for (int i = 0; i < A_VALUES; i++)
            norm += g[i] * g[i];
        for (int i = 0; i < A_VALUES; i++)
            g[i] *= fmin(1, 1 / (sqrt(norm) + 1e-6));
        for (int t = 1; t < A_TENSORS && reference; t++)
            adafactor_matrix(p + a_offsets[t], g + a_offsets[t], v + a_offsets[t], a_rows[t],
                             (a_offsets[t + 1] - a_offsets[t]) / a_rows[t], 1 - pow(job.step, -0.8), 1e-2);
    }
    double *values = get_f32(dev, job.values, A_VALUES), *second = get_f32(dev, job.second_moment, A_VALUES);
    for (int t = 1; t < A_TENSORS && reference; t++) {
        const int at = a_offsets[t], n = a_offsets[t + 1] - at;
        assert_close("values", values + at, p + at, (size_t) n, 2e-6);
        assert_close("r", second + at, v + at, (size_t) a_rows[t], 2e-6);
        assert_close("c", second + at + a_rows[t], v + at + a_rows[t], (size_t) (n / a_rows[t]), 2e-6);
    }
    for (int i = 0; i < A_VALUES; i++)
        result[i] = (float) values[i];
    void *device[] = {job.values, job.second_moment, offsets, rows};
    for (size_t i = 0; i < sizeof device / sizeof *device; i++)
        dev->ops->free(dev, device[i]);
    double *host[] = {p, g, v, values, second};
    for (size_t i = 0; i < sizeof host / sizeof *host; i++)
        free(host[i]);
}

static void
test_adafactor(void **state)
{
    float *one = calloc(A_VALUES, sizeof *one), *other = calloc(A_VALUES, sizeof *other);
    for (int threads = 1; threads <= 3; threads++) {
        ia3_device *dev = open_device(IA3_F32, threads, 0);
        adafactor_steps(dev, threads == 1, threads == 1 ? one : other);
        if (threads > 1)
            assert_memory_equal(one, other, A_VALUES * sizeof *one);
        dev->ops->close(dev);
    }
    free(one);
    free(other);
}

/* --- threads --- */

/* Gradients of a weight, a norm and an embedding, one after another. */
static void
run_with_threads(ia3_dtype dtype, int threads, float *result)
{
    enum { ROWS = 700, OUT = 150, IN = 130, IDS = 20 };
    ia3_device *dev = open_device(dtype, threads, 0);
    seed_random(49);
    double *dy = random_values(ROWS * OUT, 1.0), *a = random_values(ROWS * IN, 1.0),
           *x = random_values(ROWS * OUT, 1.0), *rstd = random_values(ROWS, 1.0),
           *zeros = calloc(OUT * IN, sizeof *zeros);
    int32_t ids[ROWS];
    for (int r = 0; r < ROWS; r++)
        ids[r] = random_below(IDS);
    void *device[] = {put_act(dev, dy, ROWS * OUT),    put_act(dev, a, ROWS * IN),
                      put_f32(dev, x, ROWS * OUT),     put_f32(dev, rstd, ROWS),
                      put_bytes(dev, ids, sizeof ids), put_f32(dev, zeros, OUT * IN),
                      put_f32(dev, zeros, OUT),        put_f32(dev, zeros, IDS * OUT)};
    dev->ops->matmul_grad(dev, device[5], device[0], device[1], ROWS, OUT, IN);
    dev->ops->rmsnorm_grad(dev, device[6], device[0], device[2], device[3], ROWS, OUT);
    dev->ops->embed_grad(dev, device[7], device[2], device[4], ROWS, OUT);
    dev->ops->download(dev, result, device[5], OUT * IN * sizeof *result);
    dev->ops->download(dev, result + OUT * IN, device[6], OUT * sizeof *result);
    dev->ops->download(dev, result + OUT * IN + OUT, device[7], IDS * OUT * sizeof *result);
    for (size_t i = 0; i < sizeof device / sizeof *device; i++)
        dev->ops->free(dev, device[i]);
    double *host[] = {dy, a, x, rstd, zeros};
    for (size_t i = 0; i < sizeof host / sizeof *host; i++)
        free(host[i]);
    dev->ops->close(dev);
}

/* One, two and three threads give identical bits. */
static void
test_threads(void **state)
{
    enum { N = 150 * 130 + 150 + 20 * 150 };
    float *one = calloc(N, sizeof *one), *other = calloc(N, sizeof *other);
    for (int half = 0; half < 2; half++) {
        run_with_threads(half ? IA3_BF16 : IA3_F32, 1, one);
        for (int threads = 2; threads <= 3; threads++) {
            run_with_threads(half ? IA3_BF16 : IA3_F32, threads, other);
            assert_memory_equal(one, other, N * sizeof *one);
        }
    }
    free(one);
    free(other);
}

int
main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_updates),     cmocka_unit_test(test_tables),
        cmocka_unit_test(test_refusals),    cmocka_unit_test(test_matmul_grad),
        cmocka_unit_test(test_differences), cmocka_unit_test(test_embed_grad),
        cmocka_unit_test(test_norm_grad),   cmocka_unit_test(test_bias),
        cmocka_unit_test(test_values),      cmocka_unit_test(test_threads),
        cmocka_unit_test(test_adafactor),
    };
    return cmocka_run_group_tests_name("weights", tests, NULL, NULL);
}
