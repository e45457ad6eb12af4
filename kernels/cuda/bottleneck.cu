/*
 * bottleneck.cu
 *     The bottleneck of adapters. Formulas: kernels/cpu/bottleneck.c.
 *
 * A block computes a row; for sums over rows, one thread per column adds the rows in their order. This is simple and deterministic
 * but not fast, which is acceptable because the method exists for comparison.
 */
#include "four.cuh"

namespace {

enum { THREADS = 256, WARPS = THREADS / 32 };

/* t[k] = relu(y·D_k + d_k) of one row, for all threads. t and shared are in shared memory. */
__device__ __forceinline__ void
narrow(float *t, const float *y, const ia3_bottleneck &b, float *shared)
{
    for (int k = 0; k < b.width; k++) {
        float sum = 0.0f;
        for (int i = (int) threadIdx.x; i < b.cols; i += THREADS)
            sum += y[i] * b.down[(size_t) k * (size_t) b.cols + i];
        sum = ia3_block_sum<WARPS>(sum, shared) + b.down_bias[k];
        if (threadIdx.x == 0)
            t[k] = sum > 0.0f ? sum : 0.0f;
    }
    __syncthreads();
}

__global__ void
__launch_bounds__(THREADS) forward_kernel(float *ys, const ia3_bottleneck b)
{
    IA3_SHARED(float, shared);
    float *t = shared + WARPS, *y = ys + (size_t) blockIdx.x * (size_t) b.cols;
    narrow(t, y, b, shared);
    for (int i = (int) threadIdx.x; i < b.cols; i += THREADS) {
        float sum = b.up_bias[i];
        for (int k = 0; k < b.width; k++)
            sum += t[k] * b.up[(size_t) i * (size_t) b.width + k];
        y[i] += sum;
    }
}

/* Computes t and v of row blockIdx.x. */
template <typename T>
__global__ void
__launch_bounds__(THREADS)
    hidden_kernel(float *ts, float *vs, const T *dy, const float *y, const ia3_bottleneck b)
{
    IA3_SHARED(float, shared);
    const size_t row = blockIdx.x;
    float *t = shared + WARPS;
    narrow(t, y + row * (size_t) b.cols, b, shared);
    for (int k = 0; k < b.width; k++) {
        float sum = 0.0f;
        for (int i = (int) threadIdx.x; i < b.cols; i += THREADS)
            sum += ia3_value(dy + row * (size_t) b.cols + i) * b.up[(size_t) i * (size_t) b.width + k];
        sum = ia3_block_sum<WARPS>(sum, shared);
        if (threadIdx.x == 0) {
            ts[row * (size_t) b.width + k] = t[k];
            vs[row * (size_t) b.width + k] = t[k] > 0.0f ? sum : 0.0f;
        }
    }
}

/* Adds to the gradients of D, U and u and computes dy, with one thread per column; further threads add to that of d. */
template <typename T>
__global__ void
__launch_bounds__(THREADS) columns_kernel(T *dy, const ia3_bottleneck_grad g, const float *ts,
                                          const float *vs, const float *y, int rows, const ia3_bottleneck b)
{
    const int i = (int) (blockIdx.x * THREADS + threadIdx.x), k = i - b.cols;
    if (i >= b.cols) {
        for (int r = 0; k < b.width && r < rows; r++)
            g.down_bias[k] += vs[(size_t) r * (size_t) b.width + k];
        return;
    }
    for (int r = 0; r < rows; r++) {
        const size_t at = (size_t) r * (size_t) b.cols + i;
        const float *t = ts + (size_t) r * (size_t) b.width, *v = vs + (size_t) r * (size_t) b.width;
        const float d = ia3_value(dy + at), x = y[at];
        float sum = d;
        g.up_bias[i] += d;
        for (int n = 0; n < b.width; n++) {
            g.up[(size_t) i * (size_t) b.width + n] += d * t[n];
            g.down[(size_t) n * (size_t) b.cols + i] += v[n] * x;
            sum += v[n] * b.down[(size_t) n * (size_t) b.cols + i];
        }
        ia3_set_value(dy + at, sum);
    }
}

/* The compiler reads t four values at a time, also beyond its end. */
size_t
shared_bytes(const ia3_bottleneck *b)
{
    return (WARPS + ((size_t) b->width + 3) / 4 * 4) * sizeof(float);
}

template <typename T>
void
backward(ia3_cuda *cuda, T *dy, const ia3_bottleneck_grad *g, const float *y, int rows,
         const ia3_bottleneck *b)
{
    const size_t mark = ia3_cuda_arena_mark(&cuda->base), n = (size_t) rows * (size_t) b->width;
    const size_t shared = shared_bytes(b);
    float *ts = (float *) ia3_cuda_arena_alloc(&cuda->base, n * sizeof(float));
    float *vs = (float *) ia3_cuda_arena_alloc(&cuda->base, n * sizeof(float));
    IA3_LAUNCH((hidden_kernel<T>), (unsigned) rows, THREADS, shared, cuda->stream, ts, vs, (const T *) dy, y,
               *b);
    IA3_LAUNCH((columns_kernel<T>), ia3_blocks((size_t) b->cols + (size_t) b->width, THREADS), THREADS, 0,
               cuda->stream, dy, *g, (const float *) ts, (const float *) vs, y, rows, *b);
    ia3_cuda_arena_release(&cuda->base, mark);
}

} /* namespace */

void
ia3_cuda_bottleneck(ia3_device *dev, float *y, int rows, const ia3_bottleneck *b)
{
    ia3_cuda *cuda = (ia3_cuda *) dev;
    if (rows > 0)
        IA3_LAUNCH(forward_kernel, (unsigned) rows, THREADS, shared_bytes(b), cuda->stream, y, *b);
}

void
ia3_cuda_bottleneck_bwd(ia3_device *dev, void *dy, const ia3_bottleneck_grad *g, const float *y, int rows,
                        const ia3_bottleneck *b)
{
    ia3_cuda *cuda = (ia3_cuda *) dev;
    if (rows <= 0)
        return;
    if (cuda->bf16)
        backward(cuda, (uint16_t *) dy, g, y, rows, b);
    else
        backward(cuda, (float *) dy, g, y, rows, b);
}
