/*
 * ask.h
 *     Many calls at once: those of a batch of rows, answered into a result cache.
 *
 * Calls are added one by one, sent together, and collected later. What concerns a single call (no such task, unusable
 * choices, refused by the engine) leaves that call without an answer, so that the function meets the error itself if
 * it is really called. What concerns them all is an ERROR.
 */
#ifndef IA3_ASK_H
#define IA3_ASK_H

#include "call.h"
#include "result_cache.h"

typedef struct Ia3AskCounts {
    uint64 batches; /* requests sent */
    uint64 rows;    /* calls in them */
    uint64 largest;
} Ia3AskCounts;

typedef struct Ia3Asking Ia3Asking;

/* Lives in the current memory context, and so must the arguments of the calls that are added. */
extern Ia3Asking *Ia3AskingCreate(Ia3ResultCache *cache, Ia3AskCounts *counts);
/* Returns the bytes of the arguments if it is a call that has to be sent, 0 if the answer is known or on its way. */
extern Size Ia3AskingAdd(Ia3Asking *asking, const Ia3Call *call);
/* Makes the requests. `ahead`: sends them now, because other things will be done before they are collected. */
extern void Ia3AskingSend(Ia3Asking *asking, bool ahead);
extern void Ia3AskingCollect(Ia3Asking *asking);
/* Tells the engine not to bother. The calls may be asked again. */
extern void Ia3AskingDrop(Ia3Asking *asking);

#endif
