/*
 * client.h
 *     Requests to an engine: a backend's side of the protocol (common/protocol.h).
 *
 *     do {
 *         ia3_writer *w = Ia3RequestBegin(backbone);
 *         ia3_put_...(w, ...);
 *         Ia3RequestSend(IA3_...);
 *         type = Ia3ReplyWaitOrRepeat(&reader);
 *     } while (type == IA3_GOODBYE);
 *
 * If the engine is being replaced before it has taken the request, the request goes to another engine of the backbone,
 * whatever that runs now, unless it was bound (Ia3RequestBindBackbone). A request that is not bound may be awaited
 * with Ia3ReplyWait, and needs no loop.
 *
 * A backend keeps its connections; one is dropped at any error that leaves a reply outstanding. All waits obey
 * interrupts, statement_timeout and postmaster death.
 */
#ifndef IA3_CLIENT_H
#define IA3_CLIENT_H

#include "common/protocol.h"
#include "common/wire.h"
#include "engine_info.h"
#include "extension/ia3_compat.h"

struct Ia3Connection;

/*
 * Begins a request to an engine of `backbone`: connects if needed, waiting up to ia3.start_timeout for an engine that
 * is starting or loading, and returns the writer for the payload. A request that was under way is abandoned. ERROR
 * 42704 for an unknown backbone, 55000 if its engines have failed, 57P03 if none is ready in time.
 */
extern ia3_writer *Ia3RequestBegin(const char *backbone);
/* The same, but the request goes where the fewest training runs are. */
extern ia3_writer *Ia3RequestBeginTraining(const char *backbone);

/*
 * Binds the request being built to the backbone of the engine that gets it, which the result describes (until the next
 * call of the client): for requests whose payload, or what is done with the reply, depends on it. Should the engine be
 * replaced by one that runs another backbone, the caller has to begin again: Ia3ReplyWaitOrRepeat returns IA3_GOODBYE,
 * Ia3ReplyWait raises 55000.
 */
extern const Ia3EngineInfo *Ia3RequestBindBackbone(void);

/*
 * Sends the request that was begun. If the engine is gone, waiting for the reply tells (the engine may have said why
 * before it closed the connection).
 */
extern void Ia3RequestSend(uint8 type);

/*
 * Waits for the next reply to the request that was sent; returns its type, and *reader reads its payload until the
 * next call of the client. The reply is the last one unless it is IA3_PROGRESS. An ERROR reply is raised; 08006 if the
 * engine goes away, 08P01 if its reply cannot be understood.
 */
extern uint8 Ia3ReplyWait(ia3_reader *reader);
/* The same, but returns IA3_GOODBYE when the request has to be begun again. */
extern uint8 Ia3ReplyWaitOrRepeat(ia3_reader *reader);

/* Forgets the request that is being built or under way, in the second case by closing the connection. */
extern void Ia3RequestAbandon(void);

/* A reply that the caller cannot use: abandons the request, ERROR 08P01 with `what`, a sentence, as its detail. */
extern void Ia3ProtocolError(const char *what) pg_attribute_noreturn();

/*
 * What an engine of the backbone said about itself when this backend connected. While a request to the backbone is
 * being built this does no I/O and describes the engine of the request, without binding it; otherwise it connects like
 * Ia3RequestBegin, with the same errors. Valid until the next call of the client.
 */
extern const Ia3EngineInfo *Ia3GetEngineInfo(const char *backbone);

/* The idle connection to that engine, for an exchange beside the requests; NULL if there is none. */
extern struct Ia3Connection *Ia3KeptConnection(uint32 generation);

#endif
