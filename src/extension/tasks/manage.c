/*
 * manage.c
 *     ia3_activate, ia3_drop, and the triggers of ia3.adapter.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/jsonb.h"
#include "utils/rel.h"

#include "catalog.h"
#include "versions.h"
#include "writable.h"

PG_FUNCTION_INFO_V1(ia3_activate);
PG_FUNCTION_INFO_V1(ia3_drop);
PG_FUNCTION_INFO_V1(ia3_drop_version);
PG_FUNCTION_INFO_V1(ia3_adapter_is_immutable);
PG_FUNCTION_INFO_V1(ia3_adapter_move_query);

static Ia3Query moveQuery = {
    .sql = "INSERT INTO ia3.adapter_query (task, version, query)"
           " SELECT $1, $2, $3 OPERATOR(pg_catalog.->>) 'query'"
           " WHERE ($3 OPERATOR(pg_catalog.->>) 'query') IS NOT NULL"
           " ON CONFLICT (task, version) DO NOTHING",
    .nArgs = 3,
    .argTypes = {TEXTOID, INT4OID, JSONBOID},
};

/* The task's name from the first argument, after making sure that the transaction may write. */
static char *
writable_task(FunctionCallInfo fcinfo, const char *function)
{
    char *task = text_to_cstring(PG_GETARG_TEXT_PP(0));

    Ia3CheckWritable(function);
    Ia3TaskCheckName(task);
    return task;
}

Datum
ia3_activate(PG_FUNCTION_ARGS)
{
    Ia3VersionsActivate(writable_task(fcinfo, "ia3_activate()"), PG_GETARG_INT32(1));
    PG_RETURN_VOID();
}

Datum
ia3_drop(PG_FUNCTION_ARGS)
{
    Ia3VersionsDropTask(writable_task(fcinfo, "ia3_drop()"));
    PG_RETURN_VOID();
}

Datum
ia3_drop_version(PG_FUNCTION_ARGS)
{
    Ia3VersionsDrop(writable_task(fcinfo, "ia3_drop()"), PG_GETARG_INT32(1));
    PG_RETURN_VOID();
}

/* Whether all that an update changes is the name of the task, and numbers with it, as ia3_rename does. Generated columns follow. */
static bool
moves_only(const TriggerData *trigger)
{
    TupleDesc desc = RelationGetDescr(trigger->tg_relation);
    bool moved = false;

    for (int i = 1; i <= desc->natts; i++) {
        Form_pg_attribute att = TupleDescAttr(desc, i - 1);
        bool isNull[2], same;
        Datum before = heap_getattr(trigger->tg_trigtuple, i, desc, &isNull[0]);
        Datum after = heap_getattr(trigger->tg_newtuple, i, desc, &isNull[1]);

        if (att->attisdropped || att->attgenerated)
            continue;
        same =
            isNull[0] == isNull[1] && (isNull[0] || datumIsEqual(before, after, att->attbyval, att->attlen));
        if (strcmp(NameStr(att->attname), "task") == 0)
            moved = !same;
        else if (!same && strcmp(NameStr(att->attname), "version") != 0 &&
                 strcmp(NameStr(att->attname), "parent_version") != 0)
            return false;
    }
    return moved;
}

Datum
ia3_adapter_is_immutable(PG_FUNCTION_ARGS)
{
    TriggerData *trigger = (TriggerData *) fcinfo->context;

    if (!CALLED_AS_TRIGGER(fcinfo))
        elog(ERROR, "ia3.adapter_is_immutable() was not called by the trigger manager");
    if (!moves_only(trigger))
        ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
                        errmsg("versions of ia3 tasks are immutable"),
                        errhint("Train or import a new version instead.")));
    return PointerGetDatum(trigger->tg_newtuple);
}

static Datum
column(const TriggerData *trigger, const char *name, bool *isNull)
{
    TupleDesc desc = RelationGetDescr(trigger->tg_relation);

    return heap_getattr(trigger->tg_trigtuple, SPI_fnumber(desc, name), desc, isNull);
}

static bool
has_query(Jsonb *recipe)
{
    JsonbValue value;

    return JB_ROOT_IS_OBJECT(recipe) &&
           getKeyJsonValueFromContainer(&recipe->root, "query", 5, &value) != NULL;
}

/* The query leaves the recipe, which readers see, for a table that they do not. */
Datum
ia3_adapter_move_query(PG_FUNCTION_ARGS)
{
    TriggerData *trigger = (TriggerData *) fcinfo->context;
    TupleDesc desc;
    Datum values[3], recipe;
    bool isNull[3], noNull = false;
    int number;

    if (!CALLED_AS_TRIGGER(fcinfo))
        elog(ERROR, "ia3.adapter_move_query() was not called by the trigger manager");
    desc = RelationGetDescr(trigger->tg_relation);
    values[0] = column(trigger, "task", &isNull[0]);
    values[1] = column(trigger, "version", &isNull[1]);
    values[2] = column(trigger, "recipe", &isNull[2]);
    if (isNull[0] || isNull[1] || isNull[2] || !has_query(DatumGetJsonbP(values[2])))
        return PointerGetDatum(trigger->tg_trigtuple);

    recipe = DirectFunctionCall2(jsonb_delete, values[2], CStringGetTextDatum("query"));
    Ia3SpiConnect();
    Ia3QueryRun(&moveQuery, values, NULL, false);
    Ia3SpiFinish();
    number = SPI_fnumber(desc, "recipe");
    return PointerGetDatum(
        heap_modify_tuple_by_cols(trigger->tg_trigtuple, desc, 1, &number, &recipe, &noNull));
}
