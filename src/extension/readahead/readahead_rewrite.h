/*
 * readahead_rewrite.h
 *     Inserting the read-ahead node, and what it tells the executor.
 */
#ifndef IA3_READAHEAD_REWRITE_H
#define IA3_READAHEAD_REWRITE_H

#include "nodes/plannodes.h"

#include "readahead_plan.h"
#include "readahead_sites.h"

/* Puts a node over `child` that has the same columns. Returns `child` itself when there is nothing to read ahead. */
extern Plan *Ia3Interpose(Ia3Rewrite *rw, Plan *child, const Ia3Sites *sites, const Ia3Consumer *consumer);
/* Moves the calls in the node's own target list, or in its filter, into nodes on top of it; returns the topmost. */
extern Plan *Ia3Split(Ia3Rewrite *rw, Plan *plan, const Ia3Consumer *consumer);

/*
 * What the planner tells the executor in CustomScan.custom_private, as a List of Integers. custom_exprs holds the
 * sites, each a List, followed, if there is a limit, by its count and its offset.
 */
typedef struct Ia3ReadAheadPlan {
    int nSites;
    bool mayStop;
    bool uncertain; /* the consumer may stop after the first row */
    bool
        careful; /* no row may be read early if the consumer or the query (Ia3RunMayStop) may stop before it */
    bool hasLimit;
} Ia3ReadAheadPlan;

/* Converts it to that List and back. */
extern List *Ia3ReadAheadPlanPut(const Ia3ReadAheadPlan *plan);
extern Ia3ReadAheadPlan Ia3ReadAheadPlanGet(const CustomScan *scan);

#endif
