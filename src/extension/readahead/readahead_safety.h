/*
 * readahead_safety.h
 *     Which subtrees and expressions may run ahead of their consumer.
 */
#ifndef IA3_READAHEAD_SAFETY_H
#define IA3_READAHEAD_SAFETY_H

#include "nodes/plannodes.h"
#include "nodes/primnodes.h"

#include "readahead_plan.h"

/* Whether evaluating the arguments and conditions of a site might raise an error. */
extern bool Ia3SiteMayFail(List *site);
/* Whether evaluating an expression of the plan might raise an error for one row, having raised none for another. */
extern bool Ia3ExpressionMayFail(Ia3Rewrite *rw, Node *expr);
/* Whether reading a row of this subtree might raise an error, having raised none for the rows before. */
extern bool Ia3PlanMayFail(Ia3Rewrite *rw, Plan *plan);
/* Whether the rows of this subtree may be read ahead. `wantsAll`: the consumer will use all of them. */
extern bool Ia3MayReadAhead(Ia3Rewrite *rw, Plan *plan, bool wantsAll);
/* Whether functions in the subtree might see what has been done with rows that it has returned already. */
extern bool Ia3SeesChanges(Ia3Rewrite *rw, Plan *plan);
/* The children of a plan node other than lefttree and righttree, as a new List. */
extern List *Ia3PlanExtraChildren(Plan *plan);

#endif
