/*
 * shmem.c
 *     The extension's shared memory: what the supervisor publishes about its engines, and the slots in which
 *     backends report their training.
 *
 * Locking: two LWLocks of one tranche. The first guards the engine entries: the supervisor alone writes,
 * everyone reads copies. The second guards the progress slots. Neither is held while waiting for anything.
 */
#include "shmem.h"

#include "replication/walsender.h"
#include "storage/ipc.h"
#include "storage/shmem.h"
#include "utils/timestamp.h"

#define IA3_TRANCHE      "ia3"
#define IA3_LOCK_ENGINES 0
#define IA3_LOCK_TRAIN   1
#define IA3_N_LOCKS      2

typedef struct Ia3Shared {
    uint32 lastGeneration;
    TimestampTz configured; /* when the configuration that the entries follow was loaded */
    Ia3EngineStatus engines[IA3_MAX_ENGINES];
    int nProgressSlots;
    Ia3ProgressSlot progress[FLEXIBLE_ARRAY_MEMBER];
} Ia3Shared;

static Ia3Shared *shared = NULL;
static LWLockPadded *locks = NULL;
static shmem_startup_hook_type previousStartupHook = NULL;
#if PG_VERSION_NUM >= 150000
static shmem_request_hook_type previousRequestHook = NULL;
#endif

/*
 * Whoever can run SQL can train: client backends, background workers, walsenders of logical replication.
 * MaxBackends is not computed yet when 13 and 14 ask.
 */
static int
CountProgressSlots(void)
{
    return MaxConnections + max_worker_processes + max_wal_senders;
}

static Size
SharedSize(void)
{
    return add_size(offsetof(Ia3Shared, progress), mul_size(CountProgressSlots(), sizeof(Ia3ProgressSlot)));
}

static void
RequestShmem(void)
{
    RequestAddinShmemSpace(SharedSize());
    RequestNamedLWLockTranche(IA3_TRANCHE, IA3_N_LOCKS);
}

#if PG_VERSION_NUM >= 150000
static void
ShmemRequestHook(void)
{
    if (previousRequestHook)
        previousRequestHook();
    RequestShmem();
}
#endif

/* Enters the configured backbones as starting, so that queries wait for a supervisor that is not up yet. */
static void
EnterConfigured(void)
{
    Ia3BackboneSpec *specs = palloc(sizeof(Ia3BackboneSpec) * IA3_MAX_BACKBONES);
    char *error;
    int n = Ia3ParseBackbones(Ia3BackbonesSetting, specs, &error);

    memset(shared->engines, 0, sizeof shared->engines);
    for (int i = 0; i < n; i++) {
        shared->engines[i].spec = specs[i];
        shared->engines[i].state = IA3_ENGINE_STARTING;
        shared->engines[i].current = true;
        shared->engines[i].since = GetCurrentTimestamp();
    }
    pfree(specs);
}

static void
ShmemStartupHook(void)
{
    bool found;

    if (previousStartupHook)
        previousStartupHook();

    LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
    shared = ShmemInitStruct("ia3", SharedSize(), &found);
    locks = GetNamedLWLockTranche(IA3_TRANCHE);
    if (!found) {
        memset(shared, 0, SharedSize());
        shared->nProgressSlots = CountProgressSlots();
        EnterConfigured();
    }
    LWLockRelease(AddinShmemInitLock);
}

/* Installs the hooks that reserve and set up the shared memory. Only from _PG_init while preloading. */
void
Ia3ShmemInit(void)
{
#if PG_VERSION_NUM >= 150000
    previousRequestHook = shmem_request_hook;
    shmem_request_hook = ShmemRequestHook;
#else
    RequestShmem(); /* before 15 there is no hook: _PG_init itself is the place */
#endif
    previousStartupHook = shmem_startup_hook;
    shmem_startup_hook = ShmemStartupHook;
}

/* True if the library was preloaded, that is if everything below may be used. */
bool
Ia3Loaded(void)
{
    return shared != NULL;
}

/* ERROR 55000 unless the library was preloaded. */
void
Ia3RequirePreload(void)
{
    if (shared == NULL)
        ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
                        errmsg("ia3 must be loaded via shared_preload_libraries"),
                        errhint("Add ia3 to shared_preload_libraries and restart the server.")));
}

/* Copies the entries in use into statuses[IA3_MAX_ENGINES]; returns how many (0 when not preloaded). */
int
Ia3GetEngineStatuses(Ia3EngineStatus *statuses)
{
    int n = 0;

    if (shared == NULL)
        return 0;
    LWLockAcquire(&locks[IA3_LOCK_ENGINES].lock, LW_SHARED);
    for (int i = 0; i < IA3_MAX_ENGINES; i++)
        if (shared->engines[i].state != IA3_ENGINE_UNUSED)
            statuses[n++] = shared->engines[i];
    LWLockRelease(&locks[IA3_LOCK_ENGINES].lock);
    return n;
}

/* The entry of a backbone's current engine, or NULL. The caller holds the lock. */
static const Ia3EngineStatus *
FindEngine(const char *backbone)
{
    for (int i = 0; i < IA3_MAX_ENGINES; i++)
        if (shared->engines[i].state != IA3_ENGINE_UNUSED && shared->engines[i].current &&
            strcmp(shared->engines[i].spec.name, backbone) == 0)
            return &shared->engines[i];
    return NULL;
}

/* Copies the entry of a backbone's current engine; false if there is none. */
bool
Ia3GetEngineStatus(const char *backbone, Ia3EngineStatus *status)
{
    const Ia3EngineStatus *engine;

    if (shared == NULL)
        return false;
    LWLockAcquire(&locks[IA3_LOCK_ENGINES].lock, LW_SHARED);
    engine = FindEngine(backbone);
    if (engine != NULL)
        *status = *engine;
    LWLockRelease(&locks[IA3_LOCK_ENGINES].lock);
    return engine != NULL;
}

bool
Ia3EngineIsCurrent(const char *backbone, uint32 generation)
{
    const Ia3EngineStatus *engine;
    bool current;

    if (shared == NULL)
        return false;
    LWLockAcquire(&locks[IA3_LOCK_ENGINES].lock, LW_SHARED);
    engine = FindEngine(backbone);
    current = engine != NULL && engine->state == IA3_ENGINE_READY && engine->generation == generation;
    LWLockRelease(&locks[IA3_LOCK_ENGINES].lock);
    return current;
}

void
Ia3ShmemResetEngines(void)
{
    LWLockAcquire(&locks[IA3_LOCK_ENGINES].lock, LW_EXCLUSIVE);
    EnterConfigured();
    LWLockRelease(&locks[IA3_LOCK_ENGINES].lock);
}

void
Ia3PublishEngine(int slot, const Ia3EngineStatus *status)
{
    Ia3PublishEngines(slot, status, slot, status);
}

void
Ia3PublishEngines(int slot1, const Ia3EngineStatus *status1, int slot2, const Ia3EngineStatus *status2)
{
    Assert(slot1 >= 0 && slot1 < IA3_MAX_ENGINES && slot2 >= 0 && slot2 < IA3_MAX_ENGINES);
    LWLockAcquire(&locks[IA3_LOCK_ENGINES].lock, LW_EXCLUSIVE);
    shared->engines[slot1] = *status1;
    shared->engines[slot2] = *status2;
    LWLockRelease(&locks[IA3_LOCK_ENGINES].lock);
}

void
Ia3PublishConfigured(TimestampTz loaded)
{
    LWLockAcquire(&locks[IA3_LOCK_ENGINES].lock, LW_EXCLUSIVE);
    shared->configured = loaded;
    LWLockRelease(&locks[IA3_LOCK_ENGINES].lock);
}

bool
Ia3ConfigurationIsKnown(void)
{
    bool known;

    LWLockAcquire(&locks[IA3_LOCK_ENGINES].lock, LW_SHARED);
    known = shared->configured >= PgReloadTime;
    LWLockRelease(&locks[IA3_LOCK_ENGINES].lock);
    return known;
}

/* Never 0 and never given twice, also not to different supervisors of one server run. */
uint32
Ia3NextGeneration(void)
{
    uint32 generation;

    LWLockAcquire(&locks[IA3_LOCK_ENGINES].lock, LW_EXCLUSIVE);
    generation = ++shared->lastGeneration;
    LWLockRelease(&locks[IA3_LOCK_ENGINES].lock);
    return generation;
}

const char *
Ia3EngineStateName(Ia3EngineState state)
{
    switch (state) {
    case IA3_ENGINE_UNUSED:
        return "unused";
    case IA3_ENGINE_STARTING:
        return "starting";
    case IA3_ENGINE_LOADING:
        return "loading";
    case IA3_ENGINE_READY:
        return "ready";
    case IA3_ENGINE_FAILED:
        return "failed";
    case IA3_ENGINE_RESTARTING:
        return "restarting";
    case IA3_ENGINE_DRAINING:
        return "draining";
    case IA3_ENGINE_STOPPED:
        return "stopped";
    }
    return "unknown";
}

LWLock *
Ia3ProgressLock(void)
{
    return &locks[IA3_LOCK_TRAIN].lock;
}

Ia3ProgressSlot *
Ia3ProgressSlots(int *n)
{
    *n = shared->nProgressSlots;
    return shared->progress;
}
