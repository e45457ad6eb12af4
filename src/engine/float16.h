/*
 * float16.h
 *     The two 16-bit storage formats as fp32. Both conversions are exact.
 */
#ifndef IA3_FLOAT16_H
#define IA3_FLOAT16_H

#include <stdint.h>
#include <string.h>

/* bfloat16: the upper half of an fp32. */
static inline float
ia3_bf16_to_f32(uint16_t h)
{
    uint32_t u = (uint32_t) h << 16;
    float f;

    memcpy(&f, &u, sizeof f);
    return f;
}

/* IEEE 754 binary16: 1 sign, 5 exponent (bias 15), 10 fraction bits; subnormals, infinities and NaN included. */
static inline float
ia3_f16_to_f32(uint16_t h)
{
    uint32_t sign = (uint32_t) (h & 0x8000) << 16;
    uint32_t exponent = (h >> 10) & 0x1f;
    uint32_t fraction = h & 0x3ff;
    uint32_t u;
    float f;

    if (exponent == 0) {
        f = (float) fraction * 0x1p-24f; /* subnormal: fraction · 2^-24, a normal fp32 */
        return sign ? -f : f;
    }
    if (exponent == 31)
        u = sign | 0x7f800000u | fraction << 13;
    else
        u = sign | (exponent + 112) << 23 | fraction << 13;
    memcpy(&f, &u, sizeof f);
    return f;
}

#endif
