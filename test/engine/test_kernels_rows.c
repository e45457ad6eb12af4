/*
 * test_kernels_rows.c
 *     Row-wise operations (embedding, norm, dropout, feed-forward activation, Adafactor) compared with computations in
 *     double precision, and the known answers of the random number generator.
 */
#include "device_common.h"

static uint64_t *
row_keys(int rows)
{
    uint64_t *keys = calloc((size_t) rows + 1, sizeof *keys);
    for (int r = 0; r < rows; r++)
        keys[r] = ia3_row_key(3, 9, (uint32_t) r / 4, (uint32_t) r % 4);
    return keys;
}

/* Philox4x32-10 with any key, to compare with Random123's known answers; rng.h has a fixed key. */
static void
philox(uint32_t k0, uint32_t k1, const uint32_t counter[4], uint32_t out[4])
{
    uint32_t c[4];
    memcpy(c, counter, sizeof c);
    for (int round = 0; round < 10; round++) {
        uint64_t p0 = (uint64_t) 0xD2511F53u * c[0], p1 = (uint64_t) 0xCD9E8D57u * c[2];
        uint32_t next[4] = {(uint32_t) (p1 >> 32) ^ c[1] ^ k0, (uint32_t) p1,
                            (uint32_t) (p0 >> 32) ^ c[3] ^ k1, (uint32_t) p0};
        memcpy(c, next, sizeof c);
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    memcpy(out, c, sizeof c);
}

static void
test_philox(void **state)
{
    /* kat_vectors of Random123, philox4x32 10 */
    static const uint32_t known[3][3][4] = {
        {{0, 0, 0, 0}, {0, 0}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
        {{0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff},
         {0xffffffff, 0xffffffff},
         {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
        {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
         {0xa4093822, 0x299f31d0},
         {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
    };
    uint32_t got[4], mine[4];
    for (int i = 0; i < 3; i++) {
        philox(known[i][1][0], known[i][1][1], known[i][0], got);
        assert_memory_equal(got, known[i][2], sizeof got);
        philox(IA3_PHILOX_KEY0, IA3_PHILOX_KEY1, known[i][0], got);
        ia3_philox(known[i][0], mine);
        assert_memory_equal(got, mine, sizeof got);
    }
    /* thresholds: never, half, nearly always */
    assert_int_equal(ia3_dropout_threshold(0.0f), 0);
    assert_int_equal(ia3_dropout_threshold(0.5f), 0x80000000u);
    assert_int_equal(ia3_dropout_threshold(1.0f), 0xffffffffu);
}

static void
on_embed(ia3_device *dev)
{
    enum { ROWS = 37, D = 24, V = 11 };
    double *table = random_values(V * D, 2.0), want[ROWS * D];
    int32_t ids[ROWS];
    float host[V * D];
    for (int i = 0; i < V * D; i++) {
        host[i] = (float) table[i];
        table[i] = round_weight(dev, table[i]);
    }
    ia3_host_tensor tensor = {host, IA3_F32, V, D};
    ia3_error err = {0};
    void *t = dev->ops->table_create(dev, &tensor, &err);
    assert_non_null(t);
    float *x = dev->ops->alloc(dev, sizeof(float) * ROWS * D);
    for (int r = 0; r < ROWS; r++) {
        ids[r] = random_below(V);
        memcpy(want + r * D, table + ids[r] * D, sizeof(double) * D);
    }
    int32_t *p = put_bytes(dev, ids, sizeof ids);
    dev->ops->embed(dev, x, p, ROWS, D, t);
    double *got = get_f32(dev, x, ROWS * D);
    assert_memory_equal(got, want, sizeof want);
    free(got);
    free(table);
    dev->ops->free(dev, t);
    dev->ops->free(dev, x);
    dev->ops->free(dev, p);
}

static void
test_embed(void **state)
{
    for_each_dtype(on_embed);
}

static void
norm_reference(double *y, double *rstd, const double *x, const double *w, int rows, int d, double eps)
{
    for (int r = 0; r < rows; r++) {
        double sum = 0;
        for (int i = 0; i < d; i++)
            sum += x[r * d + i] * x[r * d + i];
        rstd[r] = 1 / sqrt(sum / d + eps);
        for (int i = 0; i < d; i++)
            y[r * d + i] = w[i] * x[r * d + i] * rstd[r];
    }
}

static void
norm_case(ia3_device *dev, int rows, int d)
{
    size_t n = (size_t) rows * (size_t) d;
    double *x = random_values(n, 3.0), *w = random_values((size_t) d, 1.5), *dy = random_values(n, 1.0);
    double *before = random_values(n, 1.0), *want = calloc(n, sizeof *want),
           *rstd = calloc((size_t) rows, sizeof *rstd);
    float *px = put_f32(dev, x, n), *pw = put_f32(dev, w, (size_t) d), *pdx = put_f32(dev, before, n);
    float *prstd = dev->ops->alloc(dev, sizeof(float) * (size_t) rows);
    void *pdy = put_act(dev, dy, n), *py = dev->ops->alloc(dev, 4 * n);
    norm_reference(want, rstd, x, w, rows, d, 1e-6);
    dev->ops->rmsnorm(dev, py, prstd, px, pw, rows, d, 1e-6f);
    double *y = get_act(dev, py, n), *got_rstd = get_f32(dev, prstd, (size_t) rows);
    assert_close("rmsnorm", y, want, n, is_bf16(dev) ? 4e-3 : 1e-6);
    assert_close("rstd", got_rstd, rstd, (size_t) rows, 1e-6);
    dev->ops->rmsnorm_bwd(dev, pdx, pdy, px, pw, prstd, rows, d);
    for (int r = 0; r < rows; r++) {
        double dot = 0;
        for (int i = 0; i < d; i++)
            dot += w[i] * dy[r * d + i] * x[r * d + i];
        for (int i = 0; i < d; i++)
            want[r * d + i] =
                before[r * d + i] + rstd[r] * w[i] * dy[r * d + i] - x[r * d + i] * pow(rstd[r], 3) / d * dot;
    }
    double *dx = get_f32(dev, pdx, n);
    assert_close("rmsnorm_bwd", dx, want, n, 3e-6);
    double *host[] = {x, w, dy, before, want, rstd, y, got_rstd, dx};
    void *device[] = {px, pw, pdx, prstd, pdy, py};
    for (int i = 0; i < 9; i++)
        free(host[i]);
    for (int i = 0; i < 6; i++)
        dev->ops->free(dev, device[i]);
}

static void
on_norm(ia3_device *dev)
{
    norm_case(dev, 1, 1);
    norm_case(dev, 70, 256);
    norm_case(dev, 5, 777);
    dev->ops->rmsnorm(dev, NULL, NULL, NULL, NULL, 0, 64, 1e-6f);
}

static void
test_norm(void **state)
{
    for_each_dtype(on_norm);
}

/* add_norm and norm_bwd_drop against the operations that they stand for, in one shape. */
static void
joined_case(ia3_device *dev, int rows, int d, double p)
{
    const ia3_device_ops *ops = dev->ops;
    size_t n = (size_t) rows * (size_t) d;
    double *x = random_values(n, 2.0), *y = random_values(n, 1.0), *w = random_values((size_t) d, 1.0);
    uint64_t *keys = row_keys(rows), *pk = put_bytes(dev, keys, sizeof *keys * (size_t) rows);
    ia3_dropout drop = {p, 42, pk};
    float *px = put_f32(dev, x, n), *py = put_f32(dev, y, n), *pw = put_f32(dev, w, (size_t) d);
    float *sum = ops->alloc(dev, 4 * n), *rstd = ops->alloc(dev, 4 * (size_t) rows),
          *pdx = put_f32(dev, y, n);
    void *out = ops->alloc(dev, 4 * n), *dy = put_act(dev, y, n), *want_dy = ops->alloc(dev, 4 * n);
    double act_tolerance = is_bf16(dev) ? 8e-3 : 1e-6;

    ops->add_norm(dev, out, rstd, sum, px, py, drop, pw, rows, d, 1e-6f);
    double *got_sum = get_f32(dev, sum, n), *got_out = get_act(dev, out, n),
           *got_rstd = get_f32(dev, rstd, (size_t) rows);
    ops->norm_bwd_drop(dev, pdx, dy, sum, pw, rstd, drop, rows, d);
    double *got_dx = get_f32(dev, pdx, n), *got_dy = get_act(dev, dy, n);

    ops->add_dropout(dev, px, py, rows, d, drop);
    double *want_sum = get_f32(dev, px, n);
    ops->rmsnorm(dev, out, rstd, px, pw, rows, d, 1e-6f);
    double *want_out = get_act(dev, out, n), *want_rstd = get_f32(dev, rstd, (size_t) rows);
    void *again = put_act(dev, y, n);
    ops->rmsnorm_bwd(dev, py, again, sum, pw, rstd, rows, d); /* y is the same dx */
    ops->dropout_f32_to_act(dev, want_dy, py, rows, d, drop);
    double *want_dx = get_f32(dev, py, n), *dropped = get_act(dev, want_dy, n);

    assert_close("add_norm, sum", got_sum, want_sum, n, 1e-6);
    assert_close("add_norm, norm", got_out, want_out, n, act_tolerance);
    assert_close("add_norm, rstd", got_rstd, want_rstd, (size_t) rows, 1e-6);
    assert_close("norm_bwd_drop, dx", got_dx, want_dx, n, 1e-6);
    assert_close("norm_bwd_drop, dy", got_dy, dropped, n, act_tolerance);
    double *host[] = {x,      y,        w,        got_sum,   got_out, got_rstd, got_dx,
                      got_dy, want_sum, want_out, want_rstd, want_dx, dropped};
    void *device[] = {pk, px, py, pw, sum, rstd, pdx, out, dy, want_dy, again};
    for (size_t i = 0; i < sizeof host / sizeof *host; i++)
        free(host[i]);
    for (size_t i = 0; i < sizeof device / sizeof *device; i++)
        ops->free(dev, device[i]);
    free(keys);
}

static void
on_joined(ia3_device *dev)
{
    if (!dev->ops->add_norm)
        return;
    static const int widths[] = {4, 7, 64, 516, 2048};
    for (int i = 0; i < 5; i++) {
        joined_case(dev, 1 + 5 * i, widths[i], 0.0);
        joined_case(dev, 1 + 5 * i, widths[i], 0.1);
    }
}

static void
test_joined(void **state)
{
    for_each_dtype(on_joined);
}

static void
dropout_case(ia3_device *dev, int rows, int d, float p)
{
    size_t n = (size_t) rows * (size_t) d;
    double *x = random_values(n, 1.0), *y = random_values(n, 1.0), *acts = random_values(n, 1.0);
    double *want = calloc(n, sizeof *want), *sum = calloc(n, sizeof *sum),
           *want_act = calloc(n, sizeof *want_act);
    uint64_t *keys = row_keys(rows), *pk = put_bytes(dev, keys, sizeof *keys * (size_t) rows);
    float *px = put_f32(dev, x, n), *py = put_f32(dev, y, n), *pz = dev->ops->alloc(dev, 4 * n);
    void *pa = put_act(dev, acts, n), *pb = dev->ops->alloc(dev, 4 * n);
    ia3_dropout drop = {p, 42, pk};
    for (int r = 0; r < rows; r++)
        for (int c = 0; c < d; c++) {
            double f = drop_factor(p, 42, keys[r], (uint32_t) c);
            want[r * d + c] = f * x[r * d + c];
            sum[r * d + c] = y[r * d + c] + f * x[r * d + c];
            want_act[r * d + c] = f * acts[r * d + c];
        }
    double act_tolerance = is_bf16(dev) ? 4e-3 : 1e-6;
    dev->ops->dropout_f32(dev, pz, px, rows, d, drop);
    double *got = get_f32(dev, pz, n);
    assert_close("dropout_f32", got, want, n, 1e-6);
    free(got);
    dev->ops->add_dropout(dev, py, px, rows, d, drop);
    got = get_f32(dev, py, n);
    assert_close("add_dropout", got, sum, n, 1e-6);
    free(got);
    dev->ops->dropout_f32_to_act(dev, pb, px, rows, d, drop);
    got = get_act(dev, pb, n);
    assert_close("dropout_f32_to_act", got, want, n, act_tolerance);
    free(got);
    dev->ops->dropout_f32(dev, px, px, rows, d, drop); /* in place */
    got = get_f32(dev, px, n);
    assert_close("dropout_f32 in place", got, want, n, 1e-6);
    free(got);
    dev->ops->dropout_act(dev, pa, pa, rows, d, drop);
    got = get_act(dev, pa, n);
    assert_close("dropout_act in place", got, want_act, n, act_tolerance);
    free(got);
    double *host[] = {x, y, acts, want, sum, want_act};
    void *device[] = {pk, px, py, pz, pa, pb};
    for (int i = 0; i < 6; i++) {
        free(host[i]);
        dev->ops->free(dev, device[i]);
    }
    free(keys);
}

static void
on_dropout(ia3_device *dev)
{
    dropout_case(dev, 33, 256, 0.1f);
    dropout_case(dev, 3, 301, 0.5f);
    dropout_case(dev, 1, 5, 0.9f);
    dropout_case(dev, 7, 64, 0.0f);
}

static void
test_dropout(void **state)
{
    for_each_dtype(on_dropout);
}

static double
activate(ia3_activation act, double x)
{
    switch (act) {
    case IA3_RELU:
        return x > 0 ? x : 0;
    case IA3_GELU:
        return 0.5 * x * (1 + erf(x / sqrt(2)));
    case IA3_GELU_NEW:
        return 0.5 * x * (1 + tanh(sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
    default:
        return x / (1 + exp(-x));
    }
}

static double
derivative(ia3_activation act, double x)
{
    if (act == IA3_RELU)
        return x > 0;
    return (activate(act, x + 1e-6) - activate(act, x - 1e-6)) / 2e-6;
}

enum { SLOTS = 3, OFFSET = 2 };

/* Checks the forward and backward pass for one shape; rows use SLOTS vectors in runs, as in batches. */
static void
gated_case(ia3_device *dev, ia3_activation act, bool gated, bool scaled, float p, int rows, int d_ff)
{
    int width = gated ? 2 * d_ff : d_ff;
    size_t n = (size_t) rows * (size_t) d_ff, n_g = (size_t) rows * (size_t) width,
           n_l = (size_t) (OFFSET + d_ff);
    double *g = random_values(n_g, 4.0), *dh = random_values(n, 1.0), *l[SLOTS], *dl[SLOTS];
    double *h = calloc(n, sizeof *h), *dg = calloc(n_g, sizeof *dg);
    float *pl[SLOTS], *pdl[SLOTS];
    int32_t *slot_of = calloc((size_t) rows, sizeof *slot_of);
    uint64_t *keys = row_keys(rows), *pk = put_bytes(dev, keys, sizeof *keys * (size_t) rows);
    void *pg = put_act(dev, g, n_g), *pdh = put_act(dev, dh, n), *ph = dev->ops->alloc(dev, 4 * n);
    void *pdg = dev->ops->alloc(dev, 4 * n_g);
    for (int s = 0; s < SLOTS; s++) {
        l[s] = random_values(n_l, 1.5);
        dl[s] = random_values(n_l, 1.0); /* gradients accumulate into what is there */
        pl[s] = put_f32(dev, l[s], n_l);
        pdl[s] = put_f32(dev, dl[s], n_l);
    }
    for (int r = 0; r < rows; r++)
        slot_of[r] = r / (rows < 100 ? 5 : 45) % SLOTS;
    for (int r = 0; r < rows; r++)
        for (int c = 0; c < d_ff; c++) {
            double x = g[r * width + c], gate = gated ? g[r * width + d_ff + c] : 1;
            double scale = scaled ? l[slot_of[r]][OFFSET + c] : 1;
            double m = drop_factor(p, 8, keys[r], (uint32_t) c), d = dh[r * d_ff + c] * m;
            h[r * d_ff + c] = m * activate(act, x) * gate * scale;
            dg[r * width + c] = d * scale * gate * derivative(act, x);
            if (gated)
                dg[r * width + d_ff + c] = d * scale * activate(act, x);
            dl[slot_of[r]][OFFSET + c] += d * activate(act, x) * gate;
        }
    int32_t *ps = put_bytes(dev, slot_of, sizeof *slot_of * (size_t) rows);
    const float **table = put_bytes(dev, pl, sizeof pl);
    float **grads = put_bytes(dev, pdl, sizeof pdl);
    ia3_gated op = {act, gated, d_ff, {scaled ? table : NULL, ps, OFFSET}, {p, 8, pk}};
    dev->ops->gated_act(dev, ph, pg, rows, &op);
    dev->ops->gated_act_bwd(dev, pdg, pdh, pg, rows, &op,
                            (ia3_scale_grad){scaled ? grads : NULL, ps, OFFSET, SLOTS});
    double *got = get_act(dev, ph, n), *got_dg = get_act(dev, pdg, n_g);
    assert_close("gated_act", got, h, n, is_bf16(dev) ? 4e-3 : 1e-6);
    assert_close("gated_act_bwd", got_dg, dg, n_g, is_bf16(dev) ? 4e-3 : 2e-6);
    for (int s = 0; s < SLOTS; s++) {
        double *got_dl = get_f32(dev, pdl[s], n_l);
        if (scaled)
            assert_close("dl", got_dl, dl[s], n_l, 3e-6);
        free(got_dl);
        free(l[s]);
        free(dl[s]);
        dev->ops->free(dev, pl[s]);
        dev->ops->free(dev, pdl[s]);
    }
    double *host[] = {g, dh, h, dg, got, got_dg};
    void *device[] = {pk, pg, pdh, ph, pdg, ps, (void *) table, grads};
    for (int i = 0; i < 6; i++)
        free(host[i]);
    for (int i = 0; i < 8; i++)
        dev->ops->free(dev, device[i]);
    free(slot_of);
    free(keys);
}

static void
on_gated(ia3_device *dev)
{
    const ia3_activation all[] = {IA3_RELU, IA3_GELU, IA3_GELU_NEW, IA3_SILU};
    for (int i = 0; i < 4; i++) {
        gated_case(dev, all[i], true, true, 0.1f, 37, 200);
        gated_case(dev, all[i], false, true, 0, 4, 130);
        gated_case(dev, all[i], true, false, 0, 1, 3);
    }
    gated_case(dev, IA3_GELU_NEW, true, true, 0.1f, 331, 72);
}

/* The contribution of one adapter's rows to dl does not depend on how many rows of others precede or follow them. */
static void
on_gated_among_others(ia3_device *dev)
{
    enum { ROWS = 333, OTHERS = 40, D = 40, N = (ROWS + 2 * OTHERS) * D };
    double *g = random_values(N, 4.0), *dh = random_values(N, 1.0), *want = NULL;
    char *pg = put_act(dev, g, N), *pdh = put_act(dev, dh, N);
    void *pdg = dev->ops->alloc(dev, 4 * N);
    size_t size = ia3_dtype_size(dev->dtype);
    for (int before = 0; before <= OTHERS; before += 13) {
        const int rows = before + ROWS + (before ? OTHERS : 0);
        int32_t slot_of[ROWS + 2 * OTHERS] = {0};
        float *pl[SLOTS];
        for (int r = 0; r < rows; r++)
            slot_of[r] = r >= before && r < before + ROWS;
        for (int s = 0; s < SLOTS; s++) {
            double zeros[D] = {0};
            pl[s] = put_f32(dev, zeros, D);
        }
        int32_t *ps = put_bytes(dev, slot_of, sizeof slot_of);
        float **grads = put_bytes(dev, pl, sizeof pl);
        ia3_gated op = {.act = IA3_GELU_NEW, .d_ff = D};
        size_t at =
            (size_t) ((OTHERS - before) * D) * size; /* so that the adapter's rows are always the same */
        dev->ops->gated_act_bwd(dev, pdg, pdh + at, pg + at, rows, &op,
                                (ia3_scale_grad){grads, ps, 0, SLOTS});
        double *got = get_f32(dev, pl[1], D);
        if (!want) {
            want = got;
        } else {
            assert_memory_equal(got, want, D * sizeof *got);
            free(got);
        }
        for (int s = 0; s < SLOTS; s++)
            dev->ops->free(dev, pl[s]);
        dev->ops->free(dev, ps);
        dev->ops->free(dev, grads);
    }
    dev->ops->free(dev, pg);
    dev->ops->free(dev, pdh);
    dev->ops->free(dev, pdg);
    free(g);
    free(dh);
    free(want);
}

static void
test_gated_among_others(void **state)
{
    for_each_dtype(on_gated_among_others);
}

static void
test_gated(void **state)
{
    for_each_dtype(on_gated);
}

/*
 * The second moment of element i of a tensor of matrices; before it, with `g`, the step from what it was. r and c of a matrix are
 * in the places of its first elements, as on the device.
 */
static double
factored(double *v, const double *g, double factor, int rows, int cols, int i, double beta)
{
    double *r = v + i / (rows * cols) * (rows + cols), *c = r + rows, mean = 0;
    const double *of = g ? g + i / (rows * cols) * (rows * cols) : NULL;
    if (of && i % (rows * cols) == 0) {
        for (int k = 0; k < rows + cols; k++)
            r[k] *= beta;
        for (int k = 0; k < rows * cols; k++) {
            double square = of[k] * factor * of[k] * factor + 1e-30;
            r[k / cols] += (1 - beta) * square / cols;
            c[k % cols] += (1 - beta) * square / rows;
        }
    }
    for (int k = 0; k < rows; k++)
        mean += r[k] / rows;
    return r[i / cols % rows] * c[i % cols] / mean;
}

/* The optimizer of transformers in double precision. */
static void
adafactor_reference(double *p, double *g, double *v, const int32_t *offsets, const int32_t *rows,
                    const int32_t *slices, int n_tensors, double lr, int step, double clip)
{
    double norm = 0, beta = 1 - pow(step, -0.8);
    for (int i = 0; i < offsets[n_tensors]; i++)
        norm += g[i] * g[i];
    double factor = clip > 0 ? fmin(1, clip / (sqrt(norm) + 1e-6)) : 1;
    for (int t = 0; t < n_tensors; t++) {
        double rms = 0, u_rms = 0;
        int begin = offsets[t], end = offsets[t + 1], cols = (end - begin) / (rows[t] * slices[t]);
        for (int i = begin; i < end; i++) {
            double x = g[i] * factor, second;
            rms += p[i] * p[i] / (end - begin);
            if (rows[t] > 1)
                second = factored(v + begin, g + begin, factor, rows[t], cols, i - begin, beta);
            else
                second = v[i] = beta * v[i] + (1 - beta) * (x * x + 1e-30);
            u_rms += x * x / second / (end - begin);
        }
        double a = lr * fmax(1e-3, sqrt(rms)) / fmax(1, sqrt(u_rms));
        for (int i = begin; i < end; i++)
            p[i] -=
                a * g[i] * factor /
                sqrt(rows[t] > 1 ? factored(v + begin, NULL, factor, rows[t], cols, i - begin, beta) : v[i]);
    }
}

static void
on_adafactor(ia3_device *dev)
{
    enum { TENSORS = 8, N = 1364, JOBS = 2 };
    const int32_t offsets[TENSORS + 1] = {0, 256, 257, 300, 900, 1000, 1060, 1124, N};
    const int32_t rows[TENSORS] = {1, 1, 1, 1, 1, 12, 4, 40}, slices[TENSORS] = {1, 1, 1, 1, 1, 1, 4, 3};
    double *p[JOBS], *g[JOBS], *v[JOBS];
    ia3_adafactor jobs[JOBS];
    int32_t *po = put_bytes(dev, offsets, sizeof offsets), *pr = put_bytes(dev, rows, sizeof rows),
            *ps = put_bytes(dev, slices, sizeof slices);
    for (int j = 0; j < JOBS; j++) {
        p[j] = random_values(N, 1.0);
        g[j] = calloc(N, sizeof(double));
        v[j] = calloc(N, sizeof(double));
        for (int i = 300; i < 900; i++)
            p[j][i] *= 1e-5; /* RMS below 1e-3 */
        jobs[j] =
            (ia3_adafactor){put_f32(dev, p[j], N), put_f32(dev, g[j], N), put_f32(dev, v[j], N), po, TENSORS};
        jobs[j].tensor_rows = pr;
        jobs[j].tensor_slices = ps;
    }
    for (int step = 1; step <= 20; step++) {
        for (int j = 0; j < JOBS; j++) {
            float host[N];
            for (int i = 0; i < N; i++)
                g[j][i] = host[i] = (float) (random_number() * (j ? 10 : 1e-3) * (i % 7 == 0 ? 0 : 1));
            dev->ops->upload(dev, jobs[j].grads, host, sizeof host);
            jobs[j].step = step;
            jobs[j].learning_rate = step == 1 ? 0 : 3e-3 * j + 1e-3;
            jobs[j].clip_norm = j ? 1.0 : 0.0;
            adafactor_reference(p[j], g[j], v[j], offsets, rows, slices, TENSORS, jobs[j].learning_rate, step,
                                jobs[j].clip_norm);
        }
        dev->ops->adafactor(dev, jobs, JOBS);
    }
    for (int j = 0; j < JOBS; j++) {
        double *got = get_f32(dev, jobs[j].values, N), *second = get_f32(dev, jobs[j].second_moment, N);
        for (int t = 0; t < TENSORS; t++) {
            int at = offsets[t], n = offsets[t + 1] - at;
            assert_close("values", got + at, p[j] + at, (size_t) n, 2e-6);
            assert_close("second moments", second + at, v[j] + at, (size_t) n, 2e-6);
        }
        free(got);
        free(second);
        free(p[j]);
        free(g[j]);
        free(v[j]);
        dev->ops->free(dev, jobs[j].values);
        dev->ops->free(dev, jobs[j].grads);
        dev->ops->free(dev, jobs[j].second_moment);
    }
    dev->ops->free(dev, po);
    dev->ops->free(dev, pr);
    dev->ops->free(dev, ps);
}

static void
test_adafactor(void **state)
{
    for_each_dtype(on_adafactor);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_philox),    cmocka_unit_test(test_embed),
        cmocka_unit_test(test_norm),      cmocka_unit_test(test_dropout),
        cmocka_unit_test(test_gated),     cmocka_unit_test(test_gated_among_others),
        cmocka_unit_test(test_adafactor), cmocka_unit_test(test_joined),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
