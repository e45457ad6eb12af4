/*
 * methods.c
 *     Operations of the methods other than (IA)³: adding a row, multiplying by a row, adding a low-rank product; and products of
 *     vectors, which (IA)³ needs for some targets.
 *
 *   low rank:  t = x·Aᵀ     y += s·t·Bᵀ
 *   backward:  u = s·dy·B   dx += u·A     dA += uᵀ·x     dB += s·dyᵀ·t
 *
 * Threads divide the rows of forward passes. For sums over rows they divide the columns and add the rows in their
 * order, so that the number of threads does not change the result.
 */
#include "chunk.h"
#include "cpu.h"
#include "simd.h"

typedef struct rows_job {
    void *y;          /* fp32 or act, changed */
    const void *x;    /* act, read */
    const float *row; /* [cols] */
    float *sum;       /* [cols] */
    size_t rows, cols;
    bool bf16, y_bf16; /* of act; of y */
} rows_job;

static void
add_row_work(void *arg, int slot, size_t begin, size_t end)
{
    const rows_job *j = arg;
    float y[IA3_CHUNK];
    for (size_t r = begin; r < end; r++)
        for (size_t at = 0; at < j->cols; at += IA3_CHUNK) {
            size_t n = ia3_chunk_of(at, j->cols);
            ia3_load_act(y, j->y, r * j->cols + at, n, j->y_bf16);
            for (size_t i = 0; i < n; i++)
                y[i] += j->row[at + i];
            ia3_store_act(j->y, r * j->cols + at, y, n, j->y_bf16);
        }
}

void
ia3_cpu_add_row(ia3_device *dev, void *y, const float *b, int rows, int cols, ia3_out out)
{
    ia3_cpu *cpu = (ia3_cpu *) dev;
    rows_job j = {.y = y, .row = b, .cols = (size_t) cols, .y_bf16 = out == IA3_OUT_ACT && cpu->bf16};
    ia3_parallel(cpu->pool, (size_t) rows, ia3_grain(j.cols), add_row_work, &j);
}

/* Items are chunks of columns. */
static void
sum_rows_work(void *arg, int slot, size_t begin, size_t end)
{
    const rows_job *j = arg;
    float x[IA3_CHUNK];
    for (size_t at = begin * IA3_CHUNK; at < end * IA3_CHUNK && at < j->cols; at += IA3_CHUNK) {
        size_t n = ia3_chunk_of(at, j->cols);
        for (size_t r = 0; r < j->rows; r++) {
            ia3_load_act(x, j->x, r * j->cols + at, n, j->bf16);
            for (size_t i = 0; i < n; i++)
                j->sum[at + i] += x[i];
        }
    }
}

void
ia3_cpu_add_row_bwd(ia3_device *dev, float *db, const void *dy, int rows, int cols)
{
    ia3_cpu *cpu = (ia3_cpu *) dev;
    rows_job j = {.x = dy, .sum = db, .rows = (size_t) rows, .cols = (size_t) cols, .bf16 = cpu->bf16};
    ia3_parallel(cpu->pool, (j.cols + IA3_CHUNK - 1) / IA3_CHUNK, ia3_grain(IA3_CHUNK * j.rows),
                 sum_rows_work, &j);
}

static void
scale_row_work(void *arg, int slot, size_t begin, size_t end)
{
    const rows_job *j = arg;
    float y[IA3_CHUNK];
    for (size_t r = begin; r < end; r++)
        for (size_t at = 0; at < j->cols; at += IA3_CHUNK) {
            size_t n = ia3_chunk_of(at, j->cols);
            ia3_load_act(y, j->y, r * j->cols + at, n, j->bf16);
            for (size_t i = 0; i < n; i++)
                y[i] *= j->row[at + i];
            ia3_store_act(j->y, r * j->cols + at, y, n, j->bf16);
        }
}

void
ia3_cpu_scale_row(ia3_device *dev, void *y, const float *s, int rows, int cols)
{
    ia3_cpu *cpu = (ia3_cpu *) dev;
    rows_job j = {.y = y, .row = s, .cols = (size_t) cols, .bf16 = cpu->bf16};
    ia3_parallel(cpu->pool, (size_t) rows, ia3_grain(j.cols), scale_row_work, &j);
}

static void
scale_row_bwd_work(void *arg, int slot, size_t begin, size_t end)
{
    const rows_job *j = arg;
    float dy[IA3_CHUNK], y[IA3_CHUNK];
    for (size_t at = begin * IA3_CHUNK; at < end * IA3_CHUNK && at < j->cols; at += IA3_CHUNK) {
        size_t n = ia3_chunk_of(at, j->cols);
        for (size_t r = 0; r < j->rows; r++) {
            ia3_load_act(dy, j->y, r * j->cols + at, n, j->bf16);
            ia3_load_act(y, j->x, r * j->cols + at, n, j->bf16);
            for (size_t i = 0; i < n; i++) {
                j->sum[at + i] += dy[i] * y[i];
                dy[i] *= j->row[at + i];
            }
            ia3_store_act(j->y, r * j->cols + at, dy, n, j->bf16);
        }
    }
}

void
ia3_cpu_scale_row_bwd(ia3_device *dev, void *dy, float *ds, const void *y, const float *s, int rows, int cols)
{
    ia3_cpu *cpu = (ia3_cpu *) dev;
    rows_job j = {.y = dy,
                  .x = y,
                  .row = s,
                  .sum = ds,
                  .rows = (size_t) rows,
                  .cols = (size_t) cols,
                  .bf16 = cpu->bf16};
    ia3_parallel(cpu->pool, (j.cols + IA3_CHUNK - 1) / IA3_CHUNK, ia3_grain(IA3_CHUNK * j.rows),
                 scale_row_bwd_work, &j);
}

typedef struct products_job {
    const ia3_products *p;
    const float *a, *b;
    float *y;
} products_job;

static void
multiply_work(void *arg, int slot, size_t begin, size_t end)
{
    const products_job *j = arg;
    for (size_t r = begin; r < end; r++) {
        const float *a = j->a + r * j->p->a_stride, *b = j->b + r * j->p->b_stride;
        float *y = j->y + r * j->p->y_stride;
        for (int i = 0; i < j->p->cols; i++)
            y[i] = (j->p->add ? y[i] : 0.0f) + a[i] * b[i];
    }
}

void
ia3_cpu_multiply(ia3_device *dev, float *y, const float *a, const float *b, const ia3_products *p)
{
    products_job j = {.p = p, .a = a, .b = b, .y = y};
    ia3_parallel(((ia3_cpu *) dev)->pool, (size_t) p->rows, ia3_grain((size_t) p->cols), multiply_work, &j);
}

/* --- low-rank products --- */

typedef struct low_rank_job {
    const ia3_low_rank *l;
    void *y;            /* forward: y; backward: dx */
    const void *x, *dy; /* act */
    float *t, *u;       /* [rows, rank] */
    float *da, *db;
    size_t rows;
    bool bf16, y_bf16;
} low_rank_job;

/* t[k] = x·A_k for one row */
static void
down(const low_rank_job *j, size_t r, float *t)
{
    const ia3_low_rank *l = j->l;
    size_t in = (size_t) l->in;
    float x[IA3_CHUNK];
    for (int k = 0; k < l->rank; k++)
        t[k] = 0.0f;
    for (size_t at = 0; at < in; at += IA3_CHUNK) {
        size_t n = ia3_chunk_of(at, in);
        ia3_load_act(x, j->x, r * in + at, n, j->bf16);
        for (int k = 0; k < l->rank; k++)
            t[k] += ia3_dot(x, l->a + (size_t) k * in + at, n);
    }
}

static void
low_rank_work(void *arg, int slot, size_t begin, size_t end)
{
    const low_rank_job *j = arg;
    const ia3_low_rank *l = j->l;
    float t[IA3_MAX_RANK], y[IA3_CHUNK];
    for (size_t r = begin; r < end; r++) {
        down(j, r, t);
        for (size_t at = 0; at < (size_t) l->out; at += IA3_CHUNK) {
            size_t n = ia3_chunk_of(at, (size_t) l->out), first = r * l->stride + at;
            ia3_load_act(y, j->y, first, n, j->y_bf16);
            for (size_t i = 0; i < n; i++) {
                float sum = 0.0f;
                for (int k = 0; k < l->rank; k++)
                    sum += t[k] * l->b[(at + i) * (size_t) l->rank + (size_t) k];
                y[i] += l->scale * sum;
            }
            ia3_store_act(j->y, first, y, n, j->y_bf16);
        }
    }
}

void
ia3_cpu_low_rank(ia3_device *dev, void *y, const void *x, int rows, const ia3_low_rank *l, ia3_out out)
{
    ia3_cpu *cpu = (ia3_cpu *) dev;
    low_rank_job j = {.l = l, .y = y, .x = x, .bf16 = cpu->bf16, .y_bf16 = out == IA3_OUT_ACT && cpu->bf16};
    size_t work = (size_t) l->rank * ((size_t) l->in + (size_t) l->out);
    ia3_parallel(cpu->pool, (size_t) rows, ia3_grain(work), low_rank_work, &j);
}

/* Computes t, u and dx. Items are rows. */
static void
low_rank_rows_work(void *arg, int slot, size_t begin, size_t end)
{
    const low_rank_job *j = arg;
    const ia3_low_rank *l = j->l;
    size_t in = (size_t) l->in, out = (size_t) l->out, rank = (size_t) l->rank;
    float buffer[IA3_CHUNK];
    for (size_t r = begin; r < end; r++) {
        float *u = j->u + r * rank;
        down(j, r, j->t + r * rank);
        memset(u, 0, rank * sizeof *u);
        for (size_t at = 0; at < out; at += IA3_CHUNK) {
            size_t n = ia3_chunk_of(at, out);
            ia3_load_act(buffer, j->dy, r * l->stride + at, n, j->bf16);
            for (size_t i = 0; i < n; i++)
                for (size_t k = 0; k < rank; k++)
                    u[k] += l->scale * buffer[i] * l->b[(at + i) * rank + k];
        }
        for (size_t at = 0; at < in; at += IA3_CHUNK) {
            size_t n = ia3_chunk_of(at, in);
            ia3_load_act(buffer, j->y, r * in + at, n, j->y_bf16);
            for (size_t k = 0; k < rank; k++)
                for (size_t i = 0; i < n; i++)
                    buffer[i] += u[k] * l->a[k * in + at + i];
            ia3_store_act(j->y, r * in + at, buffer, n, j->y_bf16);
        }
    }
}

/* Computes dA and dB. Items are chunks of A's columns, then of B's rows. */
static void
low_rank_grads_work(void *arg, int slot, size_t begin, size_t end)
{
    const low_rank_job *j = arg;
    const ia3_low_rank *l = j->l;
    size_t in = (size_t) l->in, out = (size_t) l->out, rank = (size_t) l->rank;
    size_t chunks = (in + IA3_CHUNK - 1) / IA3_CHUNK;
    float buffer[IA3_CHUNK];
    for (size_t item = begin; item < end; item++) {
        bool of_a = item < chunks;
        size_t at = (of_a ? item : item - chunks) * IA3_CHUNK, n = ia3_chunk_of(at, of_a ? in : out);
        for (size_t r = 0; r < j->rows; r++) {
            const float *t = j->t + r * rank, *u = j->u + r * rank;
            ia3_load_act(buffer, of_a ? j->x : j->dy, (of_a ? r * in : r * l->stride) + at, n, j->bf16);
            for (size_t k = 0; of_a && k < rank; k++)
                for (size_t i = 0; i < n; i++)
                    j->da[k * in + at + i] += u[k] * buffer[i];
            for (size_t i = 0; !of_a && i < n; i++)
                for (size_t k = 0; k < rank; k++)
                    j->db[(at + i) * rank + k] += l->scale * buffer[i] * t[k];
        }
    }
}

void
ia3_cpu_low_rank_bwd(ia3_device *dev, void *dx, float *da, float *db, const void *dy, const void *x, int rows,
                     const ia3_low_rank *l, ia3_out out)
{
    ia3_cpu *cpu = (ia3_cpu *) dev;
    size_t mark = ia3_cpu_arena_mark(dev), rank = (size_t) l->rank;
    low_rank_job j = {.l = l,
                      .y = dx,
                      .x = x,
                      .dy = dy,
                      .da = da,
                      .db = db,
                      .rows = (size_t) rows,
                      .bf16 = cpu->bf16,
                      .y_bf16 = out == IA3_OUT_ACT && cpu->bf16};
    j.t = ia3_cpu_arena_alloc(dev, j.rows * rank * sizeof *j.t);
    j.u = ia3_cpu_arena_alloc(dev, j.rows * rank * sizeof *j.u);
    ia3_parallel(cpu->pool, j.rows, ia3_grain(2 * rank * ((size_t) l->in + (size_t) l->out)),
                 low_rank_rows_work, &j);
    size_t items =
        ((size_t) l->in + IA3_CHUNK - 1) / IA3_CHUNK + ((size_t) l->out + IA3_CHUNK - 1) / IA3_CHUNK;
    ia3_parallel(cpu->pool, items, ia3_grain(rank * IA3_CHUNK * j.rows), low_rank_grads_work, &j);
    ia3_cpu_arena_release(dev, mark);
}
