/*
 * adapter_cache.h
 *     Adapters by digest, least recently used first out, bounded in bytes.
 *
 * The cache belongs to the I/O thread. An entry begins with its vectors in host memory; the compute thread
 * moves them to the device when a batch first needs them (`device` and `values` change only while a request
 * holds a reference, so never together with an eviction). Entries with references are never evicted.
 */
#ifndef IA3_ADAPTER_CACHE_H
#define IA3_ADAPTER_CACHE_H

#include "engine/model/model.h"

typedef struct ia3_cached_adapter {
    uint8_t digest[IA3_DIGEST_LEN];
    const ia3_method *method; /* set by whoever put it */
    float *values;            /* host, malloc'd; NULL once on the device */
    ia3_adapter *device;      /* NULL until first used */
    size_t bytes;
    int refs;
    struct ia3_cached_adapter *chain;         /* same hash bucket */
    struct ia3_cached_adapter *newer, *older; /* order of use */
} ia3_cached_adapter;

typedef struct ia3_adapter_cache ia3_adapter_cache;

/* `dispose` gets the device copy of an evicted entry (it must be freed on the compute thread). */
ia3_adapter_cache *ia3_adapter_cache_create(size_t max_bytes,
                                            void (*dispose)(ia3_adapter *adapter, void *arg), void *arg);
/* Frees everything, referenced or not. */
void ia3_adapter_cache_free(ia3_adapter_cache *c);

/* The entry with one more reference and now the most recently used, or NULL. */
ia3_cached_adapter *ia3_adapter_cache_acquire(ia3_adapter_cache *c, const uint8_t digest[IA3_DIGEST_LEN]);
/* Takes ownership of `values` (malloc'd, n numbers); returns the entry with one more reference. */
ia3_cached_adapter *ia3_adapter_cache_put(ia3_adapter_cache *c, const uint8_t digest[IA3_DIGEST_LEN],
                                          float *values, size_t n);
/* Gives a reference back; entries above the limit go once nobody needs them. */
void ia3_adapter_cache_release(ia3_adapter_cache *c, ia3_cached_adapter *e);
/* Evicts everything without references: the device is short of memory. */
void ia3_adapter_cache_shrink(ia3_adapter_cache *c);

size_t ia3_adapter_cache_bytes(const ia3_adapter_cache *c);
int ia3_adapter_cache_count(const ia3_adapter_cache *c);

#endif
