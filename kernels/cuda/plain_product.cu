/*
 * plain_product.cu
 *     Matrix products for shapes that cuBLASLt refuses: any size and alignment, without tensor cores.
 *
 * A block computes a tile of 16 x 16 results and sums over k in ascending order, so the bits of a result depend on
 * nothing but its own row and column.
 */
#include "cuda.h"

namespace {

enum { TILE = 16 };

template <bool bf16>
__device__ __forceinline__ float
element(const void *p, size_t i)
{
    return bf16 ? ia3_bf16_low(((const uint16_t *) p)[i]) : ((const float *) p)[i];
}

/* A block's row of tiles is blockIdx.x, because there may be more rows than the other dimensions of a grid allow. */
template <bool bf16>
__global__ void
__launch_bounds__(TILE *TILE) plain_product_kernel(void *y, const void *a, const void *w, int rows, int n,
                                                   int k, bool backward, ia3_out out)
{
    IA3_SHARED(float, tiles);
    float *as = tiles, *ws = tiles + TILE * TILE; /* [row][k], [k][column] */
    const int tx = (int) threadIdx.x % TILE, ty = (int) threadIdx.x / TILE;
    const int row = (int) blockIdx.x * TILE + ty, col0 = (int) blockIdx.y * TILE, col = col0 + tx;
    float sum = 0.0f;
    for (int k0 = 0; k0 < k; k0 += TILE) {
        /* forward, neighbouring threads read neighbouring k of w's row; backward, neighbouring columns */
        const int wk = k0 + (backward ? ty : tx), wc = backward ? col : col0 + ty;
        const size_t at = backward ? (size_t) wk * n + wc : (size_t) wc * k + wk;
        as[ty * TILE + tx] = row < rows && k0 + tx < k ? element<bf16>(a, (size_t) row * k + k0 + tx) : 0.0f;
        ws[backward ? ty * TILE + tx : tx * TILE + ty] = wk < k && wc < n ? element<bf16>(w, at) : 0.0f;
        __syncthreads();
        for (int i = 0; i < TILE; i++)
            sum += as[ty * TILE + i] * ws[i * TILE + tx];
        __syncthreads();
    }
    if (row >= rows || col >= n)
        return;
    const size_t at = (size_t) row * n + col;
    if (out == IA3_OUT_ACT && bf16)
        ((uint16_t *) y)[at] = (uint16_t) ia3_pack_bf16(sum, 0.0f);
    else
        ((float *) y)[at] = out == IA3_OUT_ADD_F32 ? ((float *) y)[at] + sum : sum;
}

} /* namespace */

void
ia3_cuda_plain_product(ia3_cuda *cuda, void *y, const void *a, const void *w, int rows, int n, int k,
                       bool backward, ia3_out out)
{
    const dim3 grid((unsigned) (((size_t) rows + TILE - 1) / TILE),
                    (unsigned) (((size_t) n + TILE - 1) / TILE));
    const size_t bytes = 2 * TILE * TILE * sizeof(float);
    if (cuda->bf16)
        IA3_LAUNCH((plain_product_kernel<true>), grid, TILE * TILE, bytes, cuda->stream, y, a, w, rows, n, k,
                   backward, out);
    else
        IA3_LAUNCH((plain_product_kernel<false>), grid, TILE * TILE, bytes, cuda->stream, y, a, w, rows, n, k,
                   backward, out);
}
