/*
 * result_cache.c
 *     Answers that are known before a function is called.
 *
 * Everything here is local to the backend, so there are no locks. The caches form a list; each removes itself when
 * its memory context is reset or deleted, which covers errors and aborted subtransactions as well.
 */
#include "postgres.h"

#include "access/xact.h"
#include "common/hashfn.h"
#include "lib/ilist.h"
#include "storage/proc.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "result_cache.h"
#include "extension/guc.h"
#include "extension/ia3_compat.h"

/* Above this size a cache evicts answers even if it has not reached its capacity. */
#define MAX_CACHE_BYTES (16 * 1024 * 1024)

/* Longer arguments are not worth a copy at every call site. */
#define MAX_MEMO_BYTES (64 * 1024)

/*
 * Keys
 */

typedef enum KeyKind { KEY_PLAIN, KEY_COMPRESSED, KEY_TOASTED } KeyKind;

/* One argument: its bytes, and how they are to be read. Long and short varlena headers give the same key. */
typedef struct KeyPart {
    KeyKind kind;
    Size length;
    const char *data;
} KeyPart;

typedef struct CallKey {
    Ia3CallForm form;
    int nParts;
    KeyPart parts[IA3_MAX_CALL_ARGS];
    Size length; /* of all parts */
    uint32 hash;
} CallKey;

static void
make_key_part(KeyPart *part, Datum arg)
{
    struct varlena *value = (struct varlena *) DatumGetPointer(arg);

    /* expanded objects and indirect pointers have no bytes of their own */
    if (VARATT_IS_EXTERNAL(value) && !VARATT_IS_EXTERNAL_ONDISK(value))
        value = PG_DETOAST_DATUM(arg);
    if (VARATT_IS_EXTERNAL(value)) {
        part->kind = KEY_TOASTED;
        part->data = (char *) value;
        part->length = VARSIZE_EXTERNAL(value);
    } else if (VARATT_IS_COMPRESSED(value)) {
        part->kind = KEY_COMPRESSED;
        part->data = (char *) value;
        part->length = VARSIZE(value);
    } else {
        part->kind = KEY_PLAIN;
        part->data = VARDATA_ANY(value);
        part->length = VARSIZE_ANY_EXHDR(value);
    }
}

static void
make_key(CallKey *key, const Ia3Call *call)
{
    uint64 hash = call->form;

    key->form = call->form;
    key->nParts = call->nArgs;
    key->length = 0;
    for (int i = 0; i < call->nArgs; i++) {
        KeyPart *part = &key->parts[i];

        if (Ia3CallArgIsInteger(call, i))
            *part = (KeyPart){KEY_PLAIN, sizeof(Datum), (const char *) &call->args[i]};
        else
            make_key_part(part, call->args[i]);
        hash = hash_bytes_extended((const unsigned char *) part->data, part->length, hash + part->kind);
        key->length += part->length;
    }
    key->hash = (uint32) (hash ^ (hash >> 32));
}

/* A copy in a single chunk: the key, followed by the bytes. */
static CallKey *
copy_key(const CallKey *key, MemoryContext context)
{
    CallKey *copy = MemoryContextAllocHuge(context, sizeof(CallKey) + key->length);
    char *data = (char *) (copy + 1);

    *copy = *key;
    for (int i = 0; i < key->nParts; i++) {
        memcpy(data, key->parts[i].data, key->parts[i].length);
        copy->parts[i].data = data;
        data += key->parts[i].length;
    }
    return copy;
}

static bool
keys_are_equal(const CallKey *a, const CallKey *b)
{
    if (a->hash != b->hash || a->form != b->form || a->nParts != b->nParts)
        return false;
    for (int i = 0; i < a->nParts; i++)
        if (a->parts[i].kind != b->parts[i].kind || a->parts[i].length != b->parts[i].length ||
            memcmp(a->parts[i].data, b->parts[i].data, a->parts[i].length) != 0)
            return false;
    return true;
}

/*
 * The role that calls, and its settings
 */
typedef struct AskerTag {
    Oid user;
    int maxInputTokens;
    char backbone[NAMEDATALEN];
} AskerTag;

static void
fill_asker_tag(AskerTag *tag)
{
    memset(tag, 0, sizeof *tag);
    tag->user = GetUserId();
    tag->maxInputTokens = Ia3InputTokens();
    strlcpy(tag->backbone, Ia3Backbone, sizeof tag->backbone);
}

static bool
asker_is(const AskerTag *tag)
{
    return tag->user == GetUserId() && tag->maxInputTokens == Ia3InputTokens() &&
           strncmp(tag->backbone, Ia3Backbone, NAMEDATALEN - 1) == 0;
}

/*
 * Caches of nodes
 */

struct Ia3CacheEntry {
    Ia3CacheEntry *next; /* in its bucket */
    dlist_node lru;      /* most recently used entries come first */
    uint64 batch;        /* the last batch that used it */
    uint32 era;          /* of the cache when the entry was made */
    bool asked;
    CallKey *key;
    Ia3Ranking *ranking; /* NULL: not known (yet) */
};

struct Ia3ResultCache {
    dlist_node link;
    bool linked;
    MemoryContext context;
    MemoryContextCallback callback;
    Snapshot snapshot;
    AskerTag asker;
    uint32 era; /* grows when role or settings change, which makes older entries invalid */
    uint64 batch, oldest;
    int capacity;
    int nEntries;
    Size bytes;
    dlist_head lru;
    uint32 mask;
    Ia3CacheEntry **buckets;
};

static dlist_head caches = DLIST_STATIC_INIT(caches);

static void
unlink_cache(void *arg)
{
    Ia3ResultCache *cache = arg;

    if (cache->linked)
        dlist_delete(&cache->link);
    cache->linked = false;
}

Ia3ResultCache *
Ia3CacheCreate(Snapshot snapshot, int capacity)
{
    MemoryContext context =
        AllocSetContextCreate(CurrentMemoryContext, "ia3 results", ALLOCSET_DEFAULT_SIZES);
    Ia3ResultCache *cache = MemoryContextAllocZero(context, sizeof(Ia3ResultCache));
    uint32 nBuckets = 64;

    while (nBuckets < (uint32) capacity)
        nBuckets *= 2;
    cache->context = context;
    cache->snapshot = snapshot;
    cache->capacity = capacity;
    cache->mask = nBuckets - 1;
    cache->buckets = MemoryContextAllocZero(context, sizeof(Ia3CacheEntry *) * nBuckets);
    dlist_init(&cache->lru);
    fill_asker_tag(&cache->asker);
    cache->callback.func = unlink_cache;
    cache->callback.arg = cache;
    MemoryContextRegisterResetCallback(context, &cache->callback);
    dlist_push_head(&caches, &cache->link);
    cache->linked = true;
    return cache;
}

void
Ia3CacheFree(Ia3ResultCache *cache)
{
    MemoryContextDelete(cache->context);
}

bool
Ia3CacheBeginBatch(Ia3ResultCache *cache, uint64 batch, uint64 oldest)
{
    if (!ActiveSnapshotSet() || GetActiveSnapshot() != cache->snapshot)
        return false;
    cache->batch = batch;
    cache->oldest = oldest;
    if (!asker_is(&cache->asker)) {
        fill_asker_tag(&cache->asker);
        cache->era++;
    }
    return true;
}

static Size
entry_size(const Ia3CacheEntry *entry)
{
    return sizeof(Ia3CacheEntry) + sizeof(CallKey) + entry->key->length +
           (entry->ranking ? Ia3RankingSize(entry->ranking) : 0);
}

static void
remove_entry(Ia3ResultCache *cache, Ia3CacheEntry *entry)
{
    Ia3CacheEntry **link = &cache->buckets[entry->key->hash & cache->mask];

    while (*link != entry)
        link = &(*link)->next;
    *link = entry->next;
    dlist_delete(&entry->lru);
    cache->bytes -= entry_size(entry);
    cache->nEntries--;
    if (entry->ranking)
        pfree(entry->ranking);
    pfree(entry->key);
    pfree(entry);
}

/* Makes room for another entry. Entries of batches in progress are at the head of the list and stay. */
static void
evict_old(Ia3ResultCache *cache)
{
    while (!dlist_is_empty(&cache->lru) &&
           (cache->nEntries >= cache->capacity || cache->bytes > MAX_CACHE_BYTES)) {
        Ia3CacheEntry *last = dlist_container(Ia3CacheEntry, lru, dlist_tail_node(&cache->lru));

        if (last->batch >= cache->oldest)
            return;
        remove_entry(cache, last);
    }
}

static Ia3CacheEntry *
find_entry(Ia3ResultCache *cache, const CallKey *key)
{
    for (Ia3CacheEntry *entry = cache->buckets[key->hash & cache->mask]; entry; entry = entry->next)
        if (entry->era == cache->era && keys_are_equal(entry->key, key))
            return entry;
    return NULL;
}

Ia3CacheEntry *
Ia3CacheEnter(Ia3ResultCache *cache, const Ia3Call *call, bool *isNew)
{
    CallKey key;
    Ia3CacheEntry *entry;

    make_key(&key, call);
    entry = find_entry(cache, &key);
    if (entry) {
        dlist_delete(&entry->lru);
    } else {
        evict_old(cache);
        entry = MemoryContextAllocZero(cache->context, sizeof(Ia3CacheEntry));
        entry->key = copy_key(&key, cache->context);
        entry->era = cache->era;
        entry->next = cache->buckets[key.hash & cache->mask];
        cache->buckets[key.hash & cache->mask] = entry;
        cache->nEntries++;
        cache->bytes += entry_size(entry);
    }
    dlist_push_head(&cache->lru, &entry->lru);
    entry->batch = cache->batch;
    *isNew = !entry->asked;
    entry->asked = true;
    return entry;
}

void
Ia3CacheStore(Ia3ResultCache *cache, Ia3CacheEntry *entry, const Ia3Ranking *ranking)
{
    if (entry->ranking == NULL) {
        entry->ranking = Ia3RankingCopy(ranking, cache->context);
        cache->bytes += Ia3RankingSize(ranking);
    }
}

void
Ia3CacheForget(Ia3CacheEntry *entry)
{
    entry->asked = false;
}

const Ia3Ranking *
Ia3CacheFind(const Ia3Call *call)
{
    CallKey key;
    dlist_iter iter;

    if (dlist_is_empty(&caches) || !ActiveSnapshotSet())
        return NULL;
    make_key(&key, call);
    dlist_foreach(iter, &caches)
    {
        Ia3ResultCache *cache = dlist_container(Ia3ResultCache, link, iter.cur);
        Ia3CacheEntry *entry;

        if (cache->snapshot != GetActiveSnapshot() || !asker_is(&cache->asker))
            continue;
        entry = find_entry(cache, &key);
        if (entry && entry->ranking)
            return entry->ranking;
    }
    return NULL;
}

/*
 * Memos
 */

typedef struct Memo {
    MemoryContext context;
    Ia3SnapshotTag snapshot;
    AskerTag asker;
    CallKey *key;
    Ia3Ranking *ranking;
} Memo;

bool
Ia3SnapshotTagFill(Ia3SnapshotTag *tag)
{
    Snapshot snapshot;

    memset(tag, 0, sizeof *tag);
    if (!ActiveSnapshotSet())
        return false;
    snapshot = GetActiveSnapshot();
    tag->transaction = Ia3LocalTransactionId();
    tag->subtransaction = GetCurrentSubTransactionId();
    tag->xmin = snapshot->xmin;
    tag->xmax = snapshot->xmax;
    tag->xcnt = snapshot->xcnt;
    tag->subxcnt = snapshot->subxcnt;
    tag->curcid = snapshot->curcid;
    return true;
}

const Ia3Ranking *
Ia3MemoFind(FmgrInfo *flinfo, const Ia3Call *call)
{
    Memo *memo = flinfo->fn_extra;
    Ia3SnapshotTag snapshot;
    CallKey key;

    if (memo == NULL || memo->ranking == NULL || !Ia3SnapshotTagFill(&snapshot) ||
        memcmp(&snapshot, &memo->snapshot, sizeof snapshot) != 0 || !asker_is(&memo->asker))
        return NULL;
    make_key(&key, call);
    return keys_are_equal(&key, memo->key) ? memo->ranking : NULL;
}

void
Ia3MemoStore(FmgrInfo *flinfo, const Ia3Call *call, const Ia3Ranking *ranking)
{
    Memo *memo = flinfo->fn_extra;
    CallKey key;

    make_key(&key, call);
    if (key.length > MAX_MEMO_BYTES)
        return;
    for (int i = 0; i < key.nParts; i++)
        if (key.parts[i].kind == KEY_TOASTED) /* the pointer may mean another value in the next statement */
            return;
    if (memo == NULL) {
        memo = MemoryContextAllocZero(flinfo->fn_mcxt, sizeof(Memo));
        memo->context = AllocSetContextCreate(flinfo->fn_mcxt, "ia3 memo", ALLOCSET_SMALL_SIZES);
        flinfo->fn_extra = memo;
    }
    memo->ranking = NULL;
    MemoryContextReset(memo->context);
    if (!Ia3SnapshotTagFill(&memo->snapshot))
        return;
    fill_asker_tag(&memo->asker);
    memo->key = copy_key(&key, memo->context);
    memo->ranking = Ia3RankingCopy(ranking, memo->context);
}
