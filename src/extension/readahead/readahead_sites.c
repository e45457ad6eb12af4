/*
 * readahead_sites.c
 *     Finding the calls of our functions, and what their arguments will be.
 *
 * A site can be read ahead if its arguments can be computed from a row of the node's input and from parameters that
 * do not change while that input is read. Two kinds of places are searched:
 *
 * - Expressions over the columns of one input, which is the usual case. Here Vars are what varies from row to row.
 * - Subtrees that run once per row of such an input: the inner side of a nested loop, or a correlated subquery. Here
 *   the parameters that the row passes in are what varies; they are replaced by the expressions that they stand for.
 *   A Var is a column inside the subtree, which is not known in advance.
 *
 * Calls under CASE, COALESCE, AND, OR and FILTER get the conditions under which they are evaluated as guards: a call
 * that will not be made is not predicted, and cannot fail.
 */
#include "postgres.h"

#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/optimizer.h"

#include "readahead_sites.h"
#include "extension/ia3_compat_planner.h"
#include "readahead_functions.h"
#include "readahead_safety.h"

typedef struct SiteSearch {
    Ia3Rewrite *rw;
    Ia3Sites found;
    List *guards; /* conditions under which the current place is evaluated */
    bool opaque;  /* there is another condition, which cannot be written as an expression over the row */
    bool certain; /* given the guards, it is evaluated for every row, so its arguments may be able to fail */
    bool outerOnly; /* only Vars of the outer side are allowed */

    /* in a subtree that runs once per row: */
    bool inSubtree;
    List *paramIds;     /* the parameters that the row sets ... */
    List *paramValues;  /* ... and the expressions over the row that they are set to */
    Bitmapset *outside; /* all parameters that are set outside the subtree */
} SiteSearch;

static bool search_expression(Node *node, SiteSearch *search);

static bool
is_call(Node *node)
{
    return IsA(node, FuncExpr) && Ia3FunctionForm(((FuncExpr *) node)->funcid) != IA3_CALL_NONE;
}

static bool
contains_call_walker(Node *node, void *context)
{
    if (node == NULL)
        return false;
    if (is_call(node))
        return true;
    return expression_tree_walker(node, contains_call_walker, context);
}

bool
Ia3ContainsCall(Node *expr)
{
    return contains_call_walker(expr, NULL);
}

/*
 * For finding out whether an expression can be computed from the row; nVarying counts what depends on the row.
 */
typedef struct ComputableContext {
    const SiteSearch *search;
    int nVarying;
} ComputableContext;

/* Returns true, which ends the search, for anything that makes the expression useless to us. */
static bool
not_computable_walker(Node *node, ComputableContext *context)
{
    const SiteSearch *search = context->search;

    if (node == NULL)
        return false;
    switch (nodeTag(node)) {
    case T_Var:
        if (search->inSubtree || (search->outerOnly && ((Var *) node)->varno != OUTER_VAR))
            return true;
        context->nVarying++;
        return false;
    case T_Param: {
        Param *param = (Param *) node;

        if (param->paramkind != PARAM_EXEC)
            return false;
        if (search->inSubtree && !bms_is_member(param->paramid, search->outside))
            return true;
        if (list_member_int(search->paramIds, param->paramid))
            context->nVarying++;
        return false;
    }
    case T_Aggref:
    case T_WindowFunc:
    case T_GroupingFunc:
        /* it becomes a column of the input when the node is split */
        if (search->inSubtree)
            return true;
        context->nVarying++;
        return false;
    case T_SubPlan:
    case T_AlternativeSubPlan:
    case T_CaseTestExpr:
    case T_CoerceToDomainValue:
    case T_CurrentOfExpr:
        return true;
    default:
        return expression_tree_walker(node, not_computable_walker, context);
    }
}

/* Replaces the parameters that the row sets by the expressions that they are set to. */
static Node *
substitute_params(Node *node, SiteSearch *search)
{
    if (node == NULL)
        return NULL;
    if (IsA(node, Param) && ((Param *) node)->paramkind == PARAM_EXEC)
        for (int i = 0; i < list_length(search->paramIds); i++)
            if (list_nth_int(search->paramIds, i) == ((Param *) node)->paramid)
                return copyObject(list_nth(search->paramValues, i));
    return expression_tree_mutator(node, substitute_params, search);
}

static bool
inner_var_walker(Node *node, void *context)
{
    if (node == NULL)
        return false;
    if (IsA(node, Var))
        return ((Var *) node)->varno != OUTER_VAR;
    return expression_tree_walker(node, inner_var_walker, context);
}

/*
 * Sites
 */

/* Whether `site` is predicted anyway, because of another site with the same arguments. */
static bool
is_covered(List *sites, List *site)
{
    FuncExpr *call = linitial(site);
    ListCell *lc;

    foreach (lc, sites) {
        List *other = lfirst(lc);
        FuncExpr *otherCall = linitial(other);

        if (Ia3FunctionForm(otherCall->funcid) == Ia3FunctionForm(call->funcid) &&
            equal(otherCall->args, call->args) &&
            (list_length(other) == 1 || equal(list_copy_tail(other, 1), list_copy_tail(site, 1))))
            return true;
    }
    return false;
}

static void
consider_call(FuncExpr *call, SiteSearch *search)
{
    ComputableContext context = {search, 0};
    List *site;
    Node *copy;

    if (search->opaque || list_member_ptr(search->found.calls, call))
        return;
    /* a node further up may take care of it already; but a subquery may be used by several expressions */
    if (search->paramIds == NIL && list_member_ptr(search->rw->served, call))
        return;
    if (not_computable_walker((Node *) call->args, &context) || context.nVarying == 0 ||
        not_computable_walker((Node *) search->guards, &context))
        return;
    if (contain_volatile_functions((Node *) call->args) ||
        contain_volatile_functions((Node *) search->guards))
        return;

    site = lcons(call, list_copy(search->guards));
    copy = substitute_params((Node *) site, search);
    if (search->outerOnly && inner_var_walker(copy, NULL))
        return; /* an inner column came in through the arguments of a subquery in a join condition */
    /* what may fail must not be computed for a row that would never have been read */
    if (!search->certain && Ia3SiteMayFail((List *) copy))
        return;

    search->found.calls = lappend(search->found.calls, call);
    if (!is_covered(search->found.sites, (List *) copy))
        search->found.sites = lappend(search->found.sites, copy);
}

/*
 * Conditions
 */

static Node *
make_boolean_test(Node *arg, BoolTestType type)
{
    BooleanTest *test = makeNode(BooleanTest);

    test->arg = (Expr *) arg;
    test->booltesttype = type;
    test->location = -1;
    return (Node *) test;
}

static Node *
make_is_null(Node *arg)
{
    NullTest *test = makeNode(NullTest);

    test->arg = (Expr *) arg;
    test->nulltesttype = IS_NULL;
    test->argisrow = false;
    test->location = -1;
    return (Node *) test;
}

/* Makes a new list, because guards are shared by the sites found under them. */
static List *
add_guard(List *guards, Node *guard)
{
    return lappend(list_copy(guards), guard);
}

/* AND, OR and COALESCE evaluate each argument only if those before it have not decided the result. */
static void
search_short_circuit(Node *node, SiteSearch *search)
{
    bool isCoalesce = IsA(node, CoalesceExpr);
    List *args = isCoalesce ? ((CoalesceExpr *) node)->args : ((BoolExpr *) node)->args;
    BoolTestType undecided =
        !isCoalesce && ((BoolExpr *) node)->boolop == AND_EXPR ? IS_NOT_FALSE : IS_NOT_TRUE;
    List *save = search->guards;
    ListCell *lc;

    foreach (lc, args) {
        Node *arg = lfirst(lc);

        search_expression(arg, search);
        search->guards =
            add_guard(search->guards, isCoalesce ? make_is_null(arg) : make_boolean_test(arg, undecided));
    }
    search->guards = save;
}

static void
search_case(CaseExpr *expr, SiteSearch *search)
{
    List *saveGuards = search->guards;
    bool saveOpaque = search->opaque;
    ListCell *lc;

    search_expression((Node *) expr->arg, search);
    /* CASE x WHEN y: the comparisons refer to x by a CaseTestExpr, which has no meaning elsewhere */
    if (expr->arg)
        search->opaque = true;
    foreach (lc, expr->args) {
        CaseWhen *when = lfirst(lc);
        List *before = search->guards;

        search_expression((Node *) when->expr, search);
        search->guards = add_guard(before, make_boolean_test((Node *) when->expr, IS_TRUE));
        search_expression((Node *) when->result, search);
        search->guards = add_guard(before, make_boolean_test((Node *) when->expr, IS_NOT_TRUE));
    }
    search_expression((Node *) expr->defresult, search);
    search->guards = saveGuards;
    search->opaque = saveOpaque;
}

/* Searches the arguments of an aggregate or a window function, over the rows that go into it. */
static void
search_filtered(Expr *filter, List *args, SiteSearch *search)
{
    List *save = search->guards;

    if (filter) {
        search_expression((Node *) filter, search);
        search->guards = add_guard(search->guards, make_boolean_test((Node *) filter, IS_TRUE));
    }
    search_expression((Node *) args, search);
    search->guards = save;
}

/*
 * Subtrees
 */

/* Whether a search that is certain of `plan` may be certain of its child, too. */
static bool
always_reads_child(Plan *plan)
{
    switch (nodeTag(plan)) {
    case T_Material:
    case T_Sort:
    case T_Unique:
    case T_Agg:
    case T_WindowAgg:
    case T_Result: /* its one-time filter is a guard */
    case T_ProjectSet:
    case T_SubqueryScan:
        return true;
    case T_Limit: {
        Node *count = ((Limit *) plan)->limitCount;

        return count == NULL || (IsA(count, Const) && (((Const *) count)->constisnull ||
                                                       DatumGetInt64(((Const *) count)->constvalue) > 0));
    }
    default:
        return Ia3IsMemoize(plan); /* on a hit the child has run with the same arguments before */
    }
}

/* Searches the expressions of a node other than target list and filter that may contain a call. */
static void
search_own_expressions(Plan *plan, SiteSearch *search)
{
    switch (nodeTag(plan)) {
    case T_FunctionScan: {
        ListCell *lc;

        foreach (lc, ((FunctionScan *) plan)->functions)
            search_expression(((RangeTblFunction *) lfirst(lc))->funcexpr, search);
        break;
    }
    case T_ValuesScan:
        search_expression((Node *) ((ValuesScan *) plan)->values_lists, search);
        break;
    case T_NestLoop:
    case T_MergeJoin:
    case T_HashJoin:
        search_expression((Node *) ((Join *) plan)->joinqual, search);
        break;
    case T_IndexScan:
        search_expression((Node *) ((IndexScan *) plan)->indexqual, search);
        break;
    case T_IndexOnlyScan:
        search_expression((Node *) ((IndexOnlyScan *) plan)->indexqual, search);
        break;
    case T_BitmapIndexScan:
        search_expression((Node *) ((BitmapIndexScan *) plan)->indexqual, search);
        break;
    default:
        break;
    }
}

static void
search_subtree(Plan *plan, SiteSearch *search)
{
    List *saveGuards = search->guards;
    bool saveCertain = search->certain;
    ListCell *lc;

    if (plan == NULL)
        return;
    check_stack_depth();
    if (IsA(plan, Result))
        search->guards = list_concat_copy(search->guards, (List *) ((Result *) plan)->resconstantqual);

    /* a function scan calls its functions whenever it runs; nothing else is that certain */
    search->certain =
        saveCertain && (IsA(plan, FunctionScan) || (IsA(plan, Result) && plan->lefttree == NULL));
    search_own_expressions(plan, search);
    search_expression((Node *) plan->targetlist, search);
    search->certain = false;
    search_expression((Node *) plan->qual, search);

    search->certain = saveCertain && always_reads_child(plan);
    search_subtree(plan->lefttree, search);
    search_subtree(plan->righttree, search);
    foreach (lc, Ia3PlanExtraChildren(plan))
        search_subtree(lfirst(lc), search);
    search->guards = saveGuards;
    search->certain = saveCertain;
}

/* Searches a subquery for calls whose arguments come from this row. */
static void
search_subquery(SubPlan *subplan, SiteSearch *search)
{
    bool saveCertain = search->certain;

    /*
     * In UPDATE ... SET (a, b) = (SELECT ...), other columns of the same target list refer to the parameters of the
     * subquery, so the subquery has to stay with them.
     */
    if (subplan->subLinkType == MULTIEXPR_SUBLINK)
        return;
    if (!search->inSubtree && subplan->parParam && !subplan->useHashTable && search->guards == NIL &&
        !search->opaque) {
        Plan *plan = list_nth(search->rw->stmt->subplans, subplan->plan_id - 1);
        SiteSearch inside = *search;

        inside.inSubtree = true;
        inside.paramIds = subplan->parParam;
        inside.paramValues = subplan->args;
        inside.outside = plan->extParam;
        search_subtree(plan, &inside);
        search->found = inside.found;
    }
    search->certain = false; /* the comparison is evaluated only if the subquery returns rows */
    search_expression(subplan->testexpr, search);
    search->certain = saveCertain;
    search_expression((Node *) subplan->args, search);
}

/* Searches an expression. Arguments come before the call, so that nested calls are answered first. */
static bool
search_expression(Node *node, SiteSearch *search)
{
    bool saveCertain = search->certain;

    if (node == NULL)
        return false;
    switch (nodeTag(node)) {
    case T_BoolExpr:
        if (((BoolExpr *) node)->boolop == NOT_EXPR)
            break;
        search_short_circuit(node, search);
        return false;
    case T_CoalesceExpr:
        search_short_circuit(node, search);
        return false;
    case T_CaseExpr:
        search_case((CaseExpr *) node, search);
        return false;
    case T_SubPlan:
        search_subquery((SubPlan *) node, search);
        return false;
    case T_AlternativeSubPlan: /* version 13 decides at run time which of them runs */
    case T_Aggref:             /* it is evaluated over other rows; see Ia3FindAggregateSites */
    case T_WindowFunc:
        return false;
    case T_RowCompareExpr:  /* it stops at the first pair that differs */
    case T_SubscriptingRef: /* it stops when what is subscripted is NULL */
        search->certain = false;
        break;
    default:
        if (Ia3IsJsonExpr(node)) /* it evaluates its defaults only when it needs them */
            search->certain = false;
        break;
    }
    expression_tree_walker(node, search_expression, search);
    search->certain = saveCertain;
    if (is_call(node))
        consider_call((FuncExpr *) node, search);
    return false;
}

/*
 * Entry points
 */

Ia3Sites
Ia3FindSites(Ia3Rewrite *rw, Node *expr, bool certain)
{
    SiteSearch search = {.rw = rw, .certain = certain};

    search_expression(expr, &search);
    return search.found;
}

static bool
aggregate_walker(Node *node, SiteSearch *search)
{
    if (node == NULL)
        return false;
    if (IsA(node, Aggref)) {
        /* direct arguments are evaluated once per group, so they stay as they are */
        search_filtered(((Aggref *) node)->aggfilter, ((Aggref *) node)->args, search);
        return false;
    }
    if (IsA(node, WindowFunc)) {
        search_filtered(((WindowFunc *) node)->aggfilter, ((WindowFunc *) node)->args, search);
        return false;
    }
    return expression_tree_walker(node, aggregate_walker, search);
}

Ia3Sites
Ia3FindAggregateSites(Ia3Rewrite *rw, Plan *node, bool certain)
{
    /* lag, lead and the like evaluate an argument for some rows only, so they are never certain */
    SiteSearch search = {.rw = rw, .certain = certain && IsA(node, Agg)};

    aggregate_walker((Node *) node->targetlist, &search);
    aggregate_walker((Node *) node->qual, &search);
    return search.found;
}

Ia3Sites
Ia3FindNestLoopSites(Ia3Rewrite *rw, NestLoop *join, bool certain)
{
    Plan *inner = join->join.plan.righttree;
    SiteSearch search = {.rw = rw, .certain = certain, .outside = inner->extParam, .inSubtree = true};
    SiteSearch condition = {.rw = rw, .outerOnly = true};
    ListCell *lc;

    foreach (lc, join->nestParams) {
        NestLoopParam *param = lfirst(lc);

        search.paramIds = lappend_int(search.paramIds, param->paramno);
        search.paramValues = lappend(search.paramValues, param->paramval);
    }
    if (join->nestParams)
        search_subtree(inner, &search);

    /* the join condition is evaluated only if there is an inner row */
    condition.found = search.found;
    search_expression((Node *) join->join.joinqual, &condition);
    return condition.found;
}
