/*
 * fuzz_status.c
 *     Fuzzes what the supervisor does with the lines that an engine writes to its status pipe and its log.
 *
 * The first byte of an input is the number of bytes that go to the log at a time (0: none), and the state of the engine;
 * the rest is divided between the log and the status pipe.
 */
#include "extension/supervisor/supervisor_engine.c"

#include <fcntl.h>
#include <unistd.h>

#include "pg_standin.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Of the server, and of what supervises it. */
int MyProcPid = 1, Ia3HangTimeout = 60;

TimestampTz
GetCurrentTimestamp(void)
{
    return 0;
}

void
Ia3PublishEngine(int slot, const Ia3EngineStatus *status)
{
    if (slot != 0 || status->percent < 0 || status->percent > 100 ||
        memchr(status->message, 0, sizeof status->message) == NULL)
        abort();
}

static void
send_bytes(int fd, const uint8_t *data, size_t n)
{
    if (n > 0 && write(fd, data, n) != (ssize_t) n)
        abort();
}

static int
make_pipe(int *reading)
{
    int fds[2];

    if (pipe2(fds, O_CLOEXEC | O_NONBLOCK) != 0)
        abort();
    *reading = fds[0];
    return fds[1];
}

typedef struct Input {
    const uint8_t *data;
    size_t size;
} Input;

static void
feed(void *arg)
{
    const Input *input = arg;
    size_t piece = input->data[0] & 63;
    Ia3Engine *engine = &Ia3Engines[0];
    int status, log;
    bool toLog = false;

    memset(engine, 0, sizeof *engine);
    strcpy(engine->label, "fuzz");
    engine->status.state = IA3_ENGINE_STARTING;
    engine->status.current = (input->data[0] & 64) == 0;
    engine->leaving = (input->data[0] & 128) != 0;
    status = make_pipe(&engine->process.status.fd);
    log = make_pipe(&engine->process.log.fd);
    for (size_t at = 1; at < input->size;) {
        size_t n = Min(piece > 0 ? piece * 7 : 2000, input->size - at);

        send_bytes(toLog ? log : status, input->data + at, n);
        toLog = piece > 0 && !toLog;
        at += n;
        read_pipes(engine);
    }
    close(status);
    close(log);
    drain_pipes(engine);
    if (engine->process.status.fd >= 0 || engine->process.log.fd >= 0 ||
        memchr(engine->lastError, 0, sizeof engine->lastError) == NULL ||
        engine->watch.aliveAt > engine->watch.answeredAt)
        abort();
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    Input input = {data, size};

    if (size > 0 && !pg_run(feed, &input))
        abort(); /* nothing that an engine says may be an error of the supervisor */
    pg_reset();
    return 0;
}
