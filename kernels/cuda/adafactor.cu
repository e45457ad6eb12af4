/*
 * adafactor.cu
 *     One step of Adafactor for every tensor of every job in two launches, and more if some are large matrices
 *     (adafactor_large.cu). Formulas: kernels/cpu/adafactor.c.
 *
 * There is one block per tensor. In the first kernel it computes Σ g² of the tensor; in the second it adds up these
 * sums for all tensors of its job, in their order, to find the clipping factor, and updates its tensor. Sums are in
 * double precision and in a fixed order.
 */
#include "adafactor.cuh"

#include <string.h>

namespace {

enum { WARPS = IA3_ADAFACTOR_WARPS, THREADS = IA3_ADAFACTOR_THREADS };

__global__ void
__launch_bounds__(THREADS) norm_kernel(const ia3_adafactor_job *jobs, double *norms)
{
    IA3_SHARED(double, shared);
    const ia3_adafactor_tensor t = ia3_adafactor_tensor_of(jobs, (int) blockIdx.x);
    if (t.large)
        return;
    const double sum = ia3_sum_squares(t.job->a.grads + t.begin, t.n, shared);
    if (threadIdx.x == 0)
        norms[blockIdx.x] = sum;
}

__device__ __forceinline__ void
update_vector(const ia3_adafactor_job *j, size_t begin, size_t n, float clip, double *shared)
{
    float *p = j->a.values + begin, *g = j->a.grads + begin, *v = j->a.second_moment + begin;
    const double rms = j->a.fixed_step ? 1.0 : sqrt(ia3_sum_squares(p, n, shared) / (double) n);
    double squares = 0.0;
    for (size_t i = threadIdx.x; i < n; i += THREADS) {
        const float x = g[i] * clip, now = j->beta * v[i] + j->rest * (x * x + 1e-30f);
        g[i] = x;
        v[i] = now;
        const double u = (double) (x / sqrtf(now));
        squares += u * u;
    }
    const float step = ia3_adafactor_step(j, rms, ia3_block_sum<WARPS>(squares, shared), (double) n);
    for (size_t i = threadIdx.x; i < n; i += THREADS)
        p[i] -= step * (g[i] / sqrtf(v[i]));
}

/* Turns the gradients g of a matrix into u, and returns this thread's part of Σ u². The second moment holds r [rows], then c [cols]. */
__device__ __forceinline__ double
scale_matrix(float *g, float *r, int rows, int cols, double beta, float clip, double *shared)
{
    float *c = r + rows;
    const int n = rows * cols; /* lengths of tensors fit in an int */
    for (int i = (int) threadIdx.x; i < n; i += THREADS)
        g[i] *= clip;
    __syncthreads();
    for (int col = (int) threadIdx.x; col < cols; col += THREADS) {
        float sum = c[col] * (float) beta;
        for (int row = 0; row < rows; row++) {
            const double x = (double) g[(size_t) row * (size_t) cols + col];
            sum += (float) ((1.0 - beta) * (x * x + 1e-30) / (double) rows);
        }
        c[col] = sum;
    }
    double mean = 0.0;
    for (int row = 0; row < rows; row++) {
        const double squares =
            ia3_sum_squares(g + (size_t) row * (size_t) cols, (size_t) cols, shared) + cols * 1e-30;
        const float now = (float) (beta * r[row] + (1.0 - beta) * squares / (double) cols);
        __syncthreads(); /* all threads have read the old value */
        if (threadIdx.x == 0)
            r[row] = now;
        mean += (double) now / (double) rows;
    }
    __syncthreads();
    double sum = 0.0;
    for (int i = (int) threadIdx.x; i < n; i += THREADS) {
        const float u = (float) (g[i] / sqrt(r[i / cols] / mean * c[i % cols]));
        g[i] = u;
        sum += (double) u * (double) u;
    }
    return sum;
}

/* Updates a tensor of matrices. */
__device__ __forceinline__ void
update_matrices(const ia3_adafactor_job *j, size_t begin, int slices, int rows, int cols, float clip,
                double *shared)
{
    float *p = j->a.values + begin, *g = j->a.grads + begin;
    const size_t each = (size_t) rows * (size_t) cols, n = (size_t) slices * each;
    double sum = 0.0;
    for (int s = 0; s < slices; s++)
        sum += scale_matrix(g + (size_t) s * each,
                            j->a.second_moment + begin + (size_t) s * (size_t) (rows + cols), rows, cols,
                            j->beta_exact, clip, shared);
    const double rms = j->a.fixed_step ? 1.0 : sqrt(ia3_sum_squares(p, n, shared) / (double) n);
    const float step = ia3_adafactor_step(j, rms, ia3_block_sum<WARPS>(sum, shared), (double) n);
    for (size_t i = threadIdx.x; i < n; i += THREADS)
        p[i] -= step * g[i];
}

__global__ void
__launch_bounds__(THREADS) update_kernel(const ia3_adafactor_job *jobs, const double *norms)
{
    IA3_SHARED(double, shared);
    if (ia3_adafactor_tensor_of(jobs, (int) blockIdx.x).large)
        return;
    const ia3_adafactor_job *j = ia3_adafactor_job_of(jobs, (int) blockIdx.x);
    const int t = (int) blockIdx.x - j->first, rows = j->a.tensor_rows ? j->a.tensor_rows[t] : 1;
    const int slices = j->a.tensor_slices ? j->a.tensor_slices[t] : 1;
    const size_t begin = (size_t) j->a.tensor_offsets[t], n = (size_t) j->a.tensor_offsets[t + 1] - begin;
    if (n == 0)
        return;
    const float clip = ia3_adafactor_clip(j, norms);
    if (rows > 1)
        update_matrices(j, begin, slices, rows, (int) (n / ((size_t) slices * (size_t) rows)), clip, shared);
    else
        update_vector(j, begin, n, clip, shared);
}

} /* namespace */

void
ia3_cuda_adafactor(ia3_device *dev, const ia3_adafactor *jobs, int n_jobs)
{
    ia3_cuda *cuda = (ia3_cuda *) dev;
    const size_t mark = ia3_cuda_arena_mark(dev);
    int tensors = 0;
    bool large = false;
    if (n_jobs <= 0)
        return;
    ia3_adafactor_job *on_device =
        (ia3_adafactor_job *) ia3_cuda_arena_alloc(dev, (size_t) n_jobs * sizeof(ia3_adafactor_job));
    for (int i = 0; i < n_jobs; i++) {
        ia3_adafactor_job j;
        memset(&j, 0, sizeof j);
        j.a = jobs[i];
        j.first = tensors;
        j.beta_exact = 1.0 - pow((double) jobs[i].step, -0.8);
        j.beta = (float) j.beta_exact;
        j.rest = (float) (1.0 - j.beta_exact);
        ia3_cuda_upload(dev, on_device + i, &j, sizeof j);
        tensors += jobs[i].n_tensors;
        large = large || jobs[i].largest >= IA3_ADAFACTOR_LARGE;
    }
    if (tensors > 0) {
        double *norms = (double *) ia3_cuda_arena_alloc(dev, (size_t) tensors * sizeof(double));
        double *scratch = large ? ia3_cuda_adafactor_large_scratch(cuda, tensors) : NULL;
        IA3_LAUNCH(norm_kernel, (unsigned) tensors, THREADS, WARPS * sizeof(double), cuda->stream,
                   (const ia3_adafactor_job *) on_device, norms);
        if (large)
            ia3_cuda_adafactor_large_norms(cuda, on_device, tensors, scratch, norms);
        IA3_LAUNCH(update_kernel, (unsigned) tensors, THREADS, WARPS * sizeof(double), cuda->stream,
                   (const ia3_adafactor_job *) on_device, (const double *) norms);
        if (large)
            ia3_cuda_adafactor_large(cuda, on_device, tensors, scratch, norms);
    }
    ia3_cuda_arena_release(dev, mark);
}
