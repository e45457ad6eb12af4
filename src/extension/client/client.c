/*
 * client.c
 *     Requests to an engine, and the connections that a backend keeps for them.
 *
 * A backend has at most one request under way here. Each chooses an engine of its backbone anew (Ia3ChooseEngine); the
 * connections to all engines that were used so far are kept. A connection is `busy` from the first byte sent to the
 * last byte of the final reply; whatever interrupts that (error, cancel, end of the transaction) closes it, which also
 * makes the engine forget the request. Idle connections outlive transactions.
 *
 * Only connecting is retried. A request is sent a second time if the engine said that it has not taken it (GOODBYE) or
 * that it lacks adapters (MISSING), and if sending it ahead failed or this backend gave it up (Ia3AheadSend or
 * Ia3AheadWait returns 0, and the caller sends the request the ordinary way). It is not sent again if the engine goes away
 * after it was sent: a request that kills an engine does not get another one to kill.
 */
#include "postgres.h"

#include "access/xact.h"
#include "storage/ipc.h"
#include "utils/memutils.h"

#include "client.h"
#include "client_errors.h"
#include "connection.h"
#include "engine_choice.h"
#include "extension/guc.h"

/* How long an engine that did not take a request to its end has to say why. */
#define LAST_WORDS_MS 1000

/* What a session does not need open at once is closed, the longest idle one first. */
#define MAX_CONNECTIONS IA3_MAX_CONFIGURED

/* How many engines that are being replaced a request may meet. */
#define MAX_MOVES 5

static Ia3Connection connections[MAX_CONNECTIONS];

/* The request being built or under way; NULL if none. */
static Ia3Connection *current = NULL;
static bool bound; /* it must not go to an engine with another backbone */
static bool requestTrains;
static uint8 requestType;
static ia3_writer writer;

/*
 * Connections
 */

/* ia3_writer.grow; errors leave the writer as it was. */
static uint8_t *
grow_request(uint8_t *data, size_t len, size_t cap)
{
    if (cap > 2 * ((size_t) IA3_MAX_FRAME + 4))
        ereport(ERROR,
                (errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED), errmsg("request to the ia3 engine is too large"),
                 errdetail("A request has at most %u bytes.", IA3_MAX_FRAME)));
    if (data == NULL)
        return MemoryContextAllocHuge(TopMemoryContext, cap);
    return repalloc_huge(data, cap);
}

static void
shrink_buffers(void)
{
    if (writer.cap > IA3_KEEP_BUFFER) {
        pfree(writer.data);
        writer.data = NULL;
        writer.cap = writer.len = 0;
    }
    Ia3ShrinkReplyBuffer();
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
    Ia3StayNoLonger();
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

/* Other backends have to see that none of our requests is outstanding any more. */
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

Ia3Connection *
Ia3KeptConnection(uint32 generation)
{
    for (int i = 0; i < MAX_CONNECTIONS; i++) {
        Ia3Connection *conn = &connections[i];

        if (conn->open && conn->engine.generation == generation)
            return conn != current && Ia3ConnectionIsIdle(conn) ? conn : NULL;
    }
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

/* An entry for a new connection to the backbone; connections that cannot be used any more are closed on the way. */
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

/* The setting may be newer than what the supervisor has acted upon. */
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

/* IA3_IO_OK, or IA3_IO_GONE if the engine is not there any more or does not answer; ERROR for anything else. */
static Ia3IoResult
reach(Ia3Connection *conn, const Ia3EngineStatus *status, Ia3EngineKey engine, const Ia3EngineWish *wish,
      Ia3Time deadline)
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

/*
 * A greeted, idle connection to an engine of `backbone`; waits for engines that are on their way, at most until
 * ia3.start_timeout.
 */
static Ia3Connection *
connect_backbone(const char *backbone, bool training)
{
    Ia3Time deadline = Ia3Now() + Ia3StartTimeout;
    Ia3EngineWish wish;
    Ia3Connection *conn;

    Ia3RequirePreload();
    init_client();
    wish = Ia3MakeWish(backbone, training, last_connection(backbone));
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
            if (Ia3AvoidEngine(&wish, key.generation))
                continue;
        }
        if (!Ia3PauseUntil(deadline))
            Ia3RaiseNotReady(backbone, &status);
    }
}

/*
 * Requests
 */

static ia3_writer *
begin_request(const char *backbone, bool training)
{
    Ia3RequestAbandon();
    current = connect_backbone(backbone, training);
    current->subid = GetCurrentSubTransactionId();
    bound = false;
    requestTrains = training;
    writer.len = 0;
    ia3_put_room(&writer, IA3_FRAME_HEADER);
    return &writer;
}

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

static void
check_begun(void)
{
    if (current == NULL || current->busy)
        elog(ERROR, "no request to the ia3 engine was begun");
}

const Ia3EngineInfo *
Ia3RequestBindBackbone(void)
{
    check_begun();
    bound = true;
    return &current->info;
}

void
Ia3RequestSend(uint8 type)
{
    check_begun();
    requestType = type;
    current->cut = Ia3SendFrame(current, type, &writer, 0) != IA3_IO_OK;
}

/*
 * Sends the request, which its engine has not taken, to another engine. Returns false if the request is bound to a
 * backbone that this one does not run.
 */
static bool
move_request(void)
{
    Ia3Connection *old = current;
    char backbone[NAMEDATALEN];
    uint8 digest[IA3_DIGEST_LEN];

    strlcpy(backbone, old->backbone, sizeof backbone);
    memcpy(digest, old->info.digest, IA3_DIGEST_LEN);
    current = NULL;
    Ia3CloseConnection(old);
    current = connect_backbone(backbone, requestTrains);
    if (bound && memcmp(digest, current->info.digest, IA3_DIGEST_LEN) != 0) {
        current = NULL;
        return false;
    }
    current->cut = Ia3SendFrame(current, requestType, &writer, 0) != IA3_IO_OK;
    return true;
}

/*
 * Receives a frame that answers the request, from whichever engine takes it. IA3_IO_GOODBYE if the request is bound to
 * a backbone, and no engine runs that any more.
 */
static Ia3IoResult
receive_reply(uint8 *type, ia3_reader *reader)
{
    for (int moves = 0; moves <= MAX_MOVES; moves++) {
        Ia3Time deadline = 0;
        Ia3IoResult result;

        if (current->cut)
            deadline = Ia3Now() + LAST_WORDS_MS;
        result = Ia3ReceiveFrame(current, type, reader, deadline);
        if (result != IA3_IO_GOODBYE || !move_request())
            return result;
    }
    return IA3_IO_GONE;
}

static void fail_request(Ia3IoResult result, ia3_reader *reader) pg_attribute_noreturn();

/* Ends the request and raises why it has failed. */
static void
fail_request(Ia3IoResult result, ia3_reader *reader)
{
    Ia3Connection *conn = current;

    current = NULL;
    Ia3RaiseIo(conn, result, reader);
}

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
        fail_request(result, reader);
    if (type == IA3_ERROR) {
        current = NULL;
        Ia3RaiseErrorFrame(reader);
    }
    if (type < IA3_HELLO_OK)
        fail_request(IA3_IO_GARBLED, reader);
    if (type == IA3_MISSING)
        Ia3StayWith(current->backbone, current->engine);
    else if (type != IA3_PROGRESS && requestType != IA3_PUT_ADAPTER)
        Ia3StayNoLonger();
    if (type != IA3_PROGRESS)
        current = NULL;
    return type;
}

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

void
Ia3RequestAbandon(void)
{
    if (current != NULL && current->busy)
        Ia3CloseConnection(current);
    current = NULL;
}

void
Ia3ProtocolError(const char *what)
{
    Ia3RequestAbandon();
    ereport(ERROR, (errcode(ERRCODE_PROTOCOL_VIOLATION), errmsg("unexpected reply from the ia3 engine"),
                    errdetail("%s", what)));
}

const Ia3EngineInfo *
Ia3GetEngineInfo(const char *backbone)
{
    if (current != NULL && strcmp(current->backbone, backbone) == 0)
        return &current->info;
    return &connect_backbone(backbone, false)->info;
}
