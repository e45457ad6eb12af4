/*
 * attention_generic.cu
 *     Forward attention in fp32 arithmetic for any shape. Formulas: kernels/cpu/attention.c. The softmax is computed
 *     tile by tile: sums are rescaled when a larger score appears.
 */
#include "attention_generic.cuh"

namespace {

/* Shared memory in bytes, for floats: q, out [ROWS, d], tile [WALK, d + 1], weights [ROWS, WALK]. */
size_t
shared_bytes(int d)
{
    size_t rows = 2 * (size_t) IA3_GENERIC_ROWS * (size_t) d, tile = IA3_GENERIC_WALK * ((size_t) d + 1);
    return (rows + tile + IA3_GENERIC_ROWS * IA3_GENERIC_WALK) * sizeof(float);
}

/* A query's running maximum and sum of exponentials. */
struct softmax {
    float max, sum;
};

/*
 * Adds 32 scores, one per lane. Stores the weight of the lane's key in *weight and returns the factor by which the
 * earlier sums have to be multiplied.
 */
__device__ __forceinline__ float
softmax_step(softmax *s, float score, float *weight)
{
    float max = fmaxf(s->max, ia3_warp_max(score)), shrink = expf(s->max - max);
    *weight = expf(score - max);
    s->sum = s->sum * shrink + ia3_warp_sum(*weight);
    s->max = max;
    return shrink;
}

template <typename T>
__global__ void
__launch_bounds__(IA3_GENERIC_THREADS) generic_kernel(const ia3_attention a, const ia3_cuda_mask mask)
{
    IA3_SHARED(float, sh);
    const int d = a.d_kv, ld = d + 1, lane = (int) threadIdx.x & 31, warp = (int) threadIdx.x >> 5;
    const ia3_attention_item it = ia3_attention_item_of(a, blockIdx.x);
    const int first = it.tile * IA3_GENERIC_ROWS;
    if (first >= it.n_q)
        return;
    float *q = sh, *out = q + IA3_GENERIC_ROWS * d, *tile = out + IA3_GENERIC_ROWS * d,
          *weights = tile + IA3_GENERIC_WALK * ld;
    const uint32_t site = a.dropout.site + (uint32_t) it.head;
    const size_t first_key = ia3_first_key_at(a, it);
    ia3_generic_load<T>(q, d, IA3_GENERIC_ROWS, a.q, a.q_stride, it.q0, first, it.n_q, it.head, d, NULL);
    for (int i = (int) threadIdx.x; i < IA3_GENERIC_ROWS * d; i += IA3_GENERIC_THREADS)
        out[i] = 0.0f;
    softmax state[IA3_GENERIC_PER_WARP];
    for (int x = 0; x < IA3_GENERIC_PER_WARP; x++)
        state[x] = {-INFINITY, 0.0f};

    for (int j = 0; j < it.n_k; j += IA3_GENERIC_WALK) {
        float shrink[IA3_GENERIC_PER_WARP];
        __syncthreads();
        ia3_generic_load<T>(tile, ld, IA3_GENERIC_WALK, (const T *) a.k + first_key, a.kv_stride, 0, j,
                            it.n_k, it.head, d, it.lk);
        __syncthreads();
        for (int x = 0; x < IA3_GENERIC_PER_WARP; x++) {
            int mine = warp * IA3_GENERIC_PER_WARP + x, i = first + mine, key = j + lane;
            bool there = i < it.n_q && key < it.n_k;
            float s = ia3_generic_dot(q + mine * d, tile + lane * ld, d), weight;
            if (there && a.bias)
                s += ia3_bias_of(a, it.head)[key - i];
            shrink[x] = softmax_step(&state[x], key < it.n_k ? s : -INFINITY, &weight);
            if (there)
                weight *= ia3_generic_keep(mask, mask.on ? a.dropout.row_key[it.q0 + i] : 0, site, key);
            weights[mine * IA3_GENERIC_WALK + lane] = weight;
        }
        __syncthreads();
        ia3_generic_load<T>(tile, ld, IA3_GENERIC_WALK, (const T *) a.v + first_key, a.kv_stride, 0, j,
                            it.n_k, it.head, d, it.lv);
        __syncthreads();
        for (int x = 0; x < IA3_GENERIC_PER_WARP; x++) {
            int mine = warp * IA3_GENERIC_PER_WARP + x;
            ia3_generic_add(out + mine * d, shrink[x], weights + mine * IA3_GENERIC_WALK, tile, ld, d);
        }
    }
    __syncthreads();
    for (int x = 0; x < IA3_GENERIC_PER_WARP; x++) {
        int mine = warp * IA3_GENERIC_PER_WARP + x, i = first + mine;
        if (i >= it.n_q)
            continue;
        /* without keys the output is zero */
        float scale = it.n_k > 0 ? 1.0f / state[x].sum : 0.0f;
        size_t at = (size_t) (it.q0 + i) * (size_t) a.n_heads + (size_t) it.head;
        for (int c = lane; c < d; c += 32)
            ia3_act_store((T *) a.out + at * (size_t) d + c, out[mine * d + c] * scale);
        if (a.lse && lane == 0)
            a.lse[at] = it.n_k > 0 ? state[x].max + logf(state[x].sum) : -INFINITY;
    }
}

template <typename T>
void
launch(ia3_cuda *cuda, const ia3_attention *a)
{
    unsigned tiles = (unsigned) (a->max_q + IA3_GENERIC_ROWS - 1) / IA3_GENERIC_ROWS;
    IA3_LAUNCH((generic_kernel<T>), tiles * (unsigned) a->n_seq * (unsigned) a->n_heads, IA3_GENERIC_THREADS,
               shared_bytes(a->d_kv), cuda->stream, *a, ia3_cuda_mask_of(&a->dropout));
}

} /* namespace */

void
ia3_cuda_attention_generic(ia3_cuda *cuda, const ia3_attention *a)
{
    if (cuda->bf16)
        launch<uint16_t>(cuda, a);
    else
        launch<float>(cuda, a);
}
