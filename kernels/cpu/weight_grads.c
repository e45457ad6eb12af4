/*
 * weight_grads.c
 *     Gradients of weights that are not factors of matrix products: the embedding, norms, the position bias; and what is done
 *     with gradients and values element by element.
 *
 * Threads divide the columns and add the rows in their order, so that the number of threads does not change the result.
 */
#include "act.h"
#include "cpu.h"

enum { COLUMNS = 64 };

typedef struct columns_job {
    float *sum;
    const void *dy; /* act [rows, d] */
    const float *x, *rstd;
    const int32_t *ids;
    size_t rows, d;
    bool bf16;
} columns_job;

/* The columns of a block that begins at column `at`. */
static size_t
columns_from(const columns_job *j, size_t at)
{
    return j->d - at < COLUMNS ? j->d - at : COLUMNS;
}

static void
for_columns(ia3_cpu *cpu, columns_job *j, ia3_work_fn work)
{
    ia3_parallel(cpu->pool, (j->d + COLUMNS - 1) / COLUMNS, ia3_grain(COLUMNS * j->rows), work, j);
}

/* Items are blocks of columns. */
static void
embed_work(void *arg, int slot, size_t begin, size_t end)
{
    const columns_job *j = arg;
    for (size_t at = begin * COLUMNS; at < end * COLUMNS && at < j->d; at += COLUMNS) {
        const size_t n = columns_from(j, at);
        for (size_t r = 0; r < j->rows; r++) {
            float *restrict sum = j->sum + (size_t) j->ids[r] * j->d + at;
            const float *restrict x = j->x + r * j->d + at;
            for (size_t i = 0; i < n; i++)
                sum[i] += x[i];
        }
    }
}

void
ia3_cpu_embed_grad(ia3_device *dev, float *dtable, const float *dx, const int32_t *ids, int rows, int d)
{
    columns_job j = {.sum = dtable, .x = dx, .ids = ids, .rows = (size_t) rows, .d = (size_t) d};
    if (rows > 0)
        for_columns((ia3_cpu *) dev, &j, embed_work);
}

static void
norm_work(void *arg, int slot, size_t begin, size_t end)
{
    const columns_job *j = arg;
    float dy[COLUMNS];
    for (size_t at = begin * COLUMNS; at < end * COLUMNS && at < j->d; at += COLUMNS) {
        const size_t n = columns_from(j, at);
        float *restrict sum = j->sum + at;
        for (size_t r = 0; r < j->rows; r++) {
            const float *restrict x = j->x + r * j->d + at;
            const float rstd = j->rstd[r];
            ia3_load_act(dy, j->dy, r * j->d + at, n, j->bf16);
            for (size_t i = 0; i < n; i++)
                sum[i] += dy[i] * (x[i] * rstd);
        }
    }
}

void
ia3_cpu_rmsnorm_grad(ia3_device *dev, float *dw, const void *dy, const float *x, const float *rstd, int rows,
                     int d)
{
    ia3_cpu *cpu = (ia3_cpu *) dev;
    columns_job j = {
        .sum = dw, .dy = dy, .x = x, .rstd = rstd, .rows = (size_t) rows, .d = (size_t) d, .bf16 = cpu->bf16};
    if (rows > 0)
        for_columns(cpu, &j, norm_work);
}

/* --- the position bias --- */

void
ia3_cpu_bias_expand(ia3_device *dev, float *bias, const float *table, const int32_t *bucket_of, int n_heads,
                    int span)
{
    const size_t width = 2 * (size_t) span - 1, heads = (size_t) n_heads;
    for (size_t h = 0; h < heads; h++)
        for (size_t i = 0; i < width; i++)
            bias[h * width + i] = table[(size_t) bucket_of[i] * heads + h];
}

void
ia3_cpu_bias_table_grad(ia3_device *dev, float *dtable, const float *dbias, const int32_t *bucket_of,
                        int n_buckets, int n_heads, int span)
{
    const size_t width = 2 * (size_t) span - 1, heads = (size_t) n_heads;
    for (size_t h = 0; h < heads; h++)
        for (size_t i = 0; i < width; i++)
            dtable[(size_t) bucket_of[i] * heads + h] += dbias[h * width + i];
}

/* --- element by element --- */

typedef struct values_job {
    float *values;
    const float *x;
    const uint32_t *mask;
    const int32_t *indices;
} values_job;

/* Items are words of the mask. */
static void
mask_work(void *arg, int slot, size_t begin, size_t end)
{
    const values_job *j = arg;
    for (size_t w = begin; w < end; w++) {
        float *restrict values = j->values + w * 32;
        const uint32_t mask = j->mask[w];
        if (mask == 0)
            memset(values, 0, 32 * sizeof *values);
        for (size_t i = 0; mask != 0 && i < 32; i++)
            values[i] = mask >> i & 1 ? values[i] : 0.0f;
    }
}

void
ia3_cpu_mask_grad(ia3_device *dev, float *grads, const uint32_t *mask, size_t n)
{
    values_job j = {.values = grads, .mask = mask};
    ia3_parallel(((ia3_cpu *) dev)->pool, n / 32, ia3_grain(32), mask_work, &j);
    for (size_t i = n / 32 * 32; i < n; i++)
        if (!(mask[i / 32] >> i % 32 & 1))
            grads[i] = 0.0f;
}

static void
squares_work(void *arg, int slot, size_t begin, size_t end)
{
    const values_job *j = arg;
    float *restrict sums = j->values;
    const float *restrict x = j->x;
    for (size_t i = begin; i < end; i++)
        sums[i] += x[i] * x[i];
}

void
ia3_cpu_add_squares(ia3_device *dev, float *sums, const float *grads, size_t n)
{
    values_job j = {.values = sums, .x = grads};
    ia3_parallel(((ia3_cpu *) dev)->pool, n, ia3_grain(1), squares_work, &j);
}

static void
scatter_work(void *arg, int slot, size_t begin, size_t end)
{
    const values_job *j = arg;
    for (size_t i = begin; i < end; i++)
        j->values[j->indices[i]] += j->x[i];
}

void
ia3_cpu_scatter_add(ia3_device *dev, float *values, const int32_t *indices, const float *deltas, size_t n)
{
    values_job j = {.values = values, .x = deltas, .indices = indices};
    ia3_parallel(((ia3_cpu *) dev)->pool, n, ia3_grain(1), scatter_work, &j);
}
