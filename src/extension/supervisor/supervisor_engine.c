/*
 * supervisor_engine.c
 *     The life of one engine. Runs in the supervisor only.
 *
 * STARTING -> LOADING -> READY; when it ends, RESTARTING (FAILED if it gave a reason or keeps ending before it is
 * ready) until its back-off is over, then STARTING again with a new generation. An engine that is no longer wanted is
 * DRAINING: it finishes its requests, training runs included, and ends. One that gives no sign of life is HUNG
 * (watchdog.c).
 */
#include "postgres.h"

#include <signal.h>
#include <sys/un.h>
#include <unistd.h>

#include "mb/pg_wchar.h"
#include "pgstat.h"
#include "utils/timestamp.h"

#include "watchdog.h"

#define BACKOFF_MIN_MS    1000
#define BACKOFF_MAX_MS    60000
#define SERVED_LONG_MS    60000            /* an engine that served this long starts again without back-off */
#define STOP_PATIENCE_MS  4000             /* between SIGTERM and SIGKILL */
#define DRAIN_PATIENCE_MS (10 * 60 * 1000) /* for draining, while no training run or merge is under way */

Ia3Engine Ia3Engines[IA3_MAX_ENGINES];
bool Ia3PipesChanged = false;
bool Ia3EntryFreed = false;

bool
Ia3EngineInUse(const Ia3Engine *engine)
{
    return engine->status.state != IA3_ENGINE_UNUSED;
}

static void
publish(const Ia3Engine *engine)
{
    Ia3PublishEngine(engine - Ia3Engines, &engine->status);
}

void
Ia3EngineSetState(Ia3Engine *engine, Ia3EngineState state)
{
    engine->status.state = state;
    engine->status.since = GetCurrentTimestamp();
    publish(engine);
}

/*
 * Lines from an engine
 */

/* Copies UTF-8, cut between characters if it does not fit. */
static void
copy_text(char *dst, size_t size, const char *text)
{
    int n = pg_encoding_mbcliplen(PG_UTF8, text, strlen(text), size - 1);

    memcpy(dst, text, n);
    dst[n] = '\0';
}

/* Control characters, and half a character at the end of a line that was cut, have no place in the server log. */
static void
sanitize(char *text)
{
    size_t n = strlen(text);

    text[pg_encoding_mbcliplen(PG_UTF8, text, n, n)] = '\0';
    for (char *p = text; *p != '\0'; p++)
        if ((unsigned char) *p < ' ' || *p == 127)
            *p = ' ';
}

/* "LEVEL: text". An engine's ERROR is a WARNING here: it is not an error of this process. */
static void
handle_log_line(void *arg, char *line)
{
    static const struct {
        const char *prefix;
        int level;
        bool isError;
    } levels[] = {{"DEBUG: ", DEBUG1, false},
                  {"LOG: ", LOG, false},
                  {"WARNING: ", WARNING, false},
                  {"ERROR: ", WARNING, true}};
    Ia3Engine *engine = arg;
    int level = LOG;

    sanitize(line);
    for (int i = 0; i < lengthof(levels); i++) {
        size_t n = strlen(levels[i].prefix);

        if (strncmp(line, levels[i].prefix, n) != 0)
            continue;
        level = levels[i].level;
        line += n;
        if (levels[i].isError)
            copy_text(engine->lastError, sizeof engine->lastError, line);
        break;
    }
    ereport(level, (errmsg_internal("ia3 engine \"%s\": %s", engine->label, line)));
}

static void
handle_loading(Ia3Engine *engine, int percent)
{
    engine->status.percent = Min(100, Max(0, percent));
    if (engine->status.state == IA3_ENGINE_LOADING)
        publish(engine);
    else
        Ia3EngineSetState(engine, IA3_ENGINE_LOADING);
}

static void
handle_ready(Ia3Engine *engine)
{
    engine->status.percent = 100;
    engine->status.message[0] = '\0';
    engine->failures = 0;
    engine->readyAt = Ia3Now();
    engine->readySince = GetCurrentTimestamp();
    ereport(LOG, (errmsg("ia3 engine \"%s\" is ready", engine->label)));
    if (!engine->status.current)
        return; /* it is published when it takes over */
    Ia3EngineSetState(engine, IA3_ENGINE_READY);
}

static void
handle_draining(Ia3Engine *engine, int lasting, int others)
{
    engine->endBy = lasting > 0 ? 0 : Ia3Now() + DRAIN_PATIENCE_MS;
    snprintf(engine->status.message, sizeof engine->status.message,
             "It is finishing its requests: training runs and merges: %d, others: %d.", lasting, others);
    publish(engine);
}

static void
handle_status_line(void *arg, char *line)
{
    Ia3Engine *engine = arg;
    int lasting, others;
    long silent;

    sanitize(line);
    if (engine->stopping)
        return;
    if (sscanf(line, "alive %ld", &silent) == 1) {
        Ia3WatchAnswer(engine, silent);
        return;
    }
    if (sscanf(line, "draining %d %d", &lasting, &others) == 2) {
        if (engine->leaving)
            handle_draining(engine, lasting, others);
    } else if (engine->leaving)
        return;
    else if (strncmp(line, "loading ", 8) == 0)
        handle_loading(engine, atoi(line + 8));
    else if (strcmp(line, "ready") == 0)
        handle_ready(engine);
    else if (strncmp(line, "failed ", 7) == 0) {
        copy_text(engine->status.message, sizeof engine->status.message, line + 7);
        engine->gaveReason = true;
        publish(engine);
    } else
        ereport(LOG, (errmsg("ia3 engine \"%s\" sent an unknown status \"%s\"", engine->label, line)));
}

static void
read_pipes(Ia3Engine *engine)
{
    int open = (engine->process.status.fd >= 0) + (engine->process.log.fd >= 0);

    Ia3ReadLines(&engine->process.log, handle_log_line, engine);
    Ia3ReadLines(&engine->process.status, handle_status_line, engine);
    if (open != (engine->process.status.fd >= 0) + (engine->process.log.fd >= 0))
        Ia3PipesChanged = true;
}

/*
 * Reads the last words of a process that has ended. The loop is bounded, since a child of the process might hold the
 * pipe open.
 */
static void
drain_pipes(Ia3Engine *engine)
{
    for (int i = 0; i < 64; i++)
        read_pipes(engine);
}

/*
 * Starting and stopping
 */

static void
clear_engine(Ia3Engine *engine)
{
    memset(engine, 0, sizeof *engine);
    Ia3ProcessInit(&engine->process);
}

static void
free_engine(Ia3Engine *engine)
{
    clear_engine(engine);
    publish(engine);
    Ia3EntryFreed = true;
}

static void
set_spec(Ia3Engine *engine, const Ia3BackboneSpec *spec)
{
    engine->status.spec = *spec;
    snprintf(engine->label, sizeof engine->label, spec->nDevices > 1 ? "%s@%s" : "%s", spec->name,
             spec->device);
}

void
Ia3EngineAdd(Ia3Engine *engine, const Ia3BackboneSpec *spec, const Ia3EngineSettings *settings, bool current)
{
    clear_engine(engine);
    set_spec(engine, spec);
    engine->status.current = current;
    engine->settings = *settings;
    engine->startAt = Ia3Now();
    Ia3EngineSetState(engine, IA3_ENGINE_STARTING);
}

void
Ia3EngineAdopt(Ia3Engine *engine, const Ia3BackboneSpec *spec)
{
    set_spec(engine, spec);
    publish(engine);
}

void
Ia3EngineRetry(Ia3Engine *engine)
{
    if (engine->process.pid != 0)
        return;
    engine->backoffMs = 0;
    engine->failures = 0;
    engine->startAt = Ia3Now();
}

/* Sets when to try again and grows the back-off. */
static void
schedule_restart(Ia3Engine *engine, int atLeastMs)
{
    engine->startAt = Ia3Now() + Max(engine->backoffMs, atLeastMs);
    engine->backoffMs = Min(BACKOFF_MAX_MS, Max(BACKOFF_MIN_MS, engine->backoffMs * 2));
}

static void
fail_start(Ia3Engine *engine)
{
    ereport(WARNING,
            (errmsg("ia3 engine \"%s\" could not start: %s", engine->label, engine->status.message)));
    schedule_restart(engine, BACKOFF_MIN_MS);
    Ia3EngineSetState(engine, IA3_ENGINE_FAILED);
}

/*
 * The socket's name has the supervisor's pid and the generation in it, so that an engine on its way out
 * can never unlink or answer for its successor. The longest name fits into sun_path.
 */
static void
name_socket(Ia3Engine *engine)
{
    StaticAssertStmt(sizeof(IA3_SOCKET_DIRECTORY "/ia3...sock") + NAMEDATALEN + 20 <=
                         sizeof(((struct sockaddr_un *) NULL)->sun_path),
                     "socket path may be too long");
    snprintf(engine->status.socket, sizeof engine->status.socket, IA3_SOCKET_DIRECTORY "/ia3.%s.%d.%u.sock",
             engine->status.spec.name, MyProcPid, engine->status.generation);
}

void
Ia3EngineStart(Ia3Engine *engine)
{
    engine->startAt = 0;
    engine->readyAt = 0;
    engine->gaveReason = false;
    engine->lastError[0] = '\0';
    engine->status.percent = 0;
    engine->status.generation = Ia3NextGeneration();
    name_socket(engine);
    Ia3PipesChanged = true;
    if (!Ia3ProcessStart(&engine->process, &engine->status.spec, &engine->settings, engine->status.socket,
                         engine->status.message, sizeof engine->status.message)) {
        fail_start(engine);
        return;
    }
    engine->status.pid = engine->process.pid;
    Ia3WatchBegin(engine);
    Ia3EngineSetState(engine, IA3_ENGINE_STARTING);
}

void
Ia3EngineTerminate(Ia3Engine *engine, Ia3EngineState state)
{
    if (engine->process.pid == 0 || engine->stopping)
        return;
    engine->stopping = true;
    engine->endBy = Ia3Now() + STOP_PATIENCE_MS;
    Ia3ProcessSignal(&engine->process, engine->status.state == IA3_ENGINE_HUNG ? SIGKILL : SIGTERM);
    Ia3EngineSetState(engine, state);
}

void
Ia3EngineStop(Ia3Engine *engine)
{
    engine->leaving = true;
    engine->status.current = false;
    Ia3EngineTerminate(engine, IA3_ENGINE_STOPPED);
}

void
Ia3EngineBeginDraining(Ia3Engine *engine)
{
    engine->leaving = true;
    engine->status.current = false;
    engine->status.state = IA3_ENGINE_DRAINING;
    engine->status.since = GetCurrentTimestamp();
    engine->endBy = Ia3Now() + DRAIN_PATIENCE_MS; /* until it tells what it is doing */
}

void
Ia3EngineDismiss(Ia3Engine *engine)
{
    if (engine->process.pid == 0)
        free_engine(engine);
    else if (engine->readyAt != 0) {
        Ia3EngineBeginDraining(engine);
        publish(engine);
        Ia3ProcessSignal(&engine->process, SIGUSR1);
    } else
        Ia3EngineStop(engine);
}

void
Ia3EnginePress(Ia3Engine *engine)
{
    const char *name = engine->label;

    if (!engine->stopping) {
        ereport(LOG, (errmsg("ia3 engine \"%s\" (PID %d) does not finish and is stopped", name,
                             engine->status.pid)));
        Ia3EngineStop(engine);
        return;
    }
    ereport(LOG,
            (errmsg("ia3 engine \"%s\" (PID %d) does not stop and is killed", name, engine->status.pid)));
    Ia3ProcessSignal(&engine->process, SIGKILL);
    engine->endBy = Ia3Now() + STOP_PATIENCE_MS;
}

/*
 * The end
 */

/* An engine that ends without giving a reason may have logged it as its last error. */
static void
describe_end(Ia3Engine *engine, const char *how, bool wasReady)
{
    const char *error = engine->lastError;
    char *message = psprintf(error[0] != '\0' ? "The engine process %s%s: %s." : "The engine process %s%s%s.",
                             how, wasReady ? "" : " before it was ready", error);

    copy_text(engine->status.message, sizeof engine->status.message, message);
    pfree(message);
}

/* Decides what follows when an engine has ended that was not asked to. */
static void
handle_crash(Ia3Engine *engine, const char *how)
{
    bool wasReady = engine->readyAt != 0;

    if (wasReady && engine->readyAt + SERVED_LONG_MS <= Ia3Now())
        engine->backoffMs = 0;
    if (!wasReady)
        engine->failures++;
    if (!engine->gaveReason)
        describe_end(engine, how, wasReady);
    /* an engine that has served is restarted whatever it says, since queries wait for it */
    if (engine->failures > 1 || (engine->gaveReason && !wasReady)) {
        fail_start(engine);
        return;
    }
    ereport(WARNING, (errmsg("ia3 engine \"%s\" (PID %d) %s", engine->label, engine->status.pid, how),
                      engine->gaveReason ? errdetail("%s", engine->status.message) : 0));
    schedule_restart(engine, 0);
    Ia3EngineSetState(engine, IA3_ENGINE_RESTARTING);
}

void
Ia3EngineAttend(Ia3Engine *engine)
{
    char how[128];

    read_pipes(engine);
    if (!Ia3ProcessReap(&engine->process, how, sizeof how))
        return;
    drain_pipes(engine);
    Ia3ProcessClosePipes(&engine->process);
    Ia3PipesChanged = true;
    unlink(engine->status.socket); /* usually gone already */
    engine->status.restarts++;
    if (engine->leaving) {
        ereport(LOG, (errmsg("ia3 engine \"%s\" (PID %d) has ended: it %s", engine->label, engine->status.pid,
                             how)));
        free_engine(engine);
    } else if (engine->stopping) {
        engine->status.pid = 0; /* we are shutting down */
        publish(engine);
    } else {
        handle_crash(engine, how);
        engine->status.pid = 0;
        engine->readyAt = 0;
        publish(engine);
    }
}

void
Ia3EngineForget(Ia3Engine *engine)
{
    Ia3ProcessSignal(&engine->process, SIGTERM);
    if (engine->process.pid != 0)
        unlink(engine->status.socket);
    if (!engine->status.current) {
        Ia3EngineSetState(engine, IA3_ENGINE_UNUSED);
        return;
    }
    engine->status.pid = 0;
    strlcpy(engine->status.message, "The ia3 supervisor has ended; the server starts it again.",
            sizeof engine->status.message);
    Ia3EngineSetState(engine, IA3_ENGINE_RESTARTING);
}
