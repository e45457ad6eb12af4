/*
 * label_watch_run.c
 *     ia3.watch_changes: the trigger function that labels the rows which a statement has inserted or updated, or has them queued
 *     (watch_enqueue.c).
 *
 * It runs after the statement, once. The rows to be labelled are read and predicted as the owner of the table, in a
 * security-restricted operation; the UPDATE that stores the labels runs as the owner, too, as the actions of foreign keys do. It
 * fires other triggers of the table. That is why its search_path is not the caller's: these triggers run with the owner's rights, and
 * would execute functions that the caller has put into a schema of his own.
 */
#include "postgres.h"

#include "catalog/pg_inherits.h"
#include "catalog/pg_class.h"
#include "commands/trigger.h"
#include "miscadmin.h"
#include "nodes/pg_list.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/tuplestore.h"

#include "label_rows.h"
#include "label_watch.h"
#include "extension/tasks/catalog.h"

PG_FUNCTION_INFO_V1(ia3_watch_changes);

/* Rows that are read, predicted and updated at a time, as in ia3_label. */
#define FETCH_ROWS 1000

typedef enum Phase { PHASE_READ, PHASE_PREDICT, PHASE_STORE } Phase;

typedef struct Run {
    const TriggerData *data;
    Relation relation;
    Ia3Watch *watch;
    Ia3LabelInput input;
    SPIPlanPtr update; /* NULL: no row yet */
    MemoryContext context, scratch;
    Phase phase; /* for the hint of an error */
} Run;

/* --- the UPDATE that a watch makes, and the triggers that it fires --- */

/*
 * The watches whose UPDATE is running, the innermost first. An UPDATE of a watch of depth d fires triggers of depth d + 1; what
 * these triggers do themselves fires triggers of depth d + 2.
 */
typedef struct Storing {
    Oid relation;
    const char *label;
    int depth;
    struct Storing *outer;
} Storing;

static Storing *storing = NULL;

/* How deep the trigger that is running is. */
static int
trigger_depth(void)
{
    return DatumGetInt32(DirectFunctionCall1(pg_trigger_depth, (Datum) 0));
}

/*
 * Whether the watch has made the statement that fires it: by itself, or through other watches of its columns, which would otherwise
 * call each other without an end.
 */
static bool
is_own_statement(Oid relation, const char *label)
{
    int depth = trigger_depth();

    for (const Storing *s = storing; s != NULL && s->depth == depth - 1; s = s->outer, depth--)
        if (s->relation == relation && strcmp(s->label, label) == 0)
            return true;
    return false;
}

void
Ia3WatchStore(Relation relation, const Ia3Watch *watch, SPIPlanPtr update, const Ia3LabelAnswers *answers)
{
    Storing own = {RelationGetRelid(relation), watch->target.label, trigger_depth(), storing};

    storing = &own;
    PG_TRY();
    {
        (void) Ia3LabelStore(update, RelationGetRelid(relation), answers);
    }
    PG_FINALLY();
    {
        storing = own.outer;
    }
    PG_END_TRY();
}

/* Stores the answers as the owner of the table. */
static void
store(Run *run, const Ia3LabelAnswers *answers)
{
    const Ia3WatchCaller caller = Ia3WatchBecomeOwnerToStore(run->relation, run->watch);

    run->phase = PHASE_STORE;
    Ia3WatchStore(run->relation, run->watch, run->update, answers);
    Ia3WatchBecomeCaller(caller);
}

/* --- the owner --- */

static Ia3WatchCaller
become(Oid role, int flags, const char *searchPath)
{
    Ia3WatchCaller caller;

    GetUserIdAndSecContext(&caller.user, &caller.context);
    SetUserIdAndSecContext(role,
                           caller.context | flags | SECURITY_LOCAL_USERID_CHANGE | SECURITY_NOFORCE_RLS);
    caller.nest = NewGUCNestLevel();
    (void) set_config_option("search_path", searchPath, PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0,
                             false);
    return caller;
}

Ia3WatchCaller
Ia3WatchBecomeOwner(Relation relation)
{
    return Ia3WatchBecomeRole(relation->rd_rel->relowner, NULL);
}

/* Temporary tables, which may be the caller's, come last, unless the path says otherwise. */
static const char *
with_temporary(const char *searchPath)
{
    return searchPath[0] == '\0' ? "pg_temp" : psprintf("%s, pg_temp", searchPath);
}

Ia3WatchCaller
Ia3WatchBecomeRole(Oid role, const char *searchPath)
{
    return become(role, SECURITY_RESTRICTED_OPERATION,
                  searchPath ? with_temporary(searchPath) : "pg_catalog, pg_temp");
}

Ia3WatchCaller
Ia3WatchBecomeOwnerToStore(Relation relation, const Ia3Watch *watch)
{
    return become(relation->rd_rel->relowner, 0, with_temporary(watch->searchPath));
}

void
Ia3WatchBecomeCaller(Ia3WatchCaller caller)
{
    AtEOXact_GUC(false, caller.nest);
    SetUserIdAndSecContext(caller.user, caller.context);
}

/* --- the statement's rows --- */

Ia3WatchPairs
Ia3WatchFindPairs(const Ia3WatchKey *key)
{
    bool keysChanged, sameNumber, isNull;

    if (SPI_execute(Ia3WatchKeysChanged(key), false, 1) != SPI_OK_SELECT || SPI_processed != 1)
        elog(ERROR, "comparing keys failed");
    keysChanged = DatumGetBool(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isNull));
    sameNumber = DatumGetBool(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 2, &isNull));
    SPI_freetuptable(SPI_tuptable);
    if (!keysChanged)
        return IA3_WATCH_BY_KEY;
    return sameNumber ? IA3_WATCH_BY_ORDER : IA3_WATCH_UNPAIRED;
}

void
Ia3WatchCheckChildren(Relation relation)
{
    if (relation->rd_rel->relkind == RELKIND_RELATION && has_subclass(RelationGetRelid(relation)) &&
        find_inheritance_children(RelationGetRelid(relation), NoLock) != NIL)
        ereport(ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
                        errmsg("cannot label rows of \"%s\"", RelationGetRelationName(relation)),
                        errdetail("Other tables inherit from it.")));
}

/* The statement that reads the rows which have to be labelled. */
static char *
reading_statement(const Run *run)
{
    const Ia3WatchKey *key = Ia3WatchFindKey(run->relation);

    Ia3LabelCheckColumns(&run->watch->target);
    if (TRIGGER_FIRED_BY_INSERT(run->data->tg_event))
        return Ia3WatchInserted(run->relation, run->watch, key, true);
    Ia3WatchCheckChildren(run->relation);
    return Ia3WatchUpdated(run->relation, run->watch, key, Ia3WatchFindPairs(key));
}

/* Looks up the version, and prepares to predict inputs of this type and to store the answers. */
static void
prepare(Run *run, Oid inputType)
{
    MemoryContext old = MemoryContextSwitchTo(run->context);
    Ia3Task *task = Ia3TaskLookup(run->watch->task);

    Ia3LabelInputInit(&run->input, Ia3CallTaskMake(task), inputType);
    run->update = Ia3LabelPrepareUpdate(&run->watch->target, task->version);
    run->phase = PHASE_PREDICT;
    Ia3TaskCheckBackbone(task);
    MemoryContextSwitchTo(old);
}

/* Opens the cursor over the rows that have to be labelled. */
static Portal
open_rows(const Run *run)
{
    SPIPlanPtr plan = SPI_prepare(reading_statement(run), 0, NULL);

    if (plan == NULL)
        elog(ERROR, "SPI_prepare failed: %s", SPI_result_code_string(SPI_result));
    return SPI_cursor_open(NULL, plan, NULL, NULL, false);
}

/* Reads the next rows, and predicts them if there are any. The answers point to the rows. */
static SPITupleTable *
next_rows(Run *run, Portal *portal, Ia3LabelAnswers **answers)
{
    const Ia3WatchCaller caller = Ia3WatchBecomeOwner(run->relation);
    SPITupleTable *rows;

    run->phase = PHASE_READ;
    if (*portal == NULL)
        *portal = open_rows(run);
    SPI_cursor_fetch(*portal, true, FETCH_ROWS);
    rows = SPI_tuptable;
    if (rows->numvals > 0) {
        MemoryContext old = MemoryContextSwitchTo(run->scratch);

        if (run->update == NULL)
            prepare(run, SPI_gettypeid(rows->tupdesc, 3));
        run->phase = PHASE_PREDICT;
        *answers = Ia3LabelPredict(&run->input, rows);
        MemoryContextSwitchTo(old);
    }
    Ia3WatchBecomeCaller(caller);
    return rows;
}

static void
label_changes(Run *run)
{
    Portal portal = NULL;

    for (;;) {
        Ia3LabelAnswers *answers = NULL;
        SPITupleTable *rows = next_rows(run, &portal, &answers);

        if (answers != NULL) {
            MemoryContext old = MemoryContextSwitchTo(run->scratch);

            store(run, answers);
            MemoryContextSwitchTo(old);
        }
        MemoryContextReset(run->scratch);
        SPI_freetuptable(rows);
        if (answers == NULL)
            break;
    }
    SPI_cursor_close(portal);
}

/* --- errors --- */

typedef struct WatchContext {
    const Run *run;
    const char *table, *label;
} WatchContext;

/* Says which watch it is, and what can be done. */
static void
add_context(void *arg)
{
    const WatchContext *c = arg;
    const int code = geterrcode();
    const bool engine = ERRCODE_TO_CATEGORY(code) == ERRCODE_CONNECTION_EXCEPTION ||
                        code == ERRCODE_CANNOT_CONNECT_NOW ||
                        code == ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE;

    errcontext("watch of column \"%s\" of table \"%s\"", c->label, c->table);
    if (c->run->phase == PHASE_PREDICT && engine)
        errhint(
            "Statements that change watched rows need the engine. To do without it, call ia3_unwatch, and "
            "ia3_label later.");
    if (c->run->phase == PHASE_READ &&
        (code == ERRCODE_UNDEFINED_COLUMN || code == ERRCODE_UNDEFINED_OBJECT ||
         code == ERRCODE_UNDEFINED_FUNCTION || code == ERRCODE_UNDEFINED_TABLE ||
         code == ERRCODE_DATATYPE_MISMATCH))
        errhint("If something was renamed, retyped or dropped, end the watch with ia3_unwatch, or replace it "
                "with ia3_unwatch and ia3_watch.");
}

static void
check_protocol(FunctionCallInfo fcinfo)
{
    const TriggerData *data = (TriggerData *) fcinfo->context;

    if (!CALLED_AS_TRIGGER(fcinfo) || !TRIGGER_FIRED_AFTER(data->tg_event) ||
        !TRIGGER_FIRED_FOR_STATEMENT(data->tg_event) ||
        !(TRIGGER_FIRED_BY_INSERT(data->tg_event) || TRIGGER_FIRED_BY_UPDATE(data->tg_event)) ||
        data->tg_newtable == NULL || strcmp(data->tg_trigger->tgnewtable, IA3_WATCH_NEW) != 0 ||
        (TRIGGER_FIRED_BY_UPDATE(data->tg_event) &&
         (data->tg_oldtable == NULL || strcmp(data->tg_trigger->tgoldtable, IA3_WATCH_OLD) != 0)))
        ereport(ERROR,
                (errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
                 errmsg("ia3.watch_changes() must be called by a trigger that ia3_watch has created")));
}

Datum
ia3_watch_changes(PG_FUNCTION_ARGS)
{
    const TriggerData *data = (TriggerData *) fcinfo->context;
    Run run = {.data = data};
    WatchContext where = {&run};
    ErrorContextCallback context = {error_context_stack, add_context, &where};

    check_protocol(fcinfo);
    run.relation = data->tg_relation;
    run.watch = Ia3WatchRead(run.relation, data->tg_trigger);
    if (tuplestore_tuple_count(data->tg_newtable) == 0 ||
        is_own_statement(RelationGetRelid(run.relation), run.watch->target.label))
        return PointerGetDatum(NULL);
    where.table = pstrdup(RelationGetRelationName(run.relation));
    where.label = run.watch->target.label;
    error_context_stack = &context;
    Ia3SpiConnect();
    run.context = CurrentMemoryContext;
    run.scratch = AllocSetContextCreate(run.context, "ia3 rows to label", ALLOCSET_DEFAULT_SIZES);
    if (SPI_register_trigger_data((TriggerData *) data) != SPI_OK_TD_REGISTER)
        elog(ERROR, "SPI_register_trigger_data failed");
    PG_TRY();
    {
        if (Ia3WatchIsDeferred(run.watch))
            Ia3WatchEnqueue(data, run.watch);
        else
            label_changes(&run);
    }
    PG_FINALLY();
    {
        if (run.update != NULL)
            SPI_freeplan(run.update);
    }
    PG_END_TRY();
    Ia3SpiFinish();
    error_context_stack = context.previous;
    return PointerGetDatum(NULL);
}
