/*
 * methods.cu
 *     Operations of the methods other than (IA)³: adding a row, multiplying by a row, adding a low-rank product; and
 *     products of vectors, which (IA)³ needs for some targets. Formulas: kernels/cpu/methods.c.
 *
 * For sums over rows, one thread per column adds the rows in their order. This is simple and deterministic but not
 * fast, which is acceptable because these methods exist for comparison.
 */
#include "four.cuh"

namespace {

enum { THREADS = 256, WARPS = THREADS / 32 };

template <typename T, bool MULTIPLY>
__global__ void
__launch_bounds__(THREADS) row_kernel(T *y, const float *b, size_t n, int cols)
{
    for (size_t i = (size_t) blockIdx.x * THREADS + threadIdx.x; i < n; i += (size_t) gridDim.x * THREADS) {
        const float x = ia3_value(y + i), s = b[i % (size_t) cols];
        ia3_set_value(y + i, MULTIPLY ? x * s : x + s);
    }
}

template <typename T>
__global__ void
__launch_bounds__(THREADS) sum_rows_kernel(float *sum, const T *x, int rows, int cols)
{
    const int col = (int) (blockIdx.x * THREADS + threadIdx.x);
    if (col >= cols)
        return;
    float s = sum[col];
    for (int r = 0; r < rows; r++)
        s += ia3_value(x + (size_t) r * (size_t) cols + col);
    sum[col] = s;
}

template <typename T>
__global__ void
__launch_bounds__(THREADS) scale_bwd_kernel(T *dy, float *ds, const T *y, const float *s, int rows, int cols)
{
    const int col = (int) (blockIdx.x * THREADS + threadIdx.x);
    if (col >= cols)
        return;
    float sum = ds[col];
    for (int r = 0; r < rows; r++) {
        const size_t at = (size_t) r * (size_t) cols + col;
        const float d = ia3_value(dy + at);
        sum += d * ia3_value(y + at);
        ia3_set_value(dy + at, d * s[col]);
    }
    ds[col] = sum;
}

__global__ void
__launch_bounds__(THREADS) multiply_kernel(float *y, const float *a, const float *b, const ia3_products p)
{
    const size_t n = (size_t) p.rows * (size_t) p.cols;
    for (size_t i = (size_t) blockIdx.x * THREADS + threadIdx.x; i < n; i += (size_t) gridDim.x * THREADS) {
        const size_t r = i / (size_t) p.cols, c = i % (size_t) p.cols;
        float *to = y + r * p.y_stride + c;
        *to = (p.add ? *to : 0.0f) + a[r * p.a_stride + c] * b[r * p.b_stride + c];
    }
}

/* t[k] = Σ_i x[i]·a[k, i], for all threads */
template <typename T>
__device__ __forceinline__ void
down(float t[IA3_MAX_RANK], const T *x, const ia3_low_rank &l, float *shared)
{
    for (int k = 0; k < l.rank; k++) {
        float sum = 0.0f;
        for (int i = (int) threadIdx.x; i < l.in; i += THREADS)
            sum += ia3_value(x + i) * l.a[(size_t) k * (size_t) l.in + i];
        t[k] = ia3_block_sum<WARPS>(sum, shared);
    }
}

template <typename T, typename Y>
__global__ void
__launch_bounds__(THREADS) low_rank_kernel(Y *y, const T *x, const ia3_low_rank l)
{
    IA3_SHARED(float, shared);
    const size_t row = blockIdx.x;
    float t[IA3_MAX_RANK];
    down(t, x + row * (size_t) l.in, l, shared);
    for (int i = (int) threadIdx.x; i < l.out; i += THREADS) {
        float sum = 0.0f;
        for (int k = 0; k < l.rank; k++)
            sum += t[k] * l.b[(size_t) i * (size_t) l.rank + k];
        Y *to = y + row * l.stride + i;
        ia3_set_value(to, ia3_value(to) + l.scale * sum);
    }
}

/* Computes t, u and dx of row blockIdx.x. */
template <typename T, typename X>
__global__ void
__launch_bounds__(THREADS)
    low_rank_rows_kernel(X *dx, float *ts, float *us, const T *dy, const T *x, const ia3_low_rank l)
{
    IA3_SHARED(float, shared);
    const size_t row = blockIdx.x;
    float t[IA3_MAX_RANK], u[IA3_MAX_RANK];
    down(t, x + row * (size_t) l.in, l, shared);
    for (int k = 0; k < l.rank; k++) {
        float sum = 0.0f;
        for (int i = (int) threadIdx.x; i < l.out; i += THREADS)
            sum += ia3_value(dy + row * l.stride + i) * l.b[(size_t) i * (size_t) l.rank + k];
        u[k] = l.scale * ia3_block_sum<WARPS>(sum, shared);
        if (threadIdx.x == 0) {
            ts[row * (size_t) l.rank + k] = t[k];
            us[row * (size_t) l.rank + k] = u[k];
        }
    }
    for (int i = (int) threadIdx.x; i < l.in; i += THREADS) {
        X *to = dx + row * (size_t) l.in + i;
        float sum = ia3_value(to);
        for (int k = 0; k < l.rank; k++)
            sum += u[k] * l.a[(size_t) k * (size_t) l.in + i];
        ia3_set_value(to, sum);
    }
}

/* Computes da and db, with one thread per column of A (the first `in` threads) or row of B. */
template <typename T>
__global__ void
__launch_bounds__(THREADS) low_rank_grads_kernel(float *da, float *db, const float *ts, const float *us,
                                                 const T *dy, const T *x, int rows, const ia3_low_rank l)
{
    const int item = (int) (blockIdx.x * THREADS + threadIdx.x);
    if (item >= l.in + l.out)
        return;
    const bool of_a = item < l.in;
    const int i = of_a ? item : item - l.in;
    const size_t stride = of_a ? (size_t) l.in : l.stride;
    const T *from = (of_a ? x : dy) + i;
    float sum[IA3_MAX_RANK];
    for (int k = 0; k < l.rank; k++)
        sum[k] = of_a ? da[(size_t) k * (size_t) l.in + i] : db[(size_t) i * (size_t) l.rank + k];
    for (int r = 0; r < rows; r++) {
        const float v = ia3_value(from + (size_t) r * stride);
        const float *with = (of_a ? us : ts) + (size_t) r * (size_t) l.rank;
        for (int k = 0; k < l.rank; k++)
            sum[k] += (of_a ? 1.0f : l.scale) * v * with[k];
    }
    for (int k = 0; k < l.rank; k++)
        *(of_a ? da + (size_t) k * (size_t) l.in + i : db + (size_t) i * (size_t) l.rank + k) = sum[k];
}

template <typename T, typename X>
void
low_rank_bwd(ia3_cuda *cuda, void *dx, float *da, float *db, const void *dy, const void *x, int rows,
             const ia3_low_rank *l)
{
    const size_t mark = ia3_cuda_arena_mark(&cuda->base), n = (size_t) rows * (size_t) l->rank;
    float *ts = (float *) ia3_cuda_arena_alloc(&cuda->base, n * sizeof(float));
    float *us = (float *) ia3_cuda_arena_alloc(&cuda->base, n * sizeof(float));
    IA3_LAUNCH((low_rank_rows_kernel<T, X>), (unsigned) rows, THREADS, WARPS * sizeof(float), cuda->stream,
               (X *) dx, ts, us, (const T *) dy, (const T *) x, *l);
    IA3_LAUNCH((low_rank_grads_kernel<T>), ia3_blocks((size_t) l->in + (size_t) l->out, THREADS), THREADS, 0,
               cuda->stream, da, db, (const float *) ts, (const float *) us, (const T *) dy, (const T *) x,
               rows, *l);
    ia3_cuda_arena_release(&cuda->base, mark);
}

template <bool MULTIPLY>
void
row(ia3_device *dev, void *y, const float *b, int rows, int cols, bool bf16)
{
    ia3_cuda *cuda = (ia3_cuda *) dev;
    const size_t n = (size_t) (rows > 0 ? rows : 0) * (size_t) cols;
    if (n == 0)
        return;
    if (bf16)
        IA3_LAUNCH((row_kernel<uint16_t, MULTIPLY>), ia3_blocks(n, THREADS), THREADS, 0, cuda->stream,
                   (uint16_t *) y, b, n, cols);
    else
        IA3_LAUNCH((row_kernel<float, MULTIPLY>), ia3_blocks(n, THREADS), THREADS, 0, cuda->stream,
                   (float *) y, b, n, cols);
}

} /* namespace */

void
ia3_cuda_add_row(ia3_device *dev, void *y, const float *b, int rows, int cols, ia3_out out)
{
    row<false>(dev, y, b, rows, cols, out == IA3_OUT_ACT && ((ia3_cuda *) dev)->bf16);
}

void
ia3_cuda_scale_row(ia3_device *dev, void *y, const float *s, int rows, int cols)
{
    row<true>(dev, y, s, rows, cols, ((ia3_cuda *) dev)->bf16);
}

void
ia3_cuda_add_row_bwd(ia3_device *dev, float *db, const void *dy, int rows, int cols)
{
    ia3_cuda *cuda = (ia3_cuda *) dev;
    const unsigned blocks = ia3_blocks((size_t) cols, THREADS);
    if (rows <= 0 || cols <= 0)
        return;
    if (cuda->bf16)
        IA3_LAUNCH((sum_rows_kernel<uint16_t>), blocks, THREADS, 0, cuda->stream, db, (const uint16_t *) dy,
                   rows, cols);
    else
        IA3_LAUNCH((sum_rows_kernel<float>), blocks, THREADS, 0, cuda->stream, db, (const float *) dy, rows,
                   cols);
}

void
ia3_cuda_scale_row_bwd(ia3_device *dev, void *dy, float *ds, const void *y, const float *s, int rows,
                       int cols)
{
    ia3_cuda *cuda = (ia3_cuda *) dev;
    const unsigned blocks = ia3_blocks((size_t) cols, THREADS);
    if (rows <= 0 || cols <= 0)
        return;
    if (cuda->bf16)
        IA3_LAUNCH((scale_bwd_kernel<uint16_t>), blocks, THREADS, 0, cuda->stream, (uint16_t *) dy, ds,
                   (const uint16_t *) y, s, rows, cols);
    else
        IA3_LAUNCH((scale_bwd_kernel<float>), blocks, THREADS, 0, cuda->stream, (float *) dy, ds,
                   (const float *) y, s, rows, cols);
}

void
ia3_cuda_multiply(ia3_device *dev, float *y, const float *a, const float *b, const ia3_products *p)
{
    ia3_cuda *cuda = (ia3_cuda *) dev;
    if (p->rows > 0 && p->cols > 0)
        IA3_LAUNCH(multiply_kernel, ia3_blocks((size_t) p->rows * (size_t) p->cols, THREADS), THREADS, 0,
                   cuda->stream, y, a, b, *p);
}

void
ia3_cuda_low_rank(ia3_device *dev, void *y, const void *x, int rows, const ia3_low_rank *l, ia3_out out)
{
    ia3_cuda *cuda = (ia3_cuda *) dev;
    const size_t shared = WARPS * sizeof(float);
    if (rows <= 0)
        return;
    if (!cuda->bf16)
        IA3_LAUNCH((low_rank_kernel<float, float>), (unsigned) rows, THREADS, shared, cuda->stream,
                   (float *) y, (const float *) x, *l);
    else if (out == IA3_OUT_ACT)
        IA3_LAUNCH((low_rank_kernel<uint16_t, uint16_t>), (unsigned) rows, THREADS, shared, cuda->stream,
                   (uint16_t *) y, (const uint16_t *) x, *l);
    else
        IA3_LAUNCH((low_rank_kernel<uint16_t, float>), (unsigned) rows, THREADS, shared, cuda->stream,
                   (float *) y, (const uint16_t *) x, *l);
}

void
ia3_cuda_low_rank_bwd(ia3_device *dev, void *dx, float *da, float *db, const void *dy, const void *x,
                      int rows, const ia3_low_rank *l, ia3_out out)
{
    ia3_cuda *cuda = (ia3_cuda *) dev;
    if (rows <= 0)
        return;
    if (!cuda->bf16)
        low_rank_bwd<float, float>(cuda, dx, da, db, dy, x, rows, l);
    else if (out == IA3_OUT_ACT)
        low_rank_bwd<uint16_t, uint16_t>(cuda, dx, da, db, dy, x, rows, l);
    else
        low_rank_bwd<uint16_t, float>(cuda, dx, da, db, dy, x, rows, l);
}
