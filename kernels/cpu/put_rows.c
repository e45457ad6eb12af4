/*
 * put_rows.c
 *     Rows of adapters in place of computed ones, and their gradients (device.h).
 *
 * For the sums over places threads divide the rows of the adapter and chunks of their columns, and add the places in their order.
 */
#include <string.h>

#include "act.h"
#include "chunk.h"
#include "cpu.h"

typedef struct put_job {
    const ia3_row_places *p;
    const float *x;
    float *dx;
    void *y; /* act */
    bool bf16;
    size_t act_size;
} put_job;

/* Where row `row` of place number `place` begins, in elements. */
static size_t
begin_of(const ia3_row_places *p, size_t place, size_t row)
{
    return ((p->at ? (size_t) p->at[place] : 0) + row) * p->stride;
}

/* Items are rows of places. */
static void
put_work(void *arg, int slot, size_t begin, size_t end)
{
    const put_job *j = arg;
    size_t rows = (size_t) j->p->rows, cols = (size_t) j->p->cols;
    for (size_t i = begin; i < end; i++)
        ia3_store_act(j->y, begin_of(j->p, i / rows, i % rows), j->x + i % rows * cols, cols, j->bf16);
}

void
ia3_cpu_put_rows(ia3_device *dev, void *y, const float *x, const ia3_row_places *p)
{
    ia3_cpu *cpu = (ia3_cpu *) dev;
    put_job j = {.p = p, .x = x, .y = y, .bf16 = cpu->bf16};
    ia3_parallel(cpu->pool, (size_t) p->rows * (size_t) p->n, ia3_grain((size_t) p->cols), put_work, &j);
}

/* sum += n elements of an act array */
static void
add_act(float *restrict sum, const void *from, size_t n, bool bf16)
{
    if (bf16) {
        const uint16_t *restrict x = from;
        for (size_t i = 0; i < n; i++)
            sum[i] += ia3_bf16_to_f32(x[i]);
    } else {
        const float *restrict x = from;
        for (size_t i = 0; i < n; i++)
            sum[i] += x[i];
    }
}

/* Items are chunks of rows. */
static void
take_work(void *arg, int slot, size_t begin, size_t end)
{
    const put_job *j = arg;
    size_t cols = (size_t) j->p->cols, chunks = (cols + IA3_CHUNK - 1) / IA3_CHUNK;
    for (size_t item = begin; item < end; item++) {
        size_t row = item / chunks, at = item % chunks * IA3_CHUNK, n = ia3_chunk_of(at, cols);
        for (size_t place = 0; place < (size_t) j->p->n; place++) {
            char *from = (char *) j->y + (begin_of(j->p, place, row) + at) * j->act_size;
            add_act(j->dx + row * cols + at, from, n, j->bf16);
            memset(from, 0, n * j->act_size);
        }
    }
}

void
ia3_cpu_put_rows_bwd(ia3_device *dev, float *dx, void *dy, const ia3_row_places *p)
{
    ia3_cpu *cpu = (ia3_cpu *) dev;
    size_t chunks = ((size_t) p->cols + IA3_CHUNK - 1) / IA3_CHUNK;
    put_job j = {.p = p, .dx = dx, .y = dy, .bf16 = cpu->bf16, .act_size = cpu->act_size};
    ia3_parallel(cpu->pool, (size_t) p->rows * chunks, ia3_grain(2 * IA3_CHUNK * (size_t) p->n), take_work,
                 &j);
}
