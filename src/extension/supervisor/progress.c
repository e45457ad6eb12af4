/*
 * progress.c
 *     Progress of training runs and of ia3_label, which backends report and the views ia3_stat_progress_train and
 *     ia3_stat_progress_label show to everybody.
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
PG_FUNCTION_INFO_V1(ia3_stat_progress_label);

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

/* Claims a slot, which is empty apart from who it belongs to, and returns it with the lock held; NULL if there is none. */
static Ia3ProgressSlot *
claim(Ia3ProgressKind kind, const char *task)
{
    static bool registered = false;
    Ia3ProgressSlot *slots;
    int n, len = pg_mbcliplen(task, strlen(task), sizeof mySlot->task - 1);

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
    for (int i = 0; i < n && mySlot == NULL; i++)
        if (slots[i].pid == 0)
            mySlot = &slots[i];
    if (mySlot == NULL)
        return NULL;
    memset(mySlot, 0, sizeof *mySlot);
    mySlot->pid = MyProcPid;
    mySlot->kind = kind;
    mySlot->database = MyDatabaseId;
    mySlot->user = GetUserId();
    memcpy(mySlot->task, task, len);
    return mySlot;
}

void
Ia3ProgressStart(const char *task, int steps)
{
    Ia3ProgressSlot *slot = claim(IA3_PROGRESS_TRAIN, task);

    if (slot != NULL) {
        slot->steps = steps;
        slot->loss = slot->rowsPerSecond = slot->secondsLeft = NAN;
        slot->started = GetCurrentTimestamp();
    }
    LWLockRelease(Ia3ProgressLock());
}

void
Ia3ProgressLabel(const char *task, const Ia3LabelProgress *progress)
{
    Ia3ProgressSlot *slot = claim(IA3_PROGRESS_LABEL, task);

    if (slot != NULL)
        slot->label = *progress;
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

/* Copies the slots of one kind that are in use. The lock is held, shared, only meanwhile. */
static Ia3ProgressSlot *
copy_slots(Ia3ProgressKind kind, int *used)
{
    Ia3ProgressSlot *slots, *copy;
    int n;

    Ia3RequirePreload();
    slots = Ia3ProgressSlots(&n);
    copy = palloc(sizeof(Ia3ProgressSlot) * n);
    *used = 0;
    LWLockAcquire(Ia3ProgressLock(), LW_SHARED);
    for (int i = 0; i < n; i++)
        if (slots[i].pid != 0 && slots[i].kind == kind)
            copy[(*used)++] = slots[i];
    LWLockRelease(Ia3ProgressLock());
    return copy;
}

/*
 * The columns that every row has, and whether the caller may see the others: as in pg_stat_activity, the details are visible only to
 * roles that have the privileges of the role that works, and to pg_read_all_stats; others see that something is in progress, and
 * for whom.
 */
static bool
put_owner(const Ia3ProgressSlot *slot, Datum *values)
{
    values[0] = Int32GetDatum(slot->pid);
    values[1] = ObjectIdGetDatum(slot->database);
    values[2] = ObjectIdGetDatum(slot->user);
    return has_privs_of_role(GetUserId(), slot->user) ||
           has_privs_of_role(GetUserId(), ROLE_PG_READ_ALL_STATS);
}

/* Returns one row per training run in progress, in all databases. */
Datum
ia3_stat_progress_train(PG_FUNCTION_ARGS)
{
    ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
    Ia3ProgressSlot *slots;
    int n;

    Ia3InitMaterializedSRF(fcinfo);
    slots = copy_slots(IA3_PROGRESS_TRAIN, &n);
    for (int i = 0; i < n; i++) {
        const Ia3ProgressSlot *slot = &slots[i];
        Datum values[10] = {0};
        bool nulls[10] = {false};

        if (put_owner(slot, values)) {
            values[3] = CStringGetTextDatum(slot->task);
            nulls[3] = slot->task[0] == '\0';
            values[4] = Int32GetDatum(slot->step);
            values[5] = Int32GetDatum(slot->steps);
            put_number(values, nulls, 6, slot->loss);
            put_number(values, nulls, 7, slot->rowsPerSecond);
            put_number(values, nulls, 8, slot->secondsLeft);
            values[9] = TimestampTzGetDatum(slot->started);
        } else
            memset(nulls + 3, true, sizeof nulls - 3);
        tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
    }
    return (Datum) 0;
}

/* Returns one row per table that ia3_label is labelling, in all databases. */
Datum
ia3_stat_progress_label(PG_FUNCTION_ARGS)
{
    ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
    Ia3ProgressSlot *slots;
    int n;

    Ia3InitMaterializedSRF(fcinfo);
    slots = copy_slots(IA3_PROGRESS_LABEL, &n);
    for (int i = 0; i < n; i++) {
        const Ia3LabelProgress *label = &slots[i].label;
        Datum values[9] = {0};
        bool nulls[9] = {false};

        if (put_owner(&slots[i], values)) {
            values[3] = CStringGetTextDatum(slots[i].task);
            values[4] = ObjectIdGetDatum(label->relation);
            values[5] = Int64GetDatum(label->blocksDone);
            values[6] = Int64GetDatum(label->blocksTotal);
            values[7] = Int64GetDatum(label->rows);
            values[8] = TimestampTzGetDatum(label->started);
        } else
            memset(nulls + 3, true, sizeof nulls - 3);
        tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
    }
    return (Datum) 0;
}
