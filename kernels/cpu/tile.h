/*
 * tile.h
 *     Small fp32 matrix products inside attention, with the sums in registers.
 *
 *   C[i,j] = Σ_x A(i,x)·B[x,j],   A(i,x) = a.p[i·a.row + x·a.col],   B[x,j] = b[x·ldb + j]
 *
 * Rows are computed IA3_TILE_ROWS at a time and columns up to three vectors at a time: with AVX-512 8 x 48 numbers, with
 * AVX2 4 x 24. Every element of C is one sum over x in ascending order, so it does not depend on how many rows or
 * columns there are.
 */
#ifndef IA3_CPU_TILE_H
#define IA3_CPU_TILE_H

#include "simd.h"

#if defined(__AVX512F__) || defined(__aarch64__)
enum { IA3_TILE_ROWS = 8 };
#else
enum { IA3_TILE_ROWS = 4 };
#endif
enum { IA3_TILE_VECS = 3 };

typedef struct ia3_tile_a {
    const float *p;
    size_t row, col;
} ia3_tile_a;

/* Vector v from p on. */
#define IA3_AT(p, v) (*(ia3_vec *) ((p) + (v) *IA3_VEC_LANES))

/*
 * All lanes *p. With AVX2 the sums, the columns and one such vector take all sixteen registers, so gcc must not load the next
 * one ahead, which it would otherwise do.
 */
IA3_INLINE ia3_vec
ia3_tile_broadcast(const float *p)
{
#if defined(__AVX512F__)
    return (ia3_vec) _mm512_set1_ps(*p);
#elif defined(__AVX__)
    ia3_vec f;
    __asm__ volatile("vbroadcastss %1, %0" : "=x"(f) : "m"(*p));
    return f;
#else
    return (ia3_vec){*p, *p, *p, *p};
#endif
}

/* Adds the products of IA3_TILE_ROWS rows and `vecs` vectors of columns to `sum`; vecs is a constant. */
IA3_INLINE void
ia3_tile_sums(ia3_vec sum[IA3_TILE_ROWS][IA3_TILE_VECS], ia3_tile_a a, const float *b, size_t ldb, size_t k,
              const size_t vecs)
{
    const float *low = a.p, *high = a.p + 4 * a.row;
    for (size_t x = 0; x < k; x++, low += a.col, high += a.col, b += ldb) {
        ia3_vec w[IA3_TILE_VECS];
        IA3_UNROLL
        for (size_t v = 0; v < vecs; v++) {
            w[v] = *(const ia3_vec *) (b + v * IA3_VEC_LANES);
            IA3_KEEP(w[v]);
        }
        IA3_UNROLL
        for (size_t r = 0; r < IA3_TILE_ROWS; r++) {
            const ia3_vec f = ia3_tile_broadcast(r < 4 ? low + r * a.row : high + (r - 4) * a.row);
            IA3_UNROLL
            for (size_t v = 0; v < vecs; v++)
                sum[r][v] += f * w[v];
        }
    }
}

typedef enum ia3_tile_out {
    IA3_TILE_SET,  /* C = A·B */
    IA3_TILE_ADD,  /* C += A·B */
    IA3_TILE_SCALE /* C = C·scale + A·B, where scale[j] belongs to column j */
} ia3_tile_out;

typedef struct ia3_tile {
    float *c;
    size_t ldc;
    ia3_tile_a a;
    const float *b;
    size_t ldb, rows, k; /* rows: a multiple of IA3_TILE_ROWS; k > 0 */
    ia3_tile_out out;
    const float *scale;
} ia3_tile;

/* What the sums begin with. Each case has a loop of its own: clang does not unroll loops that contain the branches. */
IA3_INLINE void
ia3_tile_begin(ia3_vec sum[IA3_TILE_ROWS][IA3_TILE_VECS], const ia3_tile *t, const float *c, size_t column,
               const size_t vecs)
{
    if (t->out == IA3_TILE_SET) {
        IA3_UNROLL
        for (size_t x = 0; x < IA3_TILE_ROWS * vecs; x++)
            sum[x / vecs][x % vecs] = (ia3_vec){0};
    } else if (t->out == IA3_TILE_ADD) {
        IA3_UNROLL
        for (size_t x = 0; x < IA3_TILE_ROWS * vecs; x++)
            sum[x / vecs][x % vecs] = IA3_AT(c + x / vecs * t->ldc, x % vecs);
    } else {
        IA3_UNROLL
        for (size_t x = 0; x < IA3_TILE_ROWS * vecs; x++)
            sum[x / vecs][x % vecs] =
                IA3_AT(c + x / vecs * t->ldc, x % vecs) * IA3_AT(t->scale + column, x % vecs);
    }
}

IA3_INLINE void
ia3_tile_columns(const ia3_tile *tile, size_t column, const size_t vecs)
{
    const ia3_tile copy = *tile, *t = &copy; /* which no store to C can change */
    if (t->k == 0)
        __builtin_unreachable();
    for (size_t i = 0; i < t->rows; i += IA3_TILE_ROWS) {
        ia3_vec sum[IA3_TILE_ROWS][IA3_TILE_VECS];
        float *c = t->c + i * t->ldc + column;
        ia3_tile_begin(sum, t, c, column, vecs);
        ia3_tile_a a = {t->a.p + i * t->a.row, t->a.row, t->a.col};
        ia3_tile_sums(sum, a, t->b + column, t->ldb, t->k, vecs);
        IA3_UNROLL
        for (size_t r = 0; r < IA3_TILE_ROWS; r++)
            IA3_UNROLL
        for (size_t v = 0; v < vecs; v++)
            IA3_AT(c + r * t->ldc, v) = sum[r][v];
    }
}

/* A function per number of vectors, so that nothing but the sums and the columns is kept in registers. */
#define IA3_TILE_COLUMNS(vecs)                                                                               \
    static __attribute__((noinline)) void ia3_tile_columns_##vecs(const ia3_tile *t, size_t column)          \
    {                                                                                                        \
        ia3_tile_columns(t, column, vecs);                                                                   \
    }
IA3_TILE_COLUMNS(1)
IA3_TILE_COLUMNS(2)
IA3_TILE_COLUMNS(3)

/* The number of vectors that are computed at a time, of `left` that are left. Two groups of two are better than 3 and 1. */
IA3_INLINE size_t
ia3_tile_width(size_t left)
{
    return left == 4 ? 2 : left < IA3_TILE_VECS ? left : IA3_TILE_VECS;
}

/* Computes `vecs` vectors of columns. */
static inline void
ia3_tile_run(const ia3_tile *t, size_t vecs)
{
    static void (*const columns[])(const ia3_tile *, size_t) = {NULL, ia3_tile_columns_1, ia3_tile_columns_2,
                                                                ia3_tile_columns_3};
    for (size_t at = 0, width; at < vecs; at += width) {
        width = ia3_tile_width(vecs - at);
        columns[width](t, at * IA3_VEC_LANES);
    }
}

#endif
