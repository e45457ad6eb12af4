/*
 * fgemm.h
 *     Matrix products of rows with packed weights by fp32 multiply-adds, for every processor and both dtypes.
 *
 * They are used for fp32, and for weights in bfloat16 on processors without instructions for it. Such weights are widened
 * block by block; the results are, bit for bit, those of fp32 weights with the same values. Weights are packed once, any number of rows is possible,
 * and every result is a sum over k in ascending order, which does not depend on the number of rows.
 *
 * Layout of the weights B [k, n]: strips of IA3_FSTRIP columns, the last one padded with zeros. For fp32, B(i,j) is
 * strip[i·IA3_FSTRIP + column]. For bfloat16 the elements i and i + 1 (i even) of a column are neighbours:
 * strip[(i/2·IA3_FSTRIP + column)·2 + (i & 1)]; an odd k is padded with a row of zeros.
 */
#ifndef IA3_CPU_FGEMM_H
#define IA3_CPU_FGEMM_H

#include "matrix.h"
#include "simd.h"

/* A strip is as wide as a tile (fgemm.c). */
#if defined(__aarch64__)
enum { IA3_FSTRIP = 4 * IA3_VEC_LANES };
#else
enum { IA3_FSTRIP = 2 * IA3_VEC_LANES };
#endif

/* Size in bytes of packed weights [k, n]. */
size_t ia3_fgemm_bytes(int k, int n, bool bf16);

/* Size in bytes of a strip of `width` columns, here and in bgemm.h. */
static inline size_t
ia3_fgemm_strip_bytes(int k, int width, bool bf16)
{
    return (size_t) (bf16 ? (k + (k & 1)) * 2 : k * 4) * (size_t) width;
}

/* Packs B(i,j) = plain[i·row + j·col], bfloat16 or fp32 elements, and the inverse. */
void ia3_fgemm_pack(void *packed, const void *plain, int k, int n, int64_t row, int64_t col, bool bf16);
void ia3_fgemm_unpack(void *plain, const void *packed, int k, int n, int64_t row, int64_t col, bool bf16);

/* Size in bytes of the scratch memory that ia3_fgemm_panel needs for `rows` rows. */
size_t ia3_fgemm_scratch(const ia3_cpu *cpu, int k, int rows);

/* ia3_gemm_panel and ia3_gemm (matrix.h) for panels whose shape is `portable`. */
void ia3_fgemm_panel(const ia3_cpu *cpu, const ia3_panel *panel, void *y, size_t ldy, const void *a, int rows,
                     ia3_out out, void *scratch);
void ia3_fgemm(ia3_cpu *cpu, const ia3_pack *pack, void *y, const void *a, int rows, ia3_out out);

#endif
