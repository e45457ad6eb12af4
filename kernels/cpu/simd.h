/*
 * simd.h
 *     Vector types, elementary functions that compilers can vectorise, and sums in a fixed order.
 *
 * Vectors are the compilers' own extension rather than intrinsics. They are as wide as the registers: compilers keep
 * wider ones on the stack, which is many times slower (scripts/spills.pl finds such loops). Sums have 16 partial sums
 * on every machine, so that all round alike. A result depends only on its own row, never on how many rows are
 * processed together.
 */
#ifndef IA3_CPU_SIMD_H
#define IA3_CPU_SIMD_H

#include <math.h>
#if defined(__AVX__)
#include <immintrin.h>
#endif

#include "act.h"

#define IA3_LANES 16 /* partial sums */

/* IA3_KEEP keeps a vector in a register; otherwise gcc reads it from memory again each time that it is used. */
#if defined(__AVX512F__)
#define IA3_VEC_LANES 16
#define IA3_KEEP(v)   __asm__("" : "+v"(v))
#elif defined(__AVX__)
#define IA3_VEC_LANES 8
#define IA3_KEEP(v)   __asm__("" : "+x"(v))
#else
#define IA3_VEC_LANES 4
#define IA3_KEEP(v)   (void) 0
#endif
#define IA3_VECS (IA3_LANES / IA3_VEC_LANES) /* vectors that hold 16 numbers */

/* Unaligned and allowed to alias float, so that it can be read and written through float pointers. */
typedef float ia3_vec __attribute__((vector_size(IA3_VEC_LANES * sizeof(float)), aligned(4), may_alias));
typedef int32_t ia3_vec_bits __attribute__((vector_size(IA3_VEC_LANES * sizeof(float))));
typedef uint32_t ia3_vec_words __attribute__((vector_size(IA3_VEC_LANES * sizeof(float))));
typedef uint16_t ia3_vec_halves __attribute__((vector_size(IA3_VEC_LANES * 2), aligned(2), may_alias));

/*
 * Functions that are inlined always, many with a constant for an argument. With AddressSanitizer the compiler decides: clang
 * takes minutes to instrument all the copies that there are in fgemm.c.
 */
#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define IA3_INLINE static inline
#endif
#endif
#if !defined(IA3_INLINE) && defined(__SANITIZE_ADDRESS__)
#define IA3_INLINE static inline
#elif !defined(IA3_INLINE)
#define IA3_INLINE static inline __attribute__((always_inline))
#endif

/* For loops over arrays of vectors, which must be unrolled for these to stay in registers. */
#if defined(__clang__)
/* more often than any loop runs: clang keeps arrays in memory if the number is exact or missing */
#define IA3_UNROLL _Pragma("unroll 64")
#else
#define IA3_UNROLL _Pragma("GCC unroll 16")
#endif

/* For loops over arrays that do not overlap, when there are too many of them for the compiler to check. */
#if defined(__clang__)
#define IA3_INDEPENDENT _Pragma("clang loop vectorize(assume_safety)")
#else
#define IA3_INDEPENDENT _Pragma("GCC ivdep")
#endif

/* A vector of elements of an act array, from `at` on. */
IA3_INLINE ia3_vec
ia3_vec_load_act(const void *from, size_t at, bool bf16)
{
    if (!bf16)
        return *(const ia3_vec *) ((const float *) from + at);
    ia3_vec_halves x = *(const ia3_vec_halves *) ((const uint16_t *) from + at);
    return (ia3_vec) (__builtin_convertvector(x, ia3_vec_words) << 16);
}

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

/* Vector v of those that begin at x + i. */
#define IA3_VEC(x, i, v) (*(const ia3_vec *) ((x) + (i) + (v) *IA3_VEC_LANES))

/* Σ x[i]·y[i], in 16 partial sums */
static inline float
ia3_dot(const float *x, const float *y, size_t n)
{
    float lanes[IA3_LANES];
    ia3_vec acc[IA3_VECS] = {{0}};
    size_t i = 0;
    for (; i + IA3_LANES <= n; i += IA3_LANES) {
        IA3_UNROLL
        for (size_t v = 0; v < IA3_VECS; v++)
            acc[v] += IA3_VEC(x, i, v) * IA3_VEC(y, i, v);
    }
    memcpy(lanes, acc, sizeof lanes);
    for (int l = 0; i < n; i++, l++)
        lanes[l] += x[i] * y[i];
    return ia3_sum16(lanes);
}

static inline float
ia3_sum(const float *x, size_t n)
{
    float lanes[IA3_LANES];
    ia3_vec acc[IA3_VECS] = {{0}};
    size_t i = 0;
    for (; i + IA3_LANES <= n; i += IA3_LANES) {
        IA3_UNROLL
        for (size_t v = 0; v < IA3_VECS; v++)
            acc[v] += IA3_VEC(x, i, v);
    }
    memcpy(lanes, acc, sizeof lanes);
    for (int l = 0; i < n; i++, l++)
        lanes[l] += x[i];
    return ia3_sum16(lanes);
}

/* x > y ? x : y in each lane, as the loop over numbers does it; compilers do not find the instruction by themselves. */
IA3_INLINE ia3_vec
ia3_vec_max(ia3_vec x, ia3_vec y)
{
#if defined(__AVX512F__)
    return (ia3_vec) _mm512_max_ps((__m512) x, (__m512) y);
#elif defined(__AVX__)
    return (ia3_vec) _mm256_max_ps((__m256) x, (__m256) y);
#else
    ia3_vec_bits larger = x > y;
    return (ia3_vec) (((ia3_vec_bits) x & larger) | ((ia3_vec_bits) y & ~larger));
#endif
}

/* The largest of n > 0 numbers. */
static inline float
ia3_max(const float *x, size_t n)
{
    float m = x[0];
    size_t i = 0;
    if (n >= IA3_VEC_LANES) {
        float lanes[IA3_VEC_LANES];
        ia3_vec acc = IA3_VEC(x, 0, 0);
        for (i = IA3_VEC_LANES; i + IA3_VEC_LANES <= n; i += IA3_VEC_LANES)
            acc = ia3_vec_max(IA3_VEC(x, i, 0), acc);
        memcpy(lanes, &acc, sizeof lanes);
        for (int l = 0; l < IA3_VEC_LANES; l++)
            m = lanes[l] > m ? lanes[l] : m;
    }
    for (; i < n; i++)
        m = x[i] > m ? x[i] : m;
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
