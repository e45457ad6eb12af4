/*
 * progress.c
 *     Progress of training runs, which backends report and the view ia3_stat_progress_train shows to everybody.
 *
 * A backend owns at most one slot, which it claims when its run starts. It releases the slot when the run ends, when
 * the (sub)transaction that started it ends, and when the backend exits, whichever comes first, so no error path
 * leaves a stale row.
 */
#include "postgres.h"

#include <math.h>

#include "access/xact.h"
#include "mb/pg_wchar.h"
#include "storage/ipc.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "extension/ia3_compat.h"
#include "progress.h"
#include "shmem.h"

PG_FUNCTION_INFO_V1(ia3_stat_progress_train);

static Ia3ProgressSlot *mySlot = NULL;
static SubTransactionId mySubid;

static void
at_xact_end(XactEvent event, void *arg)
{
    if (event != XACT_EVENT_PRE_COMMIT && event != XACT_EVENT_PARALLEL_PRE_COMMIT &&
        event != XACT_EVENT_PRE_PREPARE)
        Ia3ProgressEnd();
}

/*
 * Subtransaction numbers increase, and all numbers assigned while a subtransaction is in progress belong to it. So the
 * aborted subtransaction contains the training run if and only if its number is not greater.
 */
static void
at_sub_xact_end(SubXactEvent event, SubTransactionId subid, SubTransactionId parent, void *arg)
{
    if (event == SUBXACT_EVENT_ABORT_SUB && mySlot != NULL && subid <= mySubid)
        Ia3ProgressEnd();
}

static void
at_backend_exit(int code, Datum arg)
{
    Ia3ProgressEnd();
}

void
Ia3ProgressStart(const char *task, int steps)
{
    static bool registered = false;
    Ia3ProgressSlot *slots;
    int n;

    Ia3RequirePreload();
    Ia3ProgressEnd();
    if (!registered) {
        RegisterXactCallback(at_xact_end, NULL);
        RegisterSubXactCallback(at_sub_xact_end, NULL);
        before_shmem_exit(at_backend_exit, 0);
        registered = true;
    }

    slots = Ia3ProgressSlots(&n);
    mySubid = GetCurrentSubTransactionId();
    LWLockAcquire(Ia3ProgressLock(), LW_EXCLUSIVE);
    for (int i = 0; i < n; i++) {
        Ia3ProgressSlot *slot = &slots[i];
        int len;

        if (slot->pid != 0)
            continue;
        slot->pid = MyProcPid;
        slot->database = MyDatabaseId;
        slot->user = GetUserId();
        len = pg_mbcliplen(task, strlen(task), sizeof slot->task - 1);
        memcpy(slot->task, task, len);
        slot->task[len] = '\0';
        slot->step = 0;
        slot->steps = steps;
        slot->loss = slot->rowsPerSecond = slot->secondsLeft = NAN;
        slot->started = GetCurrentTimestamp();
        mySlot = slot;
        break;
    }
    LWLockRelease(Ia3ProgressLock());
}

void
Ia3ProgressUpdate(int step, int steps, double loss, double rowsPerSecond, double secondsLeft)
{
    if (mySlot == NULL)
        return;
    LWLockAcquire(Ia3ProgressLock(), LW_EXCLUSIVE);
    mySlot->step = step;
    mySlot->steps = steps;
    mySlot->loss = loss;
    mySlot->rowsPerSecond = rowsPerSecond;
    mySlot->secondsLeft = secondsLeft;
    LWLockRelease(Ia3ProgressLock());
}

void
Ia3ProgressEnd(void)
{
    if (mySlot == NULL)
        return;
    LWLockAcquire(Ia3ProgressLock(), LW_EXCLUSIVE);
    mySlot->pid = 0;
    LWLockRelease(Ia3ProgressLock());
    mySlot = NULL;
}

static void
put_number(Datum *values, bool *nulls, int i, double value)
{
    values[i] = Float8GetDatum(value);
    nulls[i] = isnan(value);
}

/*
 * Returns one row per training run in progress, in all databases. As in pg_stat_activity, the details are visible only
 * to roles that have the privileges of the role that trains, and to pg_read_all_stats; others see that a run is in
 * progress, and for whom. The lock is held, shared, only while the slots are copied.
 */
Datum
ia3_stat_progress_train(PG_FUNCTION_ARGS)
{
    ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
    Ia3ProgressSlot *slots, *copy;
    int n, used = 0;

    Ia3RequirePreload();
    Ia3InitMaterializedSRF(fcinfo);

    slots = Ia3ProgressSlots(&n);
    copy = palloc(sizeof(Ia3ProgressSlot) * n);
    LWLockAcquire(Ia3ProgressLock(), LW_SHARED);
    for (int i = 0; i < n; i++)
        if (slots[i].pid != 0)
            copy[used++] = slots[i];
    LWLockRelease(Ia3ProgressLock());

    for (int i = 0; i < used; i++) {
        Ia3ProgressSlot *slot = &copy[i];
        Datum values[10] = {0};
        bool nulls[10] = {false};
        bool visible = has_privs_of_role(GetUserId(), slot->user) ||
                       has_privs_of_role(GetUserId(), ROLE_PG_READ_ALL_STATS);

        values[0] = Int32GetDatum(slot->pid);
        values[1] = ObjectIdGetDatum(slot->database);
        values[2] = ObjectIdGetDatum(slot->user);
        if (visible) {
            values[3] = CStringGetTextDatum(slot->task);
            nulls[3] = slot->task[0] == '\0';
            values[4] = Int32GetDatum(slot->step);
            values[5] = Int32GetDatum(slot->steps);
            put_number(values, nulls, 6, slot->loss);
            put_number(values, nulls, 7, slot->rowsPerSecond);
            put_number(values, nulls, 8, slot->secondsLeft);
            values[9] = TimestampTzGetDatum(slot->started);
        } else
            for (int column = 3; column < 10; column++)
                nulls[column] = true;
        tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
    }
    return (Datum) 0;
}
