/*
 * label_watch.c
 *     ia3_watch and ia3_unwatch: creating and dropping the triggers that keep a column filled with predictions.
 *
 * The triggers run expressions as the owner of the table, so only the owner may create them: the right to execute the trigger
 * function is not PUBLIC's, or the privilege TRIGGER, which is part of GRANT ALL, would be as good as the owner's. ia3_watch has
 * that right, and checks who calls it.
 */
#include "postgres.h"

#include "access/relation.h"
#include "catalog/namespace.h"
#include "catalog/objectaddress.h"
#include "catalog/pg_class.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_type.h"
#include "commands/defrem.h"
#include "commands/trigger.h"
#include "miscadmin.h"
#include "parser/parse_func.h"
#include "storage/lmgr.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/queryenvironment.h"
#include "utils/rel.h"
#include "utils/syscache.h"

#include "label_expression.h"
#include "label_watch.h"
#include "watch_queue.h"
#include "watch_shared.h"
#include "extension/supervisor/shmem.h"
#include "extension/tasks/catalog.h"
#include "extension/tasks/task.h"

PG_FUNCTION_INFO_V1(ia3_watch);
PG_FUNCTION_INFO_V1(ia3_unwatch);

/* Positions of the arguments of ia3_watch, from 0. */
enum { ARG_RELATION, ARG_TASK, ARG_INPUT, ARG_LABEL, ARG_VERSION, ARG_PROBABILITY, ARG_CONDITION, ARG_MODE };

Oid
Ia3WatchFunction(void)
{
    return LookupFuncName(list_make2(makeString(pstrdup("ia3")), makeString(pstrdup("watch_changes"))), 0,
                          NULL, true);
}

static void
check_owner(Oid relation)
{
    HeapTuple tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(relation));
    Oid owner;

    if (!HeapTupleIsValid(tuple))
        ereport(ERROR,
                (errcode(ERRCODE_UNDEFINED_TABLE), errmsg("relation with OID %u does not exist", relation)));
    owner = ((Form_pg_class) GETSTRUCT(tuple))->relowner;
    ReleaseSysCache(tuple);
    if (!has_privs_of_role(GetUserId(), owner))
        aclcheck_error(ACLCHECK_NOT_OWNER, get_relkind_objtype(get_rel_relkind(relation)),
                       get_rel_name(relation));
}

void
Ia3WatchCheckOwner(FunctionCallInfo fcinfo)
{
    if (PG_ARGISNULL(0))
        ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED), errmsg("relation must not be null")));
    check_owner(PG_GETARG_OID(0));
}

/* Opens a relation of the caller, locked as for creating a trigger: nobody may change its rows meanwhile. */
static Relation
open_own(FunctionCallInfo fcinfo)
{
    Oid relation;

    Ia3WatchCheckOwner(fcinfo); /* nobody else gets the lock */
    relation = PG_GETARG_OID(0);
    LockRelationOid(relation, ShareRowExclusiveLock);
    check_owner(relation);
    return relation_open(relation, NoLock);
}

/* The trigger number i of the relation as a watch, NULL if it is another one. */
static const Trigger *
watch_trigger(Relation relation, int i, const char *label)
{
    const Trigger *trigger = &relation->trigdesc->triggers[i];

    if (trigger->tgfoid != Ia3WatchFunction() ||
        (label != NULL && strcmp(Ia3WatchRead(relation, trigger)->target.label, label) != 0))
        return NULL;
    return trigger;
}

static int
n_triggers(Relation relation)
{
    return relation->trigdesc ? relation->trigdesc->numtriggers : 0;
}

Ia3Watch *
Ia3WatchFind(Relation relation, const char *label)
{
    for (int i = 0; i < n_triggers(relation); i++) {
        const Trigger *trigger = watch_trigger(relation, i, label);

        if (trigger != NULL)
            return Ia3WatchRead(relation, trigger);
    }
    return NULL;
}

/* --- ia3_watch --- */

/* A deferred watch works by itself, with the rights of the owner, so these must have a limit. */
static void
check_deferred(Relation relation)
{
    const Oid owner = relation->rd_rel->relowner;

    Ia3RequirePreload();
    if (superuser_arg(owner))
        ereport(ERROR,
                (errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
                 errmsg("deferred watches do not work for superusers"),
                 errdetail("Table \"%s\" is owned by \"%s\", which is a superuser.",
                           RelationGetRelationName(relation), GetUserNameFromId(owner, false)),
                 errhint("Let an ordinary role own the table (ALTER TABLE ... OWNER TO), or use the mode "
                         "\"direct\".")));
    if (relation->rd_rel->relpersistence == RELPERSISTENCE_TEMP)
        ereport(ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
                        errmsg("mode \"deferred\" is not supported for temporary tables"),
                        errdetail("The worker that labels rows cannot read them.")));
    if (!Ia3WatchHasLauncher())
        ereport(WARNING,
                (errmsg("rows will wait: the process that starts workers for deferred watches does not run"),
                 errhint("You might need to increase max_worker_processes, and to restart the server.")));
}

/* Returns the mode as triggers have it. */
static char *
read_mode(FunctionCallInfo fcinfo, Relation relation)
{
    char *mode = Ia3LabelText(fcinfo, ARG_MODE, "mode");

    if (strcmp(mode, "direct") == 0)
        return NULL;
    if (strcmp(mode, "deferred") != 0)
        ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("invalid mode \"%s\"", mode),
                        errhint("The modes are \"direct\" and \"deferred\".")));
    check_deferred(relation);
    return mode;
}

static void
check_relation(Relation relation, const Ia3LabelTarget *target)
{
    Ia3LabelCheck(target);
    if (relation->rd_rel->relkind == RELKIND_RELATION &&
        find_inheritance_children(RelationGetRelid(relation), NoLock) != NIL)
        ereport(ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
                        errmsg("cannot watch \"%s\"", RelationGetRelationName(relation)),
                        errdetail("Other tables inherit from it."),
                        errhint("Watch those tables, or call ia3_label instead.")));
    for (int i = 0; i < n_triggers(relation); i++)
        if (watch_trigger(relation, i, target->label) != NULL)
            ereport(ERROR, (errcode(ERRCODE_DUPLICATE_OBJECT),
                            errmsg("column \"%s\" of table \"%s\" is watched already", target->label,
                                   RelationGetRelationName(relation)),
                            errhint("Call ia3_unwatch first.")));
}

/* Lets statements that are prepared, but not run, name a transition table. */
static void
register_transition_table(Relation relation, const char *name)
{
    EphemeralNamedRelation table = palloc0(sizeof(EphemeralNamedRelationData));

    table->md.name = pstrdup(name);
    table->md.reliddesc = RelationGetRelid(relation);
    table->md.enrtype = ENR_NAMED_TUPLESTORE;
    if (SPI_register_relation(table) != SPI_OK_REL_REGISTER)
        elog(ERROR, "SPI_register_relation failed");
}

static void
check_statement(const char *sql)
{
    if (SPI_prepare(sql, 0, NULL) == NULL)
        elog(ERROR, "SPI_prepare failed: %s", SPI_result_code_string(SPI_result));
}

/* The same for a statement of Ia3WatchQueued. */
static void
check_queued(const char *sql, const Ia3WatchKey *key)
{
    Oid *types = palloc(sizeof(Oid) * (key->n + 2));

    types[0] = INT4ARRAYOID;
    for (int i = 1; i < key->n + 2; i++)
        types[i] = TEXTARRAYOID;
    if (SPI_prepare(sql, key->n + 2, types) == NULL)
        elog(ERROR, "SPI_prepare failed: %s", SPI_result_code_string(SPI_result));
}

/* Says who is meant by errors of things that do not exist. */
static void
add_context(void *arg)
{
    errcontext("watch that works as role \"%s\", the owner of the table", (const char *) arg);
}

/* Finds the errors that the triggers would have: as the owner of the table, who must be able to use the task, and inside SPI. */
static void
check_statements(Relation relation, const Ia3Watch *watch)
{
    char *owner = GetUserNameFromId(relation->rd_rel->relowner, false);
    ErrorContextCallback context = {error_context_stack, add_context, owner};
    const Ia3WatchKey *key = Ia3WatchFindKey(relation);
    const Ia3WatchCaller caller = Ia3WatchBecomeOwner(relation);
    const Ia3Task *task;

    error_context_stack = &context;
    task = Ia3TaskLookup(watch->task);
    Ia3LabelRefuseMultiLabel(task);
    register_transition_table(relation, IA3_WATCH_NEW);
    register_transition_table(relation, IA3_WATCH_OLD);
    check_statement(Ia3WatchInserted(relation, watch, key, true));
    check_statement(Ia3WatchUpdated(relation, watch, key, IA3_WATCH_BY_KEY));
    if (Ia3WatchIsDeferred(watch))
        check_queued(Ia3WatchQueued(relation, watch, key, true), key);
    SPI_freeplan(Ia3LabelPrepareUpdate(&watch->target, task->version));
    error_context_stack = context.previous;
    Ia3WatchBecomeCaller(caller);
    SPI_unregister_relation(IA3_WATCH_NEW);
    SPI_unregister_relation(IA3_WATCH_OLD);
}

/* A name that no trigger of the relation has. */
static char *
trigger_name(Relation relation, const char *label, const char *event)
{
    for (int number = 0;; number++) {
        char *name =
            makeObjectName("ia3_watch", label, number == 0 ? event : psprintf("%s%d", event, number));

        if (!OidIsValid(get_trigger_oid(RelationGetRelid(relation), name, true)))
            return name;
    }
}

static void
create_trigger(Relation relation, const Ia3Watch *watch, const char *event, const char *tables)
{
    const char *name = trigger_name(relation, watch->target.label, event);
    const char *sql =
        psprintf("CREATE TRIGGER %s AFTER %s ON %s REFERENCING %s FOR EACH STATEMENT"
                 " EXECUTE FUNCTION ia3.watch_changes(%s)",
                 quote_identifier(name), event, watch->target.name, tables, Ia3WatchWrite(watch));

    if (SPI_execute(sql, false, 0) != SPI_OK_UTILITY)
        elog(ERROR, "CREATE TRIGGER failed");
}

Datum
ia3_watch(PG_FUNCTION_ARGS)
{
    Ia3Watch watch = {.task = NULL};
    Ia3LabelTarget *target = &watch.target;
    Relation relation = open_own(fcinfo);
    Ia3Identity caller;

    target->relation = RelationGetRelid(relation);
    target->name = Ia3LabelTableName(target->relation);
    watch.task = Ia3LabelText(fcinfo, ARG_TASK, "task");
    target->input = Ia3LabelText(fcinfo, ARG_INPUT, "input");
    target->label = Ia3LabelText(fcinfo, ARG_LABEL, "label_column");
    target->version = Ia3LabelText(fcinfo, ARG_VERSION, NULL);
    target->probability = Ia3LabelText(fcinfo, ARG_PROBABILITY, NULL);
    target->condition = Ia3LabelText(fcinfo, ARG_CONDITION, NULL);
    watch.searchPath = pstrdup(namespace_search_path);
    watch.mode = read_mode(fcinfo, relation);
    check_relation(relation, target);
    target->input = Ia3ExpressionQualify(target->relation, target->input, "input", false);
    if (target->condition)
        target->condition = Ia3ExpressionQualify(target->relation, target->condition, "condition", true);

    Ia3SpiConnect();
    check_statements(relation, &watch);
    caller = Ia3BecomeTableOwner();
    create_trigger(relation, &watch, "insert", "NEW TABLE AS " IA3_WATCH_NEW);
    create_trigger(relation, &watch, "update", "OLD TABLE AS " IA3_WATCH_OLD " NEW TABLE AS " IA3_WATCH_NEW);
    Ia3BecomeAgain(caller);
    Ia3SpiFinish();
    relation_close(relation, NoLock);
    PG_RETURN_VOID();
}

/* --- ia3_unwatch --- */

/* Removes what waits for a watch, and says so. Each of its triggers calls this. */
static void
clear_queue(Oid relation, const char *label)
{
    const int64 n = Ia3QueueClear(relation, label);

    if (n > 0)
        ereport(NOTICE, (errmsg("rows of table \"%s\" that waited are not labelled: " INT64_FORMAT,
                                get_rel_name(relation), n),
                         errhint("To label them, call ia3_label.")));
    Ia3WatchCountSet(relation, label, 0);
}

Datum
ia3_unwatch(PG_FUNCTION_ARGS)
{
    Relation relation = open_own(fcinfo);
    const char *label = Ia3LabelText(fcinfo, 1, NULL);
    const Oid id = RelationGetRelid(relation);
    const char *table = Ia3LabelTableName(id);
    List *statements = NIL, *deferred = NIL;
    ListCell *lc;

    for (int i = 0; i < n_triggers(relation); i++) {
        const Trigger *trigger = watch_trigger(relation, i, label);
        const Ia3Watch *watch = trigger ? Ia3WatchRead(relation, trigger) : NULL;

        if (watch == NULL)
            continue;
        statements =
            lappend(statements, psprintf("DROP TRIGGER %s ON %s", quote_identifier(trigger->tgname), table));
        if (Ia3WatchIsDeferred(watch))
            deferred = lappend(deferred, watch->target.label);
    }
    if (statements == NIL && label != NULL)
        ereport(ERROR,
                (errcode(ERRCODE_UNDEFINED_OBJECT), errmsg("column \"%s\" of table \"%s\" is not watched",
                                                           label, RelationGetRelationName(relation))));
    if (statements == NIL)
        ereport(ERROR, (errcode(ERRCODE_UNDEFINED_OBJECT),
                        errmsg("table \"%s\" is not watched", RelationGetRelationName(relation))));
    relation_close(relation, NoLock); /* or it could not be changed */
    Ia3SpiConnect();
    foreach (lc, statements)
        if (SPI_execute(lfirst(lc), false, 0) != SPI_OK_UTILITY)
            elog(ERROR, "DROP TRIGGER failed");
    foreach (lc, deferred)
        clear_queue(id, lfirst(lc));
    Ia3SpiFinish();
    PG_RETURN_VOID();
}
