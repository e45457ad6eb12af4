/*
 * attention_mma.cu
 *     Forward attention in bf16 on tensor cores, in one pass over the keys (FlashAttention-2, Dao 2023).
 *
 *   S = (q ⊙ l_k)·kᵀ + bias     out = (Σ_j m_j·exp(S_j - max)·v_j / Σ_j exp(S_j - max)) ⊙ l_v     lse = log Σ exp S
 *
 * A block processes 64 queries of one head of one sequence, 16 per warp; keys are read 64 at a time through a double
 * buffer. The (IA)³ vectors are applied to queries and outputs, so keys and values are used as they are in memory. The
 * softmax is computed in fp32; its weights are rounded to bf16 for the second matrix product, but not for their sum.
 *
 * For d_kv = 64 a block uses 46 KB of shared memory and 128 registers per thread, so 4 blocks (16 warps) fit on a
 * multiprocessor with 228 KB. 8 sequences of 103 tokens with 32 heads are 512 blocks; 132 multiprocessors run 528 at a time.
 */
#include "attention_mma.cuh"

namespace {

/* Blocks with d_kv = 64 that fit in a multiprocessor's shared memory: 228 KB from sm_90 on, 164 KB before. */
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
enum { BLOCKS = 4 };
#else
enum { BLOCKS = 3 };
#endif

template <int D> struct fwd_shared {
    uint4 q_low[D / 16][IA3_MMA_THREADS]; /* each thread's own */
    uint16_t k[2][ia3_tile<D>::SIZE], v[2][ia3_tile<D>::SIZE];
    float bias[2][IA3_MMA_ROWS + IA3_MMA_KEYS];
};

/* A warp's state for its 16 queries; index 0 is row g, index 1 is row g + 8. */
template <int D> struct fwd_rows {
    uint32_t q[D / 16][4]; /* the high half of q ⊙ l_k */
    uint4 *q_low;          /* [D / 16][IA3_MMA_THREADS]: the low half, in shared memory */
    float out[D / 8][4];
    float max[2], sum[2];
    bool split; /* q_low is not all zeros */
};

template <int D>
__device__ __forceinline__ void
load_queries(fwd_rows<D> &r, uint4 q_low[][IA3_MMA_THREADS], const ia3_rows &q, const float *lk, int row)
{
    int t = (int) threadIdx.x & 3;
    r.split = lk != NULL;
    r.q_low = &q_low[0][threadIdx.x];
#pragma unroll
    for (int kk = 0; kk < D / 16; kk++) {
        uint32_t low[4] = {};
#pragma unroll
        for (int e = 0; e < 4; e++) {
            int col = kk * 16 + (e >> 1) * 8 + 2 * t;
            uint32_t pair = ia3_rows_pair(q, row + (e & 1) * 8, col);
            r.q[kk][e] = pair;
            if (lk && col < q.d)
                ia3_scaled_pair(&r.q[kk][e], &low[e], pair, lk, col);
        }
        uint4 words;
        words.x = low[0], words.y = low[1], words.z = low[2], words.w = low[3];
        r.q_low[kk * IA3_MMA_THREADS] = words;
    }
#pragma unroll
    for (int n = 0; n < D / 8; n++)
#pragma unroll
        for (int e = 0; e < 4; e++)
            r.out[n][e] = 0.0f;
    r.max[0] = r.max[1] = -INFINITY;
    r.sum[0] = r.sum[1] = 0.0f;
}

/* s = scores of the warp's queries for a tile of keys, and -inf beyond the n_k keys that are left. */
template <int D>
__device__ __forceinline__ void
scores(float s[8][4], const fwd_rows<D> &r, const uint16_t *k, const float *bias, int n_k)
{
    int lane = (int) threadIdx.x & 31, g = lane >> 2, t = lane & 3, warp = (int) threadIdx.x >> 5;
#pragma unroll
    for (int n = 0; n < 8; n++)
#pragma unroll
        for (int e = 0; e < 4; e++)
            s[n][e] = 0.0f;
#pragma unroll
    for (int kk = 0; kk < D / 16; kk++) {
        const uint4 words = r.q_low[kk * IA3_MMA_THREADS];
        const uint32_t low[4] = {words.x, words.y, words.z, words.w};
#pragma unroll
        for (int n = 0; n < 8; n += 2) {
            uint32_t b[4];
            ia3_tile_b<D>(b, k, n * 8, kk * 16);
            ia3_mma_pair(s[n], s[n + 1], r.q[kk], b);
            if (r.split)
                ia3_mma_pair(s[n], s[n + 1], low, b);
        }
    }
    if (bias)
        ia3_add_bias<8>(s, bias + IA3_MMA_ROWS - 1 - warp * 16 - g + 2 * t, 1);
    if (n_k >= IA3_MMA_KEYS)
        return;
#pragma unroll
    for (int n = 0; n < 8; n++)
#pragma unroll
        for (int e = 0; e < 4; e++)
            s[n][e] = n * 8 + 2 * t + (e & 1) < n_k ? s[n][e] : -INFINITY;
}

/* Replaces s by exp(s - max) and rescales the sums so far to the new maximum. */
template <int D>
__device__ __forceinline__ void
softmax_step(fwd_rows<D> &r, float s[8][4])
{
#pragma unroll
    for (int half = 0; half < 2; half++) {
        float max = r.max[half], sum = 0.0f;
#pragma unroll
        for (int n = 0; n < 8; n++)
            max = fmaxf(max, fmaxf(s[n][2 * half], s[n][2 * half + 1]));
        max = fmaxf(max, ia3_shfl_xor(max, 1));
        max = fmaxf(max, ia3_shfl_xor(max, 2));
        const float shrink = ia3_exp2((r.max[half] - max) * IA3_LOG2E);
#pragma unroll
        for (int n = 0; n < 8; n++)
#pragma unroll
            for (int e = 2 * half; e < 2 * half + 2; e++) {
                s[n][e] =
                    ia3_exp2((s[n][e] - max) * IA3_LOG2E); /* exactly 1 for the maximum, however large */
                sum += s[n][e];
            }
        r.sum[half] = r.sum[half] * shrink + sum;
        r.max[half] = max;
#pragma unroll
        for (int n = 0; n < D / 8; n++) {
            r.out[n][2 * half] *= shrink;
            r.out[n][2 * half + 1] *= shrink;
        }
    }
}

template <int D>
__device__ __forceinline__ void
add_values(fwd_rows<D> &r, const float s[8][4], const uint16_t *v)
{
#pragma unroll
    for (int kk = 0; kk < 4; kk++) {
        uint32_t p[4];
        ia3_fragment_of(p, s[2 * kk], s[2 * kk + 1]);
#pragma unroll
        for (int n = 0; n < D / 8; n += 2) {
            uint32_t b[4];
            ia3_tile_b_trans<D>(b, v, kk * 16, n * 8);
            ia3_mma_pair(r.out[n], r.out[n + 1], p, b);
        }
    }
}

/* Writes one of the thread's two rows; `keep` is the dropout multiplier of elements that were not dropped. */
template <int D>
__device__ __forceinline__ void
store_row(const fwd_rows<D> &r, const ia3_attention &a, const ia3_attention_item &it, int half, int row,
          float keep)
{
    int t = (int) threadIdx.x & 3;
    float sum = r.sum[half];
    sum += ia3_shfl_xor(sum, 1);
    sum += ia3_shfl_xor(sum, 2);
    if (row >= it.n_q)
        return;
    float scale = keep / sum;
    size_t at = (size_t) (it.q0 + row) * (size_t) a.n_heads + (size_t) it.head;
    uint16_t *out = (uint16_t *) a.out + at * (size_t) a.d_kv;
#pragma unroll
    for (int n = 0; n < D / 8; n++) {
        int col = n * 8 + 2 * t;
        if (col >= a.d_kv)
            continue;
        float x = r.out[n][2 * half] * scale, y = r.out[n][2 * half + 1] * scale;
        if (it.lv) {
            x *= it.lv[col];
            y *= it.lv[col + 1];
        }
        *(uint32_t *) (void *) (out + col) = ia3_pack_bf16(x, y);
    }
    if (a.lse && t == 0)
        a.lse[at] = r.max[half] + logf(sum);
}

/* Writes the output for a sequence without keys, which is zero. */
__device__ void
attend_nothing(const ia3_attention &a, const ia3_attention_item &it, int first)
{
    int rows = it.n_q - first < IA3_MMA_ROWS ? it.n_q - first : IA3_MMA_ROWS;
    for (int i = (int) threadIdx.x; i < rows * a.d_kv; i += IA3_MMA_THREADS) {
        size_t at = (size_t) (it.q0 + first + i / a.d_kv) * (size_t) a.n_heads + (size_t) it.head;
        ((uint16_t *) a.out)[at * (size_t) a.d_kv + (size_t) (i % a.d_kv)] = 0;
        if (a.lse && i % a.d_kv == 0)
            a.lse[at] = -INFINITY;
    }
}

template <int D>
__global__ void
__launch_bounds__(IA3_MMA_THREADS, D <= 64 ? BLOCKS : 2)
    attention_kernel(const ia3_attention a, const ia3_cuda_mask mask)
{
    IA3_SHARED(fwd_shared<D>, sh);
    const ia3_attention_item it = ia3_attention_item_of(a, blockIdx.x);
    const int first = it.tile * IA3_MMA_ROWS;
    if (first >= it.n_q)
        return;
    if (it.n_k == 0) {
        attend_nothing(a, it, first);
        return;
    }
    const ia3_rows q = ia3_rows_of(a.q, a.q_stride, it.q0, it.n_q, it.head, a.d_kv);
    const ia3_rows k = ia3_rows_of(a.k, a.kv_stride, it.k0, it.n_k, it.head, a.d_kv);
    const ia3_rows v = ia3_rows_of(a.v, a.kv_stride, it.k0, it.n_k, it.head, a.d_kv);
    ia3_tile_load<D, IA3_MMA_KEYS>(sh->k[0], k, 0);
    ia3_tile_load<D, IA3_MMA_KEYS>(sh->v[0], v, 0);
    ia3_cp_async_commit();

    const int warp_row = first + ((int) threadIdx.x >> 5) * 16, row = warp_row + ((int) threadIdx.x >> 2 & 7);
    const bool busy = warp_row < it.n_q;
    fwd_rows<D> r;
    load_queries(r, sh->q_low, q, it.lk, row);
    uint64_t key[2] = {0, 0};
    if (mask.on)
        for (int half = 0; half < 2; half++)
            key[half] = row + 8 * half < it.n_q ? a.dropout.row_key[it.q0 + row + 8 * half] : 0;

    for (int j = 0, stage = 0; j < it.n_k; j += IA3_MMA_KEYS, stage ^= 1) {
        if (a.bias)
            ia3_bias_load(sh->bias[stage], a, it, j - first - (IA3_MMA_ROWS - 1),
                          IA3_MMA_ROWS + IA3_MMA_KEYS - 1);
        ia3_cp_async_wait_all();
        __syncthreads(); /* this tile has arrived, and no thread uses the previous one any more */
        if (j + IA3_MMA_KEYS < it.n_k) {
            ia3_tile_load<D, IA3_MMA_KEYS>(sh->k[stage ^ 1], k, j + IA3_MMA_KEYS);
            ia3_tile_load<D, IA3_MMA_KEYS>(sh->v[stage ^ 1], v, j + IA3_MMA_KEYS);
        }
        ia3_cp_async_commit();
        if (!busy)
            continue;
        float s[8][4];
        scores(s, r, sh->k[stage], a.bias ? sh->bias[stage] : NULL, it.n_k - j);
        softmax_step(r, s);
        if (mask.on) {
            uint32_t keep = ia3_keep_by_query<8>(mask, a.dropout.site + (uint32_t) it.head, key, j);
#pragma unroll
            for (int n = 0; n < 8; n++)
#pragma unroll
                for (int e = 0; e < 4; e++)
                    s[n][e] = keep >> (4 * n + e) & 1 ? s[n][e] : 0.0f;
        }
        add_values(r, s, sh->v[stage]);
    }
    if (!busy)
        return;
    store_row(r, a, it, 0, row, mask.keep);
    store_row(r, a, it, 1, row + 8, mask.keep);
}

template <int D>
void
launch(ia3_cuda *cuda, const ia3_attention *a)
{
    unsigned tiles = (unsigned) (a->max_q + IA3_MMA_ROWS - 1) / IA3_MMA_ROWS;
    unsigned blocks = tiles * (unsigned) a->n_seq * (unsigned) a->n_heads;
    IA3_LAUNCH((attention_kernel<D>), blocks, IA3_MMA_THREADS, sizeof(fwd_shared<D>), cuda->stream, *a,
               ia3_cuda_mask_of(&a->dropout));
}

} /* namespace */

void
ia3_cuda_attention_mma(ia3_cuda *cuda, const ia3_attention *a)
{
    if (a->max_q <= 0)
        return;
    if (a->d_kv <= 32)
        launch<32>(cuda, a);
    else if (a->d_kv <= 64)
        launch<64>(cuda, a);
    else
        launch<128>(cuda, a);
}
