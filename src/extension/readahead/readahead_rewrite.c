/*
 * readahead_rewrite.c
 *     Inserting the read-ahead node into a finished plan.
 *
 * The plan has been processed by setrefs.c, so Vars say where their value is found at run time. The child of the node
 * is its lefttree, so parameters, EXPLAIN and deparsing work as for any node. Its scan tuple is the child's row
 * (custom_scan_tlist has one OUTER_VAR per column); everything that it evaluates itself refers to the scan tuple by
 * INDEX_VARs. There is no range table entry (scanrelid is 0).
 *
 * Interposing leaves the columns unchanged. Splitting takes the calls out of a node: expressions without a call stay
 * in it; those with one move up into the read-ahead node and leave behind the columns that they need.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/optimizer.h"

#include "readahead_rewrite.h"
#include "extension/ia3_compat_planner.h"
#include "readahead_exec.h"
#include "readahead_position.h"
#include "readahead_safety.h"

List *
Ia3ReadAheadPlanPut(const Ia3ReadAheadPlan *plan)
{
    return list_make5(makeInteger(plan->nSites), makeInteger(plan->mayStop), makeInteger(plan->uncertain),
                      makeInteger(plan->careful), makeInteger(plan->hasLimit));
}

Ia3ReadAheadPlan
Ia3ReadAheadPlanGet(const CustomScan *scan)
{
    Ia3ReadAheadPlan plan;

    plan.nSites = intVal(linitial(scan->custom_private));
    plan.mayStop = intVal(lsecond(scan->custom_private)) != 0;
    plan.uncertain = intVal(lthird(scan->custom_private)) != 0;
    plan.careful = intVal(lfourth(scan->custom_private)) != 0;
    plan.hasLimit = intVal(list_nth(scan->custom_private, 4)) != 0;
    return plan;
}

static bool
param_walker(Node *node, Bitmapset **params)
{
    if (node == NULL)
        return false;
    if (IsA(node, Param) && ((Param *) node)->paramkind == PARAM_EXEC)
        *params = bms_add_member(*params, ((Param *) node)->paramid);
    return expression_tree_walker(node, param_walker, params);
}

/* The column of `entry` as the node above sees it. */
static Var *
make_column_var(int varno, const TargetEntry *entry)
{
    Node *expr = (Node *) entry->expr;

    return makeVar(varno, entry->resno, exprType(expr), exprTypmod(expr), exprCollation(expr), 0);
}

static void
copy_costs(Plan *to, const Plan *from)
{
    to->startup_cost = from->startup_cost;
    to->total_cost = from->total_cost;
    to->plan_rows = from->plan_rows;
    to->plan_width = from->plan_width;
    Ia3CopyDisabledNodes(to, from);
}

static bool
sites_may_fail(List *sites)
{
    ListCell *lc;

    foreach (lc, sites)
        if (Ia3SiteMayFail(lfirst(lc)))
            return true;
    return false;
}

/* Makes a read-ahead node. targetlist, qual and sites refer to the child's columns by INDEX_VARs. */
static Plan *
make_node(Ia3Rewrite *rw, Plan *child, List *targetlist, List *qual, List *sites, const Ia3Consumer *consumer)
{
    CustomScan *scan = makeNode(CustomScan);
    Plan *plan = &scan->scan.plan;
    Ia3ReadAheadPlan info = {
        .nSites = list_length(sites),
        .mayStop = consumer->mayStop,
        .uncertain = consumer->uncertain,
        .careful = sites_may_fail(sites) || !Ia3MayReadAhead(rw, child, false) || Ia3PlanMayFail(rw, child),
        .hasLimit = consumer->limitCount && !qual, /* the limit counts the rows that pass our filter */
    };
    Bitmapset *params = NULL;
    ListCell *lc;

    copy_costs(plan, child);
    plan->plan_node_id = rw->nextNodeId++;
    plan->targetlist = targetlist;
    plan->qual = qual;
    plan->lefttree = child;
    plan->parallel_safe = child->parallel_safe;
    /* without this flag execParallel.c would skip a custom scan, and workers could not report their counts */
    plan->parallel_aware = consumer->inGather;
    foreach (lc, child->targetlist) {
        TargetEntry *entry = lfirst(lc);

        scan->custom_scan_tlist =
            lappend(scan->custom_scan_tlist, makeTargetEntry((Expr *) make_column_var(OUTER_VAR, entry),
                                                             entry->resno, entry->resname, false));
    }
    scan->custom_exprs = list_copy(sites);
    if (info.hasLimit) {
        Node *offset = consumer->limitOffset ? copyObject(consumer->limitOffset)
                                             : (Node *) makeNullConst(INT8OID, -1, InvalidOid);

        scan->custom_exprs = lappend(lappend(scan->custom_exprs, copyObject(consumer->limitCount)), offset);
    }
    scan->custom_private = Ia3ReadAheadPlanPut(&info);
    /* so a plan can run backward if it could before */
    scan->flags = ExecSupportsBackwardScan(child) ? CUSTOMPATH_SUPPORT_BACKWARD_SCAN : 0;
    scan->methods = &Ia3ReadAheadScanMethods;
    param_walker((Node *) scan->custom_exprs, &params);
    plan->extParam = bms_union(child->extParam, params);
    plan->allParam = bms_union(child->allParam, params);
    return plan;
}

/*
 * Interposing
 */

static Node *
outer_to_index(Node *node, void *context)
{
    if (node == NULL)
        return NULL;
    if (IsA(node, Var)) {
        Var *var = copyObject((Var *) node);

        Assert(var->varno == OUTER_VAR);
        var->varno = INDEX_VAR;
        return (Node *) var;
    }
    return expression_tree_mutator(node, outer_to_index, context);
}

/*
 * Puts nodes below an Append instead of over it, for a node can say where its rows come from only if that is one table.
 * The columns of an Append are those of its children.
 */
static Plan *
interpose_children(Ia3Rewrite *rw, Append *append, const Ia3Sites *sites, const Ia3Consumer *consumer)
{
    Ia3Consumer child = *consumer;
    ListCell *lc;

    child.mayStop = consumer->mayStop || consumer->limitCount;
    child.limitCount = child.limitOffset = NULL;
    foreach (lc, append->appendplans)
        lfirst(lc) = Ia3Interpose(rw, lfirst(lc), sites, &child);
    return &append->plan;
}

Plan *
Ia3Interpose(Ia3Rewrite *rw, Plan *child, const Ia3Sites *sites, const Ia3Consumer *consumer)
{
    List *targetlist = NIL;
    ListCell *lc;

    if (sites->sites == NIL || !Ia3MayReadAhead(rw, child, Ia3WantsAll(consumer)))
        return child;
    if (consumer->isPosition && IsA(child, Append))
        return interpose_children(rw, (Append *) child, sites, consumer);
    if (consumer->isPosition && Ia3HasSeveralPositions(child))
        return child;
    foreach (lc, child->targetlist) {
        TargetEntry *entry = flatCopyTargetEntry(lfirst(lc));

        entry->expr = (Expr *) make_column_var(INDEX_VAR, lfirst(lc));
        targetlist = lappend(targetlist, entry);
    }
    rw->served = list_concat(rw->served, sites->calls);
    return make_node(rw, child, targetlist, NIL, (List *) outer_to_index((Node *) sites->sites, NULL),
                     consumer);
}

/*
 * Splitting
 */

/*
 * The new target list of the lower node. Columns keep their positions, because some nodes refer to their own columns
 * by number (WindowAgg.runCondition). The position of a column that moves up is free (its expr is NULL) until one of
 * the columns that it needs takes it.
 */
typedef struct SplitContext {
    List *lower;
} SplitContext;

static TargetEntry *
find_lower_column(SplitContext *split, Node *expr)
{
    ListCell *lc;

    foreach (lc, split->lower) {
        TargetEntry *entry = lfirst(lc);

        if (entry->expr && equal(entry->expr, expr))
            return entry;
    }
    foreach (lc, split->lower) {
        TargetEntry *entry = lfirst(lc);

        if (entry->expr == NULL) {
            entry->expr = copyObject((Expr *) expr);
            return entry;
        }
    }
    split->lower = lappend(
        split->lower, makeTargetEntry(copyObject((Expr *) expr), list_length(split->lower) + 1, NULL, false));
    return llast(split->lower);
}

/* Expresses an expression of the lower node by columns of that node, which are added as needed. */
static Node *
raise_expression(Node *node, SplitContext *split)
{
    if (node == NULL)
        return NULL;
    if (IsA(node, Var) || IsA(node, Aggref) || IsA(node, GroupingFunc) || IsA(node, WindowFunc))
        return (Node *) make_column_var(INDEX_VAR, find_lower_column(split, node));
    return expression_tree_mutator(node, raise_expression, split);
}

/* Whether an expression contains one of the sites, directly or in a subquery. */
static bool
needs_read_ahead(Ia3Rewrite *rw, Node *expr)
{
    return Ia3ContainsCall(expr) || Ia3FindSites(rw, expr, true).sites != NIL;
}

static bool
set_elsewhere_walker(Node *node, void *context)
{
    if (node == NULL)
        return false;
    if (IsA(node, SubPlan) || IsA(node, AlternativeSubPlan) ||
        (IsA(node, Param) && ((Param *) node)->paramkind == PARAM_EXEC))
        return true;
    return expression_tree_walker(node, set_elsewhere_walker, context);
}

/*
 * Whether a column that has no calls moves up as well, so that it is not evaluated early, because it might fail or has
 * side effects. In an UPDATE, whose columns may depend on each other (MULTIEXPR), all rows are read anyway.
 */
static bool
should_wait(Ia3Rewrite *rw, Node *expr)
{
    return rw->stmt->commandType == CMD_SELECT && !set_elsewhere_walker(expr, NULL) &&
           (contain_volatile_functions(expr) || Ia3ExpressionMayFail(rw, expr));
}

/*
 * Puts a node over `lower` that evaluates the columns with calls, and the conditions `moved`, which the caller has
 * removed from the filter of `lower`.
 */
static Plan *
split_off(Ia3Rewrite *rw, Plan *lower, List *moved, const Ia3Sites *sites, const Ia3Consumer *consumer)
{
    SplitContext split = {NIL};
    List *upper = NIL;
    List *moves = NIL; /* whether each column moves up */
    List *raised;
    ListCell *lc;

    foreach (lc, lower->targetlist) {
        TargetEntry *entry = lfirst(lc);
        bool move = needs_read_ahead(rw, (Node *) entry->expr) || should_wait(rw, (Node *) entry->expr);

        split.lower = lappend(split.lower, makeTargetEntry(move ? NULL : entry->expr, entry->resno,
                                                           move ? NULL : entry->resname, false));
        moves = lappend_int(moves, move);
    }
    foreach (lc, lower->targetlist) {
        TargetEntry *entry = flatCopyTargetEntry(lfirst(lc));

        if (list_nth_int(moves, foreach_current_index(lc)))
            entry->expr = (Expr *) raise_expression((Node *) entry->expr, &split);
        else
            entry->expr = (Expr *) make_column_var(INDEX_VAR, list_nth(split.lower, entry->resno - 1));
        upper = lappend(upper, entry);
    }
    moved = (List *) raise_expression((Node *) moved, &split);
    raised = (List *) raise_expression((Node *) sites->sites, &split);
    foreach (lc, split.lower) {
        TargetEntry *entry = lfirst(lc);

        if (entry->expr == NULL)
            entry->expr = (Expr *) makeNullConst(INT4OID, -1, InvalidOid);
    }
    lower->targetlist = split.lower;
    rw->served = list_concat(rw->served, sites->calls);
    return make_node(rw, lower, upper, moved, raised, consumer);
}

static bool
is_scan(const Plan *plan)
{
    switch (nodeTag(plan)) {
    case T_SeqScan:
    case T_SampleScan:
    case T_IndexScan:
    case T_IndexOnlyScan:
    case T_BitmapHeapScan:
    case T_TidScan:
    case T_SubqueryScan:
    case T_FunctionScan:
    case T_TableFuncScan:
    case T_ValuesScan:
    case T_CteScan:
    case T_NamedTuplestoreScan:
    case T_WorkTableScan:
        return true;
    default:
        return Ia3IsTidRangeScan(plan);
    }
}

/* Whether the filter applies to the same rows as the target list. (The filter of a join is part of the join.) */
static bool
filter_can_move(const Plan *plan)
{
    return is_scan(plan) || IsA(plan, Agg) || IsA(plan, Group);
}

/*
 * Moves the first condition of the filter that contains a call, and all conditions after it, into a node of their
 * own; then the next condition with a call into a node above that, and so on. So each condition still sees only rows
 * that have passed those before it, and the order of the conditions, which security depends on, is preserved.
 */
static Plan *
split_filter(Ia3Rewrite *rw, Plan *plan, const Ia3Consumer *consumer)
{
    Ia3Consumer filtered = *consumer;
    int start = 0;

    /* with a filter in between, the limit does not tell how many rows are read */
    filtered.mayStop = consumer->mayStop || consumer->limitCount;
    filtered.limitCount = filtered.limitOffset = NULL;
    for (;;) {
        Ia3Sites sites = {NIL, NIL};
        int first;
        List *moved;

        for (first = start; first < list_length(plan->qual); first++) {
            sites = Ia3FindSites(rw, list_nth(plan->qual, first), Ia3WantsAll(&filtered));
            if (sites.sites != NIL)
                break;
        }
        if (first >= list_length(plan->qual))
            return plan;
        moved = list_copy_tail(plan->qual, first);
        plan->qual = list_truncate(list_copy(plan->qual), first);
        plan = split_off(rw, plan, moved, &sites, &filtered);
        start = 1; /* the first condition of the new node is served by the node itself */
    }
}

Plan *
Ia3Split(Ia3Rewrite *rw, Plan *plan, const Ia3Consumer *consumer)
{
    bool wantsAll = Ia3WantsAll(consumer);
    Ia3Sites sites;

    if (consumer->fixedType || (consumer->isPosition && Ia3HasSeveralPositions(plan)))
        return plan;
    if (filter_can_move(plan) && plan->qual && Ia3MayReadAhead(rw, plan, wantsAll && !consumer->limitCount))
        plan = split_filter(rw, plan, consumer);
    if (!Ia3MayReadAhead(rw, plan, wantsAll))
        return plan;
    sites = Ia3FindSites(rw, (Node *) plan->targetlist, wantsAll);
    if (sites.sites != NIL)
        plan = split_off(rw, plan, NIL, &sites, consumer);
    return plan;
}
