/*
 * engine_choice.h
 *     Which engine of a backbone this session's next request goes to, beyond what Ia3ChooseEngine knows: engines that
 *     do not answer are avoided, and the one that has just asked for adapters gets them.
 */
#ifndef IA3_ENGINE_CHOICE_H
#define IA3_ENGINE_CHOICE_H

#include "connection.h"

/* The engine that a request to the backbone should go to; `last` (may be NULL) is the connection that was used last. */
extern Ia3EngineWish Ia3MakeWish(const char *backbone, bool training, const Ia3Connection *last);

/* Adds an engine to those to be avoided; false if it was there already. */
extern bool Ia3AvoidEngine(Ia3EngineWish *wish, uint32 generation);

/* An engine that failed to answer this session lately is used only if there is no other. */
extern void Ia3AvoidHung(Ia3EngineWish *wish);

/* The next request to the backbone goes to this engine, if it is still there. */
extern void Ia3StayWith(const char *backbone, Ia3EngineKey engine);
extern void Ia3StayNoLonger(void);

/*
 * Opens a connection to an engine that is ready. It has until the deadline to answer, and in any case the time that
 * an engine at work needs to answer a greeting; less where the wish leaves another engine. IA3_IO_GONE also if it did
 * not answer in this case; such an engine is then avoided for a while.
 */
extern Ia3IoResult Ia3OpenReady(Ia3Connection *conn, const Ia3EngineStatus *status, Ia3EngineKey engine,
                                const Ia3EngineWish *wish, ia3_reader *reader, Ia3Time deadline);

#endif
