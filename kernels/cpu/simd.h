/*
 * simd.h
 *     Vector types, elementary functions that compilers can vectorise, and sums in a fixed order.
 *
 * Vectors are the compilers' own extension rather than intrinsics; they have 16 floats, which compilers split for
 * narrower machines. A result depends only on its own row, never on how many rows are processed together.
 */
#ifndef IA3_CPU_SIMD_H
#define IA3_CPU_SIMD_H

#include <math.h>

#include "act.h"

#define IA3_LANES 16

/* Unaligned and allowed to alias float, so that it can be read and written through float pointers. */
typedef float ia3_v16 __attribute__((vector_size(64), aligned(4), may_alias));

#define IA3_INLINE static inline __attribute__((always_inline))

/*
 * Returns e^x within 2 ulp for -87.3 <= x <= 88.3; below that range it returns 0, above it e^88.3, and NaN for NaN.
 * It reduces x to n·ln 2 + r, with ln 2 in two parts, and computes e^r by the degree-7 polynomial of Cephes' expf.
 */
IA3_INLINE float
ia3_expf(float x)
{
    const float lowest = -87.33654f, highest = 88.3762626647949f;
    float c = x > highest ? highest : x;
    c = c < lowest ? lowest : c;
    float t = c * 1.44269504088896341f + 12582912.0f; /* 1.5·2^23: rounds to an integer in the low bits */
    float n = t - 12582912.0f;
    float r = c - n * 0.693359375f;
    r = r - n * -2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    float y = p * (r * r) + r + 1.0f;
    float scale = ia3_bits_float((ia3_float_bits(t) + 127u) << 23);
    float e = y * scale;
    return x < lowest ? 0.0f : e;
}

/* 1 / (1 + e^-x) */
IA3_INLINE float
ia3_sigmoidf(float x)
{
    return 1.0f / (1.0f + ia3_expf(-x));
}

IA3_INLINE float
ia3_sum16(const float lanes[IA3_LANES])
{
    float s[8];
    for (int i = 0; i < 8; i++)
        s[i] = lanes[i] + lanes[i + 8];
    for (int i = 0; i < 4; i++)
        s[i] += s[i + 4];
    return (s[0] + s[2]) + (s[1] + s[3]);
}

/* Σ x[i]·y[i], in 16 partial sums */
static inline float
ia3_dot(const float *x, const float *y, size_t n)
{
    float lanes[IA3_LANES] = {0};
    ia3_v16 acc = {0};
    size_t i = 0;
    for (; i + IA3_LANES <= n; i += IA3_LANES)
        acc += *(const ia3_v16 *) (x + i) * *(const ia3_v16 *) (y + i);
    memcpy(lanes, &acc, sizeof lanes);
    for (int l = 0; i < n; i++, l++)
        lanes[l] += x[i] * y[i];
    return ia3_sum16(lanes);
}

static inline float
ia3_sum(const float *x, size_t n)
{
    float lanes[IA3_LANES] = {0};
    ia3_v16 acc = {0};
    size_t i = 0;
    for (; i + IA3_LANES <= n; i += IA3_LANES)
        acc += *(const ia3_v16 *) (x + i);
    memcpy(lanes, &acc, sizeof lanes);
    for (int l = 0; i < n; i++, l++)
        lanes[l] += x[i];
    return ia3_sum16(lanes);
}

/* The largest of n > 0 numbers. */
static inline float
ia3_max(const float *x, size_t n)
{
    float lanes[IA3_LANES];
    size_t i = 0;
    for (int l = 0; l < IA3_LANES; l++)
        lanes[l] = x[0];
    for (; i + IA3_LANES <= n; i += IA3_LANES)
        for (int l = 0; l < IA3_LANES; l++)
            lanes[l] = x[i + l] > lanes[l] ? x[i + l] : lanes[l];
    for (; i < n; i++)
        lanes[0] = x[i] > lanes[0] ? x[i] : lanes[0];
    float m = lanes[0];
    for (int l = 1; l < IA3_LANES; l++)
        m = lanes[l] > m ? lanes[l] : m;
    return m;
}

/* Replaces each x[i] by e^(x[i] - shift) and returns their sum. */
static inline float
ia3_exp_row(float *x, size_t n, float shift)
{
    for (size_t i = 0; i < n; i++)
        x[i] = ia3_expf(x[i] - shift);
    return ia3_sum(x, n);
}

#endif
