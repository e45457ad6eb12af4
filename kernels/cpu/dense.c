/*
 * dense.c
 *     Layers whose weights are trained, for few rows (device.h).
 *
 *   forward:   y = f(x·Wᵀ + b)
 *   backward:  dz = dy ⊙ f'     dW += dzᵀ·x     db += Σ dz     dx += dz·W
 *
 * The weights, which are large, are read once. Threads divide their rows, or, for dx, their columns, and add rows in their order; so
 * the number of threads does not change the result.
 */
#include <math.h>

#include "cpu.h"
#include "simd.h"

enum { COLUMNS = 64 }; /* of W at a time, for dx */

typedef struct dense_job {
    const ia3_dense *l;
    const ia3_dense_grad *g;
    const float *x;
    float *y, *dx, *dy;
    size_t rows;
} dense_job;

/* Items are rows of W. */
static void
forward_work(void *arg, int slot, size_t begin, size_t end)
{
    const dense_job *j = arg;
    size_t in = (size_t) j->l->in, out = (size_t) j->l->out;
    for (size_t o = begin; o < end; o++)
        for (size_t r = 0; r < j->rows; r++) {
            float z = j->l->bias[o] + ia3_dot(j->x + r * in, j->l->weight + o * in, in);
            j->y[r * out + o] = j->l->tanh ? tanhf(z) : z;
        }
}

void
ia3_cpu_dense(ia3_device *dev, float *y, const float *x, int rows, const ia3_dense *l)
{
    ia3_cpu *cpu = (ia3_cpu *) dev;
    dense_job j = {.l = l, .x = x, .y = y, .rows = (size_t) rows};
    ia3_parallel(cpu->pool, (size_t) l->out, ia3_grain((size_t) l->in * j.rows), forward_work, &j);
}

/* The gradients of W and b. Items are rows of W. */
static void
weights_work(void *arg, int slot, size_t begin, size_t end)
{
    const dense_job *j = arg;
    size_t in = (size_t) j->l->in, out = (size_t) j->l->out;
    for (size_t o = begin; o < end; o++) {
        float *restrict sum = j->g->weight + o * in;
        for (size_t r = 0; r < j->rows; r++) {
            const float *restrict x = j->x + r * in;
            const float dz = j->dy[r * out + o];
            j->g->bias[o] += dz;
            for (size_t i = 0; i < in; i++)
                sum[i] += dz * x[i];
        }
    }
}

/* dx. Items are groups of columns of W. */
static void
inputs_work(void *arg, int slot, size_t begin, size_t end)
{
    const dense_job *j = arg;
    size_t in = (size_t) j->l->in, out = (size_t) j->l->out;
    for (size_t at = begin * COLUMNS; at < end * COLUMNS && at < in; at += COLUMNS) {
        size_t n = in - at < COLUMNS ? in - at : COLUMNS;
        for (size_t o = 0; o < out; o++) {
            const float *restrict w = j->l->weight + o * in + at;
            for (size_t r = 0; r < j->rows; r++) {
                float *restrict sum = j->dx + r * in + at;
                const float dz = j->dy[r * out + o];
                for (size_t i = 0; i < n; i++)
                    sum[i] += dz * w[i];
            }
        }
    }
}

void
ia3_cpu_dense_bwd(ia3_device *dev, float *dx, const ia3_dense_grad *g, float *dy, const float *y,
                  const float *x, int rows, const ia3_dense *l)
{
    ia3_cpu *cpu = (ia3_cpu *) dev;
    size_t in = (size_t) l->in, out = (size_t) l->out;
    dense_job j = {.l = l, .g = g, .x = x, .dx = dx, .dy = dy, .rows = (size_t) rows};
    for (size_t i = 0; l->tanh && i < j.rows * out; i++)
        dy[i] *= 1.0f - y[i] * y[i];
    ia3_parallel(cpu->pool, out, ia3_grain(in * j.rows), weights_work, &j);
    ia3_parallel(cpu->pool, (in + COLUMNS - 1) / COLUMNS, ia3_grain(COLUMNS * out * j.rows), inputs_work, &j);
}
