/*
 * cuda.h
 *     The CUDA device's state, and the functions that its files call in one another.
 *
 * There is one stream, so operations run in the order in which they are called. Kernels get pointers to device memory,
 * and structures (ia3_attention, ia3_gated and others) by value. Results are deterministic: there are no floating-point
 * atomics, and the order of every summation is fixed.
 *
 * Threads: one thread at a time calls operations, alloc and the create functions; any thread may call free and
 * memory_used.
 */
#ifndef IA3_CUDA_H
#define IA3_CUDA_H

#include "portable.cuh"

extern "C" {
#include "engine/base/half.h"
#include "engine/base/rng.h"
#include "engine/device/device.h"
}

#include "gemm.h"

#define IA3_CUDA_ALIGN 256

static inline size_t
ia3_cuda_align(size_t n)
{
    return (n + IA3_CUDA_ALIGN - 1) / IA3_CUDA_ALIGN * IA3_CUDA_ALIGN;
}

typedef struct ia3_cuda_chunk {
    char *data;
    size_t start, capacity; /* start: position of data[0], counted in bytes over all chunks */
    size_t lost;            /* bytes before `start` that are unused ends of chunks */
} ia3_cuda_chunk;

struct ia3_cuda_memory; /* memory.cu */

typedef struct ia3_cuda {
    ia3_device base;
    bool bf16;       /* act is bfloat16 */
    size_t act_size; /* bytes of an act element */
    int index;       /* which GPU */
    cudaStream_t stream;
    ia3_cuda_gemm *gemm;
    /* IA3_CUDA_PRODUCTS, to look for the cause of an error: only our kernel; name what cuBLASLt refuses on stderr */
    bool plain, report;
    void *workspace; /* memory that gemm works in */
    struct ia3_cuda_memory *memory;
} ia3_cuda;

/* A weight: a plain row-major act array [out, in]. */
typedef struct ia3_cuda_matrix {
    ia3_matrix base;
    void *data;
} ia3_cuda_matrix;

/*
 * If `status` is an error, ends the process with CUDA's message and exit status 1, because the CUDA context is then
 * lost for good and only a new process can create another. Such an error is the fault of the device or of this program,
 * never of a request. Copies, launches, matrix products and allocations are all checked by this; the only exception is
 * an allocation that fails for lack of memory.
 */
void ia3_cuda_check(ia3_cuda *cuda, cudaError_t status, const char *what);
void ia3_cuda_launched(cudaError_t status, const char *kernel);

/* memory.cu */
bool ia3_cuda_memory_open(ia3_cuda *cuda, size_t limit, ia3_error *err);
void ia3_cuda_memory_close(ia3_cuda *cuda);
void *ia3_cuda_alloc(ia3_device *dev, size_t bytes);
void ia3_cuda_free(ia3_device *dev, void *p);
void *ia3_cuda_arena_alloc(ia3_device *dev, size_t bytes);
size_t ia3_cuda_arena_mark(ia3_device *dev);
void ia3_cuda_arena_release(ia3_device *dev, size_t mark);
void ia3_cuda_arena_trim(ia3_device *dev, size_t keep);
void ia3_cuda_upload(ia3_device *dev, void *dst, const void *src, size_t bytes);
void ia3_cuda_download(ia3_device *dev, void *dst, const void *src, size_t bytes);
void ia3_cuda_zero(ia3_device *dev, void *p, size_t bytes);
void ia3_cuda_copy(ia3_device *dev, void *dst, const void *src, size_t bytes);
size_t ia3_cuda_memory_used(ia3_device *dev);
/* Fills err with IA3_E_MEMORY, saying that `bytes` bytes for `what` could not be allocated; returns false. */
bool ia3_cuda_no_memory(ia3_cuda *cuda, ia3_error *err, const char *what, size_t bytes);

/* weights.cu */
ia3_matrix *ia3_cuda_matrix_create(ia3_device *dev, const ia3_host_tensor *parts, int n_parts,
                                   ia3_error *err);
void ia3_cuda_matrix_free(ia3_device *dev, ia3_matrix *m);
bool ia3_cuda_matrix_prepare_backward(ia3_device *dev, ia3_matrix *m, ia3_error *err);
void ia3_cuda_matrix_release_backward(ia3_device *dev, ia3_matrix *m);
void *ia3_cuda_table_create(ia3_device *dev, const ia3_host_tensor *t, ia3_error *err);
float *ia3_cuda_vector_create(ia3_device *dev, const ia3_host_tensor *t, ia3_error *err);
ia3_matrix *ia3_cuda_matrix_from_values(ia3_device *dev, const float *values, int out, int in,
                                        ia3_error *err);
void *ia3_cuda_table_from_values(ia3_device *dev, const float *values, int rows, int cols, ia3_error *err);
void ia3_cuda_matrix_update(ia3_device *dev, ia3_matrix *m, const float *values);
void ia3_cuda_table_update(ia3_device *dev, void *table, const float *values, size_t n);

/* plain_product.cu: the product of ia3_cuda_gemm_run with a kernel of ours, for what cuBLASLt refuses. */
void ia3_cuda_plain_product(ia3_cuda *cuda, void *y, const void *a, const void *w, int rows, int n, int k,
                            ia3_cuda_gemm_form form, ia3_out out);

/* The operations of device.h */
void ia3_cuda_matmul(ia3_device *dev, void *y, const void *a, int rows, ia3_matrix *w, ia3_out out);
void ia3_cuda_matmul_bwd(ia3_device *dev, void *da, const void *dy, int rows, ia3_matrix *w, ia3_out out);
void ia3_cuda_embed(ia3_device *dev, float *x, const int32_t *ids, int rows, int d, const void *table);
void ia3_cuda_add_norm(ia3_device *dev, void *out, float *rstd, float *sum, const float *x, const float *y,
                       ia3_dropout drop, const float *w, int rows, int d, float eps);
void ia3_cuda_norm_bwd_drop(ia3_device *dev, float *dx, void *dy, const float *x, const float *w,
                            const float *rstd, ia3_dropout drop, int rows, int d);
void ia3_cuda_rmsnorm(ia3_device *dev, void *y, float *rstd, const float *x, const float *w, int rows, int d,
                      float eps);
void ia3_cuda_rmsnorm_bwd(ia3_device *dev, float *dx, const void *dy, const float *x, const float *w,
                          const float *rstd, int rows, int d);
void ia3_cuda_add_dropout(ia3_device *dev, float *x, const float *y, int rows, int d, ia3_dropout drop);
void ia3_cuda_dropout_f32(ia3_device *dev, float *y, const float *x, int rows, int d, ia3_dropout drop);
void ia3_cuda_dropout_act(ia3_device *dev, void *y, const void *x, int rows, int d, ia3_dropout drop);
void ia3_cuda_dropout_f32_to_act(ia3_device *dev, void *y, const float *x, int rows, int d, ia3_dropout drop);
void ia3_cuda_attention(ia3_device *dev, const ia3_attention *a);
void ia3_cuda_attention_bwd(ia3_device *dev, const ia3_attention *a, const ia3_attention_grad *g);
void ia3_cuda_gated_act(ia3_device *dev, void *h, const void *g, int rows, const ia3_gated *p);
void ia3_cuda_gated_act_bwd(ia3_device *dev, void *dg, const void *dh, const void *g, int rows,
                            const ia3_gated *p, ia3_scale_grad grad);
void ia3_cuda_vocab_logprobs(ia3_device *dev, float *lp, float *lse, const void *h, int rows,
                             ia3_matrix *head, float scale, const int32_t *pair_offsets,
                             const int32_t *tokens);
void ia3_cuda_vocab_logprobs_bwd(ia3_device *dev, float *dh, float *dhead, const float *dlp, const float *lse,
                                 const void *h, int rows, ia3_matrix *head, float scale,
                                 const int32_t *pair_offsets, const int32_t *tokens);
void ia3_cuda_adafactor(ia3_device *dev, const ia3_adafactor *jobs, int n_jobs);
void ia3_cuda_matmul_grad(ia3_device *dev, float *dw, const void *dy, const void *a, int rows, int out,
                          int in);
void ia3_cuda_embed_grad(ia3_device *dev, float *dtable, const float *dx, const int32_t *ids, int rows,
                         int d);
void ia3_cuda_rmsnorm_grad(ia3_device *dev, float *dw, const void *dy, const float *x, const float *rstd,
                           int rows, int d);
void ia3_cuda_bias_expand(ia3_device *dev, float *bias, const float *table, const int32_t *bucket_of,
                          int n_heads, int span);
void ia3_cuda_bias_table_grad(ia3_device *dev, float *dtable, const float *dbias, const int32_t *bucket_of,
                              int n_buckets, int n_heads, int span);
void ia3_cuda_mask_grad(ia3_device *dev, float *grads, const uint32_t *mask, size_t n);
void ia3_cuda_add_squares(ia3_device *dev, float *sums, const float *grads, size_t n);
void ia3_cuda_scatter_add(ia3_device *dev, float *values, const int32_t *indices, const float *deltas,
                          size_t n);
void ia3_cuda_add_row(ia3_device *dev, void *y, const float *b, int rows, int cols, ia3_out out);
void ia3_cuda_add_row_bwd(ia3_device *dev, float *db, const void *dy, int rows, int cols);
void ia3_cuda_scale_row(ia3_device *dev, void *y, const float *s, int rows, int cols);
void ia3_cuda_scale_row_bwd(ia3_device *dev, void *dy, float *ds, const void *y, const float *s, int rows,
                            int cols);
void ia3_cuda_multiply(ia3_device *dev, float *y, const float *a, const float *b, const ia3_products *p);
void ia3_cuda_low_rank(ia3_device *dev, void *y, const void *x, int rows, const ia3_low_rank *l, ia3_out out);
void ia3_cuda_low_rank_bwd(ia3_device *dev, void *dx, float *da, float *db, const void *dy, const void *x,
                           int rows, const ia3_low_rank *l, ia3_out out);
void ia3_cuda_bottleneck(ia3_device *dev, float *y, int rows, const ia3_bottleneck *b);
void ia3_cuda_bottleneck_bwd(ia3_device *dev, void *dy, const ia3_bottleneck_grad *g, const float *y,
                             int rows, const ia3_bottleneck *b);
void ia3_cuda_phm(ia3_device *dev, float *y, int rows, const ia3_phm_bottleneck *b);
void ia3_cuda_phm_bwd(ia3_device *dev, void *dy, const ia3_phm_bottleneck_grad *g, const float *y, int rows,
                      const ia3_phm_bottleneck *b);
void ia3_cuda_put_rows(ia3_device *dev, void *y, const float *x, const ia3_row_places *p);
void ia3_cuda_put_rows_bwd(ia3_device *dev, float *dx, void *dy, const ia3_row_places *p);
void ia3_cuda_dense(ia3_device *dev, float *y, const float *x, int rows, const ia3_dense *l);
void ia3_cuda_dense_bwd(ia3_device *dev, float *dx, const ia3_dense_grad *g, float *dy, const float *y,
                        const float *x, int rows, const ia3_dense *l);

/* --- dropout masks (rng.h) --- */

typedef struct ia3_cuda_mask {
    bool on;
    uint32_t threshold;
    float keep; /* 1/(1-p), the multiplier of elements that survive */
} ia3_cuda_mask;

static inline ia3_cuda_mask
ia3_cuda_mask_of(const ia3_dropout *d)
{
    ia3_cuda_mask m = {d->p > 0.0f && d->row_key != NULL, 0, 1.0f};
    if (m.on) {
        m.threshold = ia3_dropout_threshold(d->p);
        m.keep = 1.0f / (1.0f - d->p);
    }
    return m;
}

/* Says which of the columns col .. col + 3 survive, where col is a multiple of 4: bit i is for column col + i. */
IA3_DEV uint32_t
ia3_mask_bits(const ia3_cuda_mask *m, uint64_t key, uint32_t site, uint32_t col)
{
    const uint32_t counter[4] = {col >> 2, site, (uint32_t) key, (uint32_t) (key >> 32)};
    uint32_t out[4];
    ia3_philox(counter, out);
    return (uint32_t) (out[0] >= m->threshold) | (uint32_t) (out[1] >= m->threshold) << 1 |
           (uint32_t) (out[2] >= m->threshold) << 2 | (uint32_t) (out[3] >= m->threshold) << 3;
}

#endif
