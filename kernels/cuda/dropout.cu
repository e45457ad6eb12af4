/*
 * dropout.cu
 *     Dropout: x += drop(y) and y = drop(x). The mask depends only on the row's key, the site and the column (rng.h).
 *
 * A thread processes four columns, which share one block of random numbers. Computing the block takes about 40
 * integer instructions, which are hidden behind the memory accesses.
 */
#include "four.cuh"

namespace {

enum { THREADS = 256 };

/* i / per_row. Divisions of 64 bits take several times as long, and few arrays need them. */
__device__ __forceinline__ size_t
row_of(size_t i, unsigned per_row)
{
    return i >> 32 ? i / per_row : (size_t) ((unsigned) i / per_row);
}

template <typename X, typename Y, bool ADD>
__global__ void
__launch_bounds__(THREADS) drop_kernel(Y *y, const X *x, size_t items, int d, const uint64_t *row_key,
                                       uint32_t site, const ia3_cuda_mask mask)
{
    const unsigned per_row = (unsigned) (d + 3) / 4;
    for (size_t i = (size_t) blockIdx.x * THREADS + threadIdx.x; i < items;
         i += (size_t) gridDim.x * THREADS) {
        const size_t row = row_of(i, per_row), at = row * (size_t) d;
        const int col = (int) (i - row * per_row) * 4;
        ia3_four f = ia3_load_four(x + at, col, d);
        if (mask.on)
            ia3_drop_four(&f, mask, row_key[row], site, col);
        if (ADD) {
            const ia3_four sum = ia3_load_four(y + at, col, d);
            for (int e = 0; e < 4; e++)
                f.v[e] += sum.v[e];
        }
        ia3_store_four(y + at, f, col, d);
    }
}

template <typename X, typename Y, bool ADD>
void
drop(ia3_device *dev, void *y, const void *x, int rows, int d, const ia3_dropout &dropout)
{
    ia3_cuda *cuda = (ia3_cuda *) dev;
    const ia3_cuda_mask mask = ia3_cuda_mask_of(&dropout);
    const size_t items = (size_t) (rows > 0 ? rows : 0) * ((size_t) (d + 3) / 4);
    if (items == 0 || (!mask.on && !ADD && x == y))
        return;
    IA3_LAUNCH((drop_kernel<X, Y, ADD>), ia3_blocks(items, THREADS), THREADS, 0, cuda->stream, (Y *) y,
               (const X *) x, items, d, dropout.row_key, dropout.site, mask);
}

} /* namespace */

void
ia3_cuda_add_dropout(ia3_device *dev, float *x, const float *y, int rows, int d, ia3_dropout dropout)
{
    drop<float, float, true>(dev, x, y, rows, d, dropout);
}

void
ia3_cuda_dropout_f32(ia3_device *dev, float *y, const float *x, int rows, int d, ia3_dropout dropout)
{
    drop<float, float, false>(dev, y, x, rows, d, dropout);
}

void
ia3_cuda_dropout_act(ia3_device *dev, void *y, const void *x, int rows, int d, ia3_dropout dropout)
{
    if (((ia3_cuda *) dev)->bf16)
        drop<uint16_t, uint16_t, false>(dev, y, x, rows, d, dropout);
    else
        drop<float, float, false>(dev, y, x, rows, d, dropout);
}

void
ia3_cuda_dropout_f32_to_act(ia3_device *dev, void *y, const float *x, int rows, int d, ia3_dropout dropout)
{
    if (((ia3_cuda *) dev)->bf16)
        drop<float, uint16_t, false>(dev, y, x, rows, d, dropout);
    else
        drop<float, float, false>(dev, y, x, rows, d, dropout);
}
