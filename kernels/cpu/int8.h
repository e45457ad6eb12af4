/*
 * int8.h
 *     Products with frozen weights in eight bits: y = a·Wᵀ.
 *
 *   a·Wᵀ = (a·H)·(W·H)ᵀ / b          H: b by b Hadamard matrices along the diagonal
 *   (W·H)[j,i] ≈ b·sw[j]·w[j,i]      sw[j] = max_i |(W·H)[j,i]| / (127·b)     w rounded to nearest even
 *   (a·H)[r,i] ≈ sa[r]·q[r,i]        sa[r] = max_i |(a·H)[r,i]| / 127         likewise, at every call
 *   y[r,j] = sa[r]·sw[j]·Σ_i q[r,i]·w[j,i]
 *
 * The rotation H spreads a value that sticks out of its row (T5 has them, in the feed-forward layers above all)
 * over b values, so that it does not coarsen the steps of all others; it is exact but for rounding, costs 2% of the
 * products, and took a third off the error of scores (ia3-mini, RAFT). Blocks have the largest power of two that
 * divides k, at most 256.
 *
 * The sums are exact 32-bit integers and everything else is done in the same order everywhere, so every form of the
 * kernel gives the same bits, and a row depends neither on its neighbours nor on threads. A row with a NaN or an
 * infinity gives NaN, as does one whose rotation overflows; one whose largest value is below 2^-100 counts as zero.
 *
 * Threads: everything but packing is read-only; the driver shares out rows and panels.
 */
#ifndef IA3_CPU_INT8_H
#define IA3_CPU_INT8_H

#include "cpu.h"

enum { IA3_INT8_COLUMNS = 64 /* of a panel */, IA3_INT8_GROUP = 4 /* values of k that lie together */ };

/* Largest k: |Σ q·w| <= k·127² has to fit 31 bits. */
#define IA3_INT8_MAX_K 131072

/*
 * Weights as panels of 64 columns (outputs): data[panel][k / 4][64][4], each byte w + 128, so that processors
 * which multiply unsigned by signed bytes read them as they are. Missing columns and values of k count as zero.
 */
typedef struct ia3_int8_weight {
    int k, n, groups, n_panels; /* groups: of four values of k */
    uint8_t *data;
    float *scale; /* [n_panels · 64] */
    size_t bytes;
} ia3_int8_weight;

/* Quantised rows: q [rows, 4·groups] with zeros after k; start[r] = -128·Σ q[r], which takes out the 128 above. */
typedef struct ia3_int8_rows {
    int8_t *q;
    float *scale;
    int32_t *start;
} ia3_int8_rows;

/* One panel times some rows: y[r·ldy + j] for j < n, j counting from the panel's first column. */
typedef struct ia3_int8_product {
    const uint8_t *w;
    const float *w_scale;
    int groups, n;
    const int8_t *q;
    const float *scale;
    const int32_t *start;
    int rows;
    void *y;
    size_t ldy;
    ia3_out out;
    bool bf16;
} ia3_int8_product;

/* The kernel for one kind of processor. */
struct ia3_int8_form {
    const char *name;
    bool (*available)(void);
    /* One row of k act values to q[k_padded]; scratch [k]. */
    void (*quantize)(int8_t *q, float *scale, int32_t *start, const void *x, int k, int k_padded, bool bf16,
                     float *scratch);
    void (*product)(const ia3_int8_product *p);
};

/* All forms this build has, fastest first; the last runs anywhere. */
extern const ia3_int8_form *const ia3_int8_forms[];
extern const int ia3_int8_n_forms;

/* The first form that this processor can run. */
const ia3_int8_form *ia3_int8_best_form(void);

/* b for rows of k values. */
static inline int
ia3_int8_block(int k)
{
    int largest = k & -k;
    return largest < 256 ? largest : 256;
}

/* x[k] = x·H */
void ia3_int8_rotate(float *x, int k);

/*
 * Quantises and packs the stacked parts (see matrix_create). NULL when memory is refused or the matrix is too
 * large (IA3_E_MEMORY, IA3_E_BAD_CHECKPOINT).
 */
ia3_int8_weight *ia3_int8_weight_create(ia3_cpu *cpu, const ia3_host_tensor *parts, int n_parts,
                                        ia3_error *err);
void ia3_int8_weight_free(ia3_cpu *cpu, ia3_int8_weight *w);

/* Quantises act rows [rows, w->k] for products with w, on all threads; memory from the arena. */
ia3_int8_rows ia3_int8_quantize(ia3_cpu *cpu, const ia3_int8_weight *w, const void *a, int rows);

/* Columns [64·first, 64·(first + panels)) for the rows [row, row + rows) on the calling thread. */
void ia3_int8_panels(const ia3_cpu *cpu, const ia3_int8_weight *w, int first, int panels,
                     const ia3_int8_rows *a, int row, int rows, void *y, size_t ldy, ia3_out out);

/* y (or +=) a·Wᵀ like the device's matmul. */
void ia3_int8_matmul(ia3_cpu *cpu, const ia3_int8_weight *w, void *y, const void *a, int rows, ia3_out out);

#endif
