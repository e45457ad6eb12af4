/*
 * vocab.cu
 *     Log-probabilities of chosen tokens over the whole vocabulary, and their gradient. Formulas: kernels/cpu/vocab.c.
 *
 * The product with the vocabulary's weights is computed some rows at a time into a buffer of limited size; then one
 * block per row reads the row's logits once, with a running maximum and sum of exponentials. The buffer holds 512 rows
 * of 32,128 tokens, 66 MB. Writing and reading it takes about 40 µs on an H100, compared with 100 µs for the product
 * (d_model = 2,048), whose weights are read once for these rows. The backward pass stores dlogits of as many rows as
 * act and multiplies them by W.
 */
#include "cuda.h"

namespace {

enum { THREADS = 256 };
/* The size of the buffer of logits in bytes, unless a single row is larger. */
const size_t MAX_LOGITS = (size_t) 66 << 20;

/* The maximum of some numbers x, and Σ exp(x - maximum). */
struct part {
    float max, sum;
};

__device__ __forceinline__ part
merge(part x, part y)
{
    part z;
    z.max = fmaxf(x.max, y.max);
    z.sum = z.max == -INFINITY ? 0.0f : x.sum * expf(x.max - z.max) + y.sum * expf(y.max - z.max);
    return z;
}

/* Merges the block's parts in a fixed order; all threads get the result. */
__device__ __forceinline__ part
merge_block(part x, part *shared)
{
    for (int step = 16; step > 0; step /= 2) {
        part y;
        y.max = ia3_shfl_xor(x.max, step);
        y.sum = ia3_shfl_xor(x.sum, step);
        x = merge(x, y);
    }
    if (((int) threadIdx.x & 31) == 0)
        shared[(int) threadIdx.x >> 5] = x;
    __syncthreads();
    x = shared[0];
    for (int w = 1; w < THREADS / 32; w++)
        x = merge(x, shared[w]);
    return x;
}

/*
 * Computes the maximum and Σ exp for the thread's share of scale·logits[n]. `whole` says that n is a multiple of four,
 * so that every row is aligned.
 */
__device__ __forceinline__ part
own_part(const float *logits, int n, float scale, bool whole)
{
    part x = {-INFINITY, 0.0f};
    for (int v = (int) threadIdx.x * 4; v < n; v += THREADS * 4) {
        float l[4];
        if (whole) {
            const float4 four = *(const float4 *) (const void *) (logits + v);
            l[0] = four.x, l[1] = four.y, l[2] = four.z, l[3] = four.w;
        } else {
            for (int i = 0; i < 4; i++)
                l[i] = v + i < n ? logits[v + i] : -INFINITY;
        }
        part four = {-INFINITY, 0.0f};
        for (int i = 0; i < 4; i++) {
            l[i] *= scale;
            four.max = fmaxf(four.max, l[i]);
        }
        for (int i = 0; i < 4 && four.max > -INFINITY; i++)
            four.sum += expf(l[i] - four.max);
        x = merge(x, four);
    }
    return x;
}

/* Computes lse of row blockIdx.x and lp of its pairs, from the unscaled logits [rows, n]. */
__global__ void
__launch_bounds__(THREADS) logprobs_kernel(float *lp, float *lse, const float *logits, int n, float scale,
                                           const int32_t *pair_offsets, const int32_t *tokens)
{
    IA3_SHARED(part, shared);
    const int row = (int) blockIdx.x;
    const float *own = logits + (size_t) row * (size_t) n;
    part x = merge_block(own_part(own, n, scale, n % 4 == 0), shared);
    float total = x.max + logf(x.sum);
    if (threadIdx.x == 0)
        lse[row] = total;
    for (int i = pair_offsets[row] + (int) threadIdx.x; i < pair_offsets[row + 1]; i += THREADS)
        lp[i] = scale * own[tokens[i]] - total;
}

__device__ __forceinline__ void
store_act(float *p, float x)
{
    *p = x;
}

__device__ __forceinline__ void
store_act(uint16_t *p, float x)
{
    *p = (uint16_t) ia3_pack_bf16(x, 0.0f);
}

__device__ __forceinline__ void
store_four(float *p, float x, float y, float z, float w)
{
    float4 four;
    four.x = x, four.y = y, four.z = z, four.w = w;
    *(float4 *) (void *) p = four;
}

__device__ __forceinline__ void
store_four(uint16_t *p, float x, float y, float z, float w)
{
    uint2 four;
    four.x = ia3_pack_bf16(x, y), four.y = ia3_pack_bf16(z, w);
    *(uint2 *) (void *) p = four;
}

/*
 * Computes dlogits, times scale, of row blockIdx.x. Each column belongs to one thread, so if a token occurs more than
 * once its terms are added by one thread in the order of the pairs.
 */
template <typename T>
__global__ void
__launch_bounds__(THREADS)
    dlogits_kernel(T *dlogits, const float *logits, int n, float scale, const float *dlp, const float *lse,
                   const int32_t *pair_offsets, const int32_t *tokens)
{
    const int row = (int) blockIdx.x, begin = pair_offsets[row], end = pair_offsets[row + 1];
    const float *own = logits + (size_t) row * (size_t) n;
    T *to = dlogits + (size_t) row * (size_t) n;
    float total = 0.0f;
    for (int i = begin; i < end; i++)
        total += dlp[i];
    const float c = -total * scale, top = lse[row];
    if (n % 4 == 0) {
        for (int v = (int) threadIdx.x * 4; v < n; v += THREADS * 4) {
            const float4 l = *(const float4 *) (const void *) (own + v);
            store_four(to + v, c * expf(scale * l.x - top), c * expf(scale * l.y - top),
                       c * expf(scale * l.z - top), c * expf(scale * l.w - top));
        }
    } else {
        for (int v = (int) threadIdx.x; v < n; v += THREADS)
            store_act(to + v, c * expf(scale * own[v] - top));
    }
    __syncthreads();
    for (int i = begin + (int) threadIdx.x; i < end; i += THREADS) {
        const int token = tokens[i];
        bool first = true;
        for (int x = begin; x < i; x++)
            first = first && tokens[x] != token;
        if (!first)
            continue;
        float sum = c * expf(scale * own[token] - top);
        for (int x = i; x < end; x++)
            sum += tokens[x] == token ? dlp[x] * scale : 0.0f;
        store_act(to + token, sum);
    }
}

/* The number of rows whose logits are computed at a time. */
int
block_rows(const ia3_matrix *head, int rows)
{
    size_t n = MAX_LOGITS / ((size_t) head->out * sizeof(float));
    return n < 1 ? 1 : n < (size_t) rows ? (int) n : rows;
}

const char *
rows_from(const ia3_cuda *cuda, const void *h, int first, int width)
{
    return (const char *) h + (size_t) first * (size_t) width * cuda->act_size;
}

template <typename T>
void
launch_dlogits(ia3_cuda *cuda, void *dlogits, const float *logits, int rows, int n, float scale,
               const float *dlp, const float *lse, const int32_t *pair_offsets, const int32_t *tokens)
{
    IA3_LAUNCH((dlogits_kernel<T>), (unsigned) rows, THREADS, 0, cuda->stream, (T *) dlogits, logits, n,
               scale, dlp, lse, pair_offsets, tokens);
}

} /* namespace */

void
ia3_cuda_vocab_logprobs(ia3_device *dev, float *lp, float *lse, const void *h, int rows, ia3_matrix *head,
                        float scale, const int32_t *pair_offsets, const int32_t *tokens)
{
    ia3_cuda *cuda = (ia3_cuda *) dev;
    if (rows <= 0)
        return;
    const size_t mark = ia3_cuda_arena_mark(dev);
    const int block = block_rows(head, rows);
    float *logits = (float *) ia3_cuda_arena_alloc(dev, (size_t) block * (size_t) head->out * sizeof(float));
    for (int first = 0; first < rows; first += block) {
        int n = rows - first < block ? rows - first : block;
        ia3_cuda_matmul(dev, logits, rows_from(cuda, h, first, head->in), n, head, IA3_OUT_F32);
        IA3_LAUNCH(logprobs_kernel, (unsigned) n, THREADS, (THREADS / 32) * sizeof(part), cuda->stream, lp,
                   lse + first, (const float *) logits, head->out, scale, pair_offsets + first, tokens);
    }
    ia3_cuda_arena_release(dev, mark);
}

void
ia3_cuda_vocab_logprobs_bwd(ia3_device *dev, float *dh, float *dhead, const float *dlp, const float *lse,
                            const void *h, int rows, ia3_matrix *head, float scale,
                            const int32_t *pair_offsets, const int32_t *tokens)
{
    ia3_cuda *cuda = (ia3_cuda *) dev;
    if (rows <= 0)
        return;
    const size_t mark = ia3_cuda_arena_mark(dev);
    const int block = block_rows(head, rows);
    const size_t elements = (size_t) block * (size_t) head->out;
    float *logits = (float *) ia3_cuda_arena_alloc(dev, elements * sizeof(float));
    void *dlogits = ia3_cuda_arena_alloc(dev, elements * cuda->act_size);
    for (int first = 0; first < rows; first += block) {
        int n = rows - first < block ? rows - first : block;
        ia3_cuda_matmul(dev, logits, rows_from(cuda, h, first, head->in), n, head, IA3_OUT_F32);
        (cuda->bf16 ? launch_dlogits<uint16_t> : launch_dlogits<float>) (cuda, dlogits, logits, n, head->out,
                                                                         scale, dlp, lse + first,
                                                                         pair_offsets + first, tokens);
        ia3_cuda_matmul_bwd(dev, dh + (size_t) first * (size_t) head->in, dlogits, n, head, IA3_OUT_F32);
        if (dhead)
            ia3_cuda_matmul_grad(dev, dhead, dlogits, rows_from(cuda, h, first, head->in), n, head->out,
                                 head->in);
    }
    ia3_cuda_arena_release(dev, mark);
}
