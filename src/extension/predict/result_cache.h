/*
 * result_cache.h
 *     Answers that are known before a function asks for them.
 *
 * Each read-ahead node owns a cache; the functions look into all of them. An answer is found by the form of
 * the call and the bytes of its arguments. Toast pointers are compared as they are, not followed: within
 * a statement equal pointers mean equal values, and nothing is fetched twice.
 *
 * An answer is only good for who asked and when: another user may not see the task, another statement may
 * see another version of it, another setting gives other scores. A node's cache therefore belongs to a
 * snapshot (which the node's query keeps registered) and remembers user and settings; a memo, which may
 * outlive a statement, remembers what its snapshot saw.
 */
#ifndef IA3_RESULT_CACHE_H
#define IA3_RESULT_CACHE_H

#include "fmgr.h"
#include "utils/snapshot.h"

#include "call.h"
#include "ranking.h"

typedef struct Ia3ResultCache Ia3ResultCache;
typedef struct Ia3CacheEntry Ia3CacheEntry;

/*
 * A cache in a memory context of its own, child of the current one; it is gone when that is. `capacity` is
 * how many answers it should hold; more are kept only as long as their batch is under way.
 */
extern Ia3ResultCache *Ia3CacheCreate(Snapshot snapshot, int capacity);
extern void Ia3CacheFree(Ia3ResultCache *cache);

/*
 * Begins batch number `batch` (they count up). Answers used by batch `oldest` or later are not evicted.
 * False if the statement that runs is not the cache's, in which case nothing must be entered.
 */
extern bool Ia3CacheBeginBatch(Ia3ResultCache *cache, uint64 batch, uint64 oldest);

/* The entry of a call; *isNew if nobody has asked about it yet. */
extern Ia3CacheEntry *Ia3CacheEnter(Ia3ResultCache *cache, const Ia3Call *call, bool *isNew);

/* Supplies an entry's answer. An entry that gets none (an error) is never found by the functions. */
extern void Ia3CacheStore(Ia3ResultCache *cache, Ia3CacheEntry *entry, const Ia3Ranking *ranking);
/* Takes back that an entry has been asked about: the next Ia3CacheEnter says it is new. */
extern void Ia3CacheForget(Ia3CacheEntry *entry);

/* What the functions do first. NULL if nothing is known; the answer is valid until the executor moves on. */
extern const Ia3Ranking *Ia3CacheFind(const Ia3Call *call);

/* The last answer that this call site (fn_extra) got: for arguments that do not change. */
extern const Ia3Ranking *Ia3MemoFind(FmgrInfo *flinfo, const Ia3Call *call);
extern void Ia3MemoStore(FmgrInfo *flinfo, const Ia3Call *call, const Ia3Ranking *ranking);

#endif
