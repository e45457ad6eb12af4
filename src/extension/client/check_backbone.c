/*
 * check_backbone.c
 *     ia3_check_backbone: runs `ia3_engine check` and returns what it prints.
 *
 * The program is a child of the backend, which waits for it as for an engine: it can be cancelled, and kills the program
 * when it is, when the time is up and at every other error. A program whose backend dies is killed by the kernel.
 */
#include "postgres.h"

#include <signal.h>
#include <sys/wait.h>

#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "client.h"
#include "extension/clock.h"
#include "extension/guc.h"
#include "extension/ia3_compat.h"
#include "extension/supervisor/engine_process.h"
#include "text.h"

#define REAP_POLL_MS 10

PG_FUNCTION_INFO_V1(ia3_check_backbone);

static void
check_may_read_files(void)
{
    if (!has_privs_of_role(GetUserId(), ROLE_PG_READ_SERVER_FILES))
        ereport(ERROR,
                (errcode(ERRCODE_INSUFFICIENT_PRIVILEGE), errmsg("permission denied to check a backbone"),
                 errdetail("Only roles with the privileges of the \"%s\" role may use ia3_check_backbone.",
                           "pg_read_server_files")));
}

static void
put_row(ReturnSetInfo *rsinfo, const char *level, const char *item, const char *value)
{
    Datum values[3];
    bool nulls[3] = {false};

    values[0] = CStringGetTextDatum(level);
    values[1] = CStringGetTextDatum(item);
    values[2] = CStringGetTextDatum(value);
    tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
}

/* A line is "item: value"; the items warning, error, detail and hint make the level. */
static void
handle_line(void *arg, char *line)
{
    ReturnSetInfo *rsinfo = arg;
    char *text = Ia3EngineText(line);
    char *value = strstr(text, ": ");

    if (value == NULL)
        put_row(rsinfo, "info", "output", text);
    else {
        *value = '\0';
        value += 2;
        if (strcmp(text, "warning") == 0)
            put_row(rsinfo, "warning", "message", value);
        else if (strcmp(text, "error") == 0)
            put_row(rsinfo, "error", "message", value);
        else if (strcmp(text, "detail") == 0 || strcmp(text, "hint") == 0)
            put_row(rsinfo, "error", text, value);
        else
            put_row(rsinfo, "info", text, value);
    }
}

/* Waits until there is something to read, or the program may have ended. */
static void
wait_for_program(const Ia3Process *process, Ia3Time deadline)
{
    static uint32 waitEvent = 0;
    long timeout = (long) (deadline - Ia3Now());
    int events = WL_LATCH_SET | WL_EXIT_ON_PM_DEATH | WL_TIMEOUT;
    pgsocket fd = PGINVALID_SOCKET;

    if (timeout <= 0)
        ereport(ERROR, (errcode(ERRCODE_QUERY_CANCELED), errmsg("check of the backbone takes too long"),
                        errhint("Set a larger time_limit.")));
    if (process->log.fd >= 0) {
        events |= WL_SOCKET_READABLE;
        fd = process->log.fd;
    } else
        timeout = Min(timeout, REAP_POLL_MS);
    if (WaitLatchOrSocket(MyLatch, events, fd, timeout, Ia3WaitEvent(&waitEvent, "Ia3Check")) & WL_LATCH_SET)
        ResetLatch(MyLatch);
    CHECK_FOR_INTERRUPTS();
}

static void
run_program(Ia3Process *process, Ia3Time deadline, ReturnSetInfo *rsinfo)
{
    char how[128];

    while (process->log.fd >= 0) {
        wait_for_program(process, deadline);
        Ia3ReadLines(&process->log, handle_line, rsinfo);
    }
    while (!Ia3ProcessReap(process, how, sizeof how))
        wait_for_program(process, deadline);
    if (strncmp(how, "exited with status", 18) != 0)
        put_row(rsinfo, "error", "message", psprintf("the engine process %s", how));
}

static void
end_program(Ia3Process *process)
{
    Ia3ProcessClosePipes(process);
    if (process->pid == 0)
        return;
    Ia3ProcessSignal(process, SIGKILL);
    while (waitpid(process->pid, NULL, 0) < 0 && errno == EINTR)
        ;
    process->pid = 0;
}

static Ia3Time
milliseconds(const Interval *limit)
{
    double ms = (limit->month * 30.0 + limit->day) * 86400e3 + limit->time / 1e3;

    if (ms <= 0)
        ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                        errmsg("argument \"time_limit\" must be positive")));
    return (Ia3Time) Min(ms, 86400e3);
}

Datum
ia3_check_backbone(PG_FUNCTION_ARGS)
{
    Ia3BackboneSpec spec;
    Ia3EngineSettings settings = {.threads = Ia3Threads, .memoryLimit = Ia3MemoryLimit};
    Ia3Process process;
    Ia3Time deadline;
    char reason[MAXPGPATH + 128];
    char *error;

    check_may_read_files();
    error = Ia3ResolveBackbonePath(text_to_cstring(PG_GETARG_TEXT_PP(0)), &spec);
    if (error != NULL)
        ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("invalid path of a backbone"),
                        errdetail("%s", error)));
    deadline = Ia3Now() + milliseconds(PG_GETARG_INTERVAL_P(1));
    Ia3InitMaterializedSRF(fcinfo);
    if (!Ia3ProcessStartCheck(&process, spec.path, &settings, reason, sizeof reason))
        ereport(ERROR, (errcode(ERRCODE_SYSTEM_ERROR), errmsg("%s", reason)));
    PG_TRY();
    {
        run_program(&process, deadline, (ReturnSetInfo *) fcinfo->resultinfo);
    }
    PG_CATCH();
    {
        end_program(&process);
        PG_RE_THROW();
    }
    PG_END_TRY();
    end_program(&process);
    return (Datum) 0;
}
