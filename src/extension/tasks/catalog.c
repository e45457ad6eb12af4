/*
 * catalog.c
 *     Prepared statements over the tables of the schema ia3, and running them as the owner of these tables.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/dependency.h"
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "commands/extension.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/resowner.h"
#include "utils/syscache.h"

#include "catalog.h"

void
Ia3SpiConnect(void)
{
    int rc = SPI_connect();

    if (rc != SPI_OK_CONNECT)
        elog(ERROR, "SPI_connect failed: %s", SPI_result_code_string(rc));
}

void
Ia3SpiFinish(void)
{
    int rc = SPI_finish();

    if (rc != SPI_OK_FINISH)
        elog(ERROR, "SPI_finish failed: %s", SPI_result_code_string(rc));
}

static void
prepare_and_execute(Ia3Query *query, Datum *values, const char *nulls, bool readOnly)
{
    int rc;

    if (query->plan == NULL) {
        SPIPlanPtr plan = SPI_prepare(query->sql, query->nArgs, query->argTypes);

        if (plan == NULL)
            elog(ERROR, "SPI_prepare failed for \"%s\": %s", query->sql, SPI_result_code_string(SPI_result));
        SPI_keepplan(plan);
        query->plan = plan;
    }
    rc = SPI_execute_plan(query->plan, values, nulls, readOnly, 0);
    if (rc < 0)
        elog(ERROR, "SPI_execute_plan failed for \"%s\": %s", query->sql, SPI_result_code_string(rc));
}

/* Removes the line of a context that has the statement in it, whatever language the rest of the line is in. */
static void
remove_statement(ErrorData *error, const char *sql)
{
    char *found = error->context ? strstr(error->context, sql) : NULL;
    char *begin, *end;

    if (found == NULL)
        return;
    begin = found;
    while (begin > error->context && begin[-1] != '\n')
        begin--;
    end = strchr(found, '\n');
    if (end != NULL)
        memmove(begin, end + 1, strlen(end + 1) + 1);
    else if (begin > error->context)
        begin[-1] = '\0'; /* the newline goes as well */
    else
        error->context = NULL;
}

uint64
Ia3QueryRun(Ia3Query *query, Datum *values, const char *nulls, bool readOnly)
{
    MemoryContext caller = CurrentMemoryContext;

    PG_TRY();
    {
        prepare_and_execute(query, values, nulls, readOnly);
    }
    PG_CATCH();
    {
        ErrorData *error;

        MemoryContextSwitchTo(caller);
        error = CopyErrorData();
        FlushErrorState();
        remove_statement(error, query->sql);
        ReThrowError(error);
    }
    PG_END_TRY();
    return SPI_processed;
}

Datum
Ia3QueryColumn(int column, bool *isNull)
{
    return SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, column, isNull);
}

Jsonb *
Ia3QueryJsonb(int column)
{
    bool isNull;
    Datum value = Ia3QueryColumn(column, &isNull);

    return isNull ? NULL : DatumGetJsonbPCopy(value);
}

static bool
is_ours(Oid relation)
{
    Oid extension = get_extension_oid("ia3", true);

    return OidIsValid(extension) && getExtensionOfObject(RelationRelationId, relation) == extension;
}

/*
 * The owner of ia3.task, who is exempt from its row security. Another role may have made a schema of this name after
 * the extension was dropped; nobody becomes the owner of its tables. The lock keeps ours from being dropped before the
 * transaction ends.
 */
static Oid
table_owner(void)
{
    Oid schema, relation, owner;
    HeapTuple tuple = NULL;

    AcceptInvalidationMessages(); /* of what has happened while an engine worked */
    schema = get_namespace_oid("ia3", true);
    relation = OidIsValid(schema) ? get_relname_relid("task", schema) : InvalidOid;
    if (OidIsValid(relation) && is_ours(relation)) {
        LockRelationOid(relation, AccessShareLock);
        tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(relation)); /* it may have been dropped meanwhile */
    }
    if (!HeapTupleIsValid(tuple))
        ereport(ERROR, (errcode(ERRCODE_UNDEFINED_OBJECT), errmsg("extension \"ia3\" does not exist"),
                        errdetail("It was dropped after this call had begun, and its tables with it.")));
    owner = ((Form_pg_class) GETSTRUCT(tuple))->relowner;
    ReleaseSysCache(tuple);
    return owner;
}

void
Ia3RunAndRollBack(void (*run)(void *arg), void *arg)
{
    MemoryContext caller = CurrentMemoryContext;
    ResourceOwner owner = CurrentResourceOwner;

    BeginInternalSubTransaction(NULL);
    MemoryContextSwitchTo(caller);
    PG_TRY();
    {
        run(arg);
        RollbackAndReleaseCurrentSubTransaction();
        MemoryContextSwitchTo(caller);
        CurrentResourceOwner = owner;
    }
    PG_CATCH();
    {
        ErrorData *error;

        MemoryContextSwitchTo(caller);
        error = CopyErrorData();
        FlushErrorState();
        RollbackAndReleaseCurrentSubTransaction();
        MemoryContextSwitchTo(caller);
        CurrentResourceOwner = owner;
        ReThrowError(error);
    }
    PG_END_TRY();
}

Ia3Identity
Ia3BecomeTableOwner(void)
{
    Ia3Identity caller;

    Oid owner = table_owner();

    GetUserIdAndSecContext(&caller.user, &caller.context);
    if (!SearchSysCacheExists1(AUTHOID, ObjectIdGetDatum(caller.user)))
        ereport(ERROR,
                (errcode(ERRCODE_UNDEFINED_OBJECT), errmsg("role with OID %u does not exist", caller.user),
                 errdetail("The current role has been dropped.")));
    SetUserIdAndSecContext(owner, caller.context | SECURITY_LOCAL_USERID_CHANGE);
    return caller;
}

void
Ia3BecomeAgain(Ia3Identity caller)
{
    SetUserIdAndSecContext(caller.user, caller.context);
}
