/*
 * bgemm.h
 *     Products of bfloat16 rows with packed bfloat16 weights, for processors with AVX512-BF16.
 *
 * oneDNN's primitives want whole blocks of rows and write dense tiles; these products take any number of rows at
 * the same speed and write (or add) where the result belongs.
 *
 * Layout of weights B [k, n], k even: strips of IA3_STRIP columns, padded with zeros at the end; in a strip, pair
 * after pair of k, the columns' two elements beside each other: strip[(p·IA3_STRIP + column)·2 + (k & 1)], p = k/2.
 *
 * Every result is one fp32 sum over k in ascending order, pair by pair, whatever the rows and columns beside it.
 */
#ifndef IA3_CPU_BGEMM_H
#define IA3_CPU_BGEMM_H

#include "cpu.h"

enum { IA3_STRIP = 32 };

/* Whether these kernels are compiled for the instructions, and oneDNN would use nothing better (AMX) here. */
bool ia3_bgemm_available(void);

/* Bytes of packed weights [k, n]. */
static inline size_t
ia3_bgemm_bytes(int k, int n)
{
    return ((size_t) n + IA3_STRIP - 1) / IA3_STRIP * IA3_STRIP * (size_t) k * sizeof(uint16_t);
}

/* packed from B(i,j) = plain[i·row + j·col], and back. */
void ia3_bgemm_pack(uint16_t *packed, const uint16_t *plain, int k, int n, int64_t row, int64_t col);
void ia3_bgemm_unpack(uint16_t *plain, const uint16_t *packed, int k, int n, int64_t row, int64_t col);

/*
 * Strips [first, first + strips) of weights [depth, n], the sums over k elements from the one on that `a` and
 * `packed` (of strip 0) point at. Element i of row r of a lies at a[r·lda + i/2·step + (i & 1)]; step 2 is a plain
 * row. y is the address of row 0 and of the weights' column 0, with ldy elements between rows, bfloat16 for
 * IA3_OUT_ACT, else fp32. column_scale[j] and
 * row_scale[r] multiply the sums; NULL: ones.
 */
typedef struct ia3_bgemm {
    const uint16_t *a, *packed;
    size_t lda, step;
    void *y;
    size_t ldy;
    const float *column_scale, *row_scale;
    int rows, k, depth, n, first, strips;
    ia3_out out;
} ia3_bgemm;
void ia3_bgemm_run(const ia3_bgemm *g);

#endif
