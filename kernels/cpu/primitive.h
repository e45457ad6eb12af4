/*
 * primitive.h
 *     oneDNN matrix products with prepacked weights, cached by shape: bfloat16 where oneDNN is faster than our own code.
 *
 * Any number of rows is covered by blocks of 64, 32, 16, 8 and 4 rows, so that a shape needs few primitives
 * (creating one takes almost a millisecond). The order of summation does not depend on the size of the block, so a
 * row's result does not depend on its neighbours. That holds only where oneDNN has a packed layout for the weights;
 * bfloat16 shapes without one, and all of float32, are multiplied by fgemm.h.
 */
#ifndef IA3_CPU_PRIMITIVE_H
#define IA3_CPU_PRIMITIVE_H

#include "cpu.h"

enum { IA3_N_BLOCKS = 5, IA3_MAX_BLOCK = 64, IA3_MIN_BLOCK = 4 };
static const int ia3_block_rows[IA3_N_BLOCKS] = {64, 32, 16, 8, 4};

/* One primitive with the memory objects for running it on each thread. */
typedef struct ia3_product {
    dnnl_primitive_t primitive;
    size_t scratchpad;
    dnnl_memory_t *src, *dst, *pad; /* [threads] */
} ia3_product;

/* A shape of weights [k, n]: their packed layout and the primitives that multiply by them. */
struct ia3_shape {
    int k, n;
    bool own;      /* bgemm.h multiplies this shape, not oneDNN: `weights` and `products` are unused */
    bool portable; /* fgemm.h multiplies it, likewise */
    bool bf16;     /* the weights are bfloat16; for fgemm.h */
    ia3_md weights;
    ia3_product *products[3][IA3_N_BLOCKS]; /* by ia3_out and block; created when first needed */
    ia3_shape *next;
};

/* A block of columns of a matrix, packed. */
typedef struct ia3_panel {
    int n0, n;
    bool backward; /* belongs to a backward pack, which exists only during training */
    ia3_shape *shape;
    void *data;
    dnnl_memory_t memory;
} ia3_panel;

/* Returns the shape [k, n], creating it if it does not exist yet. */
ia3_shape *ia3_shape_get(ia3_cpu *cpu, int k, int n);
void ia3_shapes_free(ia3_cpu *cpu);

/*
 * Returns the primitive for a block, creating it if necessary. Not thread-safe: the thread that calls a kernel
 * creates the primitives before it hands the job to the pool. Aborts with a message when oneDNN fails, which after
 * ia3_shape_get can only be for lack of memory.
 */
ia3_product *ia3_product_get(ia3_cpu *cpu, ia3_shape *shape, ia3_out out, int block);

/* Computes dst = src·panel (or +=) on thread `slot`: src [rows of the block, k], dst [rows, panel->n], contiguous. */
void ia3_product_run(ia3_cpu *cpu, ia3_product *p, int slot, const ia3_panel *panel, const void *src,
                     void *dst, void *scratchpad);

/* Allocates the memory of a panel that oneDNN does not multiply. False, with panel->data NULL, when it is refused. */
bool ia3_panel_alloc(ia3_cpu *cpu, ia3_panel *panel);

/*
 * Packs the panel's weights from a plain array: B(i,j) = plain[i·row + j·col] for i < k and j < n, in elements.
 * False, with panel->data NULL, when memory is refused.
 */
bool ia3_panel_pack(ia3_cpu *cpu, ia3_panel *panel, int slot, const void *plain, int64_t row, int64_t col);
/* Packs other weights into a panel that has been packed. Aborts with a message when oneDNN fails, which is for lack of memory. */
void ia3_panel_repack(ia3_cpu *cpu, const ia3_panel *panel, int slot, const void *plain, int64_t row,
                      int64_t col);
/* Copies the panel's weights back to a plain array, which is addressed in the same way. */
bool ia3_panel_unpack(ia3_cpu *cpu, const ia3_panel *panel, int slot, void *plain, int64_t row, int64_t col);
void ia3_panel_free(ia3_cpu *cpu, ia3_panel *panel);
size_t ia3_panel_bytes(const ia3_panel *panel);

#endif
