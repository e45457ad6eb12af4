/*
 * int8.h
 *     Matrix products with frozen weights in eight bits: y = a·Wᵀ.
 *
 *   a·Wᵀ = (a·H)·(W·H)ᵀ / b          H: b by b Hadamard matrices along the diagonal
 *   (W·H)[j,i] ≈ b·sw[j]·w[j,i]      sw[j] = max(|x| of x = (W·H)[j,i] or (W·H)[j,2i] + (W·H)[j,2i+1]) / (127·b)
 *                                    w: integers, rounded to nearest even
 *   (a·H)[r,i] ≈ sa[r]·q[r,i]        sa[r] = max_i |(a·H)[r,i]| / 127         q: likewise, computed at every call
 *   y[r,j] = sa[r]·sw[j]·Σ_i q[r,i]·w[j,i]
 *
 * The sums in the definition of sw mean that two weights w[j,2i] and w[j,2i+1] of one sign have a sum of at most 128 (127, and
 * one for rounding). 255 times that fits in 16 bits, so vpmaddubsw, which adds products of bytes in pairs to 16 bits,
 * never saturates. For normally distributed weights and k = 768 this makes the steps of the rounding 1.3 times as large.
 *
 * The rotation H spreads an outlier (T5's activations have them, above all in the feed-forward layers) over b
 * values; otherwise it would make the quantisation of its whole row coarser. The rotation is exact except for
 * rounding, takes 2% of the time of the products (with VNNI up to 10%), and reduced the error of scores by a third (ia3-mini on RAFT). b
 * is the largest power of two that divides k, but at most 256.
 *
 * The sums are exact 32-bit integers and all other operations are done in the same order everywhere, so all forms of
 * the kernel return identical bits, and the result of a row depends neither on other rows nor on the number of
 * threads. A row that contains a NaN or an infinity, or whose rotation overflows, results in NaN; a row whose largest
 * absolute value is below 2^-100 counts as zero.
 *
 * Threads: ia3_int8_weight_create, ia3_int8_quantize and ia3_int8_matmul use all threads; the rest runs on the
 * calling thread and changes nothing but its results.
 */
#ifndef IA3_CPU_INT8_H
#define IA3_CPU_INT8_H

#include "cpu.h"

enum {
    IA3_INT8_COLUMNS = 32 /* of a panel */,
    IA3_INT8_GROUP = 4 /* values of k that are stored together */
};

/* The largest k: |Σ (q + 128)·w| <= k/2·255·128 has to fit in 31 bits. */
#define IA3_INT8_MAX_K 131072

/*
 * Weights in panels of 32 columns (outputs): data[panel][k / 4][32][4]. Padding, both columns and values of k, is zero.
 * x86-64 multiplies unsigned by signed bytes, so rows are stored as q + 128; start[j] = -128·Σ w[j] makes up for it.
 */
typedef struct ia3_int8_weight {
    int k, n, groups, n_panels; /* groups: of four values of k */
    int8_t *data;
    float *scale;   /* [n_panels · 32] */
    int32_t *start; /* likewise */
    size_t bytes;
} ia3_int8_weight;

/* Quantised rows: q + 128 [rows, 4·groups], or q for forms that multiply signed bytes; zeros beyond k. */
typedef struct ia3_int8_rows {
    uint8_t *q;
    float *scale;
} ia3_int8_rows;

/* The product of some rows by one panel: y[r·ldy + j] for j < n, where j = 0 is the panel's first column. */
typedef struct ia3_int8_product {
    const int8_t *w, *next; /* next: the panel that will be multiplied after this one, to be fetched */
    const float *w_scale;   /* [32] */
    const int32_t *start;   /* [32] */
    int groups, n;
    const uint8_t *q;
    const float *scale;
    int rows;
    void *y;
    size_t ldy;
    ia3_out out;
    bool bf16;
} ia3_int8_product;

/* The kernel for one kind of processor: "form" is used for this here, "variant" for the builds of isa.h. */
struct ia3_int8_form {
    const char *name;
    uint8_t zero; /* what stands for 0 in a quantised row: 128, or 0 if the form multiplies signed bytes */
    bool (*available)(void);
    /* Quantises one row of k act values to q[k_padded]; scratch [k]. */
    void (*quantize)(uint8_t *q, float *scale, const void *x, int k, int k_padded, bool bf16, float *scratch);
    void (*product)(const ia3_int8_product *p);
};

/* All forms of this build, the fastest first; the last one runs on every processor. */
extern const ia3_int8_form *const ia3_int8_forms[];
extern const int ia3_int8_n_forms;

/* The fastest form that this processor can run. */
const ia3_int8_form *ia3_int8_best_form(void);

/* The size b of the rotation's blocks for rows of k values. */
static inline int
ia3_int8_block(int k)
{
    int largest = k & -k;
    return largest < 256 ? largest : 256;
}

/* x = x·H in place, x [k] */
void ia3_int8_rotate(float *x, int k);

/*
 * Quantises and packs the stacked parts (see matrix_create). NULL with IA3_E_MEMORY when memory is refused, with
 * IA3_E_BAD_CHECKPOINT when the matrix is empty or too large.
 */
ia3_int8_weight *ia3_int8_weight_create(ia3_cpu *cpu, const ia3_host_tensor *parts, int n_parts,
                                        ia3_error *err);
void ia3_int8_weight_free(ia3_cpu *cpu, ia3_int8_weight *w);

/* Rows of fp32 values whose norm (rmsnorm, with weights w and eps) is to be quantised. */
typedef struct ia3_int8_norm {
    const float *w;
    float eps;
} ia3_int8_norm;

/*
 * Quantises act rows [rows, w->k], or the norm of fp32 rows unless `norm` is NULL, for products with w, on all threads. The
 * result is in the arena.
 */
ia3_int8_rows ia3_int8_quantize(ia3_cpu *cpu, const ia3_int8_weight *w, const void *a, int rows,
                                const ia3_int8_norm *norm);

/*
 * Computes columns [32·first, 32·(first + panels)) of the product for rows [row, row + rows) of a, on the calling
 * thread. y is the address of the first of these rows and columns; rows of y are ldy elements apart. Panel `next` is the one
 * that will be multiplied after these; it is fetched meanwhile.
 */
void ia3_int8_panels(const ia3_cpu *cpu, const ia3_int8_weight *w, int first, int panels, int next,
                     const ia3_int8_rows *a, int row, int rows, void *y, size_t ldy, ia3_out out);

/* y = a·Wᵀ (or +=), as the device's matmul does it: a act [rows, k], y [rows, n], contiguous. */
void ia3_int8_matmul(ia3_cpu *cpu, const ia3_int8_weight *w, void *y, const void *a, int rows, ia3_out out);

/*
 * The device's norm_matmul: y = rmsnorm(x)·Wᵀ, or gated_act of that if `gated` is not NULL. The latter needs
 * ia3_int8_gates.
 */
void ia3_int8_norm_matmul(ia3_cpu *cpu, const ia3_int8_weight *w, void *y, const float *x,
                          const ia3_int8_norm *norm, int rows, const ia3_gated *gated);
bool ia3_int8_gates(const ia3_int8_weight *w, const ia3_gated *gated);

#endif
