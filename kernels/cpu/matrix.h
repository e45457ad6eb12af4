/*
 * matrix.h
 *     Frozen weights of the CPU device: packs of column panels, forward and backward.
 */
#ifndef IA3_CPU_MATRIX_H
#define IA3_CPU_MATRIX_H

#include "int8.h"
#include "primitive.h"

/*
 * B [k, n] of products a·B, as panels of columns. Up to IA3_ONE_PANEL columns make one panel, whose products are
 * written where they belong; wider matrices have panels of IA3_PANEL columns, so that few rows can still be
 * shared out among threads and the vocabulary can be walked in pieces.
 */
typedef struct ia3_pack {
    int k, n, n_panels;
    ia3_panel *panels; /* NULL: not built */
    size_t bytes;
} ia3_pack;

enum { IA3_ONE_PANEL = 1024, IA3_PANEL = 512 };

typedef struct ia3_cpu_matrix {
    ia3_matrix base;
    ia3_pack fwd;          /* [in, out] */
    ia3_pack bwd;          /* [out, in] */
    ia3_int8_weight *int8; /* the weights in eight bits, or NULL; fwd's panels then have no data */
} ia3_cpu_matrix;

/*
 * y (or +=) a·B for the rows [0, rows): a act [rows, k], y [rows, n] of the type that `out` says, both
 * contiguous. Divides the work among the threads.
 */
void ia3_gemm(ia3_cpu *cpu, const ia3_pack *pack, void *y, const void *a, int rows, ia3_out out);

/* Memory that ia3_gemm_panel needs on each thread; makes the primitives it will use. */
size_t ia3_gemm_scratch(ia3_cpu *cpu, const ia3_pack *pack, ia3_out out, int rows);

/*
 * One panel for rows [begin, end) on thread `slot`; `scratch` is 64-byte aligned with ia3_gemm_scratch() bytes.
 * Row r of the result goes to y[(r - begin_y)·ldy + column]; y is the address of row `begin`, column panel->n0.
 */
void ia3_gemm_panel(ia3_cpu *cpu, const ia3_panel *panel, int slot, void *y, size_t ldy, const void *a,
                    int rows, ia3_out out, void *scratch);

/* Rows [first, first + n) of the stacked parts, all of the same width, to dst as bfloat16 or fp32. */
void ia3_convert_rows(void *dst, const ia3_host_tensor *parts, int n_parts, int64_t first, int64_t n,
                      bool bf16);

#endif
