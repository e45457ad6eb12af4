/*
 * int8_body.h
 *     The parts common to all forms of the eight-bit kernel: quantisation of a row, and conversion of the 32-bit
 *     sums to the result. They are inlined, so that they are compiled for each form's processor.
 *
 * engine.mk forbids the compiler to contract a·b + c to a fused multiply-add, so that all forms round alike.
 */
#ifndef IA3_CPU_INT8_BODY_H
#define IA3_CPU_INT8_BODY_H

#include "int8.h"
#include "simd.h"

/* For loops over accumulators, which must be unrolled for these to stay in registers. */
#if defined(__clang__)
#define IA3_UNROLL _Pragma("unroll")
#else
#define IA3_UNROLL _Pragma("GCC unroll 16")
#endif

/* One step of the rotation within a vector: pairs of lanes are replaced by their sum and difference. */
#define IA3_INT8_LANES(v, sign, ...) ((v) * (sign) + __builtin_shufflevector(v, v, __VA_ARGS__))

/* The steps of distance 1, 2, 4 and 8 for 16 values. x·(±1) is exact, so this rounds like the plain loop. */
IA3_INLINE ia3_v16
ia3_int8_rotate_lanes(ia3_v16 v)
{
    const ia3_v16 one = {1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1};
    const ia3_v16 two = {1, 1, -1, -1, 1, 1, -1, -1, 1, 1, -1, -1, 1, 1, -1, -1};
    const ia3_v16 four = {1, 1, 1, 1, -1, -1, -1, -1, 1, 1, 1, 1, -1, -1, -1, -1};
    const ia3_v16 eight = {1, 1, 1, 1, 1, 1, 1, 1, -1, -1, -1, -1, -1, -1, -1, -1};
    v = IA3_INT8_LANES(v, one, 1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14);
    v = IA3_INT8_LANES(v, two, 2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13);
    v = IA3_INT8_LANES(v, four, 4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11);
    return IA3_INT8_LANES(v, eight, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7);
}

/* Rotates a block of 256 values: first within vectors, then across them. */
IA3_INLINE void
ia3_int8_rotate_256(float *x)
{
    ia3_v16 v[16];
    IA3_UNROLL
    for (int i = 0; i < 16; i++)
        v[i] = ia3_int8_rotate_lanes(*(const ia3_v16 *) (x + 16 * i));
    IA3_UNROLL
    for (int h = 1; h < 16; h *= 2) {
        IA3_UNROLL
        for (int i = 0; i < 8; i++) {
            int low = i / h * 2 * h + i % h;
            ia3_v16 sum = v[low] + v[low + h], difference = v[low] - v[low + h];
            v[low] = sum;
            v[low + h] = difference;
        }
    }
    IA3_UNROLL
    for (int i = 0; i < 16; i++)
        *(ia3_v16 *) (x + 16 * i) = v[i];
}

IA3_INLINE void
ia3_int8_rotate_row(float *x, int k)
{
    int block = ia3_int8_block(k);
    for (int at = 0; at < k; at += block) {
        if (block == 256) {
            ia3_int8_rotate_256(x + at);
            continue;
        }
        for (int h = 1; h < block; h *= 2)
            for (int i = 0; i < block / 2; i++) {
                float *low = x + at + i / h * 2 * h + i % h;
                float sum = low[0] + low[h], difference = low[0] - low[h];
                low[0] = sum;
                low[h] = difference;
            }
    }
}

/* The bits of the largest |x|; a result above 0x7f7fffff means that x contains a NaN or an infinity. */
IA3_INLINE uint32_t
ia3_int8_largest(const float *restrict x, int k)
{
    uint32_t largest = 0;
    for (int i = 0; i < k; i++) {
        uint32_t bits = ia3_float_bits(x[i]) & 0x7fffffffu;
        largest = bits > largest ? bits : largest;
    }
    return largest;
}

/*
 * x·inverse, at most 127 in size, rounded to the nearest integer, ties to even. Adding 1.5·2^23 leaves the integer
 * in the low bits of the float.
 */
IA3_INLINE int32_t
ia3_int8_round(float x, float inverse)
{
    return (int32_t) (ia3_float_bits(x * inverse + 12582912.0f) - 0x4b400000u);
}

IA3_INLINE void
ia3_int8_quantize_row(int8_t *restrict q, float *scale, int32_t *start, const void *x, int k, int k_padded,
                      bool bf16, float *restrict scratch)
{
    ia3_load_act(scratch, x, 0, (size_t) k, bf16);
    ia3_int8_rotate_row(scratch, k);
    uint32_t bits = ia3_int8_largest(scratch, k);
    float largest = ia3_bits_float(bits);
    int32_t sum = 0;
    if (bits > 0x7f7fffffu || largest < 0x1p-100f) {
        memset(q, 0, (size_t) k_padded);
        *scale = bits > 0x7f7fffffu ? NAN : 0.0f;
        *start = 0;
        return;
    }
    float inverse = 127.0f / largest;
    for (int i = 0; i < k; i++) {
        int32_t v = ia3_int8_round(scratch[i], inverse);
        q[i] = (int8_t) v;
        sum += v;
    }
    for (int i = k; i < k_padded; i++)
        q[i] = 0;
    *scale = largest / 127.0f;
    *start = -128 * sum;
}

/* Scales n columns of a row of sums and writes them to y, the address of the row's first column. */
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
            to[j] = ia3_f32_to_bf16((float) sums[j] * (scale * w_scale[j]));
    } else {
        float *restrict to = y;
        for (int j = 0; j < n; j++)
            to[j] = (float) sums[j] * (scale * w_scale[j]);
    }
}

/* Writes a tile of sums [rows][64] to the result; for full panels the loops have a constant length. */
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
