/*
 * bottleneck.c
 *     The bottleneck of adapters, whose input is the row that it changes (device.h).
 *
 *   forward:   t = relu(y·Dᵀ + d)     y += t·Uᵀ + u
 *   backward:  v = (dy·U) ⊙ [t > 0]   dD += vᵀ·y   dd += Σ v   dU += dyᵀ·t   du += Σ dy   dy += v·D
 *
 * Threads divide the rows, or, for sums over rows, the columns, and add the rows in their order; so the number of threads does
 * not change the result.
 */
#include "chunk.h"
#include "cpu.h"
#include "simd.h"

typedef struct bottleneck_job {
    const ia3_bottleneck *b;
    const ia3_bottleneck_grad *g;
    float *y;     /* forward: changed */
    void *dy;     /* act */
    float *t, *v; /* [rows, width] */
    size_t rows;
    bool bf16;
} bottleneck_job;

static void
narrow(const ia3_bottleneck *b, const float *y, float *t)
{
    size_t cols = (size_t) b->cols;
    for (int k = 0; k < b->width; k++) {
        float sum = b->down_bias[k] + ia3_dot(y, b->down + (size_t) k * cols, cols);
        t[k] = sum > 0.0f ? sum : 0.0f;
    }
}

static void
forward_work(void *arg, int slot, size_t begin, size_t end)
{
    const bottleneck_job *j = arg;
    const ia3_bottleneck *b = j->b;
    size_t cols = (size_t) b->cols, width = (size_t) b->width;
    float t[IA3_MAX_BOTTLENECK];
    for (size_t r = begin; r < end; r++) {
        float *y = j->y + r * cols;
        narrow(b, y, t);
        for (size_t i = 0; i < cols; i++)
            y[i] += b->up_bias[i] + ia3_dot(t, b->up + i * width, width);
    }
}

void
ia3_cpu_bottleneck(ia3_device *dev, float *y, int rows, const ia3_bottleneck *b)
{
    ia3_cpu *cpu = (ia3_cpu *) dev;
    bottleneck_job j = {.b = b, .y = y};
    size_t work = 2 * (size_t) b->width * (size_t) b->cols;
    ia3_parallel(cpu->pool, (size_t) rows, ia3_grain(work), forward_work, &j);
}

/* Computes t and v. Items are rows. */
static void
hidden_work(void *arg, int slot, size_t begin, size_t end)
{
    const bottleneck_job *j = arg;
    const ia3_bottleneck *b = j->b;
    size_t cols = (size_t) b->cols, width = (size_t) b->width;
    float dy[IA3_CHUNK];
    for (size_t r = begin; r < end; r++) {
        float *t = j->t + r * width, *v = j->v + r * width;
        narrow(b, j->y + r * cols, t);
        memset(v, 0, width * sizeof *v);
        for (size_t at = 0; at < cols; at += IA3_CHUNK) {
            size_t n = ia3_chunk_of(at, cols);
            ia3_load_act(dy, j->dy, r * cols + at, n, j->bf16);
            for (size_t i = 0; i < n; i++)
                for (size_t k = 0; k < width; k++)
                    v[k] += dy[i] * b->up[(at + i) * width + k];
        }
        for (size_t k = 0; k < width; k++)
            v[k] = t[k] > 0.0f ? v[k] : 0.0f;
    }
}

/* Computes the gradients of D, U and u, and dy. Items are chunks of columns. */
static void
columns_work(void *arg, int slot, size_t begin, size_t end)
{
    const bottleneck_job *j = arg;
    const ia3_bottleneck *b = j->b;
    size_t cols = (size_t) b->cols, width = (size_t) b->width;
    float dy[IA3_CHUNK];
    for (size_t at = begin * IA3_CHUNK; at < end * IA3_CHUNK && at < cols; at += IA3_CHUNK) {
        size_t n = ia3_chunk_of(at, cols);
        for (size_t r = 0; r < j->rows; r++) {
            const float *y = j->y + r * cols + at, *t = j->t + r * width, *v = j->v + r * width;
            ia3_load_act(dy, j->dy, r * cols + at, n, j->bf16);
            for (size_t i = 0; i < n; i++) {
                j->g->up_bias[at + i] += dy[i];
                for (size_t k = 0; k < width; k++)
                    j->g->up[(at + i) * width + k] += dy[i] * t[k];
            }
            for (size_t k = 0; k < width; k++)
                for (size_t i = 0; v[k] != 0.0f && i < n; i++) {
                    j->g->down[k * cols + at + i] += v[k] * y[i];
                    dy[i] += v[k] * b->down[k * cols + at + i];
                }
            ia3_store_act(j->dy, r * cols + at, dy, n, j->bf16);
        }
    }
}

void
ia3_cpu_bottleneck_bwd(ia3_device *dev, void *dy, const ia3_bottleneck_grad *g, const float *y, int rows,
                       const ia3_bottleneck *b)
{
    ia3_cpu *cpu = (ia3_cpu *) dev;
    size_t mark = ia3_cpu_arena_mark(dev), width = (size_t) b->width, cols = (size_t) b->cols;
    bottleneck_job j = {.b = b, .g = g, .y = (float *) y, .dy = dy, .rows = (size_t) rows, .bf16 = cpu->bf16};
    j.t = ia3_cpu_arena_alloc(dev, j.rows * width * sizeof *j.t);
    j.v = ia3_cpu_arena_alloc(dev, j.rows * width * sizeof *j.v);
    ia3_parallel(cpu->pool, j.rows, ia3_grain(2 * width * cols), hidden_work, &j);
    ia3_parallel(cpu->pool, (cols + IA3_CHUNK - 1) / IA3_CHUNK, ia3_grain(3 * width * IA3_CHUNK * j.rows),
                 columns_work, &j);
    for (size_t r = 0; r < j.rows; r++)
        for (size_t k = 0; k < width; k++)
            g->down_bias[k] += j.v[r * width + k];
    ia3_cpu_arena_release(dev, mark);
}
