/*
 * tree_attention.cu
 *     Decoder self-attention along a prefix tree, forward and backward. Formulas: kernels/cpu/tree_attention.c.
 *
 * Paths are short (a choice has a few tokens), so plain dot products in fp32 are good enough; a warp computes one, with
 * every 32nd column in a lane. A warp that owns a query follows the path from it to the root and computes the softmax
 * on the way; a warp that owns a key processes the rows below it in their order. Nothing is stored per path, so depth
 * is unlimited.
 *
 * 64 rows with 32 heads and d_kv = 64 are 2,048 warps, which run at the same time. A step along a path is two
 * coalesced reads of 128 bytes and a reduction, about 100 cycles; this adds up to microseconds per layer.
 */
#include "attention.cuh"
#include "attention_generic.cuh"

namespace {

enum { QUERY_WARPS = 4, KEY_WARPS = 8 };

/* Loads the lane's columns of one head of a row, times l. */
template <typename T, int N>
__device__ __forceinline__ void
load(float x[N], const T *row, int d, const float *l)
{
    const int lane = (int) threadIdx.x & 31;
#pragma unroll
    for (int i = 0; i < N; i++) {
        int c = lane + 32 * i;
        x[i] = c < d ? ia3_act_load(row + c) * (l ? l[c] : 1.0f) : 0.0f;
    }
}

template <typename T, int N>
__device__ __forceinline__ void
store(T *row, const float x[N], int d, float scale, const float *l)
{
    const int lane = (int) threadIdx.x & 31;
#pragma unroll
    for (int i = 0; i < N; i++) {
        int c = lane + 32 * i;
        if (c < d)
            ia3_act_store(row + c, x[i] * scale * (l ? l[c] : 1.0f));
    }
}

template <int N>
__device__ __forceinline__ float
dot(const float x[N], const float y[N])
{
    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < N; i++)
        sum += x[i] * y[i];
    return ia3_warp_sum(sum);
}

/* y += c·x */
template <int N>
__device__ __forceinline__ void
add(float y[N], const float x[N], float c)
{
#pragma unroll
    for (int i = 0; i < N; i++)
        y[i] += c * x[i];
}

/* The address of the head in row `row` of q or dq; the next two functions: of k and v, of out and dout. */
template <typename T>
__device__ __forceinline__ const T *
at_q(const void *base, const ia3_attention &a, int row, int head)
{
    return ia3_act_row<T>(base, a.q_stride, row, head, a.d_kv);
}

template <typename T>
__device__ __forceinline__ const T *
at_k(const void *base, const ia3_attention &a, int row, int head)
{
    return ia3_act_row<T>(base, a.kv_stride, row, head, a.d_kv);
}

template <typename T>
__device__ __forceinline__ const T *
at_out(const void *base, const ia3_attention &a, int row, int head)
{
    return ia3_act_row<T>(base, (size_t) a.n_heads * (size_t) a.d_kv, row, head, a.d_kv);
}

/* The dropout multiplier of query `row` for its ancestor at `depth`. */
__device__ __forceinline__ float
keep(const ia3_attention &a, const ia3_cuda_mask &mask, int head, int row, int depth)
{
    return ia3_generic_keep(mask, mask.on ? a.dropout.row_key[row] : 0, a.dropout.site + (uint32_t) head,
                            depth);
}

/* The row this warp owns, or -1. */
__device__ __forceinline__ int
own_query(const ia3_attention_item &it)
{
    int i = it.tile * QUERY_WARPS + ((int) threadIdx.x >> 5);
    return i < it.n_q ? it.q0 + i : -1;
}

template <typename T, int N>
__global__ void __launch_bounds__(32 * QUERY_WARPS)
    forward_kernel(const ia3_attention a, const ia3_cuda_mask mask)
{
    const ia3_attention_item it = ia3_attention_item_of(a, blockIdx.x);
    const int row = own_query(it);
    if (row < 0)
        return;
    const float *bias = a.bias ? ia3_bias_of(a, it.head) - a.depth[row] : NULL;
    float q[N], out[N] = {}, max = -INFINITY, sum = 0.0f;
    load<T, N>(q, at_q<T>(a.q, a, row, it.head), a.d_kv, it.lk);
    int depth = a.depth[row];
    for (int at = row; at >= 0; at = a.parent[at], depth--) {
        float k[N], v[N];
        load<T, N>(k, at_k<T>(a.k, a, at, it.head), a.d_kv, NULL);
        load<T, N>(v, at_k<T>(a.v, a, at, it.head), a.d_kv, NULL);
        float s = dot<N>(q, k) + (bias ? bias[depth] : 0.0f), top = fmaxf(max, s);
        float shrink = expf(max - top), p = expf(s - top);
        max = top;
        sum = sum * shrink + p;
        p *= keep(a, mask, it.head, row, depth);
#pragma unroll
        for (int i = 0; i < N; i++)
            out[i] = out[i] * shrink + p * v[i];
    }
    store<T, N>((T *) at_out<T>(a.out, a, row, it.head), out, a.d_kv, 1.0f / sum, it.lv);
    if (a.lse && ((int) threadIdx.x & 31) == 0)
        a.lse[(size_t) row * (size_t) a.n_heads + (size_t) it.head] = max + logf(sum);
}

template <typename T, int N>
__global__ void __launch_bounds__(32 * QUERY_WARPS)
    queries_kernel(const ia3_attention a, const ia3_cuda_mask mask, const void *dout, void *dq, float *biases)
{
    const ia3_attention_item it = ia3_attention_item_of(a, blockIdx.x);
    const int row = own_query(it);
    if (row < 0)
        return;
    const float *bias = a.bias ? ia3_bias_of(a, it.head) - a.depth[row] : NULL;
    const float lse = a.lse[(size_t) row * (size_t) a.n_heads + (size_t) it.head];
    float q[N], g[N], out[N], sum[N] = {};
    load<T, N>(g, at_out<T>(dout, a, row, it.head), a.d_kv, NULL);
    load<T, N>(out, at_out<T>(a.out, a, row, it.head), a.d_kv, NULL);
    const float mean = dot<N>(g, out);
    load<T, N>(q, at_q<T>(a.q, a, row, it.head), a.d_kv, it.lk);
    load<T, N>(g, at_out<T>(dout, a, row, it.head), a.d_kv, it.lv);
    const int own_depth = a.depth[row];
    float *by_steps = biases ? biases + ia3_dot_at(a, it, row - it.q0) * (size_t) a.max_k : NULL;
    int depth = own_depth;
    for (int at = row; at >= 0; at = a.parent[at], depth--) {
        float k[N], v[N];
        load<T, N>(k, at_k<T>(a.k, a, at, it.head), a.d_kv, NULL);
        load<T, N>(v, at_k<T>(a.v, a, at, it.head), a.d_kv, NULL);
        float p = expf(dot<N>(q, k) + (bias ? bias[depth] : 0.0f) - lse);
        float ds = p * (dot<N>(g, v) * keep(a, mask, it.head, row, depth) - mean);
        add<N>(sum, k, ds);
        if (by_steps && ((int) threadIdx.x & 31) == 0)
            by_steps[own_depth - depth] = ds;
    }
    if (dq)
        store<T, N>((T *) at_q<T>(dq, a, row, it.head), sum, a.d_kv, 1.0f, it.lk);
}

/* Whether `key` is the row itself or one of its ancestors. Each lane calls this for a different row. */
__device__ __forceinline__ bool
sees(const ia3_attention &a, int row, int key, int depth)
{
    while (a.depth[row] > depth)
        row = a.parent[row];
    return row == key;
}

/* A key, its value, and their gradients. */
template <int N> struct key_sums {
    float k[N], v[N], dk[N], dv[N];
};

/* Adds the contribution of query `row`. */
template <typename T, int N>
__device__ __forceinline__ void
add_query(key_sums<N> &r, const ia3_attention &a, const ia3_cuda_mask &mask, const void *dout, int head,
          int row, int depth)
{
    float q[N], g[N], out[N];
    load<T, N>(q, at_q<T>(a.q, a, row, head), a.d_kv, NULL);
    load<T, N>(g, at_out<T>(dout, a, row, head), a.d_kv, NULL);
    load<T, N>(out, at_out<T>(a.out, a, row, head), a.d_kv, NULL);
    float bias = a.bias ? ia3_bias_of(a, head)[depth - a.depth[row]] : 0.0f;
    float lse = a.lse[(size_t) row * (size_t) a.n_heads + (size_t) head];
    float p = expf(dot<N>(q, r.k) + bias - lse), m = keep(a, mask, head, row, depth);
    add<N>(r.dk, q, p * (dot<N>(g, r.v) * m - dot<N>(g, out)));
    add<N>(r.dv, g, p * m);
}

/* total += d ⊙ row, column by column. */
template <typename T, int N>
__device__ __forceinline__ void
add_product(float total[N], const float d[N], const T *row, int width)
{
    float x[N];
    load<T, N>(x, row, width, NULL);
#pragma unroll
    for (int i = 0; i < N; i++)
        total[i] += d[i] * x[i];
}

/* Adds up sums[KEY_WARPS, 2, d] of this block in the order of the warps. */
__device__ __forceinline__ void
write_partial(float *to, const float *sums, int d, size_t inner)
{
    for (int i = (int) threadIdx.x; i < 2 * d; i += 32 * KEY_WARPS) {
        float sum = 0.0f;
        for (int w = 0; w < KEY_WARPS; w++)
            sum += sums[w * 2 * d + i];
        to[(size_t) (i / d) * inner + (size_t) (i % d)] = sum;
    }
}

/* There is one block per head of a sequence, whose warps take the keys in turn. */
template <typename T, int N>
__global__ void __launch_bounds__(32 * KEY_WARPS) keys_kernel(const ia3_attention a, const ia3_cuda_mask mask,
                                                              const ia3_attention_grad grad, float *partial)
{
    IA3_SHARED(float, sums);
    const ia3_attention_item it = ia3_attention_item_of(a, blockIdx.x);
    const int d = a.d_kv, lane = (int) threadIdx.x & 31, warp = (int) threadIdx.x >> 5, end = it.k0 + it.n_k;
    float dlk[N] = {}, dlv[N] = {};
    for (int key = it.k0 + warp; key < end; key += KEY_WARPS) {
        const int depth = a.depth[key];
        key_sums<N> r;
        load<T, N>(r.k, at_k<T>(a.k, a, key, it.head), d, it.lk);
        load<T, N>(r.v, at_k<T>(a.v, a, key, it.head), d, it.lv);
        for (int i = 0; i < N; i++)
            r.dk[i] = r.dv[i] = 0.0f;
        for (int first = key; first < end; first += 32) {
            unsigned below = ia3_ballot(first + lane < end && sees(a, first + lane, key, depth));
            for (int row = first; below; row++, below >>= 1)
                if (below & 1)
                    add_query<T, N>(r, a, mask, grad.dout, it.head, row, depth);
        }
        add_product<T, N>(dlk, r.dk, at_k<T>(a.k, a, key, it.head), d);
        add_product<T, N>(dlv, r.dv, at_k<T>(a.v, a, key, it.head), d);
        store<T, N>((T *) at_k<T>(grad.dk, a, key, it.head), r.dk, d, 1.0f, it.lk);
        store<T, N>((T *) at_k<T>(grad.dv, a, key, it.head), r.dv, d, 1.0f, it.lv);
    }
    if (!partial)
        return;
    for (int i = 0; i < N; i++)
        if (lane + 32 * i < d) {
            sums[warp * 2 * d + lane + 32 * i] = dlk[i];
            sums[(warp * 2 + 1) * d + lane + 32 * i] = dlv[i];
        }
    __syncthreads();
    write_partial(ia3_partial_at(partial, a, it, 1, 0), sums, d, (size_t) (a.n_heads * d));
}

unsigned
query_blocks(const ia3_attention *a)
{
    unsigned tiles = (unsigned) (a->max_q + QUERY_WARPS - 1) / QUERY_WARPS;
    return tiles * (unsigned) a->n_seq * (unsigned) a->n_heads;
}

template <typename T, int N>
void
launch_forward(ia3_cuda *cuda, const ia3_attention *a)
{
    IA3_LAUNCH((forward_kernel<T, N>), query_blocks(a), 32 * QUERY_WARPS, 0, cuda->stream, *a,
               ia3_cuda_mask_of(&a->dropout));
}

template <typename T, int N>
void
launch_backward(ia3_cuda *cuda, const ia3_attention *a, const ia3_attention_grad *g, float *partial,
                float *biases)
{
    const ia3_cuda_mask mask = ia3_cuda_mask_of(&a->dropout);
    if (g->dq || biases)
        IA3_LAUNCH((queries_kernel<T, N>), query_blocks(a), 32 * QUERY_WARPS, 0, cuda->stream, *a, mask,
                   g->dout, g->dq, biases);
    IA3_LAUNCH((keys_kernel<T, N>), (unsigned) a->n_seq * (unsigned) a->n_heads, 32 * KEY_WARPS,
               KEY_WARPS * 2 * (size_t) a->d_kv * sizeof(float), cuda->stream, *a, mask, *g, partial);
}

} /* namespace */

/* Calls function<type, columns per lane>(...) for this problem. */
#define DISPATCH(function, ...)                                                                              \
    do {                                                                                                     \
        if (cuda->bf16 && a->d_kv <= 64)                                                                     \
            function<uint16_t, 2>(__VA_ARGS__);                                                              \
        else if (cuda->bf16 && a->d_kv <= 128)                                                               \
            function<uint16_t, 4>(__VA_ARGS__);                                                              \
        else if (cuda->bf16)                                                                                 \
            function<uint16_t, 16>(__VA_ARGS__);                                                             \
        else if (a->d_kv <= 64)                                                                              \
            function<float, 2>(__VA_ARGS__);                                                                 \
        else                                                                                                 \
            function<float, 16>(__VA_ARGS__);                                                                \
    } while (0)

void
ia3_cuda_tree_attention(ia3_cuda *cuda, const ia3_attention *a)
{
    DISPATCH(launch_forward, cuda, a);
}

void
ia3_cuda_tree_attention_bwd(ia3_cuda *cuda, const ia3_attention *a, const ia3_attention_grad *g,
                            float *partial, float *biases)
{
    if (a->max_q > 0)
        DISPATCH(launch_backward, cuda, a, g, partial, biases);
}
