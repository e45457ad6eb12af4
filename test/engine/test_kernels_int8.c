/*
 * test_kernels_int8.c
 *     Weights in eight bits. Every form of the kernel that this processor can run is compared with plain integer sums,
 *     also for extreme values, and matrix products and log-probabilities with the definition in double precision. The
 *     bits of a result must not depend on the form, on other rows or on the number of threads.
 */
#include "device_common.h"
#include "kernels/cpu/matrix.h"

enum { COLUMNS = IA3_INT8_COLUMNS, GROUP = IA3_INT8_GROUP };

/* --- the kernel alone --- */

/* Pairs of weights whose sums are as large as they can be, or have to cancel out. */
enum { PAIRS = 6 };
static const int8_t pairs[PAIRS][2] = {{64, 64}, {-64, -64}, {127, 1}, {-1, -127}, {127, -127}, {-127, 127}};

/*
 * Fills q and the packed w: with random values (kind 0), or with the largest or smallest q and one of the pairs. Weights of
 * the same sign have a sum of at most 128 in a pair, as those that the engine packs.
 */
static void
fill(int kind, int8_t *q, size_t n_q, int8_t *w, size_t n_w)
{
    for (size_t i = 0; i < n_q; i++)
        q[i] = (int8_t) (kind == 0 ? random_below(255) - 127 : kind % 2 ? 127 : -127);
    for (size_t i = 0; i < n_w; i++)
        w[i] = kind == 0 ? (int8_t) (random_below(255) - 127) : pairs[(kind - 1) / 2][i % 2];
    for (size_t i = 0; kind == 0 && i < n_w; i += 2)
        if (abs(w[i] + w[i + 1]) > 128)
            w[i + 1] = (int8_t) (w[i] > 0 ? 128 - w[i] : -128 - w[i]);
}

/* Returns a copy of n quantised values as the form stores them. */
static uint8_t *
as_form(const ia3_int8_form *form, const int8_t *q, size_t n)
{
    uint8_t *copy = malloc(n);
    for (size_t i = 0; i < n; i++)
        copy[i] = (uint8_t) (q[i] + form->zero);
    return copy;
}

/* Compares the product by one panel with sums in 64 bits, for one form and every way of writing the result. */
static void
check_form(const ia3_int8_form *form, int rows, int groups, int n, int kind, bool bf16)
{
    size_t k = (size_t) groups * GROUP, n_w = k * COLUMNS, n_y = (size_t) rows * 70;
    int8_t *q = malloc((size_t) rows * k), *w = aligned_alloc(64, n_w);
    float w_scale[COLUMNS], *scale = malloc((size_t) rows * 4), *before = malloc(n_y * 4);
    int32_t start[COLUMNS] = {0};
    float *y = malloc(n_y * 4);
    fill(kind, q, (size_t) rows * k, w, n_w);
    for (int j = 0; j < COLUMNS; j++)
        w_scale[j] = 0.5f + (float) j / 64.0f;
    for (size_t i = 0; i < n_w; i++)
        start[i / GROUP % COLUMNS] -= 128 * w[i];
    for (int r = 0; r < rows; r++)
        scale[r] = 1.0f + (float) r / 8.0f;
    uint8_t *values = as_form(form, q, (size_t) rows * k);
    for (int out = IA3_OUT_ACT; out <= IA3_OUT_ADD_F32; out++) {
        for (size_t i = 0; i < n_y; i++)
            y[i] = before[i] = (float) random_number();
        ia3_int8_product p = {.w = w,
                              .next = w,
                              .w_scale = w_scale,
                              .start = start,
                              .groups = groups,
                              .n = n,
                              .q = values,
                              .scale = scale,
                              .rows = rows,
                              .y = y,
                              .ldy = 70,
                              .out = (ia3_out) out,
                              .bf16 = bf16};
        form->product(&p);
        for (int r = 0; r < rows; r++)
            for (int j = 0; j < 70; j++) {
                size_t at = (size_t) r * 70 + (size_t) j;
                int64_t sum = 0;
                for (size_t i = 0; j < n && i < k; i++)
                    sum += (int64_t) q[(size_t) r * k + i] *
                           w[(i / GROUP * COLUMNS + (size_t) j) * GROUP + i % GROUP];
                volatile float product = (float) (int32_t) sum * (scale[r] * w_scale[j < n ? j : 0]);
                bool half = out == IA3_OUT_ACT && bf16;
                float got = half ? ia3_bf16_to_f32(((uint16_t *) y)[at]) : y[at];
                float want = out == IA3_OUT_ADD_F32 ? before[at] + product : product;
                if (half)
                    want = ia3_bf16_to_f32(ia3_f32_to_bf16(want));
                if (j >= n && half)
                    continue; /* two of them lie in one of `before` */
                if (j >= n)
                    want = before[at]; /* columns outside the panel are left alone */
                if (got != want)
                    fail_msg("%s, %d rows, k %zu, n %d, kind %d, out %d: [%d, %d] is %.9g, not %.9g",
                             form->name, rows, k, n, kind, out, r, j, got, want);
            }
    }
    free(q);
    free(values);
    free(w);
    free(scale);
    free(before);
    free(y);
}

static void
test_forms(void **state)
{
    static const int rows[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 25, 96}, groups[] = {1, 2, 13, 192},
                     columns[] = {32, 31, 16, 9, 1};
    seed_random(81);
    for (int f = 0; f < ia3_int8_n_forms; f++) {
        const ia3_int8_form *form = ia3_int8_forms[f];
        if (!form->available()) {
            print_message("  %s is not available here\n", form->name);
            continue;
        }
        for (size_t r = 0; r < sizeof rows / sizeof *rows; r++)
            for (size_t g = 0; g < sizeof groups / sizeof *groups; g++)
                for (size_t c = 0; c < sizeof columns / sizeof *columns; c++)
                    check_form(form, rows[r], groups[g], columns[c], 0, (r + c) % 2);
    }
}

/*
 * With the largest possible products of either sign and the longest k nothing saturates: a pair of products of q + 128 with
 * weights just fits in 16 bits. With weights of 65 instead of 64 the forms that add pairs in 16 bits fail here.
 */
static void
test_extremes(void **state)
{
    for (int f = 0; f < ia3_int8_n_forms; f++)
        for (int kind = 1; ia3_int8_forms[f]->available() && kind <= 2 * PAIRS; kind++) {
            for (int rows = 1; rows <= 13; rows++)
                check_form(ia3_int8_forms[f], rows, 200, COLUMNS, kind, false);
            check_form(ia3_int8_forms[f], 1, IA3_INT8_MAX_K / GROUP, COLUMNS, kind, false);
        }
}

/* x·H by the definition: in blocks of b, H[i,j] is -1 if i and j have an odd number of common one bits, else 1. */
static void
test_rotation(void **state)
{
    static const int sizes[] = {1, 3, 2, 12, 40, 64, 256, 768, 512, 2816, 1000};
    static const int blocks[] = {1, 1, 2, 4, 8, 64, 256, 256, 256, 256, 8};
    seed_random(87);
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
        int k = sizes[s], b = ia3_int8_block(k);
        float *x = malloc((size_t) k * 4), *y = malloc((size_t) k * 4);
        assert_int_equal(b, blocks[s]);
        for (int i = 0; i < k; i++)
            x[i] = y[i] = (float) random_number();
        ia3_int8_rotate(y, k);
        for (int j = 0; j < k; j++) {
            double want = 0;
            for (int i = j / b * b; i < j / b * b + b; i++)
                want += __builtin_parity((unsigned) (i % b & j % b)) ? -(double) x[i] : (double) x[i];
            assert_true(fabs(want - (double) y[j]) <= 2e-6 * b);
        }
        free(x);
        free(y);
    }
}

/* Computes q and the scale of one row by the definition. */
static void
check_row(const ia3_int8_form *form, const float *x, int k, bool bf16)
{
    int padded = (k + GROUP - 1) / GROUP * GROUP;
    uint8_t *q = malloc((size_t) padded + 1);
    uint16_t *half = malloc((size_t) k * 2);
    float *seen = malloc((size_t) k * 4), *scratch = malloc((size_t) k * 4), scale, largest = 0;
    for (int i = 0; i < k; i++) {
        half[i] = ia3_f32_to_bf16(x[i]);
        seen[i] = bf16 ? ia3_bf16_to_f32(half[i]) : x[i];
    }
    q[padded] = 77;
    form->quantize(q, &scale, bf16 ? (void *) half : (void *) seen, k, padded, bf16, scratch);
    ia3_int8_rotate(seen, k);
    for (int i = 0; i < k; i++)
        largest = fmaxf(largest, fabsf(seen[i]));
    bool tiny = largest < 0x1p-100f;
    assert_true(scale == (tiny ? 0.0f : largest / 127.0f));
    for (int i = 0; i < padded; i++) {
        float want = i < k && !tiny ? nearbyintf(seen[i] * (127.0f / largest)) : 0.0f;
        int v = (int8_t) (q[i] - form->zero);
        if ((float) v != want)
            fail_msg("%s: q[%d] of %d is %d, not %g", form->name, i, k, v, want);
    }
    assert_int_equal(q[padded], 77);
    free(q);
    free(half);
    free(seen);
    free(scratch);
}

static void
test_quantize(void **state)
{
    enum { MOST = 1030 };
    float x[MOST];
    seed_random(82);
    for (int f = 0; f < ia3_int8_n_forms; f++) {
        const ia3_int8_form *form = ia3_int8_forms[f];
        for (int k = 1; form->available() && k <= MOST; k = k < 70 ? k + 1 : k * 3 / 2)
            for (int kind = 0; kind < 5; kind++) {
                for (int i = 0; i < k; i++) /* ordinary, ties, zero, tiny, huge */
                    x[i] = kind == 0   ? (float) random_number()
                           : kind == 1 ? (float) (random_below(255) - 127) / (i ? 2.0f : 1.0f)
                           : kind == 2 ? 0.0f
                           : kind == 3 ? (float) random_number() * 1e-38f
                                       : (float) random_number() * 1e36f;
                if (kind == 1)
                    x[0] = 127.0f;
                check_row(form, x, k, false);
                check_row(form, x, k, true);
            }
    }
}

static void
test_quantize_nonfinite(void **state)
{
    const float bad[] = {NAN, INFINITY, -INFINITY};
    for (int f = 0; f < ia3_int8_n_forms; f++)
        for (int i = 0; ia3_int8_forms[f]->available() && i < 3; i++)
            for (int at = 0; at < 36; at += 5)
                for (int bf16 = 0; bf16 <= 1; bf16++) {
                    float x[36] = {1, 2, 3}, scale = 0, scratch[36];
                    uint16_t half[36];
                    uint8_t q[36];
                    x[at] = bad[i];
                    for (int c = 0; c < 36; c++)
                        half[c] = ia3_f32_to_bf16(x[c]);
                    ia3_int8_forms[f]->quantize(q, &scale, bf16 ? (void *) half : (void *) x, 36, 36, bf16,
                                                scratch);
                    assert_true(isnan(scale));
                }
}

/* --- on the device --- */

/* Opens a device in int8 whose activations are bfloat16, if the processor supports it, or float32. */
static ia3_device *
open_int8(int threads, bool f32, const ia3_int8_form *form)
{
    ia3_device *dev = open_device(IA3_INT8, threads, 0);
    ia3_cpu *cpu = (ia3_cpu *) dev;
    assert_non_null(dev);
    assert_int_equal(dev->weights, IA3_INT8);
    if (f32) {
        dev->dtype = IA3_F32;
        cpu->bf16 = false;
        cpu->act_size = 4;
    }
    if (form)
        cpu->int8 = form;
    return dev;
}

/*
 * Rotates x and rounds it to 127 steps of the row's largest value, or with `in_pairs` also of the largest sum of a pair, as the
 * kernel does, and divides it by `by`.
 */
static void
round_rows(double *x, int rows, int k, int by, bool in_pairs)
{
    float *row = malloc((size_t) k * sizeof *row);
    for (int r = 0; r < rows; r++) {
        float largest = 0;
        for (int i = 0; i < k; i++)
            row[i] = (float) x[(size_t) r * (size_t) k + (size_t) i];
        ia3_int8_rotate(row, k);
        for (int i = 0; i < k; i++)
            largest = fmaxf(largest, fabsf(row[i]));
        for (int i = 0; in_pairs && i + 1 < k; i += 2)
            largest = fmaxf(largest, fabsf(row[i] + row[i + 1]));
        for (int i = 0; i < k && largest > 0; i++)
            x[(size_t) r * (size_t) k + (size_t) i] =
                (double) nearbyintf(row[i] * (127.0f / largest)) * (double) (largest / 127.0f) / by;
    }
    free(row);
}

/* Makes a random weight, of which parts are stored in different types; w gets the values that the kernel uses. */
static ia3_matrix *
make_matrix(ia3_device *dev, double *w, int out, int in)
{
    int first = out / 3;
    size_t n = (size_t) out * (size_t) in, split = (size_t) first * (size_t) in;
    uint16_t *half = calloc(n, sizeof *half);
    float *full = calloc(n, sizeof *full);
    for (size_t i = 0; i < n; i++) {
        half[i] = ia3_f32_to_bf16((float) w[i]);
        full[i] = (float) w[i];
        w[i] = i < split ? ia3_bf16_to_f32(half[i]) : full[i];
    }
    ia3_host_tensor parts[2] = {{half, IA3_BF16, first, in}, {full + split, IA3_F32, out - first, in}};
    ia3_error err = {0};
    ia3_matrix *m = dev->ops->matrix_create(dev, first ? parts : parts + 1, first ? 2 : 1, &err);
    assert_non_null(m);
    assert_true(m->out == out && m->in == in);
    round_rows(w, out, in, ia3_int8_block(in), true);
    free(half);
    free(full);
    return m;
}

static double *
reference(const double *a, const double *w, int rows, int out, int in)
{
    double *y = calloc((size_t) rows * (size_t) out + 1, sizeof *y);
    for (int r = 0; r < rows; r++)
        for (int j = 0; j < out; j++)
            for (int i = 0; i < in; i++)
                y[(size_t) r * (size_t) out + (size_t) j] +=
                    a[(size_t) r * (size_t) in + (size_t) i] * w[(size_t) j * (size_t) in + (size_t) i];
    return y;
}

static void
check_shape(ia3_device *dev, int rows, int out, int in)
{
    size_t n_a = (size_t) rows * (size_t) in, n_y = (size_t) rows * (size_t) out;
    double *w = random_values((size_t) out * (size_t) in, 0.7), *a = random_values(n_a, 3.0);
    double *before = random_values(n_y, 5.0);
    ia3_matrix *m = make_matrix(dev, w, out, in);
    assert_true(m->bytes >= (size_t) out * (size_t) in);
    assert_true(m->bytes <= ((size_t) out + COLUMNS - 1) / COLUMNS * COLUMNS * ((size_t) in + 11));
    void *pa = put_act(dev, a, n_a), *py = dev->ops->alloc(dev, 4 * n_y + 4);
    float *sum = put_f32(dev, before, n_y);
    round_rows(a, rows, in, 1, false);
    double *want = reference(a, w, rows, out, in);
    dev->ops->matmul(dev, py, pa, rows, m, IA3_OUT_F32);
    double *y = get_f32(dev, py, n_y);
    assert_close("product, fp32", y, want, n_y, 1e-6);
    free(y);
    dev->ops->matmul(dev, py, pa, rows, m, IA3_OUT_ACT);
    y = get_act(dev, py, n_y);
    assert_close("product, act", y, want, n_y, is_bf16(dev) ? 4e-3 : 1e-6);
    free(y);
    dev->ops->matmul(dev, sum, pa, rows, m, IA3_OUT_ADD_F32);
    y = get_f32(dev, sum, n_y);
    for (size_t i = 0; i < n_y; i++)
        want[i] += before[i];
    assert_close("product, added", y, want, n_y, 1e-6);
    double *host[] = {y, want, w, a, before};
    for (int i = 0; i < 5; i++)
        free(host[i]);
    dev->ops->free(dev, pa);
    dev->ops->free(dev, py);
    dev->ops->free(dev, sum);
    dev->ops->matrix_free(dev, m);
}

static void
test_products(void **state)
{
    static const int shapes[][2] = {{1, 1},     {7, 5},    {64, 33},  {100, 256},
                                    {1025, 24}, {65, 515}, {90, 512}, {70, 768}};
    static const int rows[] = {0, 1, 5, 6, 61, 97, 200};
    for (int f32 = 0; f32 <= 1; f32++) {
        ia3_device *dev = open_int8(2, f32, NULL);
        seed_random(83);
        for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++)
            for (size_t r = 0; r < sizeof rows / sizeof *rows; r++)
                check_shape(dev, rows[r], shapes[s][0], shapes[s][1]);
        dev->ops->close(dev);
    }
}

/*
 * Whatever the weights are, those of one sign in a pair have a sum of at most 128 when they are packed, and some reach 127, so
 * that no precision is lost. 45 inputs are not rotated, and all weights alike are the worst case of that; the others are.
 */
static void
test_pairs(void **state)
{
    enum { OUT = 40, MOST = 768 };
    static const int sizes[] = {45, 64, 768};
    ia3_device *dev = open_int8(2, true, NULL);
    double *w = malloc((size_t) OUT * MOST * sizeof *w);
    seed_random(89);
    for (int s = 0; s < 3; s++)
        for (int kind = 0; kind < 4; kind++) { /* random, alike, alternating, a pair alone */
            for (int i = 0; i < OUT * sizes[s]; i++)
                w[i] = kind == 0   ? random_number()
                       : kind == 1 ? 0.3
                       : kind == 2 ? (i % sizes[s] % 2 ? 0.3 : -0.3)
                                   : i % sizes[s] < 2;
            ia3_matrix *m = make_matrix(dev, w, OUT, sizes[s]);
            const ia3_int8_weight *p = ((ia3_cpu_matrix *) m)->int8;
            for (int j = 0; j < OUT; j++) {
                int largest = 0;
                for (int i = 0; i < p->groups * GROUP; i += 2) {
                    const int8_t *at =
                        p->data + (size_t) (j / COLUMNS * p->groups + i / GROUP) * COLUMNS * GROUP;
                    int a = at[j % COLUMNS * GROUP + i % GROUP], b = at[j % COLUMNS * GROUP + i % GROUP + 1];
                    largest = abs(a) > largest ? abs(a) : largest;
                    largest = abs(b) > largest ? abs(b) : largest;
                    largest = abs(a + b) > largest ? abs(a + b) : largest;
                }
                assert_in_range(largest, 126, 128);
            }
            dev->ops->matrix_free(dev, m);
        }
    free(w);
    dev->ops->close(dev);
}

/* Rows with zeros, NaN and infinity between ordinary ones, and weights with a channel of zeros and one of NaN. */
static void
test_odd_rows(void **state)
{
    enum { ROWS = 9, OUT = 70, IN = 45 };
    for (int f32 = 0; f32 <= 1; f32++) {
        ia3_device *dev = open_int8(2, f32, NULL);
        seed_random(84);
        double *w = random_values((size_t) OUT * IN, 1.0), *a = random_values((size_t) ROWS * IN, 1.0);
        for (int i = 0; i < IN; i++) {
            w[50 * IN + i] = 0;
            a[2 * IN + i] = 0;
        }
        w[60 * IN + 3] = NAN;
        a[4 * IN + 7] = NAN;
        a[6 * IN + 1] = -INFINITY;
        ia3_matrix *m = make_matrix(dev, w, OUT, IN);
        void *pa = put_act(dev, a, ROWS * IN), *py = dev->ops->alloc(dev, 4 * ROWS * OUT);
        dev->ops->matmul(dev, py, pa, ROWS, m, IA3_OUT_F32);
        double *y = get_f32(dev, py, ROWS * OUT);
        for (int r = 0; r < ROWS; r++)
            for (int j = 0; j < OUT; j++) {
                double v = y[r * OUT + j];
                if (r == 4 || r == 6 || j == 60)
                    assert_true(isnan(v));
                else if (r == 2 || j == 50)
                    assert_true(v == 0);
                else
                    assert_true(isfinite(v) && v != 0);
            }
        free(y);
        free(w);
        free(a);
        dev->ops->free(dev, pa);
        dev->ops->free(dev, py);
        dev->ops->matrix_free(dev, m);
        dev->ops->close(dev);
    }
}

/* norm_matmul and the operations that it stands for give the same bytes. */
static void
check_norm_matmul(ia3_device *dev, int rows, const ia3_gated *gated, int out, int in)
{
    const size_t size = is_bf16(dev) ? 2 : 4, width = (size_t) (gated ? gated->d_ff : out);
    double *w = random_values((size_t) out * (size_t) in, 0.7);
    double *x = random_values((size_t) (rows + 1) * (size_t) in, 3.0),
           *norm = random_values((size_t) in, 1.0);
    ia3_matrix *m = make_matrix(dev, w, out, in);
    float *px = put_f32(dev, x, (size_t) (rows + 1) * (size_t) in), *pnorm = put_f32(dev, norm, (size_t) in);
    char *normed = dev->ops->alloc(dev, (size_t) (rows + 1) * (size_t) in * size);
    char *g = dev->ops->alloc(dev, (size_t) (rows + 1) * (size_t) out * size);
    char *want = dev->ops->alloc(dev, (size_t) (rows + 1) * width * size);
    char *got = dev->ops->alloc(dev, (size_t) (rows + 1) * width * size);
    dev->ops->rmsnorm(dev, normed, NULL, px, pnorm, rows, in, 1e-6f);
    dev->ops->matmul(dev, gated ? g : want, normed, rows, m, IA3_OUT_ACT);
    if (gated)
        dev->ops->gated_act(dev, want, g, rows, gated);
    assert_true(dev->ops->norm_matmul(dev, got, px, pnorm, 1e-6f, rows, m, gated));
    assert_memory_equal(got, want, (size_t) rows * width * size);
    void *device[] = {px, pnorm, normed, g, want, got};
    for (int i = 0; i < 6; i++)
        dev->ops->free(dev, device[i]);
    dev->ops->matrix_free(dev, m);
    free(w);
    free(x);
    free(norm);
}

static void
test_norm_matmul(void **state)
{
    enum { D_FF = 192, IN = 256, MOST = 200 };
    static const int rows[] = {0, 1, 13, 97, MOST};
    float vectors[2][D_FF + 3];
    int32_t slot_of[MOST];
    seed_random(88);
    for (int i = 0; i < 2 * (D_FF + 3); i++)
        vectors[i / (D_FF + 3)][i % (D_FF + 3)] = (float) random_number();
    for (int i = 0; i < MOST; i++)
        slot_of[i] = i % 3 == 0;
    const float *slots[] = {vectors[0], vectors[1]};
    for (int f32 = 0; f32 <= 1; f32++) {
        ia3_device *dev = open_int8(1 + f32, f32, NULL);
        for (size_t r = 0; r < sizeof rows / sizeof *rows; r++) {
            check_norm_matmul(dev, rows[r], NULL, 70, IN);
            check_norm_matmul(dev, rows[r], NULL, 64, 45);
            for (int act = IA3_RELU; act <= IA3_SILU; act++)
                for (int kind = 0; kind < 4; kind++) {
                    ia3_gated g = {.act = (ia3_activation) act, .gated = kind % 2 == 0, .d_ff = D_FF};
                    if (kind >= 2)
                        g.scale = (ia3_scale){.slots = slots, .slot_of = slot_of, .offset = 3};
                    check_norm_matmul(dev, rows[r], &g, g.gated ? 2 * D_FF : D_FF, IN);
                }
        }
        dev->ops->close(dev);
    }
}

/* What it cannot do is refused before anything is written. */
static void
test_norm_matmul_refusals(void **state)
{
    ia3_device *dev = open_int8(1, true, NULL), *plain = open_device(IA3_F32, 1, 0);
    double *w = random_values(2 * 192 * 8, 1.0);
    const uint64_t key = 1;
    ia3_matrix *m = make_matrix(dev, w, 2 * 96, 8), *wide = make_matrix(dev, w, 2 * 192, 8);
    ia3_gated narrow = {.act = IA3_RELU, .gated = true, .d_ff = 96},
              drops = {.act = IA3_RELU, .gated = true, .d_ff = 192};
    drops.dropout = (ia3_dropout){.p = 0.1f, .row_key = &key};
    float x[8] = {0}, y[2 * 192] = {7};
    assert_false(dev->ops->norm_matmul(dev, y, x, x, 1e-6f, 1, m, &narrow));
    assert_false(dev->ops->norm_matmul(dev, y, x, x, 1e-6f, 1, wide, &drops));
    ia3_host_tensor host = {w, IA3_F32, 8, 8};
    ia3_error err = {0};
    ia3_matrix *full = plain->ops->matrix_create(plain, &host, 1, &err);
    assert_false(plain->ops->norm_matmul(plain, y, x, x, 1e-6f, 1, full, NULL));
    assert_true(y[0] == 7);
    plain->ops->matrix_free(plain, full);
    plain->ops->close(plain);
    dev->ops->matrix_free(dev, m);
    dev->ops->matrix_free(dev, wide);
    dev->ops->close(dev);
    free(w);
}

/* Computes products of 150 rows in pieces of `step` rows, and log-probabilities; all arguments give the same bytes. */
enum { ROWS = 150, SIZE = 1500, D = 129, RESULT = 4 * (ROWS * SIZE + 2 * ROWS) };

static void
run(int threads, const ia3_int8_form *form, bool f32, int step, char *result)
{
    ia3_device *dev = open_int8(threads, f32, form);
    seed_random(85);
    double *w = random_values((size_t) SIZE * D, 1.0), *a = random_values((size_t) ROWS * D, 1.0);
    double *y0 = random_values((size_t) ROWS * SIZE, 1.0);
    ia3_matrix *m = make_matrix(dev, w, SIZE, D);
    char *pa = put_act(dev, a, ROWS * D);
    float *py = put_f32(dev, y0, (size_t) ROWS * SIZE), *lp = dev->ops->alloc(dev, 8 * ROWS);
    int32_t offsets[ROWS + 1], tokens[ROWS];
    for (int r = 0; r <= ROWS; r++)
        offsets[r] = r;
    for (int r = 0; r < ROWS; r++)
        tokens[r] = r * 10;
    int32_t *po = put_bytes(dev, offsets, sizeof offsets), *pt = put_bytes(dev, tokens, sizeof tokens);
    for (int r = 0; r < ROWS; r += step) {
        int n = ROWS - r < step ? ROWS - r : step;
        char *rows = pa + (size_t) r * D * ia3_dtype_size(dev->dtype);
        dev->ops->matmul(dev, py + (size_t) r * SIZE, rows, n, m, IA3_OUT_ADD_F32);
    }
    dev->ops->download(dev, result, py, 4 * ROWS * SIZE);
    dev->ops->vocab_logprobs(dev, lp, lp + ROWS, pa, ROWS, m, 0.5f, po, pt);
    dev->ops->download(dev, result + 4 * ROWS * SIZE, lp, 8 * ROWS);
    void *device[] = {pa, py, lp, po, pt};
    for (int i = 0; i < 5; i++)
        dev->ops->free(dev, device[i]);
    double *host[] = {w, a, y0};
    for (int i = 0; i < 3; i++)
        free(host[i]);
    dev->ops->matrix_free(dev, m);
    dev->ops->close(dev);
}

static void
test_same_bits(void **state)
{
    char *want = malloc(RESULT), *got = malloc(RESULT);
    for (int f32 = 0; f32 <= 1; f32++) {
        run(1, NULL, f32, ROWS, want);
        for (int threads = 2; threads <= 3; threads++) {
            run(threads, NULL, f32, ROWS, got);
            assert_memory_equal(want, got, RESULT);
        }
        for (int step = 1; step < ROWS; step += 23) {
            run(2, NULL, f32, step, got);
            assert_memory_equal(want, got, RESULT);
        }
        for (int f = 0; f < ia3_int8_n_forms; f++) {
            if (!ia3_int8_forms[f]->available())
                continue;
            run(2, ia3_int8_forms[f], f32, ROWS, got);
            if (memcmp(want, got, RESULT))
                fail_msg("%s gives other bits than %s", ia3_int8_forms[f]->name, ia3_int8_best_form()->name);
        }
    }
    free(want);
    free(got);
}

/* Log-probabilities over a vocabulary that is not a multiple of the size of panels. */
static void
test_vocabulary(void **state)
{
    enum { N = 21, VOCABULARY = 1123, WIDTH = 50 };
    const float scale = 0.3f;
    ia3_device *dev = open_int8(2, false, NULL);
    seed_random(86);
    double *w = random_values((size_t) VOCABULARY * WIDTH, 1.0), *h = random_values((size_t) N * WIDTH, 2.0);
    ia3_matrix *m = make_matrix(dev, w, VOCABULARY, WIDTH);
    void *ph = put_act(dev, h, N * WIDTH);
    int32_t offsets[N + 1] = {0}, tokens[2 * N];
    for (int r = 0; r < N; r++) { /* none, one or two per row */
        offsets[r + 1] = offsets[r] + r % 3;
        for (int32_t i = offsets[r]; i < offsets[r + 1]; i++)
            tokens[i] = i == offsets[r] ? VOCABULARY - 1 - r : r * 50;
    }
    int pairs = offsets[N];
    int32_t *po = put_bytes(dev, offsets, sizeof offsets), *pt = put_bytes(dev, tokens, sizeof tokens);
    float *plp = dev->ops->alloc(dev, 4 * (size_t) pairs), *plse = dev->ops->alloc(dev, 4 * N);
    dev->ops->vocab_logprobs(dev, plp, plse, ph, N, m, scale, po, pt);
    round_rows(h, N, WIDTH, 1, false);
    double *logits = reference(h, w, N, VOCABULARY, WIDTH), lp[2 * N], lse[N];
    for (int r = 0; r < N; r++) {
        double sum = 0;
        for (int v = 0; v < VOCABULARY; v++)
            sum += exp((double) scale * logits[r * VOCABULARY + v]);
        lse[r] = log(sum);
        for (int32_t i = offsets[r]; i < offsets[r + 1]; i++)
            lp[i] = (double) scale * logits[r * VOCABULARY + tokens[i]] - lse[r];
    }
    double *got_lp = get_f32(dev, plp, (size_t) pairs), *got_lse = get_f32(dev, plse, N);
    assert_close("lp", got_lp, lp, (size_t) pairs, 2e-6);
    assert_close("lse", got_lse, lse, N, 2e-6);
    double *host[] = {w, h, logits, got_lp, got_lse};
    void *device[] = {ph, po, pt, plp, plse};
    for (int i = 0; i < 5; i++) {
        free(host[i]);
        dev->ops->free(dev, device[i]);
    }
    dev->ops->matrix_free(dev, m);
    dev->ops->close(dev);
}

static void
test_refusals(void **state)
{
    ia3_device *dev = open_int8(2, false, NULL);
    double *w = random_values(64 * 64, 1.0);
    ia3_matrix *m = make_matrix(dev, w, 64, 64);
    ia3_error err = {0};
    size_t bytes = m->bytes;
    assert_string_equal(ia3_device_dtype_name(dev), "int8");
    assert_false(dev->ops->matrix_prepare_backward(dev, m, &err));
    assert_int_equal(err.code, IA3_E_UNSUPPORTED);
    assert_non_null(strstr(err.message, "int8"));
    dev->ops->matrix_release_backward(dev, m);
    assert_int_equal(m->bytes, bytes);
    dev->ops->matrix_free(dev, m);

    /* a row too long for exact sums; the data is not looked at */
    ia3_host_tensor t = {w, IA3_F32, 1, IA3_INT8_MAX_K + 1};
    err = (ia3_error){0};
    assert_null(dev->ops->matrix_create(dev, &t, 1, &err));
    assert_int_equal(err.code, IA3_E_BAD_CHECKPOINT);
    dev->ops->close(dev);

    /* memory is refused, and nothing stays behind */
    dev = open_device(IA3_INT8, 2, 3000);
    size_t used = dev->ops->memory_used(dev);
    t = (ia3_host_tensor){w, IA3_F32, 64, 64};
    err = (ia3_error){0};
    assert_null(dev->ops->matrix_create(dev, &t, 1, &err));
    assert_int_equal(err.code, IA3_E_MEMORY);
    assert_int_equal(dev->ops->memory_used(dev), used);
    dev->ops->close(dev);
    free(w);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_forms),
        cmocka_unit_test(test_extremes),
        cmocka_unit_test(test_rotation),
        cmocka_unit_test(test_quantize),
        cmocka_unit_test(test_quantize_nonfinite),
        cmocka_unit_test(test_products),
        cmocka_unit_test(test_pairs),
        cmocka_unit_test(test_odd_rows),
        cmocka_unit_test(test_norm_matmul),
        cmocka_unit_test(test_norm_matmul_refusals),
        cmocka_unit_test(test_same_bits),
        cmocka_unit_test(test_vocabulary),
        cmocka_unit_test(test_refusals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
