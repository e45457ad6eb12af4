/*
 * sgemm.h
 *     Small fp32 matrix products inside attention, where there are too many shapes to prepare primitives for.
 *
 *   C[i,j] (+)= Σ_k A(i,k)·B[k,j],   A(i,k) = a[i·a_row + k·a_col],  n a multiple of 16
 *
 * Every element of C is one sum over k in ascending order, so it does not depend on the number of rows.
 */
#ifndef IA3_CPU_SGEMM_H
#define IA3_CPU_SGEMM_H

#include "simd.h"

typedef struct ia3_sgemm_a {
    const float *p;
    size_t row, col;
} ia3_sgemm_a;

#define IA3_ROW(i)  (*(ia3_vec *) (c + (i) *ldc))
#define IA3_ROW2(i) (*(ia3_vec *) (c + (i) *ldc + IA3_VEC_LANES))

/* A tile of 4 rows and 2 vectors: eight accumulators hide the latency of a fused multiply-add. */
IA3_INLINE void
ia3_tile_4x2(float *c, size_t ldc, ia3_sgemm_a a, const float *b, size_t ldb, size_t k, bool add)
{
    ia3_vec c00 = {0}, c01 = {0}, c10 = {0}, c11 = {0}, c20 = {0}, c21 = {0}, c30 = {0}, c31 = {0};
    if (add) {
        c00 = IA3_ROW(0), c10 = IA3_ROW(1), c20 = IA3_ROW(2), c30 = IA3_ROW(3);
        c01 = IA3_ROW2(0), c11 = IA3_ROW2(1), c21 = IA3_ROW2(2), c31 = IA3_ROW2(3);
    }
    const float *p = a.p;
    for (size_t x = 0; x < k; x++, p += a.col, b += ldb) {
        ia3_vec b0 = *(const ia3_vec *) b, b1 = *(const ia3_vec *) (b + IA3_VEC_LANES);
        IA3_KEEP(b0);
        IA3_KEEP(b1);
        float a0 = p[0], a1 = p[a.row], a2 = p[2 * a.row], a3 = p[3 * a.row];
        c00 += a0 * b0, c01 += a0 * b1, c10 += a1 * b0, c11 += a1 * b1;
        c20 += a2 * b0, c21 += a2 * b1, c30 += a3 * b0, c31 += a3 * b1;
    }
    IA3_ROW(0) = c00, IA3_ROW(1) = c10, IA3_ROW(2) = c20, IA3_ROW(3) = c30;
    IA3_ROW2(0) = c01, IA3_ROW2(1) = c11, IA3_ROW2(2) = c21, IA3_ROW2(3) = c31;
}

IA3_INLINE void
ia3_tile_4x1(float *c, size_t ldc, ia3_sgemm_a a, const float *b, size_t ldb, size_t k, bool add)
{
    ia3_vec c0 = {0}, c1 = {0}, c2 = {0}, c3 = {0};
    if (add)
        c0 = IA3_ROW(0), c1 = IA3_ROW(1), c2 = IA3_ROW(2), c3 = IA3_ROW(3);
    const float *p = a.p;
    for (size_t x = 0; x < k; x++, p += a.col, b += ldb) {
        ia3_vec b0 = *(const ia3_vec *) b;
        IA3_KEEP(b0);
        c0 += p[0] * b0, c1 += p[a.row] * b0, c2 += p[2 * a.row] * b0, c3 += p[3 * a.row] * b0;
    }
    IA3_ROW(0) = c0, IA3_ROW(1) = c1, IA3_ROW(2) = c2, IA3_ROW(3) = c3;
}

IA3_INLINE void
ia3_tile_1x1(float *c, ia3_sgemm_a a, const float *b, size_t ldb, size_t k, bool add)
{
    ia3_vec c0 = {0};
    if (add)
        c0 = *(const ia3_vec *) c;
    const float *p = a.p;
    for (size_t x = 0; x < k; x++, p += a.col, b += ldb)
        c0 += p[0] * *(const ia3_vec *) b;
    *(ia3_vec *) c = c0;
}

static inline void
ia3_sgemm(float *c, size_t ldc, ia3_sgemm_a a, const float *b, size_t ldb, size_t m, size_t n, size_t k,
          bool add)
{
    for (size_t j = 0; j < n; j += 2 * IA3_VEC_LANES) {
        bool wide = j + 2 * IA3_VEC_LANES <= n;
        size_t i = 0;
        for (; i + 4 <= m; i += 4) {
            ia3_sgemm_a ai = {a.p + i * a.row, a.row, a.col};
            if (wide)
                ia3_tile_4x2(c + i * ldc + j, ldc, ai, b + j, ldb, k, add);
            else
                ia3_tile_4x1(c + i * ldc + j, ldc, ai, b + j, ldb, k, add);
        }
        for (; i < m; i++) {
            ia3_sgemm_a ai = {a.p + i * a.row, a.row, a.col};
            ia3_tile_1x1(c + i * ldc + j, ai, b + j, ldb, k, add);
            if (wide)
                ia3_tile_1x1(c + i * ldc + j + IA3_VEC_LANES, ai, b + j + IA3_VEC_LANES, ldb, k, add);
        }
    }
}

#undef IA3_ROW
#undef IA3_ROW2

#endif
