/*
 * label_expression.c
 *     Expressions over the columns of a table, which users give as text.
 */
#include "postgres.h"

#include "access/table.h"
#include "catalog/pg_type.h"
#include "nodes/nodeFuncs.h"
#include "nodes/parsenodes.h"
#include "nodes/primnodes.h"
#include "parser/parse_coerce.h"
#include "parser/parse_collate.h"
#include "parser/parse_expr.h"
#include "parser/parse_relation.h"
#include "parser/parser.h"
#include "utils/guc.h"
#include "utils/rel.h"
#include "utils/ruleutils.h"

#include "label_expression.h"
#include "extension/ia3_compat.h"

/* Lets an error point to the expression, and not to the statement that calls us. */
static void
point_to_expression(void *arg)
{
    const int position = geterrposition();

    if (position > 0) {
        errposition(0);
        internalerrposition(position);
        internalerrquery(arg);
    }
}

/* Whether the parsed column is "*" or "table.*". */
static bool
is_star(Node *column)
{
    return IsA(column, ColumnRef) && IsA(llast(((ColumnRef *) column)->fields), A_Star);
}

/* Parses the statement that has the expression as its only column; returns the expression. */
static Node *
parse(const char *statement, const char *expression, const char *option)
{
    ErrorContextCallback callback = {error_context_stack, point_to_expression, (void *) statement};
    List *parsed;
    SelectStmt *select;

    error_context_stack = &callback;
    parsed = Ia3RawParser(statement);
    error_context_stack = callback.previous;
    select = list_length(parsed) == 1 ? (SelectStmt *) linitial_node(RawStmt, parsed)->stmt : NULL;
    if (select == NULL || !IsA(select, SelectStmt) || select->op != SETOP_NONE ||
        list_length(select->targetList) != 1 || linitial_node(ResTarget, select->targetList)->name != NULL ||
        is_star(linitial_node(ResTarget, select->targetList)->val) || select->distinctClause ||
        select->intoClause || select->fromClause || select->whereClause || select->groupClause ||
        select->havingClause || select->windowClause || select->valuesLists || select->sortClause ||
        select->limitOffset || select->limitCount || select->lockingClause || select->withClause)
        ereport(ERROR, (errcode(ERRCODE_SYNTAX_ERROR), errmsg("%s must be a single expression", option),
                        errdetail("It is \"%s\".", expression)));
    return linitial_node(ResTarget, select->targetList)->val;
}

void
Ia3ExpressionCheck(const char *expression, const char *option)
{
    (void) parse(psprintf("SELECT %s", expression), expression, option);
}

/* What the parsed expression means for the rows of the table. */
static Node *
analyze(Relation table, Node *parsed, const char *statement, const char *option, bool isCondition)
{
    ErrorContextCallback callback = {error_context_stack, point_to_expression, (void *) statement};
    ParseState *state = make_parsestate(NULL);
    Node *node;

    state->p_sourcetext = statement;
    addNSItemToQuery(state, addRangeTableEntryForRelation(state, table, AccessShareLock, NULL, false, true),
                     true, true, true);
    error_context_stack = &callback;
    node = transformExpr(state, parsed, EXPR_KIND_WHERE);
    if (isCondition)
        node = coerce_to_boolean(state, node, option);
    else if (exprType(node) == UNKNOWNOID)
        node = coerce_type(state, node, UNKNOWNOID, TEXTOID, -1, COERCION_IMPLICIT, COERCE_IMPLICIT_CAST, -1);
    assign_expr_collations(state, node);
    error_context_stack = callback.previous;
    free_parsestate(state);
    return node;
}

char *
Ia3ExpressionQualify(Oid relation, const char *expression, const char *option, bool isCondition)
{
    const char *statement = psprintf("SELECT %s", expression);
    Node *parsed = parse(statement, expression, option);
    Relation table = table_open(relation, AccessShareLock);
    Node *node = analyze(table, parsed, statement, option, isCondition);
    int nest;
    char *text;

    nest = NewGUCNestLevel();
    (void) set_config_option("search_path", "pg_catalog, pg_temp", PGC_USERSET, PGC_S_SESSION,
                             GUC_ACTION_SAVE, true, 0, false);
    text = deparse_expression(node, deparse_context_for(IA3_EXPRESSION_ROW, relation), true, false);
    AtEOXact_GUC(false, nest);
    table_close(table, NoLock);
    /* "ia3_row.*" by itself would stand for all columns */
    if (IsA(node, Var) && ((Var *) node)->varattno == InvalidAttrNumber)
        text = psprintf("%s::pg_catalog.record", text);
    return text;
}
