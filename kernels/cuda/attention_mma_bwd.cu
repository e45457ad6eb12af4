/*
 * attention_mma_bwd.cu
 *     Backward attention in bf16 on tensor cores. Formulas: kernels/cpu/attention_bwd.c; P is recomputed from lse.
 *
 * There are two kernels, so that every sum is computed by one thread in a fixed order:
 *   queries  A block processes 64 queries of one head and iterates over the keys. It computes D_i = Σ_j P_ij·dP_ij,
 *            which equals dout_i · out_i (even with dropout, which out contains), stores it for the other kernel, and
 *            then computes dq, and each warp's share of the gradient of the bias.
 *   keys     A block processes 64 keys of one head and iterates over the queries. It computes the scores transposed,
 *            so that P and dS are already the left operands of dv' = Pᵀ·dout and dk' = dSᵀ·q. A sequence's tiles of
 *            keys are divided among at most IA3_KEY_SPLITS blocks; each block's share of dl_k and dl_v goes to a row
 *            of its own in the partial sums.
 *
 * For d_kv = 64 the queries kernel uses 46 KB of shared memory per block and the keys kernel 50 KB, and both 128 registers,
 * so that four blocks fit in a multiprocessor with 228 KB.
 */
#include "attention_mma.cuh"

namespace {

/*
 * The double buffers hold tiles of KEY_ROWS keys or QUERY_ROWS queries. KEYS (or QUERIES) of these are processed at a time.
 * With d_kv = 64 as many as let four blocks share a multiprocessor's memory and registers: eight inputs of 65 to 128 tokens
 * and 32 heads are then processed all at once on a GPU with 132 of them.
 */
template <int D> struct walk {
    enum { KEY_ROWS = D <= 64 ? 64 : 32, QUERY_ROWS = 32, KEYS = 16, QUERIES = 16 };
    enum { KEY_SIZE = KEY_ROWS * ia3_tile<D>::LD, QUERY_SIZE = QUERY_ROWS * ia3_tile<D>::LD };
};

/* P from a score; lse2 is lse to base 2. */
__device__ __forceinline__ float
weight(float s, float lse2)
{
    return ia3_exp2(s * IA3_LOG2E - lse2);
}

/* Blocks with d_kv = 64 that fit in a multiprocessor's shared memory: 228 KB from sm_90 on, 164 KB before. */
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
enum { BLOCKS = 4 };
#else
enum { BLOCKS = 2 };
#endif

/* ---- queries ---- */

template <int D> struct queries_shared {
    uint4 q_low[D / 16][IA3_MMA_THREADS]; /* each thread's own */
    uint16_t k[2][walk<D>::KEY_SIZE], v[2][walk<D>::KEY_SIZE];
    float bias[2][IA3_MMA_ROWS + walk<D>::KEY_ROWS];
};

template <int D> struct query_rows {
    uint32_t q[D / 16][4], dout[D / 16][4]; /* the high half of q ⊙ l_k; dout ⊙ l_v */
    uint4 *q_low;                           /* [D / 16][IA3_MMA_THREADS]: the low half, in shared memory */
    float dq[D / 8][4];                     /* before ⊙ l_k */
    float dot[2], lse2[2];                  /* lse2: lse to base 2 */
    uint64_t key[2];
    bool split;
};

/* Computes D of the thread's two rows from r.dout and out. */
template <int D>
__device__ __forceinline__ void
dot_rows(query_rows<D> &r, const ia3_rows &out, int row)
{
    int t = (int) threadIdx.x & 3;
    for (int half = 0; half < 2; half++) {
        float sum = 0.0f;
#pragma unroll
        for (int kk = 0; kk < D / 16; kk++)
#pragma unroll
            for (int e = half; e < 4; e += 2) {
                uint32_t o = ia3_rows_pair(out, row + half * 8, kk * 16 + (e >> 1) * 8 + 2 * t),
                         d = r.dout[kk][e];
                sum += ia3_bf16_low(d) * ia3_bf16_low(o) + ia3_bf16_high(d) * ia3_bf16_high(o);
            }
        sum += ia3_shfl_xor(sum, 1);
        sum += ia3_shfl_xor(sum, 2);
        r.dot[half] = sum;
    }
}

template <int D>
__device__ __forceinline__ void
load_query_rows(query_rows<D> &r, uint4 q_low[][IA3_MMA_THREADS], const ia3_attention &a,
                const ia3_attention_item &it, const void *dout, int row)
{
    int t = (int) threadIdx.x & 3, inner = a.n_heads * a.d_kv;
    const ia3_rows q = ia3_rows_of(a.q, a.q_stride, it.q0, it.n_q, it.head, a.d_kv);
    const ia3_rows d = ia3_rows_of(dout, (size_t) inner, it.q0, it.n_q, it.head, a.d_kv);
    r.split = it.lk != NULL;
    r.q_low = &q_low[0][threadIdx.x];
#pragma unroll
    for (int kk = 0; kk < D / 16; kk++)
#pragma unroll
        for (int e = 0; e < 4; e++)
            r.dout[kk][e] = ia3_rows_pair(d, row + (e & 1) * 8, kk * 16 + (e >> 1) * 8 + 2 * t);
    dot_rows(r, ia3_rows_of(a.out, (size_t) inner, it.q0, it.n_q, it.head, a.d_kv), row);
#pragma unroll
    for (int kk = 0; kk < D / 16; kk++) {
        uint32_t low[4] = {}, unused;
#pragma unroll
        for (int e = 0; e < 4; e++) {
            int col = kk * 16 + (e >> 1) * 8 + 2 * t;
            uint32_t pair = ia3_rows_pair(q, row + (e & 1) * 8, col);
            r.q[kk][e] = pair;
            if (col >= a.d_kv)
                continue;
            if (it.lk)
                ia3_scaled_pair(&r.q[kk][e], &low[e], pair, it.lk, col);
            if (it.lv)
                ia3_scaled_pair(&r.dout[kk][e], &unused, r.dout[kk][e], it.lv, col);
        }
        uint4 words;
        words.x = low[0], words.y = low[1], words.z = low[2], words.w = low[3];
        r.q_low[kk * IA3_MMA_THREADS] = words;
    }
    for (int half = 0; half < 2; half++) {
        bool there = row + half * 8 < it.n_q;
        int at = it.q0 + row + half * 8;
        r.lse2[half] =
            there ? a.lse[(size_t) at * (size_t) a.n_heads + (size_t) it.head] * IA3_LOG2E : INFINITY;
        r.key[half] = there && a.dropout.row_key ? a.dropout.row_key[at] : 0;
    }
#pragma unroll
    for (int n = 0; n < D / 8; n++)
#pragma unroll
        for (int e = 0; e < 4; e++)
            r.dq[n][e] = 0.0f;
}

/* A warp's dS by distance: [16, LD] in shared memory, and the sums of the distances that occur with the next keys as well. */
struct by_distance {
    enum { LD = IA3_MMA_GROUP + 1, SIZE = IA3_MMA_GROUP * LD };
    float *tile, over;
    float *share; /* the warp's, from the next keys on */
};

/* Adds up a warp's 16 queries by 16 keys of dS, with one lane for each of the 31 distances. */
__device__ __forceinline__ void
add_diagonals(by_distance &b, const float s[2][4])
{
    const int lane = (int) threadIdx.x & 31, g = lane >> 2, t = lane & 3;
    float sum = 0.0f;
    __syncwarp(); /* the previous tile has been read */
#pragma unroll
    for (int n = 0; n < 2; n++)
#pragma unroll
        for (int e = 0; e < 4; e++)
            b.tile[(g + (e >> 1) * 8) * by_distance::LD + n * 8 + 2 * t + (e & 1)] = s[n][e];
    __syncwarp();
    for (int row = 0; row < IA3_MMA_GROUP; row++) {
        const int col = lane - (IA3_MMA_GROUP - 1) + row;
        if (col >= 0 && col < IA3_MMA_GROUP)
            sum += b.tile[row * by_distance::LD + col];
    }
    const float next = ia3_shfl_xor(sum, IA3_MMA_GROUP);
    if (lane < IA3_MMA_GROUP)
        b.share[lane] = sum + b.over;
    b.over = next;
    b.share += IA3_MMA_GROUP;
}

/*
 * Adds the contribution of walk::KEYS keys to dq. k, v: their tiles; bias: that of the thread's first element; col:
 * the index of the first key in the sequence; n_k: how many keys are left.
 */
template <int D, bool BIAS>
__device__ __forceinline__ void
walk_keys(query_rows<D> &r, by_distance &distances, const uint16_t *k, const uint16_t *v, const float *bias,
          int n_k, const ia3_cuda_mask &mask, uint32_t site, int col)
{
    enum { TILES = walk<D>::KEYS / 8 };
    static_assert((int) walk<D>::KEYS == (int) IA3_MMA_GROUP, "add_diagonals takes so many keys");
    int t = (int) threadIdx.x & 3;
    float s[TILES][4] = {}, dp[TILES][4] = {};
#pragma unroll
    for (int kk = 0; kk < D / 16; kk++) {
        const uint4 words = r.q_low[kk * IA3_MMA_THREADS];
        const uint32_t low[4] = {words.x, words.y, words.z, words.w};
#pragma unroll
        for (int n = 0; n < TILES; n += 2) {
            uint32_t b[4];
            ia3_tile_b<D>(b, k, n * 8, kk * 16);
            ia3_mma_pair(s[n], s[n + 1], r.q[kk], b);
            if (r.split)
                ia3_mma_pair(s[n], s[n + 1], low, b);
            ia3_tile_b<D>(b, v, n * 8, kk * 16);
            ia3_mma_pair(dp[n], dp[n + 1], r.dout[kk], b);
        }
    }
    uint32_t keep = mask.on ? ia3_keep_by_query<TILES>(mask, site, r.key, col) : 0xffffffffu;
    if (bias)
        ia3_add_bias<TILES>(s, bias, 1);
#pragma unroll
    for (int n = 0; n < TILES; n++)
#pragma unroll
        for (int e = 0; e < 4; e++) {
            float p = n * 8 + 2 * t + (e & 1) < n_k ? weight(s[n][e], r.lse2[e >> 1]) : 0.0f;
            float d = keep >> (4 * n + e) & 1 ? dp[n][e] * mask.keep : 0.0f;
            s[n][e] = p * (d - r.dot[e >> 1]);
        }
    if (BIAS)
        add_diagonals(distances, s);
#pragma unroll
    for (int kk = 0; kk < TILES / 2; kk++) {
        uint32_t ds[4];
        ia3_fragment_of(ds, s[2 * kk], s[2 * kk + 1]);
#pragma unroll
        for (int n = 0; n < D / 8; n += 2) {
            uint32_t b[4];
            ia3_tile_b_trans<D>(b, k, kk * 16, n * 8);
            ia3_mma_pair(r.dq[n], r.dq[n + 1], ds, b);
        }
    }
}

template <int D>
__device__ __forceinline__ void
store_dq(const query_rows<D> &r, const ia3_attention &a, const ia3_attention_item &it, void *dq, int half,
         int row)
{
    int t = (int) threadIdx.x & 3;
    if (row >= it.n_q)
        return;
    uint16_t *to = (uint16_t *) dq + (size_t) (it.q0 + row) * a.q_stride + (size_t) it.head * (size_t) a.d_kv;
#pragma unroll
    for (int n = 0; n < D / 8; n++) {
        int col = n * 8 + 2 * t;
        if (col >= a.d_kv)
            continue;
        float x = r.dq[n][2 * half], y = r.dq[n][2 * half + 1];
        if (it.lk) {
            x *= it.lk[col];
            y *= it.lk[col + 1];
        }
        *(uint32_t *) (void *) (to + col) = ia3_pack_bf16(x, y);
    }
}

/*
 * Computes dots (ia3_dot_at), the values D for the other kernel, and dq unless it is NULL; with BIAS, the shares of the gradient
 * of the bias. The tiles of `by_distance` are behind the other shared memory.
 */
template <int D, bool BIAS>
__global__ void
__launch_bounds__(IA3_MMA_THREADS, D <= 64 ? BLOCKS : 1)
    queries_kernel(const ia3_attention a, const ia3_cuda_mask mask, const void *dout, void *dq, float *dots,
                   const ia3_bias_shares shares)
{
    enum { ROWS = walk<D>::KEY_ROWS };
    IA3_SHARED(queries_shared<D>, sh);
    const ia3_attention_item it = ia3_attention_item_of(a, blockIdx.x);
    const int first = it.tile * IA3_MMA_ROWS;
    if (first >= it.n_q)
        return;
    const ia3_rows k = ia3_rows_of(a.k, a.kv_stride, it.k0, it.n_k, it.head, a.d_kv);
    const ia3_rows v = ia3_rows_of(a.v, a.kv_stride, it.k0, it.n_k, it.head, a.d_kv);
    const int n_k = dq || BIAS ? it.n_k : 0;
    if (n_k > 0) {
        ia3_tile_load<D, ROWS>(sh->k[0], k, 0);
        ia3_tile_load<D, ROWS>(sh->v[0], v, 0);
    }
    ia3_cp_async_commit();

    const int warp_first = ((int) threadIdx.x >> 5) * 16, lane_row = (int) threadIdx.x >> 2 & 7,
              lane_col = ((int) threadIdx.x & 3) * 2;
    const int row = first + warp_first + lane_row;
    const bool busy = first + warp_first < it.n_q;
    by_distance distances = {};
    if (BIAS) {
        distances.tile = (float *) (void *) (sh + 1) + ((int) threadIdx.x >> 5) * by_distance::SIZE;
        distances.share = ia3_share_of(shares, a, it.seq, it.head, (first + warp_first) / IA3_MMA_GROUP);
    }
    query_rows<D> r;
    load_query_rows(r, sh->q_low, a, it, dout, row);
    for (int half = 0; half < 2; half++)
        if (((int) threadIdx.x & 3) == 0 && row + half * 8 < it.n_q)
            dots[ia3_dot_at(a, it, row + half * 8)] = r.dot[half];

    for (int j = 0, stage = 0; j < n_k; j += ROWS, stage ^= 1) {
        if (a.bias)
            ia3_bias_load(sh->bias[stage], a, it, j - first - (IA3_MMA_ROWS - 1), IA3_MMA_ROWS + ROWS - 1);
        ia3_cp_async_wait_all();
        __syncthreads(); /* this tile has arrived, and no thread uses the previous one any more */
        if (j + ROWS < n_k) {
            ia3_tile_load<D, ROWS>(sh->k[stage ^ 1], k, j + ROWS);
            ia3_tile_load<D, ROWS>(sh->v[stage ^ 1], v, j + ROWS);
        }
        ia3_cp_async_commit();
        for (int c = 0; c < ROWS && busy && j + c < n_k; c += walk<D>::KEYS)
            walk_keys<D, BIAS>(
                r, distances, sh->k[stage] + c * ia3_tile<D>::LD, sh->v[stage] + c * ia3_tile<D>::LD,
                a.bias ? sh->bias[stage] + IA3_MMA_ROWS - 1 - warp_first - lane_row + c + lane_col : NULL,
                n_k - j - c, mask, a.dropout.site + (uint32_t) it.head, j + c);
    }
    if (BIAS && busy && n_k > 0 && ((int) threadIdx.x & 31) < IA3_MMA_GROUP)
        distances.share[(int) threadIdx.x & 31] = distances.over;
    if (!dq)
        return;
    store_dq(r, a, it, dq, 0, row);
    store_dq(r, a, it, dq, 1, row + 8);
}

/* ---- keys ---- */

template <int D> struct keys_shared {
    uint16_t k[ia3_tile<D>::SIZE], k_low[ia3_tile<D>::SIZE],
        v[ia3_tile<D>::SIZE]; /* k ⊙ l_k split, v ⊙ l_v */
    union {
        uint16_t tiles[4][walk<D>::QUERY_SIZE]; /* q at [stage], dout at [2 + stage] */
        float results[4][16 * ia3_tile<D>::LD]; /* of the warps, at the end */
    };
    float bias[2][IA3_MMA_KEYS + walk<D>::QUERY_ROWS];
    float lse2[2][walk<D>::QUERY_ROWS], dot[2][walk<D>::QUERY_ROWS];
    uint64_t key[2][walk<D>::QUERY_ROWS];
    float sums[4][2][D]; /* each warp's share of dl_k and dl_v */
    float total[2 * D];  /* the block's, over all its tiles; a thread's own columns */
};

/* The gradients of a warp's 16 scaled keys and values. */
template <int D> struct key_rows {
    float dk[D / 8][4], dv[D / 8][4];
};

/* Copies 64 keys and values to shared memory and scales them. */
template <int D>
__device__ __forceinline__ void
load_keys(keys_shared<D> *sh, const ia3_attention &a, const ia3_attention_item &it, int first)
{
    const ia3_rows k = ia3_rows_of(a.k, a.kv_stride, it.k0, it.n_k, it.head, a.d_kv);
    const ia3_rows v = ia3_rows_of(a.v, a.kv_stride, it.k0, it.n_k, it.head, a.d_kv);
    for (int i = (int) threadIdx.x; i < IA3_MMA_KEYS * (D / 2); i += IA3_MMA_THREADS) {
        int row = i / (D / 2), col = i % (D / 2) * 2, at = row * ia3_tile<D>::LD + col;
        uint32_t key = ia3_rows_pair(k, first + row, col), value = ia3_rows_pair(v, first + row, col);
        uint32_t low = 0, unused;
        if (it.lk && col < k.d)
            ia3_scaled_pair(&key, &low, key, it.lk, col);
        if (it.lv && col < k.d)
            ia3_scaled_pair(&value, &unused, value, it.lv, col);
        *(uint32_t *) (void *) (sh->k + at) = key;
        *(uint32_t *) (void *) (sh->k_low + at) = low;
        *(uint32_t *) (void *) (sh->v + at) = value;
    }
}

/* Starts copying queries [i, i + ROWS) and the gradients of their results. */
template <int D>
__device__ __forceinline__ void
load_queries(keys_shared<D> *sh, int stage, const ia3_attention &a, const ia3_attention_item &it,
             const void *dout, int i)
{
    const size_t inner = (size_t) (a.n_heads * a.d_kv);
    ia3_tile_load<D, walk<D>::QUERY_ROWS>(sh->tiles[stage],
                                          ia3_rows_of(a.q, a.q_stride, it.q0, it.n_q, it.head, a.d_kv), i);
    ia3_tile_load<D, walk<D>::QUERY_ROWS>(sh->tiles[2 + stage],
                                          ia3_rows_of(dout, inner, it.q0, it.n_q, it.head, a.d_kv), i);
}

/*
 * Loads what the scores of queries [i, i + ROWS) need in addition to the tiles. Queries beyond the last one get weight
 * zero.
 */
template <int D>
__device__ __forceinline__ void
load_statistics(keys_shared<D> *sh, int stage, const ia3_attention &a, const ia3_attention_item &it,
                const float *dots, int i, int first)
{
    enum { ROWS = walk<D>::QUERY_ROWS };
    if (a.bias)
        ia3_bias_load(sh->bias[stage], a, it, first - i - (ROWS - 1), ROWS + IA3_MMA_KEYS - 1);
    int x = (int) threadIdx.x;
    if (x >= ROWS)
        return;
    bool there = i + x < it.n_q;
    size_t row = (size_t) (it.q0 + i + x), at = row * (size_t) a.n_heads + (size_t) it.head;
    sh->lse2[stage][x] = there ? a.lse[at] * IA3_LOG2E : INFINITY;
    sh->dot[stage][x] = there ? dots[ia3_dot_at(a, it, i + x)] : 0.0f;
    sh->key[stage][x] = there && a.dropout.row_key ? a.dropout.row_key[row] : 0;
}

/*
 * Adds the contribution of walk::QUERIES queries to the gradients of the warp's keys. x: the first of these queries
 * in the tile; key: the warp's first key.
 */
template <int D>
__device__ __forceinline__ void
walk_queries(key_rows<D> &r, const keys_shared<D> *sh, int stage, int x, bool split, int n_k, int first,
             bool biased, const ia3_cuda_mask &mask, uint32_t site)
{
    enum { TILES = walk<D>::QUERIES / 8, ROWS = walk<D>::QUERY_ROWS };
    const int lane = (int) threadIdx.x & 31, g = lane >> 2, t = lane & 3,
              warp_key = ((int) threadIdx.x >> 5) * 16;
    const uint16_t *q = sh->tiles[stage] + x * ia3_tile<D>::LD,
                   *dout = sh->tiles[2 + stage] + x * ia3_tile<D>::LD;
    float s[TILES][4] = {}, dp[TILES][4] = {};
#pragma unroll(D <= 64 ? 2 : 1)
    for (int kk = 0; kk < D / 16; kk++) {
        uint32_t k[4], low[4], v[4];
        ia3_tile_a<D>(k, sh->k, warp_key, kk * 16);
#pragma unroll
        for (int n = 0; n < TILES; n += 2) {
            uint32_t b[4];
            ia3_tile_b<D>(b, q, n * 8, kk * 16);
            ia3_mma_pair(s[n], s[n + 1], k, b);
            if (split) {
                ia3_tile_a<D>(low, sh->k_low, warp_key, kk * 16);
                ia3_mma_pair(s[n], s[n + 1], low, b);
            }
            ia3_tile_a<D>(v, sh->v, warp_key, kk * 16);
            ia3_tile_b<D>(b, dout, n * 8, kk * 16);
            ia3_mma_pair(dp[n], dp[n + 1], v, b);
        }
    }
    uint32_t keep =
        mask.on ? ia3_keep_by_key<TILES>(mask, site, sh->key[stage] + x, first + warp_key) : 0xffffffffu;
    if (biased)
        ia3_add_bias<TILES>(s, sh->bias[stage] + ROWS - 1 + warp_key + g - x - 2 * t, -1);
#pragma unroll
    for (int n = 0; n < TILES; n++)
#pragma unroll
        for (int e = 0; e < 4; e++) {
            int i = n * 8 + 2 * t + (e & 1), j = (e >> 1) * 8;
            float p = first + warp_key + g + j < n_k ? weight(s[n][e], sh->lse2[stage][x + i]) : 0.0f;
            float m = keep >> (4 * n + e) & 1 ? mask.keep : 0.0f;
            dp[n][e] = p * (dp[n][e] * m - sh->dot[stage][x + i]);
            s[n][e] = p * m;
        }
#pragma unroll
    for (int kk = 0; kk < TILES / 2; kk++) {
        uint32_t p[4], ds[4];
        ia3_fragment_of(p, s[2 * kk], s[2 * kk + 1]);
        ia3_fragment_of(ds, dp[2 * kk], dp[2 * kk + 1]);
#pragma unroll
        for (int n = 0; n < D / 8; n += 2) {
            uint32_t b[4];
            ia3_tile_b_trans<D>(b, dout, kk * 16, n * 8);
            ia3_mma_pair(r.dv[n], r.dv[n + 1], p, b);
            ia3_tile_b_trans<D>(b, q, kk * 16, n * 8);
            ia3_mma_pair(r.dk[n], r.dk[n + 1], ds, b);
        }
    }
}

/*
 * Writes d ⊙ l of a warp's 16 rows, and the sum of d ⊙ (unscaled row) over them to sums[D]. The results pass through
 * `stage`, [16, LD] floats of the warp's own, so that whole rows are read and written.
 */
template <int D>
__device__ __forceinline__ void
store_keys(const float d[D / 8][4], float *stage, const ia3_rows &unscaled, uint16_t *to, const float *l,
           float *sums, int first)
{
    enum { LD = ia3_tile<D>::LD };
    const int lane = (int) threadIdx.x & 31, g = lane >> 2, t = lane & 3;
    __syncwarp();
#pragma unroll
    for (int n = 0; n < D / 8; n++)
#pragma unroll
        for (int e = 0; e < 4; e++)
            stage[(g + (e >> 1) * 8) * LD + n * 8 + 2 * t + (e & 1)] = d[n][e];
    __syncwarp();
    for (int col = 2 * lane; col < D; col += 64) {
        float sum0 = 0.0f, sum1 = 0.0f, l0 = 1.0f, l1 = 1.0f;
        if (l && col < unscaled.d) {
            l0 = l[col];
            l1 = l[col + 1];
        }
#pragma unroll 4
        for (int x = 0; x < 16; x++) {
            const int row = first + x;
            if (row >= unscaled.n || col >= unscaled.d)
                break;
            const float d0 = stage[x * LD + col], d1 = stage[x * LD + col + 1];
            const uint32_t pair = ia3_rows_pair(unscaled, row, col);
            sum0 += d0 * ia3_bf16_low(pair);
            sum1 += d1 * ia3_bf16_high(pair);
            *(uint32_t *) (void *) (to + (int64_t) row * unscaled.stride + col) =
                ia3_pack_bf16(d0 * l0, d1 * l1);
        }
        sums[col] = sum0;
        sums[col + 1] = sum1;
    }
}

template <int D>
__global__ void
__launch_bounds__(IA3_MMA_THREADS, D <= 64 ? BLOCKS : 1)
    keys_kernel(const ia3_attention a, const ia3_cuda_mask mask, const void *dout, void *dk, void *dv,
                const float *dots, float *partial, int splits)
{
    enum { ROWS = walk<D>::QUERY_ROWS, SUMS = (2 * D + IA3_MMA_THREADS - 1) / IA3_MMA_THREADS };
    IA3_SHARED(keys_shared<D>, sh);
    const ia3_attention_item it = ia3_attention_item_of(a, blockIdx.x);
    if (it.tile * IA3_MMA_KEYS >= it.n_k)
        return;
    const int warp = (int) threadIdx.x >> 5;
    const bool split = it.lk != NULL;
    for (int x = (int) threadIdx.x; x < 2 * D; x += IA3_MMA_THREADS)
        sh->total[x] = 0.0f;

    for (int first = it.tile * IA3_MMA_KEYS; first < it.n_k; first += splits * IA3_MMA_KEYS) {
        if (it.n_q > 0)
            load_queries(sh, 0, a, it, dout, 0);
        ia3_cp_async_commit();
        load_keys(sh, a, ia3_attention_item_of(a, blockIdx.x), first);
        key_rows<D> r;
#pragma unroll
        for (int n = 0; n < D / 8; n++)
#pragma unroll
            for (int e = 0; e < 4; e++)
                r.dk[n][e] = r.dv[n][e] = 0.0f;
        for (int i = 0, stage = 0; i < it.n_q; i += ROWS, stage ^= 1) {
            load_statistics(sh, stage, a, it, dots, i, first);
            ia3_cp_async_wait_all();
            __syncthreads(); /* this tile has arrived, and no thread uses the previous one any more */
            if (i + ROWS < it.n_q)
                load_queries(sh, stage ^ 1, a, it, dout, i + ROWS);
            ia3_cp_async_commit();
            for (int x = 0; x < ROWS && i + x < it.n_q && first + warp * 16 < it.n_k; x += walk<D>::QUERIES)
                walk_queries(r, sh, stage, x, split, it.n_k, first, a.bias != NULL, mask,
                             a.dropout.site + (uint32_t) it.head);
        }
        __syncthreads(); /* results will overwrite the tiles of queries */
        /* looked up again, because a block's place takes registers that the loop above needs */
        const ia3_attention_item at = ia3_attention_item_of(a, blockIdx.x);
        const ia3_rows k = ia3_rows_of(a.k, a.kv_stride, at.k0, at.n_k, at.head, a.d_kv);
        const ia3_rows v = ia3_rows_of(a.v, a.kv_stride, at.k0, at.n_k, at.head, a.d_kv);
        const size_t head = (size_t) at.k0 * a.kv_stride + (size_t) at.head * (size_t) a.d_kv;
        store_keys<D>(r.dk, sh->results[warp], k, (uint16_t *) dk + head, at.lk, sh->sums[warp][0],
                      first + warp * 16);
        store_keys<D>(r.dv, sh->results[warp], v, (uint16_t *) dv + head, at.lv, sh->sums[warp][1],
                      first + warp * 16);
        __syncthreads();
        for (int x = 0; x < SUMS; x++) {
            int col = (int) threadIdx.x + x * IA3_MMA_THREADS;
            for (int w = 0; w < 4 && col < 2 * D; w++)
                sh->total[col] += sh->sums[w][col / D][col % D];
        }
    }
    float *to = partial ? ia3_partial_at(partial, a, it, splits, it.tile) : NULL;
    for (int x = 0; x < SUMS && to; x++) {
        int col = (int) threadIdx.x + x * IA3_MMA_THREADS;
        if (col < 2 * D && col % D < a.d_kv)
            to[col / D * a.n_heads * a.d_kv + col % D] = sh->total[col];
    }
}

/* ---- launches ---- */

template <int D, bool BIAS>
void
launch_queries(ia3_cuda *cuda, const ia3_attention *a, const ia3_attention_grad *g, float *dots,
               const ia3_bias_shares &shares, unsigned blocks)
{
    const size_t tiles = BIAS ? IA3_MMA_THREADS / 32 * by_distance::SIZE * sizeof(float) : 0;
    IA3_LAUNCH((queries_kernel<D, BIAS>), blocks, IA3_MMA_THREADS, sizeof(queries_shared<D>) + tiles,
               cuda->stream, *a, ia3_cuda_mask_of(&a->dropout), g->dout, g->dq, dots, shares);
}

template <int D>
void
launch(ia3_cuda *cuda, const ia3_attention *a, const ia3_attention_grad *g, float *dots, float *partial,
       int splits, const ia3_bias_shares &shares)
{
    const ia3_cuda_mask mask = ia3_cuda_mask_of(&a->dropout);
    const unsigned heads = (unsigned) a->n_seq * (unsigned) a->n_heads;
    unsigned tiles = (unsigned) (a->max_q + IA3_MMA_ROWS - 1) / IA3_MMA_ROWS;
    if (tiles > 0)
        (shares.p ? launch_queries<D, true> : launch_queries<D, false>) (cuda, a, g, dots, shares,
                                                                         tiles * heads);
    if (splits > 0)
        IA3_LAUNCH((keys_kernel<D>), (unsigned) splits * heads, IA3_MMA_THREADS, sizeof(keys_shared<D>),
                   cuda->stream, *a, mask, g->dout, g->dk, g->dv, (const float *) dots, partial, splits);
}

} /* namespace */

void
ia3_cuda_attention_mma_bwd(ia3_cuda *cuda, const ia3_attention *a, const ia3_attention_grad *g, float *dots,
                           float *partial, int splits, ia3_bias_shares shares)
{
    if (a->d_kv <= 32)
        launch<32>(cuda, a, g, dots, partial, splits, shares);
    else if (a->d_kv <= 64)
        launch<64>(cuda, a, g, dots, partial, splits, shares);
    else
        launch<128>(cuda, a, g, dots, partial, splits, shares);
}
