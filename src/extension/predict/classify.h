/*
 * classify.h
 *     Answering a call of ia3_classify or ia3_predict.
 */
#ifndef IA3_CLASSIFY_H
#define IA3_CLASSIFY_H

#include "call.h"
#include "ranking.h"

/*
 * Returns the answer, from the result cache if it is there, otherwise from the engine. It is valid until the executor
 * continues. ERROR for anything that keeps the call from being answered.
 */
extern const Ia3Ranking *Ia3Answer(const Ia3Call *call);

/* The same for the call of a function whose first `nArgs` arguments are those of the call. The call site remembers it. */
extern const Ia3Ranking *Ia3AnswerCall(FunctionCallInfo fcinfo, Ia3CallForm form, int nArgs);

#endif
