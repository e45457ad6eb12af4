/*
 * rmsnorm.cu
 *     T5's layer norm, forward and backward, and the embedding. Formulas: kernels/cpu/rmsnorm.c.
 *
 * There is one block per row. Its threads read the row twice, the second time from the cache. The speed is limited by
 * memory: 824 rows of 2,048 columns are 6.7 MB of input and 3.4 MB of output, which takes 3 µs on an H100.
 */
#include "four.cuh"

namespace {

enum { WARPS = 4, THREADS = 32 * WARPS };

/* The second pass of a norm: y = w ⊙ x·r for the columns of a thread. */
template <typename T>
__device__ __forceinline__ void
scale_row(T *y, const float *x, const float *w, int d, float r)
{
    for (int col = (int) threadIdx.x * 4; col < d; col += THREADS * 4) {
        ia3_four f = ia3_load_four(x, col, d);
        const ia3_four g = ia3_load_four(w, col, d);
        for (int i = 0; i < 4; i++)
            f.v[i] = g.v[i] * (f.v[i] * r);
        ia3_store_four(y, f, col, d);
    }
}

template <typename T>
__global__ void
__launch_bounds__(THREADS) norm_kernel(T *y, float *rstd, const float *x, const float *w, int d, float eps)
{
    IA3_SHARED(float, shared);
    const size_t row = blockIdx.x;
    const float *from = x + row * (size_t) d;
    float squares = 0.0f;
    for (int col = (int) threadIdx.x * 4; col < d; col += THREADS * 4) {
        const ia3_four f = ia3_load_four(from, col, d);
        for (int i = 0; i < 4; i++)
            squares += f.v[i] * f.v[i];
    }
    const float r = 1.0f / sqrtf(ia3_block_sum<WARPS>(squares, shared) / (float) d + eps);
    if (rstd && threadIdx.x == 0)
        rstd[row] = r;
    scale_row(y + row * (size_t) d, from, w, d, r);
}

/* sum = x + drop(y), and its norm. A thread reads only what it has written itself. */
template <typename T>
__global__ void
__launch_bounds__(THREADS)
    add_norm_kernel(T *out, float *rstd, float *sum, const float *x, const float *y, const uint64_t *row_key,
                    uint32_t site, const ia3_cuda_mask mask, const float *w, int d, float eps)
{
    IA3_SHARED(float, shared);
    const size_t row = blockIdx.x, at = row * (size_t) d;
    const uint64_t key = mask.on ? row_key[row] : 0;
    float squares = 0.0f;
    for (int col = (int) threadIdx.x * 4; col < d; col += THREADS * 4) {
        ia3_four f = ia3_load_four(y + at, col, d);
        const ia3_four before = ia3_load_four(x + at, col, d);
        if (mask.on)
            ia3_drop_four(&f, mask, key, site, col);
        for (int i = 0; i < 4; i++)
            f.v[i] += before.v[i];
        ia3_store_four(sum + at, f, col, d);
        for (int i = 0; i < 4; i++)
            squares += f.v[i] * f.v[i];
    }
    const float r = 1.0f / sqrtf(ia3_block_sum<WARPS>(squares, shared) / (float) d + eps);
    if (rstd && threadIdx.x == 0)
        rstd[row] = r;
    scale_row(out + at, sum + at, w, d, r);
}

/* With DROP, dy becomes drop(dx) in the same pass. */
template <typename T, bool DROP>
__global__ void
__launch_bounds__(THREADS)
    norm_bwd_kernel(float *dx, T *dy, const float *x, const float *w, const float *rstd,
                    const uint64_t *row_key, uint32_t site, const ia3_cuda_mask mask, int d)
{
    IA3_SHARED(float, shared);
    const size_t row = blockIdx.x, at = row * (size_t) d;
    const uint64_t key = DROP && mask.on ? row_key[row] : 0;
    const float r = rstd[row];
    float dot = 0.0f;
    for (int col = (int) threadIdx.x * 4; col < d; col += THREADS * 4) {
        const ia3_four g = ia3_load_four(dy + at, col, d), f = ia3_load_four(x + at, col, d);
        const ia3_four v = ia3_load_four(w, col, d);
        for (int i = 0; i < 4; i++)
            dot += g.v[i] * v.v[i] * f.v[i];
    }
    const float c = ia3_block_sum<WARPS>(dot, shared) / (float) d * r * r;
    for (int col = (int) threadIdx.x * 4; col < d; col += THREADS * 4) {
        const ia3_four g = ia3_load_four(dy + at, col, d), f = ia3_load_four(x + at, col, d);
        const ia3_four v = ia3_load_four(w, col, d);
        ia3_four sum = ia3_load_four(dx + at, col, d);
        for (int i = 0; i < 4; i++)
            sum.v[i] += r * (v.v[i] * g.v[i] - f.v[i] * c);
        ia3_store_four(dx + at, sum, col, d);
        if (DROP) {
            if (mask.on)
                ia3_drop_four(&sum, mask, key, site, col);
            ia3_store_four(dy + at, sum, col, d);
        }
    }
}

template <typename T>
__global__ void
__launch_bounds__(THREADS) embed_kernel(float *x, const int32_t *ids, int d, const T *table)
{
    const T *from = table + (size_t) ids[blockIdx.x] * (size_t) d;
    for (int col = (int) threadIdx.x * 4; col < d; col += THREADS * 4)
        ia3_store_four(x + (size_t) blockIdx.x * (size_t) d, ia3_load_four(from, col, d), col, d);
}

} /* namespace */

void
ia3_cuda_rmsnorm(ia3_device *dev, void *y, float *rstd, const float *x, const float *w, int rows, int d,
                 float eps)
{
    ia3_cuda *cuda = (ia3_cuda *) dev;
    if (rows <= 0)
        return;
    if (cuda->bf16)
        IA3_LAUNCH((norm_kernel<uint16_t>), (unsigned) rows, THREADS, WARPS * sizeof(float), cuda->stream,
                   (uint16_t *) y, rstd, x, w, d, eps);
    else
        IA3_LAUNCH((norm_kernel<float>), (unsigned) rows, THREADS, WARPS * sizeof(float), cuda->stream,
                   (float *) y, rstd, x, w, d, eps);
}

namespace {

template <bool DROP>
void
norm_bwd(ia3_device *dev, float *dx, void *dy, const float *x, const float *w, const float *rstd,
         const ia3_dropout &drop, int rows, int d)
{
    ia3_cuda *cuda = (ia3_cuda *) dev;
    const ia3_cuda_mask mask = ia3_cuda_mask_of(&drop);
    if (rows <= 0)
        return;
    if (cuda->bf16)
        IA3_LAUNCH((norm_bwd_kernel<uint16_t, DROP>), (unsigned) rows, THREADS, WARPS * sizeof(float),
                   cuda->stream, dx, (uint16_t *) dy, x, w, rstd, drop.row_key, drop.site, mask, d);
    else
        IA3_LAUNCH((norm_bwd_kernel<float, DROP>), (unsigned) rows, THREADS, WARPS * sizeof(float),
                   cuda->stream, dx, (float *) dy, x, w, rstd, drop.row_key, drop.site, mask, d);
}

} /* namespace */

void
ia3_cuda_rmsnorm_bwd(ia3_device *dev, float *dx, const void *dy, const float *x, const float *w,
                     const float *rstd, int rows, int d)
{
    const ia3_dropout none = {};
    norm_bwd<false>(dev, dx, (void *) dy, x, w, rstd, none, rows, d); /* which only reads dy */
}

void
ia3_cuda_norm_bwd_drop(ia3_device *dev, float *dx, void *dy, const float *x, const float *w,
                       const float *rstd, ia3_dropout drop, int rows, int d)
{
    norm_bwd<true>(dev, dx, dy, x, w, rstd, drop, rows, d);
}

void
ia3_cuda_add_norm(ia3_device *dev, void *out, float *rstd, float *sum, const float *x, const float *y,
                  ia3_dropout drop, const float *w, int rows, int d, float eps)
{
    ia3_cuda *cuda = (ia3_cuda *) dev;
    const ia3_cuda_mask mask = ia3_cuda_mask_of(&drop);
    if (rows <= 0)
        return;
    if (cuda->bf16)
        IA3_LAUNCH((add_norm_kernel<uint16_t>), (unsigned) rows, THREADS, WARPS * sizeof(float), cuda->stream,
                   (uint16_t *) out, rstd, sum, x, y, drop.row_key, drop.site, mask, w, d, eps);
    else
        IA3_LAUNCH((add_norm_kernel<float>), (unsigned) rows, THREADS, WARPS * sizeof(float), cuda->stream,
                   (float *) out, rstd, sum, x, y, drop.row_key, drop.site, mask, w, d, eps);
}

void
ia3_cuda_embed(ia3_device *dev, float *x, const int32_t *ids, int rows, int d, const void *table)
{
    ia3_cuda *cuda = (ia3_cuda *) dev;
    if (rows <= 0)
        return;
    if (cuda->bf16)
        IA3_LAUNCH((embed_kernel<uint16_t>), (unsigned) rows, THREADS, 0, cuda->stream, x, ids, d,
                   (const uint16_t *) table);
    else
        IA3_LAUNCH((embed_kernel<float>), (unsigned) rows, THREADS, 0, cuda->stream, x, ids, d,
                   (const float *) table);
}
