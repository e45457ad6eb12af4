/*
 * attention.cuh
 *     Common parts of the attention kernels: which part of the work a block does, (IA)³ vectors, dropout masks, and
 *     the host functions that launch them.
 *
 * Formulas: kernels/cpu/attention.c and attention_bwd.c. Blocks are numbered (tile, sequence, head) with the head
 * varying fastest. So the first tiles, which are full, start first, and neighbouring blocks read neighbouring columns
 * of the same rows.
 */
#ifndef IA3_CUDA_ATTENTION_CUH
#define IA3_CUDA_ATTENTION_CUH

#include "cuda.h"

/*
 * The most blocks that the keys of one head of one sequence are divided among in the backward pass. This bounds the
 * memory for partial sums.
 */
enum { IA3_KEY_SPLITS = 8 };

/* One head of one sequence, and which of its tiles this block works on. */
typedef struct ia3_attention_item {
    int seq, head, tile;
    int q0, n_q, k0, n_k; /* first row and number of rows */
    const float *lk, *lv; /* (IA)³ vectors of this head, or NULL for ones */
} ia3_attention_item;

static __device__ __forceinline__ const float *
ia3_scale_at(const ia3_scale &s, int seq, int column)
{
    return s.slots ? s.slots[s.slot_of[seq]] + s.offset + column : NULL;
}

static __device__ __forceinline__ ia3_attention_item
ia3_attention_item_of(const ia3_attention &a, unsigned block)
{
    ia3_attention_item it;
    it.head = (int) (block % (unsigned) a.n_heads);
    block /= (unsigned) a.n_heads;
    it.seq = (int) (block % (unsigned) a.n_seq);
    it.tile = (int) (block / (unsigned) a.n_seq);
    it.q0 = a.q_offsets[it.seq];
    it.n_q = a.q_offsets[it.seq + 1] - it.q0;
    it.k0 = a.k_offsets[it.seq];
    it.n_k = a.k_offsets[it.seq + 1] - it.k0;
    it.lk = ia3_scale_at(a.scale_k, it.seq, it.head * a.d_kv);
    it.lv = ia3_scale_at(a.scale_v, it.seq, it.head * a.d_kv);
    return it;
}

/* Where the sequence's first key (or value) is, in elements from a.k (or a.v). */
static __device__ __forceinline__ size_t
ia3_first_key_at(const ia3_attention &a, const ia3_attention_item &it)
{
    return a.kv_apart ? (size_t) it.seq * a.kv_apart : (size_t) it.k0 * a.kv_stride;
}

/* The head's bias table, indexed by j - i for query i and key j of a sequence; a.bias must not be NULL. */
static __device__ __forceinline__ const float *
ia3_bias_of(const ia3_attention &a, int head)
{
    return a.bias + (size_t) head * (2 * (size_t) a.bias_span - 1) + (size_t) a.bias_span - 1;
}

/* The index of D (see attention_mma_bwd.cu) of query i of the sequence in `dots` [query rows, n_heads]. */
static __device__ __forceinline__ size_t
ia3_dot_at(const ia3_attention &a, const ia3_attention_item &it, int i)
{
    return (size_t) (it.q0 - a.q_offsets[0] + i) * (size_t) a.n_heads + (size_t) it.head;
}

/* The address of one split's row in the partial sums of dl_k and dl_v, [n_seq, splits, 2, inner]. */
static __device__ __forceinline__ float *
ia3_partial_at(float *partial, const ia3_attention &a, const ia3_attention_item &it, int splits, int split)
{
    size_t inner = (size_t) a.n_heads * (size_t) a.d_kv;
    return partial + (((size_t) it.seq * (size_t) splits + (size_t) split) * 2) * inner +
           (size_t) it.head * (size_t) a.d_kv;
}

/*
 * Each group of queries' share of the gradient of the bias, [n_seq, n_heads, groups, ld]: element x is the sum of dS over distance
 * x - (queries - 1) - group·queries. The kernels compute dS for `step` keys at a time and write the shares from 0 to the last of
 * these keys and queries. p is NULL if the gradient is not wanted.
 */
typedef struct ia3_bias_shares {
    float *p;
    int queries, step, groups, ld;
} ia3_bias_shares;

/* The number of elements of a share that are written. */
static __device__ __forceinline__ int
ia3_share_size(const ia3_bias_shares &s, int n_k)
{
    return n_k > 0 ? (n_k + s.step - 1) / s.step * s.step + s.queries - 1 : 0;
}

static __device__ __forceinline__ float *
ia3_share_of(const ia3_bias_shares &s, const ia3_attention &a, int seq, int head, int group)
{
    return s.p + (((size_t) seq * (size_t) a.n_heads + (size_t) head) * (size_t) s.groups + (size_t) group) *
                     (size_t) s.ld;
}

/* How many of `splits` blocks a sequence of n_k keys can use if each block takes `keys` at a time. */
static __host__ __device__ __forceinline__ int
ia3_splits_used(int n_k, int keys, int splits)
{
    int tiles = (n_k + keys - 1) / keys;
    return tiles < splits ? tiles : splits;
}

/*
 * The generic kernels, for fp32 and for shapes and strides that the tensor-core kernels do not support. They keep
 * whole heads in shared memory, which limits d_kv (ia3_device.max_d_kv) to 512 where a block may have 131 KB, and to
 * 387 with the 99 KB of compute capabilities 8.6, 8.9 and 12.x.
 */
int ia3_cuda_generic_max_d_kv(size_t shared_bytes);
void ia3_cuda_attention_generic(ia3_cuda *cuda, const ia3_attention *a);
void ia3_cuda_attention_generic_bwd(ia3_cuda *cuda, const ia3_attention *a, const ia3_attention_grad *g,
                                    float *dots, float *partial, int splits, ia3_bias_shares shares);
enum { IA3_GENERIC_ROWS = 8, IA3_GENERIC_WALK = 32 };

/* The kernels for bf16 on tensor cores. */
void ia3_cuda_attention_mma(ia3_cuda *cuda, const ia3_attention *a);
void ia3_cuda_attention_mma_bwd(ia3_cuda *cuda, const ia3_attention *a, const ia3_attention_grad *g,
                                float *dots, float *partial, int splits, ia3_bias_shares shares);
enum { IA3_MMA_KEYS = 64, IA3_MMA_GROUP = 16 /* queries, and keys at a time, of a warp */ };

/*
 * The kernels for trees (decoder self-attention). partial: [n_seq, 1, 2, inner] or NULL. biases: [query rows, n_heads, max_k],
 * which gets dS for the ancestor that is so many steps above the query, or NULL.
 */
void ia3_cuda_tree_attention(ia3_cuda *cuda, const ia3_attention *a);
void ia3_cuda_tree_attention_bwd(ia3_cuda *cuda, const ia3_attention *a, const ia3_attention_grad *g,
                                 float *partial, float *biases);

#endif
