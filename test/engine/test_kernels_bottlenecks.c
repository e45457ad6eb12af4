/*
 * test_kernels_bottlenecks.c
 *     The bottlenecks of adapters and of Compacter, compared with products of matrices in double precision, for rows that are
 *     longer than what the kernels compute at a time.
 *
 * The reference makes the matrices of Compacter's layers from their factors, which the kernels do not.
 */
#include "device_common.h"

enum { ROWS = 5, N = IA3_PHM };

/* x·W + b for one row, W [in, out]. */
static void
multiply(double *y, const double *x, const double *w, const double *b, int in, int out)
{
    for (int o = 0; o < out; o++) {
        y[o] = b[o];
        for (int i = 0; i < in; i++)
            y[o] += x[i] * w[i * out + o];
    }
}

/* The gradients of a layer of one row: adds to dw [in, out] and db, and to dx, whose part that comes through ReLU is left out. */
static void
multiply_bwd(double *dw, double *db, double *dx, const double *dy, const double *x, const double *w, int in,
             int out)
{
    for (int o = 0; o < out; o++) {
        db[o] += dy[o];
        for (int i = 0; i < in; i++) {
            dw[i * out + o] += x[i] * dy[o];
            dx[i] += w[i * out + o] * dy[o];
        }
    }
}

/* Two layers, their results and their gradients. */
typedef struct reference {
    int cols, width;
    const double *down, *down_bias, *up, *up_bias; /* down [cols, width], up [width, cols] */
    double *d_down, *d_down_bias, *d_up, *d_up_bias;
    double *y, *dy; /* [ROWS, cols]: given; become the results */
} reference;

static void
compute(reference *r)
{
    double *t = calloc((size_t) r->width, sizeof *t), *v = calloc((size_t) r->width, sizeof *v);
    double *out = calloc((size_t) r->cols, sizeof *out);
    for (int row = 0; row < ROWS; row++) {
        double *y = r->y + row * r->cols, *dy = r->dy + row * r->cols;
        multiply(t, y, r->down, r->down_bias, r->cols, r->width);
        for (int k = 0; k < r->width; k++) {
            t[k] = fmax(t[k], 0);
            v[k] = 0;
        }
        multiply(out, t, r->up, r->up_bias, r->width, r->cols);
        multiply_bwd(r->d_up, r->d_up_bias, v, dy, t, r->up, r->width, r->cols);
        for (int k = 0; k < r->width; k++)
            v[k] = t[k] > 0 ? v[k] : 0;
        multiply_bwd(r->d_down, r->d_down_bias, dy, v, y, r->down, r->cols, r->width);
        for (int i = 0; i < r->cols; i++)
            y[i] += out[i];
    }
    free(t);
    free(v);
    free(out);
}

static double *
transposed(const double *x, int rows, int cols)
{
    double *y = calloc((size_t) rows * (size_t) cols, sizeof *y);
    for (int r = 0; r < rows; r++)
        for (int c = 0; c < cols; c++)
            y[c * rows + r] = x[r * cols + c];
    return y;
}

/* Compares n values on the device with a reference. */
static void
check(ia3_device *dev, const char *what, const float *device, const double *want, size_t n, double tolerance)
{
    double *got = get_f32(dev, device, n);
    assert_close(what, got, want, n, tolerance);
    free(got);
}

/* The rows, and what becomes of them. `dev` has dtype act for dy only. */
typedef struct rows {
    double *y, *dy;
    float *device_y;
    void *device_dy;
    size_t n;
} rows;

static rows
make_rows(ia3_device *dev, int cols)
{
    rows x = {.n = (size_t) ROWS * (size_t) cols};
    x.y = random_values(x.n, 1.0);
    x.dy = random_values(x.n, 1.0);
    x.device_y = put_f32(dev, x.y, x.n);
    x.device_dy = put_act(dev, x.dy, x.n);
    return x;
}

static void
check_rows(ia3_device *dev, rows *x)
{
    double *got = get_act(dev, x->device_dy, x->n);
    check(dev, "y", x->device_y, x->y, x->n, 1e-5);
    assert_close("dy", got, x->dy, x->n, is_bf16(dev) ? 6e-3 : 1e-5);
    free(got);
    dev->ops->free(dev, x->device_y);
    dev->ops->free(dev, x->device_dy);
    free(x->y);
    free(x->dy);
}

/* Gradients begin with numbers to which the kernels add. */
static float *
put_ones(ia3_device *dev, size_t n)
{
    double *ones = calloc(n, sizeof *ones);
    for (size_t i = 0; i < n; i++)
        ones[i] = 1;
    float *p = put_f32(dev, ones, n);
    free(ones);
    return p;
}

static double *
ones_of(size_t n)
{
    double *ones = calloc(n + 1, sizeof *ones);
    for (size_t i = 0; i < n; i++)
        ones[i] = 1;
    return ones;
}

static void
adapter_case(ia3_device *dev, int cols, int width)
{
    const size_t n = (size_t) cols * (size_t) width;
    double *down = random_values(n, 3 / sqrt(cols)), *up = random_values(n, 1.0);
    double *down_bias = random_values((size_t) width, 0.5), *up_bias = random_values((size_t) cols, 0.5);
    rows x = make_rows(dev, cols);
    ia3_bottleneck b = {width,
                        cols,
                        put_f32(dev, down, n),
                        put_f32(dev, down_bias, (size_t) width),
                        put_f32(dev, up, n),
                        put_f32(dev, up_bias, (size_t) cols)};
    ia3_bottleneck_grad g = {put_ones(dev, n), put_ones(dev, (size_t) width), put_ones(dev, n),
                             put_ones(dev, (size_t) cols)};
    dev->ops->bottleneck_bwd(dev, x.device_dy, &g, x.device_y, ROWS, &b);
    dev->ops->bottleneck(dev, x.device_y, ROWS, &b);

    /* D and U are stored as [width, cols] and [cols, width] */
    double *d = transposed(down, width, cols), *u = transposed(up, cols, width);
    reference r = {.cols = cols,
                   .width = width,
                   .down = d,
                   .down_bias = down_bias,
                   .up = u,
                   .up_bias = up_bias,
                   .d_down = ones_of(n),
                   .d_down_bias = ones_of((size_t) width),
                   .d_up = ones_of(n),
                   .d_up_bias = ones_of((size_t) cols),
                   .y = x.y,
                   .dy = x.dy};
    compute(&r);
    check_rows(dev, &x);
    double *dd = transposed(r.d_down, cols, width), *du = transposed(r.d_up, width, cols);
    check(dev, "gradient of D", g.down, dd, n, 1e-5);
    check(dev, "gradient of d", g.down_bias, r.d_down_bias, (size_t) width, 1e-5);
    check(dev, "gradient of U", g.up, du, n, 1e-5);
    check(dev, "gradient of u", g.up_bias, r.d_up_bias, (size_t) cols, 1e-5);
    double *host[] = {down,          up,     down_bias,   up_bias, d, u, r.d_down,
                      r.d_down_bias, r.d_up, r.d_up_bias, dd,      du};
    for (size_t i = 0; i < sizeof host / sizeof *host; i++)
        free(host[i]);
    const float *device[] = {b.down, b.down_bias, b.up, b.up_bias, g.down, g.down_bias, g.up, g.up_bias};
    for (size_t i = 0; i < sizeof device / sizeof *device; i++)
        dev->ops->free(dev, (void *) device[i]);
}

/* The factors of a layer of Compacter in the host's memory, [N, N, N], [N, in / N], [N, out / N] and [out], and its matrix. */
typedef struct factors {
    int in, out;
    double *rule, *left, *right, *bias, *w;
} factors;

static factors
make_factors(int in, int out)
{
    factors f = {in,
                 out,
                 random_values(N * N * N, 1.0),
                 random_values((size_t) in, 3 / sqrt(in)),
                 random_values((size_t) out, 1.0),
                 random_values((size_t) out, 0.5)};
    return f;
}

/* Calls for each product A_i[p,r]·l_i[q]·ρ_i[s] that is part of W[(p,q),(r,s)]. */
#define FOR_EACH_PRODUCT(f)                                                                                  \
    for (int i = 0; i < N; i++)                                                                              \
        for (int p = 0; p < N; p++)                                                                          \
            for (int r = 0; r < N; r++)                                                                      \
                for (int q = 0; q < (f)->in / N; q++)                                                        \
                    for (int s = 0; s < (f)->out / N; s++)

enum { SQUARE = N * N };
#define INDEX(f)    (((size_t) p * (f)->in / N + q) * (f)->out + (size_t) r * (f)->out / N + s)
#define LEFT(f, x)  x[i * (f)->in / N + q]
#define RIGHT(f, x) x[i * (f)->out / N + s]

static void
make_matrix(factors *f)
{
    f->w = calloc((size_t) f->in * (size_t) f->out, sizeof *f->w);
    FOR_EACH_PRODUCT(f)
    f->w[INDEX(f)] += f->rule[i * SQUARE + p * N + r] * LEFT(f, f->left) * RIGHT(f, f->right);
}

/* Compares the gradients of the factors with those that follow from the gradient of the matrix. */
static void
check_factors(ia3_device *dev, const factors *f, const ia3_phm_grad *g, const double *dw, const double *db)
{
    double *rule = ones_of(N * N * N), *left = ones_of((size_t) f->in), *right = ones_of((size_t) f->out);
    FOR_EACH_PRODUCT(f)
    {
        double d = dw[INDEX(f)], a = f->rule[i * SQUARE + p * N + r];
        rule[i * SQUARE + p * N + r] += d * LEFT(f, f->left) * RIGHT(f, f->right);
        LEFT(f, left) += d * a * RIGHT(f, f->right);
        RIGHT(f, right) += d * a * LEFT(f, f->left);
    }
    check(dev, "gradient of A", g->rule, rule, N * N * N, 1e-5);
    check(dev, "gradient of l", g->left, left, (size_t) f->in, 1e-5);
    check(dev, "gradient of rho", g->right, right, (size_t) f->out, 1e-5);
    check(dev, "gradient of b", g->bias, db, (size_t) f->out, 1e-5);
    free(rule);
    free(left);
    free(right);
}

static ia3_phm
put_factors(ia3_device *dev, factors *f)
{
    ia3_phm m = {f->in,
                 f->out,
                 put_f32(dev, f->rule, N * N * N),
                 put_f32(dev, f->left, (size_t) f->in),
                 put_f32(dev, f->right, (size_t) f->out),
                 put_f32(dev, f->bias, (size_t) f->out)};
    make_matrix(f);
    return m;
}

static ia3_phm_grad
put_gradients(ia3_device *dev, const factors *f)
{
    return (ia3_phm_grad){put_ones(dev, N * N * N), put_ones(dev, (size_t) f->in),
                          put_ones(dev, (size_t) f->out), put_ones(dev, (size_t) f->out)};
}

static void
free_layer(ia3_device *dev, factors *f, const ia3_phm *m, const ia3_phm_grad *g)
{
    double *host[] = {f->rule, f->left, f->right, f->bias, f->w};
    for (size_t i = 0; i < sizeof host / sizeof *host; i++)
        free(host[i]);
    const float *device[] = {m->rule, m->left, m->right, m->bias, g->rule, g->left, g->right, g->bias};
    for (size_t i = 0; i < sizeof device / sizeof *device; i++)
        dev->ops->free(dev, (void *) device[i]);
}

static void
compacter_case(ia3_device *dev, int cols, int width)
{
    const size_t n = (size_t) cols * (size_t) width;
    factors down = make_factors(cols, width), up = make_factors(width, cols);
    rows x = make_rows(dev, cols);
    ia3_phm_bottleneck b = {put_factors(dev, &down), put_factors(dev, &up)};
    ia3_phm_bottleneck_grad g = {put_gradients(dev, &down), put_gradients(dev, &up)};
    dev->ops->phm_bwd(dev, x.device_dy, &g, x.device_y, ROWS, &b);
    dev->ops->phm(dev, x.device_y, ROWS, &b);

    reference r = {.cols = cols,
                   .width = width,
                   .down = down.w,
                   .down_bias = down.bias,
                   .up = up.w,
                   .up_bias = up.bias,
                   .d_down = calloc(n, sizeof(double)),
                   .d_down_bias = ones_of((size_t) width),
                   .d_up = calloc(n, sizeof(double)),
                   .d_up_bias = ones_of((size_t) cols),
                   .y = x.y,
                   .dy = x.dy};
    compute(&r);
    check_rows(dev, &x);
    check_factors(dev, &down, &g.down, r.d_down, r.d_down_bias);
    check_factors(dev, &up, &g.up, r.d_up, r.d_up_bias);
    free(r.d_down);
    free(r.d_down_bias);
    free(r.d_up);
    free(r.d_up_bias);
    free_layer(dev, &down, &b.down, &g.down);
    free_layer(dev, &up, &b.up, &g.up);
}

static void
on_adapter(ia3_device *dev)
{
    adapter_case(dev, 8, 1);
    adapter_case(dev, 300, 7);
    adapter_case(dev, 1200, 40);
}

static void
test_adapter(void **state)
{
    for_each_dtype(on_adapter);
}

static void
on_compacter(ia3_device *dev)
{
    compacter_case(dev, 8, 4);
    compacter_case(dev, 300, 12);
    compacter_case(dev, 2400, 40); /* a fourth is more than a chunk, and more than a block of threads */
}

static void
test_compacter(void **state)
{
    for_each_dtype(on_compacter);
}

int
main(void)
{
    static const struct CMUnitTest tests[] = {cmocka_unit_test(test_adapter),
                                              cmocka_unit_test(test_compacter)};
    return cmocka_run_group_tests_name("bottlenecks", tests, NULL, NULL);
}
