/*
 * cpu.h
 *     The CPU device's state, and the functions that its files call in one another.
 *
 * Threads: only one thread at a time calls the operations of device.h; alloc, free and memory_used may be called
 * from any thread. The calling thread takes scratch memory from the arena before it hands a job to the pool,
 * because only that thread may jump to dev->oom.
 */
#ifndef IA3_CPU_H
#define IA3_CPU_H

#include <pthread.h>
#include <stdatomic.h>

#include "engine/base/rng.h"
#include "engine/device/device.h"
#include "onednn_compat.h"
#include "threads.h"

#define IA3_ALIGN 64

static inline size_t
ia3_align_up(size_t n)
{
    return (n + IA3_ALIGN - 1) / IA3_ALIGN * IA3_ALIGN;
}

typedef struct ia3_slab ia3_slab; /* slab.c */

typedef struct ia3_arena_chunk {
    char *data;
    size_t start, capacity; /* start: position of data[0], counted in bytes over all chunks */
} ia3_arena_chunk;

typedef struct ia3_arena {
    ia3_arena_chunk *chunks;
    int n_chunks, current; /* current: the chunk that `top` lies in */
    size_t top;            /* position of the next free byte */
} ia3_arena;

typedef struct ia3_shape ia3_shape;         /* primitive.h */
typedef struct ia3_int8_form ia3_int8_form; /* int8.h */

typedef struct ia3_cpu {
    ia3_device base;
    ia3_pool *pool;
    int threads;
    bool bf16;          /* act is bfloat16, which the processor multiplies */
    bool own_bf16;      /* ... and bgemm.h computes the matrix products */
    bool weights_bf16;  /* the embedding, and matrices that are not in eight bits, are stored in bfloat16 */
    size_t act_size;    /* bytes of an act element */
    size_t weight_size; /* bytes of an element of the embedding and of these matrices */
    atomic_size_t used;
    size_t limit;
    pthread_mutex_t slab_mutex;
    ia3_slab *slabs[2]; /* forward and backward weights */
    ia3_arena arena;
    dnnl_engine_t engine;
    dnnl_stream_t *streams;    /* [threads] */
    ia3_shape *shapes;         /* cache of oneDNN primitives */
    const ia3_int8_form *int8; /* the kernel for weights kept in eight bits; NULL: they are not */
} ia3_cpu;

/* memory.c. ia3_cpu_alloc returns NULL when the memory limit is reached or the system has no memory. */
void *ia3_cpu_alloc(ia3_device *dev, size_t bytes);
void ia3_cpu_free(ia3_device *dev, void *p);
void *ia3_cpu_arena_alloc(ia3_device *dev, size_t bytes);
size_t ia3_cpu_arena_mark(ia3_device *dev);
void ia3_cpu_arena_release(ia3_device *dev, size_t mark);
void ia3_cpu_arena_trim(ia3_device *dev, size_t keep);
void ia3_cpu_upload(ia3_device *dev, void *dst, const void *src, size_t bytes);
void ia3_cpu_download(ia3_device *dev, void *dst, const void *src, size_t bytes);
void ia3_cpu_zero(ia3_device *dev, void *p, size_t bytes);
void ia3_cpu_copy(ia3_device *dev, void *dst, const void *src, size_t bytes);
size_t ia3_cpu_memory_used(ia3_device *dev);
void ia3_cpu_arena_destroy(ia3_cpu *cpu);
/* Counts `bytes` as used, or returns false when that would exceed the limit. ia3_cpu_discharge takes them off again. */
bool ia3_cpu_charge(ia3_cpu *cpu, size_t bytes);
void ia3_cpu_discharge(ia3_cpu *cpu, size_t bytes);

/*
 * slab.c: memory for packed weights, 64-byte aligned, in huge pages. `backward` says which of the two lists of
 * blocks it comes from. NULL when the memory limit is reached or the system has no memory.
 */
void *ia3_cpu_slab_alloc(ia3_cpu *cpu, size_t bytes, bool backward);
void ia3_cpu_slab_free(ia3_cpu *cpu, void *piece, size_t bytes);

/* weights.c */
ia3_matrix *ia3_cpu_matrix_create(ia3_device *dev, const ia3_host_tensor *parts, int n_parts, ia3_error *err);
void ia3_cpu_matrix_free(ia3_device *dev, ia3_matrix *m);
bool ia3_cpu_matrix_prepare_backward(ia3_device *dev, ia3_matrix *m, ia3_error *err);
void ia3_cpu_matrix_release_backward(ia3_device *dev, ia3_matrix *m);
void *ia3_cpu_table_create(ia3_device *dev, const ia3_host_tensor *t, ia3_error *err);
float *ia3_cpu_vector_create(ia3_device *dev, const ia3_host_tensor *t, ia3_error *err);
ia3_matrix *ia3_cpu_matrix_from_values(ia3_device *dev, const float *values, int out, int in, ia3_error *err);
void *ia3_cpu_table_from_values(ia3_device *dev, const float *values, int rows, int cols, ia3_error *err);
void ia3_cpu_matrix_update(ia3_device *dev, ia3_matrix *m, const float *values);
void ia3_cpu_table_update(ia3_device *dev, void *table, const float *values, size_t n);

/* The operations of device.h, one file each. */
void ia3_cpu_matmul(ia3_device *dev, void *y, const void *a, int rows, ia3_matrix *w, ia3_out out);
void ia3_cpu_matmul_bwd(ia3_device *dev, void *da, const void *dy, int rows, ia3_matrix *w, ia3_out out);
void ia3_cpu_embed(ia3_device *dev, float *x, const int32_t *ids, int rows, int d, const void *table);
void ia3_cpu_rmsnorm(ia3_device *dev, void *y, float *rstd, const float *x, const float *w, int rows, int d,
                     float eps);
void ia3_cpu_rmsnorm_bwd(ia3_device *dev, float *dx, const void *dy, const float *x, const float *w,
                         const float *rstd, int rows, int d);
void ia3_cpu_add_dropout(ia3_device *dev, float *x, const float *y, int rows, int d, ia3_dropout drop);
void ia3_cpu_dropout_f32(ia3_device *dev, float *y, const float *x, int rows, int d, ia3_dropout drop);
void ia3_cpu_dropout_act(ia3_device *dev, void *y, const void *x, int rows, int d, ia3_dropout drop);
void ia3_cpu_dropout_f32_to_act(ia3_device *dev, void *y, const float *x, int rows, int d, ia3_dropout drop);
void ia3_cpu_attention(ia3_device *dev, const ia3_attention *a);
void ia3_cpu_attention_bwd(ia3_device *dev, const ia3_attention *a, const ia3_attention_grad *g);
bool ia3_cpu_state_attention_fits(const ia3_device *dev, const ia3_matrix *w, int n_heads, int d_kv);
void ia3_cpu_state_attention(ia3_device *dev, const ia3_attention *a, const void *states, ia3_matrix *w);
void ia3_cpu_tree_attention(ia3_cpu *cpu, const ia3_attention *a);
void ia3_cpu_tree_attention_bwd(ia3_cpu *cpu, const ia3_attention *a, const ia3_attention_grad *g,
                                float *partial, float *dbias);
void ia3_cpu_gated_act(ia3_device *dev, void *h, const void *g, int rows, const ia3_gated *p);
void ia3_cpu_gated_act_bwd(ia3_device *dev, void *dg, const void *dh, const void *g, int rows,
                           const ia3_gated *p, ia3_scale_grad grad);
bool ia3_cpu_norm_matmul(ia3_device *dev, void *y, const float *x, const float *norm, float eps, int rows,
                         ia3_matrix *w, const ia3_gated *gated);
void ia3_cpu_vocab_logprobs(ia3_device *dev, float *lp, float *lse, const void *h, int rows, ia3_matrix *head,
                            float scale, const int32_t *pair_offsets, const int32_t *tokens);
void ia3_cpu_vocab_logprobs_bwd(ia3_device *dev, float *dh, float *dhead, const float *dlp, const float *lse,
                                const void *h, int rows, ia3_matrix *head, float scale,
                                const int32_t *pair_offsets, const int32_t *tokens);
void ia3_cpu_adafactor(ia3_device *dev, const ia3_adafactor *jobs, int n_jobs);
void ia3_cpu_matmul_grad(ia3_device *dev, float *dw, const void *dy, const void *a, int rows, int out,
                         int in);
void ia3_cpu_embed_grad(ia3_device *dev, float *dtable, const float *dx, const int32_t *ids, int rows, int d);
void ia3_cpu_rmsnorm_grad(ia3_device *dev, float *dw, const void *dy, const float *x, const float *rstd,
                          int rows, int d);
void ia3_cpu_bias_expand(ia3_device *dev, float *bias, const float *table, const int32_t *bucket_of,
                         int n_heads, int span);
void ia3_cpu_bias_table_grad(ia3_device *dev, float *dtable, const float *dbias, const int32_t *bucket_of,
                             int n_buckets, int n_heads, int span);
void ia3_cpu_mask_grad(ia3_device *dev, float *grads, const uint32_t *mask, size_t n);
void ia3_cpu_add_squares(ia3_device *dev, float *sums, const float *grads, size_t n);
void ia3_cpu_scatter_add(ia3_device *dev, float *values, const int32_t *indices, const float *deltas,
                         size_t n);
void ia3_cpu_add_row(ia3_device *dev, void *y, const float *b, int rows, int cols, ia3_out out);
void ia3_cpu_add_row_bwd(ia3_device *dev, float *db, const void *dy, int rows, int cols);
void ia3_cpu_scale_row(ia3_device *dev, void *y, const float *s, int rows, int cols);
void ia3_cpu_scale_row_bwd(ia3_device *dev, void *dy, float *ds, const void *y, const float *s, int rows,
                           int cols);
void ia3_cpu_multiply(ia3_device *dev, float *y, const float *a, const float *b, const ia3_products *p);
void ia3_cpu_low_rank(ia3_device *dev, void *y, const void *x, int rows, const ia3_low_rank *l, ia3_out out);
void ia3_cpu_low_rank_bwd(ia3_device *dev, void *dx, float *da, float *db, const void *dy, const void *x,
                          int rows, const ia3_low_rank *l, ia3_out out);
void ia3_cpu_bottleneck(ia3_device *dev, float *y, int rows, const ia3_bottleneck *b);
void ia3_cpu_bottleneck_bwd(ia3_device *dev, void *dy, const ia3_bottleneck_grad *g, const float *y, int rows,
                            const ia3_bottleneck *b);
void ia3_cpu_phm(ia3_device *dev, float *y, int rows, const ia3_phm_bottleneck *b);
void ia3_cpu_phm_bwd(ia3_device *dev, void *dy, const ia3_phm_bottleneck_grad *g, const float *y, int rows,
                     const ia3_phm_bottleneck *b);
void ia3_cpu_put_rows(ia3_device *dev, void *y, const float *x, const ia3_row_places *p);
void ia3_cpu_put_rows_bwd(ia3_device *dev, float *dx, void *dy, const ia3_row_places *p);
void ia3_cpu_dense(ia3_device *dev, float *y, const float *x, int rows, const ia3_dense *l);
void ia3_cpu_dense_bwd(ia3_device *dev, float *dx, const ia3_dense_grad *g, float *dy, const float *y,
                       const float *x, int rows, const ia3_dense *l);

/* rmsnorm of one row; returns its rstd. */
float ia3_norm_row(void *y, const float *x, const float *w, size_t d, float eps, bool bf16);

/* A block of gated_act without dropout: n <= 128 columns from `at` on, of `rows` rows from `row` on. */
typedef struct ia3_gated_block {
    const ia3_gated *p;
    void *h;
    const void *g0, *g1; /* of the block's first row and column */
    size_t ldh, ldg;     /* elements from row to row */
    int row;
    size_t rows, at, n;
} ia3_gated_block;
void ia3_gated_rows(const ia3_gated_block *b, bool bf16);

/* The vector of (IA)³ scales that applies to item i; NULL means that all scales are one. */
static inline const float *
ia3_scale_of(const ia3_scale *s, int i)
{
    return s->slots ? s->slots[s->slot_of[i]] + s->offset : NULL;
}

/* Items per part of a job: fewer would cost more in handing over than they save (about 5 µs of element-wise work). */
static inline size_t
ia3_grain(size_t elements_per_item)
{
    size_t g = 16384 / (elements_per_item ? elements_per_item : 1);
    return g ? g : 1;
}

#endif
