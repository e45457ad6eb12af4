/*
 * adafactor_large.cu
 *     Adafactor's step for large matrices, each of which SPLITS blocks divide by rows. Formulas: kernels/cpu/adafactor.c.
 *
 * The shapes are in device memory, so every launch has SPLITS blocks for every tensor, and those of other tensors end at once. Each
 * block has its own sums, which are added up in the order of the blocks. The sums of the columns are behind r and c in the second
 * moment, where a large matrix leaves room for them: rows·cols >= rows + cols + SPLITS·cols.
 */
#include "adafactor.cuh"

namespace {

enum { WARPS = IA3_ADAFACTOR_WARPS, THREADS = IA3_ADAFACTOR_THREADS, SPLITS = 64 };
static_assert((int) IA3_ADAFACTOR_LEAST_ROWS == 2 * SPLITS, "room for the sums of columns");

/* The rows of this block. */
__device__ __forceinline__ int
first_row(const ia3_adafactor_tensor &t, int split)
{
    return (int) ((int64_t) t.rows * split / SPLITS);
}

__device__ __forceinline__ float *
column_sums(const ia3_adafactor_tensor &t)
{
    return t.job->a.second_moment + t.begin + t.rows + t.cols;
}

/* The elements of this block. */
typedef struct range {
    size_t begin, n;
} range;

__device__ __forceinline__ range
own_range(const ia3_adafactor_tensor &t)
{
    const int row = first_row(t, (int) blockIdx.y), end = first_row(t, (int) blockIdx.y + 1);
    range r;
    r.begin = t.begin + (size_t) row * (size_t) t.cols;
    r.n = (size_t) (end - row) * (size_t) t.cols;
    return r;
}

__global__ void
__launch_bounds__(THREADS) part_norms_kernel(const ia3_adafactor_job *jobs, double *parts)
{
    IA3_SHARED(double, shared);
    const ia3_adafactor_tensor t = ia3_adafactor_tensor_of(jobs, (int) blockIdx.x);
    if (!t.large)
        return;
    const range r = own_range(t);
    const double sum = ia3_sum_squares(t.job->a.grads + r.begin, r.n, shared);
    if (threadIdx.x == 0)
        parts[blockIdx.x * SPLITS + blockIdx.y] = sum;
}

/* Σ of a tensor's parts, in their order; every thread computes the same value. */
__device__ __forceinline__ double
sum_parts(const double *parts, int tensor)
{
    double sum = 0.0;
    for (int i = 0; i < SPLITS; i++)
        sum += parts[(size_t) tensor * SPLITS + i];
    return sum;
}

__global__ void
norms_kernel(const ia3_adafactor_job *jobs, const double *parts, double *norms)
{
    if (ia3_adafactor_tensor_of(jobs, (int) blockIdx.x).large)
        norms[blockIdx.x] = sum_parts(parts, (int) blockIdx.x);
}

/* Clips the block's gradients, and computes r of its rows and the sums of its columns. */
__global__ void
__launch_bounds__(THREADS) moments_kernel(const ia3_adafactor_job *jobs, const double *norms)
{
    const ia3_adafactor_tensor t = ia3_adafactor_tensor_of(jobs, (int) blockIdx.x);
    if (!t.large)
        return;
    const int first = first_row(t, (int) blockIdx.y), last = first_row(t, (int) blockIdx.y + 1);
    const int lane = (int) threadIdx.x & 31, warp = (int) threadIdx.x >> 5;
    const float clip = ia3_adafactor_clip(t.job, norms);
    const double beta = t.job->beta_exact;
    float *g = t.job->a.grads + t.begin, *r = t.job->a.second_moment + t.begin;
    for (int row = first + warp; row < last; row += WARPS) {
        double squares = 0.0;
        for (int col = lane; col < t.cols; col += 32) {
            float *x = g + (size_t) row * (size_t) t.cols + col;
            *x *= clip;
            squares += (double) *x * (double) *x;
        }
        squares = ia3_warp_sum(squares) + 1e-30 * t.cols;
        if (lane == 0)
            r[row] = (float) (beta * r[row] + (1.0 - beta) * squares / t.cols);
    }
    __syncthreads();
    for (int col = (int) threadIdx.x; col < t.cols; col += THREADS) {
        float sum = 0.0f;
        for (int row = first; row < last; row++) {
            const float x = g[(size_t) row * (size_t) t.cols + col];
            sum += x * x + 1e-30f;
        }
        column_sums(t)[(size_t) blockIdx.y * (size_t) t.cols + col] = sum;
    }
}

/* c of the columns that fall to this block. */
__global__ void
__launch_bounds__(THREADS) columns_kernel(const ia3_adafactor_job *jobs)
{
    const ia3_adafactor_tensor t = ia3_adafactor_tensor_of(jobs, (int) blockIdx.x);
    if (!t.large)
        return;
    const double beta = t.job->beta_exact;
    float *c = t.job->a.second_moment + t.begin + t.rows;
    for (int col = (int) (blockIdx.y * THREADS + threadIdx.x); col < t.cols; col += SPLITS * THREADS) {
        double sum = 0.0;
        for (int i = 0; i < SPLITS; i++)
            sum += column_sums(t)[(size_t) i * (size_t) t.cols + col];
        c[col] = (float) (beta * c[col] + (1.0 - beta) * sum / t.rows);
    }
}

/* Turns the block's gradients into u. squares: [tensors, SPLITS] of the values, then of u. */
__global__ void
__launch_bounds__(THREADS) scale_kernel(const ia3_adafactor_job *jobs, double *squares)
{
    IA3_SHARED(double, shared);
    const ia3_adafactor_tensor t = ia3_adafactor_tensor_of(jobs, (int) blockIdx.x);
    if (!t.large)
        return;
    const range own = own_range(t);
    float *g = t.job->a.grads + t.begin;
    const float *r = t.job->a.second_moment + t.begin, *c = r + t.rows;
    double mean = 0.0, sum = 0.0;
    for (int row = (int) threadIdx.x; row < t.rows; row += THREADS)
        mean += (double) r[row] / t.rows;
    mean = ia3_block_sum<WARPS>(mean, shared);
    const size_t at = own.begin - t.begin;
    for (size_t i = at + threadIdx.x; i < at + own.n; i += THREADS) {
        const size_t row = i / (size_t) t.cols, col = i % (size_t) t.cols;
        const float u = g[i] * ((float) (1.0 / sqrt(r[row] / mean)) * (float) (1.0 / sqrt((double) c[col])));
        g[i] = u;
        sum += (double) u * (double) u;
    }
    sum = ia3_block_sum<WARPS>(sum, shared);
    const double before = ia3_sum_squares(t.job->a.values + own.begin, own.n, shared);
    if (threadIdx.x == 0) {
        double *to = squares + blockIdx.x * SPLITS + blockIdx.y;
        to[0] = before;
        to[gridDim.x * SPLITS] = sum;
    }
}

__global__ void
__launch_bounds__(THREADS) step_kernel(const ia3_adafactor_job *jobs, const double *squares)
{
    const ia3_adafactor_tensor t = ia3_adafactor_tensor_of(jobs, (int) blockIdx.x);
    if (!t.large)
        return;
    const range own = own_range(t);
    const double values = sum_parts(squares, (int) blockIdx.x);
    const double updates = sum_parts(squares + gridDim.x * SPLITS, (int) blockIdx.x);
    const double rms = t.job->a.fixed_step ? 1.0 : sqrt(values / (double) t.n);
    const float step = ia3_adafactor_step(t.job, rms, updates, (double) t.n);
    float *p = t.job->a.values + own.begin;
    const float *u = t.job->a.grads + own.begin;
    for (size_t i = threadIdx.x; i < own.n; i += THREADS)
        p[i] -= step * u[i];
}

} /* namespace */

double *
ia3_cuda_adafactor_large_scratch(ia3_cuda *cuda, int tensors)
{
    return (double *) ia3_cuda_arena_alloc(&cuda->base, 2 * (size_t) tensors * SPLITS * sizeof(double));
}

void
ia3_cuda_adafactor_large_norms(ia3_cuda *cuda, const ia3_adafactor_job *jobs, int tensors, double *parts,
                               double *norms)
{
    IA3_LAUNCH(part_norms_kernel, dim3((unsigned) tensors, SPLITS), THREADS, WARPS * sizeof(double),
               cuda->stream, jobs, parts);
    IA3_LAUNCH(norms_kernel, (unsigned) tensors, 1, 0, cuda->stream, jobs, (const double *) parts, norms);
}

void
ia3_cuda_adafactor_large(ia3_cuda *cuda, const ia3_adafactor_job *jobs, int tensors, double *squares,
                         const double *norms)
{
    const dim3 grid((unsigned) tensors, SPLITS);
    IA3_LAUNCH(moments_kernel, grid, THREADS, 0, cuda->stream, jobs, norms);
    IA3_LAUNCH(columns_kernel, grid, THREADS, 0, cuda->stream, jobs);
    IA3_LAUNCH(scale_kernel, grid, THREADS, WARPS * sizeof(double), cuda->stream, jobs, squares);
    IA3_LAUNCH(step_kernel, grid, THREADS, 0, cuda->stream, jobs, (const double *) squares);
}
