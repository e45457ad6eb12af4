/*
 * adapter_cache.h
 *     A cache of adapters by digest, limited in bytes, from which the least recently used are evicted.
 *
 * Threads: the cache belongs to the I/O thread. An entry's values are first in host memory; the compute thread moves
 * them to the device when a batch first needs them. It changes `device` and `values` only while a request holds a
 * reference, hence never during an eviction, because entries with references are not evicted.
 */
#ifndef IA3_ADAPTER_CACHE_H
#define IA3_ADAPTER_CACHE_H

#include "engine/model/model.h"

typedef struct ia3_cached_adapter {
    uint8_t digest[IA3_DIGEST_LEN];
    const ia3_layout *layout; /* released with the entry */
    float *values;       /* host memory, malloc'd; NULL when they are on the device, just as they are here */
    ia3_adapter *device; /* NULL until first used */
    size_t bytes;
    bool weights; /* it replaces weights, and `bytes` includes those on the device */
    int refs;
    struct ia3_cached_adapter *chain;         /* same hash bucket */
    struct ia3_cached_adapter *newer, *older; /* order of use */
} ia3_cached_adapter;

typedef struct ia3_adapter_cache ia3_adapter_cache;

/*
 * The limits are for adapters without and with weights of their own (ia3_layout_replaces). `dispose` is called with the device copy of an
 * evicted entry, which only the compute thread may free.
 */
ia3_adapter_cache *ia3_adapter_cache_create(size_t max_bytes, size_t max_weights,
                                            void (*dispose)(ia3_adapter *adapter, void *arg), void *arg);
/* Frees everything, referenced or not. */
void ia3_adapter_cache_free(ia3_adapter_cache *c);

/* Finds an entry, adds a reference and makes it the most recently used one. NULL if there is none. */
ia3_cached_adapter *ia3_adapter_cache_acquire(ia3_adapter_cache *c, const uint8_t digest[IA3_DIGEST_LEN]);
/*
 * Adds an entry and takes ownership of `values` (malloc'd, in the layout) and of the caller's share of the layout; returns
 * the entry with one more reference. weight_bytes: what its own weights are going to take on the device; 0 if it has none.
 */
ia3_cached_adapter *ia3_adapter_cache_put(ia3_adapter_cache *c, const uint8_t digest[IA3_DIGEST_LEN],
                                          const ia3_layout *layout, float *values, size_t weight_bytes);
/* Drops a reference. Entries above the limit are evicted as soon as they have no references. */
void ia3_adapter_cache_release(ia3_adapter_cache *c, ia3_cached_adapter *e);
/* Evicts all entries without references, for when the device is short of memory. */
void ia3_adapter_cache_shrink(ia3_adapter_cache *c);

size_t ia3_adapter_cache_bytes(const ia3_adapter_cache *c);
int ia3_adapter_cache_count(const ia3_adapter_cache *c);

#endif
