/*
 * supervisor.c
 *     The background worker that keeps an ia3_engine running for every device of every configured backbone.
 *
 * A single loop waits for its latch (signals: SIGHUP, SIGTERM, SIGCHLD), for the engines' status and log
 * pipes and for the next thing that is due (a restart after its back-off, a stronger signal, a sign of life).
 * It publishes what it knows in shared memory (shmem.c) and never waits for anything else.
 *
 * If this process ends, the engines end through their death pipes, and the postmaster starts it again: it
 * must exit with status 1 (0 would unregister it, anything else would restart the whole server), also when
 * it is told to stop.
 */
#include "postgres.h"

#include <dirent.h>
#include <signal.h>
#include <unistd.h>

#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"

#include "supervisor.h"
#include "supervisor_engine.h"
#include "supervisor_list.h"
#include "watchdog.h"
#include "extension/ia3_compat.h"

#define RESTART_SUPERVISOR_S 5
#define LATE_MS              1000 /* if this process wakes up later than that, it has not been running */

static WaitEventSet *waitSet = NULL;
static bool registered;    /* in the postmaster */
static bool backboneWaits; /* for an entry that an engine on its way out still has */

/* Does what is due; returns the milliseconds until the next thing is, -1 = nothing. */
static long
run_due(void)
{
    static Ia3Time wakeUp = 0;
    Ia3Time now = Ia3Now();
    Ia3Time next = PG_INT64_MAX;

    if (wakeUp != 0 && now > wakeUp + LATE_MS)
        Ia3WatchExcuse(now - wakeUp);
    for (int i = 0; i < IA3_MAX_ENGINES; i++) {
        Ia3Engine *engine = &Ia3Engines[i];

        if (!Ia3EngineInUse(engine))
            continue;
        if (engine->process.pid == 0 && engine->startAt != 0 && engine->startAt <= now)
            Ia3EngineStart(engine);
        if (engine->process.pid != 0 && engine->endBy != 0 && engine->endBy <= now)
            Ia3EnginePress(engine);
        next = Min(next, Ia3WatchRun(engine, now));
        if (engine->process.pid == 0 && engine->startAt != 0)
            next = Min(next, engine->startAt);
        if (engine->process.pid != 0 && engine->endBy != 0)
            next = Min(next, engine->endBy);
    }
    wakeUp = next == PG_INT64_MAX ? 0 : next;
    if (wakeUp == 0)
        return -1;
    return Max(0, next - Ia3Now());
}

static void
build_wait_set(void)
{
    if (waitSet != NULL)
        FreeWaitEventSet(waitSet);
    waitSet = Ia3CreateWaitEventSet(2 + 2 * IA3_MAX_ENGINES);
    AddWaitEventToSet(waitSet, WL_LATCH_SET, PGINVALID_SOCKET, MyLatch, NULL);
    AddWaitEventToSet(waitSet, WL_EXIT_ON_PM_DEATH, PGINVALID_SOCKET, NULL, NULL);
    for (int i = 0; i < IA3_MAX_ENGINES; i++) {
        Ia3Process *process = &Ia3Engines[i].process;

        if (process->status.fd >= 0)
            AddWaitEventToSet(waitSet, WL_SOCKET_READABLE, process->status.fd, NULL, NULL);
        if (process->log.fd >= 0)
            AddWaitEventToSet(waitSet, WL_SOCKET_READABLE, process->log.fd, NULL, NULL);
    }
    Ia3PipesChanged = false;
}

static void
wait_for_events(long timeout)
{
    static uint32 waitEvent = 0;
    WaitEvent event;

    if (waitSet == NULL || Ia3PipesChanged)
        build_wait_set();
    WaitEventSetWait(waitSet, timeout, &event, 1, Ia3WaitEvent(&waitEvent, "Ia3Supervisor"));
    ResetLatch(MyLatch);
    CHECK_FOR_INTERRUPTS(); /* also absorbs barriers, so that DROP DATABASE does not wait for us */
}

static void
attend_engines(void)
{
    for (int i = 0; i < IA3_MAX_ENGINES; i++)
        if (Ia3EngineInUse(&Ia3Engines[i]))
            Ia3EngineAttend(&Ia3Engines[i]);
    Ia3PromoteSuccessors();
}

static bool
any_runs(void)
{
    for (int i = 0; i < IA3_MAX_ENGINES; i++)
        if (Ia3Engines[i].process.pid != 0)
            return true;
    return false;
}

/*
 * Ends all engines: SIGTERM, and SIGKILL after STOP_PATIENCE_MS (run_due). The current ones keep their entries: perhaps
 * only the supervisor is restarted, and queries wait for that.
 */
static void
stop_all(void)
{
    for (int i = 0; i < IA3_MAX_ENGINES; i++)
        if (Ia3Engines[i].status.current)
            Ia3EngineTerminate(&Ia3Engines[i], IA3_ENGINE_RESTARTING);
        else if (Ia3EngineInUse(&Ia3Engines[i]))
            Ia3EngineStop(&Ia3Engines[i]);
    while (any_runs()) {
        for (int i = 0; i < IA3_MAX_ENGINES; i++)
            Ia3Engines[i].startAt = 0;
        wait_for_events(run_due());
        attend_engines();
    }
}

static void
at_exit(int code, Datum arg)
{
    for (int i = 0; i < IA3_MAX_ENGINES; i++)
        if (Ia3EngineInUse(&Ia3Engines[i]))
            Ia3EngineForget(&Ia3Engines[i]);
}

/* Removes the sockets of engines that could not do so themselves. */
static void
remove_stale_sockets(void)
{
    DIR *dir = opendir(IA3_SOCKET_DIRECTORY);
    struct dirent *entry;

    if (dir == NULL)
        return;
    while ((entry = readdir(dir)) != NULL) {
        size_t n = strlen(entry->d_name);
        char path[MAXPGPATH];

        if (strncmp(entry->d_name, "ia3.", 4) != 0 || n < 9 || strcmp(entry->d_name + n - 5, ".sock") != 0)
            continue;
        snprintf(path, sizeof path, IA3_SOCKET_DIRECTORY "/%s", entry->d_name);
        unlink(path);
    }
    closedir(dir);
}

static void
handle_sigchld(SIGNAL_ARGS)
{
    int savedErrno = errno;

    SetLatch(MyLatch);
    errno = savedErrno;
}

static void
init_supervisor(void)
{
    pqsignal(SIGHUP, SignalHandlerForConfigReload);
    pqsignal(SIGTERM, SignalHandlerForShutdownRequest);
    pqsignal(SIGINT, SIG_IGN); /* pg_cancel_backend() has nothing to cancel here */
    pqsignal(SIGCHLD, handle_sigchld);
    BackgroundWorkerUnblockSignals();

    /* connects to no database, but gets a row in pg_stat_activity and takes part in process signals */
    BackgroundWorkerInitializeConnection(NULL, NULL, 0);

    for (int i = 0; i < IA3_MAX_ENGINES; i++)
        Ia3ProcessInit(&Ia3Engines[i].process);
    remove_stale_sockets();
    Ia3ShmemResetEngines();
    before_shmem_exit(at_exit, 0);
}

static void
configure(void)
{
    backboneWaits = !Ia3ApplyConfiguration();
    Ia3EntryFreed = false; /* what it freed was available when it added engines */
}

void
Ia3SupervisorMain(Datum arg)
{
    MemoryContext context;

    init_supervisor();
    context = AllocSetContextCreate(TopMemoryContext, "ia3 supervisor", ALLOCSET_DEFAULT_SIZES);
    MemoryContextSwitchTo(context);
    configure();
    while (!ShutdownRequestPending) {
        if (ConfigReloadPending) {
            ConfigReloadPending = false;
            ProcessConfigFile(PGC_SIGHUP);
            configure();
        } else if (backboneWaits && Ia3EntryFreed)
            configure();
        wait_for_events(run_due());
        attend_engines();
        MemoryContextReset(context);
    }
    stop_all();
    proc_exit(1);
}

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
    registered = Ia3WorkerIsRegistered("ia3");
}

bool
Ia3SupervisorIsRegistered(void)
{
    return registered;
}
