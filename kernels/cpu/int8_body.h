/*
 * int8_body.h
 *     What the forms of the eight-bit kernel have in common, inlined into each so that it is compiled for the
 *     form's processor: quantisation of a row, and the way from 32-bit sums to the result.
 *
 * Compiled without contraction of a·b + c (engine.mk), so that all forms round alike.
 */
#ifndef IA3_CPU_INT8_BODY_H
#define IA3_CPU_INT8_BODY_H

#include "int8.h"
#include "simd.h"

/* For loops over accumulators, which must be unrolled to live in registers. */
#if defined(__clang__)
#define IA3_UNROLL _Pragma("unroll")
#else
#define IA3_UNROLL _Pragma("GCC unroll 16")
#endif

/* Largest |x| as bits; above 0x7f7fffff there is a NaN or an infinity. */
IA3_INLINE uint32_t
ia3_int8_largest(const void *x, int k, bool bf16)
{
    if (bf16) {
        const uint16_t *restrict h = x;
        uint16_t largest = 0;
        for (int i = 0; i < k; i++) {
            uint16_t bits = h[i] & 0x7fff;
            largest = bits > largest ? bits : largest;
        }
        return (uint32_t) largest << 16;
    }
    const uint32_t *restrict w = x;
    uint32_t largest = 0;
    for (int i = 0; i < k; i++) {
        uint32_t bits = w[i] & 0x7fffffffu;
        largest = bits > largest ? bits : largest;
    }
    return largest;
}

/* x·inverse to the nearest even integer; |x·inverse| <= 127. Adding 1.5·2^23 leaves it in the low bits. */
IA3_INLINE int32_t
ia3_int8_round(float x, float inverse)
{
    return (int32_t) (ia3_float_bits(x * inverse + 12582912.0f) - 0x4b400000u);
}

IA3_INLINE void
ia3_int8_quantize_row(int8_t *restrict q, float *scale, int32_t *start, const void *x, int k, int k_padded,
                      bool bf16)
{
    uint32_t bits = ia3_int8_largest(x, k, bf16);
    float largest = ia3_bits_float(bits);
    int32_t sum = 0;
    if (bits > 0x7f7fffffu || largest < 0x1p-100f) {
        memset(q, 0, (size_t) k_padded);
        *scale = bits > 0x7f7fffffu ? NAN : 0.0f;
        *start = 0;
        return;
    }
    float inverse = 127.0f / largest;
    if (bf16) {
        const uint16_t *restrict h = x;
        for (int i = 0; i < k; i++) {
            int32_t v = ia3_int8_round(ia3_bits_float((uint32_t) h[i] << 16), inverse);
            q[i] = (int8_t) v;
            sum += v;
        }
    } else {
        const float *restrict f = x;
        for (int i = 0; i < k; i++) {
            int32_t v = ia3_int8_round(f[i], inverse);
            q[i] = (int8_t) v;
            sum += v;
        }
    }
    for (int i = k; i < k_padded; i++)
        q[i] = 0;
    *scale = largest / 127.0f;
    *start = -128 * sum;
}

/* n columns of a row of sums to where the result belongs, y being the row's first column. */
IA3_INLINE void
ia3_int8_finish_columns(void *y, const int32_t *restrict sums, float scale, const float *restrict w_scale,
                        int n, ia3_out out, bool bf16)
{
    if (out == IA3_OUT_ADD_F32) {
        float *restrict to = y;
        for (int j = 0; j < n; j++)
            to[j] += (float) sums[j] * (scale * w_scale[j]);
    } else if (out == IA3_OUT_ACT && bf16) {
        uint16_t *restrict to = y;
        for (int j = 0; j < n; j++)
            to[j] = ia3_float_to_bf16((float) sums[j] * (scale * w_scale[j]));
    } else {
        float *restrict to = y;
        for (int j = 0; j < n; j++)
            to[j] = (float) sums[j] * (scale * w_scale[j]);
    }
}

/* A tile of sums [rows][64]; full panels get loops of constant length. */
IA3_INLINE void
ia3_int8_finish(const ia3_int8_product *p, int row, int rows, const int32_t *sums)
{
    size_t size = p->out == IA3_OUT_ACT && p->bf16 ? 2 : 4;
    for (int r = 0; r < rows; r++) {
        char *y = (char *) p->y + (size_t) (row + r) * p->ldy * size;
        const int32_t *from = sums + r * IA3_INT8_COLUMNS;
        if (p->n == IA3_INT8_COLUMNS)
            ia3_int8_finish_columns(y, from, p->scale[row + r], p->w_scale, IA3_INT8_COLUMNS, p->out,
                                    p->bf16);
        else
            ia3_int8_finish_columns(y, from, p->scale[row + r], p->w_scale, p->n, p->out, p->bf16);
    }
}

#endif
