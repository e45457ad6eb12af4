/*
 * adafactor.c
 *     One step of Adafactor for (IA)³ vectors (Shazeer & Stern 2018 as in transformers' optimization.py; for vectors
 *     its factored second moment equals the elementwise one).
 *
 *   g *= min(1, clip/(‖g‖ + 1e-6))       over all tensors of a job, when clip > 0
 *   per tensor: a = lr·max(1e-3, RMS(p))   β = 1 - t^-0.8   v = β·v + (1-β)(g² + 1e-30)
 *               u = g/√v                   p -= a·u/max(1, RMS(u))
 *
 * Items are tensors. Sums in double, 8 partial sums; elements in fp32 as the reference has them.
 */
#include <math.h>

#include "cpu.h"

enum { LANES = 8 };

typedef struct adafactor_job {
    const ia3_adafactor *jobs;
    int n_jobs;
    const size_t *first; /* [n_jobs + 1] first item of a job */
    double *norms;       /* [items] Σ g² */
    float *clip;         /* [n_jobs] */
} adafactor_job;

static double
sum_squares(const float *x, size_t n)
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

/* The tensor of an item. */
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
        j->norms[item] = sum_squares(a->grads + begin, end - begin);
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
    double rms = sqrt(sum_squares(p, n) / (double) n);
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

static void
update_work(void *arg, int slot, size_t first, size_t last)
{
    const adafactor_job *j = arg;
    for (size_t item = first; item < last; item++) {
        int job;
        size_t begin, end;
        const ia3_adafactor *a = find_tensor(j, item, &job, &begin, &end);
        update(a, begin, end - begin, j->clip[job]);
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
    ia3_parallel(cpu->pool, first[n], 16, norm_work, &j);
    for (size_t i = 0; i < n; i++) {
        double sum = 0.0;
        for (size_t t = first[i]; t < first[i + 1]; t++)
            sum += j.norms[t];
        double factor = jobs[i].clip_norm / (sqrt(sum) + 1e-6);
        j.clip[i] = jobs[i].clip_norm > 0.0 && factor < 1.0 ? (float) factor : 1.0f;
    }
    ia3_parallel(cpu->pool, first[n], 16, update_work, &j);
    ia3_cpu_arena_release(dev, mark);
}
