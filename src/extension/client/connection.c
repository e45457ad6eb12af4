/*
 * connection.c
 *     Opens connections to engines, greets them, and sends and receives frames.
 */
#include "postgres.h"

#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "access/xact.h"
#include "miscadmin.h"
#include "storage/fd.h"
#include "storage/latch.h"

#include "connection.h"
#include "extension/ia3_compat.h"

/* How often a waiting query looks whether its engine has become ready. */
#define POLL_MS 50

static uint32 lastRequest = 0;
static uint8 *replyBuffer = NULL;
static size_t replyCapacity = 0;

/*
 * The outstanding requests, as other backends see them (Ia3EngineLoad)
 */

static void
tell_load(Ia3Connection *conn, Ia3EngineLoad load)
{
    Ia3EngineLoad change = {load.connections - conn->load.connections, load.trainings - conn->load.trainings,
                            load.bytes - conn->load.bytes};

    if (change.connections == 0 && change.trainings == 0 && change.bytes == 0)
        return;
    Ia3EngineAddLoad(conn->engine, change);
    conn->load = load;
}

/* Shows an open connection, with a request of `bytes` under way or none. */
static void
tell_request(Ia3Connection *conn, uint8 type, int64 bytes)
{
    tell_load(conn, (Ia3EngineLoad){.connections = 1,
                                    .trainings = type == IA3_TRAIN || type == IA3_TRAIN_RUNS,
                                    .bytes = type == IA3_SCORE || type == IA3_GENERATE ? bytes : 0});
}

void
Ia3CloseConnection(Ia3Connection *conn)
{
    tell_load(conn, (Ia3EngineLoad){0});
    if (conn->fd >= 0 && conn->open) {
        close(conn->fd);
        ReleaseExternalFD();
    }
    conn->fd = -1;
    conn->open = false;
    conn->busy = false;
}

bool
Ia3ConnectionIsIdle(Ia3Connection *conn)
{
    char byte;

    return conn->open && !conn->busy && Ia3EngineIsCurrent(conn->engine) &&
           recv(conn->fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) < 0 && (errno == EAGAIN || errno == EWOULDBLOCK);
}

/*
 * Input and output
 */

/*
 * Waits until `fd` is ready for `events`, the latch is set or `deadline` (0 = none) has passed; false in the
 * last case. Raises whatever interrupts are pending.
 */
static bool
wait_for_engine(pgsocket fd, int events, Ia3Time deadline)
{
    static uint32 waitEvent = 0;
    long timeout = -1;

    if (deadline != 0) {
        timeout = (long) (deadline - Ia3Now());
        if (timeout <= 0)
            return false;
        events |= WL_TIMEOUT;
    }
    events |= WL_LATCH_SET | WL_EXIT_ON_PM_DEATH;
    if (WaitLatchOrSocket(MyLatch, events, fd, timeout, Ia3WaitEvent(&waitEvent, "Ia3Engine")) & WL_LATCH_SET)
        ResetLatch(MyLatch);
    CHECK_FOR_INTERRUPTS();
    return true;
}

bool
Ia3PauseUntil(Ia3Time deadline)
{
    Ia3Time now = Ia3Now();
    Ia3Time until = now + POLL_MS;

    if (now >= deadline)
        return false;
    wait_for_engine(PGINVALID_SOCKET, 0, Min(until, deadline));
    return true;
}

/* Sends all `n` bytes. */
static Ia3IoResult
send_bytes(Ia3Connection *conn, const uint8 *data, size_t n, Ia3Time deadline)
{
    while (n > 0) {
        ssize_t sent = send(conn->fd, data, n, MSG_NOSIGNAL);

        if (sent >= 0) {
            data += sent;
            n -= sent;
        } else if (errno == EAGAIN || errno == EWOULDBLOCK) {
            if (!wait_for_engine(conn->fd, WL_SOCKET_WRITEABLE, deadline))
                return IA3_IO_TIMEOUT;
        } else if (errno == EINTR)
            CHECK_FOR_INTERRUPTS();
        else
            return IA3_IO_GONE;
    }
    return IA3_IO_OK;
}

static Ia3IoResult
receive_bytes(Ia3Connection *conn, uint8 *data, size_t n, Ia3Time deadline)
{
    while (n > 0) {
        ssize_t got = recv(conn->fd, data, n, 0);

        if (got > 0) {
            data += got;
            n -= got;
        } else if (got == 0)
            return IA3_IO_GONE;
        else if (errno == EAGAIN || errno == EWOULDBLOCK) {
            if (!wait_for_engine(conn->fd, WL_SOCKET_READABLE, deadline))
                return IA3_IO_TIMEOUT;
        } else if (errno == EINTR)
            CHECK_FOR_INTERRUPTS();
        else
            return IA3_IO_GONE;
    }
    return IA3_IO_OK;
}

Ia3IoResult
Ia3SendFrame(Ia3Connection *conn, uint8 type, ia3_writer *w, Ia3Time deadline)
{
    ia3_writer header = {w->data, 0, IA3_FRAME_HEADER, NULL};

    if (w->len - 4 > IA3_MAX_FRAME)
        ereport(ERROR,
                (errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED), errmsg("request to the ia3 engine is too large"),
                 errdetail("A request has at most %u bytes.", IA3_MAX_FRAME)));
    conn->request = ++lastRequest;
    conn->subid = GetCurrentSubTransactionId();
    conn->busy = true;
    tell_request(conn, type, (int64) w->len);
    ia3_put_u32(&header, (uint32) (w->len - 4));
    ia3_put_u8(&header, type);
    ia3_put_u32(&header, conn->request);
    return send_bytes(conn, w->data, w->len, deadline);
}

static void
reserve_reply(size_t length)
{
    if (length <= replyCapacity)
        return;
    length = Max(length, 4096);
    if (replyBuffer == NULL)
        replyBuffer = MemoryContextAllocHuge(TopMemoryContext, length);
    else
        replyBuffer = repalloc_huge(replyBuffer, length);
    replyCapacity = length;
}

void
Ia3ShrinkReplyBuffer(void)
{
    if (replyCapacity <= IA3_KEEP_BUFFER)
        return;
    pfree(replyBuffer);
    replyBuffer = NULL;
    replyCapacity = 0;
}

Ia3IoResult
Ia3ReceiveFrame(Ia3Connection *conn, uint8 *type, ia3_reader *reader, Ia3Time deadline)
{
    uint8 header[IA3_FRAME_HEADER];
    ia3_reader h = {header, header + IA3_FRAME_HEADER, false};
    uint32 length;
    Ia3IoResult result;

    result = receive_bytes(conn, header, IA3_FRAME_HEADER, deadline);
    if (result != IA3_IO_OK)
        return result;
    length = ia3_get_u32(&h);
    *type = ia3_get_u8(&h);
    if (length == 5 && *type == IA3_GOODBYE && ia3_get_u32(&h) == 0)
        return IA3_IO_GOODBYE;
    if (length < 5 || length > IA3_MAX_FRAME || ia3_get_u32(&h) != conn->request)
        return IA3_IO_GARBLED;
    length -= 5;
    reserve_reply(length);
    result = receive_bytes(conn, replyBuffer, length, deadline);
    if (result != IA3_IO_OK)
        return result;
    *reader = (ia3_reader){replyBuffer, replyBuffer + length, false};
    if (*type != IA3_PROGRESS) {
        conn->busy = false;
        tell_request(conn, 0, 0);
    }
    return IA3_IO_OK;
}

static uint8_t *
no_grow(uint8_t *data, size_t len, size_t cap)
{
    elog(ERROR, "request does not fit");
    return NULL;
}

ia3_writer *
Ia3SmallRequestBegin(Ia3SmallRequest *request)
{
    request->w = (ia3_writer){request->bytes, 0, sizeof request->bytes, no_grow};
    ia3_put_room(&request->w, IA3_FRAME_HEADER);
    return &request->w;
}

Ia3IoResult
Ia3Exchange(Ia3Connection *conn, uint8 type, ia3_writer *w, uint8 expected, ia3_reader *reader,
            Ia3Time deadline)
{
    uint8 got;
    Ia3IoResult result;

    result = Ia3SendFrame(conn, type, w, deadline);
    if (result == IA3_IO_OK)
        result = Ia3ReceiveFrame(conn, &got, reader, deadline);
    if (result != IA3_IO_OK)
        return result;
    if (got == IA3_ERROR)
        return IA3_IO_REFUSED;
    return got == expected ? IA3_IO_OK : IA3_IO_GARBLED;
}

/*
 * Opening
 */

/* Connects to the engine's socket. */
static Ia3IoResult
connect_socket(Ia3Connection *conn, const char *path, Ia3Time deadline)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};

    if (strlen(path) >= sizeof address.sun_path)
        return IA3_IO_GONE;
    strcpy(address.sun_path, path);
    if (!AcquireExternalFD())
        ereport(ERROR, (errcode_for_file_access(), errmsg("could not connect to the ia3 engine: %m")));
    conn->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (conn->fd < 0) {
        ReleaseExternalFD();
        ereport(ERROR, (errcode_for_socket_access(), errmsg("could not create a socket: %m")));
    }
    conn->open = true;
    tell_request(conn, 0, 0);
    conn->busy = true; /* until the handshake is over */
    conn->subid = GetCurrentSubTransactionId();
    for (;;) {
        if (connect(conn->fd, (struct sockaddr *) &address, sizeof address) == 0)
            return IA3_IO_OK;
        if (errno == EINTR)
            CHECK_FOR_INTERRUPTS();
        else if (errno == EAGAIN) { /* the engine's backlog is full */
            if (!Ia3PauseUntil(deadline))
                return IA3_IO_TIMEOUT;
        } else
            return IA3_IO_GONE;
    }
}

/* HELLO, then INFO; leaves the connection idle. */
static Ia3IoResult
greet(Ia3Connection *conn, ia3_reader *reader, Ia3Time deadline)
{
    Ia3SmallRequest hello, ask;
    char client[32];
    Ia3IoResult result;

    snprintf(client, sizeof client, "pid %d", MyProcPid);
    Ia3SmallRequestBegin(&hello);
    ia3_put_u32(&hello.w, IA3_PROTOCOL_MAGIC);
    ia3_put_u32(&hello.w, IA3_PROTOCOL_VERSION);
    ia3_put_str(&hello.w, client, strlen(client));
    result = Ia3Exchange(conn, IA3_HELLO, &hello.w, IA3_HELLO_OK, reader, deadline);
    if (result != IA3_IO_OK)
        return result;
    if (ia3_get_u32(reader) != IA3_PROTOCOL_VERSION)
        return reader->bad ? IA3_IO_GARBLED : IA3_IO_VERSION;

    result = Ia3Exchange(conn, IA3_INFO, Ia3SmallRequestBegin(&ask), IA3_INFO_OK, reader, deadline);
    if (result != IA3_IO_OK)
        return result;
    return Ia3EngineInfoRead(reader, &conn->info) ? IA3_IO_OK : IA3_IO_GARBLED;
}

Ia3IoResult
Ia3OpenConnection(Ia3Connection *conn, const Ia3EngineStatus *status, Ia3EngineKey engine, ia3_reader *reader,
                  Ia3Time deadline)
{
    Ia3IoResult result;

    Ia3CloseConnection(conn);
    conn->engine = engine;
    result = connect_socket(conn, status->socket, deadline);
    if (result == IA3_IO_OK)
        result = greet(conn, reader, deadline);
    return result;
}
