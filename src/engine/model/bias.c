/*
 * bias.c
 *     T5's relative position bias: the bucket of a distance, and the expansion of the table by distance.
 */
#include "graph.h"

#include <math.h>
#include <stdlib.h>

#include "engine/base/alloc.h"

/*
 * The logarithm is computed in fp32 as in transformers; for every distance of the standard tables fp64 gives the same
 * bucket.
 */
int
ia3_relative_bucket(const ia3_config *c, bool bidirectional, int relative)
{
    int n = c->n_buckets, bucket = 0, distance;
    if (bidirectional) {
        n /= 2;
        if (relative > 0)
            bucket = n;
        distance = abs(relative);
    } else {
        distance = relative < 0 ? -relative : 0;
    }
    int exact = n / 2;
    if (distance < exact)
        return bucket + distance;
    float f = logf((float) distance / (float) exact) / (float) log((double) c->max_distance / exact);
    int far = exact + (int) (f * (float) (n - exact));
    return bucket + (far < n - 1 ? far : n - 1);
}

void
ia3_bias_cover(ia3_model *m, ia3_bias *b, int length)
{
    if (!b->table || b->span >= length)
        return;
    int span = 64;
    while (span < length)
        span *= 2;

    int heads = m->config.n_heads, width = 2 * span - 1;
    size_t bytes = (size_t) heads * width * sizeof(float);
    float *device = m->dev->ops->alloc(m->dev, bytes);
    if (!device) {
        if (m->dev->oom)
            longjmp(*m->dev->oom, 1);
        abort();
    }
    float *host = ia3_alloc(bytes);
    for (int i = 0; i < width; i++) {
        int bucket = ia3_relative_bucket(&m->config, b->bidirectional, i - (span - 1));
        for (int h = 0; h < heads; h++)
            host[(size_t) h * width + i] = b->table[(size_t) bucket * heads + h];
    }
    m->dev->ops->upload(m->dev, device, host, bytes);
    free(host);
    if (b->expanded)
        m->dev->ops->free(m->dev, b->expanded);
    b->expanded = device;
    b->span = span;
}
