/*
 * train_rows.c
 *     Reading labelled examples by a query.
 *
 * The query runs in a subtransaction that is always rolled back. This has three effects at once: the locks that
 * parsing and running it took are released before training starts, which may take minutes; none of its side effects
 * remain; and transaction_read_only can be set for the query alone, so that functions that it calls cannot write
 * either.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/fmgrprotos.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/plancache.h"
#include "utils/resowner.h"

#include "train_rows.h"
#include "common/protocol.h"
#include "extension/tasks/catalog.h"
#include "extension/tasks/value_text.h"

/* A batch ends early when it has more than this, since a request that is too large fails as a whole. */
#define MAX_SCAN_BYTES   (16 * 1024 * 1024)
#define MAX_SCAN_CHOICES (IA3_MAX_CHOICES / 4)

/* The attribute numbers of the query's columns, from 1; 0: there is no such column. */
typedef struct ColumnMap {
    int label;
    int choices;
    int id, group, weight;
    int *fields; /* [nFields] */
    Ia3ValueText
        labelText; /* how the values of these columns become text; of an array of labels, an element */
    Ia3ValueText choiceText; /* of an element */
    Ia3ValueText idText, groupText;
    Oid weightType;
    Ia3ValueText *fieldTexts; /* [nFields] */
} ColumnMap;

typedef struct RowReader {
    const char *query;
    Ia3RowColumns columns;
    MemoryContext context; /* of the rows */
    Ia3TrainRows *rows;
    ColumnMap map;
    bool
        asWritten; /* by the types' output functions, as versions without a "rendering" in their recipe were trained */
    int capacity;
    Size bytes;       /* read so far in this batch */
    int64 nChoices;   /* likewise: those that rows have of their own */
    Ia3TakeRows take; /* NULL: all rows are kept */
    void *arg;
} RowReader;

/* Collects the distinct fields of all templates. */
static void
collect_fields(Ia3TrainRows *rows, Ia3Template **templates, int nTemplates)
{
    Ia3StringIndex *index = Ia3StringIndexCreate();

    for (int t = 0; t < nTemplates; t++)
        for (int f = 0; f < templates[t]->nFields; f++) {
            bool found;

            Ia3StringIndexAdd(index, templates[t]->fields[f], &found);
        }
    rows->index = index;
    rows->nFields = Ia3StringIndexStrings(index)->n;
    rows->fields = Ia3StringIndexStrings(index)->items;
}

static char *
list_columns(TupleDesc desc)
{
    StringInfoData out;

    initStringInfo(&out);
    for (int i = 0; i < desc->natts; i++)
        appendStringInfo(&out, "%s\"%s\"", i > 0 ? ", " : "", NameStr(TupleDescAttr(desc, i)->attname));
    return out.data;
}

/* The attribute number of the column with this name, 0 when there is none. */
static int
find_column(TupleDesc desc, const char *name)
{
    int found = 0;

    for (int i = 0; i < desc->natts; i++) {
        if (strcmp(NameStr(TupleDescAttr(desc, i)->attname), name) != 0)
            continue;
        if (found)
            ereport(ERROR, (errcode(ERRCODE_AMBIGUOUS_COLUMN),
                            errmsg("the query returns more than one column \"%s\"", name)));
        found = i + 1;
    }
    return found;
}

static void
missing_column(TupleDesc desc, const char *name, const char *hint)
{
    ereport(ERROR,
            (errcode(ERRCODE_UNDEFINED_COLUMN), errmsg("the query does not return a column \"%s\"", name),
             desc->natts > 0 ? errdetail("The query returns %s.", list_columns(desc))
                             : errdetail("The query returns no columns."),
             errhint("%s", hint)));
}

/* The attribute number of a column that an option names; 0 if it names none. */
static int
named_column(TupleDesc desc, const char *name, const char *option)
{
    int found = name ? find_column(desc, name) : 0;

    if (name && found == 0)
        missing_column(desc, name, psprintf("%s names it.", option));
    return found;
}

static void
map_columns(ColumnMap *map, const Ia3TrainRows *rows, const Ia3RowColumns *columns, TupleDesc desc)
{
    int text = 0; /* the column that is the text by position */
    bool positional;

    map->label = find_column(desc, "label");
    positional = desc->natts == 2 && map->label == 0;
    if (positional)
        map->label = 2;
    if (desc->natts == 2)
        text = 3 - map->label;
    if (map->label == 0)
        missing_column(desc, "label",
                       "Name the columns \"text\" and \"label\", or return exactly two columns.");

    map->fields = palloc0(sizeof(int) * Max(rows->nFields, 1));
    for (int f = 0; f < rows->nFields; f++) {
        bool isText = strcmp(rows->fields[f], "text") == 0;

        /* Positions override names here: unnamed expressions are often both called "text". */
        if (!(positional && isText))
            map->fields[f] = find_column(desc, rows->fields[f]);
        if (map->fields[f] == 0 && isText)
            map->fields[f] = text;
        if (map->fields[f] == 0)
            missing_column(
                desc, rows->fields[f],
                strcmp(rows->fields[f], "task") == 0
                    ? "Pre-training needs the task of every row, or a template refers to this field."
                    : "A template refers to this field.");
    }

    map->choices = find_column(desc, "choices");
    if (map->choices == map->label || map->choices == text)
        map->choices = 0; /* the columns of a two-column query are taken by position */
    map->id = named_column(desc, columns->id, "id_column");
    map->group = named_column(desc, columns->group, "group_column");
    map->weight = named_column(desc, columns->weight, "weight_column");
}

static void
label_text(RowReader *reader, Ia3ValueText *how, Oid type, const char *what)
{
    if (reader->asWritten)
        Ia3OutputTextInit(how, type);
    else
        Ia3LabelTextInit(how, type, what);
}

/* The base type of the column with the weights, which must be numbers. */
static Oid
weight_type(Form_pg_attribute column)
{
    Oid type = getBaseType(column->atttypid);

    switch (type) {
    case INT2OID:
    case INT4OID:
    case INT8OID:
    case FLOAT4OID:
    case FLOAT8OID:
    case NUMERICOID:
        return type;
    default:
        ereport(ERROR,
                (errcode(ERRCODE_DATATYPE_MISMATCH),
                 errmsg("column \"%s\" must have a numeric type", NameStr(column->attname)),
                 errdetail("The type of the column is %s.", format_type_be(column->atttypid)),
                 errhint("weight_column names it. Cast the column, for example to double precision.")));
        return InvalidOid;
    }
}

/* Finds out whether rows have one label or an array of them. */
static void
map_label_type(RowReader *reader, Oid type)
{
    Oid element = get_element_type(getBaseType(type));

    if (reader->columns.labels == IA3_LABEL_ARRAY && !OidIsValid(element))
        ereport(ERROR, (errcode(ERRCODE_DATATYPE_MISMATCH),
                        errmsg("the labels of a multi-label task must be an array"),
                        errdetail("The type of the column is %s.", format_type_be(type))));
    reader->rows->multiLabel = reader->columns.labels != IA3_LABEL_ONE && OidIsValid(element);
    label_text(reader, &reader->map.labelText, reader->rows->multiLabel ? element : type, "label");
}

/* Finds out how each column becomes text. */
static void
map_types(RowReader *reader, TupleDesc desc)
{
    ColumnMap *map = &reader->map;

    map_label_type(reader, TupleDescAttr(desc, map->label - 1)->atttypid);
    map->fieldTexts = palloc(sizeof(Ia3ValueText) * Max(reader->rows->nFields, 1));
    for (int f = 0; f < reader->rows->nFields; f++) {
        Oid type = TupleDescAttr(desc, map->fields[f] - 1)->atttypid;

        if (reader->asWritten)
            Ia3OutputTextInit(&map->fieldTexts[f], type);
        else
            Ia3FieldTextInit(&map->fieldTexts[f], type);
    }
    if (map->choices != 0) {
        Oid element = get_element_type(getBaseType(TupleDescAttr(desc, map->choices - 1)->atttypid));

        if (!OidIsValid(element))
            ereport(ERROR, (errcode(ERRCODE_DATATYPE_MISMATCH),
                            errmsg("column \"choices\" must be an array of text"),
                            errdetail("The type of the column is %s.",
                                      format_type_be(TupleDescAttr(desc, map->choices - 1)->atttypid))));
        label_text(reader, &map->choiceText, element, "choice");
    }
    if (map->id != 0)
        Ia3LabelTextInit(&map->idText, TupleDescAttr(desc, map->id - 1)->atttypid, "row id");
    if (map->group != 0)
        Ia3LabelTextInit(&map->groupText, TupleDescAttr(desc, map->group - 1)->atttypid, "group");
    if (map->weight != 0)
        map->weightType = weight_type(TupleDescAttr(desc, map->weight - 1));
}

/* Raises the ERROR for a NULL where none is allowed. */
static void
null_value(const RowReader *reader, const char *what)
{
    ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
                    errmsg("row " INT64_FORMAT " of the query has a null %s",
                           reader->rows->first + reader->rows->n + 1, what)));
}

/* Copies a string into the context of the rows and counts its bytes. */
static char *
keep_string(RowReader *reader, const char *string)
{
    Size len = strlen(string);

    reader->bytes += len + 1;
    if (reader->bytes > IA3_MAX_FRAME)
        ereport(ERROR, (errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
                        errmsg("the query returns more than %u MB of text", IA3_MAX_FRAME / (1024 * 1024)),
                        errhint("Select fewer rows, or shorten them.")));
    return MemoryContextStrdup(reader->context, string);
}

/* The text of a column of the row; NULL for NULL. */
static char *
column_text(RowReader *reader, HeapTuple tuple, TupleDesc desc, int column, Ia3ValueText *how)
{
    bool isNull;
    Datum value = SPI_getbinval(tuple, desc, column, &isNull);

    return isNull ? NULL : keep_string(reader, Ia3ValueTextOf(how, value));
}

/* The elements of an array; `what` is one of them. */
static Ia3Strings *
array_strings(RowReader *reader, ArrayType *array, Ia3ValueText *how, const char *what)
{
    bool byVal, *nulls;
    int16 len;
    char align;
    Datum *elements;
    Ia3Strings *strings = MemoryContextAllocZero(reader->context, sizeof(Ia3Strings));

    get_typlenbyvalalign(how->type, &len, &byVal, &align);
    deconstruct_array(array, how->type, len, byVal, align, &elements, &nulls, &strings->n);
    reader->nChoices += strings->n;
    strings->items = MemoryContextAlloc(reader->context, sizeof(char *) * Max(strings->n, 1));
    for (int i = 0; i < strings->n; i++) {
        if (nulls[i])
            null_value(reader, what);
        strings->items[i] = keep_string(reader, Ia3ValueTextOf(how, elements[i]));
    }
    return strings;
}

static Ia3Strings *
column_choices(RowReader *reader, HeapTuple tuple, TupleDesc desc)
{
    bool isNull;
    Datum value = SPI_getbinval(tuple, desc, reader->map.choices, &isNull);

    return isNull ? NULL
                  : array_strings(reader, DatumGetArrayTypeP(value), &reader->map.choiceText, "choice");
}

static int
compare_labels(const void *a, const void *b)
{
    return strcmp(*(const char *const *) a, *(const char *const *) b);
}

/* Reads the labels of a row; they are sorted. */
static void
read_labels(RowReader *reader, Ia3TrainRow *row, HeapTuple tuple, TupleDesc desc)
{
    bool isNull;
    Datum value = SPI_getbinval(tuple, desc, reader->map.label, &isNull);
    int64 number = reader->rows->first + reader->rows->n + 1;
    ArrayType *array;

    if (isNull)
        null_value(reader, "label");
    array = DatumGetArrayTypeP(value);
    if (ARR_NDIM(array) > 1)
        ereport(ERROR,
                (errcode(ERRCODE_ARRAY_SUBSCRIPT_ERROR),
                 errmsg("the labels of row " INT64_FORMAT " of the query must be a one-dimensional array",
                        number)));
    row->labels = array_strings(reader, array, &reader->map.labelText, "label");
    qsort(row->labels->items, row->labels->n, sizeof(char *), compare_labels);
    for (int i = 1; i < row->labels->n; i++)
        if (strcmp(row->labels->items[i], row->labels->items[i - 1]) == 0)
            ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                            errmsg("row " INT64_FORMAT " of the query has the label \"%s\" twice", number,
                                   row->labels->items[i])));
    value = Ia3StringsToArray(row->labels);
    row->label = keep_string(reader, OidOutputFunctionCall(F_ARRAY_OUT, value));
}

double
Ia3NumericToDouble(Datum numeric)
{
    return strtod(DatumGetCString(DirectFunctionCall1(numeric_out, numeric)), NULL);
}

static double
number(Datum value, Oid type)
{
    switch (type) {
    case INT2OID:
        return DatumGetInt16(value);
    case INT4OID:
        return DatumGetInt32(value);
    case INT8OID:
        return (double) DatumGetInt64(value);
    case FLOAT4OID:
        return DatumGetFloat4(value);
    case FLOAT8OID:
        return DatumGetFloat8(value);
    default:
        return Ia3NumericToDouble(value);
    }
}

static double
read_weight(const RowReader *reader, HeapTuple tuple, TupleDesc desc)
{
    bool isNull;
    Datum value = SPI_getbinval(tuple, desc, reader->map.weight, &isNull);
    double weight;

    if (isNull)
        null_value(reader, "weight");
    weight = number(value, reader->map.weightType);
    if (!(weight >= 0 && weight <= IA3_MAX_WEIGHT)) /* nor is NaN */
        ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                        errmsg("row " INT64_FORMAT " of the query has the weight %g",
                               reader->rows->first + reader->rows->n + 1, weight),
                        errdetail("Weights are numbers from 0 to %g.", IA3_MAX_WEIGHT)));
    return weight;
}

static void
read_row(RowReader *reader, HeapTuple tuple, TupleDesc desc)
{
    Ia3TrainRows *rows = reader->rows;
    Ia3TrainRow *row;

    if (rows->n == reader->capacity) {
        reader->capacity *= 2;
        rows->rows = repalloc_huge(rows->rows, sizeof(Ia3TrainRow) * (Size) reader->capacity);
    }
    row = &rows->rows[rows->n];
    row->labels = NULL;
    if (rows->multiLabel)
        read_labels(reader, row, tuple, desc);
    else
        row->label = column_text(reader, tuple, desc, reader->map.label, &reader->map.labelText);
    if (row->label == NULL)
        null_value(reader, "label");
    row->values = MemoryContextAlloc(reader->context, sizeof(char *) * Max(rows->nFields, 1));
    for (int f = 0; f < rows->nFields; f++) {
        row->values[f] = column_text(reader, tuple, desc, reader->map.fields[f], &reader->map.fieldTexts[f]);
        if (row->values[f] == NULL) {
            if (strcmp(rows->fields[f], "text") == 0)
                null_value(reader, "text");
            row->values[f] = keep_string(reader, "");
        }
    }
    row->choices = reader->map.choices ? column_choices(reader, tuple, desc) : NULL;
    row->id = row->group = NULL;
    if (reader->map.id != 0)
        row->id = column_text(reader, tuple, desc, reader->map.id, &reader->map.idText);
    if (reader->map.group != 0) {
        row->group = column_text(reader, tuple, desc, reader->map.group, &reader->map.groupText);
        if (row->group == NULL)
            null_value(reader, "group");
    }
    row->weight = reader->map.weight != 0 ? read_weight(reader, tuple, desc) : 1;
    rows->n++;
}

/* Prepares the query and rejects everything but a single read-only SELECT. */
static SPIPlanPtr
prepare_query(const char *query)
{
    SPIPlanPtr plan = SPI_prepare(query, 0, NULL);
    List *sources;
    CachedPlanSource *source;
    Query *parsed;

    if (plan == NULL)
        elog(ERROR, "SPI_prepare failed: %s", SPI_result_code_string(SPI_result));
    sources = SPI_plan_get_plan_sources(plan);
    if (list_length(sources) != 1)
        ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("the query must be a single SELECT"),
                        sources == NIL ? errdetail("The query is empty.")
                                       : errdetail("The query has %d statements.", list_length(sources))));
    source = linitial(sources);
    if (list_length(source->query_list) == 1) {
        parsed = linitial_node(Query, source->query_list);
        if (parsed->commandType == CMD_SELECT && !parsed->hasModifyingCTE && parsed->rowMarks == NIL)
            return plan;
    } else
        parsed = NULL;
    if (parsed == NULL || parsed->commandType != CMD_UTILITY)
        ereport(ERROR, (errcode(ERRCODE_READ_ONLY_SQL_TRANSACTION), errmsg("the query must be read-only"),
                        errdetail("The query changes or locks rows.")));
    ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("the query must be a single SELECT"),
                    errdetail("The command is %s.", GetCommandTagName(source->commandTag))));
    return NULL;
}

/* Begins an empty batch in a context of its own; `first` rows came before it. */
static void
begin_batch(RowReader *reader, MemoryContext parent, const Ia3TrainRows *before, int64 first)
{
    reader->context = AllocSetContextCreate(parent, "ia3 rows", ALLOCSET_DEFAULT_SIZES);
    reader->rows = MemoryContextAllocZero(reader->context, sizeof(Ia3TrainRows));
    reader->rows->nFields = before->nFields;
    reader->rows->fields = before->fields;
    reader->rows->index = before->index;
    reader->rows->multiLabel = before->multiLabel;
    reader->rows->first = first;
    reader->capacity = IA3_SCAN_ROWS;
    reader->rows->rows = MemoryContextAlloc(reader->context, sizeof(Ia3TrainRow) * reader->capacity);
    reader->bytes = 0;
    reader->nChoices = 0;
}

/* Hands over the batch and begins the next. */
static void
pass_on(RowReader *reader)
{
    MemoryContext context = reader->context, parent = MemoryContextGetParent(context), old;
    const Ia3TrainRows fields = *reader->rows;
    const Ia3TrainRows *rows = reader->rows;

    begin_batch(reader, parent, &fields, fields.first + fields.n);
    old = MemoryContextSwitchTo(context);
    reader->take(rows, context, reader->arg);
    MemoryContextSwitchTo(old);
}

/* Reads all rows; runs inside the subtransaction. */
static void
read_all(void *arg)
{
    RowReader *reader = arg;
    SPIPlanPtr plan;
    Portal portal;
    MemoryContext scratch;

    (void) set_config_option("transaction_read_only", "on", PGC_USERSET, PGC_S_SESSION, GUC_ACTION_LOCAL,
                             true, 0, false);
    if (SPI_connect() != SPI_OK_CONNECT)
        elog(ERROR, "SPI_connect failed");
    plan = prepare_query(reader->query);
    portal = SPI_cursor_open(NULL, plan, NULL, NULL, true);
    map_columns(&reader->map, reader->rows, &reader->columns, portal->tupDesc);
    map_types(reader, portal->tupDesc);
    scratch = AllocSetContextCreate(CurrentMemoryContext, "ia3 row", ALLOCSET_DEFAULT_SIZES);
    for (;;) {
        SPI_cursor_fetch(portal, true, IA3_SCAN_ROWS);
        if (SPI_processed == 0)
            break;
        for (uint64 i = 0; i < SPI_processed; i++) {
            MemoryContext old = MemoryContextSwitchTo(scratch);

            read_row(reader, SPI_tuptable->vals[i], SPI_tuptable->tupdesc);
            MemoryContextSwitchTo(old);
            MemoryContextReset(scratch);
            if (reader->take != NULL &&
                (reader->bytes > MAX_SCAN_BYTES || reader->nChoices > MAX_SCAN_CHOICES))
                pass_on(reader);
        }
        SPI_freetuptable(SPI_tuptable);
        if (reader->take != NULL && reader->rows->n > 0)
            pass_on(reader);
    }
    if (reader->take != NULL)
        reader->take(NULL, NULL, reader->arg);
    SPI_cursor_close(portal);
    SPI_finish();
}

Ia3TrainRows *
Ia3ReadTrainRows(const char *query, Ia3Template **templates, int nTemplates, const Ia3RowColumns *columns)
{
    RowReader reader = {.query = query, .context = CurrentMemoryContext, .capacity = 64};

    if (columns)
        reader.columns = *columns;
    reader.rows = palloc0(sizeof(Ia3TrainRows));
    reader.rows->rows = palloc(sizeof(Ia3TrainRow) * reader.capacity);
    collect_fields(reader.rows, templates, nTemplates);
    Ia3RunAndRollBack(read_all, &reader);
    if (reader.rows->n == 0)
        ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("the query returns no rows"),
                        errhint("Training needs at least one labelled example.")));
    return reader.rows;
}

void
Ia3ScanTrainRows(const char *query, Ia3Template **templates, int nTemplates, bool asWritten,
                 Ia3LabelKind labels, Ia3TakeRows take, void *arg)
{
    RowReader reader = {
        .query = query, .columns.labels = labels, .asWritten = asWritten, .take = take, .arg = arg};
    Ia3TrainRows fields = {0};

    collect_fields(&fields, templates, nTemplates);
    begin_batch(&reader, CurrentMemoryContext, &fields, 0);
    Ia3RunAndRollBack(read_all, &reader);
    MemoryContextDelete(reader.context);
}

typedef struct RowField {
    const Ia3TrainRows *rows;
    const Ia3TrainRow *row;
} RowField;

static const char *
row_value(const char *field, void *arg)
{
    RowField *at = arg;
    int position = Ia3StringIndexFind(at->rows->index, field);

    if (position < 0)
        elog(ERROR, "field \"%s\" was not read", field);
    return at->row->values[position];
}

void
Ia3TrainRowRender(const Ia3TrainRows *rows, const Ia3TrainRow *row, const Ia3Template *template,
                  const Ia3PromptLists *lists, Ia3Input *input)
{
    RowField at = {rows, row};

    Ia3TemplateRender(template, row_value, &at, lists, input);
}

char *
Ia3ChoicesQuoted(const Ia3Strings *choices)
{
    StringInfoData out;
    int shown = Min(choices->n, 20);

    initStringInfo(&out);
    for (int i = 0; i < shown; i++)
        appendStringInfo(&out, "%s\"%s\"", i > 0 ? ", " : "", choices->items[i]);
    if (shown < choices->n)
        appendStringInfo(&out, " and %d more", choices->n - shown);
    return out.data;
}

void
Ia3RaiseTrainLabel(const Ia3TrainRows *rows, int row, const char *label, const Ia3Strings *choices)
{
    ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                    errmsg("label \"%s\" of row " INT64_FORMAT " is not among the choices", label,
                           rows->first + row + 1),
                    errdetail("The choices are %s.", Ia3ChoicesQuoted(choices))));
}

void
Ia3RaiseNoChoices(const Ia3Task *task)
{
    ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                    errmsg("ia3 task \"%s\" has no choices of its own", task->name),
                    errhint("Add a column \"choices\" of type text[] to the query.")));
}
