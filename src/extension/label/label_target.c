/*
 * label_target.c
 *     The table whose column is filled with predictions, and the statements that read and change it.
 *
 * All statements name the table that the caller has named, so its privileges, its row security and, for a partitioned table, the
 * routing of changed rows are what they are for any statement of his. A block range is that of all partitions at the same time.
 *
 * PostgreSQL 14 and later read a range of blocks directly. For 13 the statements list every row that these blocks could have.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/table.h"
#include "catalog/pg_attribute.h"
#include "catalog/pg_class.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_type.h"
#include "storage/bufmgr.h"
#include "storage/itemptr.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/syscache.h"

#include "label_expression.h"
#include "label_target.h"
#include "extension/ia3_compat.h"

/* --- checks --- */

/* Raises the ERROR for something that is not a table whose rows can be found by their blocks. */
static void
check_kind(Oid relation, bool isPart)
{
    const char kind = get_rel_relkind(relation);

    if (kind == RELKIND_RELATION || kind == RELKIND_PARTITIONED_TABLE)
        return;
    ereport(ERROR,
            (errcode(ERRCODE_WRONG_OBJECT_TYPE),
             errmsg(isPart ? "cannot label rows of \"%s\", which belongs to the table"
                           : "cannot label rows of \"%s\"",
                    get_rel_name(relation)),
             errdetail("It is not a table."),
             kind == RELKIND_FOREIGN_TABLE ? errhint("Label its rows on the server where they are.") : 0));
}

/* The type of a column that exists and can be set; `option` names the argument. */
static Oid
column_type(Oid relation, const char *column, const char *option)
{
    HeapTuple tuple = SearchSysCacheAttName(relation, column);
    Form_pg_attribute attribute;
    Oid type;

    if (!HeapTupleIsValid(tuple) || ((Form_pg_attribute) GETSTRUCT(tuple))->attnum <= 0)
        ereport(ERROR, (errcode(ERRCODE_UNDEFINED_COLUMN),
                        errmsg("table \"%s\" has no column \"%s\"", get_rel_name(relation), column),
                        errhint("%s names it.", option)));
    attribute = (Form_pg_attribute) GETSTRUCT(tuple);
    if (attribute->attgenerated != '\0' || attribute->attidentity == ATTRIBUTE_IDENTITY_ALWAYS)
        ereport(ERROR, (errcode(ERRCODE_GENERATED_ALWAYS), errmsg("column \"%s\" is generated", column),
                        errhint("%s must name a column that can be set.", option)));
    type = getBaseType(attribute->atttypid);
    ReleaseSysCache(tuple);
    return type;
}

static void
check_type(bool ok, const char *option, const char *column, const char *types, Oid type)
{
    if (!ok)
        ereport(ERROR, (errcode(ERRCODE_DATATYPE_MISMATCH), errmsg("column \"%s\" must be %s", column, types),
                        errdetail("The type of the column is %s.", format_type_be(type)),
                        errhint("%s names it.", option)));
}

void
Ia3LabelCheckColumns(const Ia3LabelTarget *t)
{
    Oid type = column_type(t->relation, t->label, "label_column");

    check_type(!OidIsValid(get_element_type(type)) && type != BYTEAOID, "label_column", t->label,
               "of a type that has labels", type);
    if (t->version) {
        type = column_type(t->relation, t->version, "version_column");
        check_type(type == INT4OID || type == INT8OID, "version_column", t->version, "an integer", type);
    }
    if (t->probability) {
        type = column_type(t->relation, t->probability, "probability_column");
        check_type(type == FLOAT4OID || type == FLOAT8OID || type == NUMERICOID, "probability_column",
                   t->probability, "a number", type);
    }
    if ((t->version && (strcmp(t->version, t->label) == 0 ||
                        (t->probability && strcmp(t->version, t->probability) == 0))) ||
        (t->probability && strcmp(t->probability, t->label) == 0))
        ereport(ERROR,
                (errcode(ERRCODE_DUPLICATE_COLUMN),
                 errmsg("label_column, version_column and probability_column must be different columns")));
}

char *
Ia3LabelText(FunctionCallInfo fcinfo, int arg, const char *name)
{
    if (!PG_ARGISNULL(arg))
        return text_to_cstring(PG_GETARG_TEXT_PP(arg));
    if (name != NULL)
        ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED), errmsg("%s must not be null", name)));
    return NULL;
}

char *
Ia3LabelTableName(Oid relation)
{
    char *schema = get_namespace_name(get_rel_namespace(relation));

    if (schema == NULL)
        ereport(ERROR,
                (errcode(ERRCODE_UNDEFINED_TABLE), errmsg("relation with OID %u does not exist", relation)));
    return quote_qualified_identifier(schema, get_rel_name(relation));
}

void
Ia3LabelCheck(const Ia3LabelTarget *target)
{
    ListCell *lc;

    check_kind(target->relation, false);
    foreach (lc, find_all_inheritors(target->relation, AccessShareLock, NULL))
        check_kind(lfirst_oid(lc), true);
    Ia3LabelCheckColumns(target);
    Ia3ExpressionCheck(target->input, "input");
    if (target->condition)
        Ia3ExpressionCheck(target->condition, "condition");
}

/* --- statements --- */

#define EQUALS " OPERATOR(pg_catalog.=) "

/* "FROM … WHERE …" of the rows that have no label yet, or not this version's. */
static void
put_rows(StringInfo sql, const Ia3LabelTarget *t, int version)
{
    const char *table = quote_identifier(get_rel_name(t->relation));
    const char *label = quote_identifier(t->label);

    appendStringInfo(sql, " FROM %s WHERE ", t->name);
    appendStringInfo(sql, IA3_ROWS_IN_BLOCKS, table);
    if (t->version == NULL)
        appendStringInfo(sql, " AND %s.%s IS NULL", table, label);
    else {
        const char *column = quote_identifier(t->version);

        appendStringInfo(sql, " AND (%s.%s IS NULL AND %s.%s IS NULL", table, column, table, label);
        if (t->relabel)
            appendStringInfo(sql, " OR %s.%s OPERATOR(pg_catalog.<>) %d", table, column, version);
        appendStringInfoString(sql, ")");
    }
    if (t->condition)
        appendStringInfo(sql, " AND (\n%s\n)", t->condition);
}

static SPIPlanPtr
prepare(const char *sql, int nArgs, Oid *types, bool isCursor)
{
    SPIPlanPtr plan = SPI_prepare(sql, nArgs, types);

    if (plan == NULL || SPI_keepplan(plan) != 0)
        elog(ERROR, "SPI_prepare failed: %s", SPI_result_code_string(SPI_result));
    if (isCursor && !SPI_is_cursor_plan(plan))
        elog(ERROR, "the statement that reads rows cannot be a cursor");
    return plan;
}

static SPIPlanPtr
prepare_reading(const Ia3LabelTarget *t, int version, const char *what, const char *locking)
{
    Oid types[] = {INT8OID, INT8OID};
    StringInfoData sql;

    initStringInfo(&sql);
    appendStringInfoString(&sql, what);
    put_rows(&sql, t, version);
    appendStringInfoString(&sql, locking);
    return prepare(sql.data, 2, types, true);
}

/* The label as a value of the column: strings as INSERT assigns them, so that they cannot lose their end. */
static char *
label_value(const Ia3LabelTarget *t)
{
    AttrNumber number = get_attnum(t->relation, t->label);
    Oid type, collation;
    int32 typmod;
    char category;
    bool preferred;

    get_atttypetypmodcoll(t->relation, number, &type, &typmod, &collation);
    get_type_category_preferred(getBaseType(type), &category, &preferred);
    if (category == TYPCATEGORY_STRING)
        return pstrdup("ia3_answer.label");
    return psprintf(
        "CAST(ia3_answer.label AS %s)",
        format_type_extended(type, typmod, FORMAT_TYPE_TYPEMOD_GIVEN | FORMAT_TYPE_FORCE_QUALIFY));
}

SPIPlanPtr
Ia3LabelPrepareUpdate(const Ia3LabelTarget *t, int version)
{
    Oid types[] = {OIDARRAYOID, TIDARRAYOID, TEXTARRAYOID, FLOAT8ARRAYOID};
    const char *table = quote_identifier(get_rel_name(t->relation));
    StringInfoData sql;

    initStringInfo(&sql);
    appendStringInfo(&sql, "UPDATE %s SET %s = %s", t->name, quote_identifier(t->label), label_value(t));
    if (t->version)
        appendStringInfo(&sql, ", %s = %d", quote_identifier(t->version), version);
    if (t->probability)
        appendStringInfo(&sql, ", %s = ia3_answer.probability", quote_identifier(t->probability));
    appendStringInfo(&sql,
                     " FROM unnest($1, $2, $3, $4) AS ia3_answer(rel, id, label, probability)"
                     " WHERE %s.tableoid" EQUALS "ia3_answer.rel AND %s.ctid" EQUALS "ia3_answer.id",
                     table, table);
    return prepare(sql.data, 4, types, false);
}

void
Ia3LabelPrepare(const Ia3LabelTarget *t, int version, Ia3LabelPlans *plans)
{
    const char *table = quote_identifier(get_rel_name(t->relation));
    const char *rows = psprintf("SELECT %s.tableoid, %s.ctid, (\n%s\n)", table, table, t->input);

    plans->count = prepare_reading(t, version, "SELECT pg_catalog.count(*)", "");
    plans->lock = prepare_reading(t, version, rows, psprintf(" FOR NO KEY UPDATE OF %s SKIP LOCKED", table));
    plans->wait = prepare_reading(t, version, rows, psprintf(" FOR NO KEY UPDATE OF %s", table));
    plans->update = Ia3LabelPrepareUpdate(t, version);
}

void
Ia3LabelFree(Ia3LabelPlans *plans)
{
    SPIPlanPtr all[] = {plans->count, plans->lock, plans->wait, plans->update};

    for (int i = 0; i < (int) lengthof(all); i++)
        if (all[i] != NULL)
            SPI_freeplan(all[i]);
}

int64
Ia3LabelBlocks(const Ia3LabelTarget *target)
{
    int64 most = 0;
    ListCell *lc;

    foreach (lc, find_all_inheritors(target->relation, AccessShareLock, NULL)) {
        Relation part = table_open(lfirst_oid(lc), NoLock);

        if (part->rd_rel->relkind == RELKIND_RELATION)
            most = Max(most, (int64) RelationGetNumberOfBlocks(part));
        table_close(part, NoLock);
    }
    return most;
}
