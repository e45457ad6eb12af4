/*
 * classify.h
 *     Answering a call of ia3_classify or ia3_predict.
 */
#ifndef IA3_CLASSIFY_H
#define IA3_CLASSIFY_H

#include "call.h"
#include "ranking.h"

/* What a function makes of an answer: anything, one best choice, or those that are right, of a multi-label task. */
typedef enum Ia3AnswerKind { IA3_ANSWER_ANY, IA3_ANSWER_ONE, IA3_ANSWER_LABELS } Ia3AnswerKind;

/*
 * Returns the answer, from the result cache if it is there, otherwise from the engine. It is valid until the executor
 * continues. ERROR for anything that keeps the call from being answered, 0A000 for a task of the wrong kind.
 */
extern const Ia3Ranking *Ia3Answer(const Ia3Call *call, Ia3AnswerKind kind);

/* The same for the call of a function whose first `nArgs` arguments are those of the call. The call site remembers it. */
extern const Ia3Ranking *Ia3AnswerCall(FunctionCallInfo fcinfo, Ia3CallForm form, int nArgs,
                                       Ia3AnswerKind kind);

#endif
