/*
 * ask.h
 *     Predicting many calls at once, those of a batch of rows, into a result cache.
 *
 * Calls are added one by one, sent together, and collected later. An error that concerns a single call (there is no
 * such task, its choices are unusable, the engine rejects it) leaves that call without an answer, so that the
 * function raises the error if it is really called. An error that concerns all calls is an ERROR.
 */
#ifndef IA3_ASK_H
#define IA3_ASK_H

#include "call.h"
#include "result_cache.h"

typedef struct Ia3AskCounts {
    uint64 batches; /* requests sent */
    uint64 rows;    /* calls in them */
    uint64 largest;
    uint64 flops; /* of the requests that have been answered, as the engine counts them */
} Ia3AskCounts;

typedef struct Ia3Asking Ia3Asking;

/*
 * Begins a batch, which lives in the current memory context; the arguments of the added calls have to live as long.
 */
extern Ia3Asking *Ia3AskingCreate(Ia3ResultCache *cache, Ia3AskCounts *counts);
/* Returns the bytes of the arguments if the call has to be sent, 0 if its answer is known or has been requested. */
extern Size Ia3AskingAdd(Ia3Asking *asking, const Ia3Call *call);
/*
 * Makes the requests. `ahead`: sends them at once, because the caller will do other things before it collects them.
 */
extern void Ia3AskingSend(Ia3Asking *asking, bool ahead);
/* Waits for the results and puts them into the cache. */
extern void Ia3AskingCollect(Ia3Asking *asking);
/* Cancels the requests that have not been collected. The calls may be added again. */
extern void Ia3AskingDrop(Ia3Asking *asking);

#endif
