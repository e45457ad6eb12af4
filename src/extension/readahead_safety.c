/*
 * readahead_safety.c
 *     What may run ahead of its consumer without anybody noticing.
 *
 * Reading ahead evaluates arguments, and the child's own expressions, earlier than the query would, and for
 * rows that a consumer which stops early (LIMIT, EXISTS, a cursor) never wanted. For such consumers an
 * argument must not be able to fail, and nothing below may have side effects.
 */
#include "readahead.h"

#include "access/transam.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/optimizer.h"
#include "utils/lsyscache.h"

/*
 * Built-in functions, by OID, that raise no error whatever their arguments are: what prompts are made of.
 * (The names that fmgroids.h has for them changed with version 14.) Some may run the output functions of
 * their arguments, which therefore have to be of built-in types. json is missing because looking into it
 * may fail on \u0000; jsonb has been checked when it was stored.
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
FunctionIsSafe(Oid function)
{
    for (int i = 0; i < lengthof(safeFunctions); i++)
        if (safeFunctions[i] == function)
            return true;
    /* may not even tell by an error what it has seen; a user's word for it is a superuser's word */
    return get_func_leakproof(function);
}

bool
Ia3FunctionCannotFail(const FuncExpr *call)
{
    ListCell *lc;

    foreach (lc, call->args)
        if (exprType(lfirst(lc)) >= FirstNormalObjectId)
            return false;
    return FunctionIsSafe(call->funcid);
}

bool
Ia3OperatorCannotFail(const OpExpr *op)
{
    ListCell *lc;

    foreach (lc, op->args)
        if (exprType(lfirst(lc)) >= FirstNormalObjectId)
            return false;
    return OidIsValid(op->opfuncid) && FunctionIsSafe(op->opfuncid);
}

/* Of the casts by way of text, printing a plain value. */
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
#if PG_VERSION_NUM < 140000
    case T_ModifyTable: /* since 14 it has one child, lefttree */
        return list_copy(((ModifyTable *) plan)->plans);
#endif
    default:
        return NIL;
    }
}

static bool PlanHasSideEffects(const Ia3Rewrite *rw, Plan *plan);

static bool
SubqueryWalker(Node *node, const Ia3Rewrite *rw)
{
    if (node == NULL)
        return false;
    if (IsA(node, SubPlan) &&
        PlanHasSideEffects(rw, list_nth(rw->stmt->subplans, ((SubPlan *) node)->plan_id - 1)))
        return true;
    return expression_tree_walker(node, SubqueryWalker, (void *) rw);
}

static bool
HasSideEffects(const Ia3Rewrite *rw, void *expr)
{
    return contain_volatile_functions((Node *) expr) || SubqueryWalker((Node *) expr, rw);
}

/* Expressions of a node other than target list and filter that are evaluated while it is read. */
static bool
OwnExpressionsHaveSideEffects(const Ia3Rewrite *rw, Plan *plan)
{
    switch (nodeTag(plan)) {
    case T_FunctionScan: {
        ListCell *lc;

        foreach (lc, ((FunctionScan *) plan)->functions)
            if (HasSideEffects(rw, ((RangeTblFunction *) lfirst(lc))->funcexpr))
                return true;
        return false;
    }
    case T_ValuesScan:
        return HasSideEffects(rw, ((ValuesScan *) plan)->values_lists);
    case T_NestLoop:
        return HasSideEffects(rw, ((Join *) plan)->joinqual);
    case T_MergeJoin:
        return HasSideEffects(rw, ((Join *) plan)->joinqual) ||
               HasSideEffects(rw, ((MergeJoin *) plan)->mergeclauses);
    case T_HashJoin:
        return HasSideEffects(rw, ((Join *) plan)->joinqual) ||
               HasSideEffects(rw, ((HashJoin *) plan)->hashclauses);
    case T_Result:
        return HasSideEffects(rw, ((Result *) plan)->resconstantqual);
    default:
        return false;
    }
}

static bool
PlanHasSideEffects(const Ia3Rewrite *rw, Plan *plan)
{
    ListCell *lc;

    if (plan == NULL)
        return false;
    check_stack_depth();
    if (HasSideEffects(rw, plan->targetlist) || HasSideEffects(rw, plan->qual) ||
        OwnExpressionsHaveSideEffects(rw, plan) || PlanHasSideEffects(rw, plan->lefttree) ||
        PlanHasSideEffects(rw, plan->righttree))
        return true;
    foreach (lc, Ia3PlanExtraChildren(plan))
        if (PlanHasSideEffects(rw, lfirst(lc)))
            return true;
    return false;
}

/* Does it lock or change rows one by one, as they are asked for? */
static bool
PlanLocksRows(Plan *plan)
{
    ListCell *lc;

    if (plan == NULL)
        return false;
    check_stack_depth();
    if (IsA(plan, LockRows) || IsA(plan, ModifyTable))
        return true;
    if (PlanLocksRows(plan->lefttree) || PlanLocksRows(plan->righttree))
        return true;
    foreach (lc, Ia3PlanExtraChildren(plan))
        if (PlanLocksRows(lfirst(lc)))
            return true;
    return false;
}

bool
Ia3MayReadAhead(const Ia3Rewrite *rw, Plan *plan, bool mayStop)
{
    if (PlanLocksRows(plan))
        return false;
    return !mayStop || !PlanHasSideEffects(rw, plan);
}
