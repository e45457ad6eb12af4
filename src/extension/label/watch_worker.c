/*
 * watch_worker.c
 *     The background worker that labels the rows which deferred watches of one database have queued.
 *
 * There is one for each database in which rows wait. The launcher starts it, and it ends when nothing has waited for some seconds. In
 * between it sleeps until its latch is set, at the commit of a transaction that has queued rows, or until an entry is due
 * again. It may be ended at any time: what it has not committed stays in the queue.
 *
 * Its own rights are those of the bootstrap superuser; watch_batch.c says how little is done with them. It holds no lock outside of
 * the stages of a batch.
 */
#include "postgres.h"

#include "access/xact.h"
#include "commands/extension.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "tcop/tcopprot.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "watch_batch.h"
#include "watch_queue.h"
#include "watch_shared.h"
#include "watch_worker.h"
#include "extension/guc.h"
#include "extension/ia3_compat.h"

/* How long the worker stays when nothing waits. */
#define IDLE_MS 10000

/* Batches of one watch before the others have their turn, and the waiting rows are counted again. */
#define TURN_BATCHES 20

/* The queue is counted for at most one part in so many of the time. */
#define COUNT_SHARE 10

/* Settings of the database that must not matter, or could keep the worker from working. */
static void
set_settings(void)
{
    static const char *const settings[][2] = {{"search_path", "pg_catalog, pg_temp"},
                                              {"default_transaction_isolation", "read committed"},
                                              {"default_transaction_read_only", "off"},
                                              {"default_transaction_deferrable", "off"},
                                              {"session_replication_role", "origin"},
                                              {"statement_timeout", "0"},
                                              {"lock_timeout", "0"},
                                              {"idle_in_transaction_session_timeout", "0"},
                                              {"transaction_timeout", "0"},
                                              {"ia3.start_timeout", "0"},
                                              IA3_WATCH_OUTPUT_SETTINGS,
                                              {"standard_conforming_strings", "on"}};

    for (int i = 0; i < (int) lengthof(settings); i++)
        if (GetConfigOption(settings[i][0], true, false) != NULL) /* not every version has all of them */
            SetConfigOption(settings[i][0], settings[i][1], PGC_SUSET, PGC_S_OVERRIDE);
}

static void
init_worker(Oid database)
{
    pqsignal(SIGHUP, SignalHandlerForConfigReload);
    pqsignal(SIGTERM, die);
    BackgroundWorkerUnblockSignals();
    BackgroundWorkerInitializeConnectionByOid(database, InvalidOid, 0);
    if (!Ia3WatchAttach())
        proc_exit(0); /* there is another one */
    set_settings();
}

/* Lists the watches for which rows wait, and publishes how many. False if the extension does not exist. */
static bool
list_watches(Ia3QueuedWatch **watches, int *n)
{
    MemoryContext context = CurrentMemoryContext;
    bool exists;

    SetCurrentStatementStartTimestamp();
    StartTransactionCommand();
    PushActiveSnapshot(GetTransactionSnapshot());
    exists = OidIsValid(get_extension_oid("ia3", true));
    *n = 0;
    if (exists) {
        Ia3WatchName *names;

        MemoryContextSwitchTo(context);
        *n = Ia3QueueList(watches);
        names = palloc(sizeof(Ia3WatchName) * (*n + 1));
        for (int i = 0; i < *n; i++) {
            names[i] = (Ia3WatchName){(*watches)[i].relation, (*watches)[i].label};
            Ia3WatchCountSet(names[i].relation, names[i].label, (*watches)[i].waiting);
        }
        Ia3WatchCountClear(names, *n);
    }
    PopActiveSnapshot();
    CommitTransactionCommand();
    MemoryContextSwitchTo(context);
    return exists;
}

/* Reads the configuration again after SIGHUP. */
static void
reload(void)
{
    if (ConfigReloadPending) {
        ConfigReloadPending = false;
        ProcessConfigFile(PGC_SIGHUP);
    }
}

/* Labels rows of a watch; false if there may be more of them. */
static bool
run_watch(const Ia3QueuedWatch *watch)
{
    int64 after = 0;

    for (int i = 0; i < TURN_BATCHES; i++) {
        Ia3BatchResult result;

        reload();
        result = Ia3WatchBatch(watch, &after);
        if (result == IA3_BATCH_EMPTY)
            return i == 0; /* entries may have come back, because their rows were changed */
        if (result == IA3_BATCH_STOPPED)
            return true;
    }
    return false;
}

/* Milliseconds from now, at least 1; -1: never. */
static long
until(TimestampTz time)
{
    const TimestampTz now = GetCurrentTimestamp();

    if (TIMESTAMP_IS_NOEND(time))
        return -1;
    return time <= now ? 1 : (long) Min((time - now) / 1000 + 1, 3600 * 1000);
}

/* The earlier of two delays. */
static long
sooner(long a, long b)
{
    return a < 0 ? b : b < 0 ? a : Min(a, b);
}

/*
 * Does what is due. Returns in how many milliseconds something else will be; -1: nothing waits. Sets *pause to the time in which the
 * queue must not be counted again.
 */
static long
run_pass(long *pause)
{
    const Ia3Time began = Ia3Now();
    Ia3Time counted;
    Ia3QueuedWatch *watches = NULL;
    long next = -1;
    int n;

    *pause = 0;
    if (!list_watches(&watches, &n))
        return -1;
    counted = Ia3Now();
    for (int i = 0; i < n; i++) {
        if (watches[i].due == 0)
            next = sooner(next, until(watches[i].next));
        else
            next = sooner(next, run_watch(&watches[i]) ? 1000 : 1);
    }
    *pause = (long) Max(0, COUNT_SHARE * (counted - began) - (Ia3Now() - counted));
    return next;
}

static void
sleep_until(long timeout)
{
    static uint32 waitEvent = 0;

    pgstat_report_activity(STATE_IDLE, NULL);
    (void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, timeout,
                     Ia3WaitEvent(&waitEvent, "Ia3WatchWorker"));
}

/* Waits this long, whatever sets the latch. */
static void
pause_for(long ms)
{
    const Ia3Time end = Ia3Now() + ms;

    for (Ia3Time now = Ia3Now(); now < end; now = Ia3Now()) {
        sleep_until((long) (end - now));
        ResetLatch(MyLatch);
        CHECK_FOR_INTERRUPTS();
    }
}

void
Ia3WatchWorkerMain(Datum arg)
{
    MemoryContext context;
    Ia3Time idleSince = Ia3Now();
    bool first = true;

    init_worker(DatumGetObjectId(arg));
    context = AllocSetContextCreate(TopMemoryContext, "ia3 watch worker", ALLOCSET_DEFAULT_SIZES);
    MemoryContextSwitchTo(context);
    for (;;) {
        long next, pause;

        ResetLatch(MyLatch);
        CHECK_FOR_INTERRUPTS();
        reload();
        Ia3WatchTakeWake();
        pgstat_report_activity(STATE_RUNNING, "labelling rows of deferred watches");
        next = run_pass(&pause);
        (void) pgstat_report_stat(true);
        MemoryContextReset(context);
        Ia3WatchSucceeded();
        if (next >= 0)
            idleSince = Ia3Now();
        else if (first || Ia3Now() >= idleSince + IDLE_MS) {
            if (Ia3WatchDetach())
                proc_exit(0);
            continue;
        } else
            next = (long) (idleSince + IDLE_MS - Ia3Now());
        first = false;
        pause_for(pause);
        if (next > pause && !Ia3WatchIsWoken())
            sleep_until(next - pause);
    }
}
