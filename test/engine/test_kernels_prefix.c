/*
 * test_kernels_prefix.c
 *     The operations of prefix tuning: rows put into others' places, and layers whose weights are trained, compared with double
 *     precision.
 */
#include "device_common.h"

static void
check(ia3_device *dev, const char *what, const float *device, const double *want, size_t n, double tolerance)
{
    double *got = get_f32(dev, device, n);
    assert_close(what, got, want, n, tolerance);
    free(got);
}

/* --- rows in places --- */

/* `at` says where the places begin, NULL: one at row 0. The columns begin behind `before` others. */
static void
places_case(ia3_device *dev, int rows, int cols, int before, int all_rows, const int32_t *at, int n)
{
    const size_t stride = (size_t) (before + cols), size = (size_t) all_rows * stride;
    const size_t each = (size_t) rows * (size_t) cols;
    double *y = random_values(size, 1.0), *dy = random_values(size, 1.0), *x = random_values(each, 1.0);
    double *dx = random_values(each, 1.0);
    void *device_y = put_act(dev, y, size), *device_dy = put_act(dev, dy, size);
    float *device_x = put_f32(dev, x, each), *device_dx = put_f32(dev, dx, each);
    int32_t *device_at = at ? put_bytes(dev, at, (size_t) n * sizeof *at) : NULL;
    const ia3_row_places p = {.rows = rows, .cols = cols, .n = n, .at = device_at, .stride = stride};
    const size_t skip = (size_t) before * ia3_dtype_size(dev->dtype);
    dev->ops->put_rows(dev, (char *) device_y + skip, device_x, &p);
    dev->ops->put_rows_bwd(dev, device_dx, (char *) device_dy + skip, &p);
    for (int k = 0; k < n; k++)
        for (int r = 0; r < rows; r++)
            for (int c = 0; c < cols; c++) {
                size_t to = (size_t) ((at ? at[k] : 0) + r) * stride + (size_t) (before + c);
                y[to] = round_act(dev, x[r * cols + c]);
                dx[r * cols + c] += dy[to];
                dy[to] = 0;
            }
    double *got_y = get_act(dev, device_y, size), *got_dy = get_act(dev, device_dy, size);
    assert_close("y", got_y, y, size, 0);
    assert_close("dy", got_dy, dy, size, 0);
    check(dev, "dx", device_dx, dx, each, 1e-6);
    double *host[] = {y, dy, x, dx, got_y, got_dy};
    for (size_t i = 0; i < sizeof host / sizeof *host; i++)
        free(host[i]);
    void *device[] = {device_y, device_dy, device_x, device_dx, device_at};
    for (size_t i = 0; i < sizeof device / sizeof *device; i++)
        if (device[i])
            dev->ops->free(dev, device[i]);
}

static void
on_places(ia3_device *dev)
{
    static const int32_t some[] = {0, 9, 4, 30}, one[] = {2};
    places_case(dev, 3, 16, 8, 33, some, 4);
    places_case(dev, 1, 600, 300, 3, one, 1);
    places_case(dev, 2, 1030, 0, 40, some, 3);
    places_case(dev, 1, 10, 5, 2, NULL, 1);
    places_case(dev, 2, 10, 5, 2, some, 0);
}

static void
test_places(void **state)
{
    for_each_dtype(on_places);
}

/* --- layers --- */

static void
dense_case(ia3_device *dev, int rows, int in, int out, bool with_tanh)
{
    const size_t nx = (size_t) rows * (size_t) in, ny = (size_t) rows * (size_t) out;
    const size_t nw = (size_t) in * (size_t) out;
    double *x = random_values(nx, 1.0), *w = random_values(nw, 2 / sqrt(in));
    double *b = random_values((size_t) out, 0.5), *y = calloc(ny, sizeof *y), *dy = random_values(ny, 1.0);
    double *dx = random_values(nx, 1.0), *dw = random_values(nw, 1.0), *db = random_values((size_t) out, 1.0);
    float *device[] = {put_f32(dev, x, nx),  put_f32(dev, w, nw),           put_f32(dev, b, (size_t) out),
                       put_f32(dev, y, ny),  put_f32(dev, dy, ny),          put_f32(dev, dx, nx),
                       put_f32(dev, dw, nw), put_f32(dev, db, (size_t) out)};
    const ia3_dense l = {in, out, with_tanh, device[1], device[2]};
    const ia3_dense_grad g = {device[6], device[7]};
    dev->ops->dense(dev, device[3], device[0], rows, &l);
    dev->ops->dense_bwd(dev, device[5], &g, device[4], device[3], device[0], rows, &l);
    for (int r = 0; r < rows; r++)
        for (int o = 0; o < out; o++) {
            double sum = b[o];
            for (int i = 0; i < in; i++)
                sum += x[r * in + i] * w[o * in + i];
            y[r * out + o] = with_tanh ? tanh(sum) : sum;
            double d = dy[r * out + o] * (with_tanh ? 1 - y[r * out + o] * y[r * out + o] : 1);
            db[o] += d;
            for (int i = 0; i < in; i++) {
                dw[o * in + i] += d * x[r * in + i];
                dx[r * in + i] += d * w[o * in + i];
            }
        }
    check(dev, "y", device[3], y, ny, 1e-5);
    check(dev, "dx", device[5], dx, nx, 1e-5);
    check(dev, "dW", device[6], dw, nw, 1e-5);
    check(dev, "db", device[7], db, (size_t) out, 1e-5);
    double *host[] = {x, w, b, y, dy, dx, dw, db};
    for (size_t i = 0; i < sizeof host / sizeof *host; i++) {
        free(host[i]);
        dev->ops->free(dev, device[i]);
    }
}

static void
on_dense(ia3_device *dev)
{
    dense_case(dev, 1, 3, 5, false);
    dense_case(dev, 2, 24, 512, true);
    dense_case(dev, 3, 512, 130, false);
    dense_case(dev, 5, 301, 67, true);
}

static void
test_dense(void **state)
{
    for_each_dtype(on_dense);
}

int
main(void)
{
    static const struct CMUnitTest tests[] = {cmocka_unit_test(test_places), cmocka_unit_test(test_dense)};
    return cmocka_run_group_tests_name("prefix", tests, NULL, NULL);
}
