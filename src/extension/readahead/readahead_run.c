/*
 * readahead_run.c
 *     Whether a query is run to its end.
 *
 * The same plan may be run for all of its rows, or for some at a time, after which it may or may not be continued: by
 * FETCH, a driver's fetch size, loops and SELECT INTO in PL/pgSQL, and functions in SQL. Only the executor is told,
 * at each run, and it does not pass this on to the nodes; hence this hook. Runs nest, since a query may call a
 * function that runs queries, but a node is executed only within the run of its own query.
 */
#include "postgres.h"

#include "executor/executor.h"

#include "readahead_run.h"
#include "extension/ia3_compat_planner.h"

static ExecutorRun_hook_type previousRun = NULL;
static bool runMayStop = false;

static void
run_query(IA3_EXECUTOR_RUN_PARAMETERS)
{
    bool outer = runMayStop;

    runMayStop = count != 0;
    PG_TRY();
    {
        if (previousRun)
            previousRun(IA3_EXECUTOR_RUN_ARGUMENTS);
        else
            standard_ExecutorRun(IA3_EXECUTOR_RUN_ARGUMENTS);
    }
    PG_FINALLY();
    {
        runMayStop = outer;
    }
    PG_END_TRY();
}

bool
Ia3RunMayStop(void)
{
    return runMayStop;
}

void
Ia3RunInit(void)
{
    previousRun = ExecutorRun_hook;
    ExecutorRun_hook = run_query;
}
