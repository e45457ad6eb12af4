/*
 * supervisor_list.c
 *     Which engines there should be: ia3.backbones and the other settings, compared with what runs. In the supervisor
 *     only.
 *
 * A backbone has one current engine per device; they share its requests. When a reload changes its entry, engines that
 * the new entry asks for just as they are stay; the others that it asks for are loaded beside them, as successors.
 * Until these are ready, the engines that the new entry does not ask for keep serving, as outdated ones. Then they
 * drain, and the successors become current, all at the same moment, so that statements are not answered by old and
 * new weights in turn. Successors that fail are tried again with back-off; if all of them fail, the outdated engines
 * keep serving, and are restarted when they crash. Outdated engines that do not serve are replaced at once, and engines
 * that are only taken away drain at once.
 */
#include "postgres.h"

#include <sched.h>
#include <signal.h>

#include "lib/stringinfo.h"
#include "utils/timestamp.h"

#include "extension/guc.h"
#include "supervisor_engine.h"
#include "supervisor_list.h"

/*
 * Engines of one backbone on the CPU share the cores, so as not to get in each other's way. An engine on a GPU is not
 * reloaded for a setting that does not concern it.
 */
static int
threads_for(const Ia3BackboneSpec *spec)
{
    cpu_set_t set;

    if (strncmp(spec->device, "cuda:", 5) == 0)
        return 0;
    if (Ia3Threads > 0 || spec->cpuEngines < 2 || sched_getaffinity(0, sizeof set, &set) != 0)
        return Ia3Threads;
    return Max(1, CPU_COUNT(&set) / spec->cpuEngines);
}

/* So do they share the memory, unless there is a limit for each. */
static int
memory_share(const Ia3BackboneSpec *spec)
{
    if (Ia3MemoryLimit >= 0 || strncmp(spec->device, "cuda:", 5) == 0)
        return 1;
    return Max(1, spec->cpuEngines);
}

static Ia3EngineSettings
settings_for(const Ia3BackboneSpec *spec)
{
    return (Ia3EngineSettings){.threads = threads_for(spec),
                               .maxBatchTokens = Ia3MaxBatchTokens,
                               .adapterCacheSize = Ia3AdapterCacheSize,
                               .memoryLimit = Ia3MemoryLimit,
                               .memoryShare = memory_share(spec)};
}

/* An engine that others join keeps its share of the memory rather than being loaded again. */
static bool
same_settings(const Ia3EngineSettings *a, const Ia3EngineSettings *b)
{
    return a->threads == b->threads && a->maxBatchTokens == b->maxBatchTokens &&
           a->adapterCacheSize == b->adapterCacheSize && a->memoryLimit == b->memoryLimit;
}

static bool
same_name(const Ia3Engine *engine, const char *name)
{
    return strcmp(engine->status.spec.name, name) == 0;
}

/* True if the engine is what the configuration asks for. */
static bool
is_as_configured(const Ia3Engine *engine, const Ia3BackboneSpec *spec)
{
    const Ia3BackboneSpec *own = &engine->status.spec;
    Ia3EngineSettings settings = settings_for(spec);

    return same_name(engine, spec->name) && strcmp(own->path, spec->path) == 0 &&
           strcmp(own->device, spec->device) == 0 && strcmp(own->dtype, spec->dtype) == 0 &&
           strcmp(own->sha256, spec->sha256) == 0 && same_settings(&engine->settings, &settings);
}

static bool
stays(const Ia3Engine *engine)
{
    return Ia3EngineInUse(engine) && !engine->leaving;
}

static bool
is_successor(const Ia3Engine *engine)
{
    return stays(engine) && !engine->status.current;
}

static bool
is_outdated(const Ia3Engine *engine)
{
    return stays(engine) && engine->status.current && engine->outdated;
}

/*
 * Applying the configuration
 */

/* The best engine for `spec` that is not taken for another one: a current engine, if possible a ready one. */
static Ia3Engine *
find_as_configured(const Ia3BackboneSpec *spec)
{
    Ia3Engine *best = NULL;
    int bestRank = 0;

    for (int i = 0; i < IA3_MAX_ENGINES; i++) {
        Ia3Engine *engine = &Ia3Engines[i];
        int rank = 1 + (engine->readyAt != 0) + 2 * engine->status.current;

        if (stays(engine) && !engine->keep && rank > bestRank && is_as_configured(engine, spec)) {
            best = engine;
            bestRank = rank;
        }
    }
    return best;
}

/*
 * Keeps the outdated engines of a backbone unless its new ones are `complete`; those that do not serve, only if loading
 * new ones has `begun`.
 */
static void
keep_outdated(const char *name, bool complete, bool begun)
{
    for (int i = 0; i < IA3_MAX_ENGINES && !complete; i++) {
        Ia3Engine *engine = &Ia3Engines[i];

        if (!stays(engine) || engine->keep || !engine->status.current || !same_name(engine, name))
            continue;
        if (engine->readyAt == 0 && !begun)
            continue;
        engine->keep = engine->outdated = true;
        Ia3EngineRetry(engine);
    }
}

static bool
has_outdated(const char *name)
{
    for (int i = 0; i < IA3_MAX_ENGINES; i++)
        if (is_outdated(&Ia3Engines[i]) && same_name(&Ia3Engines[i], name))
            return true;
    return false;
}

/* Decides about the engines of the backbone of specs[0..n); `found` gets those that stay. */
static void
keep_engines(const Ia3BackboneSpec *specs, int n, Ia3Engine **found)
{
    bool complete = true, begun = false;

    for (int i = 0; i < n; i++) {
        found[i] = find_as_configured(&specs[i]);
        if (found[i] != NULL) {
            found[i]->keep = true;
            Ia3EngineAdopt(found[i], &specs[i]);
            Ia3EngineRetry(found[i]);
        }
        complete = complete && found[i] != NULL && found[i]->status.current;
        begun = begun || (found[i] != NULL && !found[i]->status.current);
    }
    keep_outdated(specs[0].name, complete, begun);
}

/* False if all entries are taken, most of them by engines that are leaving. */
static bool
add_engine(const Ia3BackboneSpec *spec)
{
    Ia3EngineSettings settings = settings_for(spec);
    bool successor = has_outdated(spec->name);

    for (int i = 0; i < IA3_MAX_ENGINES; i++) {
        if (Ia3EngineInUse(&Ia3Engines[i]))
            continue;
        if (successor)
            ereport(LOG, (errmsg("ia3 engine \"%s\" has changed settings; its successor is being loaded",
                                 spec->name)));
        Ia3EngineAdd(&Ia3Engines[i], spec, &settings, !successor);
        return true;
    }
    ereport(LOG, (errmsg("ia3 backbone \"%s\" waits for another engine to end", spec->name)));
    return false;
}

/* How many of specs[0..n) belong to the first one's backbone. */
static int
count_devices(const Ia3BackboneSpec *specs, int n)
{
    int devices = 1;

    while (devices < n && strcmp(specs[devices].name, specs[0].name) == 0)
        devices++;
    return devices;
}

/* Removes what Ia3ShmemResetEngines has entered for an invalid setting. There are no engines yet. */
static void
clear_entries(void)
{
    int slots[IA3_MAX_CONFIGURED];
    const Ia3EngineStatus *statuses[IA3_MAX_CONFIGURED];

    for (int i = 0; i < IA3_MAX_CONFIGURED; i++) {
        slots[i] = i;
        statuses[i] = &Ia3Engines[i].status;
    }
    Ia3PublishEngines(slots, statuses, IA3_MAX_CONFIGURED);
}

bool
Ia3ApplyConfiguration(void)
{
    Ia3BackboneSpec *specs = palloc(sizeof(Ia3BackboneSpec) * IA3_MAX_CONFIGURED);
    Ia3Engine *found[IA3_MAX_CONFIGURED];
    char *error;
    int n = Ia3ParseBackbones(Ia3BackbonesSetting, specs, &error);
    bool complete = true;
    static bool wasInvalid = false;

    if (n < 0) { /* only at server start; what is entered says why there are no engines */
        wasInvalid = true;
        pfree(specs);
        Ia3PublishConfigured(PgReloadTime);
        return true;
    }
    if (wasInvalid)
        clear_entries();
    wasInvalid = false;

    /* until all is done, a backbone may be without an engine; queries wait for it then */
    Ia3PublishConfigured(0);
    for (int i = 0; i < IA3_MAX_ENGINES; i++)
        Ia3Engines[i].keep = Ia3Engines[i].outdated = false;
    for (int i = 0, devices; i < n; i += devices) {
        devices = count_devices(&specs[i], n - i);
        keep_engines(&specs[i], devices, &found[i]);
    }
    for (int i = 0; i < IA3_MAX_ENGINES; i++)
        if (stays(&Ia3Engines[i]) && !Ia3Engines[i].keep)
            Ia3EngineDismiss(&Ia3Engines[i]);
    for (int i = 0; i < n; i++)
        if (found[i] == NULL)
            complete = add_engine(&specs[i]) && complete;
    if (complete)
        Ia3PublishConfigured(PgReloadTime);
    pfree(specs);
    return complete;
}

/*
 * Succession
 */

static void
log_promotion(const char *name)
{
    StringInfoData in, out;

    initStringInfo(&in);
    initStringInfo(&out);
    for (int i = 0; i < IA3_MAX_ENGINES; i++) {
        const Ia3Engine *engine = &Ia3Engines[i];
        StringInfo list = is_successor(engine) ? &in : is_outdated(engine) ? &out : NULL;

        if (list != NULL && same_name(engine, name))
            appendStringInfo(list, "%s%d", list->len > 0 ? ", " : "", engine->status.pid);
    }
    if (out.len > 0)
        ereport(LOG, (errmsg("ia3 engine \"%s\" is replaced: PID %s takes over from PID %s", name, in.data,
                             out.data)));
    pfree(in.data);
    pfree(out.data);
}

static void
become_current(Ia3Engine *engine)
{
    engine->status.current = true;
    if (engine->readyAt == 0)
        return;
    engine->status.state = IA3_ENGINE_READY;
    engine->status.since = engine->readySince;
}

/*
 * Makes the successors current and lets the outdated engines leave. New requests must not find these any more by the
 * time they are told to drain, hence the order.
 */
static void
promote(const char *name)
{
    Ia3Engine *old[IA3_MAX_ENGINES];
    int slots[IA3_MAX_ENGINES];
    const Ia3EngineStatus *statuses[IA3_MAX_ENGINES];
    int nOld = 0, n = 0;

    log_promotion(name);
    for (int i = 0; i < IA3_MAX_ENGINES; i++) {
        Ia3Engine *engine = &Ia3Engines[i];

        if (!same_name(engine, name))
            continue;
        if (is_successor(engine))
            become_current(engine);
        else if (is_outdated(engine)) {
            old[nOld++] = engine;
            if (engine->process.pid != 0 && engine->readyAt != 0)
                Ia3EngineBeginDraining(engine);
            else
                engine->status.current = false;
        } else
            continue;
        slots[n] = i;
        statuses[n++] = &engine->status;
    }
    Ia3PublishEngines(slots, statuses, n);
    for (int i = 0; i < nOld; i++)
        if (old[i]->leaving)
            Ia3ProcessSignal(&old[i]->process, SIGUSR1);
        else
            Ia3EngineDismiss(old[i]);
}

/* A successor that has failed once is not waited for. */
static bool
is_on_its_way(const Ia3Engine *engine)
{
    return engine->readyAt == 0 && engine->failures == 0 && engine->status.state != IA3_ENGINE_FAILED;
}

/* Whether the successors of a backbone should take over now. */
static bool
should_promote(const char *name)
{
    bool ready = false, onTheirWay = false, run = false, outdated = false, hopeless = true;

    for (int i = 0; i < IA3_MAX_ENGINES; i++) {
        const Ia3Engine *engine = &Ia3Engines[i];

        if (!same_name(engine, name))
            continue;
        if (is_successor(engine)) {
            ready = ready || engine->readyAt != 0;
            onTheirWay = onTheirWay || is_on_its_way(engine);
            run = run || engine->process.pid != 0;
        } else if (is_outdated(engine)) {
            outdated = true;
            hopeless = hopeless && engine->status.state == IA3_ENGINE_FAILED;
        }
    }
    /* when nothing else can be had, queries do better to wait for the new ones */
    return (ready && !onTheirWay) || !outdated || (hopeless && run);
}

void
Ia3PromoteSuccessors(void)
{
    for (int i = 0; i < IA3_MAX_ENGINES; i++)
        if (is_successor(&Ia3Engines[i]) && should_promote(Ia3Engines[i].status.spec.name)) {
            char name[NAMEDATALEN];

            strlcpy(name, Ia3Engines[i].status.spec.name, sizeof name);
            promote(name);
        }
}
