/*
 * readahead_safety.c
 *     What may run ahead of its consumer unnoticed.
 *
 * Reading ahead evaluates arguments, and the child's own expressions, earlier than the query would, and for rows that
 * a consumer that stops early (LIMIT, EXISTS, a cursor) would never have read. For such a consumer an argument must
 * not be able to fail, and nothing below may have side effects.
 */
#include "postgres.h"

#include "access/transam.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/optimizer.h"
#include "utils/lsyscache.h"

#include "readahead_safety.h"
#include "extension/ia3_compat_planner.h"
#include "readahead_functions.h"

/*
 * Built-in functions, by OID, that raise no error whatever their arguments are: those that prompts are typically made
 * with. (fmgroids.h has different names for them since version 14.) Some of them may run the output functions of
 * their arguments, which therefore have to be of built-in types. json is missing because accessing its members may
 * fail on \u0000; jsonb was checked when it was created.
 */
static const Oid safeFunctions[] = {
    1258,                   /* textcat */
    2003, 2004,             /* textanycat, anytextcat */
    870,  871,  872,        /* lower, upper, initcap */
    884,  885,              /* btrim */
    875,  881,  876,  882,  /* ltrim, rtrim */
    2087,                   /* replace */
    3058, 3059,             /* concat, concat_ws */
    3060, 3061,             /* left, right */
    1317, 1381, 1369, 2311, /* length, char_length, character_length, md5 (of text) */
    3478, 3214, 3215, 3216, /* jsonb -> and ->>, by key and by position */
    3217, 3940,             /* jsonb #> and #>> */
    4046, 4047,             /* jsonb @> and ? */
    401,  406,              /* text(char(n)), text(name) */
    1718, 1719, 1720,       /* numeric comparisons */
    1721, 1722, 1723,
};

/* Those that may reject an argument other than the first, such as a pattern. */
static const Oid particularFunctions[] = {
    850,  851,  1633, 1634, /* LIKE, ILIKE on text */
    1631, 1632, 1660, 1661, /* on char(n) */
    1254, 1256, 1238, 1239, /* regular expressions on text */
    1658, 1659, 1656, 1657, /* on char(n) */
    877,  883,  936,  937,  /* substr, substring (by position) */
    2088,                   /* split_part */
};

static bool
function_is_safe(Oid function)
{
    for (int i = 0; i < lengthof(safeFunctions); i++)
        if (safeFunctions[i] == function)
            return true;
    /* a leakproof function may not raise errors that depend on its arguments, and only a superuser can declare one */
    return get_func_leakproof(function);
}

/* The same for every row: an error would be raised for the first one. */
static bool
is_constant(Node *node)
{
    return IsA(node, Const) || (IsA(node, Param) && ((Param *) node)->paramkind == PARAM_EXTERN);
}

static bool
rest_is_constant(List *args)
{
    for (int i = 1; i < list_length(args); i++)
        if (!is_constant(list_nth(args, i)))
            return false;
    return true;
}

static bool
is_safe_call(Oid function, List *args)
{
    ListCell *lc;

    foreach (lc, args)
        if (exprType(lfirst(lc)) >= FirstNormalObjectId)
            return false;
    for (int i = 0; i < lengthof(particularFunctions); i++)
        if (particularFunctions[i] == function)
            return rest_is_constant(args);
    return OidIsValid(function) && function_is_safe(function);
}

/* Of the casts by way of text, those that print a plain value cannot fail. */
static bool
is_safe_coercion(const CoerceViaIO *coercion)
{
    if (coercion->resulttype != TEXTOID && coercion->resulttype != VARCHAROID)
        return false;
    switch (exprType((Node *) coercion->arg)) {
    case BOOLOID:
    case INT2OID:
    case INT4OID:
    case INT8OID:
    case FLOAT4OID:
    case FLOAT8OID:
    case NUMERICOID:
    case TEXTOID:
    case VARCHAROID:
    case BPCHAROID:
    case NAMEOID:
    case OIDOID:
    case UUIDOID:
    case DATEOID:
    case TIMEOID:
    case TIMESTAMPOID:
    case TIMESTAMPTZOID:
    case JSONOID:
    case JSONBOID:
        return true;
    default:
        return false;
    }
}

/* A call fails for some rows only if its task, its choices or the fields of its template depend on the row. */
static bool
call_may_fail(const FuncExpr *call, Ia3CallForm form)
{
    int input = Ia3CallInputArg(&(Ia3Call){.form = form});
    ListCell *lc;

    if (form == IA3_CALL_FIELDS || form == IA3_CALL_VERSION_FIELDS || form == IA3_CALL_GENERATE_FIELDS)
        return true;
    foreach (lc, call->args)
        if (foreach_current_index(lc) != input && !is_constant(lfirst(lc)))
            return true;
    return false;
}

static bool
varying_walker(Node *node, void *context)
{
    if (node == NULL)
        return false;
    if (IsA(node, Var) || IsA(node, Aggref) || IsA(node, WindowFunc) || IsA(node, SubPlan) ||
        (IsA(node, Param) && ((Param *) node)->paramkind == PARAM_EXEC))
        return true;
    return expression_tree_walker(node, varying_walker, context);
}

/* Whether an expression depends on the row, or may for other reasons have another value for the next one. */
static bool
varies(Node *expr)
{
    return varying_walker(expr, NULL) || contain_volatile_functions(expr);
}

/* With rw it is an expression of the plan, without it the arguments and conditions of a site. */
static bool
may_fail_walker(Node *node, Ia3Rewrite *rw)
{
    Ia3CallForm form;

    if (node == NULL || (rw && !varies(node)))
        return false;
    switch (nodeTag(node)) {
    case T_Var:
    case T_Param:
    case T_Const:
    case T_Aggref:
    case T_WindowFunc:
    case T_GroupingFunc:
        return false;
    case T_List:
    case T_TargetEntry:
    case T_RelabelType:
    case T_CollateExpr:
    case T_ArrayExpr:
    case T_RowExpr:
    case T_NullTest:
    case T_BooleanTest:
    case T_BoolExpr:
    case T_CoalesceExpr:
    case T_CaseExpr:
    case T_CaseWhen:
    case T_CaseTestExpr:
    case T_SubscriptingRef:
    case T_FieldSelect:
        break;
    case T_CoerceViaIO:
        if (!is_safe_coercion((CoerceViaIO *) node))
            return true;
        break;
    case T_FuncExpr:
        form = Ia3FunctionForm(((FuncExpr *) node)->funcid);
        if (form != IA3_CALL_NONE ? call_may_fail((FuncExpr *) node, form)
                                  : !is_safe_call(((FuncExpr *) node)->funcid, ((FuncExpr *) node)->args))
            return true;
        break;
    case T_OpExpr:
    case T_DistinctExpr:
    case T_NullIfExpr: /* the latter two are OpExprs by another name */
        if (!is_safe_call(((OpExpr *) node)->opfuncid, ((OpExpr *) node)->args))
            return true;
        break;
    case T_ScalarArrayOpExpr:
        if (!is_safe_call(((ScalarArrayOpExpr *) node)->opfuncid, ((ScalarArrayOpExpr *) node)->args))
            return true;
        break;
    case T_SubPlan: {
        SubPlan *subplan = (SubPlan *) node;

        /* a scalar subquery fails if it returns more than one row */
        if (rw == NULL || subplan->subLinkType == EXPR_SUBLINK ||
            Ia3PlanMayFail(rw, list_nth(rw->stmt->subplans, subplan->plan_id - 1)))
            return true;
        break;
    }
    default:
        return true;
    }
    return expression_tree_walker(node, may_fail_walker, rw);
}

/* A call in the arguments of another one is made to evaluate them. */
bool
Ia3SiteMayFail(List *site)
{
    FuncExpr *call = linitial(site);

    return may_fail_walker((Node *) call->args, NULL) ||
           may_fail_walker((Node *) list_copy_tail(site, 1), NULL);
}

bool
Ia3ExpressionMayFail(Ia3Rewrite *rw, Node *expr)
{
    return may_fail_walker(expr, rw);
}

/*
 * Plans
 */

List *
Ia3PlanExtraChildren(Plan *plan)
{
    switch (nodeTag(plan)) {
    case T_Append:
        return list_copy(((Append *) plan)->appendplans);
    case T_MergeAppend:
        return list_copy(((MergeAppend *) plan)->mergeplans);
    case T_BitmapAnd:
        return list_copy(((BitmapAnd *) plan)->bitmapplans);
    case T_BitmapOr:
        return list_copy(((BitmapOr *) plan)->bitmapplans);
    case T_SubqueryScan:
        return list_make1(((SubqueryScan *) plan)->subplan);
    case T_CustomScan:
        return list_copy(((CustomScan *) plan)->custom_plans);
    case T_ModifyTable:
        return list_copy(Ia3ModifyTablePlans((ModifyTable *) plan));
    default:
        return NIL;
    }
}

/* Which functions count as having side effects: all volatile ones, or only those that users have written. */
typedef struct EffectSearch {
    Ia3Rewrite *rw;
    bool ownFunctions;
} EffectSearch;

static bool plan_has_side_effects(const EffectSearch *search, Plan *plan);

static bool
is_own_volatile(Oid function, void *context)
{
    return function >= FirstNormalObjectId && func_volatile(function) == PROVOLATILE_VOLATILE;
}

static bool
own_volatile_walker(Node *node, void *context)
{
    if (node == NULL)
        return false;
    return check_functions_in_node(node, is_own_volatile, NULL) ||
           expression_tree_walker(node, own_volatile_walker, context);
}

/*
 * The plan of the CTE that a node reads, or NULL. A CTE that changes data always runs to its end, no matter how much
 * of it is read, so reading it ahead makes no difference.
 */
static Plan *
cte_plan(Ia3Rewrite *rw, Plan *plan)
{
    Plan *cte;

    if (!IsA(plan, CteScan))
        return NULL;
    cte = list_nth(rw->stmt->subplans, ((CteScan *) plan)->ctePlanId - 1);
    return cte && IsA(cte, ModifyTable) ? NULL : cte;
}

static bool
subquery_walker(Node *node, const EffectSearch *search)
{
    if (node == NULL)
        return false;
    if (IsA(node, SubPlan) &&
        plan_has_side_effects(search, list_nth(search->rw->stmt->subplans, ((SubPlan *) node)->plan_id - 1)))
        return true;
    return expression_tree_walker(node, subquery_walker, (void *) search);
}

static bool
has_side_effects(const EffectSearch *search, void *expr)
{
    bool found = search->ownFunctions ? own_volatile_walker(expr, NULL) : contain_volatile_functions(expr);

    return found || subquery_walker(expr, search);
}

/* Other readers of the same CTE do not matter here: this tells whether reading it has side effects by itself. */
static bool
cte_has_side_effects(const EffectSearch *search, Plan *plan)
{
    Plan *cte = cte_plan(search->rw, plan);
    Bitmapset **pure = &search->rw->pureCtes[search->ownFunctions];
    int number = cte ? ((CteScan *) plan)->ctePlanId : 0;

    if (cte == NULL || bms_is_member(number, *pure))
        return false;
    if (plan_has_side_effects(search, cte))
        return true;
    *pure = bms_add_member(*pure, number);
    return false;
}

/* The expressions of a node other than target list and filter that are evaluated while it is read. */
static bool
own_expressions_have_side_effects(const EffectSearch *search, Plan *plan)
{
    switch (nodeTag(plan)) {
    case T_FunctionScan: {
        ListCell *lc;

        foreach (lc, ((FunctionScan *) plan)->functions)
            if (has_side_effects(search, ((RangeTblFunction *) lfirst(lc))->funcexpr))
                return true;
        return false;
    }
    case T_TableFuncScan:
        return has_side_effects(search, ((TableFuncScan *) plan)->tablefunc);
    case T_ValuesScan:
        return has_side_effects(search, ((ValuesScan *) plan)->values_lists);
    case T_NestLoop:
        return has_side_effects(search, ((Join *) plan)->joinqual);
    case T_MergeJoin:
        return has_side_effects(search, ((Join *) plan)->joinqual) ||
               has_side_effects(search, ((MergeJoin *) plan)->mergeclauses);
    case T_HashJoin:
        return has_side_effects(search, ((Join *) plan)->joinqual) ||
               has_side_effects(search, ((HashJoin *) plan)->hashclauses);
    case T_Result:
        return has_side_effects(search, ((Result *) plan)->resconstantqual);
    default:
        return false;
    }
}

static bool
plan_has_side_effects(const EffectSearch *search, Plan *plan)
{
    ListCell *lc;

    if (plan == NULL)
        return false;
    check_stack_depth();
    if (has_side_effects(search, plan->targetlist) || has_side_effects(search, plan->qual) ||
        has_side_effects(search, plan->initPlan) || own_expressions_have_side_effects(search, plan) ||
        cte_has_side_effects(search, plan) || plan_has_side_effects(search, plan->lefttree) ||
        plan_has_side_effects(search, plan->righttree))
        return true;
    foreach (lc, Ia3PlanExtraChildren(plan))
        if (plan_has_side_effects(search, lfirst(lc)))
            return true;
    return false;
}

/* Whether a plan locks or changes rows one by one, as they are read. */
static bool
plan_locks_rows(Ia3Rewrite *rw, Plan *plan)
{
    ListCell *lc;
    Plan *cte;

    if (plan == NULL)
        return false;
    check_stack_depth();
    if (IsA(plan, LockRows) || IsA(plan, ModifyTable))
        return true;
    cte = cte_plan(rw, plan);
    if (plan_locks_rows(rw, plan->lefttree) || plan_locks_rows(rw, plan->righttree) ||
        plan_locks_rows(rw, cte))
        return true;
    foreach (lc, Ia3PlanExtraChildren(plan))
        if (plan_locks_rows(rw, lfirst(lc)))
            return true;
    return false;
}

static bool
own_expressions_may_fail(Ia3Rewrite *rw, Plan *plan)
{
    if (may_fail_walker((Node *) plan->targetlist, rw) || may_fail_walker((Node *) plan->qual, rw))
        return true;
    switch (nodeTag(plan)) {
    case T_ValuesScan:
        return may_fail_walker((Node *) ((ValuesScan *) plan)->values_lists, rw);
    case T_NestLoop:
        return may_fail_walker((Node *) ((Join *) plan)->joinqual, rw);
    case T_MergeJoin:
        return may_fail_walker((Node *) ((Join *) plan)->joinqual, rw) ||
               may_fail_walker((Node *) ((MergeJoin *) plan)->mergeclauses, rw);
    case T_HashJoin:
        return may_fail_walker((Node *) ((Join *) plan)->joinqual, rw) ||
               may_fail_walker((Node *) ((HashJoin *) plan)->hashclauses, rw);
    default:
        return false;
    }
}

static bool
cte_may_fail(Ia3Rewrite *rw, Plan *plan)
{
    Plan *cte = cte_plan(rw, plan);
    int number = cte ? ((CteScan *) plan)->ctePlanId : 0;

    if (cte == NULL || bms_is_member(number, rw->safeCtes))
        return false;
    if (Ia3PlanMayFail(rw, cte))
        return true;
    rw->safeCtes = bms_add_member(rw->safeCtes, number);
    return false;
}

/* Whether a node reads its child to the end before it returns its first row. */
static bool
reads_child_first(Plan *plan)
{
    switch (nodeTag(plan)) {
    case T_Sort:
    case T_Hash:
        return true;
    case T_Agg:
        return ((Agg *) plan)->aggstrategy == AGG_PLAIN || ((Agg *) plan)->aggstrategy == AGG_HASHED;
    default:
        return false;
    }
}

bool
Ia3PlanMayFail(Ia3Rewrite *rw, Plan *plan)
{
    ListCell *lc;

    if (plan == NULL)
        return false;
    check_stack_depth();
    if (own_expressions_may_fail(rw, plan) || cte_may_fail(rw, plan))
        return true;
    if (reads_child_first(plan))
        return false;
    if (Ia3PlanMayFail(rw, plan->lefttree) || Ia3PlanMayFail(rw, plan->righttree))
        return true;
    foreach (lc, Ia3PlanExtraChildren(plan))
        if (Ia3PlanMayFail(rw, lfirst(lc)))
            return true;
    return false;
}

bool
Ia3MayReadAhead(Ia3Rewrite *rw, Plan *plan, bool wantsAll)
{
    if (plan_locks_rows(rw, plan))
        return false;
    return wantsAll || !plan_has_side_effects(&(EffectSearch){.rw = rw}, plan);
}

bool
Ia3SeesChanges(Ia3Rewrite *rw, Plan *plan)
{
    return plan_has_side_effects(&(EffectSearch){.rw = rw, .ownFunctions = true}, plan);
}
