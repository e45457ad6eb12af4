/*
 * bgemm.h
 *     Matrix products of bfloat16 rows with packed bfloat16 weights, for processors with AVX512-BF16.
 *
 * oneDNN's primitives take whole blocks of rows and write contiguous tiles. These functions take any number of rows
 * at the same speed and write (or add) their results directly to the destination.
 *
 * Layout of the weights B [k, n], k even: strips of IA3_STRIP columns, the last one padded with zeros. In a strip the
 * elements i and i + 1 (i even) of a column are neighbours: B(i,j) is strip[(i/2·IA3_STRIP + column)·2 + (i & 1)].
 *
 * Every result is one fp32 sum over k in ascending order, pair by pair, so it does not depend on other rows or columns.
 */
#ifndef IA3_CPU_BGEMM_H
#define IA3_CPU_BGEMM_H

#include "cpu.h"

enum { IA3_STRIP = 32 };

/* Whether this variant is compiled with AVX512-BF16 and oneDNN would not use the faster AMX on this processor. */
bool ia3_bgemm_available(void);

/* Size in bytes of packed weights [k, n]. */
static inline size_t
ia3_bgemm_bytes(int k, int n)
{
    return ((size_t) n + IA3_STRIP - 1) / IA3_STRIP * IA3_STRIP * (size_t) k * sizeof(uint16_t);
}

/* Packs B(i,j) = plain[i·row + j·col], and the inverse. */
void ia3_bgemm_pack(uint16_t *packed, const uint16_t *plain, int k, int n, int64_t row, int64_t col);
void ia3_bgemm_unpack(uint16_t *plain, const uint16_t *packed, int k, int n, int64_t row, int64_t col);

/*
 * A product with strips [first, first + strips) of weights [depth, n]. The sums are over k elements, of which `a`
 * and `packed` (in strip 0) point at the first. Element i of row r of a is a[r·lda + i/2·step + (i & 1)]; step is 2
 * for plain rows. y is the address of row 0 and column 0 of the whole result, with ldy elements from row to row,
 * bfloat16 for IA3_OUT_ACT, else fp32. The sums are multiplied by column_scale[j] and row_scale[r]; NULL means ones.
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
