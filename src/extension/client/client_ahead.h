/*
 * client_ahead.h
 *     Requests whose replies are awaited later; other requests may be made meanwhile.
 */
#ifndef IA3_CLIENT_AHEAD_H
#define IA3_CLIENT_AHEAD_H

#include "common/wire.h"
#include "connection.h"

/*
 * Sends a request; `write` writes its payload, for the engine that gets it. Returns a handle for the reply, or 0 if it
 * was not sent, because no engine is ready or too many such requests are under way. ERROR only for interrupts, 54000 for
 * a request that is too large, what `write` raises, and what the operating system says when no descriptor or socket is
 * to be had.
 */
typedef void (*Ia3AheadWriter)(ia3_writer *w, const Ia3EngineInfo *engine, void *arg);
extern uint32 Ia3AheadSend(const char *backbone, uint8 type, Ia3AheadWriter write, void *arg);

/*
 * Waits for the reply; returns its type, and *reader reads its payload until the next call of the client. 0 means that
 * the request was not taken, or given up in between: it has to be made again. An ERROR reply is raised; 08006 if the
 * engine goes away, 08P01 if its reply cannot be understood.
 */
extern uint8 Ia3AheadWait(uint32 handle, ia3_reader *reader);

/* Gives a request up; the engine forgets it. Raises nothing. */
extern void Ia3AheadDrop(uint32 handle);

/*
 * A greeted connection to the engine with that entry, for an exchange beside the requests that ends with closing it.
 * NULL if the engine does not answer.
 */
extern Ia3Connection *Ia3OpenSeparate(const Ia3EngineStatus *status, Ia3Time deadline);

#endif
