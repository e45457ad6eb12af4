/*
 * manage.c
 *     ia3_activate, ia3_drop, and the trigger that makes versions immutable.
 */
#include "postgres.h"

#include "commands/trigger.h"
#include "miscadmin.h"
#include "utils/builtins.h"

#include "versions.h"

PG_FUNCTION_INFO_V1(ia3_activate);
PG_FUNCTION_INFO_V1(ia3_drop);
PG_FUNCTION_INFO_V1(ia3_drop_version);
PG_FUNCTION_INFO_V1(ia3_adapter_is_immutable);

/* The task's name from the first argument, after making sure that the transaction may write. */
static char *
writable_task(FunctionCallInfo fcinfo, const char *function)
{
    char *task = text_to_cstring(PG_GETARG_TEXT_PP(0));

    PreventCommandDuringRecovery(function);
    PreventCommandIfReadOnly(function);
    PreventCommandIfParallelMode(function);
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

Datum
ia3_adapter_is_immutable(PG_FUNCTION_ARGS)
{
    if (!CALLED_AS_TRIGGER(fcinfo))
        elog(ERROR, "ia3.adapter_is_immutable() was not called by the trigger manager");
    ereport(ERROR,
            (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE), errmsg("versions of ia3 tasks are immutable"),
             errhint("Train or import a new version instead.")));
    PG_RETURN_NULL();
}
