/*
 * ia3.c
 *     Where PostgreSQL loads the extension.
 *
 * Preloaded by the postmaster, it asks for shared memory and registers the supervisor; loaded later (LOAD,
 * or a function call without shared_preload_libraries) it only defines its settings, so that nothing
 * breaks and every function can say what is missing (Ia3RequirePreload). Nothing here starts threads or
 * touches files: _PG_init runs inside the postmaster.
 */
#include "postgres.h"

#include "utils/builtins.h"

#include "common/version.h"
#include "extension/label/watch_hook.h"
#include "extension/label/watch_launcher.h"
#include "extension/label/watch_shared.h"
#include "extension/readahead/readahead.h"
#include "extension/supervisor/backbones.h"
#include "extension/supervisor/shmem.h"
#include "extension/supervisor/supervisor.h"
#include "guc.h"
#include "ia3_compat.h"

IA3_MODULE_MAGIC;

PGDLLEXPORT void _PG_init(void);

PG_FUNCTION_INFO_V1(ia3_version);

void
_PG_init(void)
{
    Ia3DefineSettings(Ia3CheckBackbones);

    if (!process_shared_preload_libraries_in_progress)
        return;
    /* pg_upgrade runs the old and the new server for moments only: nobody would use an engine */
    if (IsBinaryUpgrade)
        return;

    Ia3ShmemInit();
    Ia3SupervisorRegister();
    Ia3WatchShmemInit();
    Ia3WatchLauncherInit();
    Ia3WatchHookInit();
    Ia3ReadAheadInit();
}

/* The version of the library, which may be newer than that of the SQL objects (pg_extension.extversion). */
Datum
ia3_version(PG_FUNCTION_ARGS)
{
    PG_RETURN_TEXT_P(cstring_to_text(IA3_VERSION));
}
