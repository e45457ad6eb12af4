/*
 * mask.h
 *     Computes dropout multipliers, exactly as rng.h defines them, for many columns at a time.
 *
 *   m[j] = bits(key, site, col + j) >= p·2^32 ? 1/(1-p) : 0
 */
#ifndef IA3_CPU_MASK_H
#define IA3_CPU_MASK_H

#include <string.h>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#include "engine/base/rng.h"
#include "engine/device/device.h"

typedef struct ia3_mask {
    bool on;
    uint32_t threshold;
    float keep; /* 1/(1-p), the multiplier of elements that survive */
} ia3_mask;

static inline ia3_mask
ia3_mask_of(const ia3_dropout *d)
{
    ia3_mask m = {.on = d->p > 0.0f && d->row_key, .threshold = 0, .keep = 1.0f};
    if (m.on) {
        m.threshold = ia3_dropout_threshold(d->p);
        m.keep = 1.0f / (1.0f - d->p);
    }
    return m;
}

#define IA3_MASK_BLOCKS 16 /* Philox blocks computed per pass */

/* Philox works on 32-bit numbers in 64-bit lanes, whose high halves may hold anything. */
typedef uint64_t ia3_u64x8 __attribute__((vector_size(64)));
typedef uint32_t ia3_u32x16 __attribute__((vector_size(64)));
typedef int32_t ia3_i32x16 __attribute__((vector_size(64), aligned(4), may_alias));

/* *p = the full products of the low halves of *a and b: compilers do not find this instruction by themselves. */
static inline void
ia3_mul_low32(ia3_u64x8 *p, const ia3_u64x8 *a, uint32_t b)
{
#if defined(__AVX512F__)
    *p = (ia3_u64x8) _mm512_mul_epu32((__m512i) *a, _mm512_set1_epi64((long long) b));
#elif defined(__AVX2__)
    __m256i half[2], by = _mm256_set1_epi64x((long long) b);
    memcpy(half, a, sizeof half);
    half[0] = _mm256_mul_epu32(half[0], by);
    half[1] = _mm256_mul_epu32(half[1], by);
    memcpy(p, half, sizeof half);
#else
    *p = (*a & 0xffffffffu) * (uint64_t) b;
#endif
}

/* *x = (*p >> 32) ^ *y ^ k, one exclusive or where there is an instruction for three operands. */
static inline void
ia3_high_xor(ia3_u64x8 *x, const ia3_u64x8 *p, const ia3_u64x8 *y, uint64_t k)
{
#if defined(__AVX512F__)
    *x = (ia3_u64x8) _mm512_ternarylogic_epi64(_mm512_srli_epi64((__m512i) *p, 32), (__m512i) *y,
                                               _mm512_set1_epi64((long long) k), 0x96);
#else
    *x = (*p >> 32) ^ *y ^ k;
#endif
}

/* ia3_philox() of eight counters in place. */
static inline void
ia3_philox_x8(ia3_u64x8 c[4])
{
    ia3_u64x8 c0 = c[0], c1 = c[1], c2 = c[2], c3 = c[3];
    uint32_t k0 = IA3_PHILOX_KEY0, k1 = IA3_PHILOX_KEY1;
    for (int round = 0; round < 10; round++) {
        ia3_u64x8 p0, p1;
        ia3_mul_low32(&p0, &c0, 0xD2511F53u);
        ia3_mul_low32(&p1, &c2, 0xCD9E8D57u);
        ia3_high_xor(&c0, &p1, &c1, k0);
        ia3_high_xor(&c2, &p0, &c3, k1);
        c1 = p1;
        c3 = p0;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    c[0] = c0;
    c[1] = c1;
    c[2] = c2;
    c[3] = c3;
}

/* Stores the multipliers of 32 columns; the random number of a column is c[column % 4][column / 4]. */
static inline void
ia3_mask_store(float *m, const ia3_u64x8 c[4], const ia3_mask *mask)
{
    const uint64_t low = 0xffffffffu;
    ia3_u64x8 even = (c[0] & low) | c[1] << 32, odd = (c[2] & low) | c[3] << 32;
    ia3_u32x16 bits[2] = {(ia3_u32x16) __builtin_shufflevector(even, odd, 0, 8, 1, 9, 2, 10, 3, 11),
                          (ia3_u32x16) __builtin_shufflevector(even, odd, 4, 12, 5, 13, 6, 14, 7, 15)};
    uint32_t keep;
    memcpy(&keep, &mask->keep, sizeof keep);
    for (int i = 0; i < 2; i++) {
        ia3_i32x16 x = (ia3_i32x16) (bits[i] >= mask->threshold) & (int32_t) keep;
        memcpy(m + 16 * i, &x, sizeof x);
    }
}

/*
 * Fills m[0 .. n) with the multipliers of columns [col, col + n), where col is a multiple of 4. This may write to m up
 * to the next multiple of 64 after n.
 */
static inline void
ia3_mask_row(float *m, size_t n, uint32_t col, uint64_t key, uint32_t site, const ia3_mask *mask)
{
    const ia3_u64x8 blocks = {0, 1, 2, 3, 4, 5, 6, 7}, zero = {0};
    for (size_t at = 0; at < n; at += 4 * IA3_MASK_BLOCKS) {
        uint64_t first = (col + at) >> 2;
        ia3_u64x8 a[4] = {blocks + first, zero + site, zero + key, zero + (key >> 32)};
        ia3_u64x8 b[4] = {blocks + (first + 8), a[1], a[2], a[3]};
        ia3_philox_x8(a);
        ia3_philox_x8(b);
        ia3_mask_store(m + at, a, mask);
        ia3_mask_store(m + at + 32, b, mask);
    }
}

#endif
