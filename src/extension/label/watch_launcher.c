/*
 * watch_launcher.c
 *     The background worker that starts the workers of deferred watches.
 *
 * It starts one worker for each database in which rows wait: when a transaction that has queued rows commits (watch_shared.c), when a
 * worker has ended too early, and once for every database when the server, or this process, has started, because rows may have been
 * left by a crash. A worker that finds nothing to do ends at once. There is no launcher during recovery, so a standby has its
 * first one after it was promoted.
 *
 * Like the supervisor, it is connected to no database; of the shared catalogs it reads pg_database. If it ends, the postmaster starts it
 * again: it must exit with status 1. It holds no lock while it waits.
 */
#include "postgres.h"

#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/pg_database.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "tcop/tcopprot.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "watch_launcher.h"
#include "watch_shared.h"
#include "watch_worker.h"
#include "extension/ia3_compat.h"

#define RESTART_LAUNCHER_S 5
#define NO_WORKER_MS       5000 /* until the next attempt when there is no place for another background worker */
#define LOG_AGAIN_MS       60000 /* and until that is logged again */
#define MAX_PROBES         2     /* databases that are looked at at the same time */
#define INVALID_DATABASE   (-2)  /* datconnlimit of a database that could not be dropped completely */

static BackgroundWorkerHandle *handles[IA3_WATCH_SLOTS];
static MemoryContext context;     /* of the lists of databases */
static List *unseen = NIL;        /* databases that have to be looked at */
static Ia3Time logNoWorkerAt = 0; /* not before that */

/* The databases that can be connected to, in the present memory context. */
static List *
list_databases(void)
{
    MemoryContext caller = CurrentMemoryContext;
    List *databases = NIL;
    Relation relation;
    TableScanDesc scan;
    HeapTuple tuple;

    StartTransactionCommand();
    (void) GetTransactionSnapshot();
    relation = table_open(DatabaseRelationId, AccessShareLock);
    scan = table_beginscan_catalog(relation, 0, NULL);
    while (HeapTupleIsValid(tuple = heap_getnext(scan, ForwardScanDirection))) {
        const Form_pg_database form = (Form_pg_database) GETSTRUCT(tuple);
        MemoryContext old;

        if (!form->datallowconn || form->datconnlimit == INVALID_DATABASE)
            continue;
        old = MemoryContextSwitchTo(caller);
        databases = lappend_oid(databases, form->oid);
        MemoryContextSwitchTo(old);
    }
    table_endscan(scan);
    table_close(relation, AccessShareLock);
    CommitTransactionCommand();
    MemoryContextSwitchTo(caller);
    return databases;
}

static bool
start_worker(int slot, Oid database)
{
    BackgroundWorker worker;
    MemoryContext old;
    bool ok;

    memset(&worker, 0, sizeof worker);
    worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
    worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
    worker.bgw_restart_time = BGW_NEVER_RESTART;
    strlcpy(worker.bgw_library_name, "ia3", BGW_MAXLEN);
    strlcpy(worker.bgw_function_name, "Ia3WatchWorkerMain", BGW_MAXLEN);
    strlcpy(worker.bgw_name, "ia3 watch worker", BGW_MAXLEN);
    strlcpy(worker.bgw_type, "ia3 watch worker", BGW_MAXLEN);
    worker.bgw_main_arg = ObjectIdGetDatum(database);
    worker.bgw_notify_pid = MyProcPid;
    old = MemoryContextSwitchTo(TopMemoryContext);
    ok = RegisterDynamicBackgroundWorker(&worker, &handles[slot]);
    MemoryContextSwitchTo(old);
    return ok;
}

static void
forget_handle(int slot)
{
    if (handles[slot] != NULL)
        pfree(handles[slot]);
    handles[slot] = NULL;
}

/* Says that a worker could not be started, but not every time. */
static void
log_no_worker(void)
{
    if (Ia3Now() < logNoWorkerAt)
        return;
    logNoWorkerAt = Ia3Now() + LOG_AGAIN_MS;
    ereport(LOG, (errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
                  errmsg("no background worker is free to label the rows of deferred watches"),
                  errdetail("It is tried again every %d seconds; the rows wait.", NO_WORKER_MS / 1000),
                  errhint("You might need to increase max_worker_processes.")));
}

/* Whether the worker that was started for the slot has ended, or cannot be known. */
static bool
has_ended(int slot)
{
    pid_t pid;

    return handles[slot] == NULL || GetBackgroundWorkerPid(handles[slot], &pid) == BGWH_STOPPED;
}

/* Starts the worker of a slot that has none. */
static void
start(int slot, Oid database, List **databases)
{
    if (*databases == NIL)
        *databases = list_databases();
    forget_handle(slot);
    if (!list_member_oid(*databases, database))
        Ia3WatchForget(slot); /* it has been dropped */
    else {
        Ia3WatchStarted(slot); /* before the worker can say otherwise */
        if (!start_worker(slot, database)) {
            Ia3WatchPostpone(slot, NO_WORKER_MS);
            log_no_worker();
        }
    }
}

/* Gives databases that have not been looked at slots, a few at a time. */
static void
look_at_unseen(int busy)
{
    for (; unseen != NIL && busy < MAX_PROBES; busy++) {
        if (!Ia3WatchWant(linitial_oid(unseen)))
            break;
        unseen = list_delete_first(unseen);
    }
}

/* Starts the workers that are due; returns the milliseconds until the next is, -1 = none. */
static long
start_workers(void)
{
    Ia3WatchSlot slots[IA3_WATCH_SLOTS];
    const Ia3Time now = Ia3Now();
    Ia3Time next = PG_INT64_MAX;
    List *databases = NIL;
    int busy = 0;

    Ia3WatchSlots(slots);
    for (int i = 0; i < IA3_WATCH_SLOTS; i++)
        busy += OidIsValid(slots[i].database) && slots[i].started && slots[i].pid == 0;
    look_at_unseen(busy);
    Ia3WatchSlots(slots);
    for (int i = 0; i < IA3_WATCH_SLOTS; i++) {
        if (!OidIsValid(slots[i].database))
            forget_handle(i);
        else if (slots[i].started && slots[i].pid == 0 && has_ended(i)) {
            Ia3WatchPostpone(i, NO_WORKER_MS); /* it could not connect; the server log says why */
            next = Min(next, now + NO_WORKER_MS);
        } else if (!slots[i].started && slots[i].notBefore > now)
            next = Min(next, slots[i].notBefore);
        else if (!slots[i].started) {
            start(i, slots[i].database, &databases);
            next = Min(next, now + NO_WORKER_MS); /* in case that the postmaster's signal gets lost */
        }
    }
    list_free(databases);
    if (unseen != NIL)
        next = Min(next, now + 1000);
    return next == PG_INT64_MAX ? -1 : (long) Max(0, next - now);
}

static void
init_launcher(void)
{
    pqsignal(SIGHUP, SignalHandlerForConfigReload);
    pqsignal(SIGTERM, die);
    pqsignal(SIGINT, SIG_IGN); /* pg_cancel_backend() has nothing to cancel here */
    BackgroundWorkerUnblockSignals();
    BackgroundWorkerInitializeConnection(NULL, NULL, 0);
    context = AllocSetContextCreate(TopMemoryContext, "ia3 watch launcher", ALLOCSET_DEFAULT_SIZES);
    MemoryContextSwitchTo(context);
    Ia3WatchBeLauncher();
}

void
Ia3WatchLauncherMain(Datum arg)
{
    static uint32 waitEvent = 0;
    bool all = true;

    init_launcher();
    for (;;) {
        long timeout;

        ResetLatch(MyLatch);
        CHECK_FOR_INTERRUPTS();
        if (ConfigReloadPending) {
            ConfigReloadPending = false;
            ProcessConfigFile(PGC_SIGHUP);
        }
        if (Ia3WatchTakeWakeAll() || all) {
            all = false;
            list_free(unseen);
            unseen = list_databases();
        }
        timeout = start_workers();
        if (unseen == NIL)
            MemoryContextReset(context);
        (void) WaitLatch(MyLatch, WL_LATCH_SET | WL_EXIT_ON_PM_DEATH | (timeout >= 0 ? WL_TIMEOUT : 0),
                         timeout, Ia3WaitEvent(&waitEvent, "Ia3WatchLauncher"));
    }
}

void
Ia3WatchLauncherInit(void)
{
    BackgroundWorker worker;

    memset(&worker, 0, sizeof worker);
    worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
    worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
    worker.bgw_restart_time = RESTART_LAUNCHER_S;
    strlcpy(worker.bgw_library_name, "ia3", BGW_MAXLEN);
    strlcpy(worker.bgw_function_name, "Ia3WatchLauncherMain", BGW_MAXLEN);
    strlcpy(worker.bgw_name, "ia3 watch launcher", BGW_MAXLEN);
    strlcpy(worker.bgw_type, "ia3 watch launcher", BGW_MAXLEN);
    RegisterBackgroundWorker(&worker);
}
