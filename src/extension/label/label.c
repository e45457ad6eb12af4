/*
 * label.c
 *     ia3_label: fills a column of a table with predictions.
 *
 * The procedure goes through the table once, a range of blocks at a time: it locks the rows of the range that have no label yet,
 * predicts and updates them, and commits. So it may be interrupted anywhere and called again, and other sessions may work on the
 * same table, with this procedure or without: rows that they have locked are passed over. Ranges with such rows are visited again at
 * the end, and then waited for. The size of a range follows from the number of rows that it has to label, which is counted first,
 * because nearly all of a large table may be labelled already.
 *
 * The version is looked up once, with its vectors, and used to the end. What has to survive the commits lives in the memory context
 * of the procedure; no lock and no snapshot of ours does.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "label_rows.h"
#include "label_target.h"
#include "extension/supervisor/progress.h"
#include "extension/tasks/procedure.h"
#include "extension/tasks/writable.h"

PG_FUNCTION_INFO_V1(ia3_label);

/* Positions of the arguments, from 0. */
enum {
    ARG_RELATION,
    ARG_TASK,
    ARG_INPUT,
    ARG_LABEL,
    ARG_VERSION,
    ARG_PROBABILITY,
    ARG_CONDITION,
    ARG_COMMIT_ROWS,
    ARG_RELABEL
};

/* Rows that are read, predicted and updated at a time: enough for the engine's batches, and no burden on memory. */
#define FETCH_ROWS 1000

/* The first range, and the largest. */
#define FIRST_BLOCKS 64
#define MOST_BLOCKS  16384

/* Ranges of blocks with rows that others had locked. */
typedef struct Range {
    int64 begin, end;
} Range;

typedef struct Labelling {
    const Ia3Procedure *procedure;
    Ia3LabelTarget target;
    Ia3LabelPlans plans;
    Ia3LabelInput input;
    Oid inputType;  /* InvalidOid: not known yet */
    int commitRows; /* 0: no commits */
    int64 labelled; /* rows updated */
    Ia3LabelProgress progress;
    MemoryContext scratch;
    int nSkipped, capSkipped;
    Range *skipped;
} Labelling;

static void
read_arguments(Labelling *l, FunctionCallInfo fcinfo)
{
    Ia3LabelTarget *t = &l->target;

    if (PG_ARGISNULL(ARG_RELATION))
        ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED), errmsg("relation must not be null")));
    t->relation = PG_GETARG_OID(ARG_RELATION);
    LockRelationOid(t->relation, AccessShareLock); /* until the statements are prepared, at least */
    t->name = Ia3LabelTableName(t->relation);
    t->input = Ia3LabelText(fcinfo, ARG_INPUT, "input");
    t->label = Ia3LabelText(fcinfo, ARG_LABEL, "label_column");
    t->version = Ia3LabelText(fcinfo, ARG_VERSION, NULL);
    t->probability = Ia3LabelText(fcinfo, ARG_PROBABILITY, NULL);
    t->condition = Ia3LabelText(fcinfo, ARG_CONDITION, NULL);
    t->relabel = !PG_ARGISNULL(ARG_RELABEL) && PG_GETARG_BOOL(ARG_RELABEL);
    if (t->relabel && t->version == NULL)
        ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("relabel needs version_column"),
                        errdetail("Without it nothing tells which version has labelled a row.")));
    l->commitRows = PG_ARGISNULL(ARG_COMMIT_ROWS) ? 10000 : PG_GETARG_INT32(ARG_COMMIT_ROWS);
    if (l->commitRows < 0)
        ereport(ERROR,
                (errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("commit_rows must not be negative")));
    if (l->commitRows == 0)
        return;
    Ia3ProcedureCheck(fcinfo, "ia3_label()", "Call it by itself, or with commit_rows => 0.");
    if (IsolationUsesXactSnapshot())
        ereport(
            ERROR,
            (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
             errmsg("ia3_label() needs the isolation level READ COMMITTED"),
             errdetail("It waits for rows that other sessions change, and has to see what they have become."),
             errhint("Set default_transaction_isolation to 'read committed'.")));
}

static void
block_values(const Range *range, Datum values[2])
{
    values[0] = Int64GetDatum(range->begin);
    values[1] = Int64GetDatum(range->end);
}

/* How many rows of the range have no label yet. */
static int64
count_rows(Labelling *l, const Range *range)
{
    Datum values[2];
    bool isNull;
    int64 count;
    int rc;

    block_values(range, values);
    rc = SPI_execute_plan(l->plans.count, values, NULL, false, 0);
    if (rc != SPI_OK_SELECT)
        elog(ERROR, "counting rows failed: %s", SPI_result_code_string(rc));
    count = DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isNull));
    SPI_freetuptable(SPI_tuptable);
    return count;
}

static void
show_progress(Labelling *l, int64 block)
{
    l->progress.blocksDone = Max(l->progress.blocksDone, block);
    l->progress.rows = l->labelled;
    Ia3ProgressLabel(l->input.task->task->label, &l->progress);
}

/* Labels the rows of the range; `wait`: also those that others have locked. Returns how many there were. */
static int64
label_range(Labelling *l, const Range *range, bool wait)
{
    Datum values[2];
    Portal portal;
    int64 n = 0;

    block_values(range, values);
    portal = SPI_cursor_open(NULL, wait ? l->plans.wait : l->plans.lock, values, NULL, false);
    for (;;) {
        MemoryContext old;
        SPITupleTable *rows;

        SPI_cursor_fetch(portal, true, FETCH_ROWS);
        rows = SPI_tuptable;
        if (SPI_processed == 0) {
            SPI_freetuptable(rows);
            break;
        }
        /* others may have changed a column or a function since the last commit */
        if (SPI_gettypeid(rows->tupdesc, 3) != l->inputType) {
            l->inputType = SPI_gettypeid(rows->tupdesc, 3);
            Ia3LabelInputInit(&l->input, l->input.task, l->inputType);
        }
        n += (int64) SPI_processed;
        old = MemoryContextSwitchTo(l->scratch);
        l->labelled += Ia3LabelStore(l->plans.update, l->target.relation, Ia3LabelPredict(&l->input, rows));
        show_progress(l, range->begin);
        MemoryContextSwitchTo(old);
        MemoryContextReset(l->scratch);
        SPI_freetuptable(rows);
    }
    SPI_cursor_close(portal);
    return n;
}

static void
commit(Labelling *l)
{
    if (l->commitRows == 0)
        return;
    Ia3ProcedureCommit(l->procedure);
    Ia3ProcedureResume(l->procedure);
}

/* Notes a range that has to be visited again; neighbours become one. */
static void
skip(Labelling *l, const Range *range)
{
    if (l->nSkipped > 0 && l->skipped[l->nSkipped - 1].end == range->begin) {
        l->skipped[l->nSkipped - 1].end = range->end;
        return;
    }
    if (l->nSkipped == l->capSkipped) {
        l->capSkipped = Max(16, 2 * l->capSkipped);
        l->skipped = l->skipped ? repalloc_huge(l->skipped, sizeof(Range) * l->capSkipped)
                                : MemoryContextAlloc(l->procedure->context, sizeof(Range) * l->capSkipped);
    }
    l->skipped[l->nSkipped++] = *range;
}

/* Goes through blocks [from, to) in ranges of about as many rows as are committed at a time. */
static void
label_blocks(Labelling *l, int64 from, int64 to, bool wait)
{
    int64 size = FIRST_BLOCKS;

    while (from < to) {
        Range range = {from, Min(from + size, to)};
        int64 count;

        show_progress(l, from);
        count = count_rows(l, &range);

        CHECK_FOR_INTERRUPTS();
        if (l->commitRows > 0 && count > l->commitRows && range.end - range.begin > 1) {
            size = (range.end - range.begin) / 2;
            continue;
        }
        if (count > 0 && label_range(l, &range, wait) < count && !wait)
            skip(l, &range);
        commit(l);
        if (count <= l->commitRows / 2 || l->commitRows == 0)
            size = Min(2 * size, MOST_BLOCKS);
        from = range.end;
    }
}

/* Labels all rows. */
static void
run(Labelling *l)
{
    const int64 n = Ia3LabelBlocks(&l->target);

    l->progress = (Ia3LabelProgress){
        .relation = l->target.relation, .blocksTotal = n, .started = GetCurrentTimestamp()};
    label_blocks(l, 0, n, false);
    show_progress(l, n);
    for (int i = 0; i < l->nSkipped; i++)
        label_blocks(l, l->skipped[i].begin, l->skipped[i].end, true);
}

/* The last argument is the INOUT argument "labelled". */
Datum
ia3_label(PG_FUNCTION_ARGS)
{
    Ia3Procedure procedure;
    Labelling *l;
    Ia3Task *task;
    TupleDesc desc;
    Datum labelled;
    bool isNull = false;

    Ia3CheckWritable("ia3_label()");
    if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
        elog(ERROR, "result type must be a row type");
    Ia3ProcedureBegin(&procedure, fcinfo, "ia3_label()");
    l = palloc0(sizeof(Labelling));
    l->procedure = &procedure;
    read_arguments(l, fcinfo);
    Ia3LabelCheck(&l->target);
    task = Ia3TaskLookupDetached(Ia3LabelText(fcinfo, ARG_TASK, "task"));
    Ia3LabelRefuseMultiLabel(task);
    Ia3TaskCheckBackbone(task);
    l->input.task = Ia3CallTaskMake(task);
    l->scratch = AllocSetContextCreate(procedure.context, "ia3 rows to label", ALLOCSET_DEFAULT_SIZES);
    PG_TRY();
    {
        Ia3LabelPrepare(&l->target, task->version, &l->plans);
        run(l);
    }
    PG_FINALLY();
    {
        Ia3LabelFree(&l->plans);
    }
    PG_END_TRY();
    Ia3ProgressEnd();
    labelled = Int64GetDatum(l->labelled);
    Ia3ProcedureEnd(&procedure);
    PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), &labelled, &isNull)));
}
