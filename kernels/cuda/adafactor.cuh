/*
 * adafactor.cuh
 *     Common parts of Adafactor's kernels: a job in device memory, its clipping factor, the length of a step.
 */
#ifndef IA3_CUDA_ADAFACTOR_CUH
#define IA3_CUDA_ADAFACTOR_CUH

#include "four.cuh"

enum { IA3_ADAFACTOR_WARPS = 8, IA3_ADAFACTOR_THREADS = 32 * IA3_ADAFACTOR_WARPS };

/* The tensors of all jobs are numbered consecutively; this job's begin with `first`. */
typedef struct ia3_adafactor_job {
    ia3_adafactor a;
    int first;
    float beta, rest; /* β and 1 - β */
    double beta_exact;
} ia3_adafactor_job;

/* A tensor of a job: where it begins, and its shape. */
typedef struct ia3_adafactor_tensor {
    const ia3_adafactor_job *job;
    size_t begin, n;
    int rows, cols, slices;
    bool large; /* several blocks divide it (adafactor_large.cu) */
} ia3_adafactor_tensor;

enum { IA3_ADAFACTOR_LARGE = 1 << 16, IA3_ADAFACTOR_LEAST_ROWS = 128, IA3_ADAFACTOR_LEAST_COLS = 4 };

static __device__ __forceinline__ const ia3_adafactor_job *
ia3_adafactor_job_of(const ia3_adafactor_job *jobs, int number)
{
    while (number >= jobs->first + jobs->a.n_tensors)
        jobs++;
    return jobs;
}

static __device__ __forceinline__ ia3_adafactor_tensor
ia3_adafactor_tensor_of(const ia3_adafactor_job *jobs, int number)
{
    jobs = ia3_adafactor_job_of(jobs, number);
    const int i = number - jobs->first;
    ia3_adafactor_tensor t;
    t.job = jobs;
    t.begin = (size_t) jobs->a.tensor_offsets[i];
    t.n = (size_t) jobs->a.tensor_offsets[i + 1] - t.begin;
    t.rows = jobs->a.tensor_rows ? jobs->a.tensor_rows[i] : 1;
    t.slices = jobs->a.tensor_slices ? jobs->a.tensor_slices[i] : 1;
    t.cols = (int) (t.n / ((size_t) t.slices * (size_t) t.rows));
    t.large = jobs->a.largest >= IA3_ADAFACTOR_LARGE && t.n >= IA3_ADAFACTOR_LARGE && t.slices == 1 &&
              t.rows >= IA3_ADAFACTOR_LEAST_ROWS && t.cols >= IA3_ADAFACTOR_LEAST_COLS;
    return t;
}

/* min(1, clip / (‖g‖ + 1e-6)); every thread computes the same value */
static __device__ __forceinline__ float
ia3_adafactor_clip(const ia3_adafactor_job *j, const double *norms)
{
    double sum = 0.0;
    for (int t = 0; t < j->a.n_tensors; t++)
        sum += norms[j->first + t];
    const double factor = j->a.clip_norm / (sqrt(sum) + 1e-6);
    return j->a.clip_norm > 0.0 && factor < 1.0 ? (float) factor : 1.0f;
}

static __device__ __forceinline__ float
ia3_adafactor_step(const ia3_adafactor_job *j, double rms, double u_squares, double n)
{
    const double u_rms = sqrt(u_squares / n);
    return (float) (j->a.learning_rate * (rms > 1e-3 ? rms : 1e-3) / (u_rms > 1.0 ? u_rms : 1.0));
}

static __device__ __forceinline__ double
ia3_sum_squares(const float *x, size_t n, double *shared)
{
    double sum = 0.0;
    for (size_t i = threadIdx.x; i < n; i += IA3_ADAFACTOR_THREADS)
        sum += (double) x[i] * (double) x[i];
    return ia3_block_sum<IA3_ADAFACTOR_WARPS>(sum, shared);
}

/*
 * adafactor_large.cu: memory of the arena for both of the others; Σ g² of the large tensors, in `norms` [tensors]; and their part of
 * the step.
 */
double *ia3_cuda_adafactor_large_scratch(ia3_cuda *cuda, int tensors);
void ia3_cuda_adafactor_large_norms(ia3_cuda *cuda, const ia3_adafactor_job *jobs, int tensors,
                                    double *scratch, double *norms);
void ia3_cuda_adafactor_large(ia3_cuda *cuda, const ia3_adafactor_job *jobs, int tensors, double *scratch,
                              const double *norms);

#endif
