/*
 * supervisor.c
 *     The background worker that keeps an ia3_engine running for every configured backbone.
 *
 * A single loop waits for its latch (signals: SIGHUP, SIGTERM, SIGCHLD), for the engines' status and log
 * pipes and for the next thing that is due (a restart after its back-off, a stronger signal).
 * It publishes what it knows in shared memory (shmem.c) and never waits for anything else.
 *
 * Life of an engine: STARTING -> LOADING -> READY; when it ends, RESTARTING (FAILED if it gave a reason or
 * keeps ending before it is ready) until its back-off is over, then STARTING again with a new generation.
 *
 * Each backbone has one current engine. When a reload changes its entry while it serves, a successor is started
 * beside it and becomes the current one as soon as it is ready; the old one is then DRAINING, that is it
 * finishes what it was asked, trainings included, and ends. A successor that fails is tried again with
 * back-off and the old engine serves on, also across crashes of its own. An engine that does not serve is
 * replaced at once, and one whose entry is removed drains.
 *
 * If this process ends, the engines end through their death pipes, and the postmaster starts it again: it
 * must exit with status 1 (0 would unregister it, anything else would restart the whole server), also when
 * it is told to stop.
 */
#include "engine_process.h"
#include "shmem.h"

#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "utils/timestamp.h"

#include <dirent.h>
#include <signal.h>
#include <sys/un.h>
#include <unistd.h>

#define RESTART_SUPERVISOR_S 5
#define BACKOFF_MIN_MS       1000
#define BACKOFF_MAX_MS       60000
#define SERVED_LONG_MS       60000            /* whoever served so long starts again with no back-off */
#define STOP_PATIENCE_MS     5000             /* between SIGTERM and SIGKILL */
#define DRAIN_PATIENCE_MS    (10 * 60 * 1000) /* for draining, when no training or merge is under way */

/* In the data directory, 0700, left out of base backups. */
#define SOCKET_DIRECTORY PG_STAT_TMP_DIR

typedef struct Engine {
    Ia3EngineStatus status; /* published after every change */
    Ia3EngineSettings settings;
    Ia3Process process;
    bool leaving;        /* drains or stops; once it has ended, its entry is freed */
    bool stopping;       /* SIGTERM was sent */
    bool keep;           /* while the configuration is applied: it is wanted */
    bool gaveReason;     /* status.message says why it failed */
    int failures;        /* ends in a row before it was ready */
    int backoffMs;       /* of the next restart */
    TimestampTz readyAt; /* 0 = not ready */
    TimestampTz startAt; /* while it does not run: when to start; 0 = never */
    TimestampTz endBy;   /* while it leaves: when it gets the next stronger signal; 0 = no bound */
} Engine;

static Engine engines[IA3_MAX_ENGINES];
static WaitEventSet *waitSet = NULL;
static bool waitSetStale = true; /* a pipe was opened or closed */
static bool backboneWaits;       /* for an entry that an engine on its way out still has */
static bool entryFreed;

/*
 * Small helpers
 */

static bool
InUse(const Engine *engine)
{
    return engine->status.state != IA3_ENGINE_UNUSED;
}

static void
Publish(const Engine *engine)
{
    Ia3PublishEngine(engine - engines, &engine->status);
}

static void
SetState(Engine *engine, Ia3EngineState state)
{
    engine->status.state = state;
    engine->status.since = GetCurrentTimestamp();
    Publish(engine);
}

static TimestampTz
FromNow(int ms)
{
    return TimestampTzPlusMilliseconds(GetCurrentTimestamp(), ms);
}

static Ia3EngineSettings
PresentSettings(void)
{
    return (Ia3EngineSettings){Ia3Threads, Ia3MaxBatchTokens, Ia3AdapterCacheSize, Ia3MemoryLimit};
}

static bool
SameSettings(const Ia3EngineSettings *a, const Ia3EngineSettings *b)
{
    return a->threads == b->threads && a->maxBatchTokens == b->maxBatchTokens &&
           a->adapterCacheSize == b->adapterCacheSize && a->memoryLimit == b->memoryLimit;
}

/* True if the engine is what the configuration asks for. */
static bool
IsAsConfigured(const Engine *engine, const Ia3BackboneSpec *spec)
{
    const Ia3BackboneSpec *own = &engine->status.spec;
    Ia3EngineSettings settings = PresentSettings();

    return strcmp(own->name, spec->name) == 0 && strcmp(own->path, spec->path) == 0 &&
           strcmp(own->device, spec->device) == 0 && strcmp(own->dtype, spec->dtype) == 0 &&
           SameSettings(&engine->settings, &settings);
}

/* The current engine of a backbone, or its successor; NULL if there is none. */
static Engine *
FindEngine(const char *name, bool current)
{
    for (int i = 0; i < IA3_MAX_ENGINES; i++) {
        Engine *engine = &engines[i];

        if (InUse(engine) && !engine->leaving && engine->status.current == current &&
            strcmp(engine->status.spec.name, name) == 0)
            return engine;
    }
    return NULL;
}

/*
 * Lines from an engine
 */

/* Control characters, and half a character of a line that was cut, have no place in the server log. */
static void
Sanitize(char *text)
{
    for (char *p = text; *p != '\0'; p++)
        if ((unsigned char) *p < ' ' || *p == 127)
            *p = ' ';
}

/* "LEVEL: text". An engine's ERROR is a WARNING here: it is not an error of this process. */
static void
HandleLogLine(void *arg, char *line)
{
    static const struct {
        const char *prefix;
        int level;
    } levels[] = {{"DEBUG: ", DEBUG1}, {"LOG: ", LOG}, {"WARNING: ", WARNING}, {"ERROR: ", WARNING}};
    Engine *engine = arg;
    int level = LOG;

    for (int i = 0; i < lengthof(levels); i++) {
        size_t n = strlen(levels[i].prefix);

        if (strncmp(line, levels[i].prefix, n) == 0) {
            level = levels[i].level;
            line += n;
            break;
        }
    }
    Sanitize(line);
    ereport(level, (errmsg_internal("ia3 engine \"%s\": %s", engine->status.spec.name, line)));
}

static void
HandleLoading(Engine *engine, int percent)
{
    engine->status.percent = Min(100, Max(0, percent));
    if (engine->status.state == IA3_ENGINE_LOADING)
        Publish(engine);
    else
        SetState(engine, IA3_ENGINE_LOADING);
}

static void
HandleReady(Engine *engine)
{
    engine->status.percent = 100;
    engine->status.message[0] = '\0';
    engine->failures = 0;
    engine->readyAt = GetCurrentTimestamp();
    ereport(LOG, (errmsg("ia3 engine \"%s\" is ready", engine->status.spec.name)));
    if (!engine->status.current)
        return; /* Promote() publishes it together with its predecessor */
    SetState(engine, IA3_ENGINE_READY);
}

static void
HandleDraining(Engine *engine, int lasting, int others)
{
    engine->endBy = lasting > 0 ? 0 : FromNow(DRAIN_PATIENCE_MS);
    snprintf(engine->status.message, sizeof engine->status.message,
             "It finishes what it was asked: trainings and merges: %d, other requests: %d.", lasting, others);
    Publish(engine);
}

static void
HandleStatusLine(void *arg, char *line)
{
    Engine *engine = arg;
    int lasting, others;

    Sanitize(line);
    if (engine->stopping)
        return;
    if (sscanf(line, "draining %d %d", &lasting, &others) == 2) {
        if (engine->leaving)
            HandleDraining(engine, lasting, others);
    } else if (engine->leaving)
        return;
    else if (strncmp(line, "loading ", 8) == 0)
        HandleLoading(engine, atoi(line + 8));
    else if (strcmp(line, "ready") == 0)
        HandleReady(engine);
    else if (strncmp(line, "failed ", 7) == 0) {
        strlcpy(engine->status.message, line + 7, sizeof engine->status.message);
        engine->gaveReason = true;
        Publish(engine);
    } else
        ereport(LOG,
                (errmsg("ia3 engine \"%s\" sent an unknown status \"%s\"", engine->status.spec.name, line)));
}

static void
ReadPipes(Engine *engine)
{
    int open = (engine->process.status.fd >= 0) + (engine->process.log.fd >= 0);

    Ia3ReadLines(&engine->process.log, HandleLogLine, engine);
    Ia3ReadLines(&engine->process.status, HandleStatusLine, engine);
    if (open != (engine->process.status.fd >= 0) + (engine->process.log.fd >= 0))
        waitSetStale = true;
}

/* The last words of a process that has ended: bounded, since a child of it might hold the pipe open. */
static void
DrainPipes(Engine *engine)
{
    for (int i = 0; i < 64; i++)
        ReadPipes(engine);
}

/*
 * Starting and stopping
 */

/* Sets when to try again and grows the back-off. */
static void
ScheduleRestart(Engine *engine, int atLeastMs)
{
    engine->startAt = FromNow(Max(engine->backoffMs, atLeastMs));
    engine->backoffMs = Min(BACKOFF_MAX_MS, Max(BACKOFF_MIN_MS, engine->backoffMs * 2));
}

static void
FailStart(Engine *engine)
{
    ereport(WARNING, (errmsg("ia3 engine \"%s\" could not start: %s", engine->status.spec.name,
                             engine->status.message)));
    ScheduleRestart(engine, BACKOFF_MIN_MS);
    SetState(engine, IA3_ENGINE_FAILED);
}

/*
 * The socket's name has the supervisor's pid and the generation in it, so that an engine on its way out
 * can never unlink or answer for its successor. The longest name fits into sun_path.
 */
static void
NameSocket(Engine *engine)
{
    StaticAssertStmt(sizeof(SOCKET_DIRECTORY "/ia3...sock") + NAMEDATALEN + 20 <=
                         sizeof(((struct sockaddr_un *) NULL)->sun_path),
                     "socket path may be too long");
    snprintf(engine->status.socket, sizeof engine->status.socket, SOCKET_DIRECTORY "/ia3.%s.%d.%u.sock",
             engine->status.spec.name, MyProcPid, engine->status.generation);
}

static void
StartEngine(Engine *engine)
{
    engine->startAt = 0;
    engine->readyAt = 0;
    engine->gaveReason = false;
    engine->status.percent = 0;
    engine->status.generation = Ia3NextGeneration();
    NameSocket(engine);
    waitSetStale = true;
    if (!Ia3ProcessStart(&engine->process, &engine->status.spec, &engine->settings, engine->status.socket,
                         engine->status.message, sizeof engine->status.message)) {
        FailStart(engine);
        return;
    }
    engine->status.pid = engine->process.pid;
    SetState(engine, IA3_ENGINE_STARTING);
}

static void
FreeEngine(Engine *engine)
{
    memset(engine, 0, sizeof *engine);
    Ia3ProcessInit(&engine->process);
    Publish(engine);
}

/* Asks a running engine to end, in whatever state the entry is shown meanwhile. */
static void
TerminateEngine(Engine *engine, Ia3EngineState state)
{
    if (engine->process.pid == 0 || engine->stopping)
        return;
    engine->stopping = true;
    engine->endBy = FromNow(STOP_PATIENCE_MS);
    Ia3ProcessSignal(&engine->process, SIGTERM);
    SetState(engine, state);
}

static void
StopEngine(Engine *engine)
{
    engine->leaving = true;
    engine->status.current = false;
    TerminateEngine(engine, IA3_ENGINE_STOPPED);
}

/* Asks a serving engine to finish its work and end. Does not publish. */
static void
DrainEngine(Engine *engine)
{
    engine->leaving = true;
    engine->status.current = false;
    engine->status.state = IA3_ENGINE_DRAINING;
    engine->status.since = GetCurrentTimestamp();
    engine->endBy = FromNow(DRAIN_PATIENCE_MS); /* until it tells what it is doing */
}

/* An engine that is not wanted any more goes, in the way that its state asks for. */
static void
DismissEngine(Engine *engine)
{
    if (engine->process.pid == 0)
        FreeEngine(engine);
    else if (engine->readyAt != 0) {
        DrainEngine(engine);
        Publish(engine);
        Ia3ProcessSignal(&engine->process, SIGUSR1);
    } else
        StopEngine(engine);
}

/*
 * The successor becomes the current engine. New requests must not find the old one any more when that is told
 * to drain, hence the order.
 */
static void
Promote(Engine *old, Engine *successor)
{
    bool serves = old->process.pid != 0 && old->readyAt != 0;

    successor->status.current = true;
    if (successor->readyAt != 0) {
        successor->status.state = IA3_ENGINE_READY;
        successor->status.since = successor->readyAt;
    }
    if (serves)
        DrainEngine(old);
    else
        old->status.current = false;
    Ia3PublishEngines(old - engines, &old->status, successor - engines, &successor->status);
    ereport(LOG, (errmsg("ia3 engine \"%s\" is replaced: PID %d takes over from PID %d",
                         old->status.spec.name, successor->status.pid, old->status.pid)));
    if (serves)
        Ia3ProcessSignal(&old->process, SIGUSR1);
    else
        DismissEngine(old);
}

/*
 * Successors take over when they are ready; earlier if the current engine cannot be started, since then
 * queries do better to wait for the new one.
 */
static void
PromoteSuccessors(void)
{
    for (int i = 0; i < IA3_MAX_ENGINES; i++) {
        Engine *engine = &engines[i];
        Engine *current;

        if (!InUse(engine) || engine->leaving || engine->status.current || engine->process.pid == 0)
            continue;
        current = FindEngine(engine->status.spec.name, true);
        if (current != NULL && (engine->readyAt != 0 || current->status.state == IA3_ENGINE_FAILED))
            Promote(current, engine);
    }
}

/* An engine that was not asked to has ended. */
static void
HandleCrash(Engine *engine, const char *how)
{
    bool wasReady = engine->readyAt != 0;

    if (wasReady && engine->readyAt + SERVED_LONG_MS * INT64CONST(1000) <= GetCurrentTimestamp())
        engine->backoffMs = 0;
    if (!wasReady)
        engine->failures++;
    if (engine->gaveReason) {
        FailStart(engine);
        return;
    }
    snprintf(engine->status.message, sizeof engine->status.message, "The engine process %s%s.", how,
             wasReady ? "" : " before it was ready");
    if (engine->failures > 1) {
        FailStart(engine);
        return;
    }
    ereport(WARNING,
            (errmsg("ia3 engine \"%s\" (PID %d) %s", engine->status.spec.name, engine->status.pid, how)));
    ScheduleRestart(engine, 0);
    SetState(engine, IA3_ENGINE_RESTARTING);
}

/* Notices if the engine has ended and decides what follows. */
static void
ReapEngine(Engine *engine)
{
    char how[128];

    if (!Ia3ProcessReap(&engine->process, how, sizeof how))
        return;
    DrainPipes(engine);
    Ia3ProcessClosePipes(&engine->process);
    waitSetStale = true;
    unlink(engine->status.socket); /* usually gone already */
    engine->status.restarts++;
    if (engine->leaving) {
        ereport(LOG, (errmsg("ia3 engine \"%s\" (PID %d) has left: it %s", engine->status.spec.name,
                             engine->status.pid, how)));
        FreeEngine(engine);
        entryFreed = true;
    } else if (engine->stopping) {
        engine->status.pid = 0; /* we are shutting down (StopAll) */
        Publish(engine);
    } else {
        HandleCrash(engine, how);
        engine->status.pid = 0;
        engine->readyAt = 0;
        Publish(engine);
    }
}

/*
 * The configured list
 */

static void
AddEngine(const Ia3BackboneSpec *spec, bool current)
{
    for (int i = 0; i < IA3_MAX_ENGINES; i++) {
        Engine *engine = &engines[i];

        if (InUse(engine))
            continue;
        FreeEngine(engine);
        engine->status.spec = *spec;
        engine->status.current = current;
        engine->settings = PresentSettings();
        engine->startAt = GetCurrentTimestamp();
        SetState(engine, IA3_ENGINE_STARTING);
        return;
    }
    /* all entries are taken, most of them by engines that are leaving */
    backboneWaits = true;
    ereport(LOG, (errmsg("ia3 backbone \"%s\" waits for another engine to end", spec->name)));
}

/* If it waits for its next try: now is a good moment, what was wrong may have been put right. */
static void
KeepEngine(Engine *engine)
{
    engine->keep = true;
    if (engine->process.pid != 0)
        return;
    engine->backoffMs = 0;
    engine->failures = 0;
    engine->startAt = GetCurrentTimestamp();
}

/* Which of the engines that `spec` has can go on. */
static void
KeepEngines(const Ia3BackboneSpec *spec)
{
    Engine *current = FindEngine(spec->name, true);
    Engine *successor = FindEngine(spec->name, false);

    if (current == NULL)
        return;
    if (IsAsConfigured(current, spec))
        KeepEngine(current);
    else if (successor != NULL && IsAsConfigured(successor, spec)) {
        KeepEngine(current);
        KeepEngine(successor);
    } else if (current->readyAt != 0)
        KeepEngine(current);
}

/* Starts what `spec` lacks. */
static void
CompleteEngines(const Ia3BackboneSpec *spec)
{
    Engine *current = FindEngine(spec->name, true);

    if (current == NULL)
        AddEngine(spec, true);
    else if (!IsAsConfigured(current, spec) && FindEngine(spec->name, false) == NULL) {
        ereport(LOG, (errmsg("ia3 engine \"%s\" has changed settings; its successor is loaded beside it",
                             spec->name)));
        AddEngine(spec, false);
    }
}

/* Brings the engines in line with ia3.backbones and the other settings. */
static void
ApplyConfiguration(void)
{
    Ia3BackboneSpec *specs = palloc(sizeof(Ia3BackboneSpec) * IA3_MAX_BACKBONES);
    char *error;
    int n = Ia3ParseBackbones(Ia3BackbonesSetting, specs, &error);

    backboneWaits = entryFreed = false;
    for (int i = 0; i < IA3_MAX_ENGINES; i++)
        engines[i].keep = false;
    for (int i = 0; i < n; i++)
        KeepEngines(&specs[i]);
    for (int i = 0; i < IA3_MAX_ENGINES; i++)
        if (InUse(&engines[i]) && !engines[i].leaving && !engines[i].keep)
            DismissEngine(&engines[i]);
    for (int i = 0; i < n; i++)
        CompleteEngines(&specs[i]);
    if (!backboneWaits)
        Ia3PublishConfigured(PgReloadTime);
    pfree(specs);
}

/*
 * The loop
 */

/* The next stronger signal for an engine that takes too long to leave. */
static void
PressEngine(Engine *engine)
{
    const char *name = engine->status.spec.name;

    if (!engine->stopping) {
        ereport(LOG, (errmsg("ia3 engine \"%s\" (PID %d) does not finish and is stopped", name,
                             engine->status.pid)));
        StopEngine(engine);
        return;
    }
    ereport(LOG,
            (errmsg("ia3 engine \"%s\" (PID %d) does not stop and is killed", name, engine->status.pid)));
    Ia3ProcessSignal(&engine->process, SIGKILL);
    engine->endBy = FromNow(STOP_PATIENCE_MS);
}

/* Does what is due; returns the milliseconds until the next thing is, -1 = nothing. */
static long
RunDue(void)
{
    TimestampTz now = GetCurrentTimestamp();
    TimestampTz next = DT_NOEND;

    for (int i = 0; i < IA3_MAX_ENGINES; i++) {
        Engine *engine = &engines[i];

        if (!InUse(engine))
            continue;
        if (engine->process.pid == 0 && engine->startAt != 0 && engine->startAt <= now)
            StartEngine(engine);
        if (engine->process.pid != 0 && engine->endBy != 0 && engine->endBy <= now)
            PressEngine(engine);
        if (engine->process.pid == 0 && engine->startAt != 0)
            next = Min(next, engine->startAt);
        if (engine->process.pid != 0 && engine->endBy != 0)
            next = Min(next, engine->endBy);
    }
    if (next == DT_NOEND)
        return -1;
    return Max(0, TimestampDifferenceMilliseconds(GetCurrentTimestamp(), next));
}

static void
BuildWaitSet(void)
{
    if (waitSet != NULL)
        FreeWaitEventSet(waitSet);
    waitSet = Ia3CreateWaitEventSet(2 + 2 * IA3_MAX_ENGINES);
    AddWaitEventToSet(waitSet, WL_LATCH_SET, PGINVALID_SOCKET, MyLatch, NULL);
    AddWaitEventToSet(waitSet, WL_EXIT_ON_PM_DEATH, PGINVALID_SOCKET, NULL, NULL);
    for (int i = 0; i < IA3_MAX_ENGINES; i++) {
        Ia3Process *process = &engines[i].process;

        if (process->status.fd >= 0)
            AddWaitEventToSet(waitSet, WL_SOCKET_READABLE, process->status.fd, NULL, NULL);
        if (process->log.fd >= 0)
            AddWaitEventToSet(waitSet, WL_SOCKET_READABLE, process->log.fd, NULL, NULL);
    }
    waitSetStale = false;
}

static void
WaitForEvents(long timeout)
{
    static uint32 waitEvent = 0;
    WaitEvent event;

    if (waitSetStale)
        BuildWaitSet();
    WaitEventSetWait(waitSet, timeout, &event, 1, Ia3WaitEvent(&waitEvent, "Ia3Supervisor"));
    ResetLatch(MyLatch);
    CHECK_FOR_INTERRUPTS(); /* also absorbs barriers, so that DROP DATABASE does not wait for us */
}

static void
AttendEngines(void)
{
    for (int i = 0; i < IA3_MAX_ENGINES; i++) {
        if (!InUse(&engines[i]))
            continue;
        ReadPipes(&engines[i]);
        ReapEngine(&engines[i]);
    }
    PromoteSuccessors();
}

static bool
AnyRuns(void)
{
    for (int i = 0; i < IA3_MAX_ENGINES; i++)
        if (engines[i].process.pid != 0)
            return true;
    return false;
}

/*
 * Ends all engines: SIGTERM, and SIGKILL after STOP_PATIENCE_MS (RunDue). The current ones keep their entries,
 * since it may be only we who are restarted; queries wait for that.
 */
static void
StopAll(void)
{
    for (int i = 0; i < IA3_MAX_ENGINES; i++)
        if (engines[i].status.current)
            TerminateEngine(&engines[i], IA3_ENGINE_RESTARTING);
        else if (InUse(&engines[i]))
            StopEngine(&engines[i]);
    while (AnyRuns()) {
        for (int i = 0; i < IA3_MAX_ENGINES; i++)
            engines[i].startAt = 0;
        WaitForEvents(RunDue());
        AttendEngines();
    }
}

/* However we end: no engine is left to hope for its death pipe alone, and queries know that none serves. */
static void
AtExit(int code, Datum arg)
{
    for (int i = 0; i < IA3_MAX_ENGINES; i++) {
        Engine *engine = &engines[i];

        if (!InUse(engine))
            continue;
        Ia3ProcessSignal(&engine->process, SIGTERM);
        if (engine->process.pid != 0)
            unlink(engine->status.socket);
        if (!engine->status.current) {
            SetState(engine, IA3_ENGINE_UNUSED);
            continue;
        }
        engine->status.pid = 0;
        strlcpy(engine->status.message, "The ia3 supervisor has ended; the server starts it again.",
                sizeof engine->status.message);
        SetState(engine, IA3_ENGINE_RESTARTING);
    }
}

/* What predecessors left behind. */
static void
RemoveStaleSockets(void)
{
    DIR *dir = opendir(SOCKET_DIRECTORY);
    struct dirent *entry;

    if (dir == NULL)
        return;
    while ((entry = readdir(dir)) != NULL) {
        size_t n = strlen(entry->d_name);
        char path[MAXPGPATH];

        if (strncmp(entry->d_name, "ia3.", 4) != 0 || n < 9 || strcmp(entry->d_name + n - 5, ".sock") != 0)
            continue;
        snprintf(path, sizeof path, SOCKET_DIRECTORY "/%s", entry->d_name);
        unlink(path);
    }
    closedir(dir);
}

static void
HandleSigchld(SIGNAL_ARGS)
{
    int savedErrno = errno;

    SetLatch(MyLatch);
    errno = savedErrno;
}

static void
InitSupervisor(void)
{
    pqsignal(SIGHUP, SignalHandlerForConfigReload);
    pqsignal(SIGTERM, SignalHandlerForShutdownRequest);
    pqsignal(SIGINT, SIG_IGN); /* pg_cancel_backend() has nothing to cancel here */
    pqsignal(SIGCHLD, HandleSigchld);
    BackgroundWorkerUnblockSignals();

    /* no database of our own, but a row in pg_stat_activity and a part in process signals */
    BackgroundWorkerInitializeConnection(NULL, NULL, 0);

    for (int i = 0; i < IA3_MAX_ENGINES; i++)
        Ia3ProcessInit(&engines[i].process);
    RemoveStaleSockets();
    Ia3ShmemResetEngines();
    before_shmem_exit(AtExit, 0);
}

void
Ia3SupervisorMain(Datum arg)
{
    MemoryContext context;

    InitSupervisor();
    context = AllocSetContextCreate(TopMemoryContext, "ia3 supervisor", ALLOCSET_DEFAULT_SIZES);
    MemoryContextSwitchTo(context);
    ApplyConfiguration();
    while (!ShutdownRequestPending) {
        if (ConfigReloadPending) {
            ConfigReloadPending = false;
            ProcessConfigFile(PGC_SIGHUP);
            ApplyConfiguration();
        } else if (backboneWaits && entryFreed)
            ApplyConfiguration();
        WaitForEvents(RunDue());
        AttendEngines();
        MemoryContextReset(context);
    }
    StopAll();
    proc_exit(1);
}

/* Registers the supervisor as a static background worker. Only from _PG_init while preloading. */
void
Ia3SupervisorRegister(void)
{
    BackgroundWorker worker;

    memset(&worker, 0, sizeof worker);
    worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
    worker.bgw_start_time = BgWorkerStart_ConsistentState; /* hot standbys classify, too */
    worker.bgw_restart_time = RESTART_SUPERVISOR_S;
    strlcpy(worker.bgw_library_name, "ia3", BGW_MAXLEN);
    strlcpy(worker.bgw_function_name, "Ia3SupervisorMain", BGW_MAXLEN);
    strlcpy(worker.bgw_name, "ia3 supervisor", BGW_MAXLEN);
    strlcpy(worker.bgw_type, "ia3 supervisor", BGW_MAXLEN);
    RegisterBackgroundWorker(&worker);
}
