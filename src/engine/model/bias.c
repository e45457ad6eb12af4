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

static void *
room(ia3_model *m, size_t bytes)
{
    return m->dev->ops->alloc(m->dev, bytes);
}

static void
release(ia3_model *m, void *p)
{
    if (p)
        m->dev->ops->free(m->dev, p);
}

/* Expands the table on the host. */
static void
expand(ia3_model *m, const ia3_bias *b, float *expanded, const int32_t *buckets, int width)
{
    const int heads = m->config.n_heads;
    const size_t bytes = (size_t) heads * (size_t) width * sizeof(float);
    float *host = ia3_alloc(bytes);
    for (int i = 0; i < width; i++)
        for (int h = 0; h < heads; h++)
            host[(size_t) h * (size_t) width + (size_t) i] =
                b->table[(size_t) buckets[i] * (size_t) heads + (size_t) h];
    m->dev->ops->upload(m->dev, expanded, host, bytes);
    free(host);
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
    int32_t *buckets = ia3_alloc_array((size_t) width, sizeof *buckets);
    for (int i = 0; i < width; i++)
        buckets[i] = ia3_relative_bucket(&m->config, b->bidirectional, i - (span - 1));
    float *expanded = room(m, (size_t) heads * (size_t) width * sizeof *expanded);
    int32_t *bucket_of = b->master ? room(m, (size_t) width * sizeof *bucket_of) : NULL;
    if (!expanded || (b->master && !bucket_of)) {
        free(buckets);
        release(m, expanded);
        release(m, bucket_of);
        if (m->dev->oom)
            longjmp(*m->dev->oom, 1);
        abort();
    }
    if (b->master) {
        m->dev->ops->upload(m->dev, bucket_of, buckets, (size_t) width * sizeof *buckets);
        m->dev->ops->bias_expand(m->dev, expanded, b->master, bucket_of, heads, span);
    } else
        expand(m, b, expanded, buckets, width);
    free(buckets);
    release(m, b->expanded);
    release(m, b->bucket_of);
    b->expanded = expanded;
    b->bucket_of = bucket_of;
    b->span = span;
}
