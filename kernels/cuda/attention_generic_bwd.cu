/*
 * attention_generic_bwd.cu
 *     Backward attention in fp32 arithmetic for any shape. The formulas and the division into two kernels are those
 *     of attention_mma_bwd.cu.
 */
#include "attention_generic.cuh"

namespace {

/*
 * Shared memory in bytes, for floats: four arrays of rows [ROWS, d], tile [WALK, d + 1], two arrays of weights
 * [ROWS, WALK], two of sums [ROWS].
 */
size_t
shared_bytes(int d)
{
    size_t rows = 4 * (size_t) IA3_GENERIC_ROWS * (size_t) d, tile = IA3_GENERIC_WALK * ((size_t) d + 1);
    return (rows + tile + 2 * IA3_GENERIC_ROWS * (IA3_GENERIC_WALK + 1)) * sizeof(float);
}

struct shared_arrays {
    float *rows[4], *tile, *weights[2];
    float *over; /* [2, ROWS] */
};

__device__ __forceinline__ shared_arrays
lay_out(float *sh, int d)
{
    shared_arrays s;
    for (int i = 0; i < 4; i++)
        s.rows[i] = sh + i * IA3_GENERIC_ROWS * d;
    s.tile = sh + 4 * IA3_GENERIC_ROWS * d;
    for (int i = 0; i < 2; i++)
        s.weights[i] = s.tile + IA3_GENERIC_WALK * (d + 1) + i * IA3_GENERIC_ROWS * IA3_GENERIC_WALK;
    s.over = s.weights[1] + IA3_GENERIC_ROWS * IA3_GENERIC_WALK;
    return s;
}

/* P of query i and key j, which are indices within the sequence, from their dot product. */
__device__ __forceinline__ float
weight(const ia3_attention &a, const ia3_attention_item &it, float dot, int i, int j)
{
    size_t at = (size_t) (it.q0 + i) * (size_t) a.n_heads + (size_t) it.head;
    return expf(dot + (a.bias ? ia3_bias_of(a, it.head)[j - i] : 0.0f) - a.lse[at]);
}

__device__ __forceinline__ float
keep(const ia3_attention &a, const ia3_attention_item &it, const ia3_cuda_mask &mask, int i, int j)
{
    uint64_t key = mask.on ? a.dropout.row_key[it.q0 + i] : 0;
    return ia3_generic_keep(mask, key, a.dropout.site + (uint32_t) it.head, j);
}

/*
 * Adds up ds [ROWS, WALK] by distance, with one thread for each. The last ROWS - 1 distances occur with the next keys as well:
 * their sums are kept in s.over, in turns. to: the share's element for the first of these keys.
 */
__device__ __forceinline__ void
add_diagonals(const shared_arrays &s, const float *ds, float *to, int j)
{
    const int x = (int) threadIdx.x, turn = j / IA3_GENERIC_WALK & 1;
    float sum = 0.0f;
    if (x >= IA3_GENERIC_WALK + IA3_GENERIC_ROWS - 1)
        return;
    for (int row = 0; row < IA3_GENERIC_ROWS; row++) {
        const int col = x - (IA3_GENERIC_ROWS - 1) + row;
        if (col >= 0 && col < IA3_GENERIC_WALK)
            sum += ds[row * IA3_GENERIC_WALK + col];
    }
    if (x >= IA3_GENERIC_WALK)
        s.over[turn * IA3_GENERIC_ROWS + x - IA3_GENERIC_WALK] = sum;
    else
        to[x] = sum + (j > 0 && x < IA3_GENERIC_ROWS - 1 ? s.over[(turn ^ 1) * IA3_GENERIC_ROWS + x] : 0.0f);
}

/* Writes the sums of the last distances, after a barrier. */
__device__ __forceinline__ void
end_diagonals(const shared_arrays &s, float *share, int n_k)
{
    const int steps = (n_k + IA3_GENERIC_WALK - 1) / IA3_GENERIC_WALK, x = (int) threadIdx.x;
    if (steps > 0 && x < IA3_GENERIC_ROWS - 1)
        share[steps * IA3_GENERIC_WALK + x] = s.over[((steps - 1) & 1) * IA3_GENERIC_ROWS + x];
}

/* Computes dots (ia3_dot_at) = dout · out, which the other kernel reads, and dq and the shares of the bias unless they are NULL. */
template <typename T>
__global__ void
__launch_bounds__(IA3_GENERIC_THREADS, 1)
    queries_kernel(const ia3_attention a, const ia3_cuda_mask mask, const void *dout, void *dq, float *dots,
                   const ia3_bias_shares shares)
{
    IA3_SHARED(float, sh);
    const int d = a.d_kv, ld = d + 1, lane = (int) threadIdx.x & 31, warp = (int) threadIdx.x >> 5;
    const ia3_attention_item it = ia3_attention_item_of(a, blockIdx.x);
    const int first = it.tile * IA3_GENERIC_ROWS;
    if (first >= it.n_q)
        return;
    const shared_arrays s = lay_out(sh, d);
    float *q = s.rows[0], *g = s.rows[1], *sum = s.rows[2], *out = s.rows[3], *ds = s.weights[0];
    const size_t inner = (size_t) (a.n_heads * d);
    ia3_generic_load<T>(q, d, IA3_GENERIC_ROWS, a.q, a.q_stride, it.q0, first, it.n_q, it.head, d, NULL);
    ia3_generic_load<T>(g, d, IA3_GENERIC_ROWS, dout, inner, it.q0, first, it.n_q, it.head, d, NULL);
    ia3_generic_load<T>(out, d, IA3_GENERIC_ROWS, a.out, inner, it.q0, first, it.n_q, it.head, d, NULL);
    for (int i = (int) threadIdx.x; i < IA3_GENERIC_ROWS * d; i += IA3_GENERIC_THREADS)
        sum[i] = 0.0f;
    __syncthreads();
    float dot[IA3_GENERIC_PER_WARP], p[IA3_GENERIC_PER_WARP] = {};
    for (int x = 0; x < IA3_GENERIC_PER_WARP; x++) {
        int mine = warp * IA3_GENERIC_PER_WARP + x, i = first + mine;
        float part = 0.0f;
        for (int c = lane; c < d; c += 32)
            part += g[mine * d + c] * out[mine * d + c];
        dot[x] = ia3_warp_sum(part);
        if (lane == 0 && i < it.n_q)
            dots[ia3_dot_at(a, it, i)] = dot[x];
    }
    for (int j = 0; j < it.n_k && (dq || shares.p); j += IA3_GENERIC_WALK) {
        __syncthreads();
        ia3_generic_load<T>(s.tile, ld, IA3_GENERIC_WALK, a.k, a.kv_stride, it.k0, j, it.n_k, it.head, d,
                            it.lk);
        __syncthreads();
        for (int x = 0; x < IA3_GENERIC_PER_WARP; x++) {
            int mine = warp * IA3_GENERIC_PER_WARP + x, i = first + mine;
            float score = ia3_generic_dot(q + mine * d, s.tile + lane * ld, d);
            p[x] = i < it.n_q && j + lane < it.n_k ? weight(a, it, score, i, j + lane) : 0.0f;
        }
        __syncthreads();
        ia3_generic_load<T>(s.tile, ld, IA3_GENERIC_WALK, a.v, a.kv_stride, it.k0, j, it.n_k, it.head, d,
                            it.lv);
        __syncthreads();
        for (int x = 0; x < IA3_GENERIC_PER_WARP; x++) {
            int mine = warp * IA3_GENERIC_PER_WARP + x, i = first + mine;
            float dp = ia3_generic_dot(g + mine * d, s.tile + lane * ld, d);
            if (i < it.n_q)
                dp *= keep(a, it, mask, i, j + lane);
            ds[mine * IA3_GENERIC_WALK + lane] = p[x] * (dp - dot[x]);
        }
        __syncthreads();
        if (shares.p)
            add_diagonals(s, ds, ia3_share_of(shares, a, it.seq, it.head, it.tile) + j, j);
        ia3_generic_load<T>(s.tile, ld, IA3_GENERIC_WALK, a.k, a.kv_stride, it.k0, j, it.n_k, it.head, d,
                            it.lk);
        __syncthreads();
        for (int x = 0; x < IA3_GENERIC_PER_WARP; x++) {
            int mine = warp * IA3_GENERIC_PER_WARP + x;
            ia3_generic_add(sum + mine * d, 1.0f, ds + mine * IA3_GENERIC_WALK, s.tile, ld, d);
        }
    }
    __syncthreads();
    if (shares.p)
        end_diagonals(s, ia3_share_of(shares, a, it.seq, it.head, it.tile), it.n_k);
    for (int i = (int) threadIdx.x; i < IA3_GENERIC_ROWS * d && dq; i += IA3_GENERIC_THREADS)
        if (first + i / d < it.n_q)
            ia3_act_store((T *) dq + (size_t) (it.q0 + first + i / d) * a.q_stride +
                              (size_t) (it.head * d + i % d),
                          sum[i]);
}

/*
 * Writes d ⊙ l for the block's keys; returns this thread's share of dl: the sum of d ⊙ the unscaled rows over these
 * keys.
 */
template <typename T>
__device__ __forceinline__ float
store_column(const ia3_attention &a, const ia3_attention_item &it, int first, int c, const float *scaled,
             const void *unscaled, void *to, const float *l)
{
    float sum = 0.0f;
    for (int x = 0; x < IA3_GENERIC_ROWS && first + x < it.n_k; x++) {
        size_t at = (size_t) (it.k0 + first + x) * a.kv_stride + (size_t) (it.head * a.d_kv + c);
        float value = scaled[x * a.d_kv + c];
        sum += value * ia3_act_load((const T *) unscaled + at);
        ia3_act_store((T *) to + at, l ? value * l[c] : value);
    }
    return sum;
}

template <typename T>
__global__ void
__launch_bounds__(IA3_GENERIC_THREADS)
    keys_kernel(const ia3_attention a, const ia3_cuda_mask mask, const ia3_attention_grad grad,
                const float *dots, float *partial, int splits)
{
    IA3_SHARED(float, sh);
    const int d = a.d_kv, ld = d + 1, lane = (int) threadIdx.x & 31, warp = (int) threadIdx.x >> 5;
    const ia3_attention_item it = ia3_attention_item_of(a, blockIdx.x);
    if (it.tile * IA3_GENERIC_ROWS >= it.n_k)
        return;
    const shared_arrays s = lay_out(sh, d);
    float *k = s.rows[0], *v = s.rows[1], *dk = s.rows[2], *dv = s.rows[3];
    const size_t inner = (size_t) (a.n_heads * d);
    float *part = partial ? ia3_partial_at(partial, a, it, splits, it.tile) : NULL;
    for (int first = it.tile * IA3_GENERIC_ROWS; first < it.n_k; first += splits * IA3_GENERIC_ROWS) {
        __syncthreads();
        ia3_generic_load<T>(k, d, IA3_GENERIC_ROWS, a.k, a.kv_stride, it.k0, first, it.n_k, it.head, d,
                            it.lk);
        ia3_generic_load<T>(v, d, IA3_GENERIC_ROWS, a.v, a.kv_stride, it.k0, first, it.n_k, it.head, d,
                            it.lv);
        for (int i = (int) threadIdx.x; i < IA3_GENERIC_ROWS * d; i += IA3_GENERIC_THREADS)
            dk[i] = dv[i] = 0.0f;
        for (int i = 0; i < it.n_q; i += IA3_GENERIC_WALK) {
            __syncthreads();
            ia3_generic_load<T>(s.tile, ld, IA3_GENERIC_WALK, a.q, a.q_stride, it.q0, i, it.n_q, it.head, d,
                                NULL);
            __syncthreads();
            float p[IA3_GENERIC_PER_WARP];
            for (int x = 0; x < IA3_GENERIC_PER_WARP; x++) {
                int mine = warp * IA3_GENERIC_PER_WARP + x, j = first + mine;
                float score = ia3_generic_dot(k + mine * d, s.tile + lane * ld, d);
                p[x] = i + lane < it.n_q && j < it.n_k ? weight(a, it, score, i + lane, j) : 0.0f;
            }
            __syncthreads();
            ia3_generic_load<T>(s.tile, ld, IA3_GENERIC_WALK, grad.dout, inner, it.q0, i, it.n_q, it.head, d,
                                NULL);
            __syncthreads();
            for (int x = 0; x < IA3_GENERIC_PER_WARP; x++) {
                int mine = warp * IA3_GENERIC_PER_WARP + x, at = mine * IA3_GENERIC_WALK + lane;
                float dp = ia3_generic_dot(v + mine * d, s.tile + lane * ld, d), dot = 0.0f, m = 1.0f;
                if (i + lane < it.n_q) {
                    m = keep(a, it, mask, i + lane, first + mine);
                    dot = dots[ia3_dot_at(a, it, i + lane)];
                }
                s.weights[0][at] = p[x] * m;
                s.weights[1][at] = p[x] * (dp * m - dot);
            }
            __syncwarp();
            for (int x = 0; x < IA3_GENERIC_PER_WARP; x++) {
                int mine = warp * IA3_GENERIC_PER_WARP + x;
                ia3_generic_add(dv + mine * d, 1.0f, s.weights[0] + mine * IA3_GENERIC_WALK, s.tile, ld, d);
            }
            __syncthreads();
            ia3_generic_load<T>(s.tile, ld, IA3_GENERIC_WALK, a.q, a.q_stride, it.q0, i, it.n_q, it.head, d,
                                NULL);
            __syncthreads();
            for (int x = 0; x < IA3_GENERIC_PER_WARP; x++) {
                int mine = warp * IA3_GENERIC_PER_WARP + x;
                ia3_generic_add(dk + mine * d, 1.0f, s.weights[1] + mine * IA3_GENERIC_WALK, s.tile, ld, d);
            }
        }
        __syncthreads();
        for (int c = (int) threadIdx.x; c < d; c += IA3_GENERIC_THREADS) {
            float sum_k = store_column<T>(a, it, first, c, dk, a.k, grad.dk, it.lk);
            float sum_v = store_column<T>(a, it, first, c, dv, a.v, grad.dv, it.lv);
            if (part) {
                bool begins = first == it.tile * IA3_GENERIC_ROWS;
                part[c] = (begins ? 0.0f : part[c]) + sum_k;
                part[inner + c] = (begins ? 0.0f : part[inner + c]) + sum_v;
            }
        }
    }
}

template <typename T>
void
launch(ia3_cuda *cuda, const ia3_attention *a, const ia3_attention_grad *g, float *dots, float *partial,
       int splits, const ia3_bias_shares &shares)
{
    const ia3_cuda_mask mask = ia3_cuda_mask_of(&a->dropout);
    const unsigned heads = (unsigned) a->n_seq * (unsigned) a->n_heads;
    unsigned tiles = (unsigned) (a->max_q + IA3_GENERIC_ROWS - 1) / IA3_GENERIC_ROWS;
    if (tiles > 0)
        IA3_LAUNCH((queries_kernel<T>), tiles * heads, IA3_GENERIC_THREADS, shared_bytes(a->d_kv),
                   cuda->stream, *a, mask, g->dout, g->dq, dots, shares);
    if (splits > 0)
        IA3_LAUNCH((keys_kernel<T>), (unsigned) splits * heads, IA3_GENERIC_THREADS, shared_bytes(a->d_kv),
                   cuda->stream, *a, mask, *g, (const float *) dots, partial, splits);
}

} /* namespace */

/* The backward pass needs more shared memory than the forward pass, so it sets the limit. */
int
ia3_cuda_generic_max_d_kv(size_t shared)
{
    int d = 512;
    while (d > 0 && shared_bytes(d) > shared)
        d--;
    return d;
}

void
ia3_cuda_attention_generic_bwd(ia3_cuda *cuda, const ia3_attention *a, const ia3_attention_grad *g,
                               float *dots, float *partial, int splits, ia3_bias_shares shares)
{
    if (cuda->bf16)
        launch<uint16_t>(cuda, a, g, dots, partial, splits, shares);
    else
        launch<float>(cuda, a, g, dots, partial, splits, shares);
}
