/*
 * dense.cu
 *     Layers whose weights are trained, for few rows. Formulas: kernels/cpu/dense.c.
 *
 * A warp computes an element of the result; for the gradients of the weights one thread per element adds the rows in their order,
 * and for that of the input the warps of a block divide the rows of W.
 */
#include "four.cuh"

namespace {

enum { THREADS = 256, LANES = 32, WARPS = THREADS / LANES };

__global__ void
__launch_bounds__(THREADS) forward_kernel(float *y, const float *x, int rows, const ia3_dense l)
{
    const int lane = (int) threadIdx.x % LANES;
    const int o = (int) blockIdx.x * WARPS + (int) threadIdx.x / LANES;
    if (o >= l.out)
        return;
    for (int r = 0; r < rows; r++) {
        float sum = 0.0f;
        for (int i = lane; i < l.in; i += LANES)
            sum += x[(size_t) r * (size_t) l.in + i] * l.weight[(size_t) o * (size_t) l.in + i];
        sum = ia3_warp_sum(sum) + l.bias[o];
        if (lane == 0)
            y[(size_t) r * (size_t) l.out + o] = l.tanh ? tanhf(sum) : sum;
    }
}

/* dy ⊙= 1 - y² */
__global__ void
__launch_bounds__(THREADS) tanh_bwd_kernel(float *dy, const float *y, size_t n)
{
    const size_t i = (size_t) blockIdx.x * THREADS + threadIdx.x;
    if (i < n)
        dy[i] *= 1.0f - y[i] * y[i];
}

/* The gradients of W, and of b, to which the first thread of each row of W adds. */
__global__ void
__launch_bounds__(THREADS)
    weights_kernel(const ia3_dense_grad g, const float *dy, const float *x, int rows, const ia3_dense l)
{
    const size_t n = (size_t) l.in * (size_t) l.out;
    for (size_t k = (size_t) blockIdx.x * THREADS + threadIdx.x; k < n; k += (size_t) gridDim.x * THREADS) {
        const size_t o = k / (size_t) l.in, i = k % (size_t) l.in;
        float sum = g.weight[k], bias = i == 0 ? g.bias[o] : 0.0f;
        for (int r = 0; r < rows; r++) {
            const float d = dy[(size_t) r * (size_t) l.out + o];
            sum += d * x[(size_t) r * (size_t) l.in + i];
            bias += d;
        }
        g.weight[k] = sum;
        if (i == 0)
            g.bias[o] = bias;
    }
}

/* dx of row blockIdx.y, columns from blockIdx.x · LANES on. */
__global__ void
__launch_bounds__(THREADS) inputs_kernel(float *dx, const float *dy, const ia3_dense l)
{
    IA3_SHARED(float, partial); /* [WARPS, LANES] */
    const int lane = (int) threadIdx.x % LANES, warp = (int) threadIdx.x / LANES;
    const int i = (int) blockIdx.x * LANES + lane;
    const size_t row = blockIdx.y;
    float sum = 0.0f;
    for (int o = warp; i < l.in && o < l.out; o += WARPS)
        sum += dy[row * (size_t) l.out + o] * l.weight[(size_t) o * (size_t) l.in + i];
    partial[warp * LANES + lane] = sum;
    __syncthreads();
    if (warp > 0 || i >= l.in)
        return;
    sum = dx[row * (size_t) l.in + i];
    for (int w = 0; w < WARPS; w++)
        sum += partial[w * LANES + lane];
    dx[row * (size_t) l.in + i] = sum;
}

unsigned
parts(size_t n, size_t each)
{
    return (unsigned) ((n + each - 1) / each);
}

} /* namespace */

void
ia3_cuda_dense(ia3_device *dev, float *y, const float *x, int rows, const ia3_dense *l)
{
    ia3_cuda *cuda = (ia3_cuda *) dev;
    if (rows > 0)
        IA3_LAUNCH(forward_kernel, parts((size_t) l->out, WARPS), THREADS, 0, cuda->stream, y, x, rows, *l);
}

void
ia3_cuda_dense_bwd(ia3_device *dev, float *dx, const ia3_dense_grad *g, float *dy, const float *y,
                   const float *x, int rows, const ia3_dense *l)
{
    ia3_cuda *cuda = (ia3_cuda *) dev;
    const size_t n = (size_t) (rows > 0 ? rows : 0) * (size_t) l->out;
    if (n == 0)
        return;
    if (l->tanh)
        IA3_LAUNCH(tanh_bwd_kernel, parts(n, THREADS), THREADS, 0, cuda->stream, dy, y, n);
    IA3_LAUNCH(weights_kernel, ia3_blocks((size_t) l->in * (size_t) l->out, THREADS), THREADS, 0,
               cuda->stream, *g, (const float *) dy, x, rows, *l);
    IA3_LAUNCH(inputs_kernel, dim3(parts((size_t) l->in, LANES), (unsigned) rows), THREADS,
               THREADS * sizeof(float), cuda->stream, dx, (const float *) dy, *l);
}
