/*
 * adafactor.c
 *     One step of Adafactor (Shazeer & Stern 2018, as implemented in transformers' optimization.py). The second moment
 *     is elementwise for vectors and factored for matrices, which only methods other than (IA)³ have.
 *
 *   g *= min(1, clip/(‖g‖ + 1e-6))       over all tensors of a job, when clip > 0
 *   per tensor: a = lr·max(1e-3, RMS(p))   β = 1 - t^-0.8   v = β·v + (1-β)(g² + 1e-30)
 *               u = g/√v                   p -= a·u/max(1, RMS(u))
 *   matrices: v_ij = r_i·c_j/mean(r), r and c the running means of rows and columns; a = lr with fixed_step
 *   tensors of several matrices: each matrix has its own r and c, but both RMS are of the whole tensor
 *
 * An item of work is one tensor; large matrices come one after another (adafactor_large.c). Sums are in double precision, in 8 partial sums; elements are fp32 as in transformers.
 */
#include <math.h>

#include "adafactor.h"

enum { LANES = 8 };

typedef struct adafactor_job {
    const ia3_adafactor *jobs;
    int n_jobs;
    const size_t *first; /* [n_jobs + 1] first item of a job */
    double *norms;       /* [items] Σ g² */
    float *clip;         /* [n_jobs] */
} adafactor_job;

double
ia3_sum_squares(const float *x, size_t n)
{
    double lanes[LANES] = {0}, sum = 0.0;
    size_t i = 0;
    for (; i + LANES <= n; i += LANES)
        for (int l = 0; l < LANES; l++)
            lanes[l] += (double) x[i + l] * (double) x[i + l];
    for (; i < n; i++)
        lanes[0] += (double) x[i] * (double) x[i];
    for (int l = 0; l < LANES; l++)
        sum += lanes[l];
    return sum;
}

/* Finds the job, and the elements [begin, end), of the tensor that is this item. */
static const ia3_adafactor *
find_tensor(const adafactor_job *j, size_t item, int *job, size_t *begin, size_t *end)
{
    int i = 0;
    while (item >= j->first[i + 1])
        i++;
    const ia3_adafactor *a = &j->jobs[i];
    *job = i;
    *begin = (size_t) a->tensor_offsets[item - j->first[i]];
    *end = (size_t) a->tensor_offsets[item - j->first[i] + 1];
    return a;
}

static void
norm_work(void *arg, int slot, size_t first, size_t last)
{
    const adafactor_job *j = arg;
    for (size_t item = first; item < last; item++) {
        int job;
        size_t begin, end;
        const ia3_adafactor *a = find_tensor(j, item, &job, &begin, &end);
        if (!ia3_adafactor_is_large(a, (int) (item - j->first[job])))
            j->norms[item] = ia3_sum_squares(a->grads + begin, end - begin);
    }
}

/* Updates one tensor of n values. */
static void
update(const ia3_adafactor *a, size_t begin, size_t n, float clip)
{
    float *restrict p = a->values + begin, *restrict g = a->grads + begin,
                    *restrict v = a->second_moment + begin;
    double beta_exact = 1.0 - pow((double) a->step, -0.8);
    const float beta = (float) beta_exact, rest = (float) (1.0 - beta_exact);
    if (n == 0)
        return;
    double rms = a->fixed_step ? 1.0 : sqrt(ia3_sum_squares(p, n) / (double) n);
    double lanes[LANES] = {0}, sum = 0.0;
    for (size_t i = 0; i < n; i++) {
        float x = g[i] * clip;
        g[i] = x;
        v[i] = beta * v[i] + rest * (x * x + 1e-30f);
        double u = (double) (x / sqrtf(v[i]));
        lanes[i % LANES] += u * u;
    }
    for (int l = 0; l < LANES; l++)
        sum += lanes[l];
    double u_rms = sqrt(sum / (double) n);
    const float step = (float) (a->learning_rate * (rms > 1e-3 ? rms : 1e-3) / (u_rms > 1.0 ? u_rms : 1.0));
    for (size_t i = 0; i < n; i++)
        p[i] -= step * (g[i] / sqrtf(v[i]));
}

/* Turns the gradients g of one matrix into u, and returns Σ u². The second moment holds r [rows], then c [cols]. */
static double
scale_matrix(float *restrict g, float *restrict row, size_t rows, size_t cols, double beta, float clip)
{
    float *restrict col = row + rows;
    double mean = 0.0, sum = 0.0;
    for (size_t j = 0; j < cols; j++)
        col[j] *= (float) beta;
    for (size_t i = 0; i < rows; i++) {
        double squares = 0.0;
        for (size_t j = 0; j < cols; j++) {
            float x = g[i * cols + j] *= clip;
            double square = (double) x * (double) x + 1e-30;
            squares += square;
            col[j] += (float) ((1.0 - beta) * square / (double) rows);
        }
        row[i] = (float) (beta * row[i] + (1.0 - beta) * squares / (double) cols);
        mean += row[i] / (double) rows;
    }
    for (size_t i = 0; i < rows; i++)
        for (size_t j = 0; j < cols; j++) {
            float *u = &g[i * cols + j];
            *u = (float) (*u / sqrt(row[i] / mean * col[j]));
            sum += (double) *u * (double) *u;
        }
    return sum;
}

/* Updates one tensor of matrices. */
static void
update_matrices(const ia3_adafactor *a, size_t begin, size_t slices, size_t rows, size_t cols, float clip)
{
    float *restrict p = a->values + begin, *restrict g = a->grads + begin;
    const double beta = 1.0 - pow((double) a->step, -0.8);
    const size_t n = slices * rows * cols;
    double sum = 0.0;
    for (size_t s = 0; s < slices; s++)
        sum += scale_matrix(g + s * rows * cols, a->second_moment + begin + s * (rows + cols), rows, cols,
                            beta, clip);
    double rms = a->fixed_step ? 1.0 : fmax(1e-3, sqrt(ia3_sum_squares(p, n) / (double) n));
    const float step = (float) (a->learning_rate * rms / fmax(1.0, sqrt(sum / (double) n)));
    for (size_t i = 0; i < n; i++)
        p[i] -= step * g[i];
}

static void
update_work(void *arg, int slot, size_t first, size_t last)
{
    const adafactor_job *j = arg;
    for (size_t item = first; item < last; item++) {
        int job;
        size_t begin, end;
        const ia3_adafactor *a = find_tensor(j, item, &job, &begin, &end);
        size_t tensor = item - j->first[job], rows = a->tensor_rows ? (size_t) a->tensor_rows[tensor] : 1;
        size_t slices = a->tensor_slices ? (size_t) a->tensor_slices[tensor] : 1;
        if (ia3_adafactor_is_large(a, (int) tensor))
            continue;
        if (rows > 1)
            update_matrices(a, begin, slices, rows, (end - begin) / (slices * rows), j->clip[job]);
        else
            update(a, begin, end - begin, j->clip[job]);
    }
}

/* The norms of large matrices, or with `update` their part of the step. */
static void
for_large(ia3_cpu *cpu, const adafactor_job *j, const ia3_adafactor_scratch *scratch, bool update)
{
    for (int i = 0; i < j->n_jobs; i++)
        for (int t = 0; t < j->jobs[i].n_tensors; t++) {
            if (!ia3_adafactor_is_large(&j->jobs[i], t))
                continue;
            if (update)
                ia3_adafactor_large_update(cpu, &j->jobs[i], t, j->clip[i], scratch);
            else
                j->norms[j->first[i] + (size_t) t] = ia3_adafactor_large_norm(cpu, &j->jobs[i], t, scratch);
        }
}

void
ia3_cpu_adafactor(ia3_device *dev, const ia3_adafactor *jobs, int n_jobs)
{
    ia3_cpu *cpu = (ia3_cpu *) dev;
    if (n_jobs <= 0)
        return;
    size_t mark = ia3_cpu_arena_mark(dev), n = (size_t) n_jobs;
    size_t *first = ia3_cpu_arena_alloc(dev, (n + 1) * sizeof *first);
    first[0] = 0;
    for (size_t i = 0; i < n; i++)
        first[i + 1] = first[i] + (size_t) jobs[i].n_tensors;
    adafactor_job j = {.jobs = jobs, .n_jobs = n_jobs, .first = first};
    j.norms = ia3_cpu_arena_alloc(dev, first[n] * sizeof *j.norms);
    j.clip = ia3_cpu_arena_alloc(dev, n * sizeof *j.clip);
    const ia3_adafactor_scratch scratch = ia3_adafactor_large_scratch(cpu, jobs, n_jobs);
    ia3_parallel(cpu->pool, first[n], 16, norm_work, &j);
    for_large(cpu, &j, &scratch, false);
    for (size_t i = 0; i < n; i++) {
        double sum = 0.0;
        for (size_t t = first[i]; t < first[i + 1]; t++)
            sum += j.norms[t];
        double factor = jobs[i].clip_norm / (sqrt(sum) + 1e-6);
        j.clip[i] = jobs[i].clip_norm > 0.0 && factor < 1.0 ? (float) factor : 1.0f;
    }
    ia3_parallel(cpu->pool, first[n], 16, update_work, &j);
    for_large(cpu, &j, &scratch, true);
    ia3_cpu_arena_release(dev, mark);
}
