/*
 * connection.h
 *     A connection to an engine: the socket, and frames on it.
 *
 * Deadlines are points in time (clock.h), 0 = none. All waits are on the latch, the socket and the postmaster together and raise
 * pending interrupts as ERRORs; the connection then is busy, and its owner closes it at the end of the
 * (sub)transaction.
 */
#ifndef IA3_CONNECTION_H
#define IA3_CONNECTION_H

#include "common/protocol.h"
#include "common/wire.h"
#include "engine_info.h"
#include "extension/clock.h"
#include "extension/supervisor/shmem.h"

typedef struct Ia3Connection {
    char backbone[NAMEDATALEN];
    int fd;
    bool open;
    bool busy; /* a reply is outstanding, or the greeting is */
    bool cut;  /* the request could not be sent to its end */
    Ia3EngineKey engine;
    Ia3EngineLoad load;     /* of this connection, as other backends see it */
    uint32 request;         /* the last one sent */
    SubTransactionId subid; /* that began it */
    Ia3EngineInfo info;
} Ia3Connection;

typedef enum Ia3IoResult {
    IA3_IO_OK,
    IA3_IO_GONE,    /* closed or reset by the engine, or nobody listens */
    IA3_IO_TIMEOUT, /* the deadline has passed */
    IA3_IO_GOODBYE, /* the engine is being replaced and has not taken the request */
    IA3_IO_GARBLED, /* a reply that breaks the protocol */
    IA3_IO_VERSION, /* an engine that speaks another version of it */
    IA3_IO_REFUSED  /* an ERROR reply; the reader reads it */
} Ia3IoResult;

/*
 * Connects to the engine's socket and greets it; anything but IA3_IO_OK leaves the connection to be closed by the
 * caller. IA3_IO_GONE also if nobody listens there (yet).
 */
extern Ia3IoResult Ia3OpenConnection(Ia3Connection *conn, const Ia3EngineStatus *status, Ia3EngineKey engine,
                                     ia3_reader *reader, Ia3Time deadline);
/* Harmless if it is closed. The engine forgets a request that is under way on it. */
extern void Ia3CloseConnection(Ia3Connection *conn);
/* True if it is open and may be used: no request is under way, the engine serves and has said nothing unasked for. */
extern bool Ia3ConnectionIsIdle(Ia3Connection *conn);

/* Sends a frame whose first IA3_FRAME_HEADER bytes are still to be filled in; the connection is busy from here on. */
extern Ia3IoResult Ia3SendFrame(Ia3Connection *conn, uint8 type, ia3_writer *w, Ia3Time deadline);
/*
 * Receives the next frame; *reader is set to its payload, which is valid until the next frame is received on any
 * connection. After any frame but IA3_PROGRESS the connection is idle again.
 */
extern Ia3IoResult Ia3ReceiveFrame(Ia3Connection *conn, uint8 *type, ia3_reader *reader, Ia3Time deadline);

/* A request of few bytes with a buffer of its own: the caller of the client may be building another one. */
typedef struct Ia3SmallRequest {
    ia3_writer w;
    uint8 bytes[128];
} Ia3SmallRequest;
extern ia3_writer *Ia3SmallRequestBegin(Ia3SmallRequest *request);

/* Sends a request and receives its only reply. */
extern Ia3IoResult Ia3Exchange(Ia3Connection *conn, uint8 type, ia3_writer *w, uint8 expected,
                               ia3_reader *reader, Ia3Time deadline);

/* Sleeps for a moment, but not beyond `deadline`; false if that has passed already. */
extern bool Ia3PauseUntil(Ia3Time deadline);

/* What a big message needed once is given back at the end of the transaction. */
#define IA3_KEEP_BUFFER (256 * 1024)
extern void Ia3ShrinkReplyBuffer(void);

#endif
