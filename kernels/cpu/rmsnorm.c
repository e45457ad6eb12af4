/*
 * rmsnorm.c
 *     T5's layer norm, forward and backward.
 *
 *   rstd = 1/sqrt(mean(x²) + eps)        y_i = w_i·x_i·rstd
 *   dx_i += rstd·w_i·dy_i - x_i·rstd³/d·Σ_j w_j·dy_j·x_j
 */
#include "cpu.h"
#include "simd.h"

enum { CHUNK = 256 }; /* columns per pass through a buffer on the stack */

typedef struct norm_job {
    void *y;
    const void *dy;
    float *rstd, *dx;
    const float *x, *w, *rstd_in;
    size_t d;
    float eps;
    bool bf16;
} norm_job;

float
ia3_norm_row(void *y, const float *restrict x, const float *restrict w, size_t d, float eps, bool bf16)
{
    const float rstd = 1.0f / sqrtf(ia3_dot(x, x, d) / (float) d + eps);
    float buffer[CHUNK];
    if (!bf16) {
        float *restrict to = y;
        for (size_t i = 0; i < d; i++)
            to[i] = w[i] * (x[i] * rstd);
        return rstd;
    }
    for (size_t at = 0; at < d; at += CHUNK) {
        size_t n = d - at < CHUNK ? d - at : CHUNK;
        for (size_t i = 0; i < n; i++)
            buffer[i] = w[at + i] * (x[at + i] * rstd);
        ia3_store_act(y, at, buffer, n, true);
    }
    return rstd;
}

static void
norm_work(void *arg, int slot, size_t begin, size_t end)
{
    const norm_job *j = arg;
    const size_t row_size = j->d * (j->bf16 ? sizeof(uint16_t) : sizeof(float));
    for (size_t r = begin; r < end; r++) {
        float rstd = ia3_norm_row((char *) j->y + r * row_size, j->x + r * j->d, j->w, j->d, j->eps, j->bf16);
        if (j->rstd)
            j->rstd[r] = rstd;
    }
}

void
ia3_cpu_rmsnorm(ia3_device *dev, void *y, float *rstd, const float *x, const float *w, int rows, int d,
                float eps)
{
    ia3_cpu *cpu = (ia3_cpu *) dev;
    if (rows <= 0)
        return;
    norm_job j = {.y = y, .rstd = rstd, .x = x, .w = w, .d = (size_t) d, .eps = eps, .bf16 = cpu->bf16};
    ia3_parallel(cpu->pool, (size_t) rows, ia3_grain((size_t) d), norm_work, &j);
}

/* Columns [at, at + n) of dy's row r as fp32; `buffer` [CHUNK] is where they are converted to. */
static const float *
dy_at(const norm_job *j, size_t r, size_t at, size_t n, float *buffer)
{
    if (!j->bf16)
        return (const float *) j->dy + r * j->d + at;
    ia3_load_act(buffer, j->dy, r * j->d + at, n, true);
    return buffer;
}

static void
norm_bwd_work(void *arg, int slot, size_t begin, size_t end)
{
    const norm_job *j = arg;
    const float *restrict w = j->w;
    float buffer[CHUNK], weighted[CHUNK];
    for (size_t r = begin; r < end; r++) {
        const float *restrict x = j->x + r * j->d;
        float *restrict dx = j->dx + r * j->d;
        float rstd = j->rstd_in[r], dot = 0.0f;
        for (size_t at = 0; at < j->d; at += CHUNK) {
            size_t n = j->d - at < CHUNK ? j->d - at : CHUNK;
            const float *dy = dy_at(j, r, at, n, buffer);
            for (size_t i = 0; i < n; i++)
                weighted[i] = dy[i] * w[at + i];
            dot += ia3_dot(weighted, x + at, n);
        }
        float c = dot / (float) j->d * rstd * rstd;
        for (size_t at = 0; at < j->d; at += CHUNK) {
            size_t n = j->d - at < CHUNK ? j->d - at : CHUNK;
            const float *restrict dy = dy_at(j, r, at, n, buffer);
            for (size_t i = 0; i < n; i++)
                dx[at + i] += rstd * (w[at + i] * dy[i] - x[at + i] * c);
        }
    }
}

void
ia3_cpu_rmsnorm_bwd(ia3_device *dev, float *dx, const void *dy, const float *x, const float *w,
                    const float *rstd, int rows, int d)
{
    ia3_cpu *cpu = (ia3_cpu *) dev;
    if (rows <= 0)
        return;
    norm_job j = {.dy = dy, .dx = dx, .x = x, .w = w, .rstd_in = rstd, .d = (size_t) d, .bf16 = cpu->bf16};
    ia3_parallel(cpu->pool, (size_t) rows, ia3_grain((size_t) d), norm_bwd_work, &j);
}
