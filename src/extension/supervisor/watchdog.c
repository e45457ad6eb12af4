/*
 * watchdog.c
 *     Asks the engines for signs of life. Runs in the supervisor only.
 *
 * A byte in the death pipe asks an engine; its I/O thread answers on the status pipe, and says for how long its compute
 * thread has made no progress (protocol.h). So an engine was alive at the time of its latest answer, or as long before as
 * its compute thread has been silent. Half of ia3.hang_timeout later it is HUNG: requests go to other engines or wait. If
 * it gives no sign until ia3.hang_timeout has passed, it is killed, and what follows is as after a crash.
 */
#include "postgres.h"

#include <signal.h>
#include <unistd.h>

#include "utils/timestamp.h"

#include "extension/guc.h"
#include "watchdog.h"

/* An engine is asked this many times within the timeout, but not more or less often than these intervals allow. */
#define ASKS_PER_TIMEOUT 8
#define MIN_INTERVAL_MS  100
#define MAX_INTERVAL_MS  5000

void
Ia3WatchBegin(Ia3Engine *engine)
{
    memset(&engine->watch, 0, sizeof engine->watch);
}

static bool
is_hung(const Ia3Engine *engine)
{
    return engine->status.state == IA3_ENGINE_HUNG;
}

static const char *
describe_silence(const Ia3Watch *watch)
{
    return watch->answeredAt > watch->aliveAt ? "makes no progress" : "does not answer";
}

static void
declare_hung(Ia3Engine *engine)
{
    const char *silence = describe_silence(&engine->watch);

    if (engine->status.state != IA3_ENGINE_STARTING && engine->status.state != IA3_ENGINE_LOADING &&
        engine->status.state != IA3_ENGINE_READY)
        return;
    ereport(WARNING, (errmsg("ia3 engine \"%s\" (PID %d) is hung", engine->label, engine->status.pid),
                      errdetail("It %s.", silence)));
    snprintf(engine->status.message, sizeof engine->status.message,
             "It %s, and is restarted if this lasts for %d s.", silence, Ia3HangTimeout);
    engine->watch.stateBefore = engine->status.state;
    Ia3EngineSetState(engine, IA3_ENGINE_HUNG);
}

static void
declare_alive(Ia3Engine *engine)
{
    ereport(LOG, (errmsg("ia3 engine \"%s\" (PID %d) is no longer hung", engine->label, engine->status.pid)));
    engine->status.message[0] = '\0';
    Ia3EngineSetState(engine, engine->watch.stateBefore);
}

/* The reason is published before the backends that wait for the engine see its end. */
static void
kill_hung(Ia3Engine *engine)
{
    bool answers = engine->watch.answeredAt > engine->watch.aliveAt;

    ereport(LOG, (errmsg("ia3 engine \"%s\" (PID %d) is killed because it %s", engine->label,
                         engine->status.pid, describe_silence(&engine->watch))));
    snprintf(engine->status.message, sizeof engine->status.message,
             answers ? "The engine process made no progress for %d s and was killed."
                     : "The engine process did not answer for %d s and was killed.",
             Ia3HangTimeout);
    engine->gaveReason = true;
    engine->watch.killed = true;
    Ia3PublishEngine(engine - Ia3Engines, &engine->status);
    Ia3ProcessSignal(&engine->process, SIGKILL);
}

void
Ia3WatchAnswer(Ia3Engine *engine, long silentMs)
{
    Ia3Watch *watch = &engine->watch;

    watch->answeredAt = Ia3Now();
    watch->aliveAt = Max(watch->aliveAt, watch->answeredAt - Max(0, silentMs));
}

/* A timeout that is new to this engine begins now, whatever was known of the engine before. */
static void
adopt_timeout(Ia3Watch *watch, Ia3Time now, int64 timeout)
{
    if (watch->timeout == timeout)
        return;
    watch->timeout = timeout;
    watch->askAt = watch->aliveAt = now;
}

Ia3Time
Ia3WatchRun(Ia3Engine *engine, Ia3Time now)
{
    Ia3Watch *watch = &engine->watch;
    int64 timeout = (int64) Ia3HangTimeout * 1000;
    Ia3Time hungAt, killAt;

    if (engine->process.pid == 0 || engine->stopping || watch->killed)
        return PG_INT64_MAX;
    adopt_timeout(watch, now, timeout);
    hungAt = watch->aliveAt + timeout / 2;
    killAt = watch->aliveAt + timeout;
    if (is_hung(engine) && (timeout == 0 || now < hungAt))
        declare_alive(engine);
    if (timeout == 0)
        return PG_INT64_MAX;
    if (now >= killAt) {
        kill_hung(engine);
        return PG_INT64_MAX;
    }
    if (now >= hungAt && !is_hung(engine))
        declare_hung(engine);
    if (now >= watch->askAt) {
        Ia3ProcessAsk(&engine->process);
        watch->askAt = now + Min(Max(timeout / ASKS_PER_TIMEOUT, MIN_INTERVAL_MS), MAX_INTERVAL_MS);
    }
    return Min(watch->askAt, now < hungAt ? hungAt : killAt);
}

void
Ia3WatchExcuse(Ia3Time ms)
{
    for (int i = 0; i < IA3_MAX_ENGINES; i++)
        Ia3Engines[i].watch.aliveAt += ms;
}
