/*
 * clone.c
 *     ia3_rename and ia3_copy.
 *
 * Both make a new row of ia3.task, so a name that is taken is found out by inserting, and the answer is the same as
 * that of training. They run as the owner of the tables; each statement tests again what the caller may do.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/builtins.h"

#include "catalog.h"
#include "dependents.h"
#include "given.h"
#include "pretrain_lock.h"
#include "versions.h"
#include "writable.h"

PG_FUNCTION_INFO_V1(ia3_rename);
PG_FUNCTION_INFO_V1(ia3_copy);

/* $1 is the task, $2 the caller. */
static Ia3Query lockQuery = {
    .sql = "SELECT 1 FROM ia3.task t WHERE t.task OPERATOR(pg_catalog.=) $1 AND ia3.task_owned(t.owner, $2)"
           " FOR UPDATE",
    .nArgs = 2,
    .argTypes = {TEXTOID, OIDOID},
};

/* In the others $1 is the task, $2 the new name, and the last parameter what is added to the numbers of versions. */
static Ia3Query renameQuery = {
    .sql = "INSERT INTO ia3.task (task, owner, backbone, template, choices, active_version, next_version,"
           " created_at, comment, readers, min_probability, verbalizers, descriptions, multi_label)"
           " SELECT $2, t.owner, t.backbone, t.template, t.choices,"
           " t.active_version OPERATOR(pg_catalog.+) $3, t.next_version OPERATOR(pg_catalog.+) $3,"
           " t.created_at, t.comment, t.readers, t.min_probability, t.verbalizers, t.descriptions,"
           " t.multi_label"
           " FROM ia3.task t WHERE t.task OPERATOR(pg_catalog.=) $1 ON CONFLICT (task) DO NOTHING",
    .nArgs = 3,
    .argTypes = {TEXTOID, TEXTOID, INT4OID},
};

static Ia3Query moveVersionsQuery = {
    .sql = "UPDATE ia3.adapter a SET task = $2, version = a.version OPERATOR(pg_catalog.+) $3,"
           " parent_version = a.parent_version OPERATOR(pg_catalog.+) $3"
           " WHERE a.task OPERATOR(pg_catalog.=) $1",
    .nArgs = 3,
    .argTypes = {TEXTOID, TEXTOID, INT4OID},
};

static Ia3Query moveCheckpointQuery = {
    .sql = "UPDATE ia3.checkpoint c SET task = $2 WHERE c.task OPERATOR(pg_catalog.=) $1",
    .nArgs = 2,
    .argTypes = {TEXTOID, TEXTOID},
};

static Ia3Query deleteQuery = {
    .sql = "DELETE FROM ia3.task t WHERE t.task OPERATOR(pg_catalog.=) $1",
    .nArgs = 1,
    .argTypes = {TEXTOID},
};

/*
 * One statement, so all of the copy comes from the same snapshot. $3 is the caller. Queries and held-out scores are copied for
 * the owner only.
 */
static Ia3Query copyQuery = {
    .sql = "WITH original AS MATERIALIZED (SELECT * FROM ia3.task t WHERE t.task OPERATOR(pg_catalog.=) $1"
           "  AND ia3.task_readable(t.owner, t.readers, $3)),"
           " copy AS (INSERT INTO ia3.task (task, owner, backbone, template, choices, active_version,"
           "   next_version, comment, min_probability, verbalizers, descriptions, multi_label)"
           "  SELECT $2, ia3.role($3), o.backbone, o.template, o.choices,"
           "   o.active_version OPERATOR(pg_catalog.+) $4, o.next_version OPERATOR(pg_catalog.+) $4,"
           "   o.comment, o.min_probability, o.verbalizers, o.descriptions, o.multi_label FROM original o"
           "  ON CONFLICT (task) DO NOTHING RETURNING task),"
           " versions AS (INSERT INTO ia3.adapter (task, version, vectors, backbone_digest, parent_version,"
           "   examples, recipe, metrics, created_by, created_at, temperature, thresholds)"
           "  SELECT c.task, a.version OPERATOR(pg_catalog.+) $4, a.vectors, a.backbone_digest,"
           "   a.parent_version OPERATOR(pg_catalog.+) $4, a.examples, a.recipe,"
           "   a.metrics, a.created_by, a.created_at, a.temperature, a.thresholds"
           "  FROM ia3.adapter a CROSS JOIN copy c WHERE a.task OPERATOR(pg_catalog.=) $1),"
           " queries AS (INSERT INTO ia3.adapter_query (task, version, query, row_hashes)"
           "  SELECT c.task, q.version OPERATOR(pg_catalog.+) $4, q.query, q.row_hashes"
           "  FROM ia3.adapter_query q CROSS JOIN copy c CROSS JOIN original o"
           "  WHERE q.task OPERATOR(pg_catalog.=) $1 AND ia3.task_owned(o.owner, $3)),"
           " scores AS (INSERT INTO ia3.adapter_scores (task, version, row_number, fold, label, scores)"
           "  SELECT c.task, s.version OPERATOR(pg_catalog.+) $4, s.row_number, s.fold, s.label, s.scores"
           "  FROM ia3.adapter_scores s CROSS JOIN copy c CROSS JOIN original o"
           "  WHERE s.task OPERATOR(pg_catalog.=) $1 AND ia3.task_owned(o.owner, $3))"
           " SELECT 1 FROM copy",
    .nArgs = 4,
    .argTypes = {TEXTOID, TEXTOID, REGROLEOID, INT4OID},
};

/* Checks the names in the arguments, and that the transaction may write. */
static void
read_names(FunctionCallInfo fcinfo, const char *function, char **task, char **name)
{
    Ia3CheckWritable(function);
    *task = text_to_cstring(PG_GETARG_TEXT_PP(0));
    *name = text_to_cstring(PG_GETARG_TEXT_PP(1));
    Ia3TaskCheckName(*task);
    Ia3TaskCheckName(*name);
}

/*
 * The row is locked, so a training run that ends now has stored its version, or waits and then makes a new task of the
 * old name.
 */
Datum
ia3_rename(PG_FUNCTION_ARGS)
{
    char *task, *name;
    Ia3Identity caller;
    Datum values[3];
    bool owned, made;
    int shift;

    read_names(fcinfo, "ia3_rename()", &task, &name);
    Ia3SpiConnect();
    values[0] = CStringGetTextDatum(task);
    caller = Ia3BecomeTableOwner();
    values[1] = ObjectIdGetDatum(caller.user);
    owned = Ia3QueryRun(&lockQuery, values, NULL, false) > 0;
    Ia3BecomeAgain(caller);
    if (!owned)
        Ia3VersionsRaiseNotOwned(task);
    Ia3VersionsCheckNew(name);
    (void) Ia3PretrainLock(task, false);
    Ia3DependentsCheck(task, 0, "rename");

    values[1] = CStringGetTextDatum(name);
    caller = Ia3BecomeTableOwner();
    shift = Ia3GivenShift(task, name);
    values[2] = Int32GetDatum(shift);
    made = Ia3QueryRun(&renameQuery, values, NULL, false) > 0;
    if (made) {
        Ia3QueryRun(&moveVersionsQuery, values, NULL, false);
        Ia3QueryRun(&moveCheckpointQuery, values, NULL, false);
        Ia3QueryRun(&deleteQuery, values, NULL, false);
    }
    Ia3BecomeAgain(caller);
    if (!made)
        Ia3VersionsRaiseTaken(name);
    Ia3SpiFinish();
    Ia3GivenReportShift(name, shift);
    PG_RETURN_VOID();
}

Datum
ia3_copy(PG_FUNCTION_ARGS)
{
    char *task, *name;
    Ia3Identity caller;
    Datum values[4];
    bool made;
    int shift;

    read_names(fcinfo, "ia3_copy()", &task, &name);
    if (Ia3VersionsBackbone(task) == NULL)
        Ia3VersionsRaiseNotOwned(task);
    Ia3VersionsCheckNew(name);
    Ia3SpiConnect();
    values[0] = CStringGetTextDatum(task);
    values[1] = CStringGetTextDatum(name);
    caller = Ia3BecomeTableOwner();
    values[2] = ObjectIdGetDatum(caller.user);
    shift = Ia3GivenShift(task, name);
    values[3] = Int32GetDatum(shift);
    made = Ia3QueryRun(&copyQuery, values, NULL, false) > 0;
    Ia3BecomeAgain(caller);
    if (!made)
        Ia3VersionsRaiseTaken(name);
    Ia3SpiFinish();
    Ia3GivenReportShift(name, shift);
    PG_RETURN_VOID();
}
