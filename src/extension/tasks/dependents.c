/*
 * dependents.c
 *     Stored expressions that call ia3_predict_version with a task.
 *
 * PostgreSQL records in pg_depend which objects use a function. The expressions of those that use ia3_predict_version are read from the
 * catalogs and searched for calls with constant arguments.
 */
#include "postgres.h"

#include "access/transam.h"
#include "catalog/pg_language.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/optimizer.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"

#include "catalog.h"
#include "dependents.h"

/* As in PostgreSQL's own messages. */
#define MAX_SHOWN 100

/*
 * A column of pg_node_tree as text. PostgreSQL 13 has neither stxexprs nor prosqlbody, so these are fetched by name from the row.
 */
#define TREE(column) "pg_catalog.to_jsonb(c) OPERATOR(pg_catalog.->>) '" column "'"
/* The expressions in columns of a catalog, with their owner; `of` is how a row of it belongs to the object d. */
#define OF_RELATION(catalog, relation, column, of)                                                           \
    "SELECT r.relowner, " TREE(column) " FROM pg_catalog." catalog " c JOIN pg_catalog.pg_class r"           \
                                       " ON r.oid OPERATOR(pg_catalog.=) c." relation " WHERE " of
#define BY_OID(catalog)                                                                                      \
    "d.classid OPERATOR(pg_catalog.=) 'pg_catalog." catalog "'::pg_catalog.regclass"                         \
    " AND c.oid OPERATOR(pg_catalog.=) d.objid"
#define OF_CLASS(column)                                                                                     \
    "d.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_class'::pg_catalog.regclass"                            \
    " AND c." column " OPERATOR(pg_catalog.=) d.objid"
#define UNION " UNION ALL "

/* clang-format off */
static Ia3Query dependentsQuery = {
    .sql = "SELECT pg_catalog.pg_describe_object(d.classid, d.objid, d.objsubid), e.tree"
           " FROM (SELECT DISTINCT p.classid, p.objid, p.objsubid FROM pg_catalog.pg_depend p"
           "  WHERE p.refclassid OPERATOR(pg_catalog.=) 'pg_catalog.pg_proc'::pg_catalog.regclass"
           "   AND p.refobjid OPERATOR(pg_catalog.=) ANY ($2)) d"
           " CROSS JOIN LATERAL ("
           OF_RELATION("pg_index", "indrelid", "indexprs", OF_CLASS("indexrelid")) UNION
           OF_RELATION("pg_index", "indrelid", "indpred", OF_CLASS("indexrelid")) UNION
           OF_RELATION("pg_partitioned_table", "partrelid", "partexprs", OF_CLASS("partrelid")) UNION
           /* up to PostgreSQL 14 a generated column depends on the function, later its expression does */
           OF_RELATION("pg_attrdef", "adrelid", "adbin", OF_CLASS("adrelid")
                       " AND c.adnum OPERATOR(pg_catalog.=) d.objsubid") UNION
           OF_RELATION("pg_attrdef", "adrelid", "adbin", BY_OID("pg_attrdef")) UNION
           OF_RELATION("pg_constraint", "conrelid", "conbin", BY_OID("pg_constraint")) UNION
           OF_RELATION("pg_statistic_ext", "stxrelid", "stxexprs", BY_OID("pg_statistic_ext")) UNION
           OF_RELATION("pg_rewrite", "ev_class", "ev_qual", BY_OID("pg_rewrite")) UNION
           OF_RELATION("pg_rewrite", "ev_class", "ev_action", BY_OID("pg_rewrite")) UNION
           OF_RELATION("pg_policy", "polrelid", "polqual", BY_OID("pg_policy")) UNION
           OF_RELATION("pg_policy", "polrelid", "polwithcheck", BY_OID("pg_policy")) UNION
           OF_RELATION("pg_trigger", "tgrelid", "tgqual", BY_OID("pg_trigger")) UNION
           "SELECT t.typowner, " TREE("conbin") " FROM pg_catalog.pg_constraint c JOIN pg_catalog.pg_type t"
           " ON t.oid OPERATOR(pg_catalog.=) c.contypid WHERE " BY_OID("pg_constraint") UNION
           "SELECT c.typowner, " TREE("typdefaultbin") " FROM pg_catalog.pg_type c WHERE " BY_OID("pg_type") UNION
           "SELECT c.proowner, " TREE("proargdefaults") " FROM pg_catalog.pg_proc c WHERE " BY_OID("pg_proc") UNION
           "SELECT c.proowner, " TREE("prosqlbody") " FROM pg_catalog.pg_proc c WHERE " BY_OID("pg_proc")
           ") AS e(owner, tree)"
           " WHERE e.tree IS NOT NULL AND EXISTS (SELECT 1 FROM ia3.task t WHERE t.task OPERATOR(pg_catalog.=) $1"
           "  AND ia3.task_readable(t.owner, t.readers, e.owner))"
           " ORDER BY 1",
    .nArgs = 2,
    .argTypes = {TEXTOID, OIDARRAYOID},
};
/* clang-format on */

typedef struct Search {
    const char *task;
    int version; /* 0: any */
    List *functions;
} Search;

/* Whether an expression consists of constants and of immutable functions that PostgreSQL implements in C itself. */
static bool
is_not_constant(Node *node, void *context)
{
    Oid function;
    HeapTuple tuple;
    bool safe;

    if (node == NULL)
        return false;
    switch (nodeTag(node)) {
    case T_Const:
        return false;
    case T_List:
    case T_RelabelType:
    case T_CollateExpr:
        return expression_tree_walker(node, is_not_constant, context);
    case T_FuncExpr:
        function = ((FuncExpr *) node)->funcid;
        break;
    case T_OpExpr:
        set_opfuncid((OpExpr *) node);
        function = ((OpExpr *) node)->opfuncid;
        break;
    default:
        return true;
    }
    tuple = SearchSysCache1(PROCOID, ObjectIdGetDatum(function));
    if (!HeapTupleIsValid(tuple))
        return true;
    safe = function < FirstNormalObjectId &&
           ((Form_pg_proc) GETSTRUCT(tuple))->prolang == INTERNALlanguageId &&
           ((Form_pg_proc) GETSTRUCT(tuple))->provolatile == PROVOLATILE_IMMUTABLE;
    ReleaseSysCache(tuple);
    return !safe || expression_tree_walker(node, is_not_constant, context);
}

typedef struct Evaluation {
    Node *expr, *result;
    MemoryContext context;
} Evaluation;

static void
evaluate(void *arg)
{
    Evaluation *evaluation = arg;

    MemoryContextSwitchTo(evaluation->context);
    evaluation->result = eval_const_expressions(NULL, (Node *) copyObject(evaluation->expr));
}

/* An error of the expression does not matter: it is not the call that is searched for. */
static Node *
evaluate_safely(Node *expr)
{
    MemoryContext context = CurrentMemoryContext;
    Evaluation *evaluation = palloc0(sizeof(Evaluation));

    evaluation->expr = expr;
    evaluation->context = context;
    PG_TRY();
    {
        Ia3RunAndRollBack(evaluate, evaluation);
    }
    PG_CATCH();
    {
        int category = ERRCODE_TO_CATEGORY(geterrcode());

        MemoryContextSwitchTo(context);
        if (category != ERRCODE_TO_CATEGORY(ERRCODE_DATA_EXCEPTION) &&
            category != ERRCODE_TO_CATEGORY(ERRCODE_PROGRAM_LIMIT_EXCEEDED))
            PG_RE_THROW();
        FlushErrorState();
    }
    PG_END_TRY();
    return evaluation->result;
}

/*
 * The constant that an argument is, NULL if it is none. Views keep expressions as they were written. Whoever wrote them
 * must not have their functions run here, so only those are evaluated that do nothing but compute.
 */
static Const *
constant_of(Node *arg)
{
    while (arg && (IsA(arg, RelabelType) || IsA(arg, CoerceToDomain)))
        arg = IsA(arg, RelabelType) ? (Node *) ((RelabelType *) arg)->arg
                                    : (Node *) ((CoerceToDomain *) arg)->arg;
    if (arg && !IsA(arg, Const))
        arg = is_not_constant(arg, NULL) ? NULL : evaluate_safely(arg);
    return arg && IsA(arg, Const) && !((Const *) arg)->constisnull ? (Const *) arg : NULL;
}

/* The argument with this number, from 0, by position or by name: stored expressions keep the notation that they were written in. */
static Node *
argument_of(const FuncExpr *call, int number)
{
    ListCell *lc;

    foreach (lc, call->args) {
        Node *arg = lfirst(lc);

        if (!IsA(arg, NamedArgExpr)) {
            if (foreach_current_index(lc) == number)
                return arg;
        } else if (((NamedArgExpr *) arg)->argnumber == number)
            return (Node *) ((NamedArgExpr *) arg)->arg;
    }
    return NULL;
}

/* Compared without a copy, since whoever wrote the expression chose its length. */
static bool
is_text(const Const *constant, const char *string)
{
    text *value = DatumGetTextPP(constant->constvalue);
    const size_t len = strlen(string);

    return VARSIZE_ANY_EXHDR(value) == len && memcmp(VARDATA_ANY(value), string, len) == 0;
}

static bool
is_call(FuncExpr *call, const Search *search)
{
    Const *task, *version;

    if (!list_member_oid(search->functions, call->funcid))
        return false;
    task = constant_of(argument_of(call, 0));
    if (task == NULL || !is_text(task, search->task))
        return false;
    if (search->version == 0)
        return true;
    version = constant_of(argument_of(call, 1));
    return version && DatumGetInt32(version->constvalue) == search->version;
}

static bool
call_walker(Node *node, void *context)
{
    if (node == NULL)
        return false;
    if (IsA(node, FuncExpr) && is_call((FuncExpr *) node, context))
        return true;
    if (IsA(node, Query))
        return query_tree_walker((Query *) node, call_walker, context, 0);
    return expression_tree_walker(node, call_walker, context);
}

/* A stored rule is a list of queries, a function's body may be a list of lists. */
static bool
contains_call(const char *tree, Search *search)
{
    return call_walker(stringToNode(tree), search);
}

/* The functions that SQL calls ia3_predict_version, whatever their schema; also as an array. */
static List *
find_functions(Datum *array)
{
    static Ia3Query query = {
        .sql = "SELECT p.oid, pg_catalog.array_agg(p.oid) OVER () FROM pg_catalog.pg_proc p"
               " JOIN pg_catalog.pg_depend e ON e.objid OPERATOR(pg_catalog.=) p.oid"
               " JOIN pg_catalog.pg_extension x ON x.oid OPERATOR(pg_catalog.=) e.refobjid"
               " WHERE p.proname OPERATOR(pg_catalog.=) 'ia3_predict_version'"
               " AND e.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_proc'::pg_catalog.regclass"
               " AND e.refclassid OPERATOR(pg_catalog.=) 'pg_catalog.pg_extension'::pg_catalog.regclass"
               " AND e.deptype OPERATOR(pg_catalog.=) 'e' AND x.extname OPERATOR(pg_catalog.=) 'ia3'",
    };
    List *functions = NIL;
    uint64 n = Ia3QueryRun(&query, NULL, NULL, false);
    bool isNull;

    for (uint64 i = 0; i < n; i++)
        functions = lappend_oid(functions, DatumGetObjectId(SPI_getbinval(
                                               SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 1, &isNull)));
    if (n > 0)
        *array = Ia3QueryColumn(2, &isNull);
    return functions;
}

/* Lists the objects that SPI_tuptable has, each once. Returns their number. */
static int
list_dependents(StringInfo list, uint64 n, Search *search)
{
    const char *last = "";
    int found = 0;

    for (uint64 i = 0; i < n; i++) {
        char *object = SPI_getvalue(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 1);
        char *tree = SPI_getvalue(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 2);

        CHECK_FOR_INTERRUPTS();
        if (object == NULL || strcmp(object, last) == 0 || !contains_call(tree, search))
            continue;
        if (++found <= MAX_SHOWN)
            appendStringInfo(list, "%s%s", found > 1 ? "\n" : "", object);
        last = object;
    }
    if (found > MAX_SHOWN)
        appendStringInfo(list, ngettext("\nand %d other object", "\nand %d other objects", found - MAX_SHOWN),
                         found - MAX_SHOWN);
    return found;
}

void
Ia3DependentsCheck(const char *task, int version, const char *verb)
{
    Search search = {task, version, NIL};
    Ia3Identity caller;
    StringInfoData list;
    Datum values[2];
    int found = 0;

    Ia3SpiConnect();
    initStringInfo(&list);
    caller = Ia3BecomeTableOwner();
    values[0] = CStringGetTextDatum(task);
    search.functions = find_functions(&values[1]);
    if (search.functions != NIL) {
        /* also what others have committed since a REPEATABLE READ transaction began */
        PushActiveSnapshot(GetLatestSnapshot());
        found = list_dependents(&list, Ia3QueryRun(&dependentsQuery, values, NULL, true), &search);
        PopActiveSnapshot();
    }
    Ia3BecomeAgain(caller);
    if (found > 0)
        ereport(ERROR,
                (errcode(ERRCODE_DEPENDENT_OBJECTS_STILL_EXIST),
                 version > 0
                     ? errmsg("cannot %s version %d of ia3 task \"%s\" because other objects depend on it",
                              verb, version, task)
                     : errmsg("cannot %s ia3 task \"%s\" because other objects depend on it", verb, task),
                 errdetail("%s", list.data),
                 errhint("These objects call ia3_predict_version with it. Drop or change them first.")));
    Ia3SpiFinish();
}
