/*
 * half.h
 *     The two 16-bit storage formats as fp32 (exact), and back (to the nearest, ties to even).
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

/* NaN stays NaN; what rounds beyond the largest finite number becomes infinity. */
static inline uint16_t
ia3_f32_to_bf16(float f)
{
    uint32_t u;

    memcpy(&u, &f, sizeof u);
    if ((u & 0x7fffffff) > 0x7f800000)
        return (uint16_t) (u >> 16 | 0x40);
    return (uint16_t) ((u + 0x7fff + (u >> 16 & 1)) >> 16);
}

/* The same for binary16. */
static inline uint16_t
ia3_f32_to_f16(float f)
{
    uint32_t u;

    memcpy(&u, &f, sizeof u);

    uint16_t sign = (uint16_t) (u >> 16 & 0x8000);

    u &= 0x7fffffff;
    if (u > 0x7f800000)
        return sign | 0x7e00;
    if (u >= 0x477ff000) /* 65520 = halfway between 65504 and 2^16, whose even neighbour is 2^16 */
        return sign | 0x7c00;
    if (u <
        0x38800000) { /* below 2^-14: adding 0.5 rounds to a multiple of 2^-24 in the fraction's last bits */
        float sum;

        memcpy(&sum, &u, sizeof sum);
        sum += 0.5f;
        memcpy(&u, &sum, sizeof u);
        return sign | (uint16_t) (u - 0x3f000000);
    }
    u -= 112u << 23; /* the exponent's bias: 127 to 15 */
    return sign | (uint16_t) ((u + 0xfff + (u >> 13 & 1)) >> 13);
}

#endif
