/*
 * watch_batch.c
 *     Labelling the rows that wait for a deferred watch, one batch at a time.
 *
 * A batch goes through stages, each in a transaction of its own:
 *
 *   claim    the entries of the queue are read, and those of one row put together
 *   read     the rows are looked up by their keys, and their input is computed; a row that is gone, or has got another label, is done
 *   predict  the engine is asked
 *   store    the rows are locked, and read again: if the input is still what was predicted, the label is stored and the entries are
 *            deleted; otherwise they stay, and the row is tried again
 *   settle   what has become of the other entries is recorded
 *
 * No lock and no snapshot is held while the engine works, so that a statement waits for a worker only while labels are stored, and a
 * table can be dropped at any time. Rows that others have locked are skipped and tried later. That several workers might do the
 * same row is excluded by the slot in shared memory, and would do no harm: only who finds the entries still there can store.
 *
 * When a stage raises an error, it is repeated for the halves of the rows, and so on, until the rows are known that are at fault.
 * Errors that have nothing to do with rows stop the batch.
 *
 * Everything that runs expressions or triggers of users does so as the owner of the table, who must not be a superuser, in a
 * security-restricted operation. Constraints that are deferred are checked at once, because at the end of the transaction they would be
 * checked with the rights of this process.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "storage/lmgr.h"
#include "storage/lock.h"
#include "access/heapam.h"
#include "access/heaptoast.h"
#include "access/relation.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timeout.h"

#include "label_rows.h"
#include "label_watch.h"
#include "watch_batch.h"
#include "extension/guc.h"
#include "extension/tasks/catalog.h"
#include "extension/tasks/task.h"

/* Entries of a batch: enough for the engine's batches, and no burden on memory. */
#define BATCH_ENTRIES 1000

/* The longest wait after a failure: until the engine is tried again, and until anything else is. */
#define MAX_ENGINE_DELAY_S 10
#define MAX_OTHER_DELAY_S  60

/* So many attempts may run into ia3.watch_timeout: enough to find one row at fault, before the other watches have their turn. */
#define MAX_TIMEOUTS 12

/* How long others may hold locks on entries before they have to be recorded later. */
#define SETTLE_MS 2000

typedef enum RowState {
    ROW_CLAIMED,
    ROW_READ,      /* its input is known */
    ROW_PREDICTED, /* and the answer */
    ROW_STORED,    /* its entries have been deleted */
    ROW_GONE,      /* nothing is to be done for it */
    ROW_LOCKED,    /* by somebody else */
    ROW_CHANGED,   /* since it was read; the change has an entry of its own, or the input changes by itself */
    ROW_FAILED
} RowState;

typedef struct Row {
    Ia3QueuedRow queued;
    RowState state;
    HeapTuple tuple; /* (tableoid, ctid, input, number) as they were read */
    HeapTuple shown; /* the same with the input as the engine gets it */
    Datum label;     /* the answer */
    Datum probability;
    bool noLabel, noProbability;
    char *error;
} Row;

typedef struct Batch {
    const Ia3QueuedWatch *watch;
    MemoryContext context;
    int64 after, last;
    int n;
    Row *rows;
    /* when rows are read */
    Ia3Watch *definition;
    Oid owner;
    TupleDesc desc; /* of the rows; NULL: none has been read */
    TupleDesc shownDesc;
    Ia3ValueText *toText; /* NULL: the input is shown as it is */
    /* when they are predicted */
    Ia3LabelInput input;
    int version;
    /* errors */
    bool preparing; /* an error is the watch's, and not a row's */
    bool soon;      /* what stopped it may be over in a moment */
    int timeouts;
    bool stopped;
    char *error; /* why */
} Batch;

typedef void (*Stage)(Batch *b, int from, int to);

static void read_inputs(Batch *b, int from, int to);
static void settle(Batch *b, int from, int to);
static void predict_labels(Batch *b, int from, int to);
static void store_labels(Batch *b, int from, int to);

/* --- transactions, and their errors --- */

static void
begin_transaction(void)
{
    SetCurrentStatementStartTimestamp();
    StartTransactionCommand();
    PushActiveSnapshot(GetTransactionSnapshot());
}

static void
end_transaction(void)
{
    if (ActiveSnapshotSet())
        PopActiveSnapshot();
    CommitTransactionCommand();
}

/* The text of an error as the queue shows it. */
static char *
error_text(const ErrorData *error)
{
    return error->detail ? psprintf("%s\nDETAIL:  %s", error->message, error->detail)
                         : pstrdup(error->message);
}

/* Whether the error is one of those that an engine, or the way to it, has for all rows. */
static bool
is_of_engine(int code, bool predicting)
{
    const int category = ERRCODE_TO_CATEGORY(code);

    if (category == ERRCODE_CONNECTION_EXCEPTION || code == ERRCODE_CANNOT_CONNECT_NOW)
        return true;
    return predicting && (code == ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE ||
                          code == ERRCODE_INVALID_BINARY_REPRESENTATION ||
                          code == ERRCODE_CONFIG_FILE_ERROR || code == ERRCODE_IO_ERROR);
}

/* Whether the error has nothing to do with a row. Sets b->soon if it may be over in a moment. */
static bool
concerns_all(Batch *b, const ErrorData *error, Stage stage)
{
    const int code = error->sqlerrcode;

    b->soon = is_of_engine(code, stage == predict_labels) || code == ERRCODE_LOCK_NOT_AVAILABLE ||
              ERRCODE_TO_CATEGORY(code) == ERRCODE_TRANSACTION_ROLLBACK;
    return b->soon || b->preparing || code == ERRCODE_DISK_FULL || code == ERRCODE_TOO_MANY_CONNECTIONS;
}

static pg_noinline RowState *
states_of(const Batch *b, int from, int to)
{
    RowState *states = palloc(sizeof(RowState) * Max(to - from, 1));

    for (int i = from; i < to; i++)
        states[i - from] = b->rows[i].state;
    return states;
}

/*
 * Runs a stage for rows [from, to) in a transaction; false after an error, with its text in b->error. The rows are then in the states
 * in which they were.
 */
static bool
attempt(Batch *b, Stage stage, int from, int to)
{
    RowState *const volatile before = b->rows ? states_of(b, from, to) : NULL;
    volatile bool ok = false;

    begin_transaction();
    PG_TRY();
    {
        if (stage == settle)
            enable_timeout_after(STATEMENT_TIMEOUT, SETTLE_MS);
        else if (Ia3WatchTimeout > 0 && (stage == read_inputs || stage == store_labels))
            enable_timeout_after(STATEMENT_TIMEOUT, Ia3WatchTimeout * 1000);
        stage(b, from, to);
        disable_timeout(STATEMENT_TIMEOUT, false);
        end_transaction();
        ok = true;
    }
    PG_CATCH();
    {
        ErrorData *error;

        MemoryContextSwitchTo(b->context);
        error = CopyErrorData();
        disable_timeout(STATEMENT_TIMEOUT, false);
        HOLD_INTERRUPTS();
        FlushErrorState();
        AbortCurrentTransaction();
        QueryCancelPending = false;
        RESUME_INTERRUPTS();
        MemoryContextSwitchTo(b->context);
        b->stopped = concerns_all(b, error, stage);
        if (error->sqlerrcode == ERRCODE_QUERY_CANCELED && ++b->timeouts >= MAX_TIMEOUTS)
            b->stopped = true;
        b->error = error_text(error);
        for (int i = from; before && i < to; i++)
            b->rows[i].state = before[i - from];
    }
    PG_END_TRY();
    MemoryContextSwitchTo(b->context);
    b->preparing = false;
    LockReleaseSession(USER_LOCKMETHOD); /* those that expressions of users may have taken */
    CHECK_FOR_INTERRUPTS();
    return ok;
}

/* Runs a stage for rows [from, to), or for as few of them as have no error. */
static void
run_stage(Batch *b, Stage stage, int from, int to)
{
    if (from == to || b->stopped || attempt(b, stage, from, to) || b->stopped)
        return;
    if (to - from == 1) {
        b->rows[from].state = ROW_FAILED;
        b->rows[from].error = b->error;
        return;
    }
    run_stage(b, stage, from, from + (to - from) / 2);
    run_stage(b, stage, from + (to - from) / 2, to);
}

/* --- claim --- */

static void
claim_entries(Batch *b, int from, int to)
{
    MemoryContext old = MemoryContextSwitchTo(b->context);
    Ia3QueuedRow *queued;

    b->preparing = true;
    b->n = Ia3QueueClaim(b->watch->relation, b->watch->label, b->after, BATCH_ENTRIES, &queued, &b->last);
    b->rows = palloc0(sizeof(Row) * (b->n + 1));
    for (int i = 0; i < b->n; i++)
        b->rows[i].queued = queued[i];
    MemoryContextSwitchTo(old);
}

/* --- the watch --- */

/*
 * Opens the watched table, and reads the definition of the watch. NULL if there is none any more, or if somebody is changing the
 * table: then `busy` is set.
 */
static Relation
open_watched(Batch *b, LOCKMODE mode, bool *busy)
{
    Relation relation;
    MemoryContext old;
    Ia3Watch *found;

    *busy = !ConditionalLockRelationOid(b->watch->relation, mode);
    if (*busy)
        return NULL;
    relation = try_relation_open(b->watch->relation, NoLock);
    if (relation == NULL)
        return NULL;
    old = MemoryContextSwitchTo(b->context);
    found = Ia3WatchFind(relation, b->watch->label);
    MemoryContextSwitchTo(old);
    if (found == NULL || !Ia3WatchIsDeferred(found)) {
        relation_close(relation, NoLock);
        return NULL;
    }
    b->definition = found; /* rows that were read before the watch ended still need the last one */
    b->owner = relation->rd_rel->relowner;
    if (superuser_arg(b->owner))
        ereport(ERROR, (errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
                        errmsg("deferred watches do not work for superusers"),
                        errdetail("Table \"%s\" is owned by \"%s\", which is a superuser.",
                                  RelationGetRelationName(relation), GetUserNameFromId(b->owner, false))));
    return relation;
}

static void
set_states(Batch *b, int from, int to, RowState before, RowState after)
{
    for (int i = from; i < to; i++)
        if (b->rows[i].state == before)
            b->rows[i].state = after;
}

/* The table cannot be opened: its rows are tried later, or their entries are of no use any more. */
static void
give_up(Batch *b, int from, int to, RowState state, bool busy)
{
    set_states(b, from, to, state, busy ? ROW_LOCKED : ROW_GONE);
}

static SPIPlanPtr
prepare(const char *sql, int nArgs, Oid *types)
{
    SPIPlanPtr plan = SPI_prepare(sql, nArgs, types);

    if (plan == NULL)
        elog(ERROR, "SPI_prepare failed: %s", SPI_result_code_string(SPI_result));
    return plan;
}

/* Reads those rows of [from, to) that have this state with the statement of Ia3WatchQueued. Returns what SPI has read. */
static SPITupleTable *
read_rows(Batch *b, Relation relation, int from, int to, RowState state, bool lock)
{
    const Ia3WatchKey *key = Ia3WatchFindKey(relation);
    Oid *types = palloc(sizeof(Oid) * (key->n + 2));
    Datum *params = palloc(sizeof(Datum) * (key->n + 2));
    Datum *numbers = palloc(sizeof(Datum) * (to - from)), *values = palloc(sizeof(Datum) * (to - from));
    bool *nulls = palloc0(sizeof(bool) * (to - from));
    SPIPlanPtr plan;
    int n = 0;

    for (int i = from; i < to; i++) {
        Row *row = &b->rows[i];

        if (row->state != state)
            continue;
        if (row->queued.nKey != key->n)
            ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
                            errmsg("table \"%s\" has another key than when the row was queued",
                                   RelationGetRelationName(relation))));
        numbers[n] = Int32GetDatum(i);
        nulls[n] = row->queued.label == NULL;
        values[n] = nulls[n] ? (Datum) 0 : CStringGetTextDatum(row->queued.label);
        n++;
    }
    types[0] = INT4ARRAYOID;
    params[0] = PointerGetDatum(construct_array(numbers, n, INT4OID, sizeof(int32), true, TYPALIGN_INT));
    types[1] = TEXTARRAYOID;
    params[1] = Ia3QueueTexts(values, nulls, n);
    memset(nulls, 0, sizeof(bool) * n);
    for (int k = 0; k < key->n; k++) {
        for (int i = 0; i < n; i++)
            values[i] = CStringGetTextDatum(b->rows[DatumGetInt32(numbers[i])].queued.key[k]);
        types[k + 2] = TEXTARRAYOID;
        params[k + 2] = Ia3QueueTexts(values, nulls, n);
    }
    b->preparing = true;
    plan = prepare(Ia3WatchQueued(relation, b->definition, key, lock), key->n + 2, types);
    b->preparing = false;
    if (SPI_execute_plan(plan, params, NULL, false, 0) != SPI_OK_SELECT)
        elog(ERROR, "reading queued rows failed");
    return SPI_tuptable;
}

/* The number of the row that has been read. */
static int
row_number(HeapTuple tuple, TupleDesc desc)
{
    bool isNull;

    return DatumGetInt32(SPI_getbinval(tuple, desc, 4, &isNull));
}

/* --- read --- */

/*
 * Says how inputs of this type are shown to the engine. What needs a function to become text becomes text when it is read, since the
 * function may be a user's, and a row of the table is read rightly only as long as the table does not change.
 */
static void
set_types(Batch *b, TupleDesc desc)
{
    const Oid type = TupleDescAttr(desc, 2)->atttypid, base = getBaseType(type);

    b->desc = CreateTupleDescCopy(desc);
    b->shownDesc = b->desc;
    if (base == TEXTOID || base == VARCHAROID || base == JSONOID || base == JSONBOID)
        return;
    b->toText = palloc0(sizeof(Ia3ValueText));
    Ia3FieldTextInit(b->toText, type);
    b->shownDesc = CreateTupleDescCopy(desc);
    TupleDescInitEntry(b->shownDesc, 3, "input", TEXTOID, -1, 0);
}

static HeapTuple
show(const Batch *b, HeapTuple tuple)
{
    Datum values[4];
    bool nulls[4];

    if (b->toText == NULL)
        return tuple;
    heap_deform_tuple(tuple, b->desc, values, nulls);
    if (!nulls[2])
        values[2] = CStringGetTextDatum(Ia3ValueTextOf(b->toText, values[2]));
    return heap_form_tuple(b->shownDesc, values, nulls);
}

/* Keeps what has been read. Rows whose input has another type than that of the rows before are tried again, with others of this type. */
static void
keep_inputs(Batch *b, SPITupleTable *rows)
{
    MemoryContext old = MemoryContextSwitchTo(b->context);

    if (b->desc == NULL)
        set_types(b, rows->tupdesc);
    for (uint64 i = 0; i < rows->numvals; i++) {
        Row *row = &b->rows[row_number(rows->vals[i], rows->tupdesc)];

        row->state = ROW_CHANGED;
        if (TupleDescAttr(rows->tupdesc, 2)->atttypid != TupleDescAttr(b->desc, 2)->atttypid)
            continue;
        row->state = ROW_READ;
        row->tuple = toast_flatten_tuple(rows->vals[i], rows->tupdesc);
        row->shown = show(b, row->tuple);
    }
    MemoryContextSwitchTo(old);
}

static void
read_inputs(Batch *b, int from, int to)
{
    Relation relation;
    Ia3WatchCaller caller;
    SPITupleTable *rows;
    bool busy;

    b->preparing = true;
    relation = open_watched(b, AccessShareLock, &busy);
    if (relation == NULL) {
        give_up(b, from, to, ROW_CLAIMED, busy);
        return;
    }
    caller = Ia3WatchBecomeRole(b->owner, NULL);
    Ia3SpiConnect();
    Ia3LabelCheckColumns(&b->definition->target);
    rows = read_rows(b, relation, from, to, ROW_CLAIMED, false);
    set_states(b, from, to, ROW_CLAIMED, ROW_GONE);
    keep_inputs(b, rows);
    Ia3SpiFinish();
    Ia3WatchBecomeCaller(caller);
    relation_close(relation, NoLock);
}

/* --- predict --- */

/* Looks up the version, as the owner of the table. */
static void
prepare_prediction(Batch *b)
{
    MemoryContext old = MemoryContextSwitchTo(b->context);
    Ia3Task *task;

    b->preparing = true;
    task = Ia3TaskLookupDetached(b->definition->task);
    Ia3LabelRefuseMultiLabel(task);
    Ia3LabelInputInit(&b->input, Ia3CallTaskMake(task), TupleDescAttr(b->shownDesc, 2)->atttypid);
    b->version = task->version;
    Ia3TaskCheckBackbone(task);
    b->preparing = false;
    MemoryContextSwitchTo(old);
}

static void
predict_labels(Batch *b, int from, int to)
{
    const Ia3WatchCaller caller = Ia3WatchBecomeRole(b->owner, NULL);
    SPITupleTable table = {.tupdesc = b->shownDesc};
    int *number = palloc(sizeof(int) * (to - from));
    Ia3LabelAnswers *answers;
    MemoryContext old;

    prepare_prediction(b);
    b->input.keepErrors = true;
    PopActiveSnapshot(); /* the engine may need a while */
    table.vals = palloc(sizeof(HeapTuple) * (to - from));
    for (int i = from; i < to; i++)
        if (b->rows[i].state == ROW_READ) {
            number[table.numvals] = i;
            table.vals[table.numvals++] = b->rows[i].shown;
        }
    old = MemoryContextSwitchTo(b->context);
    answers = Ia3LabelPredict(&b->input, &table);
    MemoryContextSwitchTo(old);
    for (int i = 0; i < answers->n; i++) {
        Row *row = &b->rows[number[i]];

        row->error = answers->errors[i];
        row->state = row->error ? ROW_FAILED : ROW_PREDICTED;
        row->label = answers->labels[i];
        row->noLabel = answers->noLabel[i];
        row->probability = answers->probabilities[i];
        row->noProbability = answers->noProbability[i];
    }
    Ia3WatchBecomeCaller(caller);
}

/* --- store --- */

/* The entries of those rows of [from, to) that have this state, as int8[]. */
static Datum
entries_of(const Batch *b, int from, int to, RowState state, int *n)
{
    Datum *all;
    int most = 1;

    for (int i = from; i < to; i++)
        most += b->rows[i].queued.nEntries;
    all = palloc(sizeof(Datum) * most);
    *n = 0;
    for (int i = from; i < to; i++) {
        const Row *row = &b->rows[i];
        Datum *entries;
        int count;

        if (row->state != state)
            continue;
        deconstruct_array(DatumGetArrayTypeP(row->queued.entries), INT8OID, sizeof(int64), FLOAT8PASSBYVAL,
                          TYPALIGN_DOUBLE, &entries, NULL, &count);
        memcpy(all + *n, entries, sizeof(Datum) * count);
        *n += count;
    }
    return PointerGetDatum(
        construct_array(all, *n, INT8OID, sizeof(int64), FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
}

static void
delete_entries(const Batch *b, int from, int to, RowState state)
{
    int n;
    const Datum entries = entries_of(b, from, to, state, &n);

    if (n > 0)
        Ia3QueueDelete(b->watch->relation, b->watch->label, entries);
}

/* Those rows that others have removed from the queue are none of ours any more. */
static void
lock_entries(Batch *b, int from, int to)
{
    int n;
    const Datum all = entries_of(b, from, to, ROW_PREDICTED, &n);

    if (Ia3QueueLock(b->watch->relation, b->watch->label, all, n))
        return;
    for (int i = from; i < to; i++) {
        Row *row = &b->rows[i];

        if (row->state == ROW_PREDICTED &&
            !Ia3QueueLock(b->watch->relation, b->watch->label, row->queued.entries, row->queued.nEntries))
            row->state = ROW_CHANGED;
    }
}

/* Whether the input is what was predicted. */
static bool
same_input(const Batch *b, const Row *row, HeapTuple tuple, TupleDesc desc)
{
    const Form_pg_attribute attribute = TupleDescAttr(desc, 2);
    bool wasNull, isNull;
    Datum before = SPI_getbinval(row->tuple, b->desc, 3, &wasNull), now;

    if (attribute->atttypid != TupleDescAttr(b->desc, 2)->atttypid)
        return false;
    now = SPI_getbinval(tuple, desc, 3, &isNull);
    if (wasNull || isNull)
        return wasNull && isNull;
    return datum_image_eq(before, now, attribute->attbyval, attribute->attlen);
}

/* The answers for the rows that have been locked, and are what they were. */
static Ia3LabelAnswers *
collect(Batch *b, SPITupleTable *rows)
{
    Ia3LabelAnswers *a = palloc0(sizeof(Ia3LabelAnswers));
    const Size n = Max(rows->numvals, 1);

    a->relations = palloc(sizeof(Datum) * n);
    a->ids = palloc(sizeof(Datum) * n);
    a->labels = palloc(sizeof(Datum) * n);
    a->probabilities = palloc(sizeof(Datum) * n);
    a->noLabel = palloc(sizeof(bool) * n);
    a->noProbability = palloc(sizeof(bool) * n);
    for (uint64 i = 0; i < rows->numvals; i++) {
        Row *row = &b->rows[row_number(rows->vals[i], rows->tupdesc)];
        bool isNull;

        if (!same_input(b, row, rows->vals[i], rows->tupdesc)) {
            row->state = ROW_CHANGED;
            continue;
        }
        row->state = ROW_STORED;
        a->relations[a->n] = SPI_getbinval(rows->vals[i], rows->tupdesc, 1, &isNull);
        a->ids[a->n] = SPI_getbinval(rows->vals[i], rows->tupdesc, 2, &isNull);
        a->labels[a->n] = row->label;
        a->noLabel[a->n] = row->noLabel;
        a->probabilities[a->n] = row->probability;
        a->noProbability[a->n] = row->noProbability;
        a->n++;
    }
    return a;
}

/* Reads the rows again, locks them, and updates those that are what they were; as the owner of the table. */
static void
update_rows(Batch *b, Relation relation, int from, int to)
{
    Ia3WatchCaller caller = Ia3WatchBecomeRole(b->owner, NULL);
    Ia3LabelAnswers *answers;

    Ia3LabelCheckColumns(&b->definition->target);
    answers = collect(b, read_rows(b, relation, from, to, ROW_PREDICTED, true));
    set_states(b, from, to, ROW_PREDICTED,
               ROW_LOCKED); /* which have not been read: by others, or they are gone */
    Ia3WatchBecomeCaller(caller);
    if (answers->n == 0)
        return;
    caller = Ia3WatchBecomeRole(b->owner, b->definition->searchPath);
    b->preparing = true;
    {
        SPIPlanPtr update = Ia3LabelPrepareUpdate(&b->definition->target, b->version);

        b->preparing = false;
        PG_TRY();
        {
            Ia3WatchStore(relation, b->definition, update, answers);
        }
        PG_FINALLY();
        {
            SPI_freeplan(update);
        }
        PG_END_TRY();
    }
    Ia3WatchBecomeCaller(caller);
}

static void
store_labels(Batch *b, int from, int to)
{
    Relation relation;
    bool busy;

    b->preparing = true;
    relation = open_watched(b, RowExclusiveLock, &busy);
    if (relation == NULL) {
        give_up(b, from, to, ROW_PREDICTED, busy);
        return;
    }
    Ia3SpiConnect();
    if (SPI_execute("SET CONSTRAINTS ALL IMMEDIATE", false, 0) != SPI_OK_UTILITY)
        elog(ERROR, "SET CONSTRAINTS failed");
    lock_entries(b, from, to);
    update_rows(b, relation, from, to);
    delete_entries(b, from, to, ROW_STORED);
    Ia3SpiFinish();
    relation_close(relation, NoLock);
}

/* --- settle --- */

static void
settle_row(Batch *b, const Row *row)
{
    const Oid relation = b->watch->relation;
    const char *label = b->watch->label;

    if (row->state == ROW_LOCKED || row->state == ROW_CHANGED)
        Ia3QueueDelay(relation, label, row->queued.entries);
    else if (row->state == ROW_FAILED && Ia3QueueFail(relation, label, row->queued.entries, row->error))
        ereport(LOG, (errmsg("ia3 watch of column \"%s\" of table \"%s\" has set a row aside", label,
                             get_rel_name(relation) ? get_rel_name(relation) : "?"),
                      errdetail("%s", row->error), errhint("See ia3.watch_failed_rows.")));
}

/* What was set aside for these rows earlier is done as well. */
static void
settle_others(Batch *b)
{
    Datum *keys = palloc(sizeof(Datum) * (b->n + 1));
    int n = 0;

    for (int i = 0; i < b->n; i++)
        if (b->rows[i].state == ROW_STORED || b->rows[i].state == ROW_GONE)
            keys[n++] = b->rows[i].queued.keyText;
    if (n > 0)
        Ia3QueueForget(b->watch->relation, b->watch->label, n, keys);
}

/* Records that the watch does not work, or works again. */
static void
settle_watch(Batch *b)
{
    const int attempts = b->watch->failures + 1;
    const int most = b->soon ? MAX_ENGINE_DELAY_S : MAX_OTHER_DELAY_S;

    if (b->stopped) {
        const int seconds = Min(1 << Min(attempts - 1, 10), most);

        Ia3QueueSetFailure(b->watch->relation, b->watch->label, attempts,
                           GetCurrentTimestamp() + (TimestampTz) seconds * USECS_PER_SEC, b->error);
        if (attempts == 1)
            ereport(LOG, (errmsg("ia3 watch of column \"%s\" of table \"%s\" does not work at present",
                                 b->watch->label,
                                 get_rel_name(b->watch->relation) ? get_rel_name(b->watch->relation) : "?"),
                          errdetail("%s", b->error), errhint("The rows wait; see ia3.watch_queue.")));
    } else if (b->watch->failures > 0)
        Ia3QueueSetFailure(b->watch->relation, b->watch->label, 0, 0, NULL);
}

static void
settle(Batch *b, int from, int to)
{
    Ia3SpiConnect();
    for (int i = 0; i < b->n; i++)
        settle_row(b, &b->rows[i]);
    delete_entries(b, 0, b->n, ROW_GONE);
    settle_others(b);
    settle_watch(b);
    Ia3SpiFinish();
}

static bool
has_rows(const Batch *b, RowState state)
{
    for (int i = 0; i < b->n; i++)
        if (b->rows[i].state == state)
            return true;
    return false;
}

Ia3BatchResult
Ia3WatchBatch(const Ia3QueuedWatch *watch, int64 *after)
{
    Batch b = {.watch = watch, .after = *after, .last = *after};
    MemoryContext caller = CurrentMemoryContext;
    Ia3BatchResult result;

    b.context = AllocSetContextCreate(caller, "ia3 batch of a deferred watch", ALLOCSET_DEFAULT_SIZES);
    MemoryContextSwitchTo(b.context);
    run_stage(&b, claim_entries, 0, 1);
    run_stage(&b, read_inputs, 0, b.n);
    if (has_rows(&b, ROW_READ))
        run_stage(&b, predict_labels, 0, b.n);
    if (has_rows(&b, ROW_PREDICTED))
        run_stage(&b, store_labels, 0, b.n);
    if ((b.n > 0 || b.stopped) && !attempt(&b, settle, 0, b.n))
        b.stopped = true; /* somebody holds locks on the entries, which are as they were */
    result = b.stopped ? IA3_BATCH_STOPPED : b.n == 0 ? IA3_BATCH_EMPTY : IA3_BATCH_DONE;
    *after = b.last;
    MemoryContextSwitchTo(caller);
    MemoryContextDelete(b.context);
    return result;
}
