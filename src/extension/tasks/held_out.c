/*
 * held_out.c
 *     Reading and writing ia3.adapter_scores: how the choices of labelled rows were scored by versions that had not seen
 *     the rows.
 */
#include "postgres.h"

#include <math.h>

#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

#include "catalog.h"
#include "held_out.h"

static Ia3Query readQuery = {
    .sql = "SELECT s.fold, s.label, s.scores FROM ia3.adapter_scores s"
           " WHERE s.task OPERATOR(pg_catalog.=) $1 AND s.version OPERATOR(pg_catalog.=) $2"
           " ORDER BY s.row_number",
    .nArgs = 2,
    .argTypes = {TEXTOID, INT4OID},
};

static Ia3Query insertQuery = {
    .sql = "INSERT INTO ia3.adapter_scores (task, version, row_number, fold, label, scores)"
           " VALUES ($1, $2, $3, $4, $5, $6)",
    .nArgs = 6,
    .argTypes = {TEXTOID, INT4OID, INT8OID, INT4OID, INT4OID, FLOAT8ARRAYOID},
};

/* The constraints of the table exclude all of this. */
static void
check_row(const Ia3Task *task, const Ia3HeldOutRow *row, const bool *nulls)
{
    bool valid = row->fold >= 0 && row->label >= 0 && row->label < row->n;

    for (int c = 0; c < row->n; c++)
        valid = valid && !nulls[c] && isfinite(row->scores[c]);
    if (!valid)
        ereport(ERROR, (errcode(ERRCODE_DATA_CORRUPTED),
                        errmsg("ia3.adapter_scores has an invalid row for \"%s\"", task->label)));
}

/* Copies row i of SPI_tuptable into `context`. */
static void
read_row(const Ia3Task *task, int i, Ia3HeldOutRow *row, MemoryContext context)
{
    HeapTuple tuple = SPI_tuptable->vals[i];
    TupleDesc desc = SPI_tuptable->tupdesc;
    ArrayType *array;
    Datum *elements;
    bool isNull, *nulls;

    row->fold = DatumGetInt32(SPI_getbinval(tuple, desc, 1, &isNull)) - 1;
    row->label = DatumGetInt32(SPI_getbinval(tuple, desc, 2, &isNull)) - 1;
    array = DatumGetArrayTypeP(SPI_getbinval(tuple, desc, 3, &isNull));
    deconstruct_array(array, FLOAT8OID, sizeof(float8), FLOAT8PASSBYVAL, TYPALIGN_DOUBLE, &elements, &nulls,
                      &row->n);
    row->scores = MemoryContextAlloc(context, sizeof(double) * Max(row->n, 1));
    for (int c = 0; c < row->n; c++)
        row->scores[c] = nulls[c] ? 0 : DatumGetFloat8(elements[c]);
    check_row(task, row, nulls);
}

/* Runs readQuery; returns the number of rows. */
static uint64
find_rows(const Ia3Task *task, Ia3HeldOutReader reader)
{
    Ia3Identity caller = {0};
    Datum values[2];
    uint64 n;

    values[0] = CStringGetTextDatum(task->name);
    values[1] = Int32GetDatum(task->version);
    if (reader == IA3_HELD_OUT_TASK)
        caller = Ia3BecomeTableOwner();
    n = Ia3QueryRun(&readQuery, values, NULL, true);
    if (reader == IA3_HELD_OUT_TASK)
        Ia3BecomeAgain(caller);
    return n;
}

Ia3HeldOut *
Ia3HeldOutRead(const Ia3Task *task, Ia3HeldOutReader reader)
{
    MemoryContext caller = CurrentMemoryContext;
    Ia3HeldOut *result = NULL;
    uint64 n;

    Ia3SpiConnect();
    n = find_rows(task, reader);
    if (n > 0) {
        MemoryContext scratch =
            AllocSetContextCreate(CurrentMemoryContext, "ia3 held-out row", ALLOCSET_DEFAULT_SIZES);

        result = MemoryContextAlloc(caller, sizeof(Ia3HeldOut));
        result->n = (int) n;
        result->rows = MemoryContextAllocHuge(caller, sizeof(Ia3HeldOutRow) * n);
        MemoryContextSwitchTo(scratch);
        for (int i = 0; i < result->n; i++) {
            CHECK_FOR_INTERRUPTS();
            read_row(task, i, &result->rows[i], caller);
            MemoryContextReset(scratch);
        }
    }
    Ia3SpiFinish();
    MemoryContextSwitchTo(caller);
    return result;
}

static Datum
scores_array(const Ia3HeldOutRow *row)
{
    Datum *elements = palloc(sizeof(Datum) * row->n);

    for (int c = 0; c < row->n; c++)
        elements[c] = Float8GetDatum(row->scores[c]);
    return PointerGetDatum(
        construct_array(elements, row->n, FLOAT8OID, sizeof(float8), FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
}

void
Ia3HeldOutInsert(const Ia3HeldOut *heldOut, const char *task, int version)
{
    MemoryContext scratch =
        AllocSetContextCreate(CurrentMemoryContext, "ia3 held-out row", ALLOCSET_DEFAULT_SIZES);
    Datum values[6];

    values[0] = CStringGetTextDatum(task);
    values[1] = Int32GetDatum(version);
    for (int i = 0; i < heldOut->n; i++) {
        const Ia3HeldOutRow *row = &heldOut->rows[i];
        MemoryContext old = MemoryContextSwitchTo(scratch);

        CHECK_FOR_INTERRUPTS();
        values[2] = Int64GetDatum(i + 1);
        values[3] = Int32GetDatum(row->fold + 1);
        values[4] = Int32GetDatum(row->label + 1);
        values[5] = scores_array(row);
        Ia3QueryRun(&insertQuery, values, NULL, false);
        MemoryContextSwitchTo(old);
        MemoryContextReset(scratch);
    }
    MemoryContextDelete(scratch);
}

void
Ia3HeldOutRaiseMissing(const Ia3Task *task, const char *detail, const char *hint)
{
    if (task->temperature > 0)
        ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
                        errmsg("version \"%s\" has no held-out scores", task->label),
                        errdetail("%s Whoever copied or exported the task did not own it.", detail),
                        errhint("%s", hint)));
    ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
                    errmsg("ia3 task \"%s\" is not calibrated", task->label), errdetail("%s", detail),
                    errhint("%s", hint)));
}
