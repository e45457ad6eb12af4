/*
 * dot.h
 *     Work on bfloat16 rows in 512-bit vectors: conversion, packing for bgemm.h, e^x. For AVX512-BF16 only.
 *
 * Rows are given by the address of their first element and a stride in elements. Elements beyond the last column or
 * row count as zero and are never read.
 */
#ifndef IA3_CPU_DOT_H
#define IA3_CPU_DOT_H

#if defined(__AVX512BF16__)

#include <immintrin.h>

#include "attention.h"
#include "bgemm.h"

typedef struct ia3_rows {
    const uint16_t *p;
    size_t stride;
    size_t n, d; /* rows, columns */
} ia3_rows;

/* A mask of the first `left` of 16 lanes. */
IA3_INLINE __mmask16
ia3_lanes(size_t left)
{
    return left >= 16 ? 0xffff : (__mmask16) ((1u << left) - 1);
}

IA3_INLINE __mmask32
ia3_lanes32(size_t left)
{
    return left >= 32 ? 0xffffffffu : (__mmask32) ((1u << left) - 1);
}

IA3_INLINE __m512
ia3_load16(const uint16_t *p, __mmask16 m)
{
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(m, p)), 16));
}

IA3_INLINE void
ia3_store16(uint16_t *p, __mmask16 m, __m512 x)
{
    _mm256_mask_storeu_epi16(p, m, (__m256i) _mm512_cvtneps_pbh(x));
}

/*
 * e^x = 2^n · e^r, where x = n·ln 2 + r; e^r is computed by the polynomial of ia3_expf, and the result is likewise 0
 * for x < -87.3. x must not exceed 88.
 */
IA3_INLINE __m512
ia3_exp16(__m512 x)
{
    const __m512 one = _mm512_set1_ps(1.0f);
    __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(1.44269504088896341f)), 0x08);
    __m512 r = _mm512_fnmadd_ps(n, _mm512_set1_ps(0.693359375f), x);
    r = _mm512_fnmadd_ps(n, _mm512_set1_ps(-2.12194440e-4f), r);
    __m512 p = _mm512_set1_ps(1.9875691500e-4f);
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.3981999507e-3f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(8.3334519073e-3f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(4.1665795894e-2f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.6666665459e-1f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(5.0000001201e-1f));
    p = _mm512_add_ps(_mm512_fmadd_ps(p, _mm512_mul_ps(r, r), r), one);
    return _mm512_maskz_scalef_ps(_mm512_cmp_ps_mask(x, _mm512_set1_ps(-87.33654f), _CMP_NLT_UQ), p, n);
}

/* s += bias; returns the largest of the n sums. */
static inline float
ia3_add_bias(float *s, const float *bias, size_t n)
{
    __m512 max = _mm512_set1_ps(-INFINITY);
    for (size_t j = 0; j < n; j += 16) {
        __mmask16 m = ia3_lanes(n - j);
        __m512 x = _mm512_maskz_loadu_ps(m, s + j);
        if (bias)
            x = _mm512_add_ps(x, _mm512_maskz_loadu_ps(m, bias + j));
        _mm512_mask_storeu_ps(s + j, m, x);
        max = _mm512_mask_max_ps(max, m, max, x);
    }
    return _mm512_reduce_max_ps(max);
}

/* s = e^(s - max); returns the sum of the n results, computed in 16 partial sums. */
static inline float
ia3_exponentials(float *s, float max, size_t n)
{
    __m512 sum = _mm512_setzero_ps(), shift = _mm512_set1_ps(max);
    for (size_t j = 0; j < n; j += 16) {
        __mmask16 m = ia3_lanes(n - j);
        __m512 e = ia3_exp16(_mm512_sub_ps(_mm512_maskz_loadu_ps(m, s + j), shift));
        _mm512_mask_storeu_ps(s + j, m, e);
        sum = _mm512_mask_add_ps(sum, m, sum, e);
    }
    return _mm512_reduce_add_ps(sum);
}

/*
 * Writes the rows times l, rounded, to to[n, d] and, unless `rest` is NULL, the error of this rounding, rounded
 * itself, to rest[n, d]. Returns the rows in `to`.
 */
static inline ia3_rows
ia3_scaled_rows(uint16_t *to, uint16_t *rest, ia3_rows r, const float *l)
{
    for (size_t i = 0; i < r.n; i++)
        for (size_t c = 0; c < r.d; c += 16) {
            __mmask16 m = ia3_lanes(r.d - c);
            __m512 x = _mm512_mul_ps(ia3_load16(r.p + i * r.stride + c, m), _mm512_maskz_loadu_ps(m, l + c));
            ia3_store16(to + i * r.d + c, m, x);
            if (rest)
                ia3_store16(rest + i * r.d + c, m, _mm512_sub_ps(x, ia3_load16(to + i * r.d + c, m)));
        }
    return (ia3_rows){to, r.d, r.n, r.d};
}

/* Interleaves the elements of two vectors: out[0] gets the first 16 pairs, out[1] the last 16. */
IA3_INLINE void
ia3_interleave(__m512i x, __m512i y, __m512i out[2])
{
    const __m512i low = _mm512_set_epi16(47, 15, 46, 14, 45, 13, 44, 12, 43, 11, 42, 10, 41, 9, 40, 8, 39, 7,
                                         38, 6, 37, 5, 36, 4, 35, 3, 34, 2, 33, 1, 32, 0);
    out[0] = _mm512_permutex2var_epi16(x, low, y);
    out[1] = _mm512_permutex2var_epi16(x, _mm512_add_epi16(low, _mm512_set1_epi16(16)), y);
}

/* Packs B(i,j) = rows[i][j], with k = rows and n = columns; an odd number of rows is padded with zeros. */
static inline void
ia3_pack_rows(uint16_t *packed, ia3_rows r)
{
    for (size_t c = 0; c < r.d; c += IA3_STRIP) {
        __mmask32 m = ia3_lanes32(r.d - c);
        for (size_t i = 0; i < r.n; i += 2, packed += 2 * IA3_STRIP) {
            const uint16_t *p = r.p + i * r.stride + c;
            __m512i x = _mm512_maskz_loadu_epi16(m, p), y = _mm512_setzero_si512(), pair[2];
            if (i + 1 < r.n)
                y = _mm512_maskz_loadu_epi16(m, p + r.stride);
            ia3_interleave(x, y, pair);
            _mm512_storeu_si512(packed, pair[0]);
            _mm512_storeu_si512(packed + IA3_STRIP, pair[1]);
        }
    }
}

/* Transposes 16 vectors of 16 numbers in place. */
IA3_INLINE void
ia3_transpose16(__m512i r[16])
{
    __m512i t[16];
    for (int i = 0; i < 16; i += 2) {
        t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
        t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
    }
    for (int i = 0; i < 16; i += 4) {
        r[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
        r[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
        r[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
        r[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
    }
    for (int i = 0; i < 4; i++) {
        t[i] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0x88);
        t[i + 4] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0xdd);
        t[i + 8] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0x88);
        t[i + 12] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0xdd);
    }
    for (int i = 0; i < 4; i++) {
        r[i] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0x88);
        r[i + 4] = _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0x88);
        r[i + 8] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0xdd);
        r[i + 12] = _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0xdd);
    }
}

/* Packs B(i,j) = rows[j][i], with k = columns (an even number) and n = rows. */
static inline void
ia3_pack_columns(uint16_t *packed, ia3_rows r)
{
    const size_t strip = IA3_STRIP * r.d;
    for (size_t j = 0; j < r.n; j += 16) {
        uint16_t *to = packed + j / IA3_STRIP * strip + j % IA3_STRIP * 2;
        for (size_t c = 0; c < r.d; c += 32) {
            __m512i v[16];
            __mmask32 m = ia3_lanes32(r.d - c);
            for (size_t x = 0; x < 16; x++)
                v[x] = j + x < r.n ? _mm512_maskz_loadu_epi16(m, r.p + (j + x) * r.stride + c)
                                   : _mm512_setzero_si512();
            ia3_transpose16(v);
            for (size_t x = 0; x < 16 && c + 2 * x < r.d; x++)
                _mm512_storeu_si512(to + (c / 2 + x) * 2 * IA3_STRIP, v[x]);
        }
    }
}

/* Rows [row, row + n) of one head. */
IA3_INLINE ia3_rows
ia3_head_view(const ia3_head *h, const void *array, size_t row, size_t n, size_t stride)
{
    return (ia3_rows){(const uint16_t *) array + ia3_head_at(h, row, stride), stride, n, h->d};
}

/* y = a·B, each column times its scale. lda and step are those of ia3_bgemm: for plain rows, their stride and 2. */
IA3_INLINE void
ia3_dot_product(void *y, size_t ldy, ia3_out out, const float *scale, const uint16_t *a, size_t lda,
                size_t step, size_t rows, const uint16_t *packed, size_t k, size_t n)
{
    ia3_bgemm g = {.a = a,
                   .packed = packed,
                   .lda = lda,
                   .step = step,
                   .y = y,
                   .ldy = ldy,
                   .column_scale = scale,
                   .rows = (int) rows,
                   .k = (int) k,
                   .depth = (int) k,
                   .n = (int) n,
                   .strips = (int) ((n + IA3_STRIP - 1) / IA3_STRIP),
                   .out = out};
    ia3_bgemm_run(&g);
}

/*
 * s[n, ld] = (q ⊙ l_k)·kᵀ with k packed by columns. The scaled queries are represented as sums of two bfloat16
 * numbers, so that scores are as exact as with fp32 keys. parts: scratch memory for both, 2·n·d elements.
 */
IA3_INLINE void
ia3_dot_scores(const ia3_head *h, float *s, size_t ld, ia3_rows q, const uint16_t *k, uint16_t *parts)
{
    if (!h->lk) {
        ia3_dot_product(s, ld, IA3_OUT_F32, NULL, q.p, q.stride, 2, q.n, k, h->d, h->n_k);
        return;
    }
    uint16_t *rest = parts + q.n * q.d;
    ia3_scaled_rows(parts, rest, q, h->lk);
    ia3_dot_product(s, ld, IA3_OUT_F32, NULL, parts, h->d, 2, q.n, k, h->d, h->n_k);
    ia3_dot_product(s, ld, IA3_OUT_ADD_F32, NULL, rest, h->d, 2, q.n, k, h->d, h->n_k);
}

#endif

#endif
