/*
 * grants.c
 *     ia3_grant, ia3_revoke, and who may read a task.
 *
 * The readers of a task are an array in its row of ia3.task, so they are dumped, restored and replicated with the
 * task, and disappear with it. Reading covers everything that leaves the task unchanged; only roles with the owner's
 * privileges may change it. The row is updated as the caller, so row security decides who may grant.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"

#include "catalog.h"
#include "versions.h"

PG_FUNCTION_INFO_V1(ia3_task_readable);
PG_FUNCTION_INFO_V1(ia3_grant);
PG_FUNCTION_INFO_V1(ia3_revoke);

/* A role that is among the readers already is moved to the end, not added twice. */
static Ia3Query grantQuery = {
    .sql = "UPDATE ia3.task t SET readers ="
           " pg_catalog.array_append(pg_catalog.array_remove(t.readers, $2), $2)"
           " WHERE t.task OPERATOR(pg_catalog.=) $1",
    .nArgs = 2,
    .argTypes = {TEXTOID, REGROLEOID},
};

static Ia3Query revokeQuery = {
    .sql = "UPDATE ia3.task t SET readers = pg_catalog.array_remove(t.readers, $2)"
           " WHERE t.task OPERATOR(pg_catalog.=) $1",
    .nArgs = 2,
    .argTypes = {TEXTOID, REGROLEOID},
};

/*
 * The test that the policies and ia3.adapters apply to a row of ia3.task: does the current role have the privileges
 * of the owner or of a reader? As with tables, a membership that does not inherit gives none before SET ROLE. A role
 * that has been dropped has no members, although superusers count as members of every role.
 */
Datum
ia3_task_readable(PG_FUNCTION_ARGS)
{
    Oid user = GetUserId();
    Datum *readers;
    bool *nulls;
    int n;

    if (has_privs_of_role(user, PG_GETARG_OID(0)))
        PG_RETURN_BOOL(true);
    deconstruct_array(PG_GETARG_ARRAYTYPE_P(1), REGROLEOID, sizeof(Oid), true, TYPALIGN_INT, &readers, &nulls,
                      &n);
    for (int i = 0; i < n; i++) {
        if (nulls[i])
            continue;
        if (DatumGetObjectId(readers[i]) == ACL_ID_PUBLIC ||
            has_privs_of_role(user, DatumGetObjectId(readers[i])))
            PG_RETURN_BOOL(true);
    }
    PG_RETURN_BOOL(false);
}

static void
update_readers(FunctionCallInfo fcinfo, Ia3Query *query, const char *function)
{
    char *task = text_to_cstring(PG_GETARG_TEXT_PP(0));
    Datum values[2];

    PreventCommandDuringRecovery(function);
    PreventCommandIfReadOnly(function);
    PreventCommandIfParallelMode(function);
    Ia3TaskCheckName(task);
    values[0] = PG_GETARG_DATUM(0);
    values[1] = ObjectIdGetDatum(get_role_oid_or_public(NameStr(*PG_GETARG_NAME(1))));
    Ia3SpiConnect();
    if (Ia3QueryRun(query, values, NULL, false) == 0)
        Ia3VersionsRaiseNotOwned(task);
    Ia3SpiFinish();
}

/* Lets a role and its members read a task; "public" stands for everybody. */
Datum
ia3_grant(PG_FUNCTION_ARGS)
{
    update_readers(fcinfo, &grantQuery, "ia3_grant()");
    PG_RETURN_VOID();
}

/* Revokes what ia3_grant has given; it is not an error if that is nothing. */
Datum
ia3_revoke(PG_FUNCTION_ARGS)
{
    update_readers(fcinfo, &revokeQuery, "ia3_revoke()");
    PG_RETURN_VOID();
}
