/*
 * watch_shared.c
 *     Deferred watches in shared memory: which databases need a worker, and about how many rows wait.
 *
 * A slot belongs to a database from the moment when rows are queued in it until its worker finds that nothing waits any more. Slots of
 * databases that have been dropped are freed by the launcher. If there are more databases than slots, the launcher is told to look at
 * all of them, which it does when slots become free.
 *
 * Locking: one LWLock of a tranche of its own guards everything. It is held for moments only, and never while its holder waits. The
 * latches that are set under it belong to processes that clear their pointers, under the lock, before they exit.
 */
#include "postgres.h"

#include <signal.h>

#include "access/xact.h"
#include "common/hashfn.h"
#include "miscadmin.h"
#include "storage/ipc.h"
#include "storage/lwlock.h"
#include "storage/shmem.h"

#include "watch_shared.h"
#include "extension/ia3_compat.h"

#define TRANCHE "ia3_watch"

/* Watches whose number of waiting rows is known. Without a place the rows are counted for every statement. */
#define MAX_COUNTS 512

/* How long no worker is started after one has been stopped, so that a database can be dropped or copied. */
#define STOPPED_MS 5000

/* The longest wait after workers that have failed. */
#define MAX_BACKOFF_MS 60000

typedef struct Count {
    Oid database, relation;
    uint32 label; /* a hash */
    int64 waiting;
} Count;

typedef struct Shared {
    Latch *launcher; /* NULL: there is none */
    bool wakeAll;
    Ia3WatchSlot slots[IA3_WATCH_SLOTS];
    int nCounts;
    Count counts[MAX_COUNTS];
} Shared;

static Shared *shared = NULL;
static LWLock *lock = NULL;
static shmem_startup_hook_type previousStartupHook = NULL;
static shmem_request_hook_type previousRequestHook = NULL;
static int mySlot = -1;

static void
request_shmem(void)
{
    if (previousRequestHook)
        previousRequestHook();
    RequestAddinShmemSpace(sizeof(Shared));
    RequestNamedLWLockTranche(TRANCHE, 1);
}

static void
startup_hook(void)
{
    bool found;

    if (previousStartupHook)
        previousStartupHook();
    LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
    shared = ShmemInitStruct(TRANCHE, sizeof(Shared), &found);
    lock = &GetNamedLWLockTranche(TRANCHE)->lock;
    if (!found)
        memset(shared, 0, sizeof(Shared));
    LWLockRelease(AddinShmemInitLock);
}

void
Ia3WatchShmemInit(void)
{
    Ia3HookShmemRequest(previousRequestHook, request_shmem);
    previousStartupHook = shmem_startup_hook;
    shmem_startup_hook = startup_hook;
}

/* --- slots; the caller holds the lock --- */

static void
wake_launcher(void)
{
    if (shared->launcher != NULL)
        SetLatch(shared->launcher);
}

static Ia3WatchSlot *
find_slot(Oid database)
{
    for (int i = 0; i < IA3_WATCH_SLOTS; i++)
        if (shared->slots[i].database == database)
            return &shared->slots[i];
    return NULL;
}

/* NULL if there is no place. */
static Ia3WatchSlot *
want_slot(Oid database)
{
    Ia3WatchSlot *slot = find_slot(database);

    if (slot == NULL && (slot = find_slot(InvalidOid)) != NULL) {
        memset(slot, 0, sizeof *slot);
        slot->database = database;
    }
    return slot;
}

/* --- for everybody --- */

void
Ia3WatchWake(Oid database)
{
    Ia3WatchSlot *slot;

    if (shared == NULL)
        return;
    LWLockAcquire(lock, LW_EXCLUSIVE);
    slot = want_slot(database);
    if (slot == NULL)
        shared->wakeAll = true;
    else
        slot->wake = true;
    if (slot != NULL && slot->latch != NULL)
        SetLatch(slot->latch);
    else if (slot == NULL || !slot->started)
        wake_launcher();
    LWLockRelease(lock);
}

static void
wake_all(void)
{
    if (shared == NULL)
        return;
    LWLockAcquire(lock, LW_EXCLUSIVE);
    shared->wakeAll = true;
    wake_launcher();
    LWLockRelease(lock);
}

/* What is to be done when the present transaction commits. */
static bool atCommit, allAtCommit;

static void
at_transaction_end(XactEvent event, void *arg)
{
    if (event != XACT_EVENT_COMMIT && event != XACT_EVENT_ABORT && event != XACT_EVENT_PREPARE)
        return;
    if (event == XACT_EVENT_COMMIT && allAtCommit)
        wake_all();
    if (event == XACT_EVENT_COMMIT && atCommit)
        Ia3WatchWake(MyDatabaseId);
    atCommit = allAtCommit = false;
}

void
Ia3WatchWakeAtCommit(bool all)
{
    static bool registered = false;

    if (!registered)
        RegisterXactCallback(at_transaction_end, NULL);
    registered = true;
    if (all)
        allAtCommit = true;
    else
        atCommit = true;
}

void
Ia3WatchStop(Oid database)
{
    Ia3WatchSlot *slot;

    if (shared == NULL)
        return;
    LWLockAcquire(lock, LW_EXCLUSIVE);
    slot = find_slot(database);
    if (slot != NULL) {
        slot->notBefore = Ia3Now() + STOPPED_MS;
        if (slot->pid != 0)
            kill(slot->pid, SIGTERM);
    }
    LWLockRelease(lock);
}

bool
Ia3WatchHasLauncher(void)
{
    bool has;

    if (shared == NULL)
        return false;
    LWLockAcquire(lock, LW_SHARED);
    has = shared->launcher != NULL;
    LWLockRelease(lock);
    return has;
}

/* --- numbers of rows --- */

static uint32
hash_label(const char *label)
{
    return DatumGetUInt32(hash_any((const unsigned char *) label, (int) strlen(label)));
}

/* The caller holds the lock. */
static Count *
find_count(Oid relation, uint32 label)
{
    for (int i = 0; i < shared->nCounts; i++) {
        Count *count = &shared->counts[i];

        if (count->database == MyDatabaseId && count->relation == relation && count->label == label)
            return count;
    }
    return NULL;
}

bool
Ia3WatchCountAdd(Oid relation, const char *label, int64 n, int64 *total)
{
    Count *count;

    if (shared == NULL)
        return false;
    LWLockAcquire(lock, LW_EXCLUSIVE);
    count = find_count(relation, hash_label(label));
    if (count != NULL)
        *total = count->waiting += n;
    LWLockRelease(lock);
    return count != NULL;
}

void
Ia3WatchCountSet(Oid relation, const char *label, int64 n)
{
    Count *count;

    if (shared == NULL)
        return;
    LWLockAcquire(lock, LW_EXCLUSIVE);
    count = find_count(relation, hash_label(label));
    if (count == NULL && shared->nCounts < MAX_COUNTS) {
        count = &shared->counts[shared->nCounts++];
        count->database = MyDatabaseId;
        count->relation = relation;
        count->label = hash_label(label);
    }
    if (count != NULL)
        count->waiting = n;
    LWLockRelease(lock);
}

void
Ia3WatchCountClear(const Ia3WatchName *except, int n)
{
    if (shared == NULL)
        return;
    LWLockAcquire(lock, LW_EXCLUSIVE);
    for (int i = shared->nCounts - 1; i >= 0; i--) {
        const Count *count = &shared->counts[i];
        bool keep = count->database != MyDatabaseId;

        for (int k = 0; k < n && !keep; k++)
            keep = except[k].relation == count->relation && hash_label(except[k].label) == count->label;
        if (!keep) /* it is counted anew when it is needed */
            shared->counts[i] = shared->counts[--shared->nCounts];
    }
    LWLockRelease(lock);
}

/* --- for the launcher --- */

static void
forget_launcher(int code, Datum arg)
{
    LWLockAcquire(lock, LW_EXCLUSIVE);
    shared->launcher = NULL;
    LWLockRelease(lock);
}

void
Ia3WatchBeLauncher(void)
{
    LWLockAcquire(lock, LW_EXCLUSIVE);
    shared->launcher = MyLatch;
    LWLockRelease(lock);
    before_shmem_exit(forget_launcher, 0);
}

bool
Ia3WatchTakeWakeAll(void)
{
    bool wakeAll;

    LWLockAcquire(lock, LW_EXCLUSIVE);
    wakeAll = shared->wakeAll;
    shared->wakeAll = false;
    LWLockRelease(lock);
    return wakeAll;
}

void
Ia3WatchSlots(Ia3WatchSlot slots[IA3_WATCH_SLOTS])
{
    LWLockAcquire(lock, LW_SHARED);
    memcpy(slots, shared->slots, sizeof shared->slots);
    LWLockRelease(lock);
}

bool
Ia3WatchWant(Oid database)
{
    bool found;

    LWLockAcquire(lock, LW_EXCLUSIVE);
    found = want_slot(database) != NULL;
    LWLockRelease(lock);
    return found;
}

void
Ia3WatchStarted(int slot)
{
    LWLockAcquire(lock, LW_EXCLUSIVE);
    shared->slots[slot].started = true;
    LWLockRelease(lock);
}

/* The caller holds the lock. */
static void
postpone(Ia3WatchSlot *slot, Ia3Time delay)
{
    slot->started = false;
    slot->pid = 0;
    slot->latch = NULL;
    slot->notBefore = Max(slot->notBefore, Ia3Now() + delay);
}

void
Ia3WatchPostpone(int slot, Ia3Time delay)
{
    LWLockAcquire(lock, LW_EXCLUSIVE);
    if (shared->slots[slot].pid == 0) /* or else a worker has attached in the meantime */
        postpone(&shared->slots[slot], delay);
    LWLockRelease(lock);
}

void
Ia3WatchForget(int slot)
{
    LWLockAcquire(lock, LW_EXCLUSIVE);
    memset(&shared->slots[slot], 0, sizeof(Ia3WatchSlot));
    LWLockRelease(lock);
}

/* --- for a worker --- */

/* The worker ends although it has not detached. */
static void
exit_early(int code, Datum arg)
{
    if (mySlot < 0)
        return;
    LWLockAcquire(lock, LW_EXCLUSIVE);
    {
        Ia3WatchSlot *slot = &shared->slots[mySlot];
        const int failures = slot->failures++;

        postpone(slot,
                 failures == 0 ? 0 : Min(1000 * ((Ia3Time) 1 << Min(failures - 1, 10)), MAX_BACKOFF_MS));
        wake_launcher();
    }
    LWLockRelease(lock);
}

bool
Ia3WatchAttach(void)
{
    Ia3WatchSlot *slot;
    bool ok;

    before_shmem_exit(exit_early, 0);
    LWLockAcquire(lock, LW_EXCLUSIVE);
    slot = want_slot(MyDatabaseId);
    ok = slot != NULL && slot->pid == 0;
    if (ok) {
        mySlot = (int) (slot - shared->slots);
        slot->started = true;
        slot->pid = MyProcPid;
        slot->latch = MyLatch;
        slot->wake = false;
    }
    LWLockRelease(lock);
    return ok;
}

bool
Ia3WatchDetach(void)
{
    Ia3WatchSlot *slot = &shared->slots[mySlot];
    bool ok;

    LWLockAcquire(lock, LW_EXCLUSIVE);
    ok = !slot->wake;
    if (ok) {
        memset(slot, 0, sizeof *slot);
        mySlot = -1;
        wake_launcher(); /* another database may wait for the slot */
    }
    LWLockRelease(lock);
    return ok;
}

void
Ia3WatchTakeWake(void)
{
    LWLockAcquire(lock, LW_EXCLUSIVE);
    shared->slots[mySlot].wake = false;
    LWLockRelease(lock);
}

bool
Ia3WatchIsWoken(void)
{
    bool woken;

    LWLockAcquire(lock, LW_SHARED);
    woken = shared->slots[mySlot].wake;
    LWLockRelease(lock);
    return woken;
}

void
Ia3WatchSucceeded(void)
{
    LWLockAcquire(lock, LW_EXCLUSIVE);
    shared->slots[mySlot].failures = 0;
    LWLockRelease(lock);
}
