/*
 * label_watch_sql.c
 *     The arguments of the triggers that watch a table, and the statements that read the rows which have to be labelled.
 *
 * Rows are read from the table, and not from the transition tables, because another trigger may have changed them since. The
 * rows before an UPDATE only say what has changed. Values are compared byte by byte (record_image_ne), because what is
 * predicted is their text, and because not every type has an operator "=".
 */
#include "postgres.h"

#include "catalog/namespace.h"
#include "catalog/pg_am.h"
#include "catalog/pg_class.h"
#include "catalog/pg_operator.h"
#include "access/genam.h"
#include "access/stratnum.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/relcache.h"
#include "utils/syscache.h"

#include "label_expression.h"
#include "label_watch.h"

#define ROW IA3_EXPRESSION_ROW

/* --- the arguments --- */

typedef struct Setting {
    const char *name;
    Size member; /* in Ia3Watch; a string */
    bool required;
} Setting;

static const Setting settings[] = {
    {"task", offsetof(Ia3Watch, task), true},
    {"input", offsetof(Ia3Watch, target.input), true},
    {"label_column", offsetof(Ia3Watch, target.label), true},
    {"version_column", offsetof(Ia3Watch, target.version), false},
    {"probability_column", offsetof(Ia3Watch, target.probability), false},
    {"condition", offsetof(Ia3Watch, target.condition), false},
    {"search_path", offsetof(Ia3Watch, searchPath), true},
    {"mode", offsetof(Ia3Watch, mode), false},
};

static char **
member(const Ia3Watch *watch, const Setting *setting)
{
    return (char **) ((char *) watch + setting->member);
}

char *
Ia3WatchWrite(const Ia3Watch *watch)
{
    StringInfoData out;

    initStringInfo(&out);
    for (int i = 0; i < (int) lengthof(settings); i++) {
        const char *value = *member(watch, &settings[i]);

        if (value != NULL)
            appendStringInfo(&out, "%s%s", out.len > 0 ? ", " : "",
                             quote_literal_cstr(psprintf("%s=%s", settings[i].name, value)));
    }
    return out.data;
}

Ia3Watch *
Ia3WatchRead(Relation relation, const Trigger *trigger)
{
    Ia3Watch *watch = palloc0(sizeof(Ia3Watch));
    int known = 0;

    watch->target.relation = RelationGetRelid(relation);
    watch->target.name = Ia3LabelTableName(RelationGetRelid(relation));
    for (int i = 0; i < (int) lengthof(settings); i++) {
        const Size len = strlen(settings[i].name);

        for (int k = 0; k < trigger->tgnargs; k++)
            if (strncmp(trigger->tgargs[k], settings[i].name, len) == 0 && trigger->tgargs[k][len] == '=') {
                *member(watch, &settings[i]) = pstrdup(trigger->tgargs[k] + len + 1);
                known++;
            }
        if (settings[i].required && *member(watch, &settings[i]) == NULL)
            ereport(ERROR,
                    (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                     errmsg("trigger \"%s\" has no argument \"%s\"", trigger->tgname, settings[i].name),
                     errhint("Let ia3_watch create the triggers.")));
    }
    if (known != trigger->tgnargs)
        ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                        errmsg("trigger \"%s\" has arguments that are unknown or repeated", trigger->tgname),
                        errhint("Let ia3_watch create the triggers.")));
    return watch;
}

bool
Ia3WatchIsDeferred(const Ia3Watch *watch)
{
    return watch->mode != NULL && strcmp(watch->mode, "deferred") == 0;
}

/* --- the key --- */

/* Whether no two rows of the table can have the same values in the index, nor one without a value. */
static bool
is_key(Relation relation, Relation index)
{
    const Form_pg_index form = index->rd_index;

    if (index->rd_rel->relam != BTREE_AM_OID || !form->indisunique || !form->indimmediate ||
        !form->indisvalid || !form->indislive || RelationGetIndexPredicate(index) != NIL)
        return false;
    for (int i = 0; i < form->indnkeyatts; i++) {
        const AttrNumber number = form->indkey.values[i];

        if (number <= 0 || !TupleDescAttr(RelationGetDescr(relation), number - 1)->attnotnull)
            return false;
    }
    return true;
}

/* The operator by which a column of the index is compared, as OPERATOR(schema.name). */
static char *
equals_operator(Relation index, int column)
{
    const Oid type = index->rd_opcintype[column];
    const Oid operator= get_opfamily_member(index->rd_opfamily[column], type, type, BTEqualStrategyNumber);
    HeapTuple tuple = SearchSysCache1(OPEROID, ObjectIdGetDatum(operator));
    Form_pg_operator form;
    char *text;

    if (!HeapTupleIsValid(tuple))
        elog(ERROR, "index \"%s\" has no operator for equality", RelationGetRelationName(index));
    form = (Form_pg_operator) GETSTRUCT(tuple);
    text = psprintf("OPERATOR(%s.%s)", quote_identifier(get_namespace_name(form->oprnamespace)),
                    NameStr(form->oprname));
    ReleaseSysCache(tuple);
    return text;
}

static Ia3WatchKey *
make_key(Relation relation, Relation index)
{
    Ia3WatchKey *key = palloc(sizeof(Ia3WatchKey));

    key->n = index->rd_index->indnkeyatts;
    key->columns = palloc(sizeof(char *) * key->n);
    key->equals = palloc(sizeof(char *) * key->n);
    key->types = palloc(sizeof(char *) * key->n);
    for (int i = 0; i < key->n; i++) {
        const AttrNumber number = index->rd_index->indkey.values[i];

        key->columns[i] = pstrdup(
            quote_identifier(NameStr(TupleDescAttr(RelationGetDescr(relation), number - 1)->attname)));
        key->equals[i] = equals_operator(index, i);
        key->types[i] = format_type_extended(TupleDescAttr(RelationGetDescr(relation), number - 1)->atttypid,
                                             -1, FORMAT_TYPE_TYPEMOD_GIVEN | FORMAT_TYPE_FORCE_QUALIFY);
    }
    return key;
}

Ia3WatchKey *
Ia3WatchFindKey(Relation relation)
{
    Ia3WatchKey *key = NULL;
    ListCell *lc;

    foreach (lc, RelationGetIndexList(relation)) {
        Relation index = index_open(lfirst_oid(lc), AccessShareLock);

        if ((key == NULL || index->rd_index->indisprimary) && is_key(relation, index))
            key = make_key(relation, index);
        index_close(index, NoLock);
    }
    if (key == NULL)
        ereport(ERROR,
                (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
                 errmsg("table \"%s\" has no key", RelationGetRelationName(relation)),
                 errdetail("A watched table needs a primary key, or a unique index on columns that are "
                           "NOT NULL, by which its rows are found again."),
                 errhint("Add one that is neither deferrable nor partial, or call ia3_label instead.")));
    return key;
}

/* --- the statements --- */

/*
 * The table itself: of one that is not partitioned without those that inherit from it, which share neither its key nor, for an
 * INSERT, its triggers.
 */
static void
put_table(StringInfo sql, Relation relation, const Ia3Watch *watch)
{
    appendStringInfo(sql, "%s%s AS " ROW,
                     relation->rd_rel->relkind == RELKIND_PARTITIONED_TABLE ? "" : "ONLY ",
                     watch->target.name);
}

/* "left.column = right.column AND …" */
static void
put_pairs(StringInfo sql, const Ia3WatchKey *key, const char *left, const char *right)
{
    for (int i = 0; i < key->n; i++)
        appendStringInfo(sql, "%s%s.%s %s %s.%s", i > 0 ? " AND " : "", left, key->columns[i], key->equals[i],
                         right, key->columns[i]);
}

static void
put_condition(StringInfo sql, const Ia3Watch *watch)
{
    if (watch->target.condition)
        appendStringInfo(sql, " AND (\n%s\n)", watch->target.condition);
}

/* The values of a key as the text of an array. */
static void
put_key_text(StringInfo sql, const Ia3WatchKey *key, const char *table)
{
    appendStringInfoString(sql, "ARRAY[");
    for (int i = 0; i < key->n; i++)
        appendStringInfo(sql, "%spg_catalog.format('%%s', %s.%s)", i > 0 ? ", " : "", table, key->columns[i]);
    appendStringInfoString(sql, "]::pg_catalog.text");
}

/* The label as a text, which may be NULL. */
static void
put_label_text(StringInfo sql, const Ia3Watch *watch, const char *table)
{
    const char *label = quote_identifier(watch->target.label);

    appendStringInfo(sql, "CASE WHEN %s.%s IS NOT NULL THEN pg_catalog.format('%%s', %s.%s) END", table,
                     label, table, label);
}

/* What is read of the rows that have to be labelled. */
static void
put_what(StringInfo sql, const Ia3Watch *watch, const Ia3WatchKey *key)
{
    if (Ia3WatchIsDeferred(watch)) {
        appendStringInfoString(sql, "SELECT ");
        put_key_text(sql, key, ROW);
        appendStringInfoString(sql, ", ");
        put_label_text(sql, watch, ROW);
        appendStringInfoString(sql, " FROM ");
    } else
        appendStringInfo(sql, "SELECT " ROW ".tableoid, " ROW ".ctid, (\n%s\n) FROM ", watch->target.input);
}

char *
Ia3WatchInserted(Relation relation, const Ia3Watch *watch, const Ia3WatchKey *key, bool compare)
{
    StringInfoData sql;

    initStringInfo(&sql);
    put_what(&sql, watch, key);
    put_table(&sql, relation, watch);
    appendStringInfoString(&sql, " JOIN " IA3_WATCH_NEW " ON ");
    put_pairs(&sql, key, ROW, IA3_WATCH_NEW);
    appendStringInfo(&sql, " WHERE " ROW ".%s IS NULL", quote_identifier(watch->target.label));
    if (watch->target.version)
        appendStringInfo(&sql, " AND " ROW ".%s IS NULL", quote_identifier(watch->target.version));
    if (compare)
        put_condition(&sql, watch);
    return sql.data;
}

/* A transition table with the number of each row: "(SELECT …, more) AS name". */
static void
put_numbered(StringInfo sql, const Ia3WatchKey *key, const char *table, const char *more)
{
    appendStringInfoString(sql, "(SELECT ");
    for (int i = 0; i < key->n; i++)
        appendStringInfo(sql, ROW ".%s, ", key->columns[i]);
    appendStringInfo(sql, "pg_catalog.row_number() OVER () AS ia3_number%s FROM %s AS " ROW ") AS %s", more,
                     table, table);
}

/* What the rows before the UPDATE tell: the label, and with `compare` the input and the condition. */
static char *
old_columns(const Ia3Watch *watch, bool compare)
{
    StringInfoData out;

    initStringInfo(&out);
    if (compare)
        appendStringInfo(&out, ", (\n%s\n) AS ia3_input", watch->target.input);
    appendStringInfo(&out, ", " ROW ".%s AS ia3_label", quote_identifier(watch->target.label));
    if (compare && watch->target.condition)
        appendStringInfo(&out, ", (\n%s\n) AS ia3_condition", watch->target.condition);
    return out.data;
}

/* Whether the input has changed, or the condition has become true. */
static void
put_changed(StringInfo sql, const Ia3Watch *watch)
{
    appendStringInfo(sql,
                     "(" IA3_WATCH_OLD ".ia3_number IS NULL OR pg_catalog.record_image_ne(ROW((\n%s\n)),"
                     " ROW(" IA3_WATCH_OLD ".ia3_input))%s)",
                     watch->target.input,
                     watch->target.condition ? " OR " IA3_WATCH_OLD ".ia3_condition IS NOT TRUE" : "");
}

char *
Ia3WatchUpdated(Relation relation, const Ia3Watch *watch, const Ia3WatchKey *key, Ia3WatchPairs pairs)
{
    const char *label = quote_identifier(watch->target.label);
    const bool compare = pairs != IA3_WATCH_UNCOMPARED;
    StringInfoData sql;

    initStringInfo(&sql);
    put_what(&sql, watch, key);
    put_table(&sql, relation, watch);
    appendStringInfoString(&sql, " JOIN ");
    put_numbered(&sql, key, IA3_WATCH_NEW, "");
    appendStringInfoString(&sql, " ON ");
    put_pairs(&sql, key, ROW, IA3_WATCH_NEW);
    appendStringInfoString(&sql, " LEFT JOIN ");
    put_numbered(&sql, key, IA3_WATCH_OLD, old_columns(watch, compare));
    appendStringInfoString(&sql, " ON ");
    if (pairs == IA3_WATCH_BY_KEY || pairs == IA3_WATCH_UNCOMPARED)
        put_pairs(&sql, key, IA3_WATCH_NEW, IA3_WATCH_OLD);
    else if (pairs == IA3_WATCH_BY_ORDER)
        appendStringInfoString(&sql, IA3_WATCH_NEW ".ia3_number OPERATOR(pg_catalog.=) " IA3_WATCH_OLD
                                                   ".ia3_number");
    else
        appendStringInfoString(&sql, "false");

    appendStringInfoString(&sql, " WHERE ");
    if (compare)
        put_changed(&sql, watch);
    else
        appendStringInfoString(&sql, "true");
    /* a label that the statement has set is kept, and one without a version, which is somebody's own */
    appendStringInfo(&sql,
                     " AND (" ROW ".%s IS NULL OR (" IA3_WATCH_OLD ".ia3_number IS NULL OR"
                     " pg_catalog.record_image_eq(ROW(" ROW ".%s), ROW(" IA3_WATCH_OLD ".ia3_label)))",
                     label, label);
    if (watch->target.version)
        appendStringInfo(&sql, " AND " ROW ".%s IS NOT NULL", quote_identifier(watch->target.version));
    appendStringInfoString(&sql, ")");
    if (compare)
        put_condition(&sql, watch);
    return sql.data;
}

char *
Ia3WatchKeysChanged(const Ia3WatchKey *key)
{
    StringInfoData sql;

    initStringInfo(&sql);
    appendStringInfoString(&sql, "SELECT EXISTS (SELECT FROM " IA3_WATCH_NEW
                                 " WHERE NOT EXISTS (SELECT FROM " IA3_WATCH_OLD " WHERE ");
    put_pairs(&sql, key, IA3_WATCH_NEW, IA3_WATCH_OLD);
    appendStringInfoString(&sql,
                           ")), (SELECT pg_catalog.count(*) FROM " IA3_WATCH_NEW
                           ") OPERATOR(pg_catalog.=) (SELECT pg_catalog.count(*) FROM " IA3_WATCH_OLD ")");
    return sql.data;
}

char *
Ia3WatchMoved(const Ia3Watch *watch, const Ia3WatchKey *key)
{
    StringInfoData sql;

    initStringInfo(&sql);
    appendStringInfoString(&sql, "SELECT ");
    put_key_text(&sql, key, IA3_WATCH_OLD);
    appendStringInfoString(&sql, ", ");
    put_key_text(&sql, key, IA3_WATCH_NEW);
    appendStringInfoString(&sql, ", ");
    put_label_text(&sql, watch, IA3_WATCH_NEW);
    appendStringInfoString(
        &sql, " FROM (SELECT *, pg_catalog.row_number() OVER () AS ia3_number FROM " IA3_WATCH_NEW
              ") AS " IA3_WATCH_NEW
              " JOIN (SELECT *, pg_catalog.row_number() OVER () AS ia3_number FROM " IA3_WATCH_OLD
              ") AS " IA3_WATCH_OLD " ON " IA3_WATCH_NEW ".ia3_number OPERATOR(pg_catalog.=) " IA3_WATCH_OLD
              ".ia3_number WHERE NOT (");
    put_pairs(&sql, key, IA3_WATCH_NEW, IA3_WATCH_OLD);
    appendStringInfoString(&sql, ")");
    return sql.data;
}

/* The entries that the parameters hold: "(SELECT …) AS ia3_entry", with the key as values of its types. */
static void
put_entries(StringInfo sql, const Ia3WatchKey *key)
{
    appendStringInfoString(sql, "(SELECT ia3_number, ia3_label");
    for (int i = 0; i < key->n; i++)
        appendStringInfo(sql, ", CAST(%s AS %s) AS %s", key->columns[i], key->types[i], key->columns[i]);
    appendStringInfoString(sql, " FROM ROWS FROM (pg_catalog.unnest($1), pg_catalog.unnest($2)");
    for (int i = 0; i < key->n; i++)
        appendStringInfo(sql, ", pg_catalog.unnest($%d)", i + 3);
    appendStringInfoString(sql, ") AS ia3_all(ia3_number, ia3_label");
    for (int i = 0; i < key->n; i++)
        appendStringInfo(sql, ", %s", key->columns[i]);
    appendStringInfoString(sql, ")) AS ia3_entry");
}

char *
Ia3WatchQueued(Relation relation, const Ia3Watch *watch, const Ia3WatchKey *key, bool lock)
{
    StringInfoData sql;

    initStringInfo(&sql);
    appendStringInfo(&sql, "SELECT " ROW ".tableoid, " ROW ".ctid, (\n%s\n), ia3_entry.ia3_number FROM ",
                     watch->target.input);
    put_entries(&sql, key);
    appendStringInfoString(&sql, " JOIN ");
    put_table(&sql, relation, watch);
    appendStringInfoString(&sql, " ON ");
    put_pairs(&sql, key, ROW, "ia3_entry");
    appendStringInfo(&sql,
                     " WHERE (" ROW ".%s IS NULL OR pg_catalog.format('%%s', " ROW
                     ".%s) OPERATOR(pg_catalog.=) ia3_entry.ia3_label)",
                     quote_identifier(watch->target.label), quote_identifier(watch->target.label));
    put_condition(&sql, watch);
    if (lock)
        appendStringInfoString(&sql, " FOR NO KEY UPDATE OF " ROW " SKIP LOCKED");
    return sql.data;
}
