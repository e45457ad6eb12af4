/*
 * adafactor_large.c
 *     Adafactor's step for a large matrix, whose rows are divided among the threads. Formulas: adafactor.c.
 *
 * Rows are processed in blocks of fixed size. Each block has its own sums, which are added up in the order of the blocks, so the
 * number of threads does not change the result.
 */
#include <math.h>
#include <string.h>

#include "adafactor.h"

enum { LEAST_VALUES = 1 << 16, BLOCK_ROWS = 64, COLUMNS = 64 /* that are added up at a time */ };

bool
ia3_adafactor_is_large(const ia3_adafactor *a, int tensor)
{
    const size_t n = (size_t) (a->tensor_offsets[tensor + 1] - a->tensor_offsets[tensor]);
    const int rows = a->tensor_rows ? a->tensor_rows[tensor] : 1;
    return n >= LEAST_VALUES && rows >= 2 * BLOCK_ROWS &&
           (!a->tensor_slices || a->tensor_slices[tensor] == 1);
}

typedef struct large_job {
    float *values, *grads, *row, *col; /* row, col: the second moment */
    size_t rows, cols, blocks;
    double beta, mean; /* of the rows */
    float clip, step;
    ia3_adafactor_scratch scratch;
} large_job;

/* The rows of a block. */
static size_t
rows_of(const large_job *j, size_t block)
{
    const size_t left = j->rows - block * BLOCK_ROWS;
    return left < BLOCK_ROWS ? left : BLOCK_ROWS;
}

static void
for_blocks(ia3_cpu *cpu, large_job *j, ia3_work_fn work)
{
    ia3_parallel(cpu->pool, j->blocks, ia3_grain(BLOCK_ROWS * j->cols), work, j);
}

static double
sum_of(const double *x, size_t n)
{
    double sum = 0.0;
    for (size_t i = 0; i < n; i++)
        sum += x[i];
    return sum;
}

static void
norm_work(void *arg, int slot, size_t begin, size_t end)
{
    const large_job *j = arg;
    for (size_t b = begin; b < end; b++)
        j->scratch.squares[b] = ia3_sum_squares(j->grads + b * BLOCK_ROWS * j->cols, rows_of(j, b) * j->cols);
}

static large_job
large_job_of(const ia3_adafactor *a, int tensor, const ia3_adafactor_scratch *scratch)
{
    const size_t begin = (size_t) a->tensor_offsets[tensor], end = (size_t) a->tensor_offsets[tensor + 1];
    large_job j = {.values = a->values + begin,
                   .grads = a->grads + begin,
                   .row = a->second_moment + begin,
                   .rows = (size_t) a->tensor_rows[tensor]};
    j.cols = (end - begin) / j.rows;
    j.col = j.row + j.rows;
    j.blocks = (j.rows + BLOCK_ROWS - 1) / BLOCK_ROWS;
    if (scratch)
        j.scratch = *scratch;
    return j;
}

static size_t
larger(size_t a, size_t b)
{
    return a > b ? a : b;
}

ia3_adafactor_scratch
ia3_adafactor_large_scratch(ia3_cpu *cpu, const ia3_adafactor *jobs, int n_jobs)
{
    size_t blocks = 0, cols = 0, sums = 0;
    for (int i = 0; i < n_jobs; i++)
        for (int t = 0; t < jobs[i].n_tensors; t++) {
            if (!ia3_adafactor_is_large(&jobs[i], t))
                continue;
            const large_job j = large_job_of(&jobs[i], t, NULL);
            blocks = larger(blocks, j.blocks);
            cols = larger(cols, j.cols);
            sums = larger(sums, j.blocks * j.cols);
        }
    ia3_adafactor_scratch s = {0};
    if (blocks == 0)
        return s;
    s.col_sums = ia3_cpu_arena_alloc(&cpu->base, sums * sizeof *s.col_sums);
    s.sums = ia3_cpu_arena_alloc(&cpu->base, cols * sizeof *s.sums);
    s.factors = ia3_cpu_arena_alloc(&cpu->base, cols * sizeof *s.factors);
    s.squares = ia3_cpu_arena_alloc(&cpu->base, blocks * sizeof *s.squares);
    s.updates = ia3_cpu_arena_alloc(&cpu->base, blocks * sizeof *s.updates);
    return s;
}

double
ia3_adafactor_large_norm(ia3_cpu *cpu, const ia3_adafactor *a, int tensor,
                         const ia3_adafactor_scratch *scratch)
{
    large_job j = large_job_of(a, tensor, scratch);
    for_blocks(cpu, &j, norm_work);
    return sum_of(j.scratch.squares, j.blocks);
}

/* Clips the gradients; the running means of the rows; the block's part of those of the columns. */
static void
moments_work(void *arg, int slot, size_t begin, size_t end)
{
    const large_job *j = arg;
    for (size_t b = begin; b < end; b++) {
        float *restrict col = j->scratch.col_sums + b * j->cols;
        memset(col, 0, j->cols * sizeof *col);
        for (size_t r = b * BLOCK_ROWS; r < b * BLOCK_ROWS + rows_of(j, b); r++) {
            float *restrict g = j->grads + r * j->cols;
            for (size_t i = 0; i < j->cols; i++) {
                g[i] *= j->clip;
                col[i] += g[i] * g[i] + 1e-30f;
            }
            const double squares = ia3_sum_squares(g, j->cols) + 1e-30 * (double) j->cols;
            j->row[r] = (float) (j->beta * j->row[r] + (1.0 - j->beta) * squares / (double) j->cols);
        }
    }
}

/* Items are blocks of columns. */
static void
columns_work(void *arg, int slot, size_t begin, size_t end)
{
    const large_job *j = arg;
    for (size_t at = begin * COLUMNS; at < end * COLUMNS && at < j->cols; at += COLUMNS) {
        const size_t n = j->cols - at < COLUMNS ? j->cols - at : COLUMNS;
        double *restrict sum = j->scratch.sums + at;
        memset(sum, 0, n * sizeof *sum);
        for (size_t b = 0; b < j->blocks; b++)
            for (size_t i = 0; i < n; i++)
                sum[i] += j->scratch.col_sums[b * j->cols + at + i];
        for (size_t i = 0; i < n; i++) {
            const double now = j->beta * j->col[at + i] + (1.0 - j->beta) * sum[i] / (double) j->rows;
            j->col[at + i] = (float) now;
            j->scratch.factors[at + i] = (float) (1.0 / sqrt(now));
        }
    }
}

/* Turns the gradients into u. */
static void
scale_work(void *arg, int slot, size_t begin, size_t end)
{
    const large_job *j = arg;
    for (size_t b = begin; b < end; b++) {
        const size_t first = b * BLOCK_ROWS, n = rows_of(j, b);
        for (size_t r = first; r < first + n; r++) {
            float *restrict g = j->grads + r * j->cols;
            const float *restrict factors = j->scratch.factors;
            const float factor = (float) (1.0 / sqrt(j->row[r] / j->mean));
            for (size_t i = 0; i < j->cols; i++)
                g[i] *= factor * factors[i];
        }
        j->scratch.updates[b] = ia3_sum_squares(j->grads + first * j->cols, n * j->cols);
        j->scratch.squares[b] = ia3_sum_squares(j->values + first * j->cols, n * j->cols);
    }
}

static void
step_work(void *arg, int slot, size_t begin, size_t end)
{
    const large_job *j = arg;
    const size_t last = end * BLOCK_ROWS < j->rows ? end * BLOCK_ROWS : j->rows;
    float *restrict p = j->values;
    const float *restrict u = j->grads;
    for (size_t i = begin * BLOCK_ROWS * j->cols; i < last * j->cols; i++)
        p[i] -= j->step * u[i];
}

void
ia3_adafactor_large_update(ia3_cpu *cpu, const ia3_adafactor *a, int tensor, float clip,
                           const ia3_adafactor_scratch *scratch)
{
    large_job j = large_job_of(a, tensor, scratch);
    const double n = (double) j.rows * (double) j.cols;
    j.beta = 1.0 - pow((double) a->step, -0.8);
    j.clip = clip;
    for_blocks(cpu, &j, moments_work);
    ia3_parallel(cpu->pool, (j.cols + COLUMNS - 1) / COLUMNS, ia3_grain(COLUMNS * j.blocks), columns_work,
                 &j);
    for (size_t r = 0; r < j.rows; r++)
        j.mean += j.row[r] / (double) j.rows;
    for_blocks(cpu, &j, scale_work);
    const double rms = a->fixed_step ? 1.0 : fmax(1e-3, sqrt(sum_of(j.scratch.squares, j.blocks) / n));
    j.step = (float) (a->learning_rate * rms / fmax(1.0, sqrt(sum_of(j.scratch.updates, j.blocks) / n)));
    for_blocks(cpu, &j, step_work);
}
