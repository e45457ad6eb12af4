/*
 * watch_enqueue.c
 *     What the triggers of a deferred watch do: they queue the rows that a statement has inserted or updated.
 *
 * The statement finds out which rows these are exactly as that of a direct watch does, but reads their keys only. It must not fail
 * because of a row that cannot be labelled: where the expressions raise an error, every row that the statement has changed is
 * queued, and the worker tells which of them are at fault.
 */
#include "postgres.h"

#include "access/xact.h"
#include "executor/spi.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/resowner.h"

#include "label_watch.h"
#include "watch_queue.h"
#include "extension/ia3_compat.h"

/* Rows that are read and queued at a time. */
#define FETCH_ROWS 10000

typedef struct Enqueuing {
    const TriggerData *data;
    const Ia3Watch *watch;
    Ia3WatchKey *key;
    Ia3WatchPairs pairs; /* of an UPDATE */
    MemoryContext scratch;
} Enqueuing;

/*
 * Settings with which values are written so that every session reads the same. The caller ends this with the state of
 * Ia3WatchBecomeOwner.
 */
static void
set_output(void)
{
    static const char *const settings[][2] = {IA3_WATCH_OUTPUT_SETTINGS};

    for (int i = 0; i < (int) lengthof(settings); i++)
        (void) set_config_option(settings[i][0], settings[i][1], PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE,
                                 true, 0, false);
}

/* A column of the rows that have been read. */
static Datum *
column(const SPITupleTable *rows, int number, bool *nulls)
{
    Datum *values = palloc(sizeof(Datum) * rows->numvals);

    for (uint64 i = 0; i < rows->numvals; i++)
        values[i] = SPI_getbinval(rows->vals[i], rows->tupdesc, number, &nulls[i]);
    return values;
}

/* Queues the rows that have been read, as (key, label), or as (old key, new key, label). */
static void
queue(const Enqueuing *e, const SPITupleTable *rows)
{
    const Oid relation = RelationGetRelid(e->data->tg_relation);
    const int n = (int) rows->numvals;
    bool *nulls = palloc(sizeof(bool) * n);

    if (rows->tupdesc->natts == 2) {
        Datum *keys = column(rows, 1, nulls), *labels = column(rows, 2, nulls);

        Ia3QueueAdd(relation, e->watch->target.label, n, keys, labels, nulls);
    } else {
        Datum *old = column(rows, 1, nulls), *new = column(rows, 2, nulls), *labels = column(rows, 3, nulls);

        Ia3QueueMove(relation, e->watch->target.label, n, old, new, labels, nulls);
    }
}

/* Queues what the statement reads. */
static void
queue_rows(const Enqueuing *e, const char *sql)
{
    Ia3WatchCaller caller = Ia3WatchBecomeOwner(e->data->tg_relation);
    SPIPlanPtr plan = SPI_prepare(sql, 0, NULL);
    Portal portal;

    if (plan == NULL)
        elog(ERROR, "SPI_prepare failed: %s", SPI_result_code_string(SPI_result));
    portal = SPI_cursor_open(NULL, plan, NULL, NULL, false);
    for (;;) {
        SPITupleTable *rows;
        MemoryContext old;

        set_output();
        SPI_cursor_fetch(portal, true, FETCH_ROWS);
        rows = SPI_tuptable;
        Ia3WatchBecomeCaller(caller);
        if (rows->numvals == 0)
            break;
        old = MemoryContextSwitchTo(e->scratch);
        queue(e, rows);
        MemoryContextSwitchTo(old);
        MemoryContextReset(e->scratch);
        SPI_freetuptable(rows);
        caller = Ia3WatchBecomeOwner(e->data->tg_relation);
    }
    SPI_cursor_close(portal);
}

static void
queue_changes(const Enqueuing *e, bool compare)
{
    Relation relation = e->data->tg_relation;

    if (TRIGGER_FIRED_BY_INSERT(e->data->tg_event))
        queue_rows(e, Ia3WatchInserted(relation, e->watch, e->key, compare));
    else
        queue_rows(e, Ia3WatchUpdated(relation, e->watch, e->key, compare ? e->pairs : IA3_WATCH_UNCOMPARED));
}

/* Whether the error may be one of the expressions, and not of the transaction or the server. */
static bool
is_of_expressions(const ErrorData *error)
{
    const int category = ERRCODE_TO_CATEGORY(error->sqlerrcode);

    return category != ERRCODE_TRANSACTION_ROLLBACK && category != ERRCODE_INSUFFICIENT_RESOURCES &&
           category != ERRCODE_OPERATOR_INTERVENTION && category != ERRCODE_INTERNAL_ERROR;
}

/* Queues the rows in a subtransaction; if an expression raises an error, all rows. */
static void
queue_changes_anyway(const Enqueuing *e)
{
    MemoryContext caller = CurrentMemoryContext;
    ResourceOwner owner = CurrentResourceOwner;
    ErrorData *volatile error = NULL;

    BeginInternalSubTransaction(NULL);
    MemoryContextSwitchTo(caller);
    PG_TRY();
    {
        queue_changes(e, true);
        ReleaseCurrentSubTransaction();
    }
    PG_CATCH();
    {
        MemoryContextSwitchTo(caller);
        error = CopyErrorData();
        FlushErrorState();
        RollbackAndReleaseCurrentSubTransaction();
    }
    PG_END_TRY();
    MemoryContextSwitchTo(caller);
    CurrentResourceOwner = owner;
    if (error == NULL)
        return;
    if (!is_of_expressions(error))
        ReThrowError(error);
    queue_changes(e, false);
}

void
Ia3WatchEnqueue(const TriggerData *data, const Ia3Watch *watch)
{
    const bool isUpdate = TRIGGER_FIRED_BY_UPDATE(data->tg_event);
    Enqueuing e = {data, watch, Ia3WatchFindKey(data->tg_relation), IA3_WATCH_BY_KEY, NULL};

    e.scratch = AllocSetContextCreate(CurrentMemoryContext, "ia3 rows to queue", ALLOCSET_DEFAULT_SIZES);
    if (isUpdate) {
        Ia3WatchCheckChildren(data->tg_relation);
        e.pairs = Ia3WatchFindPairs(e.key);
    }
    if (isUpdate || watch->target.condition)
        queue_changes_anyway(&e);
    else
        queue_changes(&e, true);
    if (isUpdate && e.pairs == IA3_WATCH_BY_ORDER)
        queue_rows(&e, Ia3WatchMoved(watch, e.key));
    MemoryContextDelete(e.scratch);
}
