/*
 * pretrain_checkpoint.c
 *     The state of unfinished pre-training runs: the table ia3.checkpoint.
 *
 * A task has at most one checkpoint. It is read as the caller, under row security. It is written and deleted as the
 * owner of the tables, after checking that the caller has the privileges of the task's owner: the engine gets the
 * bytes of the state back unchecked, so nobody else may write them.
 */
#include "postgres.h"

#include <math.h>

#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"

#include "pretrain_checkpoint.h"
#include "extension/tasks/catalog.h"
#include "extension/tasks/versions.h"

static Ia3Query loadQuery = {
    .sql = "SELECT c.step, c.recipe, c.backbone_digest, c.state, c.losses, c.seconds FROM ia3.checkpoint c"
           " WHERE c.task OPERATOR(pg_catalog.=) $1",
    .nArgs = 1,
    .argTypes = {TEXTOID},
};

/*
 * Runs as the owner of the tables; $9 is the caller. The task's row is locked, so its owner stays the same until the
 * checkpoint is committed.
 */
static Ia3Query saveQuery = {
    .sql =
        "INSERT INTO ia3.checkpoint (task, step, recipe, backbone_digest, state, losses, seconds, created_by)"
        " SELECT t.task, $2, $3, $4, $5, $6, $7, $8 FROM ia3.task t"
        " WHERE t.task OPERATOR(pg_catalog.=) $1 AND ia3.task_owned(t.owner, $9) FOR NO KEY UPDATE"
        " ON CONFLICT (task) DO UPDATE SET step = excluded.step, recipe = excluded.recipe,"
        " backbone_digest = excluded.backbone_digest, state = excluded.state, losses = excluded.losses,"
        " seconds = excluded.seconds, created_by = excluded.created_by, saved_at = excluded.saved_at",
    .nArgs = 9,
    .argTypes = {TEXTOID, INT4OID, JSONBOID, BYTEAOID, BYTEAOID, FLOAT8ARRAYOID, FLOAT8OID, NAMEOID, OIDOID},
};

/* Runs as the owner of the tables; $2 is the caller. */
static Ia3Query deleteQuery = {
    .sql = "DELETE FROM ia3.checkpoint c USING ia3.task t WHERE c.task OPERATOR(pg_catalog.=) $1"
           " AND t.task OPERATOR(pg_catalog.=) c.task"
           " AND ia3.task_owned(t.owner, $2)",
    .nArgs = 2,
    .argTypes = {TEXTOID, OIDOID},
};

/*
 * Another version of ia3 may resume a run; the engine raises an error if it cannot. Runs whose recipe has no "truncate"
 * shortened inputs at the end.
 */
#define MEMBER(recipe)                                                                                       \
    "COALESCE(" recipe " OPERATOR(pg_catalog.->) k.key, CASE WHEN k.key OPERATOR(pg_catalog.=) 'truncate'"   \
    " THEN '\"end\"' ELSE '\"absent\"' END::pg_catalog.jsonb)"

static Ia3Query differenceQuery = {
    .sql = "SELECT pg_catalog.string_agg(k.key, ', '::pg_catalog.text ORDER BY k.key)"
           " FROM pg_catalog.jsonb_object_keys($1 OPERATOR(pg_catalog.||) $2) AS k(key)"
           " WHERE k.key OPERATOR(pg_catalog.<>) 'ia3_version'"
           " AND " MEMBER("$1") " OPERATOR(pg_catalog.<>) " MEMBER("$2"),
    .nArgs = 2,
    .argTypes = {JSONBOID, JSONBOID},
};

static Ia3Query seedQuery = {
    .sql = "SELECT ($1 OPERATOR(pg_catalog.->>) 'seed')::pg_catalog.int8",
    .nArgs = 1,
    .argTypes = {JSONBOID},
};

static Ia3Query metricsQuery = {
    .sql = "SELECT $1 OPERATOR(pg_catalog.||) pg_catalog.jsonb_build_object('steps', $2, 'seconds', $3,"
           " 'loss_curve', pg_catalog.to_jsonb($4))",
    .nArgs = 4,
    .argTypes = {JSONBOID, INT4OID, FLOAT8OID, FLOAT8ARRAYOID},
};

/* Copies the value of a column of the first row into the memory context `keep`. */
static Datum
column_copy(MemoryContext keep, int column)
{
    MemoryContext old;
    bool isNull;
    Datum value = Ia3QueryColumn(column, &isNull);

    if (isNull)
        elog(ERROR, "column %d of a query of ia3.checkpoint is null", column);
    old = MemoryContextSwitchTo(keep);
    value = PointerGetDatum(PG_DETOAST_DATUM_COPY(value));
    MemoryContextSwitchTo(old);
    return value;
}

static void
read_losses(Datum array, double *losses)
{
    Datum *values;
    bool *nulls;
    int n;

    deconstruct_array(DatumGetArrayTypeP(array), FLOAT8OID, sizeof(float8), FLOAT8PASSBYVAL, TYPALIGN_DOUBLE,
                      &values, &nulls, &n);
    for (int i = 0; i < IA3_LOSS_POINTS; i++)
        losses[i] = i < n && !nulls[i] ? DatumGetFloat8(values[i]) : NAN;
}

/* `skipNaN` leaves out the points without a loss. */
static Datum
losses_array(const double *losses, bool skipNaN)
{
    Datum values[IA3_LOSS_POINTS];
    int n = 0;

    for (int i = 0; i < IA3_LOSS_POINTS; i++)
        if (!skipNaN || !isnan(losses[i]))
            values[n++] = Float8GetDatum(losses[i]);
    return PointerGetDatum(
        construct_array(values, n, FLOAT8OID, sizeof(float8), FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
}

typedef struct Loading {
    const char *task;
    Ia3Checkpoint *checkpoint;
    bool found;
} Loading;

static void
load(void *arg)
{
    Loading *loading = arg;
    Ia3Checkpoint *c = loading->checkpoint;
    MemoryContext caller = CurrentMemoryContext;
    Datum value;
    bytea *digest;
    bool isNull;

    Ia3SpiConnect();
    value = CStringGetTextDatum(loading->task);
    loading->found = Ia3QueryRun(&loadQuery, &value, NULL, true) > 0;
    if (loading->found) {
        c->step = DatumGetInt32(Ia3QueryColumn(1, &isNull));
        c->recipe = column_copy(caller, 2);
        digest = (bytea *) DatumGetPointer(column_copy(caller, 3));
        if (VARSIZE_ANY_EXHDR(digest) != IA3_DIGEST_LEN)
            elog(ERROR, "digest in ia3.checkpoint has %d bytes", (int) VARSIZE_ANY_EXHDR(digest));
        memcpy(c->backboneDigest, VARDATA_ANY(digest), IA3_DIGEST_LEN);
        c->state = (bytea *) DatumGetPointer(column_copy(caller, 4));
        read_losses(Ia3QueryColumn(5, &isNull), c->losses);
        c->seconds = DatumGetFloat8(Ia3QueryColumn(6, &isNull));
    }
    Ia3SpiFinish();
    MemoryContextSwitchTo(caller);
}

bool
Ia3CheckpointLoad(const char *task, Ia3Checkpoint *checkpoint)
{
    Loading loading = {task, checkpoint, false};

    Ia3RunAndRollBack(load, &loading);
    return loading.found;
}

static bytea *
make_bytea(const uint8 *bytes, Size len)
{
    bytea *value = palloc(VARHDRSZ + len);

    SET_VARSIZE(value, VARHDRSZ + len);
    memcpy(VARDATA(value), bytes, len);
    return value;
}

void
Ia3CheckpointSave(const char *task, const char *backbone, const Ia3Strings *templates, const Ia3Checkpoint *c)
{
    NameData creator;
    Datum values[9];
    Ia3Identity caller;
    bool saved;

    Ia3VersionsMakeTask(task, backbone, templates);
    Ia3SpiConnect();
    namestrcpy(&creator, GetUserNameFromId(GetUserId(), false));
    values[0] = CStringGetTextDatum(task);
    values[1] = Int32GetDatum(c->step);
    values[2] = c->recipe;
    values[3] = PointerGetDatum(make_bytea(c->backboneDigest, IA3_DIGEST_LEN));
    values[4] = PointerGetDatum(c->state);
    values[5] = losses_array(c->losses, false);
    values[6] = Float8GetDatum(c->seconds);
    values[7] = NameGetDatum(&creator);
    caller = Ia3BecomeTableOwner();
    values[8] = ObjectIdGetDatum(caller.user);
    saved = Ia3QueryRun(&saveQuery, values, NULL, false) > 0;
    Ia3BecomeAgain(caller);
    if (!saved)
        Ia3VersionsRaiseTaken(task);
    Ia3SpiFinish();
}

void
Ia3CheckpointDelete(const char *task)
{
    Ia3Identity caller;
    Datum values[2];

    Ia3SpiConnect();
    values[0] = CStringGetTextDatum(task);
    caller = Ia3BecomeTableOwner();
    values[1] = ObjectIdGetDatum(caller.user);
    Ia3QueryRun(&deleteQuery, values, NULL, false);
    Ia3BecomeAgain(caller);
    Ia3SpiFinish();
}

char *
Ia3CheckpointDifference(Datum recipe, Datum other)
{
    MemoryContext caller = CurrentMemoryContext;
    Datum values[2] = {recipe, other};
    Datum names;
    char *difference = NULL;
    bool isNull;

    Ia3SpiConnect();
    Ia3QueryRun(&differenceQuery, values, NULL, true);
    names = Ia3QueryColumn(1, &isNull);
    MemoryContextSwitchTo(caller);
    if (!isNull)
        difference = TextDatumGetCString(names);
    Ia3SpiFinish();
    MemoryContextSwitchTo(caller);
    return difference;
}

int64
Ia3CheckpointSeed(const Ia3Checkpoint *c)
{
    Datum value = c->recipe;
    int64 seed;
    bool isNull;

    Ia3SpiConnect();
    Ia3QueryRun(&seedQuery, &value, NULL, true);
    seed = DatumGetInt64(Ia3QueryColumn(1, &isNull));
    Ia3SpiFinish();
    return seed;
}

Datum
Ia3CheckpointMetrics(Datum last, int steps, const Ia3Checkpoint *c)
{
    MemoryContext caller = CurrentMemoryContext;
    Datum values[4];

    Ia3SpiConnect();
    values[0] = last;
    values[1] = Int32GetDatum(steps);
    values[2] = Float8GetDatum(c->seconds);
    values[3] = losses_array(c->losses, true);
    Ia3QueryRun(&metricsQuery, values, NULL, true);
    last = column_copy(caller, 1);
    Ia3SpiFinish();
    MemoryContextSwitchTo(caller);
    return last;
}
