/*
 * readahead_functions.h
 *     Recognizing our functions.
 */
#ifndef IA3_READAHEAD_FUNCTIONS_H
#define IA3_READAHEAD_FUNCTIONS_H

#include "nodes/plannodes.h"

#include "extension/predict/call.h"

/* How the arguments of this function are to be read; IA3_CALL_NONE if it is not one of ours. */
extern Ia3CallForm Ia3FunctionForm(Oid function);
/*
 * How many of its last arguments say only what to make of the answer. A function that has some is not STRICT: NULL
 * choices are those of the task.
 */
extern int Ia3FunctionOptions(Oid function);
/* Whether a finished plan depends on one of our functions. */
extern bool Ia3PlanUsesFunctions(const PlannedStmt *stmt);

#endif
