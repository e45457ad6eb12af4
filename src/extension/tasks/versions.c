/*
 * versions.c
 *     Changes of ia3.task and ia3.adapter: new versions, activation, removal.
 *
 * Locking: whatever depends on the state of a task first locks its row (with FOR UPDATE, or by updating it) and then
 * reads it again with a new snapshot. A version's row never changes, so it needs no lock of its own; the foreign key
 * keeps a task from being deleted under an insert.
 *
 * Versions are inserted as the owner of the tables, because nobody else may insert: who may execute ia3_train and
 * ia3_import decides which bytes become an adapter, not privileges on the tables. The caller's rights are checked in
 * advance, and again, free of races, by the statement that takes the number. Everything else runs as the caller,
 * under row security.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/builtins.h"

#include "versions.h"
#include "catalog.h"
#include "dependents.h"
#include "given.h"

static Ia3Query ownerQuery = {
    .sql = "SELECT ia3.task_owned(t.owner, $2)"
           " FROM ia3.task t WHERE t.task OPERATOR(pg_catalog.=) $1",
    .nArgs = 2,
    .argTypes = {TEXTOID, OIDOID},
};

static Ia3Query backboneQuery = {
    .sql = "SELECT t.backbone FROM ia3.task t WHERE t.task OPERATOR(pg_catalog.=) $1",
    .nArgs = 1,
    .argTypes = {TEXTOID},
};

/* the highest number that the name of the task $1 has had */
#define HIGHEST IA3_HIGHEST_GIVEN("$1")

static Ia3Query insertTaskQuery = {
    .sql = "INSERT INTO ia3.task (task, owner, backbone, template, choices, verbalizers, descriptions,"
           " multi_label, next_version) VALUES ($1, ia3.role($2), $3, $4, $5, $6, $7, $8, " HIGHEST
           " OPERATOR(pg_catalog.+) 1) ON CONFLICT (task) DO NOTHING",
    .nArgs = 8,
    .argTypes = {TEXTOID, REGROLEOID, TEXTOID, TEXTARRAYOID, TEXTARRAYOID, JSONBOID, JSONBOID, BOOLOID},
};

static Ia3Query numberQuery = {
    .sql = "UPDATE ia3.task t SET next_version = GREATEST(t.next_version, " HIGHEST
           "  OPERATOR(pg_catalog.+) 1) OPERATOR(pg_catalog.+) 1"
           " WHERE t.task OPERATOR(pg_catalog.=) $1"
           " AND ia3.task_owned(t.owner, $2)"
           " RETURNING t.next_version OPERATOR(pg_catalog.-) 1",
    .nArgs = 2,
    .argTypes = {TEXTOID, OIDOID},
};

/*
 * The query of the recipe goes to a table of its own, here and not by the trigger of ia3.adapter: that inserts it before
 * the version, which fails where the caller has set constraints to immediate.
 */
static Ia3Query insertVersionQuery = {
    .sql = "WITH made AS (INSERT INTO ia3.adapter (task, version, vectors, backbone_digest, parent_version,"
           "   examples, recipe, metrics, created_by, temperature, thresholds)"
           "  VALUES ($1, $2, $3, $4, $5, $6, $7 OPERATOR(pg_catalog.-) 'query'::pg_catalog.text, $8, $9, "
           "$11, $12)"
           "  RETURNING task, version)"
           " INSERT INTO ia3.adapter_query (task, version, query, row_hashes)"
           " SELECT m.task, m.version, $7 OPERATOR(pg_catalog.->>) 'query', $10 FROM made m"
           " WHERE ($7 OPERATOR(pg_catalog.->>) 'query') IS NOT NULL",
    .nArgs = 12,
    .argTypes = {TEXTOID, INT4OID, BYTEAOID, BYTEAOID, INT4OID, INT4OID, JSONBOID, JSONBOID, NAMEOID,
                 BYTEAOID, FLOAT8OID, JSONBOID},
};

static Ia3Query activateQuery = {
    .sql = "UPDATE ia3.task t SET active_version = $2, backbone = $3, template = $4, choices = $5,"
           " verbalizers = $6, descriptions = $7, multi_label = $8 WHERE t.task OPERATOR(pg_catalog.=) $1",
    .nArgs = 8,
    .argTypes = {TEXTOID, INT4OID, TEXTOID, TEXTARRAYOID, TEXTARRAYOID, JSONBOID, JSONBOID, BOOLOID},
};

static Ia3Query lockQuery = {
    .sql = "SELECT t.active_version FROM ia3.task t WHERE t.task OPERATOR(pg_catalog.=) $1 FOR UPDATE",
    .nArgs = 1,
    .argTypes = {TEXTOID},
};

/*
 * These run as the owner of the tables, since whoever may delete from a table may also lock it, and with it everybody
 * out. The last parameter is the caller, who has to have the privileges of the task's owner.
 */
static Ia3Query dropTaskQuery = {
    .sql = "DELETE FROM ia3.task t WHERE t.task OPERATOR(pg_catalog.=) $1"
           " AND ia3.task_owned(t.owner, $2)",
    .nArgs = 2,
    .argTypes = {TEXTOID, OIDOID},
};

static Ia3Query dropVersionQuery = {
    .sql = "DELETE FROM ia3.adapter a USING ia3.task t WHERE a.task OPERATOR(pg_catalog.=) $1"
           " AND a.version OPERATOR(pg_catalog.=) $2 AND t.task OPERATOR(pg_catalog.=) a.task"
           " AND ia3.task_owned(t.owner, $3)",
    .nArgs = 3,
    .argTypes = {TEXTOID, INT4OID, OIDOID},
};

static void
raise_must_be_owner(const char *task)
{
    ereport(ERROR,
            (errcode(ERRCODE_INSUFFICIENT_PRIVILEGE), errmsg("must be owner of ia3 task \"%s\"", task)));
}

void
Ia3VersionsRaiseNotOwned(const char *task)
{
    if (Ia3VersionsBackbone(task) != NULL)
        raise_must_be_owner(task);
    ereport(ERROR, (errcode(ERRCODE_UNDEFINED_OBJECT), errmsg("ia3 task \"%s\" does not exist", task)));
}

void
Ia3VersionsRaiseTaken(const char *task)
{
    if (Ia3VersionsBackbone(task) != NULL)
        raise_must_be_owner(task);
    ereport(ERROR, (errcode(ERRCODE_DUPLICATE_OBJECT),
                    errmsg("the name \"%s\" cannot be used for a new ia3 task", task),
                    errdetail("Task names are unique in a database."), errhint("Choose another name.")));
}

void
Ia3VersionsCheckOwner(const char *task)
{
    Ia3Identity caller;
    Datum values[2];
    bool isNull, allowed = true;

    Ia3SpiConnect();
    values[0] = CStringGetTextDatum(task);
    caller = Ia3BecomeTableOwner();
    values[1] = ObjectIdGetDatum(caller.user);
    if (Ia3QueryRun(&ownerQuery, values, NULL, true) > 0)
        allowed = DatumGetBool(Ia3QueryColumn(1, &isNull));
    Ia3BecomeAgain(caller);
    Ia3SpiFinish();
    if (!allowed)
        Ia3VersionsRaiseTaken(task);
}

void
Ia3VersionsCheckNew(const char *task)
{
    Ia3VersionsCheckOwner(task);
    if (Ia3VersionsBackbone(task) != NULL)
        ereport(ERROR, (errcode(ERRCODE_DUPLICATE_OBJECT), errmsg("ia3 task \"%s\" already exists", task)));
}

char *
Ia3VersionsBackbone(const char *task)
{
    MemoryContext caller = CurrentMemoryContext;
    Datum value;
    char *backbone = NULL;
    bool isNull;

    Ia3SpiConnect();
    value = CStringGetTextDatum(task);
    if (Ia3QueryRun(&backboneQuery, &value, NULL, true) > 0) {
        value = Ia3QueryColumn(1, &isNull);
        MemoryContextSwitchTo(caller);
        backbone = TextDatumGetCString(value);
    }
    Ia3SpiFinish();
    MemoryContextSwitchTo(caller);
    return backbone;
}

static bytea *
make_bytea(const uint8 *bytes, Size len)
{
    bytea *value = palloc(VARHDRSZ + len);

    SET_VARSIZE(value, VARHDRSZ + len);
    memcpy(VARDATA(value), bytes, len);
    return value;
}

/* Writes what a task says of its choices as the last four parameters of a query, from values[4] on. */
static void
set_choices(Datum *values, char *nulls, const Ia3Strings *choices, const Ia3Wording *wording, bool multiLabel)
{
    memset(nulls, ' ', 8);
    values[7] = BoolGetDatum(multiLabel);
    values[4] = choices ? Ia3StringsToArray(choices) : (Datum) 0;
    values[5] = wording && wording->verbalizers ? JsonbPGetDatum(wording->verbalizers) : (Datum) 0;
    values[6] = wording && wording->descriptions ? JsonbPGetDatum(wording->descriptions) : (Datum) 0;
    for (int i = 4; i < 7; i++)
        nulls[i] = values[i] ? ' ' : 'n';
}

/*
 * Creates the task if it is new, and takes its next number; the task's row is locked from here on. Returns 0 when the
 * task is not the caller's. Runs as the owner of the tables.
 */
static int
take_number(const Ia3NewVersion *v, Oid caller)
{
    Datum values[8];
    char nulls[8];
    bool isNull;

    values[0] = CStringGetTextDatum(v->task);
    values[1] = ObjectIdGetDatum(caller);
    values[2] = CStringGetTextDatum(v->backbone);
    values[3] = Ia3StringsToArray(v->templates);
    set_choices(values, nulls, v->choices, v->wording, v->multiLabel);
    /* Between the two statements another session may drop or rename the task; then a new one is made. */
    for (int attempt = 0; attempt < 2; attempt++) {
        Ia3QueryRun(&insertTaskQuery, values, nulls, false);
        if (Ia3QueryRun(&numberQuery, values, NULL, false) > 0)
            return DatumGetInt32(Ia3QueryColumn(1, &isNull));
    }
    return 0;
}

/* Runs as the owner of the tables. */
static void
insert_version(const Ia3NewVersion *v, int number, Oid caller)
{
    NameData creator;
    Datum values[12];
    char nulls[12];

    memset(nulls, ' ', sizeof nulls);
    nulls[4] = v->parentVersion ? ' ' : 'n';
    nulls[5] = v->examples ? ' ' : 'n';
    nulls[7] = v->metrics ? ' ' : 'n';
    nulls[9] = v->rowHashes ? ' ' : 'n';
    nulls[10] = v->temperature > 0 ? ' ' : 'n';
    nulls[11] = v->thresholds ? ' ' : 'n';
    namestrcpy(&creator, GetUserNameFromId(caller, false));
    values[0] = CStringGetTextDatum(v->task);
    values[1] = Int32GetDatum(number);
    values[2] = PointerGetDatum(v->vectors);
    values[3] = PointerGetDatum(make_bytea(v->backboneDigest, IA3_DIGEST_LEN));
    values[4] = Int32GetDatum(v->parentVersion);
    values[5] = Int32GetDatum(v->examples);
    values[6] = v->recipe;
    values[7] = v->metrics;
    values[8] = NameGetDatum(&creator);
    values[9] = PointerGetDatum(v->rowHashes);
    values[10] = Float8GetDatum(v->temperature);
    values[11] = v->thresholds;
    Ia3QueryRun(&insertVersionQuery, values, nulls, false);
    if (v->heldOut)
        Ia3HeldOutInsert(v->heldOut, v->task, number);
}

static void
activate(const char *task, int number, const char *backbone, const Ia3Strings *templates,
         const Ia3Strings *choices, const Ia3Wording *wording, bool multiLabel)
{
    Datum values[8];
    char nulls[8];

    values[0] = CStringGetTextDatum(task);
    values[1] = Int32GetDatum(number);
    values[2] = CStringGetTextDatum(backbone);
    values[3] = Ia3StringsToArray(templates);
    set_choices(values, nulls, choices, wording, multiLabel);
    if (Ia3QueryRun(&activateQuery, values, nulls, false) == 0)
        Ia3VersionsRaiseNotOwned(task);
}

/* Locks the task's row; returns the active version or 0. */
static int
lock_task(const char *task)
{
    Datum value = CStringGetTextDatum(task);
    bool isNull;

    if (Ia3QueryRun(&lockQuery, &value, NULL, false) == 0)
        Ia3VersionsRaiseNotOwned(task);
    value = Ia3QueryColumn(1, &isNull);
    return isNull ? 0 : DatumGetInt32(value);
}

int
Ia3VersionsStore(const Ia3NewVersion *version)
{
    Ia3Identity caller;
    int number;

    Ia3SpiConnect();
    caller = Ia3BecomeTableOwner();
    number = take_number(version, caller.user);
    if (number > 0)
        insert_version(version, number, caller.user);
    Ia3BecomeAgain(caller);
    if (number == 0)
        Ia3VersionsRaiseTaken(version->task);
    if (version->activate || (version->replaces != 0 && lock_task(version->task) == version->replaces))
        activate(version->task, number, version->backbone, version->templates, version->choices,
                 version->wording, version->multiLabel);
    Ia3SpiFinish();
    return number;
}

void
Ia3VersionsMakeTask(const char *task, const char *backbone, const Ia3Strings *templates)
{
    Ia3Identity caller;
    Datum values[8];
    char nulls[8];

    Ia3SpiConnect();
    caller = Ia3BecomeTableOwner();
    values[0] = CStringGetTextDatum(task);
    values[1] = ObjectIdGetDatum(caller.user);
    values[2] = CStringGetTextDatum(backbone);
    values[3] = Ia3StringsToArray(templates);
    set_choices(values, nulls, NULL, NULL, false);
    Ia3QueryRun(&insertTaskQuery, values, nulls, false);
    Ia3BecomeAgain(caller);
    Ia3SpiFinish();
}

void
Ia3VersionsActivate(const char *task, int version)
{
    Ia3Task *found;

    if (version < 1)
        ereport(ERROR, (errcode(ERRCODE_UNDEFINED_OBJECT),
                        errmsg("version %d of ia3 task \"%s\" does not exist", version, task)));
    Ia3SpiConnect();
    lock_task(task);
    found = Ia3TaskLookupLatest(psprintf("%s@%d", task, version));
    activate(task, version, found->backbone, found->templates, found->choices, found->wording,
             found->multiLabel);
    Ia3SpiFinish();
}

void
Ia3VersionsDropTask(const char *task)
{
    Ia3Identity caller;
    Datum values[2];
    uint64 dropped;

    Ia3SpiConnect();
    lock_task(task);
    Ia3DependentsCheck(task, 0, "drop");
    values[0] = CStringGetTextDatum(task);
    caller = Ia3BecomeTableOwner();
    values[1] = ObjectIdGetDatum(caller.user);
    dropped = Ia3QueryRun(&dropTaskQuery, values, NULL, false);
    Ia3BecomeAgain(caller);
    if (dropped == 0)
        Ia3VersionsRaiseNotOwned(task);
    Ia3SpiFinish();
}

void
Ia3VersionsDrop(const char *task, int version)
{
    Ia3Identity caller;
    Datum values[3];
    uint64 dropped;

    Ia3SpiConnect();
    if (lock_task(task) == version)
        ereport(ERROR,
                (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
                 errmsg("version %d of ia3 task \"%s\" is active", version, task),
                 errhint("Activate another version first, or drop the whole task with ia3_drop(task).")));
    if (version > 0)
        Ia3DependentsCheck(task, version, "drop");
    values[0] = CStringGetTextDatum(task);
    values[1] = Int32GetDatum(version);
    caller = Ia3BecomeTableOwner();
    values[2] = ObjectIdGetDatum(caller.user);
    dropped = Ia3QueryRun(&dropVersionQuery, values, NULL, false);
    Ia3BecomeAgain(caller);
    if (dropped == 0)
        ereport(ERROR, (errcode(ERRCODE_UNDEFINED_OBJECT),
                        errmsg("version %d of ia3 task \"%s\" does not exist", version, task)));
    Ia3SpiFinish();
}
