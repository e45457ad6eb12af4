/*
 * ready.c
 *     ia3_ready: whether a backbone answers, for the health checks of load balancers.
 *
 * Reads shared memory only, so that it neither waits nor fails, whatever an engine does.
 */
#include "postgres.h"

#include "fmgr.h"
#include "utils/builtins.h"

#include "extension/guc.h"
#include "extension/supervisor/shmem.h"

PG_FUNCTION_INFO_V1(ia3_ready);

/* NULL: the session's backbone. A name that is not in ia3.backbones is not ready. */
Datum
ia3_ready(PG_FUNCTION_ARGS)
{
    const char *backbone = PG_ARGISNULL(0) ? Ia3Backbone : text_to_cstring(PG_GETARG_TEXT_PP(0));
    Ia3EngineStatus *engines = palloc(IA3_MAX_ENGINES * sizeof *engines);
    int n = Ia3GetEngineStatuses(engines, NULL);
    bool ready = false;

    for (int i = 0; i < n && !ready; i++)
        ready = engines[i].current && engines[i].state == IA3_ENGINE_READY &&
                strcmp(engines[i].spec.name, backbone) == 0;
    PG_RETURN_BOOL(ready);
}
