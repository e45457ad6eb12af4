/*
 * client_errors.c
 *     What a backend raises when an engine refuses a request, is not there, or goes away.
 */
#include "postgres.h"

#include "miscadmin.h"
#include "pgstat.h"
#include "storage/latch.h"

#include "client_errors.h"
#include "text.h"
#include "extension/guc.h"

/* The supervisor knows within milliseconds that an engine has ended, unless it is busy or stopped itself. */
#define NOTICE_MS 500
#define POLL_MS   10

static int
error_code_to_sql_state(uint32 code)
{
    switch (code) {
    case IA3_E_PROTOCOL:
        return ERRCODE_PROTOCOL_VIOLATION;
    case IA3_E_INVALID:
    case IA3_E_CHOICES:
        return ERRCODE_INVALID_PARAMETER_VALUE;
    case IA3_E_TOO_LONG:
        return ERRCODE_PROGRAM_LIMIT_EXCEEDED;
    case IA3_E_BAD_ADAPTER:
        return ERRCODE_INVALID_BINARY_REPRESENTATION;
    case IA3_E_BAD_CHECKPOINT:
        return ERRCODE_CONFIG_FILE_ERROR;
    case IA3_E_MEMORY:
        return ERRCODE_OUT_OF_MEMORY;
    case IA3_E_CANCELLED:
        return ERRCODE_QUERY_CANCELED;
    case IA3_E_UNAVAILABLE:
        return ERRCODE_CANNOT_CONNECT_NOW;
    case IA3_E_FILE:
        return ERRCODE_IO_ERROR;
    case IA3_E_UNSUPPORTED:
        return ERRCODE_FEATURE_NOT_SUPPORTED;
    default:
        return ERRCODE_INTERNAL_ERROR;
    }
}

void
Ia3RaiseEngineError(uint32 code, const char *message, const char *detail, const char *hint,
                    const char *context)
{
    ereport(ERROR, (errcode(error_code_to_sql_state(code)), errmsg_internal("%s", message),
                    detail != NULL && detail[0] != '\0' ? errdetail_internal("%s", detail) : 0,
                    hint != NULL && hint[0] != '\0' ? errhint("%s", hint) : 0,
                    context != NULL ? errcontext("%s", context) : 0));
    pg_unreachable();
}

void
Ia3RaiseErrorFrame(ia3_reader *reader)
{
    uint32 code = ia3_get_u32(reader);
    char *message = Ia3GetText(reader);
    char *detail = Ia3GetText(reader);
    char *hint = Ia3GetText(reader);

    if (reader->bad)
        ereport(ERROR, (errcode(ERRCODE_PROTOCOL_VIOLATION),
                        errmsg("ia3 engine sent an error that cannot be understood")));
    Ia3RaiseEngineError(code, message, detail, hint, NULL);
}

void
Ia3RaiseUnknownBackbone(const char *backbone)
{
    Ia3BackboneSpec *specs = palloc(sizeof(Ia3BackboneSpec) * IA3_MAX_CONFIGURED);
    char *error;

    (void) Ia3ParseBackbones(Ia3BackbonesSetting, specs, &error);
    ereport(ERROR, (errcode(ERRCODE_UNDEFINED_OBJECT), errmsg("ia3 backbone \"%s\" does not exist", backbone),
                    error != NULL ? errdetail("The setting ia3.backbones is invalid. %s", error) : 0,
                    errhint("The setting ia3.backbones lists the backbones.")));
}

static const char *
hint_for(Ia3Obstacle obstacle)
{
    switch (obstacle) {
    case IA3_OBSTACLE_SETTING:
        return "Correct ia3.backbones and reload the configuration.";
    case IA3_OBSTACLE_NO_WORKER:
        return "Increase max_worker_processes and restart the server.";
    case IA3_OBSTACLE_SINGLE_USER:
        return "Start the server normally.";
    case IA3_OBSTACLE_NONE:
        break;
    }
    return "It is tried again from time to time, and at once when the configuration is reloaded.";
}

void
Ia3RaiseFailed(const char *backbone)
{
    Ia3EngineStatus *statuses = palloc(sizeof(Ia3EngineStatus) * IA3_MAX_ENGINES);
    int n = Ia3GetEngineStatuses(statuses, NULL), found = 0;
    StringInfoData detail;

    initStringInfo(&detail);
    for (int i = 0; i < n; i++)
        if (statuses[i].current && strcmp(statuses[i].spec.name, backbone) == 0)
            statuses[found++] = statuses[i];
    for (int i = 0; i < found; i++) {
        if (i > 0)
            appendStringInfoChar(&detail, '\n');
        if (found > 1)
            appendStringInfo(&detail, "%s: ", statuses[i].spec.device);
        appendStringInfoString(&detail, Ia3EngineText(statuses[i].message));
    }
    ereport(ERROR,
            (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
             errmsg("ia3 engine for backbone \"%s\" could not start", backbone), errdetail("%s", detail.data),
             errhint("%s", hint_for(found > 0 ? statuses[0].obstacle : IA3_OBSTACLE_NONE))));
}

void
Ia3RaiseNotReady(const char *backbone, const Ia3EngineStatus *status)
{
    const char *hint = "It may take longer than ia3.start_timeout allows; see ia3_stat_engine.";

    if (status->state == IA3_ENGINE_LOADING)
        ereport(ERROR, (errcode(ERRCODE_CANNOT_CONNECT_NOW),
                        errmsg("ia3 engine for backbone \"%s\" is not ready", backbone),
                        errdetail("It is loading (%d %%).", status->percent), errhint("%s", hint)));
    ereport(ERROR, (errcode(ERRCODE_CANNOT_CONNECT_NOW),
                    errmsg("ia3 engine for backbone \"%s\" is not ready", backbone),
                    errdetail(status->message[0] != '\0' ? "It is %s. %s" : "It is %s.",
                              Ia3EngineStateName(status->state), Ia3EngineText(status->message)),
                    errhint("%s", hint)));
}

/* The supervisor learns of the engine's end at about the same time as this backend: it gets a moment to say why. */
static void
raise_gone(const char *backbone, Ia3EngineKey engine)
{
    static uint32 waitEvent = 0;
    char why[sizeof(((Ia3EngineStatus *) NULL)->message)] = "";

    for (int waited = 0; waited < NOTICE_MS && !Ia3EngineLastWords(engine, backbone, why, sizeof why);
         waited += POLL_MS) {
        (void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, POLL_MS,
                         Ia3WaitEvent(&waitEvent, "Ia3Engine"));
        ResetLatch(MyLatch);
        CHECK_FOR_INTERRUPTS();
    }
    ereport(ERROR, (errcode(ERRCODE_CONNECTION_FAILURE),
                    errmsg("ia3 engine for backbone \"%s\" went away", backbone),
                    why[0] != '\0' ? errdetail("%s", Ia3EngineText(why)) : 0,
                    why[0] != '\0' ? errhint("It is being restarted.")
                                   : errhint("It is being restarted; see the server log for the reason.")));
}

static void
raise_garbled(const char *backbone)
{
    ereport(ERROR, (errcode(ERRCODE_PROTOCOL_VIOLATION),
                    errmsg("ia3 engine for backbone \"%s\" sent a reply that cannot be understood", backbone),
                    errhint("The library and the engine must come from the same installation; restart the "
                            "server after an update.")));
}

static void
raise_version(const char *backbone)
{
    ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
                    errmsg("ia3 engine for backbone \"%s\" speaks another version of the protocol", backbone),
                    errdetail("This library speaks version %d.", IA3_PROTOCOL_VERSION),
                    errhint("The library and the engine must come from the same installation; restart the "
                            "server after an update.")));
}

void
Ia3RaiseIo(Ia3Connection *conn, Ia3IoResult result, ia3_reader *reader)
{
    char backbone[NAMEDATALEN];
    Ia3EngineKey engine = conn->engine;

    strlcpy(backbone, conn->backbone, sizeof backbone);
    Ia3CloseConnection(conn);
    if (result == IA3_IO_REFUSED)
        Ia3RaiseErrorFrame(reader);
    if (result == IA3_IO_TIMEOUT)
        ereport(ERROR, (errcode(ERRCODE_CANNOT_CONNECT_NOW),
                        errmsg("ia3 engine for backbone \"%s\" does not answer", backbone)));
    if (result == IA3_IO_GARBLED)
        raise_garbled(backbone);
    if (result == IA3_IO_VERSION)
        raise_version(backbone);
    raise_gone(backbone, engine);
    pg_unreachable();
}
