/*
 * supervisor.c
 *     The background worker that keeps one ia3_engine running per configured backbone.
 *
 * A single loop waits for its latch (signals: SIGHUP, SIGTERM, SIGCHLD), for the engines' status and log
 * pipes and for the next thing that is due (a restart after its back-off, a SIGKILL after a SIGTERM).
 * It publishes what it knows in shared memory (shmem.c) and never waits for anything else.
 *
 * Life of an engine: STARTING -> LOADING -> READY; when it ends, RESTARTING (FAILED if it gave a reason or
 * keeps ending before it is ready) until its back-off is over, then STARTING again with a new generation.
 * An engine that a reload removes or changes is STOPPED first.
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
#define SERVED_LONG_MS       60000 /* whoever served so long starts again with no back-off */
#define STOP_PATIENCE_MS     5000  /* between SIGTERM and SIGKILL */

/* In the data directory, 0700, left out of base backups. */
#define SOCKET_DIRECTORY PG_STAT_TMP_DIR

/* The settings that an engine is started with. */
typedef struct EngineSettings {
    int threads;
    int maxBatchTokens;
    int adapterCacheSize;
    int memoryLimit;
} EngineSettings;

typedef struct Engine {
    Ia3EngineStatus status; /* published after every change */
    EngineSettings settings;
    Ia3Process process;
    Ia3BackboneSpec wanted; /* what the next start uses */
    bool stopping;          /* SIGTERM was sent */
    bool remove;            /* once it has ended, free the entry */
    bool gaveReason;        /* status.message says why it failed */
    int failures;           /* ends in a row before it was ready */
    int backoffMs;          /* of the next restart */
    TimestampTz readyAt;    /* 0 = not ready */
    TimestampTz startAt;    /* while it does not run: when to start; 0 = never */
    TimestampTz killAt;     /* while stopping */
} Engine;

static Engine engines[IA3_MAX_BACKBONES];
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

static EngineSettings
PresentSettings(void)
{
    return (EngineSettings){Ia3Threads, Ia3MaxBatchTokens, Ia3AdapterCacheSize, Ia3MemoryLimit};
}

static bool
SameSettings(const EngineSettings *a, const EngineSettings *b)
{
    return a->threads == b->threads && a->maxBatchTokens == b->maxBatchTokens &&
           a->adapterCacheSize == b->adapterCacheSize && a->memoryLimit == b->memoryLimit;
}

static bool
SameSpec(const Ia3BackboneSpec *a, const Ia3BackboneSpec *b)
{
    return strcmp(a->name, b->name) == 0 && strcmp(a->path, b->path) == 0 &&
           strcmp(a->device, b->device) == 0 && strcmp(a->dtype, b->dtype) == 0;
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
HandleStatusLine(void *arg, char *line)
{
    Engine *engine = arg;

    Sanitize(line);
    if (engine->stopping)
        return;
    if (strncmp(line, "loading ", 8) == 0) {
        engine->status.percent = Min(100, Max(0, atoi(line + 8)));
        if (engine->status.state == IA3_ENGINE_LOADING)
            Publish(engine);
        else
            SetState(engine, IA3_ENGINE_LOADING);
    } else if (strcmp(line, "ready") == 0) {
        engine->status.percent = 100;
        engine->status.message[0] = '\0';
        engine->failures = 0;
        engine->readyAt = GetCurrentTimestamp();
        SetState(engine, IA3_ENGINE_READY);
        ereport(LOG, (errmsg("ia3 engine \"%s\" is ready", engine->status.spec.name)));
    } else if (strncmp(line, "failed ", 7) == 0) {
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
    engine->stopping = false;
    engine->gaveReason = false;
    engine->settings = PresentSettings();
    engine->status.spec = engine->wanted;
    engine->status.percent = 0;
    engine->status.generation = Ia3NextGeneration();
    NameSocket(engine);
    waitSetStale = true;
    if (!Ia3ProcessStart(&engine->process, &engine->status.spec, engine->status.socket,
                         engine->status.message, sizeof engine->status.message)) {
        FailStart(engine);
        return;
    }
    engine->status.pid = engine->process.pid;
    SetState(engine, IA3_ENGINE_STARTING);
}

/* Asks a running engine to end. */
static void
StopEngine(Engine *engine)
{
    if (engine->process.pid == 0 || engine->stopping)
        return;
    engine->stopping = true;
    engine->killAt = FromNow(STOP_PATIENCE_MS);
    Ia3ProcessSignal(&engine->process, SIGTERM);
    SetState(engine, engine->remove ? IA3_ENGINE_STOPPED : IA3_ENGINE_RESTARTING);
}

static void
FreeEngine(Engine *engine)
{
    memset(engine, 0, sizeof *engine);
    Ia3ProcessInit(&engine->process);
    Publish(engine);
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
    if (engine->remove) {
        ereport(LOG, (errmsg("ia3 engine \"%s\" was stopped", engine->status.spec.name)));
        FreeEngine(engine);
        entryFreed = true;
    } else if (engine->stopping) {
        engine->status.pid = 0;
        engine->startAt = GetCurrentTimestamp();
        Publish(engine);
    } else {
        HandleCrash(engine, how);
        engine->status.pid = 0;
        Publish(engine);
    }
}

/*
 * The configured list
 */

static Engine *
FindEngine(const char *name)
{
    for (int i = 0; i < IA3_MAX_BACKBONES; i++)
        if (InUse(&engines[i]) && strcmp(engines[i].status.spec.name, name) == 0)
            return &engines[i];
    return NULL;
}

static void
AddEngine(const Ia3BackboneSpec *spec)
{
    for (int i = 0; i < IA3_MAX_BACKBONES; i++) {
        Engine *engine = &engines[i];

        if (InUse(engine))
            continue;
        FreeEngine(engine);
        engine->wanted = engine->status.spec = *spec;
        engine->startAt = GetCurrentTimestamp();
        SetState(engine, IA3_ENGINE_STARTING);
        return;
    }
    /* all entries are taken, some by removed engines that are still ending */
    backboneWaits = true;
    ereport(LOG, (errmsg("ia3 backbone \"%s\" waits for another engine to end", spec->name)));
}

static void
UpdateEngine(Engine *engine, const Ia3BackboneSpec *spec)
{
    EngineSettings settings = PresentSettings();
    bool changed = !SameSpec(&engine->status.spec, spec) || !SameSettings(&engine->settings, &settings);

    engine->wanted = *spec;
    engine->remove = false;
    if (engine->process.pid == 0) {
        /* it waits for its next try: now is a good moment, what was wrong may have been put right */
        engine->backoffMs = 0;
        engine->failures = 0;
        engine->startAt = GetCurrentTimestamp();
    } else if (engine->stopping)
        SetState(engine, IA3_ENGINE_RESTARTING);
    else if (changed) {
        ereport(LOG, (errmsg("ia3 engine \"%s\" is restarted with changed settings", spec->name)));
        StopEngine(engine);
    }
}

/* Brings the engines in line with ia3.backbones. */
static void
ApplyConfiguration(void)
{
    Ia3BackboneSpec *specs = palloc(sizeof(Ia3BackboneSpec) * IA3_MAX_BACKBONES);
    char *error;
    int n = Ia3ParseBackbones(Ia3BackbonesSetting, specs, &error);

    backboneWaits = entryFreed = false;
    for (int i = 0; i < IA3_MAX_BACKBONES; i++)
        engines[i].remove = InUse(&engines[i]);
    for (int i = 0; i < n; i++) {
        Engine *engine = FindEngine(specs[i].name);

        if (engine != NULL)
            UpdateEngine(engine, &specs[i]);
    }
    for (int i = 0; i < IA3_MAX_BACKBONES; i++) {
        if (!engines[i].remove)
            continue;
        if (engines[i].process.pid == 0)
            FreeEngine(&engines[i]);
        else {
            StopEngine(&engines[i]);
            SetState(&engines[i], IA3_ENGINE_STOPPED);
        }
    }
    for (int i = 0; i < n; i++)
        if (FindEngine(specs[i].name) == NULL)
            AddEngine(&specs[i]);
    pfree(specs);
}

/*
 * The loop
 */

/* Does what is due; returns the milliseconds until the next thing is, -1 = nothing. */
static long
RunDue(void)
{
    TimestampTz now = GetCurrentTimestamp();
    TimestampTz next = DT_NOEND;

    for (int i = 0; i < IA3_MAX_BACKBONES; i++) {
        Engine *engine = &engines[i];

        if (!InUse(engine))
            continue;
        if (engine->process.pid == 0 && engine->startAt != 0 && engine->startAt <= now)
            StartEngine(engine);
        if (engine->process.pid != 0 && engine->stopping && engine->killAt <= now) {
            ereport(LOG, (errmsg("ia3 engine \"%s\" does not stop and is killed", engine->status.spec.name)));
            Ia3ProcessSignal(&engine->process, SIGKILL);
            engine->killAt = FromNow(STOP_PATIENCE_MS);
        }
        if (engine->process.pid == 0 && engine->startAt != 0)
            next = Min(next, engine->startAt);
        if (engine->process.pid != 0 && engine->stopping)
            next = Min(next, engine->killAt);
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
    waitSet = Ia3CreateWaitEventSet(2 + 2 * IA3_MAX_BACKBONES);
    AddWaitEventToSet(waitSet, WL_LATCH_SET, PGINVALID_SOCKET, MyLatch, NULL);
    AddWaitEventToSet(waitSet, WL_EXIT_ON_PM_DEATH, PGINVALID_SOCKET, NULL, NULL);
    for (int i = 0; i < IA3_MAX_BACKBONES; i++) {
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
    for (int i = 0; i < IA3_MAX_BACKBONES; i++) {
        if (!InUse(&engines[i]))
            continue;
        ReadPipes(&engines[i]);
        ReapEngine(&engines[i]);
    }
}

static bool
AnyRuns(void)
{
    for (int i = 0; i < IA3_MAX_BACKBONES; i++)
        if (engines[i].process.pid != 0)
            return true;
    return false;
}

/* Ends all engines: SIGTERM, and SIGKILL after STOP_PATIENCE_MS (RunDue). */
static void
StopAll(void)
{
    for (int i = 0; i < IA3_MAX_BACKBONES; i++) {
        engines[i].remove = false;
        StopEngine(&engines[i]);
    }
    while (AnyRuns()) {
        for (int i = 0; i < IA3_MAX_BACKBONES; i++)
            engines[i].startAt = 0;
        WaitForEvents(RunDue());
        AttendEngines();
    }
}

/* However we end: no engine is left to hope for its death pipe alone, and queries know that none serves. */
static void
AtExit(int code, Datum arg)
{
    for (int i = 0; i < IA3_MAX_BACKBONES; i++) {
        Engine *engine = &engines[i];

        if (!InUse(engine))
            continue;
        Ia3ProcessSignal(&engine->process, SIGTERM);
        if (engine->process.pid != 0)
            unlink(engine->status.socket);
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

    for (int i = 0; i < IA3_MAX_BACKBONES; i++)
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
