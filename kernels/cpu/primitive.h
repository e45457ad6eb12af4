/*
 * primitive.h
 *     oneDNN matrix products with prepacked weights, cached by shape.
 *
 * A product of any number of rows is put together from blocks of 64, 32, 16, 8 and 4 rows, so that a shape needs
 * few primitives (making one takes a good part of a millisecond). The order of summation does not depend on the
 * block, hence a row's result does not depend on its neighbours. That is so where oneDNN has a packed layout for the
 * weights; shapes for which it has none are multiplied by fgemm.h.
 */
#ifndef IA3_CPU_PRIMITIVE_H
#define IA3_CPU_PRIMITIVE_H

#include "cpu.h"

enum { IA3_N_BLOCKS = 5, IA3_MAX_BLOCK = 64, IA3_MIN_BLOCK = 4 };
static const int ia3_block_rows[IA3_N_BLOCKS] = {64, 32, 16, 8, 4};

/* One primitive and, per thread, the memory objects it is executed with. */
typedef struct ia3_product {
    dnnl_primitive_t primitive;
    size_t scratchpad;
    dnnl_memory_t *src, *dst, *pad; /* [threads] */
} ia3_product;

/* Products with weights [k, n]: the packed layout and the primitives that read it. */
struct ia3_shape {
    int k, n;
    bool own;      /* multiplied by bgemm.h, without oneDNN: no weights, no products */
    bool portable; /* likewise by fgemm.h */
    bool bf16;
    ia3_md weights;
    ia3_product *products[3][IA3_N_BLOCKS]; /* by ia3_out and block; made when first needed */
    ia3_shape *next;
};

/* A block of columns of a matrix, packed. */
typedef struct ia3_panel {
    int n0, n;
    bool backward; /* of a pack that comes and goes with training */
    ia3_shape *shape;
    void *data;
    dnnl_memory_t memory;
} ia3_panel;

/* The shape [k, n], made when new. */
ia3_shape *ia3_shape_get(ia3_cpu *cpu, int k, int n);
void ia3_shapes_free(ia3_cpu *cpu);

/*
 * The primitive for a block. Not thread-safe: the caller of a kernel makes what its job will need. Aborts with a
 * message when oneDNN refuses, which ia3_shape_get has excluded but for lack of memory.
 */
ia3_product *ia3_product_get(ia3_cpu *cpu, ia3_shape *shape, ia3_out out, int block);

/* dst[rows of the block, panel->n] dense = (or +=) src[rows, k]·panel, on thread `slot` with its scratchpad. */
void ia3_product_run(ia3_cpu *cpu, ia3_product *p, int slot, const ia3_panel *panel, const void *src,
                     void *dst, void *scratchpad);

/*
 * Packs the panel's weights from a plain array, B(i,j) = plain[i·row + j·col] with i < k and j < n in elements.
 * NULL data in case of failure.
 */
bool ia3_panel_pack(ia3_cpu *cpu, ia3_panel *panel, int slot, const void *plain, int64_t row, int64_t col);
/* The inverse. */
bool ia3_panel_unpack(ia3_cpu *cpu, const ia3_panel *panel, int slot, void *plain, int64_t row, int64_t col);
void ia3_panel_free(ia3_cpu *cpu, ia3_panel *panel);
size_t ia3_panel_bytes(const ia3_panel *panel);

#endif
