/*
 * shmem.c
 *     The extension's shared memory: what the supervisor publishes about its engines, the requests that backends have
 *     sent them, and the slots in which backends report the progress of training runs.
 *
 * Locking: two LWLocks of one tranche. The first guards the engine entries, which only the supervisor writes and of
 * which everyone reads copies, and their loads, which backends write. The second guards the progress slots. Neither is
 * held while its holder waits for anything.
 */
#include "postgres.h"

#include "miscadmin.h"
#include "replication/walsender.h"
#include "storage/ipc.h"
#include "storage/shmem.h"
#include "utils/timestamp.h"

#include "shmem.h"
#include "supervisor.h"
#include "extension/guc.h"
#include "extension/ia3_compat.h"

#define IA3_TRANCHE      "ia3"
#define IA3_LOCK_ENGINES 0
#define IA3_LOCK_TRAIN   1
#define IA3_N_LOCKS      2

/* One step of a training run takes about as long as answering requests of this size (4,096 tokens). */
#define STEP_BYTES (16 * 1024)

typedef struct Ia3Shared {
    uint32 lastGeneration;
    Ia3Obstacle obstacle;   /* of the supervisor itself */
    TimestampTz configured; /* when the configuration that the entries follow was loaded */
    int nEngines;           /* entries after that many have never been used */
    Ia3EngineStatus engines[IA3_MAX_ENGINES];
    Ia3EngineLoad loads[IA3_MAX_ENGINES]; /* of the engine with the entry's generation */
    int nProgressSlots;
    Ia3ProgressSlot progress[FLEXIBLE_ARRAY_MEMBER];
} Ia3Shared;

static Ia3Shared *shared = NULL;
static LWLockPadded *locks = NULL;
static shmem_startup_hook_type previousStartupHook = NULL;
static shmem_request_hook_type previousRequestHook = NULL;

/*
 * One for every process that can run SQL, and so can train: client backends, background workers, walsenders of logical
 * replication. PostgreSQL 13 and 14 have not computed MaxBackends yet when this is needed.
 */
static int
count_progress_slots(void)
{
    return MaxConnections + max_worker_processes + max_wal_senders;
}

static Size
shared_size(void)
{
    return add_size(offsetof(Ia3Shared, progress), mul_size(count_progress_slots(), sizeof(Ia3ProgressSlot)));
}

static void
request_shmem(void)
{
    if (previousRequestHook)
        previousRequestHook();
    RequestAddinShmemSpace(shared_size());
    RequestNamedLWLockTranche(IA3_TRANCHE, IA3_N_LOCKS);
}

/* Why there will be no engines; sets the message. `error` is that of the setting, NULL if it is valid. */
static Ia3Obstacle
find_obstacle(const char *error, char *message, size_t size)
{
    if (error != NULL) {
        snprintf(message, size, "The setting ia3.backbones is invalid. %s", error);
        return IA3_OBSTACLE_SETTING;
    }
    if (shared->obstacle == IA3_OBSTACLE_SINGLE_USER)
        snprintf(message, size, "Engines are not started in single-user mode.");
    else if (shared->obstacle == IA3_OBSTACLE_NO_WORKER)
        snprintf(
            message, size,
            "There is no background worker for the supervisor of the engines; max_worker_processes is %d.",
            max_worker_processes);
    return shared->obstacle;
}

/*
 * Enters the configured engines as starting, so that queries wait while the supervisor is not up yet. If there will be
 * no engines, they have failed already.
 */
static void
enter_configured(void)
{
    Ia3BackboneSpec *specs = palloc(sizeof(Ia3BackboneSpec) * IA3_MAX_CONFIGURED);
    char message[sizeof shared->engines[0].message] = "";
    char *error;
    int n = Ia3ParseBackbones(Ia3BackbonesSetting, specs, &error);
    Ia3Obstacle obstacle = find_obstacle(error, message, sizeof message);

    if (n < 0)
        n = Ia3NamedBackbones(Ia3BackbonesSetting, specs);

    memset(shared->engines, 0, sizeof shared->engines);
    memset(shared->loads, 0, sizeof shared->loads);
    shared->nEngines = n;
    for (int i = 0; i < n; i++) {
        shared->engines[i].spec = specs[i];
        shared->engines[i].state = obstacle == IA3_OBSTACLE_NONE ? IA3_ENGINE_STARTING : IA3_ENGINE_FAILED;
        shared->engines[i].obstacle = obstacle;
        strlcpy(shared->engines[i].message, message, sizeof shared->engines[i].message);
        shared->engines[i].current = true;
        shared->engines[i].since = GetCurrentTimestamp();
    }
    pfree(specs);
}

static void
startup_hook(void)
{
    bool found;

    if (previousStartupHook)
        previousStartupHook();

    LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
    shared = ShmemInitStruct("ia3", shared_size(), &found);
    locks = GetNamedLWLockTranche(IA3_TRANCHE);
    if (!found) {
        memset(shared, 0, shared_size());
        shared->nProgressSlots = count_progress_slots();
        if (!IsPostmasterEnvironment)
            shared->obstacle = IA3_OBSTACLE_SINGLE_USER;
        else if (!Ia3SupervisorIsRegistered())
            shared->obstacle = IA3_OBSTACLE_NO_WORKER;
        enter_configured();
    }
    LWLockRelease(AddinShmemInitLock);
}

void
Ia3ShmemInit(void)
{
    Ia3HookShmemRequest(previousRequestHook, request_shmem);
    previousStartupHook = shmem_startup_hook;
    shmem_startup_hook = startup_hook;
}

bool
Ia3Loaded(void)
{
    return shared != NULL;
}

void
Ia3RequirePreload(void)
{
    if (shared == NULL)
        ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
                        errmsg("ia3 must be loaded via shared_preload_libraries"),
                        errhint("Add ia3 to shared_preload_libraries and restart the server.")));
}

int
Ia3GetEngineStatuses(Ia3EngineStatus *statuses, Ia3EngineLoad *loads)
{
    int n = 0;

    if (shared == NULL)
        return 0;
    LWLockAcquire(&locks[IA3_LOCK_ENGINES].lock, LW_SHARED);
    for (int i = 0; i < shared->nEngines; i++)
        if (shared->engines[i].state != IA3_ENGINE_UNUSED) {
            if (loads != NULL)
                loads[n] = shared->loads[i];
            statuses[n++] = shared->engines[i];
        }
    LWLockRelease(&locks[IA3_LOCK_ENGINES].lock);
    return n;
}

static bool
serves_backbone(const Ia3EngineStatus *engine, const char *backbone)
{
    return engine->state != IA3_ENGINE_UNUSED && engine->current && strcmp(engine->spec.name, backbone) == 0;
}

/* How near an engine is to serving; a query that has to wait is told about the nearest one. */
static int
prospects(const Ia3EngineStatus *engine)
{
    switch (engine->state) {
    case IA3_ENGINE_READY:
        return 5;
    case IA3_ENGINE_LOADING:
        return 4;
    case IA3_ENGINE_STARTING:
        return 3;
    case IA3_ENGINE_RESTARTING:
    case IA3_ENGINE_HUNG:
        return 2;
    case IA3_ENGINE_FAILED:
        return 1;
    default:
        return 0;
    }
}

/* The caller holds the lock. */
static const Ia3EngineStatus *
best_engine(const char *backbone)
{
    const Ia3EngineStatus *best = NULL;

    for (int i = 0; i < shared->nEngines; i++) {
        const Ia3EngineStatus *engine = &shared->engines[i];

        if (serves_backbone(engine, backbone) && (best == NULL || prospects(engine) > prospects(best)))
            best = engine;
    }
    return best;
}

bool
Ia3GetEngineStatus(const char *backbone, Ia3EngineStatus *status)
{
    const Ia3EngineStatus *engine;

    if (shared == NULL)
        return false;
    LWLockAcquire(&locks[IA3_LOCK_ENGINES].lock, LW_SHARED);
    engine = best_engine(backbone);
    if (engine != NULL)
        *status = *engine;
    LWLockRelease(&locks[IA3_LOCK_ENGINES].lock);
    return engine != NULL;
}

bool
Ia3EngineIsCurrent(Ia3EngineKey key)
{
    const Ia3EngineStatus *engine;
    bool current;

    if (shared == NULL || key.generation == 0)
        return false;
    LWLockAcquire(&locks[IA3_LOCK_ENGINES].lock, LW_SHARED);
    engine = &shared->engines[key.slot];
    current = engine->state == IA3_ENGINE_READY && engine->current && engine->generation == key.generation;
    LWLockRelease(&locks[IA3_LOCK_ENGINES].lock);
    return current;
}

bool
Ia3EngineLastWords(Ia3EngineKey key, const char *backbone, char *words, size_t size)
{
    const Ia3EngineStatus *engine;
    bool noticed, says;

    LWLockAcquire(&locks[IA3_LOCK_ENGINES].lock, LW_SHARED);
    engine = &shared->engines[key.slot];
    noticed = engine->generation != key.generation || engine->state != IA3_ENGINE_READY;
    /* it may be starting again already */
    says = serves_backbone(engine, backbone) && engine->state != IA3_ENGINE_READY;
    strlcpy(words, says ? engine->message : "", size);
    LWLockRelease(&locks[IA3_LOCK_ENGINES].lock);
    return noticed;
}

int64
Ia3OutstandingBytes(const Ia3EngineLoad *load)
{
    return load->bytes + (int64) load->trainings * STEP_BYTES;
}

/* True if b is so much better that it pays to leave a, which has this session's adapters already. */
static bool
is_clearly_better(const Ia3EngineLoad *b, const Ia3EngineLoad *a, bool training)
{
    if (training && a->trainings != b->trainings)
        return b->trainings < a->trainings;
    /* the next request that ends may reverse a difference of less than a quarter */
    return Ia3OutstandingBytes(a) > Ia3OutstandingBytes(b) + Ia3OutstandingBytes(b) / 4;
}

static bool
is_better(const Ia3EngineLoad *b, const Ia3EngineLoad *a, bool training)
{
    if (training && a->trainings != b->trainings)
        return b->trainings < a->trainings;
    if (Ia3OutstandingBytes(a) != Ia3OutstandingBytes(b))
        return Ia3OutstandingBytes(b) < Ia3OutstandingBytes(a);
    return b->connections < a->connections;
}

bool
Ia3EngineAvoided(const Ia3EngineWish *wish, uint32 generation)
{
    for (int i = 0; i < wish->nAvoid; i++)
        if (wish->avoid[i] == generation)
            return true;
    return false;
}

int
Ia3CountEngines(const char *backbone, const Ia3EngineWish *wish)
{
    int n = 0;

    LWLockAcquire(&locks[IA3_LOCK_ENGINES].lock, LW_SHARED);
    for (int i = 0; i < shared->nEngines; i++) {
        const Ia3EngineStatus *engine = &shared->engines[i];

        if (serves_backbone(engine, backbone) && engine->state == IA3_ENGINE_READY &&
            !Ia3EngineAvoided(wish, engine->generation))
            n++;
    }
    LWLockRelease(&locks[IA3_LOCK_ENGINES].lock);
    return n;
}

/* Returns the slot of the engine to be used, -1 if none is ready. The caller holds the lock. */
static int
choose_ready(const char *backbone, const Ia3EngineWish *wish)
{
    const Ia3EngineLoad *loads = shared->loads;
    int best = -1, avoided = -1, present = -1;

    for (int i = 0; i < shared->nEngines; i++) {
        const Ia3EngineStatus *engine = &shared->engines[i];

        if (!serves_backbone(engine, backbone) || engine->state != IA3_ENGINE_READY)
            continue;
        if (Ia3EngineAvoided(wish, engine->generation)) {
            avoided = i;
            continue;
        }
        if (i == wish->present.slot && engine->generation == wish->present.generation)
            present = i;
        if (best < 0 || is_better(&loads[i], &loads[best], wish->training))
            best = i;
    }
    if (best < 0)
        return avoided;
    if (present >= 0 && (wish->stay || !is_clearly_better(&loads[best], &loads[present], wish->training)))
        return present;
    return best;
}

bool
Ia3ChooseEngine(const char *backbone, const Ia3EngineWish *wish, Ia3EngineStatus *status, Ia3EngineKey *key)
{
    const Ia3EngineStatus *engine;
    int slot;

    *key = (Ia3EngineKey){0, 0};
    if (shared == NULL)
        return false;
    LWLockAcquire(&locks[IA3_LOCK_ENGINES].lock, LW_SHARED);
    slot = choose_ready(backbone, wish);
    engine = slot >= 0 ? &shared->engines[slot] : best_engine(backbone);
    if (engine != NULL)
        *status = *engine;
    if (slot >= 0)
        *key = (Ia3EngineKey){slot, engine->generation};
    LWLockRelease(&locks[IA3_LOCK_ENGINES].lock);
    return engine != NULL;
}

void
Ia3EngineAddLoad(Ia3EngineKey key, Ia3EngineLoad load)
{
    if (shared == NULL || key.generation == 0)
        return;
    LWLockAcquire(&locks[IA3_LOCK_ENGINES].lock, LW_EXCLUSIVE);
    if (shared->engines[key.slot].generation == key.generation) {
        shared->loads[key.slot].connections += load.connections;
        shared->loads[key.slot].trainings += load.trainings;
        shared->loads[key.slot].bytes += load.bytes;
    }
    LWLockRelease(&locks[IA3_LOCK_ENGINES].lock);
}

void
Ia3ShmemResetEngines(void)
{
    LWLockAcquire(&locks[IA3_LOCK_ENGINES].lock, LW_EXCLUSIVE);
    shared->configured = 0;
    enter_configured();
    LWLockRelease(&locks[IA3_LOCK_ENGINES].lock);
}

void
Ia3PublishEngine(int slot, const Ia3EngineStatus *status)
{
    Ia3PublishEngines(&slot, &status, 1);
}

void
Ia3PublishEngines(const int *slots, const Ia3EngineStatus *const *statuses, int n)
{
    LWLockAcquire(&locks[IA3_LOCK_ENGINES].lock, LW_EXCLUSIVE);
    for (int i = 0; i < n; i++) {
        Assert(slots[i] >= 0 && slots[i] < IA3_MAX_ENGINES);
        /* the load was that of its predecessor */
        if (shared->engines[slots[i]].generation != statuses[i]->generation)
            memset(&shared->loads[slots[i]], 0, sizeof shared->loads[slots[i]]);
        shared->engines[slots[i]] = *statuses[i];
        shared->nEngines = Max(shared->nEngines, slots[i] + 1);
    }
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
    case IA3_ENGINE_HUNG:
        return "hung";
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
