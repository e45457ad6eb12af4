/*
 * readahead.h
 *     Sending the rows of a plan to the engine in batches: the parts of the read-ahead node and how they fit.
 *
 * ia3_classify and ia3_predict are called by ordinary executor nodes, row by row. After planning we put a custom
 * scan, Ia3ReadAhead, below every node that calls them. It reads some rows of its child, evaluates the arguments that
 * the calls above it will have, sends all of these calls to the engine at once and keeps the answers in a result
 * cache (result_cache.h); then it returns the rows unchanged. The functions are still called for each row and find
 * their answers in the cache. A call that finds none goes to the engine by itself, so a missing or useless read-ahead
 * costs time, but never changes a result.
 *
 *     readahead_plan.c       the planner hook, and the walk over the finished plan that decides where nodes go
 *     readahead_functions.c  which functions are ours
 *     readahead_sites.c      finding calls in expressions, and when their arguments may be computed early
 *     readahead_safety.c     which subtrees and expressions may run ahead of their consumer
 *     readahead_rewrite.c    inserting the node between two nodes, or on top of one that is split
 *     readahead_exec.c       executing the node: reading and returning batches, rescans
 *     readahead_run.c        whether a query is run to its end
 *     readahead_explain.c    EXPLAIN, and adding up the counts of parallel workers
 */
#ifndef IA3_READAHEAD_H
#define IA3_READAHEAD_H

#include "nodes/execnodes.h"
#include "nodes/extensible.h"
#include "nodes/pathnodes.h"
#include "nodes/plannodes.h"

#include "extension/predict/ask.h"
#include "extension/predict/call.h"
#include "extension/predict/result_cache.h"

#define IA3_READAHEAD_NAME "Ia3ReadAhead"

/* Registers the node and installs the planner hook; called by _PG_init. */
extern void Ia3ReadAheadInit(void);

/*
 * Functions (readahead_functions.c)
 */

/* How the arguments of this function are to be read; IA3_CALL_NONE if it is not one of ours. */
extern Ia3CallForm Ia3FunctionForm(Oid function);
/* Whether a finished plan depends on one of our functions. */
extern bool Ia3PlanUsesFunctions(const PlannedStmt *stmt);

/*
 * Planning; there is one Ia3Rewrite per planned statement.
 */
typedef struct Ia3Rewrite {
    PlannedStmt *stmt;
    int nextNodeId;
    List *served; /* FuncExpr nodes that a read-ahead node already takes care of */
    /* numbers of the subplans of CTEs that are known to have no side effects (readahead_safety.c) */
    Bitmapset *pureCtes[2];
} Ia3Rewrite;

/* What a plan node must know about the node that reads from it, its consumer. */
typedef struct Ia3Consumer {
    bool mayStop;   /* it may stop before the end, or before its limit, so batches start small */
    bool uncertain; /* it reads all rows or, rarely, finds after some of them that it needs none */
    bool fixedType; /* it relies on the type of its child, which must therefore stay in place */
    bool inGather;  /* the node runs in parallel workers */
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

/*
 * Calls found in an expression or in a plan subtree (readahead_sites.c). A site is a List: the FuncExpr, followed by
 * the conditions under which it is evaluated. Its Vars refer to the rows that will be read ahead.
 */
typedef struct Ia3Sites {
    List *sites;
    List *calls; /* the FuncExpr nodes of the plan that the sites stand for */
} Ia3Sites;

/* Whether an expression contains a call of one of our functions. */
extern bool Ia3ContainsCall(Node *expr);
/* Whether computing the sites might raise an error. */
extern bool Ia3SitesMayFail(List *sites);
/* The calls in an expression over the columns of one input. `certain`: it is evaluated for every row that is read. */
extern Ia3Sites Ia3FindSites(Ia3Rewrite *rw, Node *expr, bool certain);
/* The calls in the arguments of aggregates or window functions of `node`, over the columns of its child. */
extern Ia3Sites Ia3FindAggregateSites(Ia3Rewrite *rw, Plan *node, bool certain);
/* The calls in the inner side and the join condition of a nested loop, over the columns of its outer side. */
extern Ia3Sites Ia3FindNestLoopSites(Ia3Rewrite *rw, NestLoop *join, bool certain);

/*
 * What may run early (readahead_safety.c)
 */

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

/*
 * Inserting nodes (readahead_rewrite.c)
 */

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
    bool
        careful; /* rows must not be read early if the query may be stopped before it needs them (Ia3RunMayStop) */
    bool hasLimit;
} Ia3ReadAheadPlan;

extern List *Ia3ReadAheadPlanPut(const Ia3ReadAheadPlan *plan);
extern Ia3ReadAheadPlan Ia3ReadAheadPlanGet(const CustomScan *scan);
extern const CustomScanMethods Ia3ReadAheadScanMethods;

/*
 * Whether the current run of the executor has a row limit of its own (readahead_run.c), as for FETCH, a driver's
 * fetch size, loops and SELECT INTO in PL/pgSQL, and functions in SQL. The plan does not tell.
 */
extern void Ia3RunInit(void);
extern bool Ia3RunMayStop(void);

/*
 * Execution (readahead_exec.c, readahead_explain.c)
 */
typedef struct Ia3Site {
    Ia3CallForm form;
    bool nested;  /* its arguments contain other calls, whose answers are needed first */
    List *guards; /* ExprStates */
    List *args;
    bool isNewValue[IA3_MAX_CALL_ARGS]; /* evaluating it allocates memory */
} Ia3Site;

typedef struct Ia3Batch {
    MemoryContext context; /* of everything below but `rows` itself */
    uint64 number;
    int nRows;
    int nextRow; /* to be returned next */
    MinimalTuple *rows;
    Ia3Asking *asking; /* NULL: nothing in progress */
} Ia3Batch;

typedef struct Ia3SharedCounts Ia3SharedCounts;

typedef struct Ia3ReadAheadState {
    CustomScanState css;
    Ia3ReadAheadPlan plan;
    Ia3Site *sites;
    ExprState *limitCount, *limitOffset;
    bool enabled; /* ia3.enable_batching when the query started */

    Ia3Batch batches[2]; /* one is being returned, one is read while the engine is busy */
    Ia3Batch *current, *next;
    TupleTableSlot *rowSlot; /* deforms stored rows */
    int capacity;            /* rows of a full batch */
    int size;                /* rows of the next batch if the consumer may stop */
    bool started, childDone, collected;
    uint64 nBatches; /* read so far, which numbers them */
    int64 bound;     /* the consumer will read at most this many rows; -1: no limit */
    int64 nRead;
    Ia3ResultCache *cache;

    Ia3AskCounts counts;
    Ia3SharedCounts *shared; /* of the leader and the workers; NULL outside parallel plans */
} Ia3ReadAheadState;

/* Adds what this process has counted to the shared counts, if there are any. */
extern void Ia3ReadAheadPublish(Ia3ReadAheadState *state);
/* The methods of CustomExecMethods that concern EXPLAIN and parallel plans. */
extern void Ia3ReadAheadExplain(CustomScanState *node, List *ancestors, ExplainState *es);
extern Size Ia3ReadAheadEstimateDSM(CustomScanState *node, ParallelContext *pcxt);
extern void Ia3ReadAheadInitializeDSM(CustomScanState *node, ParallelContext *pcxt, void *coordinate);
extern void Ia3ReadAheadReInitializeDSM(CustomScanState *node, ParallelContext *pcxt, void *coordinate);
extern void Ia3ReadAheadInitializeWorker(CustomScanState *node, shm_toc *toc, void *coordinate);
extern void Ia3ReadAheadShutdown(CustomScanState *node);

#endif
