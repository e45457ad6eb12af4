/*
 * classify.h
 *     Answering a call.
 */
#ifndef IA3_CLASSIFY_H
#define IA3_CLASSIFY_H

#include "call.h"
#include "ranking.h"

/*
 * The answer, from the result cache if it is there, else from the engine. Valid until the executor moves
 * on. ERROR for whatever keeps the call from being answered.
 */
extern const Ia3Ranking *Ia3Answer(const Ia3Call *call);

#endif
