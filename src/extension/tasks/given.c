/*
 * given.c
 *     Which versions there have ever been, so that no pair of a task's name and a number is given to two different ones.
 *
 * The primary key of ia3.given_version decides between sessions, whatever their snapshots see.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "utils/builtins.h"
#include "utils/rel.h"

#include "catalog.h"
#include "given.h"

PG_FUNCTION_INFO_V1(ia3_adapter_never_twice);

/* The columns of ia3.adapter that the trigger reads, in the order of the queries' parameters. */
static const char *const columns[] = {"task",   "version",    "vectors", "backbone_digest",
                                      "recipe", "temperature"};
#define N_COLUMNS 6
#define OF_ROW    IA3_FINGERPRINT("pg_catalog.sha256($3)", "$4", "$5", "$6")

static Ia3Query giveQuery = {
    .sql = "INSERT INTO ia3.given_version (task, version, fingerprint) VALUES ($1, $2, " OF_ROW ")"
           " ON CONFLICT (task, version) DO NOTHING",
    .nArgs = N_COLUMNS,
    .argTypes = {TEXTOID, INT4OID, BYTEAOID, BYTEAOID, JSONBOID, FLOAT8OID},
};

static Ia3Query sameQuery = {
    .sql = "SELECT 1 FROM ia3.given_version g WHERE g.task OPERATOR(pg_catalog.=) $1"
           " AND g.version OPERATOR(pg_catalog.=) $2 AND g.fingerprint OPERATOR(pg_catalog.=) " OF_ROW,
    .nArgs = N_COLUMNS,
    .argTypes = {TEXTOID, INT4OID, BYTEAOID, BYTEAOID, JSONBOID, FLOAT8OID},
};

/* $1 is the task, $2 the name that it is to get, or that its copy will have. */
static Ia3Query shiftQuery = {
    .sql =
        "SELECT CASE WHEN EXISTS (SELECT 1 FROM ia3.adapter a JOIN ia3.given_version g"
        "  ON g.version OPERATOR(pg_catalog.=) a.version AND g.task OPERATOR(pg_catalog.=) $2"
        "  WHERE a.task OPERATOR(pg_catalog.=) $1 AND g.fingerprint OPERATOR(pg_catalog.<>) " IA3_FINGERPRINT(
            "a.digest", "a.backbone_digest", "a.recipe",
            "a.temperature") ")"
                             " THEN " IA3_HIGHEST_GIVEN("$2") " ELSE 0 END",
    .nArgs = 2,
    .argTypes = {TEXTOID, TEXTOID},
};

int
Ia3GivenShift(const char *task, const char *name)
{
    Datum values[2];
    bool isNull;

    values[0] = CStringGetTextDatum(task);
    values[1] = CStringGetTextDatum(name);
    Ia3QueryRun(&shiftQuery, values, NULL, false);
    return DatumGetInt32(Ia3QueryColumn(1, &isNull));
}

void
Ia3GivenReportShift(const char *name, int shift)
{
    if (shift > 0)
        ereport(NOTICE,
                (errmsg("the versions of ia3 task \"%s\" have numbers above %d", name, shift),
                 errdetail("Other versions of this name have had lower numbers, which are not used again.")));
}

static void
give(Datum *values, const char *nulls)
{
    Ia3Identity caller;
    bool given;

    Ia3SpiConnect();
    caller = Ia3BecomeTableOwner();
    given = Ia3QueryRun(&giveQuery, values, nulls, false) > 0 ||
            Ia3QueryRun(&sameQuery, values, nulls, false) > 0;
    Ia3BecomeAgain(caller);
    if (!given)
        ereport(ERROR, (errcode(ERRCODE_DUPLICATE_OBJECT),
                        errmsg("there has been another version %d of ia3 task \"%s\"",
                               DatumGetInt32(values[1]), TextDatumGetCString(values[0])),
                        errdetail("Indexes and generated columns may still have its predictions."),
                        errhint("Use a number that has not been used with this name.")));
    Ia3SpiFinish();
}

/* Records the version of a new row, or of one whose task has been renamed. What may not be NULL is left to the constraints. */
Datum
ia3_adapter_never_twice(PG_FUNCTION_ARGS)
{
    TriggerData *trigger = (TriggerData *) fcinfo->context;
    HeapTuple row;
    Datum values[N_COLUMNS];
    char nulls[N_COLUMNS];

    if (!CALLED_AS_TRIGGER(fcinfo))
        elog(ERROR, "ia3.adapter_never_twice() was not called by the trigger manager");
    row = TRIGGER_FIRED_BY_UPDATE(trigger->tg_event) ? trigger->tg_newtuple : trigger->tg_trigtuple;
    for (int i = 0; i < N_COLUMNS; i++) {
        TupleDesc desc = RelationGetDescr(trigger->tg_relation);
        bool isNull;

        values[i] = heap_getattr(row, SPI_fnumber(desc, columns[i]), desc, &isNull);
        nulls[i] = isNull ? 'n' : ' ';
        if (isNull && i < N_COLUMNS - 1)
            return PointerGetDatum(row);
    }
    give(values, nulls);
    return PointerGetDatum(row);
}
