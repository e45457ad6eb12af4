/*
 * label_expression.h
 *     Expressions over the columns of a table, which users give as text.
 */
#ifndef IA3_LABEL_EXPRESSION_H
#define IA3_LABEL_EXPRESSION_H

#include "postgres.h"

/* ERROR 42601 unless the text can stand between parentheses and is all that they enclose; `option` names the argument. */
extern void Ia3ExpressionCheck(const char *expression, const char *option);

/* What the row is called in a text that Ia3ExpressionQualify has written. */
#define IA3_EXPRESSION_ROW "ia3_row"

/*
 * Writes an expression in such a way that it means the same under every search_path: names that are found through the present one
 * get their schemas, as in the definition of a view, and columns belong to a relation IA3_EXPRESSION_ROW, so that the table may be
 * renamed. ERROR for whatever PostgreSQL finds wrong with it; also for aggregates and sets, which a row does not have one of, and,
 * with `isCondition`, unless it is boolean.
 */
extern char *Ia3ExpressionQualify(Oid relation, const char *expression, const char *option, bool isCondition);

#endif
