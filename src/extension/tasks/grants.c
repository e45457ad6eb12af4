/*
 * grants.c
 *     ia3_grant, ia3_revoke, ia3_reassign, and who may read or change a task.
 *
 * The owner and the readers of a task are in its row of ia3.task, so they are dumped, restored and replicated with the
 * task, and disappear with it. Reading covers everything that leaves the task unchanged; only roles with the owner's
 * privileges may change it. The row is updated as the caller, so row security decides who may grant.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

#include "catalog.h"
#include "role.h"
#include "versions.h"
#include "writable.h"

/* Everybody who looks at ia3.task pays for its readers. */
#define MAX_READERS 10000

PG_FUNCTION_INFO_V1(ia3_task_readable);
PG_FUNCTION_INFO_V1(ia3_task_owned);
PG_FUNCTION_INFO_V1(ia3_task_roles_exist);
PG_FUNCTION_INFO_V1(ia3_grant);
PG_FUNCTION_INFO_V1(ia3_revoke);
PG_FUNCTION_INFO_V1(ia3_reassign);

/* A role that is among the readers already is moved to the end, not added twice. */
static Ia3Query grantQuery = {
    .sql = "UPDATE ia3.task t SET readers ="
           " pg_catalog.array_append(pg_catalog.array_remove(t.readers, ia3.role($2)), ia3.role($2))"
           " WHERE t.task OPERATOR(pg_catalog.=) $1",
    .nArgs = 2,
    .argTypes = {TEXTOID, REGROLEOID},
};

/* $2 is a role as it is written. */
static Ia3Query revokeQuery = {
    .sql = "UPDATE ia3.task t SET readers = pg_catalog.array_remove(t.readers, CAST($2 AS ia3.role))"
           " WHERE t.task OPERATOR(pg_catalog.=) $1",
    .nArgs = 2,
    .argTypes = {TEXTOID, TEXTOID},
};

static Ia3Query hasReaderQuery = {
    .sql = "SELECT EXISTS (SELECT 1 FROM pg_catalog.unnest(t.readers) r"
           " WHERE ia3.role_eq(r, CAST($2 AS ia3.role)))"
           " FROM ia3.task t WHERE t.task OPERATOR(pg_catalog.=) $1",
    .nArgs = 2,
    .argTypes = {TEXTOID, TEXTOID},
};

static Ia3Query reassignQuery = {
    .sql = "UPDATE ia3.task t SET owner = ia3.role($2) WHERE ia3.role_eq(t.owner, CAST($1 AS ia3.role))",
    .nArgs = 2,
    .argTypes = {TEXTOID, REGROLEOID},
};

/* The elements of an array of ia3.role. */
static int
roles_of(ArrayType *array, Datum **roles, bool **nulls)
{
    int16 length;
    bool byValue;
    char align;
    int n;

    get_typlenbyvalalign(ARR_ELEMTYPE(array), &length, &byValue, &align);
    deconstruct_array(array, ARR_ELEMTYPE(array), length, byValue, align, roles, nulls, &n);
    return n;
}

/*
 * The test that the policies and ia3.adapters apply to a row of ia3.task: does the current role, or the given one,
 * have the privileges of the owner or of a reader? As with tables, a membership that does not inherit gives none
 * before SET ROLE.
 */
Datum
ia3_task_readable(PG_FUNCTION_ARGS)
{
    Oid user = PG_NARGS() > 2 ? PG_GETARG_OID(2) : GetUserId();
    Datum *readers;
    bool *nulls;
    int n;

    if (Ia3RoleIsHeldBy(DatumGetIa3RoleP(PG_GETARG_DATUM(0)), user))
        PG_RETURN_BOOL(true);
    n = roles_of(PG_GETARG_ARRAYTYPE_P(1), &readers, &nulls);
    for (int i = 0; i < n; i++) {
        Ia3Role *reader = nulls[i] ? NULL : DatumGetIa3RoleP(readers[i]);

        CHECK_FOR_INTERRUPTS();
        if (reader && (Ia3RoleIsPublic(reader) || Ia3RoleIsHeldBy(reader, user)))
            PG_RETURN_BOOL(true);
    }
    PG_RETURN_BOOL(false);
}

/* Does the current role, or the given one, have the privileges of the owner? */
Datum
ia3_task_owned(PG_FUNCTION_ARGS)
{
    Oid user = PG_NARGS() > 1 ? PG_GETARG_OID(1) : GetUserId();

    PG_RETURN_BOOL(Ia3RoleIsHeldBy(DatumGetIa3RoleP(PG_GETARG_DATUM(0)), user));
}

static void
raise_no_role(const char *role)
{
    ereport(ERROR, (errcode(ERRCODE_UNDEFINED_OBJECT), errmsg("role \"%s\" does not exist", role)));
}

/* The value of a column as roles: that of the owner, or the elements of the readers. */
typedef struct RoleList {
    int n;
    Datum one;
    Datum *roles;
    bool *nulls; /* NULL: none is null */
} RoleList;

static const Ia3Role *
role_at(const RoleList *list, int i)
{
    return list->nulls && list->nulls[i] ? NULL : DatumGetIa3RoleP(list->roles[i]);
}

static void
read_roles(RoleList *list, HeapTuple tuple, TupleDesc desc, const char *column, bool array)
{
    bool isNull;

    memset(list, 0, sizeof *list);
    list->one = heap_getattr(tuple, SPI_fnumber(desc, column), desc, &isNull);
    if (isNull)
        return; /* NOT NULL has yet to be checked */
    list->n = 1;
    list->roles = &list->one;
    if (array)
        list->n = roles_of(DatumGetArrayTypeP(list->one), &list->roles, &list->nulls);
}

static bool
has_role(const RoleList *list, const Ia3Role *role)
{
    for (int i = 0; i < list->n; i++) {
        const Ia3Role *other = role_at(list, i);

        if (other && VARSIZE(other) == VARSIZE(role) && memcmp(other, role, VARSIZE(role)) == 0)
            return true;
    }
    return false;
}

/*
 * The trigger that rejects updates which name roles that do not exist; such names may only come with rows of another
 * cluster. A misspelt owner would lose the task, and a misspelt reader might exist later. It also bounds the number of
 * readers.
 */
Datum
ia3_task_roles_exist(PG_FUNCTION_ARGS)
{
    static const char *const columns[] = {"owner", "readers"};
    TriggerData *trigger = (TriggerData *) fcinfo->context;
    TupleDesc desc;
    RoleList before, after;

    if (!CALLED_AS_TRIGGER(fcinfo))
        elog(ERROR, "ia3.task_roles_exist() was not called by the trigger manager");
    desc = RelationGetDescr(trigger->tg_relation);
    for (int c = 0; c < 2; c++) {
        bool array = c == 1;

        read_roles(&before, trigger->tg_trigtuple, desc, columns[c], array);
        read_roles(&after, trigger->tg_newtuple, desc, columns[c], array);
        if (after.n > MAX_READERS && after.n > before.n)
            ereport(ERROR,
                    (errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED), errmsg("too many readers of an ia3 task"),
                     errdetail("A task can have at most %d readers.", MAX_READERS),
                     errhint("Let roles read the task as members of another role.")));
        for (int i = 0; i < after.n; i++) {
            const Ia3Role *role = role_at(&after, i);

            CHECK_FOR_INTERRUPTS();
            if (role && !OidIsValid(Ia3RoleOid(role)) && !(array && Ia3RoleIsPublic(role)) &&
                !has_role(&before, role))
                raise_no_role(Ia3RoleText(role));
        }
    }
    return PointerGetDatum(trigger->tg_newtuple);
}

static void
update_readers(Ia3Query *query, Datum task, Datum role)
{
    Datum values[2] = {task, role};

    Ia3SpiConnect();
    if (Ia3QueryRun(query, values, NULL, false) == 0)
        Ia3VersionsRaiseNotOwned(TextDatumGetCString(task));
    Ia3SpiFinish();
}

/* ERROR 42704 unless the role is among the readers of the task, or there is no such task. */
static void
check_reader(Datum task, const char *role, const char *name)
{
    Datum values[2] = {task, CStringGetTextDatum(role)};
    bool isNull, found;

    Ia3SpiConnect();
    found = Ia3QueryRun(&hasReaderQuery, values, NULL, true) == 0 || DatumGetBool(Ia3QueryColumn(1, &isNull));
    Ia3SpiFinish();
    if (!found)
        raise_no_role(name);
}

/* Lets a role and its members read a task; "public" stands for everybody. */
Datum
ia3_grant(PG_FUNCTION_ARGS)
{
    Ia3CheckWritable("ia3_grant()");
    Ia3TaskCheckName(TextDatumGetCString(PG_GETARG_DATUM(0)));
    update_readers(&grantQuery, PG_GETARG_DATUM(0),
                   ObjectIdGetDatum(get_role_oid_or_public(NameStr(*PG_GETARG_NAME(1)))));
    PG_RETURN_VOID();
}

/*
 * Revokes what ia3_grant has given; it is not an error if that is nothing. A role that does not exist can be revoked
 * only if it is among the readers.
 */
Datum
ia3_revoke(PG_FUNCTION_ARGS)
{
    const char *name = NameStr(*PG_GETARG_NAME(1));
    bool everybody = strcmp(name, "public") == 0;
    const char *role = everybody ? "-" : Ia3RoleTextOfName(name);

    Ia3CheckWritable("ia3_revoke()");
    Ia3TaskCheckName(TextDatumGetCString(PG_GETARG_DATUM(0)));
    if (!everybody && !OidIsValid(get_role_oid(name, true)))
        check_reader(PG_GETARG_DATUM(0), role, name);
    update_readers(&revokeQuery, PG_GETARG_DATUM(0), CStringGetTextDatum(role));
    PG_RETURN_VOID();
}

static void
check_may_reassign(Oid role, const char *name, const char *detail)
{
    if (!has_privs_of_role(GetUserId(), role))
        ereport(ERROR, (errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
                        errmsg("permission denied to reassign ia3 tasks"), errdetail(detail, name)));
}

/*
 * Gives the tasks of a role to another. The rule is that of REASSIGN OWNED: the caller has to have the privileges of
 * both. Only superusers may reassign the tasks of a role that does not exist, and others do not learn whether there are
 * any.
 */
Datum
ia3_reassign(PG_FUNCTION_ARGS)
{
    const char *from = NameStr(*PG_GETARG_NAME(0));
    const char *to = NameStr(*PG_GETARG_NAME(1));
    Oid fromOid = get_role_oid(from, true);
    Oid toOid = get_role_oid(to, false);
    Datum values[2];
    uint64 n;

    Ia3CheckWritable("ia3_reassign()");
    if (!OidIsValid(fromOid) && !superuser())
        raise_no_role(from);
    if (OidIsValid(fromOid))
        check_may_reassign(fromOid, from,
                           "Only roles with privileges of role \"%s\" may reassign tasks owned by it.");
    check_may_reassign(toOid, to, "Only roles with privileges of role \"%s\" may reassign tasks to it.");

    values[0] = CStringGetTextDatum(Ia3RoleTextOfName(from));
    values[1] = ObjectIdGetDatum(toOid);
    Ia3SpiConnect();
    n = Ia3QueryRun(&reassignQuery, values, NULL, false);
    Ia3SpiFinish();
    if (n == 0 && !OidIsValid(fromOid))
        raise_no_role(from);
    PG_RETURN_INT32((int32) n);
}
