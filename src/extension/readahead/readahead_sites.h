/*
 * readahead_sites.h
 *     Finding calls in expressions, and when their arguments may be computed early.
 */
#ifndef IA3_READAHEAD_SITES_H
#define IA3_READAHEAD_SITES_H

#include "nodes/plannodes.h"

#include "readahead_plan.h"

/*
 * Calls found in an expression or in a plan subtree. A site is a List: the FuncExpr, followed by
 * the conditions under which it is evaluated. Its Vars refer to the rows that will be read ahead.
 */
typedef struct Ia3Sites {
    List *sites;
    List *calls; /* the FuncExpr nodes of the plan that the sites stand for */
} Ia3Sites;

/* Whether an expression contains a call of one of our functions. */
extern bool Ia3ContainsCall(Node *expr);
/* The calls in an expression over the columns of one input. `certain`: it is evaluated for every row that is read. */
extern Ia3Sites Ia3FindSites(Ia3Rewrite *rw, Node *expr, bool certain);
/* The calls in the arguments of aggregates or window functions of `node`, over the columns of its child. */
extern Ia3Sites Ia3FindAggregateSites(Ia3Rewrite *rw, Plan *node, bool certain);
/* The calls in the inner side and the join condition of a nested loop, over the columns of its outer side. */
extern Ia3Sites Ia3FindNestLoopSites(Ia3Rewrite *rw, NestLoop *join, bool certain);

#endif
