/*
 * client_ahead.c
 *     Requests whose replies are awaited later, so that the backend keeps working while the engine computes.
 *
 * Each has a connection of its own while it is under way, so that other requests can be made meanwhile, and so that
 * dropping it simply means closing that connection: the engine then forgets it. The connections are closed at the end
 * of the transaction at the latest, and at the end of an aborted subtransaction that sent the request; waiting for
 * such a reply then returns 0. Nothing here waits for an engine that is not ready: reading ahead is an optimisation,
 * and the caller can always make an ordinary request.
 */
#include "postgres.h"

#include "access/xact.h"
#include "utils/memutils.h"

#include "client_ahead.h"
#include "client_errors.h"
#include "engine_choice.h"

/* A read-ahead node has at most two batches under way; in a plan with many nodes, some send theirs only when needed. */
#define MAX_AHEAD 8

static Ia3Connection ahead[MAX_AHEAD];

static void
close_ahead(SubTransactionId since, bool idleToo)
{
    for (int i = 0; i < MAX_AHEAD; i++)
        if (ahead[i].open && ((ahead[i].busy && ahead[i].subid >= since) || idleToo))
            Ia3CloseConnection(&ahead[i]);
}

static void
at_xact_end(XactEvent event, void *arg)
{
    if (event != XACT_EVENT_PRE_COMMIT && event != XACT_EVENT_PARALLEL_PRE_COMMIT &&
        event != XACT_EVENT_PRE_PREPARE)
        close_ahead(InvalidSubTransactionId, true);
}

/* See progress.c for why comparing the numbers is enough. */
static void
at_sub_xact_end(SubXactEvent event, SubTransactionId subid, SubTransactionId parent, void *arg)
{
    if (event == SUBXACT_EVENT_ABORT_SUB)
        close_ahead(subid, false);
}

static void
init_ahead(void)
{
    static bool done = false;

    if (done)
        return;
    for (int i = 0; i < MAX_AHEAD; i++)
        ahead[i].fd = -1;
    RegisterXactCallback(at_xact_end, NULL);
    RegisterSubXactCallback(at_sub_xact_end, NULL);
    done = true;
}

/* An idle connection to an engine of the backbone, or NULL if there is none to be had now. */
static Ia3Connection *
connect_ahead(const char *backbone)
{
    Ia3EngineWish wish = {0};
    Ia3EngineStatus status;
    Ia3EngineKey key;
    Ia3Connection *spare = NULL;
    ia3_reader reader = {0};

    Ia3AvoidHung(&wish);
    if (!Ia3ChooseEngine(backbone, &wish, &status, &key) || key.generation == 0)
        return NULL;
    for (int i = 0; i < MAX_AHEAD; i++) {
        Ia3Connection *conn = &ahead[i];

        if (conn->busy)
            continue;
        if (conn->open && conn->engine.generation == key.generation && Ia3ConnectionIsIdle(conn))
            return conn;
        if (spare == NULL || spare->open)
            spare = conn;
    }
    if (spare == NULL)
        return NULL;
    Ia3CloseConnection(spare);
    strlcpy(spare->backbone, backbone, sizeof spare->backbone);
    if (Ia3OpenReady(spare, &status, key, &wish, &reader, 0) == IA3_IO_OK)
        return spare;
    Ia3CloseConnection(spare);
    return NULL;
}

Ia3Connection *
Ia3OpenSeparate(const Ia3EngineStatus *status, Ia3Time deadline)
{
    Ia3EngineKey nobody = {0};
    ia3_reader reader = {0};

    init_ahead();
    for (int i = 0; i < MAX_AHEAD; i++) {
        Ia3Connection *conn = &ahead[i];

        if (conn->busy)
            continue;
        Ia3CloseConnection(conn);
        strlcpy(conn->backbone, status->spec.name, sizeof conn->backbone);
        if (Ia3OpenConnection(conn, status, nobody, &reader, deadline) == IA3_IO_OK)
            return conn;
        Ia3CloseConnection(conn);
        return NULL;
    }
    return NULL;
}

static uint8_t *
grow_writer(uint8_t *data, size_t len, size_t cap)
{
    if (data == NULL)
        return MemoryContextAllocHuge(CurrentMemoryContext, cap);
    return repalloc_huge(data, cap);
}

uint32
Ia3AheadSend(const char *backbone, uint8 type, Ia3AheadWriter write, void *arg)
{
    ia3_writer w = {.grow = grow_writer};
    Ia3Connection *conn;
    Ia3IoResult result;

    init_ahead();
    conn = connect_ahead(backbone);
    if (conn == NULL)
        return 0;
    ia3_put_room(&w, IA3_FRAME_HEADER);
    write(&w, &conn->info, arg);
    result = Ia3SendFrame(conn, type, &w, 0);
    pfree(w.data);
    if (result == IA3_IO_OK)
        return conn->request;
    Ia3CloseConnection(conn);
    return 0;
}

static Ia3Connection *
find_ahead(uint32 handle)
{
    for (int i = 0; i < MAX_AHEAD; i++)
        if (handle != 0 && ahead[i].busy && ahead[i].request == handle)
            return &ahead[i];
    return NULL;
}

uint8
Ia3AheadWait(uint32 handle, ia3_reader *reader)
{
    Ia3Connection *conn = find_ahead(handle);
    Ia3IoResult result;
    uint8 type;

    if (conn == NULL)
        return 0;
    result = Ia3ReceiveFrame(conn, &type, reader, 0);
    if (result == IA3_IO_GOODBYE) {
        Ia3CloseConnection(conn);
        return 0;
    }
    if (result != IA3_IO_OK)
        Ia3RaiseIo(conn, result, reader);
    if (type == IA3_ERROR)
        Ia3RaiseErrorFrame(reader);
    if (type < IA3_HELLO_OK || type == IA3_PROGRESS)
        Ia3RaiseIo(conn, IA3_IO_GARBLED, reader);
    if (type == IA3_MISSING)
        Ia3StayWith(conn->backbone, conn->engine);
    return type;
}

void
Ia3AheadDrop(uint32 handle)
{
    Ia3Connection *conn = find_ahead(handle);

    if (conn != NULL)
        Ia3CloseConnection(conn);
}
