/*
 * weight_grads.cu
 *     Gradients of weights that are not factors of matrix products: the embedding, norms, the position bias; and what is
 *     done with gradients and values element by element. Formulas: device.h.
 *
 * Every sum has a fixed order: that of the rows, except that a norm's rows are added up in chunks, and these in their
 * order.
 */
#include "four.cuh"

namespace {

enum { THREADS = 256 };

/* --- the embedding --- */

enum { EMBED_WARPS = 4, EMBED_COLUMNS = 32 * EMBED_WARPS * 4 /* columns of a block */ };

/* Whether an earlier row has the id of row `row`; the same for all threads. */
__device__ __forceinline__ bool
came_before(const int32_t *ids, int row, float *shared)
{
    float found = 0.0f;
    for (int r = (int) threadIdx.x; r < row; r += 32 * EMBED_WARPS)
        found = ids[r] == ids[row] ? 1.0f : found;
    return ia3_block_sum<EMBED_WARPS>(found, shared) > 0.0f;
}

/* The block of the first row with an id adds all rows with this id to the table's row. blockIdx.y: which columns. */
__global__ void __launch_bounds__(32 * EMBED_WARPS)
    embed_kernel(float *dtable, const float *dx, const int32_t *ids, int rows, int d)
{
    IA3_SHARED(float, shared);
    const int row = (int) blockIdx.x, id = ids[row], lane = (int) threadIdx.x & 31;
    const int col = (int) (blockIdx.y * EMBED_COLUMNS + threadIdx.x * 4);
    if (came_before(ids, row, shared))
        return;
    float *to = dtable + (size_t) id * (size_t) d;
    ia3_four sum = {};
    if (col < d)
        sum = ia3_load_four(to, col, d);
    for (int first = row; first < rows; first += 32) {
        unsigned same = ia3_ballot(first + lane < rows && ids[first + lane] == id);
        for (int r = first; same; r++, same >>= 1) {
            if (!(same & 1) || col >= d)
                continue;
            const ia3_four x = ia3_load_four(dx + (size_t) r * (size_t) d, col, d);
            for (int i = 0; i < 4; i++)
                sum.v[i] += x.v[i];
        }
    }
    if (col < d)
        ia3_store_four(to, sum, col, d);
}

/* --- norms --- */

enum { NORM_THREADS = 128, NORM_ROWS = 64 /* of a chunk */ };

/* The sums of a chunk of rows, blockIdx.y, in partial [chunks, d]. */
template <typename T>
__global__ void
__launch_bounds__(NORM_THREADS)
    norm_chunks_kernel(float *partial, const T *dy, const float *x, const float *rstd, int rows, int d)
{
    const int col = (int) (blockIdx.x * NORM_THREADS + threadIdx.x), first = (int) blockIdx.y * NORM_ROWS;
    if (col >= d)
        return;
    float sum = 0.0f;
    for (int r = first; r < rows && r < first + NORM_ROWS; r++) {
        const size_t at = (size_t) r * (size_t) d + col;
        sum += ia3_value(dy + at) * (x[at] * rstd[r]);
    }
    partial[(size_t) blockIdx.y * (size_t) d + col] = sum;
}

__global__ void
__launch_bounds__(NORM_THREADS) norm_sum_kernel(float *dw, const float *partial, int chunks, int d)
{
    const int col = (int) (blockIdx.x * NORM_THREADS + threadIdx.x);
    if (col >= d)
        return;
    float sum = 0.0f;
    for (int c = 0; c < chunks; c++)
        sum += partial[(size_t) c * (size_t) d + col];
    dw[col] += sum;
}

template <typename T>
void
norm_chunks(ia3_cuda *cuda, float *partial, const void *dy, const float *x, const float *rstd, int rows,
            int d, dim3 grid)
{
    IA3_LAUNCH((norm_chunks_kernel<T>), grid, NORM_THREADS, 0, cuda->stream, partial, (const T *) dy, x, rstd,
               rows, d);
}

/* --- the position bias --- */

__global__ void
__launch_bounds__(THREADS)
    bias_expand_kernel(float *bias, const float *table, const int32_t *bucket_of, int n_heads, int width)
{
    const size_t n = (size_t) n_heads * (size_t) width;
    for (size_t i = (size_t) blockIdx.x * THREADS + threadIdx.x; i < n; i += (size_t) gridDim.x * THREADS)
        bias[i] = table[(size_t) bucket_of[i % (size_t) width] * (size_t) n_heads + i / (size_t) width];
}

/* There is one block per head, and a thread for each bucket. Many tables have no more buckets than a warp has threads. */
__global__ void
__launch_bounds__(THREADS)
    bias_table_kernel(float *dtable, const float *dbias, const int32_t *bucket_of, int n_buckets, int width)
{
    const int head = (int) blockIdx.x, n_heads = (int) gridDim.x;
    const float *from = dbias + (size_t) head * (size_t) width;
    for (int b = (int) threadIdx.x; b < n_buckets; b += THREADS) {
        float *to = dtable + (size_t) b * (size_t) n_heads + head, sum = *to;
        for (int i = 0; i < width; i++)
            if (bucket_of[i] == b)
                sum += from[i];
        *to = sum;
    }
}

/* --- element by element --- */

__global__ void
__launch_bounds__(THREADS) mask_kernel(float *grads, const uint32_t *mask, size_t n)
{
    for (size_t i = (size_t) blockIdx.x * THREADS + threadIdx.x; i < n; i += (size_t) gridDim.x * THREADS)
        if (!(mask[i / 32] >> i % 32 & 1))
            grads[i] = 0.0f;
}

__global__ void
__launch_bounds__(THREADS) squares_kernel(float *sums, const float *grads, size_t n)
{
    for (size_t i = (size_t) blockIdx.x * THREADS + threadIdx.x; i < n; i += (size_t) gridDim.x * THREADS)
        sums[i] += grads[i] * grads[i];
}

__global__ void
__launch_bounds__(THREADS)
    scatter_kernel(float *values, const int32_t *indices, const float *deltas, size_t n)
{
    for (size_t i = (size_t) blockIdx.x * THREADS + threadIdx.x; i < n; i += (size_t) gridDim.x * THREADS)
        values[indices[i]] += deltas[i];
}

} /* namespace */

void
ia3_cuda_embed_grad(ia3_device *dev, float *dtable, const float *dx, const int32_t *ids, int rows, int d)
{
    const dim3 grid((unsigned) rows, (unsigned) ((d + EMBED_COLUMNS - 1) / EMBED_COLUMNS));
    if (rows > 0)
        IA3_LAUNCH(embed_kernel, grid, 32 * EMBED_WARPS, EMBED_WARPS * sizeof(float),
                   ((ia3_cuda *) dev)->stream, dtable, dx, ids, rows, d);
}

void
ia3_cuda_rmsnorm_grad(ia3_device *dev, float *dw, const void *dy, const float *x, const float *rstd, int rows,
                      int d)
{
    ia3_cuda *cuda = (ia3_cuda *) dev;
    if (rows <= 0)
        return;
    const size_t mark = ia3_cuda_arena_mark(dev);
    const int chunks = (rows + NORM_ROWS - 1) / NORM_ROWS;
    const unsigned blocks = (unsigned) ((d + NORM_THREADS - 1) / NORM_THREADS);
    float *partial = (float *) ia3_cuda_arena_alloc(dev, (size_t) chunks * (size_t) d * sizeof(float));
    (cuda->bf16 ? norm_chunks<uint16_t> : norm_chunks<float>) (cuda, partial, dy, x, rstd, rows, d,
                                                               dim3(blocks, (unsigned) chunks));
    IA3_LAUNCH(norm_sum_kernel, blocks, NORM_THREADS, 0, cuda->stream, dw, (const float *) partial, chunks,
               d);
    ia3_cuda_arena_release(dev, mark);
}

void
ia3_cuda_bias_expand(ia3_device *dev, float *bias, const float *table, const int32_t *bucket_of, int n_heads,
                     int span)
{
    const int width = 2 * span - 1;
    IA3_LAUNCH(bias_expand_kernel, ia3_blocks((size_t) n_heads * (size_t) width, THREADS), THREADS, 0,
               ((ia3_cuda *) dev)->stream, bias, table, bucket_of, n_heads, width);
}

void
ia3_cuda_bias_table_grad(ia3_device *dev, float *dtable, const float *dbias, const int32_t *bucket_of,
                         int n_buckets, int n_heads, int span)
{
    IA3_LAUNCH(bias_table_kernel, (unsigned) n_heads, THREADS, 0, ((ia3_cuda *) dev)->stream, dtable, dbias,
               bucket_of, n_buckets, 2 * span - 1);
}

void
ia3_cuda_mask_grad(ia3_device *dev, float *grads, const uint32_t *mask, size_t n)
{
    if (n > 0)
        IA3_LAUNCH(mask_kernel, ia3_blocks(n, THREADS), THREADS, 0, ((ia3_cuda *) dev)->stream, grads, mask,
                   n);
}

void
ia3_cuda_add_squares(ia3_device *dev, float *sums, const float *grads, size_t n)
{
    if (n > 0)
        IA3_LAUNCH(squares_kernel, ia3_blocks(n, THREADS), THREADS, 0, ((ia3_cuda *) dev)->stream, sums,
                   grads, n);
}

void
ia3_cuda_scatter_add(ia3_device *dev, float *values, const int32_t *indices, const float *deltas, size_t n)
{
    if (n > 0)
        IA3_LAUNCH(scatter_kernel, ia3_blocks(n, THREADS), THREADS, 0, ((ia3_cuda *) dev)->stream, values,
                   indices, deltas, n);
}
