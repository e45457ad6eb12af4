/*
 * readahead.h
 *     Rows of a plan reach the engine in batches: the parts of the read-ahead node and how they fit.
 *
 * ia3_classify and ia3_predict are called by ordinary executor nodes, row by row. After planning we put a
 * custom scan, Ia3ReadAhead, under every node that calls them. It reads some rows of its child, evaluates
 * the arguments that the calls above will have, asks the engine about all of them at once and keeps the
 * answers in a result cache (result_cache.h); then it hands the rows on, unchanged. The functions are still
 * called for each row and find their answers there. A call that finds nothing asks the engine itself, so a
 * missing or useless read-ahead costs time and never changes a result.
 *
 *     readahead_plan.c       planner hook; the walk over the finished plan that decides where nodes go
 *     readahead_functions.c  which functions are ours
 *     readahead_sites.c      finding calls in expressions, and when their arguments may be computed early
 *     readahead_safety.c     which subtrees and expressions may run ahead of their consumer
 *     readahead_rewrite.c    building the node: between two nodes, or on top of one that is taken apart
 *     readahead_exec.c       executing the node: reading and emitting batches, rescans
 *     readahead_run.c        whether a query is run to its end
 *     readahead_explain.c    EXPLAIN, and adding up what parallel workers did
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

/* From _PG_init: registers the node, hooks the planner. */
extern void Ia3ReadAheadInit(void);

/*
 * Functions (readahead_functions.c)
 */

/* How this function's arguments are to be read; IA3_CALL_NONE when it is not ours. */
extern Ia3CallForm Ia3FunctionForm(Oid function);
/* Whether one of our functions is among the dependencies of a finished plan. */
extern bool Ia3PlanUsesFunctions(const PlannedStmt *stmt);

/*
 * Planning. One Ia3Rewrite per planned statement.
 */
typedef struct Ia3Rewrite {
    PlannedStmt *stmt;
    int nextNodeId;
    List *served; /* FuncExpr nodes that some read-ahead node already takes care of */
    /* numbers of subplans, of CTEs, that are known to have no side effects (readahead_safety.c) */
    Bitmapset *pureCtes[2];
} Ia3Rewrite;

/* What a plan node must know about the node that reads from it. */
typedef struct Ia3Consumer {
    bool mayStop;   /* it may stop before the end, or before its limit: batches start small */
    bool uncertain; /* it reads all or, seldom, finds after some rows that it needs none */
    bool fixedType; /* it relies on the type of its child, which must stay in its place */
    bool inGather;  /* the node runs in parallel workers */
    /* it reads no more rows than these two add up to; NULL: no limit */
    Node *limitCount;
    Node *limitOffset;
} Ia3Consumer;

/* Is every row, up to the limit, wanted for certain? Then what fails early would have failed anyway. */
static inline bool
Ia3WantsAll(const Ia3Consumer *consumer)
{
    return !consumer->mayStop && !consumer->uncertain;
}

/*
 * Calls found in an expression or in a plan subtree (readahead_sites.c). A site is a List: the FuncExpr,
 * then the conditions under which it is evaluated. Its Vars refer to the rows that will be read ahead.
 */
typedef struct Ia3Sites {
    List *sites;
    List *calls; /* the FuncExpr nodes of the plan that the sites stand for */
} Ia3Sites;

extern bool Ia3ContainsCall(Node *expr);
/* Could computing the sites raise an error? */
extern bool Ia3SitesMayFail(List *sites);
/* Calls in an expression over the columns of one input. `certain`: it is evaluated for every row read. */
extern Ia3Sites Ia3FindSites(Ia3Rewrite *rw, Node *expr, bool certain);
/* Calls in the arguments of aggregates or window functions of `node`, over the columns of its child. */
extern Ia3Sites Ia3FindAggregateSites(Ia3Rewrite *rw, Plan *node, bool certain);
/* Calls in the inner side and the join condition of a nested loop, over the columns of its outer side. */
extern Ia3Sites Ia3FindNestLoopSites(Ia3Rewrite *rw, NestLoop *join, bool certain);

/* readahead_safety.c */

/* Expressions that raise no error, whatever their inputs are. */
extern bool Ia3FunctionCannotFail(const FuncExpr *call);
extern bool Ia3OperatorCannotFail(const OpExpr *op);
extern bool Ia3CoercionCannotFail(const CoerceViaIO *coercion);
/* Whether rows of this subtree may be read ahead; `wantsAll`: none of them will be left over. */
extern bool Ia3MayReadAhead(Ia3Rewrite *rw, Plan *plan, bool wantsAll);
/* Whether its functions might look at what is done with the rows that it has returned already. */
extern bool Ia3SeesChanges(Ia3Rewrite *rw, Plan *plan);
/* The children of a plan node that are in neither lefttree nor righttree; a new List, to be freed or not. */
extern List *Ia3PlanExtraChildren(Plan *plan);

/* readahead_rewrite.c */

/* Puts a node over `child`; columns stay as they are. */
extern Plan *Ia3Interpose(Ia3Rewrite *rw, Plan *child, const Ia3Sites *sites, const Ia3Consumer *consumer);
/* Moves the calls in the node's own target list, or in its filter, into nodes on top of it. */
extern Plan *Ia3Split(Ia3Rewrite *rw, Plan *plan, const Ia3Consumer *consumer);

/*
 * What the planner tells the executor in CustomScan.custom_private: a List of Integers. custom_exprs holds
 * the sites, each a List, and then, if there is a limit, its count and its offset.
 */
typedef struct Ia3ReadAheadPlan {
    int nSites;
    bool mayStop;
    bool
        careful; /* rows that are not wanted must not be touched, should the query be stopped (Ia3RunMayStop) */
    bool hasLimit;
} Ia3ReadAheadPlan;

extern List *Ia3ReadAheadPlanPut(const Ia3ReadAheadPlan *plan);
extern Ia3ReadAheadPlan Ia3ReadAheadPlanGet(const CustomScan *scan);
extern const CustomScanMethods Ia3ReadAheadScanMethods;

/*
 * Whether the run that is going on was asked for a number of rows (readahead_run.c): FETCH, a fetch size, loops and
 * SELECT INTO of PL/pgSQL, a function in SQL. The plan does not say so.
 */
extern void Ia3RunInit(void);
extern bool Ia3RunMayStop(void);

/*
 * Execution (readahead_exec.c, readahead_explain.c)
 */
typedef struct Ia3Site {
    Ia3CallForm form;
    bool nested;  /* its arguments contain other calls, whose answers have to be there first */
    List *guards; /* ExprStates */
    List *args;
    bool isNewValue[IA3_MAX_CALL_ARGS]; /* evaluating it allocates memory */
} Ia3Site;

typedef struct Ia3Batch {
    MemoryContext context; /* of everything below but `rows` itself */
    uint64 number;
    int nRows;
    int nextRow; /* to be emitted */
    MinimalTuple *rows;
    Ia3Asking *asking; /* NULL: nothing under way */
} Ia3Batch;

typedef struct Ia3SharedCounts Ia3SharedCounts;

typedef struct Ia3ReadAheadState {
    CustomScanState css;
    Ia3ReadAheadPlan plan;
    Ia3Site *sites;
    ExprState *limitCount, *limitOffset;
    bool enabled; /* ia3.enable_batching when the query started */

    Ia3Batch batches[2]; /* the one that is emitted, and one to be read while the engine is busy */
    Ia3Batch *current, *next;
    TupleTableSlot *rowSlot; /* deforms stored rows */
    int capacity;            /* rows of a full batch */
    int size;                /* rows of the next batch if the consumer may stop */
    bool started, childDone, collected;
    uint64 nBatches; /* read so far: numbers them */
    int64 bound;     /* at most so many rows will be wanted; -1 = no limit */
    int64 nRead;
    Ia3ResultCache *cache;

    Ia3AskCounts counts;
    Ia3SharedCounts *shared; /* of leader and workers; NULL outside parallel plans */
} Ia3ReadAheadState;

extern void Ia3ReadAheadPublish(Ia3ReadAheadState *state);
extern void Ia3ReadAheadExplain(CustomScanState *node, List *ancestors, ExplainState *es);
extern Size Ia3ReadAheadEstimateDSM(CustomScanState *node, ParallelContext *pcxt);
extern void Ia3ReadAheadInitializeDSM(CustomScanState *node, ParallelContext *pcxt, void *coordinate);
extern void Ia3ReadAheadReInitializeDSM(CustomScanState *node, ParallelContext *pcxt, void *coordinate);
extern void Ia3ReadAheadInitializeWorker(CustomScanState *node, shm_toc *toc, void *coordinate);
extern void Ia3ReadAheadShutdown(CustomScanState *node);

#endif
