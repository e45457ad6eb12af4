/*
 * profile.cu
 *     How much time the device spends on each kernel, copy and matrix product, if IA3_CUDA_PROFILE is set.
 *
 * A pair of events surrounds each of them. When the device is closed, a table goes to stderr, the largest totals first.
 * The events delay the host and the device by a few microseconds each, so a profiled run shows how its time is divided,
 * not how long it would have taken.
 */
#include "portable.cuh"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

namespace {

enum { SPANS = 2048, NAMES = 512, LENGTH = 80 };

typedef struct total {
    char name[LENGTH];
    long n;
    double ms, longest;
} total;

typedef struct span {
    cudaEvent_t start, end;
    int name;
} span;

struct {
    span *spans; /* [SPANS] */
    int n_spans; /* not added up yet */
    int n_names;
    total names[NAMES];
} profile;

int
find_name(const char *name)
{
    for (int i = 0; i < profile.n_names; i++)
        if (strncmp(profile.names[i].name, name, LENGTH - 1) == 0)
            return i;
    if (profile.n_names == NAMES)
        return NAMES - 1;
    snprintf(profile.names[profile.n_names].name, LENGTH, "%s",
             profile.n_names < NAMES - 1 ? name : "others");
    return profile.n_names++;
}

bool
create_events(void)
{
    profile.spans = (span *) calloc(SPANS, sizeof *profile.spans);
    for (int i = 0; profile.spans && i < SPANS; i++)
        if (cudaEventCreateWithFlags(&profile.spans[i].start, 0) != cudaSuccess ||
            cudaEventCreateWithFlags(&profile.spans[i].end, 0) != cudaSuccess)
            return false;
    return profile.spans != NULL;
}

/* Waits for the spans and adds their times to the totals. */
void
add_up(void)
{
    if (profile.n_spans > 0)
        (void) cudaEventSynchronize(profile.spans[profile.n_spans - 1].end);
    for (int i = 0; i < profile.n_spans; i++) {
        const span *s = &profile.spans[i];
        total *t = &profile.names[s->name];
        float ms = 0.0f;
        if (cudaEventElapsedTime(&ms, s->start, s->end) != cudaSuccess)
            continue;
        t->n++;
        t->ms += ms;
        t->longest = ms > t->longest ? ms : t->longest;
    }
    profile.n_spans = 0;
}

int
by_time(const void *a, const void *b)
{
    const double x = ((const total *) a)->ms, y = ((const total *) b)->ms;
    return (x < y) - (x > y);
}

} /* namespace */

bool ia3_cuda_profiling;

void
ia3_cuda_profile_open(void)
{
    const char *wanted = getenv("IA3_CUDA_PROFILE");
    if (wanted && *wanted && !profile.spans)
        ia3_cuda_profiling = create_events();
}

void
ia3_cuda_profile_start(const char *name, cudaStream_t stream)
{
    if (profile.n_spans == SPANS)
        add_up();
    profile.spans[profile.n_spans].name = find_name(name);
    (void) cudaEventRecord(profile.spans[profile.n_spans].start, stream);
}

void
ia3_cuda_profile_kernel(const char *name, unsigned blocks, cudaStream_t stream)
{
    char text[LENGTH];
    snprintf(text, sizeof text, "%.60s, %u blocks", name, blocks);
    ia3_cuda_profile_start(text, stream);
}

void
ia3_cuda_profile_end(cudaStream_t stream)
{
    (void) cudaEventRecord(profile.spans[profile.n_spans++].end, stream);
}

void
ia3_cuda_profile_print(void)
{
    double all = 0.0;
    if (!ia3_cuda_profiling)
        return;
    add_up();
    for (int i = 0; i < profile.n_names; i++)
        all += profile.names[i].ms;
    qsort(profile.names, (size_t) profile.n_names, sizeof profile.names[0], by_time);
    fprintf(stderr, "profile: %.3f ms in all\n%10s %9s %7s %6s  %s\n", all, "ms", "calls", "us", "%", "name");
    for (int i = 0; i < profile.n_names; i++) {
        const total *t = &profile.names[i];
        if (t->n > 0)
            fprintf(stderr, "%10.3f %9ld %7.1f %6.2f  %s (longest %.1f us)\n", t->ms, t->n,
                    1000 * t->ms / (double) t->n, all > 0 ? 100 * t->ms / all : 0.0, t->name,
                    1000 * t->longest);
    }
    fflush(stderr);
    profile.n_names = 0;
    memset(profile.names, 0, sizeof profile.names);
}
