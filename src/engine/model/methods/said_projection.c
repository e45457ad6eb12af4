/*
 * said_projection.c
 *     Fastfood.
 */
#include "said_projection.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/alloc.h"
#include "engine/base/rng.h"

/* The seed of a module is this and its number. */
#define SEED 0x5341494400000000u /* "SAID" */
enum { STREAM_SIGNS = 1, STREAM_PERMUTATION = 2, STREAM_GAUSS = 3 };

ia3_projection
ia3_projection_create(int module, int len)
{
    const uint64_t seed = SEED + (uint64_t) module;
    ia3_projection p = {.len = len, .size = 1};
    double squares = 0;

    while (p.size < len)
        p.size *= 2;
    p.signs = ia3_alloc_array(p.size, sizeof *p.signs);
    p.gauss = ia3_alloc_array(p.size, sizeof *p.gauss);
    p.permutation = ia3_alloc_array(p.size, sizeof *p.permutation);
    p.result = ia3_alloc_array(len, sizeof *p.result);
    for (int i = 0; i < p.size; i++) {
        p.signs[i] = ia3_draw(seed, STREAM_SIGNS, (uint64_t) i, 2) ? 1 : -1;
        p.gauss[i] = ia3_draw_normal(seed, STREAM_GAUSS, (uint64_t) i);
        p.permutation[i] = i;
        squares += (double) p.gauss[i] * p.gauss[i];
    }
    for (int i = p.size - 1; i > 0; i--) {
        const uint32_t k = ia3_draw(seed, STREAM_PERMUTATION, (uint64_t) i, (uint32_t) i + 1);
        const int32_t other = p.permutation[k];

        p.permutation[k] = p.permutation[i];
        p.permutation[i] = other;
    }
    p.scale = (float) (1 / sqrt(len * squares));
    return p;
}

void
ia3_projection_free(ia3_projection *p)
{
    free(p->signs);
    free(p->gauss);
    free(p->permutation);
    free(p->result);
}

/* x = H·x */
static void
hadamard(float *x, int n)
{
    for (int half = 1; half < n; half *= 2)
        for (int i = 0; i < n; i += 2 * half) {
            float *restrict a = x + i, *restrict b = x + i + half;

            for (int k = 0; k < half; k++) {
                const float sum = a[k] + b[k];

                b[k] = a[k] - b[k];
                a[k] = sum;
            }
        }
}

void
ia3_project(const ia3_projection *p, const float *x, size_t n, float *work, float *work2)
{
    for (int i = 0; i < p->size; i++)
        work[i] = (size_t) i < n ? p->signs[i] * x[i] : 0;
    hadamard(work, p->size);
    for (int i = 0; i < p->size; i++)
        work2[i] = p->gauss[i] * work[p->permutation[i]];
    hadamard(work2, p->size);
    for (int i = 0; i < p->len; i++)
        p->result[i] = p->scale * work2[i];
}

/* H is symmetric. */
void
ia3_project_bwd(const ia3_projection *p, float *dx, size_t n, const float *dresult, float *work, float *work2)
{
    for (int i = 0; i < p->size; i++)
        work[i] = i < p->len ? p->scale * dresult[i] : 0;
    hadamard(work, p->size);
    for (int i = 0; i < p->size; i++)
        work2[p->permutation[i]] = p->gauss[i] * work[i];
    hadamard(work2, p->size);
    for (int i = 0; i < p->size && (size_t) i < n; i++)
        dx[i] += p->signs[i] * work2[i];
}
