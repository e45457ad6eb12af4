/*
 * phm.c
 *     The bottleneck of Compacter: two layers of hypercomplex multiplication with ReLU between them (device.h).
 *
 * With factors of rank one no matrix W has to be made:
 *
 *   u_ip = Σ_q x[p,q] l_i[q]     z_ir = Σ_p A_i[p,r] u_ip     y[r,s] = b[r,s] + Σ_i z_ir ρ_i[s]
 *
 * and the gradients, with dy that of y:
 *
 *   dz_ir = Σ_s dy[r,s] ρ_i[s]   du_ip = Σ_r A_i[p,r] dz_ir   dx[p,q] = Σ_i du_ip l_i[q]
 *   db = Σ dy   dρ_i[s] = Σ z_ir dy[r,s]   dA_i[p,r] = Σ u_ip dz_ir   dl_i[q] = Σ du_ip x[p,q]
 *
 * Threads divide the rows, or, for sums over rows, the columns, and add the rows in their order; so the number of threads does
 * not change the result.
 */
#include "chunk.h"
#include "cpu.h"
#include "simd.h"

enum { N = IA3_PHM, SQUARE = N * N };

/* The sums of one row in one layer. */
typedef struct layer_sums {
    float u[SQUARE], z[SQUARE], dz[SQUARE], du[SQUARE];
} layer_sums;

typedef struct row_sums {
    layer_sums down, up;
} row_sums;

typedef struct phm_job {
    const ia3_phm_bottleneck *b;
    const ia3_phm_bottleneck_grad *g;
    float *y;       /* forward: changed */
    void *dy;       /* act */
    float *t, *v;   /* [rows, width]: the hidden layer and its gradient before ReLU */
    row_sums *sums; /* [rows] */
    size_t rows;
    bool bf16;
} phm_job;

/* Computes u and z of the input x. */
static void
enter(const ia3_phm *m, const float *x, layer_sums *s)
{
    size_t each = (size_t) m->in / N;
    for (size_t i = 0; i < N; i++)
        for (size_t p = 0; p < N; p++)
            s->u[i * N + p] = ia3_dot(x + p * each, m->left + i * each, each);
    for (size_t i = 0; i < N; i++)
        for (size_t r = 0; r < N; r++) {
            float sum = 0.0f;
            for (size_t p = 0; p < N; p++)
                sum += m->rule[i * SQUARE + p * N + r] * s->u[i * N + p];
            s->z[i * N + r] = sum;
        }
}

/* Adds the layer's result, without the bias, to y. */
static void
leave(const ia3_phm *m, const layer_sums *sums, float *restrict y)
{
    size_t each = (size_t) m->out / N;
    for (size_t r = 0; r < N; r++)
        for (size_t i = 0; i < N; i++) {
            const float *restrict right = m->right + i * each;
            const float z = sums->z[i * N + r];
            for (size_t s = 0; s < each; s++)
                y[r * each + s] += z * right[s];
        }
}

/* Computes du from dz. */
static void
enter_bwd(const ia3_phm *m, layer_sums *s)
{
    for (size_t i = 0; i < N; i++)
        for (size_t p = 0; p < N; p++) {
            float sum = 0.0f;
            for (size_t r = 0; r < N; r++)
                sum += m->rule[i * SQUARE + p * N + r] * s->dz[i * N + r];
            s->du[i * N + p] = sum;
        }
}

/* The hidden layer t of a row y, and the sums of the layer up. */
static void
narrow(const ia3_phm_bottleneck *b, const float *y, float *t, row_sums *s)
{
    size_t width = (size_t) b->down.out;
    enter(&b->down, y, &s->down);
    memcpy(t, b->down.bias, width * sizeof *t);
    leave(&b->down, &s->down, t);
    for (size_t k = 0; k < width; k++)
        t[k] = t[k] > 0.0f ? t[k] : 0.0f;
    enter(&b->up, t, &s->up);
}

static void
forward_work(void *arg, int slot, size_t begin, size_t end)
{
    const phm_job *j = arg;
    const ia3_phm_bottleneck *b = j->b;
    size_t cols = (size_t) b->up.out;
    float t[IA3_MAX_BOTTLENECK];
    for (size_t r = begin; r < end; r++) {
        float *restrict y = j->y + r * cols;
        const float *restrict bias = b->up.bias;
        row_sums s;
        narrow(b, y, t, &s);
        for (size_t i = 0; i < cols; i++)
            y[i] += bias[i];
        leave(&b->up, &s.up, y);
    }
}

void
ia3_cpu_phm(ia3_device *dev, float *y, int rows, const ia3_phm_bottleneck *b)
{
    ia3_cpu *cpu = (ia3_cpu *) dev;
    phm_job j = {.b = b, .y = y};
    size_t work = 2 * (size_t) N * (size_t) (b->down.in + b->down.out);
    ia3_parallel(cpu->pool, (size_t) rows, ia3_grain(work), forward_work, &j);
}

/* dz of the layer up, whose result's gradient is row number `row` of dy. */
static void
leave_bwd(const phm_job *j, size_t row, layer_sums *sums)
{
    const ia3_phm *m = &j->b->up;
    size_t cols = (size_t) m->out, each = cols / N;
    float dy[IA3_CHUNK];
    memset(sums->dz, 0, sizeof sums->dz);
    for (size_t r = 0; r < N; r++)
        for (size_t at = 0; at < each; at += IA3_CHUNK) {
            size_t n = ia3_chunk_of(at, each);
            ia3_load_act(dy, j->dy, row * cols + r * each + at, n, j->bf16);
            for (size_t i = 0; i < N; i++)
                sums->dz[i * N + r] += ia3_dot(dy, m->right + i * each + at, n);
        }
}

/* Computes t, v and all sums. Items are rows. */
static void
hidden_work(void *arg, int slot, size_t begin, size_t end)
{
    const phm_job *j = arg;
    const ia3_phm_bottleneck *b = j->b;
    size_t cols = (size_t) b->up.out, width = (size_t) b->down.out, each = width / N;
    for (size_t row = begin; row < end; row++) {
        float *t = j->t + row * width, *v = j->v + row * width;
        row_sums *s = &j->sums[row];
        narrow(b, j->y + row * cols, t, s);
        leave_bwd(j, row, &s->up);
        enter_bwd(&b->up, &s->up);
        for (size_t p = 0; p < N; p++)
            for (size_t q = 0; q < each; q++) {
                float sum = 0.0f;
                for (size_t i = 0; i < N; i++)
                    sum += s->up.du[i * N + p] * b->up.left[i * each + q];
                v[p * each + q] = t[p * each + q] > 0.0f ? sum : 0.0f;
            }
        for (size_t i = 0; i < N; i++)
            for (size_t r = 0; r < N; r++)
                s->down.dz[i * N + r] = ia3_dot(v + r * each, b->down.right + i * each, each);
        enter_bwd(&b->down, &s->down);
    }
}

/* sum += x·a for n numbers. */
static void
add_product(float *restrict sum, const float *restrict x, float a, size_t n)
{
    for (size_t k = 0; k < n; k++)
        sum[k] += a * x[k];
}

/* The gradients of the vectors that are as long as rows, or a fourth of them, and dy. Items are chunks of a fourth of the columns. */
static void
phm_columns_work(void *arg, int slot, size_t begin, size_t end)
{
    const phm_job *j = arg;
    const ia3_phm_bottleneck_grad *g = j->g;
    size_t cols = (size_t) j->b->up.out, each = cols / N;
    float dy[IA3_CHUNK];
    for (size_t at = begin * IA3_CHUNK; at < end * IA3_CHUNK && at < each; at += IA3_CHUNK) {
        size_t n = ia3_chunk_of(at, each);
        for (size_t row = 0; row < j->rows; row++) {
            const row_sums *s = &j->sums[row];
            for (size_t p = 0; p < N; p++) {
                size_t col = p * each + at;
                ia3_load_act(dy, j->dy, row * cols + col, n, j->bf16);
                add_product(g->up.bias + col, dy, 1.0f, n);
                for (size_t i = 0; i < N; i++)
                    add_product(g->up.right + i * each + at, dy, s->up.z[i * N + p], n);
                for (size_t i = 0; i < N; i++) {
                    float du = s->down.du[i * N + p];
                    add_product(g->down.left + i * each + at, j->y + row * cols + col, du, n);
                    add_product(dy, j->b->down.left + i * each + at, du, n);
                }
                ia3_store_act(j->dy, row * cols + col, dy, n, j->bf16);
            }
        }
    }
}

static void
add_rule(float *rule, const layer_sums *s)
{
    for (size_t i = 0; i < N; i++)
        for (size_t p = 0; p < N; p++)
            for (size_t r = 0; r < N; r++)
                rule[i * SQUARE + p * N + r] += s->u[i * N + p] * s->dz[i * N + r];
}

/* The gradients of all that is only as wide as the bottleneck, of one row. */
static void
add_narrow(const phm_job *j, size_t row)
{
    const ia3_phm_bottleneck_grad *g = j->g;
    const row_sums *s = &j->sums[row];
    size_t width = (size_t) j->b->down.out, each = width / N;
    const float *t = j->t + row * width, *v = j->v + row * width;
    add_rule(g->down.rule, &s->down);
    add_rule(g->up.rule, &s->up);
    add_product(g->down.bias, v, 1.0f, width);
    for (size_t i = 0; i < N; i++)
        for (size_t p = 0; p < N; p++) {
            add_product(g->down.right + i * each, v + p * each, s->down.z[i * N + p], each);
            add_product(g->up.left + i * each, t + p * each, s->up.du[i * N + p], each);
        }
}

void
ia3_cpu_phm_bwd(ia3_device *dev, void *dy, const ia3_phm_bottleneck_grad *g, const float *y, int rows,
                const ia3_phm_bottleneck *b)
{
    ia3_cpu *cpu = (ia3_cpu *) dev;
    size_t mark = ia3_cpu_arena_mark(dev), width = (size_t) b->down.out, each = (size_t) b->up.out / N;
    phm_job j = {.b = b, .g = g, .y = (float *) y, .dy = dy, .rows = (size_t) rows, .bf16 = cpu->bf16};
    j.t = ia3_cpu_arena_alloc(dev, j.rows * width * sizeof *j.t);
    j.v = ia3_cpu_arena_alloc(dev, j.rows * width * sizeof *j.v);
    j.sums = ia3_cpu_arena_alloc(dev, j.rows * sizeof *j.sums);
    ia3_parallel(cpu->pool, j.rows, ia3_grain(4 * N * (N * each + width)), hidden_work, &j);
    ia3_parallel(cpu->pool, (each + IA3_CHUNK - 1) / IA3_CHUNK, ia3_grain(3 * SQUARE * IA3_CHUNK * j.rows),
                 phm_columns_work, &j);
    for (size_t row = 0; row < j.rows; row++)
        add_narrow(&j, row);
    ia3_cpu_arena_release(dev, mark);
}
