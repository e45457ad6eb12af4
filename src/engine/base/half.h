/*
 * half.h
 *     Converts the two 16-bit formats, bfloat16 and IEEE 754 binary16, to fp32 (exactly) and back (to the nearest, ties
 *     to even).
 *
 * The conversions of bfloat16 have no branches, so that compilers can vectorise loops over them.
 */
#ifndef IA3_HALF_H
#define IA3_HALF_H

#include <stdint.h>
#include <string.h>

#include "host_device.h"

IA3_HOST_DEVICE float
ia3_bits_float(uint32_t bits)
{
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

IA3_HOST_DEVICE uint32_t
ia3_float_bits(float f)
{
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    return bits;
}

/* bfloat16 is the upper half of an fp32. */
IA3_HOST_DEVICE float
ia3_bf16_to_f32(uint16_t h)
{
    return ia3_bits_float((uint32_t) h << 16);
}

/* NaN stays NaN, and numbers that round to more than the largest finite number become infinity. */
IA3_HOST_DEVICE uint16_t
ia3_f32_to_bf16(float f)
{
    uint32_t u = ia3_float_bits(f);
    uint32_t rounded = (u + 0x7fffu + ((u >> 16) & 1)) >> 16;
    uint32_t quiet = (u >> 16) | 0x40;
    return (uint16_t) ((u & 0x7fffffffu) > 0x7f800000u ? quiet : rounded);
}

/* binary16 has 1 sign bit, 5 exponent bits (bias 15) and 10 fraction bits, with subnormals, infinities and NaN. */
IA3_HOST_DEVICE float
ia3_f16_to_f32(uint16_t h)
{
    uint32_t sign = (uint32_t) (h & 0x8000u) << 16, exponent = (h >> 10) & 31, fraction = h & 0x3ffu;
    if (exponent == 31)
        return ia3_bits_float(sign | 0x7f800000u | fraction << 13);
    if (exponent == 0) { /* zero or subnormal: fraction · 2^-24 */
        float v = (float) fraction * 5.9604644775390625e-8f;
        return sign ? -v : v;
    }
    return ia3_bits_float(sign | (exponent + 112) << 23 | fraction << 13);
}

/* NaN stays NaN, and numbers that round to more than the largest finite number become infinity. */
IA3_HOST_DEVICE uint16_t
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
