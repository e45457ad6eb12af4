/*
 * dropout.c
 *     Dropout: x += drop(y) and y = drop(x). The mask depends only on the row's key, the site and the column (rng.h).
 */
#include "cpu.h"
#include "mask.h"
#include "simd.h"

enum { CHUNK = 256 }; /* columns per pass; a multiple of the 64 that ia3_mask_row may write */

typedef struct drop_job {
    void *y;
    const void *x;
    size_t d;
    bool x_bf16, y_bf16, add;
    const uint64_t *row_key;
    uint32_t site;
    ia3_mask mask;
} drop_job;

static void
drop_work(void *arg, int slot, size_t begin, size_t end)
{
    const drop_job *j = arg;
    float value[CHUNK], mask[CHUNK], sum[CHUNK];
    if (!j->mask.on && !j->add && j->x_bf16 == j->y_bf16) {
        const size_t row = j->d * (j->x_bf16 ? sizeof(uint16_t) : sizeof(float));
        memcpy((char *) j->y + begin * row, (const char *) j->x + begin * row, (end - begin) * row);
        return;
    }
    for (size_t r = begin; r < end; r++)
        for (size_t at = 0; at < j->d; at += CHUNK) {
            size_t n = j->d - at < CHUNK ? j->d - at : CHUNK;
            ia3_load_act(value, j->x, r * j->d + at, n, j->x_bf16);
            if (j->mask.on) {
                ia3_mask_row(mask, n, (uint32_t) at, j->row_key[r], j->site, &j->mask);
                for (size_t i = 0; i < n; i++)
                    value[i] *= mask[i];
            }
            if (j->add) {
                ia3_load_act(sum, j->y, r * j->d + at, n, j->y_bf16);
                for (size_t i = 0; i < n; i++)
                    value[i] += sum[i];
            }
            ia3_store_act(j->y, r * j->d + at, value, n, j->y_bf16);
        }
}

static void
drop(ia3_cpu *cpu, drop_job *j, int rows, int d, const ia3_dropout *dropout)
{
    if (rows <= 0)
        return;
    j->d = (size_t) d;
    j->row_key = dropout->row_key;
    j->site = dropout->site;
    j->mask = ia3_mask_of(dropout);
    if (!j->mask.on && !j->add && j->x == j->y)
        return;
    ia3_parallel(cpu->pool, (size_t) rows, ia3_grain((size_t) d), drop_work, j);
}

void
ia3_cpu_add_dropout(ia3_device *dev, float *x, const float *y, int rows, int d, ia3_dropout dropout)
{
    drop_job j = {.y = x, .x = y, .add = true};
    drop((ia3_cpu *) dev, &j, rows, d, &dropout);
}

void
ia3_cpu_dropout_f32(ia3_device *dev, float *y, const float *x, int rows, int d, ia3_dropout dropout)
{
    drop_job j = {.y = y, .x = x};
    drop((ia3_cpu *) dev, &j, rows, d, &dropout);
}

void
ia3_cpu_dropout_act(ia3_device *dev, void *y, const void *x, int rows, int d, ia3_dropout dropout)
{
    ia3_cpu *cpu = (ia3_cpu *) dev;
    drop_job j = {.y = y, .x = x, .x_bf16 = cpu->bf16, .y_bf16 = cpu->bf16};
    drop(cpu, &j, rows, d, &dropout);
}

void
ia3_cpu_dropout_f32_to_act(ia3_device *dev, void *y, const float *x, int rows, int d, ia3_dropout dropout)
{
    ia3_cpu *cpu = (ia3_cpu *) dev;
    drop_job j = {.y = y, .x = x, .y_bf16 = cpu->bf16};
    drop(cpu, &j, rows, d, &dropout);
}
