/*
 * watch_hook.c
 *     What the workers of deferred watches have to know of the statements of others.
 *
 * A database to which a worker is connected could not be dropped, renamed, moved or copied. So, before such a statement of a role that
 * may do this, its worker is told to end, and none is started for some seconds; if one is started later nevertheless, it waits for
 * the statement's lock on the database before it counts as connected. Afterwards the launcher is told of new databases, which may be copies
 * of one in which rows wait, and the worker of rows that a prepared transaction has queued.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_database.h"
#include "commands/dbcommands.h"
#include "commands/defrem.h"
#include "commands/extension.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "tcop/utility.h"
#include "utils/acl.h"
#include "utils/syscache.h"

#include "watch_hook.h"
#include "watch_shared.h"
#include "extension/ia3_compat.h"

static ProcessUtility_hook_type previousHook = NULL;

/* The option of a statement about a database; NULL if it has none. */
static DefElem *
find_option(List *options, const char *name)
{
    ListCell *lc;

    foreach (lc, options)
        if (strcmp(((DefElem *) lfirst(lc))->defname, name) == 0)
            return lfirst(lc);
    return NULL;
}

static bool
is_template(Oid database)
{
    HeapTuple tuple = SearchSysCache1(DATABASEOID, ObjectIdGetDatum(database));
    bool result = false;

    if (HeapTupleIsValid(tuple)) {
        result = ((Form_pg_database) GETSTRUCT(tuple))->datistemplate;
        ReleaseSysCache(tuple);
    }
    return result;
}

static bool
may_create_databases(void)
{
    HeapTuple tuple = SearchSysCache1(AUTHOID, ObjectIdGetDatum(GetUserId()));
    bool result = superuser();

    if (HeapTupleIsValid(tuple)) {
        result |= ((Form_pg_authid) GETSTRUCT(tuple))->rolcreatedb;
        ReleaseSysCache(tuple);
    }
    return result;
}

/* Ends the worker of a database if the caller owns it, or wants to copy one that everybody may copy. */
static void
stop_worker(const char *name, bool copy)
{
    const Oid database = name ? get_database_oid(name, true) : InvalidOid;

    if (OidIsValid(database) &&
        (Ia3OwnsDatabase(database, GetUserId()) || (copy && is_template(database) && may_create_databases())))
        Ia3WatchStop(database);
}

static void
before_statement(Node *node)
{
    if (IsA(node, DropdbStmt))
        stop_worker(((DropdbStmt *) node)->dbname, false);
    else if (IsA(node, RenameStmt) && ((RenameStmt *) node)->renameType == OBJECT_DATABASE)
        stop_worker(((RenameStmt *) node)->subname, false);
    else if (IsA(node, AlterDatabaseStmt) && find_option(((AlterDatabaseStmt *) node)->options, "tablespace"))
        stop_worker(((AlterDatabaseStmt *) node)->dbname, false);
    else if (IsA(node, CreatedbStmt)) {
        DefElem *option = find_option(((CreatedbStmt *) node)->options, "template");

        stop_worker(option && option->arg ? defGetString(option) : "template1", true);
    }
}

static bool
commits_prepared(Node *node)
{
    return IsA(node, TransactionStmt) && ((TransactionStmt *) node)->kind == TRANS_STMT_COMMIT_PREPARED &&
           OidIsValid(get_extension_oid("ia3", true));
}

static void
run_utility(IA3_UTILITY_PARAMETERS)
{
    Node *node = statement->utilityStmt;
    const bool creates = IsA(node, CreatedbStmt), commits = commits_prepared(node);

    before_statement(node);
    if (previousHook)
        previousHook(IA3_UTILITY_ARGUMENTS);
    else
        standard_ProcessUtility(IA3_UTILITY_ARGUMENTS);
    if (creates)
        Ia3WatchWakeAtCommit(true); /* nobody else sees the database before */
    if (commits)
        Ia3WatchWake(MyDatabaseId);
}

void
Ia3WatchHookInit(void)
{
    previousHook = ProcessUtility_hook;
    ProcessUtility_hook = run_utility;
}
