/*
 * device.h
 *     The operations that a device offers to the model. Model code is written once over this table.
 *
 * Conventions
 *   - Sequences are packed: an array of activations is [rows, columns] row-major with no padding, and
 *     `offsets[n + 1]` says where each of the n sequences begins.
 *   - `act` is the device's compute dtype (ia3_device.dtype: float32 or bfloat16); matrix products read
 *     act and accumulate in fp32; where weights are int8, they round their rows to int8 and accumulate in
 *     int32. The residual stream, softmax statistics, gradients of the residual stream, (IA)³ vectors and
 *     losses are fp32 always.
 *   - Every pointer passed to an operation is device memory (on the CPU, plain memory) except where "host"
 *     is said. Operations on one device run in the order they are called; download() waits for them.
 *   - Operations do not fail: shapes are the caller's promise. Only allocation fails: alloc() and the
 *     create functions return NULL; arena_alloc() jumps to `oom`.
 *   - Results are deterministic for the same inputs, thread count included: no atomics on floats, fixed
 *     reduction orders.
 *   - rows == 0 is legal everywhere and does nothing.
 */
#ifndef IA3_DEVICE_H
#define IA3_DEVICE_H

#include <setjmp.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/error.h"
#include "engine/base/tensor.h"

typedef enum ia3_activation {
    IA3_RELU,
    IA3_GELU /* erf */,
    IA3_GELU_NEW /* tanh */,
    IA3_SILU
} ia3_activation;

/* A frozen weight [out, in] (y = x·Wᵀ), in whatever layout the device likes. */
typedef struct ia3_matrix {
    int out, in;
    size_t bytes; /* device memory it takes, forward and (when prepared) backward */
} ia3_matrix;

/* Where a matrix product goes. */
typedef enum ia3_out { IA3_OUT_ACT, IA3_OUT_F32, IA3_OUT_ADD_F32 /* y += */ } ia3_out;

/*
 * (IA)³ vectors of a batch. slots[s] points at the flat vectors of adapter s (the layout of (IA)³, layout.h),
 * `offset` picks the vector of this place in the graph, slot_of[i] says which adapter item i uses, an item
 * being a sequence (attention) or a row (gated_act). slots == NULL means ones everywhere.
 */
typedef struct ia3_scale {
    const float *const *slots;
    const int32_t *slot_of;
    size_t offset;
} ia3_scale;

/* Gradients of the vectors: the same shape, accumulated into (+=). n_slots is the number of entries. */
typedef struct ia3_scale_grad {
    float *const *slots;
    const int32_t *slot_of;
    size_t offset;
    int n_slots;
} ia3_scale_grad;

/* p == 0 or row_key == NULL: no dropout. See rng.h for the exact meaning. row_key[rows of the operation]. */
typedef struct ia3_dropout {
    float p;
    uint32_t site;
    const uint64_t *row_key;
} ia3_dropout;

/*
 * Multi-head attention over packed sequences, no 1/sqrt(d) (T5). Sequence s has queries
 * [q_offsets[s], q_offsets[s+1]) and keys [k_offsets[s], k_offsets[s+1]); every query sees every key of its
 * sequence, unless `parent` is given. q, k, v are act arrays whose rows are q_stride / kv_stride elements
 * apart (they usually lie inside one fused product) and hold [n_heads, d_kv] contiguously.
 *
 *   S[i,j] = q_i · (k_j ⊙ l_k) + bias[head, j - i + bias_span - 1]     (i, j: index in the sequence)
 *   out_i  = Σ_j drop(softmax_j S)[i,j] · (v_j ⊙ l_v)
 *
 * bias: fp32 [n_heads, 2·bias_span - 1] or NULL; bias_span >= the longest sequence.
 *
 * Tree attention (decoder self-attention): parent[row] is the row (absolute) of the parent or -1 for a
 * root; a query sees itself and its ancestors; k_offsets == q_offsets, parents come before children and lie
 * in the same sequence; depth[row] is the number of ancestors. The bias index is then depth_j - depth_i
 * (<= 0), the dropout column is depth_j. A plain causal sequence is the tree parent[i] = i - 1.
 */
typedef struct ia3_attention {
    int n_heads, d_kv;
    int n_seq;
    const int32_t *q_offsets, *k_offsets;
    int max_q, max_k; /* longest sequences (host values); for trees max_k = deepest path, in nodes */
    const void *q, *k, *v;
    size_t q_stride, kv_stride;
    const float *bias;
    int bias_span;
    const int32_t *parent, *depth; /* tree attention, else NULL */
    ia3_scale scale_k, scale_v;    /* slot_of: per sequence */
    ia3_dropout dropout;           /* row_key: per query row; site + head */
    void *out;                     /* act [query rows, n_heads·d_kv], contiguous */
    float *lse; /* [query rows, n_heads] log Σ exp S, kept for the backward pass; may be NULL */
} ia3_attention;

/*
 * Backward of the same struct (out, lse as the forward left them). dq, dk, dv have the strides of q, k, v and
 * are overwritten; dk, dv are the gradients of the UNSCALED keys and values. dq == NULL: not wanted.
 * grad_k, grad_v accumulate dl_k = Σ rows (d scaled k) ⊙ k, likewise dl_v; slots == NULL: not wanted.
 */
typedef struct ia3_attention_grad {
    const void *dout; /* act, like out */
    void *dq, *dk, *dv;
    ia3_scale_grad grad_k, grad_v;
} ia3_attention_grad;

/*
 * Feed-forward activation. g is act [rows, gated ? 2·d_ff : d_ff] (wi_0 | wi_1).
 *   h = drop( act(g0) ⊙ g1 ⊙ l_ff )      (g1 = 1 when not gated)     act [rows, d_ff]
 */
typedef struct ia3_gated {
    ia3_activation act;
    bool gated;
    int d_ff;
    ia3_scale scale; /* slot_of: per row */
    ia3_dropout dropout;
} ia3_gated;

/*
 * A low-rank product beside a frozen one: y += scale · (x·Aᵀ)·Bᵀ, x act [rows, in] contiguous, A [rank, in] and
 * B [out, rank] fp32, rank <= IA3_MAX_RANK, y a part of rows that are `stride` elements apart.
 */
typedef struct ia3_low_rank {
    int rank, in, out;
    size_t stride;
    const float *a, *b;
    float scale;
} ia3_low_rank;
enum { IA3_MAX_RANK = 8 };

/* One step of Adafactor for one job; see adafactor() below. */
typedef struct ia3_adafactor {
    float *values, *grads, *second_moment; /* flat [n_values] each */
    const int32_t *tensor_offsets;         /* [n_tensors + 1] into the flat arrays */
    int n_tensors;
    double learning_rate; /* of this step, after the schedule */
    int step;             /* 1 for the first step */
    double clip_norm;     /* 0 = no clipping; else grads *= min(1, clip_norm / (‖g‖ + 1e-6)) first */
    const int32_t *tensor_rows; /* [n_tensors] 1: a vector; NULL: all are vectors */
    bool fixed_step;            /* a = lr, whatever the size of the values (scale_parameter off) */
} ia3_adafactor;

typedef struct ia3_device ia3_device;

typedef struct ia3_device_ops {
    void (*close)(ia3_device *dev);

    /*
     * Memory. alloc: long-lived, 64-byte aligned, NULL when there is none; the arena is a stack for one pass. One
     * thread at a time, that which computes: alloc and the create functions may take back what the arena does not use,
     * uploads share a buffer. Only free and memory_used may be called by others beside it.
     */
    void *(*alloc)(ia3_device *dev, size_t bytes);
    void (*free)(ia3_device *dev, void *p);
    void *(*arena_alloc)(ia3_device *dev, size_t bytes); /* 64-byte aligned, not cleared; never NULL */
    size_t (*arena_mark)(ia3_device *dev);
    void (*arena_release)(ia3_device *dev, size_t mark); /* frees everything allocated after the mark */
    void (*upload)(ia3_device *dev, void *dst, const void *host_src, size_t bytes);
    void (*download)(ia3_device *dev, void *host_dst, const void *src, size_t bytes);
    void (*zero)(ia3_device *dev, void *p, size_t bytes);
    size_t (*memory_used)(ia3_device *dev); /* bytes of alloc, matrices, arena and what libraries work in */

    /*
     * Weights. matrix_create stacks the parts' rows into one [Σ rows, cols] matrix, converting fp32/bf16/fp16
     * storage to the compute dtype (round to nearest even). table_create keeps a plain act [rows, cols] array
     * (embedding). matrix_prepare_backward builds what matmul_bwd needs; until then matmul_bwd is illegal.
     */
    ia3_matrix *(*matrix_create)(ia3_device *dev, const ia3_host_tensor *parts, int n_parts, ia3_error *err);
    void (*matrix_free)(ia3_device *dev, ia3_matrix *m);
    bool (*matrix_prepare_backward)(ia3_device *dev, ia3_matrix *m, ia3_error *err);
    void (*matrix_release_backward)(ia3_device *dev, ia3_matrix *m);
    void *(*table_create)(ia3_device *dev, const ia3_host_tensor *t, ia3_error *err);
    float *(*vector_create)(ia3_device *dev, const ia3_host_tensor *t, ia3_error *err); /* fp32 copy */

    /* y = a·Wᵀ, a act [rows, in] contiguous, y [rows, out] contiguous */
    void (*matmul)(ia3_device *dev, void *y, const void *a, int rows, ia3_matrix *w, ia3_out out);
    /* da = dy·W, dy act [rows, out], da [rows, in] */
    void (*matmul_bwd)(ia3_device *dev, void *da, const void *dy, int rows, ia3_matrix *w, ia3_out out);

    /* x[r] = table[ids[r]] as fp32 */
    void (*embed)(ia3_device *dev, float *x, const int32_t *ids, int rows, int d, const void *table);
    /* y = w ⊙ x·rstd, rstd = 1/sqrt(mean(x²)+eps) [rows] (may be NULL): fp32 in, act out */
    void (*rmsnorm)(ia3_device *dev, void *y, float *rstd, const float *x, const float *w, int rows, int d,
                    float eps);
    /* dx += d rmsnorm; dy act */
    void (*rmsnorm_bwd)(ia3_device *dev, float *dx, const void *dy, const float *x, const float *w,
                        const float *rstd, int rows, int d);
    /* x += drop(y), both fp32 [rows, d] */
    void (*add_dropout)(ia3_device *dev, float *x, const float *y, int rows, int d, ia3_dropout drop);
    /* y = drop(x): fp32 to fp32 (in place allowed), act to act (in place allowed), fp32 to act; no dropout: a copy */
    void (*dropout_f32)(ia3_device *dev, float *y, const float *x, int rows, int d, ia3_dropout drop);
    void (*dropout_act)(ia3_device *dev, void *y, const void *x, int rows, int d, ia3_dropout drop);
    void (*dropout_f32_to_act)(ia3_device *dev, void *y, const float *x, int rows, int d, ia3_dropout drop);

    void (*attention)(ia3_device *dev, const ia3_attention *a);
    void (*attention_bwd)(ia3_device *dev, const ia3_attention *a, const ia3_attention_grad *g);

    /*
     * Cross-attention over states E (act [key rows, w->in], contiguous) without their keys and values: for few
     * queries it is cheaper to take w = [Wk; Wv] to the side of the queries and of the result,
     *   S = ((q ⊙ l_k)·Wk)·Eᵀ     out = ((softmax(S)·E)·Wvᵀ) ⊙ l_v
     * Of `a`, k, v, bias, parent, dropout and lse are not used. Only where state_attention_fits; NULL: nowhere.
     */
    bool (*state_attention_fits)(const ia3_device *dev, const ia3_matrix *w, int n_heads, int d_kv);
    void (*state_attention)(ia3_device *dev, const ia3_attention *a, const void *states, ia3_matrix *w);

    void (*gated_act)(ia3_device *dev, void *h, const void *g, int rows, const ia3_gated *p);
    /* dg (act, like g) from dh (act, like h); the vectors' gradient accumulates */
    void (*gated_act_bwd)(ia3_device *dev, void *dg, const void *dh, const void *g, int rows,
                          const ia3_gated *p, ia3_scale_grad grad);

    /*
     * Log-probabilities of chosen tokens: row r has targets tokens[pair_offsets[r] .. pair_offsets[r+1]).
     *   logits[r] = scale · h[r]·Wᵀ ;  lse[r] = log Σ_v exp logits[r,v] ;  lp[pair] = logits[r, token] - lse[r]
     * h act [rows, in]; lp fp32 [pairs]; lse fp32 [rows]. Probabilities are never stored for all rows.
     */
    void (*vocab_logprobs)(ia3_device *dev, float *lp, float *lse, const void *h, int rows, ia3_matrix *head,
                           float scale, const int32_t *pair_offsets, const int32_t *tokens);
    /* dh (fp32 [rows, in], overwritten) from dlp [pairs]; lse as the forward left it; needs prepare_backward(head) */
    void (*vocab_logprobs_bwd)(ia3_device *dev, float *dh, const float *dlp, const float *lse, const void *h,
                               int rows, ia3_matrix *head, float scale, const int32_t *pair_offsets,
                               const int32_t *tokens);

    /*
     * Adafactor, elementwise, per tensor (engine.md §3.3: lr given, scale_parameter, no relative step, no
     * momentum, no weight decay), for several independent jobs:
     *   a = lr·max(1e-3, RMS(p)); β = 1 - t^-0.8; v = β·v + (1-β)(g² + 1e-30); u = g/√v; u /= max(1, RMS(u)); p -= a·u
     * A matrix has the factored v instead: r = EMA of row means, c = EMA of column means of g² + 1e-30,
     * u = g / √(r·c/mean r); second_moment holds r, then c. Reductions in double.
     */
    void (*adafactor)(ia3_device *dev, const ia3_adafactor *jobs, int n_jobs);

    /*
     * What other methods than (IA)³ add to the graph, each over the rows of one adapter (one call per run of
     * rows). A device without them has NULL here and refuses such adapters. y is fp32 unless out is IA3_OUT_ACT.
     */
    /* y += b, y [rows, cols] contiguous, b fp32 [cols];  db += Σ_rows dy (act) */
    void (*add_row)(ia3_device *dev, void *y, const float *b, int rows, int cols, ia3_out out);
    void (*add_row_bwd)(ia3_device *dev, float *db, const void *dy, int rows, int cols);
    /* y = y ⊙ s, y act [rows, cols];  ds += Σ_rows dy ⊙ y, dy = dy ⊙ s, y as before scaling */
    void (*scale_row)(ia3_device *dev, void *y, const float *s, int rows, int cols);
    void (*scale_row_bwd)(ia3_device *dev, void *dy, float *ds, const void *y, const float *s, int rows,
                          int cols);
    /* dx (out: act or fp32), da and db accumulate (+=); dy act with the stride of y */
    void (*low_rank)(ia3_device *dev, void *y, const void *x, int rows, const ia3_low_rank *l, ia3_out out);
    void (*low_rank_bwd)(ia3_device *dev, void *dx, float *da, float *db, const void *dy, const void *x,
                         int rows, const ia3_low_rank *l, ia3_out out);
} ia3_device_ops;

struct ia3_device {
    const ia3_device_ops *ops;
    ia3_dtype dtype;   /* compute dtype: IA3_F32 or IA3_BF16 */
    ia3_dtype weights; /* of matrices: dtype, or IA3_INT8, which has no backward pass */
    char name[32];     /* "cpu", "cuda:0" */
    char description[128];
    int max_d_kv; /* the widest head that attention takes; 0: any. Wider models are refused when they are loaded */
    jmp_buf *oom; /* where arena_alloc jumps when memory is gone; set by score and train around a pass */
};

/*
 * Opens "cpu", "cuda" (the first GPU), "cuda:N" or "auto" (the first GPU that works, else the CPU). dtype IA3_AUTO takes
 * bfloat16 where the hardware multiplies it natively, else float32; IA3_INT8 keeps weights in eight bits (scoring only);
 * IA3_F16 is refused. threads <= 0: one per available core (CPU affinity honoured).
 * memory_limit 0 = none; else alloc and arena refuse to go beyond it, and a GPU does not open when it is below the 32 MB
 * that its matrix products work in.
 */
ia3_device *ia3_device_open(const char *spec, ia3_dtype dtype, int threads, size_t memory_limit,
                            ia3_error *err);

/* "float32", "bfloat16" or "int8": how the device keeps its weights. */
const char *ia3_device_dtype_name(const ia3_device *dev);

#endif
