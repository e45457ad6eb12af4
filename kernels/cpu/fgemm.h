/*
 * fgemm.h
 *     Products of rows with packed weights by fp32 multiply-adds, for any processor and both dtypes.
 *
 * Used where oneDNN would take the weights as they are (its "gemm:jit": fp32 without AVX-512, bfloat16 without
 * instructions for it, everything on arm64). That path packs weights anew at every call and divides k by the number
 * of rows, so that a row's result would depend on its neighbours; this one packs once, takes any number of rows, and
 * every result is a sum over k in ascending order. What the processor multiplies bfloat16 with makes no difference.
 *
 * Layout of weights B [k, n]: strips of IA3_FSTRIP columns, padded with zeros at the end. fp32: in a strip row after
 * row, strip[i·IA3_FSTRIP + column]. bfloat16: pair after pair of k, the columns' two elements beside each other,
 * strip[(i/2·IA3_FSTRIP + column)·2 + (i & 1)]; an odd k is padded with a row of zeros.
 */
#ifndef IA3_CPU_FGEMM_H
#define IA3_CPU_FGEMM_H

#include "matrix.h"

enum { IA3_FSTRIP = 32 };

/* Bytes of packed weights [k, n]. */
size_t ia3_fgemm_bytes(int k, int n, bool bf16);

/* packed from B(i,j) = plain[i·row + j·col], elements of the dtype, and back. */
void ia3_fgemm_pack(void *packed, const void *plain, int k, int n, int64_t row, int64_t col, bool bf16);
void ia3_fgemm_unpack(void *plain, const void *packed, int k, int n, int64_t row, int64_t col, bool bf16);

/* Bytes of scratch memory that ia3_fgemm_panel needs for `rows` rows. */
size_t ia3_fgemm_scratch(const ia3_cpu *cpu, int k, int rows);

/* ia3_gemm_panel and ia3_gemm (matrix.h) for panels whose shape is `portable`. */
void ia3_fgemm_panel(const ia3_cpu *cpu, const ia3_panel *panel, void *y, size_t ldy, const void *a, int rows,
                     ia3_out out, void *scratch);
void ia3_fgemm(ia3_cpu *cpu, const ia3_pack *pack, void *y, const void *a, int rows, ia3_out out);

#endif
