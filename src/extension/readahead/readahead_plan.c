/*
 * readahead_plan.c
 *     The planner hook, which walks a finished plan and decides where read-ahead nodes go.
 *
 * A plan that does not use our functions is left unchanged. The walk takes with it, on the way down, what the
 * consumer of each node will do (Ia3Consumer), and rewrites on the way up, so the children of a node that evaluates a
 * call have been served before. Where it changes nothing, the plan stays correct but slow: on the inner side of
 * MergeJoin, which must be able to mark and restore, in the scans of other extensions, and above LockRows or
 * ModifyTable.
 */
#include "postgres.h"

#include "miscadmin.h"
#include "optimizer/optimizer.h"
#include "optimizer/planner.h"

#include "readahead_plan.h"
#include "extension/guc.h"
#include "extension/ia3_compat_planner.h"
#include "readahead.h"
#include "readahead_exec.h"
#include "readahead_functions.h"
#include "readahead_rewrite.h"
#include "readahead_run.h"
#include "readahead_safety.h"
#include "readahead_sites.h"

static planner_hook_type previousPlanner = NULL;

static Plan *rewrite_plan(Ia3Rewrite *rw, Plan *plan, Ia3Consumer consumer);

/* The consumer that a node is to its child if it reads the child to the end, whatever its own consumer does; */
static Ia3Consumer
reads_all(const Ia3Consumer *consumer)
{
    return (Ia3Consumer){.inGather = consumer->inGather};
}

/* if it reads for as long as its own consumer does, but not one row for each row that it returns; */
static Ia3Consumer
reads_like_consumer(const Ia3Consumer *consumer)
{
    return (Ia3Consumer){.mayStop = consumer->mayStop || consumer->limitCount,
                         .uncertain = consumer->uncertain,
                         .inGather = consumer->inGather};
}

/* if it may stop, whatever its own consumer does; */
static Ia3Consumer
reads_some(const Ia3Consumer *consumer)
{
    return (Ia3Consumer){.mayStop = true, .inGather = consumer->inGather};
}

/* and if it returns exactly one row for each row that it reads. */
static Ia3Consumer
reads_one_for_one(const Ia3Consumer *consumer)
{
    Ia3Consumer child = *consumer;

    child.fixedType = false;
    return child;
}

static Plan *
rewrite_limit(Ia3Rewrite *rw, Limit *limit, Ia3Consumer consumer)
{
    Ia3Consumer child = reads_some(&consumer);

    /* The node evaluates the limit, too, so this must give the same result. WITH TIES reads beyond the limit. */
    if (limit->limitOption == LIMIT_OPTION_COUNT && limit->limitCount &&
        !contain_volatile_functions(limit->limitCount) && !contain_volatile_functions(limit->limitOffset)) {
        child = reads_like_consumer(&consumer);
        child.limitCount = limit->limitCount;
        child.limitOffset = limit->limitOffset;
    }
    child.isPosition = consumer.isPosition;
    limit->plan.lefttree = rewrite_plan(rw, limit->plan.lefttree, child);
    return &limit->plan;
}

static Plan *
rewrite_nest_loop(Ia3Rewrite *rw, NestLoop *join, Ia3Consumer consumer)
{
    Plan *plan = &join->join.plan;
    Ia3Consumer outer = reads_like_consumer(&consumer);
    Ia3Consumer inner = outer;
    Ia3Sites sites;

    if (join->join.jointype == JOIN_SEMI || join->join.jointype == JOIN_ANTI || join->join.inner_unique)
        inner.mayStop = true;
    plan->lefttree = rewrite_plan(rw, plan->lefttree, outer);
    plan->righttree = rewrite_plan(rw, plan->righttree, inner);
    sites = Ia3FindNestLoopSites(rw, join, Ia3WantsAll(&outer));
    plan->lefttree = Ia3Interpose(rw, plan->lefttree, &sites, &outer);
    return Ia3Split(rw, plan, &consumer);
}

static Plan *
rewrite_merge_join(Ia3Rewrite *rw, MergeJoin *join, Ia3Consumer consumer)
{
    Plan *plan = &join->join.plan;
    Ia3Consumer child = reads_some(&consumer); /* the join ends with the shorter side */

    plan->lefttree = rewrite_plan(rw, plan->lefttree, child);
    child.fixedType = true;
    plan->righttree = rewrite_plan(rw, plan->righttree, child);
    return Ia3Split(rw, plan, &consumer);
}

/* A row whose first key is NULL matches nothing, so its other keys are not evaluated. */
static bool
keys_are_certain(List *hashkeys, const Ia3Consumer *consumer)
{
    return Ia3WantsAll(consumer) && list_length(hashkeys) == 1;
}

static Plan *
rewrite_hash_join(Ia3Rewrite *rw, HashJoin *join, Ia3Consumer consumer)
{
    Plan *plan = &join->join.plan;
    Ia3Consumer outer = reads_like_consumer(&consumer);
    Ia3Sites sites;

    /* the first row may be read to see whether there is one, before the hash table turns out to be empty */
    if (join->join.jointype != JOIN_LEFT && join->join.jointype != JOIN_ANTI &&
        join->join.jointype != JOIN_FULL)
        outer.uncertain = true;
    plan->lefttree = rewrite_plan(rw, plan->lefttree, outer);
    plan->righttree = rewrite_plan(rw, plan->righttree, reads_all(&consumer));
    sites = Ia3FindSites(rw, (Node *) join->hashkeys, keys_are_certain(join->hashkeys, &outer));
    plan->lefttree = Ia3Interpose(rw, plan->lefttree, &sites, &outer);
    return Ia3Split(rw, plan, &consumer);
}

static Plan *
rewrite_hash(Ia3Rewrite *rw, Hash *hash, Ia3Consumer consumer)
{
    Ia3Consumer child = reads_all(&consumer);
    Ia3Sites sites;

    hash->plan.lefttree = rewrite_plan(rw, hash->plan.lefttree, child);
    sites = Ia3FindSites(rw, (Node *) hash->hashkeys, keys_are_certain(hash->hashkeys, &child));
    hash->plan.lefttree = Ia3Interpose(rw, hash->plan.lefttree, &sites, &child);
    return &hash->plan;
}

/* Result and ProjectSet have a target list, but nothing that could be moved above them. */
static Plan *
rewrite_projection(Ia3Rewrite *rw, Plan *plan, Ia3Consumer child)
{
    Ia3Sites sites;

    if (plan->lefttree == NULL)
        return plan;
    plan->lefttree = rewrite_plan(rw, plan->lefttree, child);
    sites = Ia3FindSites(rw, (Node *) plan->targetlist, Ia3WantsAll(&child));
    plan->lefttree = Ia3Interpose(rw, plan->lefttree, &sites, &child);
    return plan;
}

static Plan *
rewrite_result(Ia3Rewrite *rw, Result *result, Ia3Consumer consumer)
{
    Ia3Consumer child = reads_one_for_one(&consumer);

    if (consumer.fixedType) { /* it marks and restores through its child */
        child.fixedType = true;
        result->plan.lefttree = rewrite_plan(rw, result->plan.lefttree, child);
        return &result->plan;
    }
    return rewrite_projection(rw, &result->plan, child);
}

/* Calls in the arguments of aggregates and window functions are evaluated over the child's rows. */
static Plan *
rewrite_aggregate(Ia3Rewrite *rw, Plan *plan, Ia3Consumer consumer)
{
    Ia3Consumer child = reads_like_consumer(&consumer);
    Ia3Sites sites;

    /* AGG_MIXED returns the groups of its sorted part while it reads, as AGG_SORTED does */
    if (IsA(plan, Agg) &&
        (((Agg *) plan)->aggstrategy == AGG_PLAIN || ((Agg *) plan)->aggstrategy == AGG_HASHED))
        child = reads_all(&consumer);
    /* a condition such as "rank <= 3" makes it end early */
    if (IsA(plan, WindowAgg) && Ia3WindowRunCondition((WindowAgg *) plan))
        child = reads_some(&consumer);
    plan->lefttree = rewrite_plan(rw, plan->lefttree, child);
    sites = Ia3FindAggregateSites(rw, plan, Ia3WantsAll(&child));
    plan->lefttree = Ia3Interpose(rw, plan->lefttree, &sites, &child);
    return Ia3Split(rw, plan, &consumer);
}

static Plan *
rewrite_subquery_scan(Ia3Rewrite *rw, SubqueryScan *scan, Ia3Consumer consumer)
{
    Ia3Consumer child = scan->scan.plan.qual ? reads_like_consumer(&consumer) : reads_one_for_one(&consumer);

    child.isPosition = consumer.isPosition;
    scan->subplan = rewrite_plan(rw, scan->subplan, child);
    return Ia3Split(rw, &scan->scan.plan, &consumer);
}

static void
rewrite_list(Ia3Rewrite *rw, List *plans, Ia3Consumer consumer)
{
    ListCell *lc;

    foreach (lc, plans)
        lfirst(lc) = rewrite_plan(rw, lfirst(lc), consumer);
}

static Plan *
rewrite_append(Ia3Rewrite *rw, Append *append, Ia3Consumer consumer)
{
    Ia3Consumer child = reads_like_consumer(&consumer);

    child.isPosition = consumer.isPosition;
    rewrite_list(rw, append->appendplans, child);
    return &append->plan;
}

/*
 * Volatile functions see the changes that the statement has made so far. So they must not run before the rows that
 * precede theirs have been inserted, updated or deleted.
 */
static Plan *
rewrite_modified(Ia3Rewrite *rw, Plan *plan, const Ia3Consumer *consumer)
{
    Ia3Consumer child = reads_all(consumer);

    child.mayStop = Ia3SeesChanges(rw, plan);
    return rewrite_plan(rw, plan, child);
}

static Plan *
rewrite_modify_table(Ia3Rewrite *rw, ModifyTable *modify, Ia3Consumer consumer)
{
    ListCell *lc;

    foreach (lc, Ia3ModifyTablePlans(modify))
        lfirst(lc) = rewrite_modified(rw, lfirst(lc), &consumer);
    if (modify->plan.lefttree)
        modify->plan.lefttree = rewrite_modified(rw, modify->plan.lefttree, &consumer);
    return &modify->plan;
}

/* Nodes that can project are split; the others only pass rows on. */
static Plan *
rewrite_other(Ia3Rewrite *rw, Plan *plan, Ia3Consumer consumer)
{
    Ia3Consumer child = reads_like_consumer(&consumer);

    if (IsA(plan, Gather) || IsA(plan, GatherMerge))
        child.inGather = true;
    plan->lefttree = rewrite_plan(rw, plan->lefttree, child);
    plan->righttree = rewrite_plan(rw, plan->righttree, child);
    switch (nodeTag(plan)) {
    case T_SeqScan:
    case T_SampleScan:
    case T_IndexScan:
    case T_IndexOnlyScan:
    case T_TidScan:
    case T_FunctionScan:
    case T_TableFuncScan:
    case T_ValuesScan:
    case T_CteScan:
    case T_NamedTuplestoreScan:
    case T_WorkTableScan:
    case T_Group:
    case T_Gather:
    case T_GatherMerge:
        return Ia3Split(rw, plan, &consumer);
    default:
        return Ia3IsTidRangeScan(plan) ? Ia3Split(rw, plan, &consumer) : plan;
    }
}

static Plan *
rewrite_plan(Ia3Rewrite *rw, Plan *plan, Ia3Consumer consumer)
{
    if (plan == NULL)
        return NULL;
    check_stack_depth();
    switch (nodeTag(plan)) {
    case T_Limit:
        return rewrite_limit(rw, (Limit *) plan, consumer);
    case T_Sort:
        plan->lefttree = rewrite_plan(rw, plan->lefttree, reads_all(&consumer));
        return plan;
    case T_Hash:
        return rewrite_hash(rw, (Hash *) plan, consumer);
    case T_NestLoop:
        return rewrite_nest_loop(rw, (NestLoop *) plan, consumer);
    case T_MergeJoin:
        return rewrite_merge_join(rw, (MergeJoin *) plan, consumer);
    case T_HashJoin:
        return rewrite_hash_join(rw, (HashJoin *) plan, consumer);
    case T_Result:
        return rewrite_result(rw, (Result *) plan, consumer);
    case T_ProjectSet:
        return rewrite_projection(rw, plan, reads_like_consumer(&consumer));
    case T_Agg:
    case T_WindowAgg:
        return rewrite_aggregate(rw, plan, consumer);
    case T_SubqueryScan:
        return rewrite_subquery_scan(rw, (SubqueryScan *) plan, consumer);
    case T_Append:
        return rewrite_append(rw, (Append *) plan, consumer);
    case T_MergeAppend:
        rewrite_list(rw, ((MergeAppend *) plan)->mergeplans, reads_like_consumer(&consumer));
        return plan;
    case T_ModifyTable:
        return rewrite_modify_table(rw, (ModifyTable *) plan, consumer);
    case T_BitmapHeapScan: /* its child returns bitmaps, not rows */
        return Ia3Split(rw, plan, &consumer);
    case T_CustomScan: /* of another extension, which may rely on the type of its child */
    case T_ForeignScan:
    case T_BitmapAnd:
    case T_BitmapOr:
    case T_BitmapIndexScan:
        return plan;
    default:
        return rewrite_other(rw, plan, consumer);
    }
}

static int
max_node_id(Plan *plan)
{
    ListCell *lc;
    int max;

    if (plan == NULL)
        return 0;
    max = Max(plan->plan_node_id, Max(max_node_id(plan->lefttree), max_node_id(plan->righttree)));
    foreach (lc, Ia3PlanExtraChildren(plan))
        max = Max(max, max_node_id(lfirst(lc)));
    return max;
}

static void
rewrite_statement(PlannedStmt *stmt, bool isCursor)
{
    Ia3Rewrite rw = {.stmt = stmt};
    /* if the client stops before the end, the executor tells us: see readahead_run.c */
    Ia3Consumer client = {.isPosition = isCursor && stmt->rowMarks == NIL};
    Ia3Consumer expression = {.mayStop = true};
    ListCell *lc;

    rw.nextNodeId = max_node_id(stmt->planTree);
    foreach (lc, stmt->subplans) /* a subplan that turned out to be unused is NULL */
        rw.nextNodeId = Max(rw.nextNodeId, max_node_id(lfirst(lc)));
    rw.nextNodeId++;

    /*
     * the main plan comes first, so that the calls in a correlated subquery are served from the rows that it runs for
     */
    stmt->planTree = rewrite_plan(&rw, stmt->planTree, client);
    foreach (lc, stmt->subplans)
        lfirst(lc) = rewrite_plan(&rw, lfirst(lc), expression);
}

/* Declared cursors and those of PL/pgSQL are planned with CURSOR_OPT_FAST_PLAN, and nothing else is. */
static PlannedStmt *
plan_with_read_ahead(Query *parse, const char *queryString, int cursorOptions, ParamListInfo boundParams)
{
    PlannedStmt *stmt = previousPlanner ? previousPlanner(parse, queryString, cursorOptions, boundParams)
                                        : standard_planner(parse, queryString, cursorOptions, boundParams);

    if (Ia3EnableBatching && Ia3PlanUsesFunctions(stmt))
        rewrite_statement(stmt, (cursorOptions & CURSOR_OPT_FAST_PLAN) != 0);
    return stmt;
}

void
Ia3ReadAheadInit(void)
{
    RegisterCustomScanMethods(&Ia3ReadAheadScanMethods);
    Ia3RunInit();
    previousPlanner = planner_hook;
    planner_hook = plan_with_read_ahead;
}
