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
    1317, 2311,             /* length(text), md5(text) */
    3478, 3214, 3215, 3216, /* jsonb -> and ->>, by key and by position */
    3217, 3940,             /* jsonb #> and #>> */
    401,  406,              /* text(char(n)), text(name) */
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

bool
Ia3FunctionCannotFail(const FuncExpr *call)
{
    ListCell *lc;

    foreach (lc, call->args)
        if (exprType(lfirst(lc)) >= FirstNormalObjectId)
            return false;
    return function_is_safe(call->funcid);
}

bool
Ia3OperatorCannotFail(const OpExpr *op)
{
    ListCell *lc;

    foreach (lc, op->args)
        if (exprType(lfirst(lc)) >= FirstNormalObjectId)
            return false;
    return OidIsValid(op->opfuncid) && function_is_safe(op->opfuncid);
}

/* Of the casts by way of text, those that print a plain value cannot fail. */
bool
Ia3CoercionCannotFail(const CoerceViaIO *coercion)
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
