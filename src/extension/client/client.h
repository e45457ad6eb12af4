/*
 * client.h
 *     Inside of the client: connections (client.c, client_ahead.c), the fixed exchanges on them (engine_info.c) and
 *     what is raised when they fail (client_errors.c).
 *
 * Others use the functions of ia3.h.
 */
#ifndef IA3_CLIENT_H
#define IA3_CLIENT_H

#include "extension/supervisor/shmem.h"

typedef struct Ia3Connection {
    char backbone[NAMEDATALEN];
    int fd;
    bool open;
    bool busy; /* a reply is outstanding, or the greeting is */
    bool cut;  /* the request could not be sent to its end */
    Ia3EngineKey engine;
    Ia3EngineLoad load;     /* what we have told others of this connection */
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
 * Deadlines are points in time, 0 = none. All waits raise pending interrupts as ERRORs; the connection then
 * is busy and closed by the end of the (sub)transaction.
 */
extern void Ia3CloseConnection(Ia3Connection *conn);
extern Ia3Connection *Ia3KeptConnection(uint32 generation);
extern Ia3Connection *Ia3OpenSeparate(const Ia3EngineStatus *status, TimestampTz deadline);
extern Ia3IoResult Ia3Exchange(Ia3Connection *conn, uint8 type, ia3_writer *w, uint8 expected,
                               ia3_reader *reader, TimestampTz deadline);

/*
 * The parts of an exchange. Ia3SendFrame fills in the first IA3_FRAME_HEADER bytes of the frame; a busy
 * connection is idle again when Ia3ReceiveFrame has returned the last reply, which lies in the client's buffer.
 */
extern Ia3IoResult Ia3OpenConnection(Ia3Connection *conn, const Ia3EngineStatus *status, Ia3EngineKey engine,
                                     ia3_reader *reader, TimestampTz deadline);
extern Ia3IoResult Ia3OpenReady(Ia3Connection *conn, const Ia3EngineStatus *status, Ia3EngineKey engine,
                                const Ia3EngineWish *wish, ia3_reader *reader, TimestampTz deadline);
extern void Ia3AvoidHung(Ia3EngineWish *wish);
extern bool Ia3ConnectionIsIdle(Ia3Connection *conn);
extern Ia3IoResult Ia3SendFrame(Ia3Connection *conn, uint8 type, ia3_writer *w, TimestampTz deadline);
extern Ia3IoResult Ia3ReceiveFrame(Ia3Connection *conn, uint8 *type, ia3_reader *reader,
                                   TimestampTz deadline);
/* The next request to the backbone goes to this engine, if that is still there. */
extern void Ia3StayWith(const char *backbone, Ia3EngineKey engine);

/* Closes the connection and raises the ERROR; not for IA3_IO_OK. */
extern void Ia3RaiseIo(Ia3Connection *conn, Ia3IoResult result, ia3_reader *reader) pg_attribute_noreturn();

/* Sends HELLO and INFO, fills conn->info. */
extern Ia3IoResult Ia3Greet(Ia3Connection *conn, ia3_reader *reader, TimestampTz deadline);

extern void Ia3RaiseErrorFrame(ia3_reader *reader) pg_attribute_noreturn();
extern void Ia3RaiseUnknownBackbone(const char *backbone) pg_attribute_noreturn();
extern void Ia3RaiseFailed(const char *backbone) pg_attribute_noreturn();
extern void Ia3RaiseNotReady(const char *backbone, const Ia3EngineStatus *status) pg_attribute_noreturn();

#endif
