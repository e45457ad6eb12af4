/*
 * result_cache.h
 *     Answers that are known before a function is called.
 *
 * Each read-ahead node owns a cache, and the functions search all of them. An answer is found by the form of the call
 * and the bytes of its arguments. Toast pointers are compared as they are, without being followed: within a statement
 * equal pointers mean equal values, and nothing is fetched twice.
 *
 * An answer is valid only for a certain role at a certain time: another role may not see the task, another statement
 * may see another version of it, and other settings give other scores. A node's cache therefore belongs to a
 * snapshot, which the node's query keeps registered, and records the role and the settings. A memo may outlive a
 * statement, so it records what its snapshot saw.
 */
#ifndef IA3_RESULT_CACHE_H
#define IA3_RESULT_CACHE_H

#include "fmgr.h"
#include "storage/lock.h"
#include "utils/snapshot.h"

#include "call.h"
#include "ranking.h"

typedef struct Ia3ResultCache Ia3ResultCache;
typedef struct Ia3CacheEntry Ia3CacheEntry;

/*
 * Creates a cache in a memory context of its own, a child of the current one; it disappears with that context.
 * `capacity` is the number of answers that it should hold; more are kept only while their batch is in progress.
 */
extern Ia3ResultCache *Ia3CacheCreate(Snapshot snapshot, int capacity);
extern void Ia3CacheFree(Ia3ResultCache *cache);

/*
 * Begins batch number `batch`; the numbers increase. Answers used by batch `oldest` or later are not evicted. Returns
 * false if the cache belongs to another statement than the current one; then nothing may be entered.
 */
extern bool Ia3CacheBeginBatch(Ia3ResultCache *cache, uint64 batch, uint64 oldest);

/* The entry of a call, made if necessary; *isNew tells whether nobody has requested its answer yet. */
extern Ia3CacheEntry *Ia3CacheEnter(Ia3ResultCache *cache, const Ia3Call *call, bool *isNew);

/* Supplies the answer of an entry. The functions never find an entry without an answer, as after an error. */
extern void Ia3CacheStore(Ia3ResultCache *cache, Ia3CacheEntry *entry, const Ia3Ranking *ranking);
/* Makes an entry count as not requested: the next Ia3CacheEnter reports it as new. */
extern void Ia3CacheForget(Ia3CacheEntry *entry);

/*
 * The answer to a call, which the functions look for first; NULL if it is not known. Valid until the executor
 * continues.
 */
extern const Ia3Ranking *Ia3CacheFind(const Ia3Call *call);

/*
 * What a statement sees. A snapshot may be gone by the next call, so its address identifies nothing. Two snapshots that a backend
 * takes see the same data if they agree on the numbers below. Transactions only ever leave the set of those in progress,
 * so equal bounds and counts mean equal sets; within our own transaction every change advances the command counter, and
 * the number of a subtransaction is never used again.
 */
typedef struct Ia3SnapshotTag {
    LocalTransactionId transaction;
    SubTransactionId subtransaction;
    TransactionId xmin, xmax;
    uint32 xcnt;
    int32 subxcnt;
    CommandId curcid;
} Ia3SnapshotTag;

/* The tag of the active snapshot, to be compared byte by byte; false if there is none. */
extern bool Ia3SnapshotTagFill(Ia3SnapshotTag *tag);

/*
 * The last answer at this call site, kept in fn_extra for arguments that do not change; NULL if role, settings,
 * snapshot or arguments differ.
 */
extern const Ia3Ranking *Ia3MemoFind(FmgrInfo *flinfo, const Ia3Call *call);
extern void Ia3MemoStore(FmgrInfo *flinfo, const Ia3Call *call, const Ia3Ranking *ranking);

#endif
