/*
 * readahead_safety.h
 *     Which subtrees and expressions may run ahead of their consumer.
 */
#ifndef IA3_READAHEAD_SAFETY_H
#define IA3_READAHEAD_SAFETY_H

#include "nodes/plannodes.h"
#include "nodes/primnodes.h"

#include "readahead_plan.h"

/* Whether an expression raises no error, whatever its inputs are. */
extern bool Ia3FunctionCannotFail(const FuncExpr *call);
extern bool Ia3OperatorCannotFail(const OpExpr *op);
extern bool Ia3CoercionCannotFail(const CoerceViaIO *coercion);
/* Whether the rows of this subtree may be read ahead. `wantsAll`: the consumer will use all of them. */
extern bool Ia3MayReadAhead(Ia3Rewrite *rw, Plan *plan, bool wantsAll);
/* Whether functions in the subtree might see what has been done with rows that it has returned already. */
extern bool Ia3SeesChanges(Ia3Rewrite *rw, Plan *plan);
/* The children of a plan node other than lefttree and righttree, as a new List. */
extern List *Ia3PlanExtraChildren(Plan *plan);

#endif
