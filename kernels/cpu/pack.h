/*
 * pack.h
 *     Packs rows of weights: the transposition that puts equal places of neighbouring rows side by side.
 *
 * All packed layouts of our own products are made of units of 32 bits: one fp32 number, a pair of bfloat16 numbers, four
 * numbers of eight bits. A strip of `width` rows has unit i of row r at strip[i·width + r].
 */
#ifndef IA3_CPU_PACK_H
#define IA3_CPU_PACK_H

#include "act.h"
#include "simd.h"

typedef uint32_t ia3_units __attribute__((vector_size(4 * IA3_VEC_LANES), aligned(4), may_alias));

/* The index lists of a step that exchanges blocks of s lanes between two vectors. */
#define IA3_SWAP_LOW(i, s)  (((i) & (s)) ? IA3_VEC_LANES + (i) - (s) : (i))
#define IA3_SWAP_HIGH(i, s) (((i) & (s)) ? IA3_VEC_LANES + (i) : (i) + (s))
#define IA3_SWAP_4(m, i, s) m(i, s), m((i) + 1, s), m((i) + 2, s), m((i) + 3, s)
#if IA3_VEC_LANES == 16
#define IA3_SWAP_ALL(m, s) IA3_SWAP_4(m, 0, s), IA3_SWAP_4(m, 4, s), IA3_SWAP_4(m, 8, s), IA3_SWAP_4(m, 12, s)
#elif IA3_VEC_LANES == 8
#define IA3_SWAP_ALL(m, s) IA3_SWAP_4(m, 0, s), IA3_SWAP_4(m, 4, s)
#else
#define IA3_SWAP_ALL(m, s) IA3_SWAP_4(m, 0, s)
#endif

/* Exchanges blocks of s lanes between vectors whose indices differ by s. */
#define IA3_SWAP_STEP(v, s)                                                                                  \
    do {                                                                                                     \
        IA3_UNROLL                                                                                           \
        for (int i = 0; i < IA3_VEC_LANES; i++)                                                              \
            if (!(i & (s))) {                                                                                \
                ia3_units a = (v)[i], b = (v)[i + (s)];                                                      \
                (v)[i] = (ia3_units) __builtin_shufflevector(a, b, IA3_SWAP_ALL(IA3_SWAP_LOW, s));           \
                (v)[i + (s)] = (ia3_units) __builtin_shufflevector(a, b, IA3_SWAP_ALL(IA3_SWAP_HIGH, s));    \
            }                                                                                                \
    } while (0)

/* Transposes a square of units: `from` has rows that are `stride` units apart, `to` has rows of `width` units. */
IA3_INLINE void
ia3_transpose(uint32_t *to, size_t width, const uint32_t *from, size_t stride)
{
    ia3_units v[IA3_VEC_LANES];
    IA3_UNROLL
    for (size_t i = 0; i < IA3_VEC_LANES; i++)
        v[i] = *(const ia3_units *) (from + i * stride);
    IA3_SWAP_STEP(v, 1);
    IA3_SWAP_STEP(v, 2);
#if IA3_VEC_LANES >= 8
    IA3_SWAP_STEP(v, 4);
#endif
#if IA3_VEC_LANES >= 16
    IA3_SWAP_STEP(v, 8);
#endif
    IA3_UNROLL
    for (size_t i = 0; i < IA3_VEC_LANES; i++)
        *(ia3_units *) (to + i * width) = v[i];
}

/* Packs n units of each of `width` rows, a multiple of the length of a vector. */
static inline void
ia3_pack_units(uint32_t *strip, size_t width, const uint32_t *rows, size_t stride, size_t n)
{
    size_t i = 0;
    for (; i + IA3_VEC_LANES <= n; i += IA3_VEC_LANES)
        for (size_t r = 0; r < width; r += IA3_VEC_LANES)
            ia3_transpose(strip + i * width + r, width, rows + r * stride + i, stride);
    for (; i < n; i++)
        for (size_t r = 0; r < width; r++)
            strip[i * width + r] = rows[r * stride + i];
}

/* Loads `columns` numbers of an act or fp32 array, followed by zeros up to `width`, a multiple of the length of a vector. */
IA3_INLINE void
ia3_load_padded(float *to, const void *from, size_t at, size_t columns, size_t width, bool bf16)
{
    if (columns == width) {
        for (size_t c = 0; c < width; c += IA3_VEC_LANES)
            *(ia3_vec *) (to + c) = ia3_vec_load_act(from, at + c, bf16);
        return;
    }
    ia3_load_act(to, from, at, columns, bf16);
    memset(to + columns, 0, (width - columns) * sizeof *to);
}

enum { IA3_MOST_WIDTH = 48 }; /* of a strip that ia3_pack_columns fills */

/*
 * Packs `columns` columns, from `at` on, of k rows, from `first` on, of bfloat16 (`from_bf16`) or fp32 numbers [.., ld] to a strip
 * of `width` columns, with zeros for the rest. Units are numbers, or with `pairs` bfloat16 numbers of two successive rows; if k is
 * odd the last ones have zeros beside them.
 */
static inline void
ia3_pack_columns(uint32_t *strip, size_t width, bool pairs, const void *rows, bool from_bf16, size_t ld,
                 size_t first, size_t at, size_t k, size_t columns)
{
    float low[IA3_MOST_WIDTH], high[IA3_MOST_WIDTH];
    __asm__(
        ""
        : "+r"(
            width)); /* unrolled for a width that the compiler knows, the rows would move through the stack */
    at += first * ld;
    if (!pairs) {
        for (size_t i = 0; i < k; i++, strip += width, at += ld)
            ia3_load_padded((float *) (void *) strip, rows, at, columns, width, from_bf16);
        return;
    }
    for (size_t i = 0; i < k; i += 2, strip += width, at += 2 * ld) {
        ia3_load_padded(low, rows, at, columns, width, from_bf16);
        if (i + 1 < k)
            ia3_load_padded(high, rows, at + ld, columns, width, from_bf16);
        else
            memset(high, 0, sizeof high);
        for (size_t c = 0; c < width; c++)
            strip[c] = ia3_f32_to_bf16(low[c]) | (uint32_t) ia3_f32_to_bf16(high[c]) << 16;
    }
}

#endif
