/*
 * mask.h
 *     Computes dropout multipliers, exactly as rng.h defines them, for many columns at a time.
 *
 *   m[j] = bits(key, site, col + j) >= p·2^32 ? 1/(1-p) : 0
 */
#ifndef IA3_CPU_MASK_H
#define IA3_CPU_MASK_H

#include <string.h>

#include "engine/base/rng.h"
#include "engine/device/device.h"
#include "simd.h"

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

/*
 * Philox works on 32-bit numbers in 64-bit lanes, whose high halves may hold anything. The vectors are as wide as the
 * registers (see simd.h).
 */
#define IA3_U64_LANES (IA3_VEC_LANES / 2)
typedef uint64_t ia3_u64_vec __attribute__((vector_size(IA3_U64_LANES * 8)));
typedef uint32_t ia3_u32_vec __attribute__((vector_size(IA3_U64_LANES * 8)));
typedef int32_t ia3_i32_vec __attribute__((vector_size(IA3_U64_LANES * 8)));

#if IA3_U64_LANES == 8
#define IA3_U64_COUNT                                                                                        \
    {                                                                                                        \
        0, 1, 2, 3, 4, 5, 6, 7                                                                               \
    }
#define IA3_ZIP_LOW  0, 8, 1, 9, 2, 10, 3, 11
#define IA3_ZIP_HIGH 4, 12, 5, 13, 6, 14, 7, 15
#elif IA3_U64_LANES == 4
#define IA3_U64_COUNT                                                                                        \
    {                                                                                                        \
        0, 1, 2, 3                                                                                           \
    }
#define IA3_ZIP_LOW  0, 4, 1, 5
#define IA3_ZIP_HIGH 2, 6, 3, 7
#else
#define IA3_U64_COUNT                                                                                        \
    {                                                                                                        \
        0, 1                                                                                                 \
    }
#define IA3_ZIP_LOW  0, 2
#define IA3_ZIP_HIGH 1, 3
#endif

/* Returns the full products of the low halves of a and b: compilers do not find this instruction by themselves. */
IA3_INLINE ia3_u64_vec
ia3_mul_low32(ia3_u64_vec a, uint32_t b)
{
#if defined(__AVX512F__)
    return (ia3_u64_vec) _mm512_mul_epu32((__m512i) a, _mm512_set1_epi64((long long) b));
#elif defined(__AVX2__)
    return (ia3_u64_vec) _mm256_mul_epu32((__m256i) a, _mm256_set1_epi64x((long long) b));
#else
    return (a & 0xffffffffu) * (uint64_t) b;
#endif
}

/* Returns (p >> 32) ^ y ^ k, one exclusive or where there is an instruction for three operands. */
IA3_INLINE ia3_u64_vec
ia3_high_xor(ia3_u64_vec p, ia3_u64_vec y, uint64_t k)
{
#if defined(__AVX512F__)
    return (ia3_u64_vec) _mm512_ternarylogic_epi64(_mm512_srli_epi64((__m512i) p, 32), (__m512i) y,
                                                   _mm512_set1_epi64((long long) k), 0x96);
#else
    return (p >> 32) ^ y ^ k;
#endif
}

/* One round of Philox. */
IA3_INLINE void
ia3_philox_round(ia3_u64_vec c[4], uint32_t k0, uint32_t k1)
{
    ia3_u64_vec p0 = ia3_mul_low32(c[0], 0xD2511F53u), p1 = ia3_mul_low32(c[2], 0xCD9E8D57u);
    c[0] = ia3_high_xor(p1, c[1], k0);
    c[2] = ia3_high_xor(p0, c[3], k1);
    c[1] = p1;
    c[3] = p0;
}

/* ia3_philox() of two vectors of counters in place: the rounds of one hide the latency of the other's. */
IA3_INLINE void
ia3_philox_x2(ia3_u64_vec a[4], ia3_u64_vec b[4])
{
    uint32_t k0 = IA3_PHILOX_KEY0, k1 = IA3_PHILOX_KEY1;
    for (int round = 0; round < 10; round++) {
        ia3_philox_round(a, k0, k1);
        ia3_philox_round(b, k0, k1);
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
}

/* Stores the multipliers of four columns per lane; the random number of a column is c[column % 4][column / 4]. */
IA3_INLINE void
ia3_mask_store(float *m, const ia3_u64_vec c[4], const ia3_mask *mask)
{
    const uint64_t low = 0xffffffffu;
    ia3_u64_vec even = (c[0] & low) | c[1] << 32, odd = (c[2] & low) | c[3] << 32;
    ia3_u32_vec bits[2] = {(ia3_u32_vec) __builtin_shufflevector(even, odd, IA3_ZIP_LOW),
                           (ia3_u32_vec) __builtin_shufflevector(even, odd, IA3_ZIP_HIGH)};
    uint32_t keep;
    memcpy(&keep, &mask->keep, sizeof keep);
    for (int i = 0; i < 2; i++) {
        ia3_i32_vec x = (ia3_i32_vec) (bits[i] >= mask->threshold) & (int32_t) keep;
        memcpy(m + 2 * IA3_U64_LANES * i, &x, sizeof x);
    }
}

/*
 * Fills m[0 .. n) with the multipliers of columns [col, col + n), where col is a multiple of 4. This may write to m up
 * to the next multiple of 64 after n.
 */
static inline void
ia3_mask_row(float *m, size_t n, uint32_t col, uint64_t key, uint32_t site, const ia3_mask *mask)
{
    const ia3_u64_vec blocks = IA3_U64_COUNT, zero = {0};
    for (size_t at = 0; at < n; at += 8 * IA3_U64_LANES) {
        uint64_t first = (col + at) >> 2;
        ia3_u64_vec a[4] = {blocks + first, zero + site, zero + key, zero + (key >> 32)};
        ia3_u64_vec b[4] = {blocks + (first + IA3_U64_LANES), a[1], a[2], a[3]};
        ia3_philox_x2(a, b);
        ia3_mask_store(m + at, a, mask);
        ia3_mask_store(m + at + 4 * IA3_U64_LANES, b, mask);
    }
}

#endif
