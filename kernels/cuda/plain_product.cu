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

/*
 * A block's row of tiles is blockIdx.x, because there may be more rows than the other dimensions of a grid allow. Neighbouring threads
 * read neighbouring numbers of both operands.
 */
template <bool bf16>
__global__ void
__launch_bounds__(TILE *TILE) plain_product_kernel(void *y, const void *a, const void *w, int rows, int n,
                                                   int k, ia3_cuda_gemm_form form, ia3_out out)
{
    IA3_SHARED(float, tiles);
    float *as = tiles, *ws = tiles + TILE * TILE; /* [row][k], [k][column] */
    const int tx = (int) threadIdx.x % TILE, ty = (int) threadIdx.x / TILE;
    const bool by_k = form != IA3_CUDA_GEMM_FORTH,
               a_by_k = form == IA3_CUDA_GEMM_GRAD; /* rows of w, of a, are those of k */
    const int row0 = (int) blockIdx.x * TILE, row = row0 + ty, col0 = (int) blockIdx.y * TILE,
              col = col0 + tx;
    float sum = 0.0f;
    for (int k0 = 0; k0 < k; k0 += TILE) {
        const int wk = k0 + (by_k ? ty : tx), wc = by_k ? col : col0 + ty;
        const int ak = k0 + (a_by_k ? ty : tx), ar = a_by_k ? row0 + tx : row;
        const size_t w_at = by_k ? (size_t) wk * n + wc : (size_t) wc * k + wk;
        const size_t a_at = a_by_k ? (size_t) ak * rows + ar : (size_t) ar * k + ak;
        as[a_by_k ? tx * TILE + ty : ty * TILE + tx] = ar < rows && ak < k ? element<bf16>(a, a_at) : 0.0f;
        ws[by_k ? ty * TILE + tx : tx * TILE + ty] = wk < k && wc < n ? element<bf16>(w, w_at) : 0.0f;
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
                       ia3_cuda_gemm_form form, ia3_out out)
{
    const dim3 grid((unsigned) (((size_t) rows + TILE - 1) / TILE),
                    (unsigned) (((size_t) n + TILE - 1) / TILE));
    const size_t bytes = 2 * TILE * TILE * sizeof(float);
    if (cuda->bf16)
        IA3_LAUNCH((plain_product_kernel<true>), grid, TILE * TILE, bytes, cuda->stream, y, a, w, rows, n, k,
                   form, out);
    else
        IA3_LAUNCH((plain_product_kernel<false>), grid, TILE * TILE, bytes, cuda->stream, y, a, w, rows, n, k,
                   form, out);
}
