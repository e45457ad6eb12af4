/*
 * put_rows.cu
 *     Rows of adapters in place of computed ones, and their gradients (device.h). For the sums over places, one thread per element
 *     adds the places in their order.
 */
#include "four.cuh"

namespace {

enum { THREADS = 256 };

/* Where row `row` of place number `place` begins, in elements. */
__device__ __forceinline__ size_t
begin_of(const ia3_row_places &p, int place, int row)
{
    return (size_t) ((p.at ? p.at[place] : 0) + row) * p.stride;
}

template <typename T>
__global__ void
__launch_bounds__(THREADS) put_kernel(T *y, const float *x, const ia3_row_places p)
{
    const size_t each = (size_t) p.rows * (size_t) p.cols, n = (size_t) p.n * each;
    for (size_t i = (size_t) blockIdx.x * THREADS + threadIdx.x; i < n; i += (size_t) gridDim.x * THREADS) {
        const int place = (int) (i / each), row = (int) (i % each / (size_t) p.cols);
        ia3_set_value(y + begin_of(p, place, row) + i % (size_t) p.cols, x[i % each]);
    }
}

template <typename T>
__global__ void
__launch_bounds__(THREADS) take_kernel(float *dx, T *dy, const ia3_row_places p)
{
    const size_t i = (size_t) blockIdx.x * THREADS + threadIdx.x;
    if (i >= (size_t) p.rows * (size_t) p.cols)
        return;
    const int row = (int) (i / (size_t) p.cols);
    float sum = dx[i];
    for (int place = 0; place < p.n; place++) {
        T *from = dy + begin_of(p, place, row) + i % (size_t) p.cols;
        sum += ia3_value(from);
        ia3_set_value(from, 0.0f);
    }
    dx[i] = sum;
}

} /* namespace */

void
ia3_cuda_put_rows(ia3_device *dev, void *y, const float *x, const ia3_row_places *p)
{
    ia3_cuda *cuda = (ia3_cuda *) dev;
    const size_t n = (size_t) p->n * (size_t) p->rows * (size_t) p->cols;
    if (n == 0)
        return;
    if (cuda->bf16)
        IA3_LAUNCH((put_kernel<uint16_t>), ia3_blocks(n, THREADS), THREADS, 0, cuda->stream, (uint16_t *) y,
                   x, *p);
    else
        IA3_LAUNCH((put_kernel<float>), ia3_blocks(n, THREADS), THREADS, 0, cuda->stream, (float *) y, x, *p);
}

void
ia3_cuda_put_rows_bwd(ia3_device *dev, float *dx, void *dy, const ia3_row_places *p)
{
    ia3_cuda *cuda = (ia3_cuda *) dev;
    const unsigned blocks = (unsigned) (((size_t) p->rows * (size_t) p->cols + THREADS - 1) / THREADS);
    if (blocks == 0 || p->n == 0)
        return;
    if (cuda->bf16)
        IA3_LAUNCH((take_kernel<uint16_t>), blocks, THREADS, 0, cuda->stream, dx, (uint16_t *) dy, *p);
    else
        IA3_LAUNCH((take_kernel<float>), blocks, THREADS, 0, cuda->stream, dx, (float *) dy, *p);
}
