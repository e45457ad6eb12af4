/*
 * client.c
 *     A backend's side of the protocol (../common/protocol.h).
 *
 * A backend has at most one request under way here. Each chooses an engine of its backbone anew
 * (Ia3ChooseEngine); the connections to all engines that were asked so far are kept. A connection is `busy`
 * from the first byte sent to the last byte of the final reply; whatever interrupts that (error, cancel,
 * end of the transaction) closes it, which also makes the engine forget the request. Idle connections
 * outlive transactions.
 *
 * Every wait is on the latch, the socket and the postmaster together, and checks for interrupts. Only
 * connecting is retried, and a request is sent a second time only if the first engine said that it has not
 * taken it (GOODBYE): a request that kills an engine does not get another one to kill.
 */
#include "postgres.h"

#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "access/xact.h"
#include "storage/fd.h"
#include "storage/ipc.h"
#include "utils/timestamp.h"

#include "client.h"

/* What was needed once for a big message is given back at the end of the transaction. */
#define IA3_KEEP_BUFFER (256 * 1024)

/* An engine that did not take a request to its end has so long to say why. */
#define IA3_LAST_WORDS_MS 1000

/* How often a waiting query looks whether its engine has become ready. */
#define IA3_POLL_MS 50

/* What a session does not need open at once is closed, the longest idle one first. */
#define MAX_CONNECTIONS IA3_MAX_CONFIGURED

/* An engine that is ready answers a greeting in this time; less is waited where another one can be asked. */
#define GREETING_MS       5000
#define GREETING_SHORT_MS 1000

/* A session leaves an engine that did not answer alone for so long, if there are others. */
#define HUNG_MS 30000

/* So often a request may meet engines that are being replaced. */
#define IA3_MAX_MOVES 5

static Ia3Connection connections[MAX_CONNECTIONS];
static uint32 lastRequest = 0;

/* An engine that asked for adapters gets them, and the request again. */
static char stayBackbone[NAMEDATALEN];
static Ia3EngineKey stayWith;

/* The engine that did not answer last, and until when it is avoided. */
static uint32 hung = 0;
static TimestampTz hungUntil;

/* The request being built or under way; NULL if none. */
static Ia3Connection *current = NULL;
static bool backboneMatters; /* the caller has looked at what the engine is */
static bool requestTrains;
static uint8 requestType;
static ia3_writer writer;
static uint8 *replyBuffer = NULL;
static size_t replyCapacity = 0;

/*
 * Buffers
 */

static uint8 *
grow_buffer(uint8 *data, size_t cap)
{
    if (data == NULL)
        return MemoryContextAllocHuge(TopMemoryContext, cap);
    return repalloc_huge(data, cap);
}

/* ia3_writer.grow; errors leave the writer as it was. */
static uint8_t *
grow_request(uint8_t *data, size_t len, size_t cap)
{
    if (cap > 2 * ((size_t) IA3_MAX_FRAME + 4))
        ereport(ERROR,
                (errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED), errmsg("request to the ia3 engine is too large"),
                 errdetail("A request has at most %u bytes.", IA3_MAX_FRAME)));
    return grow_buffer(data, cap);
}

static void
shrink_buffers(void)
{
    if (writer.cap > IA3_KEEP_BUFFER) {
        pfree(writer.data);
        writer.data = NULL;
        writer.cap = writer.len = 0;
    }
    if (replyCapacity > IA3_KEEP_BUFFER) {
        pfree(replyBuffer);
        replyBuffer = NULL;
        replyCapacity = 0;
    }
}

/*
 * What we have asked for, as other backends see it (Ia3EngineLoad)
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

/* Of an open connection, while a request of `bytes` is under way, or none. */
static void
tell_request(Ia3Connection *conn, uint8 type, int64 bytes)
{
    tell_load(conn, (Ia3EngineLoad){.connections = 1,
                                    .trainings = type == IA3_TRAIN,
                                    .bytes = type == IA3_SCORE || type == IA3_GENERATE ? bytes : 0});
}

/*
 * Connections
 */

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
    if (current == conn)
        current = NULL;
}

static void
close_busy_connections(SubTransactionId since)
{
    for (int i = 0; i < MAX_CONNECTIONS; i++)
        if (connections[i].open && connections[i].busy && connections[i].subid >= since)
            Ia3CloseConnection(&connections[i]);
}

static void
at_xact_end(XactEvent event, void *arg)
{
    if (event == XACT_EVENT_PRE_COMMIT || event == XACT_EVENT_PARALLEL_PRE_COMMIT ||
        event == XACT_EVENT_PRE_PREPARE)
        return;
    close_busy_connections(InvalidSubTransactionId);
    current = NULL;
    stayWith.generation = 0;
    shrink_buffers();
}

/* See progress.c for why comparing the numbers is enough. */
static void
at_sub_xact_end(SubXactEvent event, SubTransactionId subid, SubTransactionId parent, void *arg)
{
    if (event != SUBXACT_EVENT_ABORT_SUB)
        return;
    close_busy_connections(subid);
    if (current != NULL && current->subid >= subid)
        current = NULL; /* it was only being built */
}

/* Not left to the operating system: others have to see that nothing of ours is outstanding any more. */
static void
at_exit(int code, Datum arg)
{
    for (int i = 0; i < MAX_CONNECTIONS; i++)
        Ia3CloseConnection(&connections[i]);
}

static void
init_client(void)
{
    static bool done = false;

    if (done)
        return;
    for (int i = 0; i < MAX_CONNECTIONS; i++)
        connections[i].fd = -1;
    writer.grow = grow_request;
    before_shmem_exit(at_exit, 0);
    RegisterXactCallback(at_xact_end, NULL);
    RegisterSubXactCallback(at_sub_xact_end, NULL);
    done = true;
}

/* True if an idle connection may be used: its engine serves, has not closed it, said nothing unasked for. */
bool
Ia3ConnectionIsIdle(Ia3Connection *conn)
{
    char byte;

    return conn->open && !conn->busy && Ia3EngineIsCurrent(conn->engine) &&
           recv(conn->fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) < 0 && (errno == EAGAIN || errno == EWOULDBLOCK);
}

/* The idle connection to that engine; NULL if there is none. */
Ia3Connection *
Ia3KeptConnection(uint32 generation)
{
    for (int i = 0; i < MAX_CONNECTIONS; i++)
        if (connections[i].open && connections[i].engine.generation == generation)
            return Ia3ConnectionIsIdle(&connections[i]) ? &connections[i] : NULL;
    return NULL;
}

/* The connection to the backbone that was used last; NULL if there is none that could be used again. */
static Ia3Connection *
last_connection(const char *backbone)
{
    Ia3Connection *last = NULL;

    for (int i = 0; i < MAX_CONNECTIONS; i++) {
        Ia3Connection *conn = &connections[i];

        if (conn->open && !conn->busy && strcmp(conn->backbone, backbone) == 0 &&
            (last == NULL || conn->request > last->request))
            last = conn;
    }
    return last;
}

/* An entry for a new connection to the backbone; what cannot be used any more is closed on the way. */
static Ia3Connection *
spare_connection(const char *backbone)
{
    Ia3Connection *spare = NULL;

    for (int i = 0; i < MAX_CONNECTIONS; i++) {
        Ia3Connection *conn = &connections[i];

        if (conn->open && (conn->busy || conn == current))
            continue;
        if (conn->open && strcmp(conn->backbone, backbone) == 0 && !Ia3ConnectionIsIdle(conn))
            Ia3CloseConnection(conn);
        if (spare == NULL || (spare->open && (!conn->open || conn->request < spare->request)))
            spare = conn;
    }
    if (spare == NULL)
        elog(ERROR, "too many ia3 engine connections are busy");
    Ia3CloseConnection(spare);
    strlcpy(spare->backbone, backbone, sizeof spare->backbone);
    return spare;
}

/*
 * Waits until `fd` is ready for `events`, the latch is set or `deadline` (0 = none) has passed; false in the
 * last case. Raises whatever interrupts are pending.
 */
static bool
wait_for_engine(pgsocket fd, int events, TimestampTz deadline)
{
    static uint32 waitEvent = 0;
    long timeout = -1;

    if (deadline != 0) {
        timeout = TimestampDifferenceMilliseconds(GetCurrentTimestamp(), deadline);
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

/* Sleeps for IA3_POLL_MS, but not beyond `deadline`; false if that has passed already. */
static bool
pause_until(TimestampTz deadline)
{
    TimestampTz now = GetCurrentTimestamp();
    TimestampTz until = TimestampTzPlusMilliseconds(now, IA3_POLL_MS);

    if (now >= deadline)
        return false;
    wait_for_engine(PGINVALID_SOCKET, 0, Min(until, deadline));
    return true;
}

/* Sends all `n` bytes. */
static Ia3IoResult
send_bytes(Ia3Connection *conn, const uint8 *data, size_t n, TimestampTz deadline)
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
receive_bytes(Ia3Connection *conn, uint8 *data, size_t n, TimestampTz deadline)
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

/* Sends a frame whose first IA3_FRAME_HEADER bytes are still to be filled in. */
Ia3IoResult
Ia3SendFrame(Ia3Connection *conn, uint8 type, ia3_writer *w, TimestampTz deadline)
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

/* Receives the next frame into the reply buffer; *reader is set to its payload. */
Ia3IoResult
Ia3ReceiveFrame(Ia3Connection *conn, uint8 *type, ia3_reader *reader, TimestampTz deadline)
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
    if (length > replyCapacity) {
        replyBuffer = grow_buffer(replyBuffer, Max(length, 4096));
        replyCapacity = Max(length, 4096);
    }
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

/* One small request and its reply, with a frame buffer of its own: the caller may be building a request. */
Ia3IoResult
Ia3Exchange(Ia3Connection *conn, uint8 type, ia3_writer *w, uint8 expected, ia3_reader *reader,
            TimestampTz deadline)
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

/* Connects to the engine's socket. IA3_IO_GONE also if nobody listens there (yet). */
static Ia3IoResult
connect_socket(Ia3Connection *conn, const char *path, TimestampTz deadline)
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
            if (!pause_until(deadline))
                return IA3_IO_TIMEOUT;
        } else
            return IA3_IO_GONE;
    }
}

/* Connects and greets; anything but IA3_IO_OK leaves the connection to be closed by the caller. */
Ia3IoResult
Ia3OpenConnection(Ia3Connection *conn, const Ia3EngineStatus *status, Ia3EngineKey engine, ia3_reader *reader,
                  TimestampTz deadline)
{
    Ia3IoResult result;

    Ia3CloseConnection(conn);
    conn->engine = engine;
    result = connect_socket(conn, status->socket, deadline);
    if (result == IA3_IO_OK)
        result = Ia3Greet(conn, reader, deadline);
    return result;
}

/*
 * Requests
 */

/* The configured list may be ahead of the supervisor, which reads it when it gets to it. */
static bool
is_configured(const char *backbone)
{
    Ia3BackboneSpec *specs = palloc(sizeof(Ia3BackboneSpec) * IA3_MAX_CONFIGURED);
    char *error;
    int n = Ia3ParseBackbones(Ia3BackbonesSetting, specs, &error);
    bool found = false;

    for (int i = 0; i < n; i++)
        if (strcmp(specs[i].name, backbone) == 0)
            found = true;
    pfree(specs);
    return found;
}

/*
 * Connects to an engine that is ready, by then or when it has had the time to answer. IA3_IO_GONE also if it does
 * not answer while the wish leaves another one; such an engine is then avoided for a while.
 */
Ia3IoResult
Ia3OpenReady(Ia3Connection *conn, const Ia3EngineStatus *status, Ia3EngineKey engine,
             const Ia3EngineWish *wish, ia3_reader *reader, TimestampTz deadline)
{
    bool others = Ia3CountEngines(status->spec.name, wish) > 1;
    TimestampTz now = GetCurrentTimestamp();
    /* a short start_timeout must not cut the greeting */
    TimestampTz patience = Max(deadline, TimestampTzPlusMilliseconds(now, GREETING_MS));
    Ia3IoResult result;

    if (others)
        patience = TimestampTzPlusMilliseconds(now, GREETING_SHORT_MS);
    result = Ia3OpenConnection(conn, status, engine, reader, patience);
    if (result != IA3_IO_TIMEOUT || !others)
        return result;
    hung = engine.generation;
    hungUntil = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), HUNG_MS);
    return IA3_IO_GONE;
}

/* IA3_IO_OK, or IA3_IO_GONE if the engine is not there any more or does not answer; ERROR for anything else. */
static Ia3IoResult
reach(Ia3Connection *conn, const Ia3EngineStatus *status, Ia3EngineKey engine, const Ia3EngineWish *wish,
      TimestampTz deadline)
{
    ia3_reader reader = {0};
    Ia3IoResult result = Ia3OpenReady(conn, status, engine, wish, &reader, deadline);

    if (result == IA3_IO_OK)
        return IA3_IO_OK;
    if (result != IA3_IO_GONE && result != IA3_IO_GOODBYE)
        Ia3RaiseIo(conn, result, &reader);
    Ia3CloseConnection(conn);
    return IA3_IO_GONE;
}

/* False if it is avoided already. What does not fit in replaces what has been there for long. */
static bool
avoid_engine(Ia3EngineWish *wish, uint32 generation)
{
    if (Ia3EngineAvoided(wish, generation))
        return false;
    if (wish->nAvoid == lengthof(wish->avoid))
        memmove(&wish->avoid[0], &wish->avoid[1], --wish->nAvoid * sizeof wish->avoid[0]);
    wish->avoid[wish->nAvoid++] = generation;
    return true;
}

/* An engine that did not answer this session lately is asked only if there is no other. */
void
Ia3AvoidHung(Ia3EngineWish *wish)
{
    if (hung != 0 && GetCurrentTimestamp() < hungUntil)
        (void) avoid_engine(wish, hung);
}

/* Where the next request to the backbone should go. */
static Ia3EngineWish
make_wish(const char *backbone, bool training)
{
    Ia3EngineWish wish = {.training = training};
    const Ia3Connection *conn = last_connection(backbone);

    if (conn != NULL)
        wish.present = conn->engine;
    if (stayWith.generation != 0 && strcmp(stayBackbone, backbone) == 0) {
        wish.present = stayWith;
        wish.stay = true;
    }
    Ia3AvoidHung(&wish);
    return wish;
}

/*
 * A greeted, idle connection to an engine of `backbone`; waits for engines that are on their way, at most until
 * ia3.start_timeout.
 */
static Ia3Connection *
connect_backbone(const char *backbone, bool training)
{
    TimestampTz deadline = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), Ia3StartTimeout);
    Ia3EngineWish wish;
    Ia3Connection *conn;

    Ia3RequirePreload();
    init_client();
    wish = make_wish(backbone, training);
    for (;;) {
        Ia3EngineStatus status = {.state = IA3_ENGINE_STARTING};
        Ia3EngineKey key;
        bool known = Ia3ChooseEngine(backbone, &wish, &status, &key) && status.state != IA3_ENGINE_STOPPED;

        if (!known && (Ia3ConfigurationIsKnown() || !is_configured(backbone)))
            Ia3RaiseUnknownBackbone(backbone);
        if (known && status.state == IA3_ENGINE_FAILED)
            Ia3RaiseFailed(backbone);
        if (key.generation != 0) {
            conn = Ia3KeptConnection(key.generation);
            if (conn != NULL)
                return conn;
            conn = spare_connection(backbone);
            if (reach(conn, &status, key, &wish, deadline) == IA3_IO_OK)
                return conn;
            /* It just died, and the supervisor does not know yet, or it was just replaced: look again. */
            if (avoid_engine(&wish, key.generation))
                continue;
        }
        if (!pause_until(deadline))
            Ia3RaiseNotReady(backbone, &status);
    }
}

static ia3_writer *
begin_request(const char *backbone, bool training)
{
    Ia3RequestAbandon();
    current = connect_backbone(backbone, training);
    current->subid = GetCurrentSubTransactionId();
    backboneMatters = false;
    requestTrains = training;
    writer.len = 0;
    ia3_put_room(&writer, IA3_FRAME_HEADER);
    return &writer;
}

/*
 * Begins a request to an engine of `backbone`: connects if needed and returns the writer for the payload.
 * A request that was under way is abandoned. ERROR 42704 for an unknown backbone, 55000 if its engines have
 * failed, 57P03 if none is ready within ia3.start_timeout.
 */
ia3_writer *
Ia3RequestBegin(const char *backbone)
{
    return begin_request(backbone, false);
}

ia3_writer *
Ia3RequestBeginTraining(const char *backbone)
{
    return begin_request(backbone, true);
}

/*
 * Sends the request that was begun. If the engine is gone, Ia3ReplyWait tells (the engine may have said why
 * before it closed the connection).
 */
void
Ia3RequestSend(uint8 type)
{
    if (current == NULL || current->busy)
        elog(ERROR, "no request to the ia3 engine was begun");
    requestType = type;
    current->cut = Ia3SendFrame(current, type, &writer, 0) != IA3_IO_OK;
}

/*
 * Sends the request, which its engine has not taken, to another engine. Returns false if that runs
 * another backbone and the caller has made the request for this one.
 */
static bool
move_request(void)
{
    char backbone[NAMEDATALEN];
    uint8 digest[IA3_DIGEST_LEN];

    strlcpy(backbone, current->backbone, sizeof backbone);
    memcpy(digest, current->info.digest, IA3_DIGEST_LEN);
    Ia3CloseConnection(current);
    current = connect_backbone(backbone, requestTrains);
    if (backboneMatters && memcmp(digest, current->info.digest, IA3_DIGEST_LEN) != 0) {
        current = NULL;
        return false;
    }
    current->cut = Ia3SendFrame(current, requestType, &writer, 0) != IA3_IO_OK;
    return true;
}

/*
 * Receives a frame that answers the request, from whichever engine takes it. IA3_IO_GOODBYE if none does that
 * runs the same backbone.
 */
static Ia3IoResult
receive_reply(uint8 *type, ia3_reader *reader)
{
    for (int moves = 0; moves <= IA3_MAX_MOVES; moves++) {
        TimestampTz deadline = 0;
        Ia3IoResult result;

        if (current->cut)
            deadline = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), IA3_LAST_WORDS_MS);
        result = Ia3ReceiveFrame(current, type, reader, deadline);
        if (result != IA3_IO_GOODBYE || !move_request())
            return result;
    }
    return IA3_IO_GONE;
}

/*
 * Like Ia3ReplyWait, but returns IA3_GOODBYE when the caller has to begin the request again: it looked at the
 * engine's backbone while it made the request (Ia3GetEngineInfo), and the backbone was replaced by another one
 * before the request was taken.
 */
uint8
Ia3ReplyWaitOrRepeat(ia3_reader *reader)
{
    Ia3IoResult result;
    uint8 type;

    if (current == NULL || !current->busy)
        elog(ERROR, "no request to the ia3 engine is under way");
    result = receive_reply(&type, reader);
    if (result == IA3_IO_GOODBYE)
        return IA3_GOODBYE;
    if (result == IA3_IO_TIMEOUT)
        result = IA3_IO_GONE;
    if (result != IA3_IO_OK)
        Ia3RaiseIo(current, result, reader);
    if (type == IA3_ERROR) {
        current = NULL;
        Ia3RaiseErrorFrame(reader);
    }
    if (type < IA3_HELLO_OK)
        Ia3RaiseIo(current, IA3_IO_GARBLED, reader);
    if (type == IA3_MISSING)
        Ia3StayWith(current->backbone, current->engine);
    else if (type != IA3_PROGRESS && requestType != IA3_PUT_ADAPTER)
        stayWith.generation = 0;
    if (type != IA3_PROGRESS)
        current = NULL;
    return type;
}

/*
 * Waits for the next reply to the request that was sent; returns its type, and *reader reads its payload
 * until the next call of the client. The reply is the last one unless it is IA3_PROGRESS. An ERROR reply is
 * raised; 08006 if the engine goes away, 08P01 if it talks nonsense, 55000 where Ia3ReplyWaitOrRepeat asks to
 * begin again.
 */
uint8
Ia3ReplyWait(ia3_reader *reader)
{
    uint8 type = Ia3ReplyWaitOrRepeat(reader);

    if (type == IA3_GOODBYE)
        ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
                        errmsg("ia3 backbone was replaced by another one during the request"),
                        errhint("Try it again.")));
    return type;
}

/* Forgets the request that is being built or under way, in the second case by closing the connection. */
void
Ia3RequestAbandon(void)
{
    if (current != NULL && current->busy)
        Ia3CloseConnection(current);
    current = NULL;
}

/*
 * What the engine said about itself when this backend connected. While a request to the same backbone is
 * being built this does no I/O and describes the very engine that will get it; otherwise it connects like
 * Ia3RequestBegin, with the same errors. Valid until the next call of the client.
 */
const Ia3EngineInfo *
Ia3GetEngineInfo(const char *backbone)
{
    if (current != NULL && strcmp(current->backbone, backbone) == 0) {
        backboneMatters = true;
        return &current->info;
    }
    return &connect_backbone(backbone, false)->info;
}

void
Ia3StayWith(const char *backbone, Ia3EngineKey engine)
{
    strlcpy(stayBackbone, backbone, sizeof stayBackbone);
    stayWith = engine;
}
