/*
 * bf16.h
 *     bfloat16 and float16 as bits, and rows of act (the compute dtype) as fp32.
 *
 * Written so that compilers vectorise the loops; rounding is to nearest even, NaN stays NaN.
 */
#ifndef IA3_CPU_BF16_H
#define IA3_CPU_BF16_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

static inline float
ia3_bits_float(uint32_t bits)
{
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

static inline uint32_t
ia3_float_bits(float f)
{
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    return bits;
}

static inline float
ia3_bf16_to_float(uint16_t h)
{
    return ia3_bits_float((uint32_t) h << 16);
}

static inline uint16_t
ia3_float_to_bf16(float f)
{
    uint32_t u = ia3_float_bits(f);
    uint32_t rounded = (u + 0x7fffu + ((u >> 16) & 1)) >> 16;
    uint32_t quiet = (u >> 16) | 0x40;
    return (uint16_t) ((u & 0x7fffffffu) > 0x7f800000u ? quiet : rounded);
}

/* IEEE binary16; storage only, so this need not be fast. */
static inline float
ia3_f16_to_float(uint16_t h)
{
    uint32_t sign = (uint32_t) (h & 0x8000u) << 16, e = (h >> 10) & 31, m = h & 0x3ffu;
    if (e == 31)
        return ia3_bits_float(sign | 0x7f800000u | m << 13);
    if (e == 0) { /* zero or subnormal: m · 2^-24 */
        float v = (float) m * 5.9604644775390625e-8f;
        return sign ? -v : v;
    }
    return ia3_bits_float(sign | (e + 112) << 23 | m << 13);
}

/* dst[i] = act array src[at + i] as fp32 */
static inline void
ia3_load_act(float *restrict dst, const void *src, size_t at, size_t n, bool bf16)
{
    if (bf16) {
        const uint16_t *restrict p = (const uint16_t *) src + at;
        for (size_t i = 0; i < n; i++)
            dst[i] = ia3_bf16_to_float(p[i]);
    } else {
        memcpy(dst, (const float *) src + at, n * sizeof(float));
    }
}

/* act array dst[at + i] = src[i], rounded */
static inline void
ia3_store_act(void *dst, size_t at, const float *restrict src, size_t n, bool bf16)
{
    if (bf16) {
        uint16_t *restrict p = (uint16_t *) dst + at;
        for (size_t i = 0; i < n; i++)
            p[i] = ia3_float_to_bf16(src[i]);
    } else {
        memcpy((float *) dst + at, src, n * sizeof(float));
    }
}

#endif
