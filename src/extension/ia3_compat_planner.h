/*
 * ia3_compat_planner.h
 *     Differences between PostgreSQL 13 and 18 in planner, executor and EXPLAIN. Each entry names the change it bridges.
 */
#ifndef IA3_COMPAT_PLANNER_H
#define IA3_COMPAT_PLANNER_H

#include "commands/explain.h"
#include "executor/executor.h"
#include "nodes/plannodes.h"
#if PG_VERSION_NUM >= 180000
#include "commands/explain_format.h" /* 18: moved out of explain.h */
#include "commands/explain_state.h"
#endif

/* 14: Memoize */
static inline bool
Ia3IsMemoize(const Plan *plan)
{
#if PG_VERSION_NUM >= 140000
    return IsA(plan, Memoize);
#else
    return false;
#endif
}

/* 14: TidRangeScan */
static inline bool
Ia3IsTidRangeScan(const Plan *plan)
{
#if PG_VERSION_NUM >= 140000
    return IsA(plan, TidRangeScan);
#else
    return false;
#endif
}

/* 17: JsonExpr */
static inline bool
Ia3IsJsonExpr(const Node *node)
{
#if PG_VERSION_NUM >= 170000
    return IsA(node, JsonExpr);
#else
    return false;
#endif
}

/* 14: a ModifyTable has one child, lefttree, instead of this list */
static inline List *
Ia3ModifyTablePlans(const ModifyTable *modify)
{
#if PG_VERSION_NUM >= 140000
    return NIL;
#else
    return modify->plans;
#endif
}

/* 15: a WindowAgg may have a condition on a monotonic window function, and ends when it is false */
static inline List *
Ia3WindowRunCondition(const WindowAgg *window)
{
#if PG_VERSION_NUM >= 150000
    return window->runCondition;
#else
    return NIL;
#endif
}

/* 18: how many nodes of a plan are of a disabled kind is counted apart and no longer part of its costs */
static inline void
Ia3CopyDisabledNodes(Plan *to, const Plan *from)
{
#if PG_VERSION_NUM >= 180000
    to->disabled_nodes = from->disabled_nodes;
#endif
}

/* 18: ExecutorRun lost its parameter execute_once */
#if PG_VERSION_NUM >= 180000
#define IA3_EXECUTOR_RUN_PARAMETERS QueryDesc *query, ScanDirection direction, uint64 count
#define IA3_EXECUTOR_RUN_ARGUMENTS  query, direction, count
#else
#define IA3_EXECUTOR_RUN_PARAMETERS QueryDesc *query, ScanDirection direction, uint64 count, bool once
#define IA3_EXECUTOR_RUN_ARGUMENTS  query, direction, count, once
#endif

#endif
