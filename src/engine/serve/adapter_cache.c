/*
 * adapter_cache.c
 *     A hash table of adapters with a list in order of use.
 */
#include "adapter_cache.h"

#include <stdlib.h>
#include <string.h>

#include "engine/base/alloc.h"

#define N_BUCKETS 1024

struct ia3_adapter_cache {
    size_t max_bytes, bytes;     /* of adapters without weights */
    size_t max_weights, weights; /* of those with weights */
    int count;
    void (*dispose)(ia3_adapter *, void *);
    void *arg;
    ia3_cached_adapter *newest, *oldest;
    ia3_cached_adapter *buckets[N_BUCKETS];
};

/* Digests are uniformly distributed, so the first bytes serve as the hash. */
static ia3_cached_adapter **
bucket_of(ia3_adapter_cache *c, const uint8_t *digest)
{
    return &c->buckets[(digest[0] | digest[1] << 8) % N_BUCKETS];
}

static void
unlink_entry(ia3_adapter_cache *c, ia3_cached_adapter *e)
{
    *(e->newer ? &e->newer->older : &c->newest) = e->older;
    *(e->older ? &e->older->newer : &c->oldest) = e->newer;
    e->newer = e->older = NULL;
}

static void
link_newest(ia3_adapter_cache *c, ia3_cached_adapter *e)
{
    e->older = c->newest;
    e->newer = NULL;
    *(c->newest ? &c->newest->newer : &c->oldest) = e;
    c->newest = e;
}

static void
drop(ia3_adapter_cache *c, ia3_cached_adapter *e)
{
    ia3_cached_adapter **at = bucket_of(c, e->digest);
    while (*at != e)
        at = &(*at)->chain;
    *at = e->chain;
    unlink_entry(c, e);
    *(e->weights ? &c->weights : &c->bytes) -= e->bytes;
    c->count--;
    if (e->device)
        c->dispose(e->device, c->arg);
    free(e->values);
    ia3_layout_release(e->layout);
    free(e);
}

/* Evicts adapters of one kind, with or without weights, until so many bytes of them are left, or all are in use. */
static void
evict_down_to(ia3_adapter_cache *c, bool weights, size_t bytes)
{
    const size_t *size = weights ? &c->weights : &c->bytes;
    ia3_cached_adapter *newer;
    for (ia3_cached_adapter *e = c->oldest; e && *size > bytes; e = newer) {
        newer = e->newer;
        if (e->refs == 0 && e->weights == weights)
            drop(c, e);
    }
}

static void
enforce_limits(ia3_adapter_cache *c)
{
    evict_down_to(c, false, c->max_bytes);
    evict_down_to(c, true, c->max_weights);
}

ia3_adapter_cache *
ia3_adapter_cache_create(size_t max_bytes, size_t max_weights,
                         void (*dispose)(ia3_adapter *adapter, void *arg), void *arg)
{
    ia3_adapter_cache *c = ia3_alloc(sizeof *c);
    c->max_bytes = max_bytes;
    c->max_weights = max_weights;
    c->dispose = dispose;
    c->arg = arg;
    return c;
}

void
ia3_adapter_cache_free(ia3_adapter_cache *c)
{
    if (c == NULL)
        return;
    while (c->oldest)
        drop(c, c->oldest);
    free(c);
}

ia3_cached_adapter *
ia3_adapter_cache_acquire(ia3_adapter_cache *c, const uint8_t digest[IA3_DIGEST_LEN])
{
    for (ia3_cached_adapter *e = *bucket_of(c, digest); e; e = e->chain)
        if (memcmp(e->digest, digest, IA3_DIGEST_LEN) == 0) {
            e->refs++;
            unlink_entry(c, e);
            link_newest(c, e);
            return e;
        }
    return NULL;
}

ia3_cached_adapter *
ia3_adapter_cache_put(ia3_adapter_cache *c, const uint8_t digest[IA3_DIGEST_LEN], const ia3_layout *layout,
                      float *values, size_t weight_bytes)
{
    ia3_cached_adapter *e = ia3_adapter_cache_acquire(c, digest);
    if (e) {
        free(values);
        ia3_layout_release(layout);
        return e;
    }
    e = ia3_alloc(sizeof *e);
    memcpy(e->digest, digest, IA3_DIGEST_LEN);
    e->values = values;
    e->layout = layout;
    e->weights = weight_bytes > 0;
    e->bytes = layout->n_values * sizeof *values + weight_bytes;
    e->refs = 1;
    ia3_cached_adapter **bucket = bucket_of(c, digest);
    e->chain = *bucket;
    *bucket = e;
    link_newest(c, e);
    *(e->weights ? &c->weights : &c->bytes) += e->bytes;
    c->count++;
    enforce_limits(c);
    return e;
}

void
ia3_adapter_cache_release(ia3_adapter_cache *c, ia3_cached_adapter *e)
{
    if (--e->refs == 0)
        enforce_limits(c);
}

void
ia3_adapter_cache_shrink(ia3_adapter_cache *c)
{
    evict_down_to(c, false, 0);
    evict_down_to(c, true, 0);
}

size_t
ia3_adapter_cache_bytes(const ia3_adapter_cache *c)
{
    return c->bytes + c->weights;
}

int
ia3_adapter_cache_count(const ia3_adapter_cache *c)
{
    return c->count;
}
