/*
 * device.h
 *     The operations that a device offers to the model. The model's code calls devices only through this table.
 *
 * Conventions
 *   - Sequences are packed: an array of activations is [rows, columns], row-major and without padding, and
 *     `offsets[n + 1]` says where each of the n sequences begins.
 *   - `act` is the device's compute dtype (ia3_device.dtype: float32 or bfloat16). Matrix products read act and
 *     accumulate in fp32; with int8 weights they round the activations to int8 and accumulate in int32. A CPU that does
 *     not multiply bfloat16 stores weights in it, but its act is float32. The residual stream and its gradients, softmax
 *     statistics, (IA)³ vectors and losses are always fp32.
 *   - Every pointer passed to an operation is to device memory (on the CPU, ordinary memory) unless "host" is stated.
 *     Operations on one device run in the order in which they are called; download() waits for them.
 *   - Operations do not fail: the caller must pass correct shapes. Only allocation can fail: alloc() and the create
 *     functions return NULL, arena_alloc() jumps to `oom`.
 *   - Results are deterministic, independently of the number of threads: there are no atomic operations on floats, and
 *     the order of every reduction is fixed.
 *   - rows == 0 is allowed everywhere and does nothing.
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

/* A weight W [out, in] (y = x·Wᵀ), in a layout that the device chooses. */
typedef struct ia3_matrix {
    int out, in;
    size_t bytes; /* device memory that it takes, for the forward and (when prepared) the backward pass */
} ia3_matrix;

/* How a matrix product writes its result y: as act, as fp32, or added to fp32. */
typedef enum ia3_out { IA3_OUT_ACT, IA3_OUT_F32, IA3_OUT_ADD_F32 /* y += */ } ia3_out;

/*
 * The (IA)³ vectors of a batch. slots[s] points to the vectors of adapter s (in the layout of (IA)³, layout.h), `offset`
 * selects the vector for this place in the graph, and slot_of[i] says which adapter item i uses. An item is a sequence
 * (attention) or a row (gated_act). slots == NULL means ones everywhere.
 */
typedef struct ia3_scale {
    const float *const *slots;
    const int32_t *slot_of;
    size_t offset;
} ia3_scale;

/* Gradients of these vectors, of the same shape; operations add to them. n_slots is the number of slots. */
typedef struct ia3_scale_grad {
    float *const *slots;
    const int32_t *slot_of;
    size_t offset;
    int n_slots;
} ia3_scale_grad;

/* Dropout with probability p and row_key[rows of the operation]; none if p == 0 or row_key == NULL. See rng.h. */
typedef struct ia3_dropout {
    float p;
    uint32_t site;
    const uint64_t *row_key;
} ia3_dropout;

/*
 * Multi-head attention over packed sequences, without 1/sqrt(d) as in T5. Sequence s has queries [q_offsets[s],
 * q_offsets[s+1]) and keys [k_offsets[s], k_offsets[s+1]); every query attends to every key of its sequence, unless
 * `parent` is given. q, k, v are act arrays whose rows are q_stride and kv_stride elements apart (they are usually
 * parts of one fused matrix product); a row holds [n_heads, d_kv] contiguously.
 *
 *   S[i,j] = q_i · (k_j ⊙ l_k) + bias[head, j - i + bias_span - 1]     (i, j: indices in the sequence)
 *   out_i  = Σ_j drop(softmax_j S)[i,j] · (v_j ⊙ l_v)
 *
 * bias: fp32 [n_heads, 2·bias_span - 1] or NULL; bias_span >= the longest sequence.
 *
 * On a device with keys_apart, kv_apart may be set: the keys of sequence s then begin s·kv_apart elements after k, and
 * k_offsets only says how many there are. There is no backward pass for this.
 *
 * Tree attention (decoder self-attention): parent[row] is the parent's row, counted over all sequences, or -1 for a
 * root; depth[row] is the number of ancestors. A query attends to itself and its ancestors. k_offsets == q_offsets;
 * parents precede their children and are in the same sequence. The bias is that of distance depth_j - depth_i (<= 0),
 * and the dropout column is depth_j. An ordinary causal sequence is the tree parent[i] = i - 1.
 */
typedef struct ia3_attention {
    int n_heads, d_kv;
    int n_seq;
    const int32_t *q_offsets, *k_offsets;
    int max_q, max_k; /* lengths of the longest sequences; for trees, max_k = nodes on the longest path */
    const void *q, *k, *v;
    size_t q_stride, kv_stride, kv_apart;
    const float *bias;
    int bias_span;
    const int32_t *parent, *depth; /* tree attention, else NULL */
    ia3_scale scale_k, scale_v;    /* slot_of: per sequence */
    ia3_dropout dropout;           /* row_key: per query row; site + head */
    void *out;                     /* act [query rows, n_heads·d_kv], contiguous */
    float *lse; /* [query rows, n_heads] log Σ exp S, for the backward pass; may be NULL */
} ia3_attention;

/*
 * The backward pass uses the same struct, with out and lse as the forward pass left them. dq, dk, dv have the strides
 * of q, k, v and are overwritten; dk and dv are the gradients of the unscaled keys and values. dq may be NULL. dl_k =
 * Σ_rows (gradient of the scaled k) ⊙ k is added to grad_k, and dl_v to grad_v; their slots may be NULL. The gradient of the
 * bias, of the same shape, is added to dbias, unless that is NULL.
 */
typedef struct ia3_attention_grad {
    const void *dout; /* act, like out */
    void *dq, *dk, *dv;
    ia3_scale_grad grad_k, grad_v;
    float *dbias;
} ia3_attention_grad;

/*
 * Feed-forward activation. g is act [rows, gated ? 2·d_ff : d_ff], the results of wi_0 and wi_1 side by side.
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
 * A low-rank addition to a frozen weight (LoRA): y += scale · (x·Aᵀ)·Bᵀ, where x is act [rows, in], contiguous, A
 * [rank, in] and B [out, rank] are fp32, rank <= IA3_MAX_RANK, and y has rows that are `stride` elements apart.
 */
typedef struct ia3_low_rank {
    int rank, in, out;
    size_t stride;
    const float *a, *b;
    float scale;
} ia3_low_rank;
enum { IA3_MAX_RANK = 64 };

/*
 * A bottleneck (Houlsby et al., arXiv 1902.00751) that changes rows y in place: y += relu(y·Dᵀ + d)·Uᵀ + u, with D [width, cols],
 * d [width], U [cols, width] and u [cols], all fp32; width <= IA3_MAX_BOTTLENECK.
 */
typedef struct ia3_bottleneck {
    int width, cols;
    const float *down, *down_bias, *up, *up_bias;
} ia3_bottleneck;
typedef struct ia3_bottleneck_grad {
    float *down, *down_bias, *up, *up_bias;
} ia3_bottleneck_grad;
enum { IA3_MAX_BOTTLENECK = 512 };

/* Products of rows, element by element: y[r] = a[r] ⊙ b[r], or y[r] += a[r] ⊙ b[r]; rows may be the same one (stride 0). */
typedef struct ia3_products {
    int rows, cols;
    size_t a_stride, b_stride, y_stride; /* between rows, in elements */
    bool add;
} ia3_products;

/*
 * A layer of parameterised hypercomplex multiplication (Zhang et al., arXiv 2102.08597) with factors of rank one, as Compacter
 * (Karimi Mahabadi et al., arXiv 2106.04647) has it: x·W + b, where W [in, out] = Σ_i A_i ⊗ l_i·ρ_iᵀ, i < IA3_PHM, with A_i
 * [IA3_PHM, IA3_PHM], l_i [in / IA3_PHM], ρ_i [out / IA3_PHM] and b [out], all fp32. in and out are multiples of IA3_PHM.
 */
enum { IA3_PHM = 4 };
typedef struct ia3_phm {
    int in, out;
    const float *rule, *left, *right, *bias; /* A, l, ρ, b */
} ia3_phm;
typedef struct ia3_phm_grad {
    float *rule, *left, *right, *bias;
} ia3_phm_grad;

/* A bottleneck of two such layers, which changes rows y in place: y += up(relu(down(y))); its width is that of ia3_bottleneck. */
typedef struct ia3_phm_bottleneck {
    ia3_phm down, up;
} ia3_phm_bottleneck;
typedef struct ia3_phm_bottleneck_grad {
    ia3_phm_grad down, up;
} ia3_phm_bottleneck_grad;

/*
 * Rows of an adapter in place of rows that were computed: [rows, cols] of them at each of n places, the first `cols` columns, from
 * y on, of rows that are `stride` elements apart. at [n] are the first rows of the places; NULL: there is one, at row 0.
 */
typedef struct ia3_row_places {
    int rows, cols, n;
    const int32_t *at;
    size_t stride;
} ia3_row_places;

/* A layer whose weights are trained, for few rows; all fp32: y = x·Wᵀ + b, with `tanh` tanh of that; W [out, in], b [out]. */
typedef struct ia3_dense {
    int in, out;
    bool tanh;
    const float *weight, *bias;
} ia3_dense;
typedef struct ia3_dense_grad {
    float *weight, *bias;
} ia3_dense_grad;

/* One step of Adafactor for one job; see adafactor() below. */
typedef struct ia3_adafactor {
    float *values, *grads, *second_moment; /* flat [n_values] each */
    const int32_t *tensor_offsets;         /* [n_tensors + 1] into the flat arrays */
    int n_tensors;
    double learning_rate;       /* of this step, with the schedule applied */
    int step;                   /* 1 for the first step */
    double clip_norm;           /* 0: none; else first g *= min(1, clip_norm / (‖g‖ + 1e-6)) */
    const int32_t *tensor_rows; /* [n_tensors] rows of each tensor, 1 for a vector; NULL: all are vectors */
    const int32_t
        *tensor_slices; /* [n_tensors] how many matrices of so many rows it has; NULL: all have one */
    bool fixed_step;    /* a = lr, independent of the size of the values (scale_parameter off) */
    size_t
        largest; /* the number of values of the largest tensor; 0: small enough for a thread or block of its own */
} ia3_adafactor;

typedef struct ia3_device ia3_device;

typedef struct ia3_device_ops {
    void (*close)(ia3_device *dev);

    /*
     * Memory. alloc returns long-lived memory, 64-byte aligned, or NULL when there is none. The arena is a stack that
     * holds the memory of one pass. Only the computing thread may call these functions, because alloc and the create
     * functions may take unused memory back from the arena and uploads share a buffer; but any thread may call free and
     * memory_used. Sizes are in bytes.
     */
    void *(*alloc)(ia3_device *dev, size_t bytes);
    void (*free)(ia3_device *dev, void *p);
    void *(*arena_alloc)(ia3_device *dev, size_t bytes); /* 64-byte aligned, not cleared; never NULL */
    size_t (*arena_mark)(ia3_device *dev);
    void (*arena_release)(ia3_device *dev, size_t mark); /* frees everything allocated after the mark */
    /* gives back the arena's unused memory, unless the whole arena has no more than `keep` bytes */
    void (*arena_trim)(ia3_device *dev, size_t keep);
    void (*upload)(ia3_device *dev, void *dst, const void *host_src, size_t bytes);
    void (*download)(ia3_device *dev, void *host_dst, const void *src, size_t bytes);
    void (*zero)(ia3_device *dev, void *p, size_t bytes);
    size_t (*memory_used)(ia3_device *dev); /* of alloc, matrices, the arena and libraries' workspaces */

    /*
     * Weights. matrix_create stacks the parts' rows into one [Σ rows, cols] matrix, converting fp32, bf16, fp16 or fp64
     * storage to the device's dtype for weights (round to nearest even; fp64 to fp32 first). table_create makes a
     * plain [rows, cols] array (the embedding) of ia3_device_table_dtype. matrix_prepare_backward must be called before
     * matmul_bwd and fails with IA3_E_UNSUPPORTED for int8 weights. All report lack of memory as IA3_E_MEMORY, unusable
     * sizes as IA3_E_BAD_CHECKPOINT.
     */
    ia3_matrix *(*matrix_create)(ia3_device *dev, const ia3_host_tensor *parts, int n_parts, ia3_error *err);
    void (*matrix_free)(ia3_device *dev, ia3_matrix *m);
    bool (*matrix_prepare_backward)(ia3_device *dev, ia3_matrix *m, ia3_error *err);
    void (*matrix_release_backward)(ia3_device *dev, ia3_matrix *m);
    void *(*table_create)(ia3_device *dev, const ia3_host_tensor *t, ia3_error *err);
    float *(*vector_create)(ia3_device *dev, const ia3_host_tensor *t, ia3_error *err); /* fp32 copy */

    /*
     * Weights that are trained have a master copy in fp32 in device memory. What the operations read is made from it, at first and
     * again after each step. The first two functions make a matrix or a table [rows, cols] as matrix_create and table_create do,
     * from `values` [out, in] or [rows, cols]; matrix_from_values fails with IA3_E_UNSUPPORTED if weights are int8. The last two
     * give an existing one other values: matrix_update all of a matrix of the same shape, with the weights for the backward pass
     * if they are prepared, table_update n elements from `table` on. A vector needs only `copy`, of memory that does not overlap.
     */
    ia3_matrix *(*matrix_from_values)(ia3_device *dev, const float *values, int out, int in, ia3_error *err);
    void *(*table_from_values)(ia3_device *dev, const float *values, int rows, int cols, ia3_error *err);
    void (*matrix_update)(ia3_device *dev, ia3_matrix *m, const float *values);
    void (*table_update)(ia3_device *dev, void *table, const float *values, size_t n);
    void (*copy)(ia3_device *dev, void *dst, const void *src, size_t bytes);

    /* y = a·Wᵀ, a act [rows, in] contiguous, y [rows, out] contiguous */
    void (*matmul)(ia3_device *dev, void *y, const void *a, int rows, ia3_matrix *w, ia3_out out);
    /* da = dy·W, dy act [rows, out], da [rows, in] */
    void (*matmul_bwd)(ia3_device *dev, void *da, const void *dy, int rows, ia3_matrix *w, ia3_out out);

    /* x[r] = table[ids[r]] as fp32 */
    void (*embed)(ia3_device *dev, float *x, const int32_t *ids, int rows, int d, const void *table);
    /* y = w ⊙ x·rstd, rstd = 1/sqrt(mean(x²) + eps): x fp32 [rows, d], y act [rows, d]; rstd [rows] may be NULL */
    void (*rmsnorm)(ia3_device *dev, void *y, float *rstd, const float *x, const float *w, int rows, int d,
                    float eps);
    /* dx += the gradient of rmsnorm: dx fp32 [rows, d], dy act [rows, d] */
    void (*rmsnorm_bwd)(ia3_device *dev, float *dx, const void *dy, const float *x, const float *w,
                        const float *rstd, int rows, int d);
    /*
     * Training's path along the residual stream, in fewer passes over memory than the operations one after another. A device
     * that has nothing better has NULL here.
     *   add_norm: sum = x + drop(y), out = the norm of sum as in rmsnorm; x, y and sum are fp32 [rows, d]
     *   norm_bwd_drop: rmsnorm_bwd, then dy = drop(dx)
     */
    void (*add_norm)(ia3_device *dev, void *out, float *rstd, float *sum, const float *x, const float *y,
                     ia3_dropout drop, const float *w, int rows, int d, float eps);
    void (*norm_bwd_drop)(ia3_device *dev, float *dx, void *dy, const float *x, const float *w,
                          const float *rstd, ia3_dropout drop, int rows, int d);
    /* x += drop(y), both fp32 [rows, d] */
    void (*add_dropout)(ia3_device *dev, float *x, const float *y, int rows, int d, ia3_dropout drop);
    /* y = drop(x), [rows, d]; without dropout this copies. The first two may work in place. */
    void (*dropout_f32)(ia3_device *dev, float *y, const float *x, int rows, int d, ia3_dropout drop);
    void (*dropout_act)(ia3_device *dev, void *y, const void *x, int rows, int d, ia3_dropout drop);
    void (*dropout_f32_to_act)(ia3_device *dev, void *y, const float *x, int rows, int d, ia3_dropout drop);

    void (*attention)(ia3_device *dev, const ia3_attention *a);
    void (*attention_bwd)(ia3_device *dev, const ia3_attention *a, const ia3_attention_grad *g);

    /*
     * Cross-attention over states E (act [key rows, w->in], contiguous) without computing their keys and values. For
     * few queries it is cheaper to multiply the queries and the result by w = [Wk; Wv] instead:
     *   S = ((q ⊙ l_k)·Wk)·Eᵀ     out = ((softmax(S)·E)·Wvᵀ) ⊙ l_v
     * k, v, bias, parent, dropout and lse of `a` are not used. May be called only if state_attention_fits returns true;
     * a device without this operation has NULL here.
     */
    bool (*state_attention_fits)(const ia3_device *dev, const ia3_matrix *w, int n_heads, int d_kv);
    void (*state_attention)(ia3_device *dev, const ia3_attention *a, const void *states, ia3_matrix *w);

    void (*gated_act)(ia3_device *dev, void *h, const void *g, int rows, const ia3_gated *p);
    /*
     * A product with what stands before and after it, in fewer passes over memory:
     *   y = rmsnorm(x)·Wᵀ, act [rows, out];  with `gated` y = gated_act(rmsnorm(x)·Wᵀ), act [rows, d_ff]
     * x is fp32 [rows, in], `norm` the norm's weights. The bits are those of the operations one after another. If the
     * device has nothing better than these, the function returns false, having done nothing, or is NULL.
     */
    bool (*norm_matmul)(ia3_device *dev, void *y, const float *x, const float *norm, float eps, int rows,
                        ia3_matrix *w, const ia3_gated *gated);
    /* computes dg (act, shaped like g) from dh (act, shaped like h) and adds to the vectors' gradients */
    void (*gated_act_bwd)(ia3_device *dev, void *dg, const void *dh, const void *g, int rows,
                          const ia3_gated *p, ia3_scale_grad grad);

    /*
     * Log-probabilities of given tokens: row r has the targets tokens[pair_offsets[r] .. pair_offsets[r+1]).
     *   logits[r] = scale · h[r]·Wᵀ ;  lse[r] = log Σ_v exp logits[r,v] ;  lp[pair] = logits[r, token] - lse[r]
     * h is act [rows, in], lp fp32 [pairs], lse fp32 [rows]. Logits of all rows are never stored at the same time.
     */
    void (*vocab_logprobs)(ia3_device *dev, float *lp, float *lse, const void *h, int rows, ia3_matrix *head,
                           float scale, const int32_t *pair_offsets, const int32_t *tokens);
    /*
     * Computes dh (fp32 [rows, in]) from dlp [pairs] and the forward pass's lse; needs matrix_prepare_backward(head). Adds the
     * gradient of W to dhead, fp32 [vocabulary, in], unless that is NULL.
     */
    void (*vocab_logprobs_bwd)(ia3_device *dev, float *dh, float *dhead, const float *dlp, const float *lse,
                               const void *h, int rows, ia3_matrix *head, float scale,
                               const int32_t *pair_offsets, const int32_t *tokens);

    /*
     * One step of Adafactor for several independent jobs, tensor by tensor (docs/engine.md §3.3: given learning rate,
     * scale_parameter, no relative step, no momentum, no weight decay):
     *   a = lr·max(1e-3, RMS(p)); β = 1 - t^-0.8; v = β·v + (1-β)(g² + 1e-30); u = g/√v; u /= max(1, RMS(u)); p -= a·u
     * A matrix has a factored second moment instead: r and c are the running means (with β) of the row and column means
     * of g² + 1e-30, and u = g / √(r·c/mean r); second_moment holds r, then c, and what is behind them is the operation's own.
     * Sums are in double precision. All memory of the arena is allocated before anything but the gradients changes.
     */
    void (*adafactor)(ia3_device *dev, const ia3_adafactor *jobs, int n_jobs);

    /*
     * Gradients of weights that are trained, all fp32; the operations add to them. Those of attention's bias and of the vocabulary
     * are in attention_bwd and vocab_logprobs_bwd.
     */
    /* dw += dyᵀ·a, dw [out, in], dy act [rows, out], a act [rows, in] */
    void (*matmul_grad)(ia3_device *dev, float *dw, const void *dy, const void *a, int rows, int out, int in);
    /* dtable[ids[r]] += dx[r], in the order of the rows; dtable [ids, d], dx fp32 [rows, d] */
    void (*embed_grad)(ia3_device *dev, float *dtable, const float *dx, const int32_t *ids, int rows, int d);
    /* dw += Σ_rows dy ⊙ x·rstd, dw [d], the other arguments as in rmsnorm_bwd */
    void (*rmsnorm_grad)(ia3_device *dev, float *dw, const void *dy, const float *x, const float *rstd,
                         int rows, int d);
    /*
     * Attention's bias [n_heads, 2·span - 1] from a table fp32 [n_buckets, n_heads], of which bucket_of [2·span - 1] names the row
     * for each distance:  bias[head, i] = table[bucket_of[i], head].  The gradient, from dbias, is added to dtable.
     */
    void (*bias_expand)(ia3_device *dev, float *bias, const float *table, const int32_t *bucket_of,
                        int n_heads, int span);
    void (*bias_table_grad)(ia3_device *dev, float *dtable, const float *dbias, const int32_t *bucket_of,
                            int n_buckets, int n_heads, int span);
    /* grads[i] = 0 where bit i mod 32 of mask[i / 32] is 0, for i < n */
    void (*mask_grad)(ia3_device *dev, float *grads, const uint32_t *mask, size_t n);
    /* sums[i] += grads[i]² */
    void (*add_squares)(ia3_device *dev, float *sums, const float *grads, size_t n);
    /* values[indices[i]] += deltas[i]; no index occurs twice */
    void (*scatter_add)(ia3_device *dev, float *values, const int32_t *indices, const float *deltas,
                        size_t n);

    /*
     * Operations of the methods other than (IA)³. Each call covers consecutive rows that use the same adapter. On a
     * device without these operations they are NULL and such adapters cannot be used. y is fp32 unless out is
     * IA3_OUT_ACT.
     */
    /* y += b, y [rows, cols] contiguous, b fp32 [cols];  db += Σ_rows dy (act) */
    void (*add_row)(ia3_device *dev, void *y, const float *b, int rows, int cols, ia3_out out);
    void (*add_row_bwd)(ia3_device *dev, float *db, const void *dy, int rows, int cols);
    /* y = y ⊙ s, y act [rows, cols];  ds += Σ_rows dy ⊙ y, then dy = dy ⊙ s, where y has not been scaled */
    void (*scale_row)(ia3_device *dev, void *y, const float *s, int rows, int cols);
    void (*scale_row_bwd)(ia3_device *dev, void *dy, float *ds, const void *y, const float *s, int rows,
                          int cols);
    /* y, a and b are fp32; y may be a */
    void (*multiply)(ia3_device *dev, float *y, const float *a, const float *b, const ia3_products *p);
    /* backward: adds to dx (act or fp32, according to `out`), da and db; dy is act with the stride of y */
    void (*low_rank)(ia3_device *dev, void *y, const void *x, int rows, const ia3_low_rank *l, ia3_out out);
    void (*low_rank_bwd)(ia3_device *dev, void *dx, float *da, float *db, const void *dy, const void *x,
                         int rows, const ia3_low_rank *l, ia3_out out);
    /*
     * y is fp32 [rows, cols]. backward: dy (act [rows, cols]) becomes the gradient of y as it was before, which is given;
     * adds to the gradients g
     */
    void (*bottleneck)(ia3_device *dev, float *y, int rows, const ia3_bottleneck *b);
    void (*bottleneck_bwd)(ia3_device *dev, void *dy, const ia3_bottleneck_grad *g, const float *y, int rows,
                           const ia3_bottleneck *b);
    void (*phm)(ia3_device *dev, float *y, int rows, const ia3_phm_bottleneck *b);
    void (*phm_bwd)(ia3_device *dev, void *dy, const ia3_phm_bottleneck_grad *g, const float *y, int rows,
                    const ia3_phm_bottleneck *b);
    /* copies x, fp32 [rows, cols], to the places in y (act);  adds the sum over the places in dy (act) to dx, and makes them zero */
    void (*put_rows)(ia3_device *dev, void *y, const float *x, const ia3_row_places *p);
    void (*put_rows_bwd)(ia3_device *dev, float *dx, void *dy, const ia3_row_places *p);
    /*
     * x is fp32 [rows, in], y fp32 [rows, out]. backward: y is the result; dy is overwritten; adds to dx and to the gradients g
     */
    void (*dense)(ia3_device *dev, float *y, const float *x, int rows, const ia3_dense *l);
    void (*dense_bwd)(ia3_device *dev, float *dx, const ia3_dense_grad *g, float *dy, const float *y,
                      const float *x, int rows, const ia3_dense *l);
} ia3_device_ops;

struct ia3_device {
    const ia3_device_ops *ops;
    ia3_dtype dtype;   /* compute dtype: IA3_F32 or IA3_BF16 */
    ia3_dtype weights; /* of matrices: IA3_F32, IA3_BF16, or IA3_INT8, with which training is impossible */
    char name[32];     /* "cpu", "cuda:0" */
    char description[128];
    int64_t turn;    /* multiply-adds of attention in about 20 ms, after which other work should get a turn */
    bool keys_apart; /* attention supports kv_apart */
    size_t cache; /* bytes of activations that stay in caches if they are worked on together; 0: any number */
    int ff_rows; /* rows that go through a feed-forward layer at once, because its activations take the most memory; 0: all */
    int max_d_kv; /* the widest head that attention supports; 0: no limit. Checked when a model is loaded */
    size_t memory_limit; /* in bytes; 0: none */
    jmp_buf *oom; /* where arena_alloc jumps when there is no memory; score and train set it around a pass */
};

/* The dtype of tables: float32 if the weights are, else bfloat16. */
static inline ia3_dtype
ia3_device_table_dtype(const ia3_device *dev)
{
    return dev->weights == IA3_F32 ? IA3_F32 : IA3_BF16;
}

/*
 * A memory_limit for one of n engines (1 to 255) that share the machine: on the CPU, 75% of the memory that this process may
 * use (host_memory.h), divided by n; on a GPU, none.
 */
#define IA3_DEFAULT_MEMORY_LIMIT(n) (SIZE_MAX - (size_t) (n))

/*
 * Opens "cpu", "cuda" (the first GPU), "cuda:N" or "auto" (the first GPU that works, else the CPU). dtype is that of the
 * weights: IA3_AUTO selects bfloat16 if the hardware can multiply it natively, else float32; IA3_INT8 keeps weights in
 * eight bits, for prediction only; IA3_F16 is an error. threads <= 0 means one per core that this process may use.
 * memory_limit is in bytes, 0 for none; alloc and the arena never exceed it, and a GPU needs at least the 32 MB workspace
 * of its matrix products. Returns NULL with IA3_E_INVALID when the device does not exist or cannot be used like this, with
 * IA3_E_MEMORY when it has too little memory.
 */
ia3_device *ia3_device_open(const char *spec, ia3_dtype dtype, int threads, size_t memory_limit,
                            ia3_error *err);

/* The name of the device's dtype for weights: "float32", "bfloat16" or "int8". */
const char *ia3_device_dtype_name(const ia3_device *dev);

#endif
