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
    size_t max_bytes, bytes;
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
    c->bytes -= e->bytes;
    c->count--;
    if (e->device)
        c->dispose(e->device, c->arg);
    free(e->values);
    ia3_layout_release(e->layout);
    free(e);
}

static void
evict_down_to(ia3_adapter_cache *c, size_t bytes)
{
    ia3_cached_adapter *newer;
    for (ia3_cached_adapter *e = c->oldest; e && c->bytes > bytes; e = newer) {
        newer = e->newer;
        if (e->refs == 0)
            drop(c, e);
    }
}

ia3_adapter_cache *
ia3_adapter_cache_create(size_t max_bytes, void (*dispose)(ia3_adapter *adapter, void *arg), void *arg)
{
    ia3_adapter_cache *c = ia3_alloc(sizeof *c);
    c->max_bytes = max_bytes;
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
                      float *values)
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
    e->bytes = layout->n_values * sizeof *values;
    e->refs = 1;
    ia3_cached_adapter **bucket = bucket_of(c, digest);
    e->chain = *bucket;
    *bucket = e;
    link_newest(c, e);
    c->bytes += e->bytes;
    c->count++;
    evict_down_to(c, c->max_bytes);
    return e;
}

void
ia3_adapter_cache_release(ia3_adapter_cache *c, ia3_cached_adapter *e)
{
    if (--e->refs == 0 && c->bytes > c->max_bytes)
        evict_down_to(c, c->max_bytes);
}

void
ia3_adapter_cache_shrink(ia3_adapter_cache *c)
{
    evict_down_to(c, 0);
}

size_t
ia3_adapter_cache_bytes(const ia3_adapter_cache *c)
{
    return c->bytes;
}

int
ia3_adapter_cache_count(const ia3_adapter_cache *c)
{
    return c->count;
}
