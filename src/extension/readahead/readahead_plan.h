/*
 * readahead_plan.h
 *     What the walk over a finished plan passes on from node to node.
 */
#ifndef IA3_READAHEAD_PLAN_H
#define IA3_READAHEAD_PLAN_H

#include "nodes/plannodes.h"

/* The state of the walk, one per planned statement. */
typedef struct Ia3Rewrite {
    PlannedStmt *stmt;
    int nextNodeId;
    List *served; /* FuncExpr nodes that a read-ahead node already takes care of */
    /* numbers of the subplans of CTEs that are known to have no side effects (readahead_safety.c) */
    Bitmapset *pureCtes[2];
    Bitmapset *safeCtes; /* the same for those that raise no errors */
} Ia3Rewrite;

/* What a plan node must know about the node that reads from it, its consumer. */
typedef struct Ia3Consumer {
    bool mayStop;    /* it may stop before the end, or before its limit, so batches start small */
    bool uncertain;  /* it reads all rows or, rarely, finds after some of them that it needs none */
    bool fixedType;  /* it relies on the type of its child, which must therefore stay in place */
    bool inGather;   /* the node runs in parallel workers */
    bool isPosition; /* it is at the same row as a cursor, which may be used for WHERE CURRENT OF */
    /* it reads no more rows than the sum of these two; NULL: no limit */
    Node *limitCount;
    Node *limitOffset;
} Ia3Consumer;

/*
 * Whether every row, up to the limit, will be read for certain: then whatever fails early would have failed anyway.
 */
static inline bool
Ia3WantsAll(const Ia3Consumer *consumer)
{
    return !consumer->mayStop && !consumer->uncertain;
}

#endif
