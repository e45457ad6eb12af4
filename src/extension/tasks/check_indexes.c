/*
 * check_indexes.c
 *     ia3_check_indexes: whether indexes with ia3_predict_version contain what the engine answers now.
 *
 * Another release, data type or kind of processor computes other last bits, and then a row whose choices are about equally likely may
 * get another answer than the one that an index has stored. Some rows of the table are predicted again, in batches, and compared with
 * the entries of the index for these rows. Expressions are evaluated as in REINDEX: as the table's owner, in a
 * security-restricted operation.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/itup.h"
#include "access/relscan.h"
#include "access/table.h"
#include "access/tableam.h"
#include "catalog/index.h"
#include "catalog/pg_am.h"
#include "catalog/pg_type.h"
#include "executor/tuptable.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/guc.h"
#include "utils/hsearch.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"

#include "catalog.h"
#include "extension/ia3_compat.h"

PG_FUNCTION_INFO_V1(ia3_check_indexes);

/* The valid B-trees that use one of the functions, in tables of roles whose privileges the caller has. */
static Ia3Query indexesQuery = {
    .sql = "SELECT DISTINCT i.indexrelid, i.indrelid FROM pg_catalog.pg_depend d"
           " JOIN pg_catalog.pg_index i ON i.indexrelid OPERATOR(pg_catalog.=) d.objid AND i.indisvalid"
           " JOIN pg_catalog.pg_class r ON r.oid OPERATOR(pg_catalog.=) i.indrelid AND r.relispopulated"
           " JOIN pg_catalog.pg_class c ON c.oid OPERATOR(pg_catalog.=) i.indexrelid"
           "  AND c.relkind OPERATOR(pg_catalog.=) 'i' AND pg_catalog.pg_has_role(c.relowner, 'USAGE')"
           " JOIN pg_catalog.pg_am m ON m.oid OPERATOR(pg_catalog.=) c.relam"
           "  AND m.amname OPERATOR(pg_catalog.=) 'btree'"
           " JOIN pg_catalog.pg_proc p ON p.oid OPERATOR(pg_catalog.=) d.refobjid"
           "  AND p.proname OPERATOR(pg_catalog.=) 'ia3_predict_version'"
           " WHERE d.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_class'::pg_catalog.regclass"
           "  AND d.refclassid OPERATOR(pg_catalog.=) 'pg_catalog.pg_proc'::pg_catalog.regclass"
           "  AND NOT pg_catalog.pg_is_other_temp_schema(c.relnamespace) ORDER BY 1",
};

typedef struct SampledRow {
    ItemPointerData tid; /* the key */
    uint64 at;           /* in the result of the query */
    bool seen;           /* has an entry in the index */
} SampledRow;

typedef struct Check {
    Relation table, index;
    int64 nRows; /* that are sampled; 0: all */
    SPITupleTable *rows;
    HTAB *byTid;
    int64 checked, differing;
} Check;

/* The query whose rows are: place, whether the row belongs to the index, and the values of its key columns. */
static char *
sample_query(const Check *check)
{
    char *table = quote_qualified_identifier(get_namespace_name(RelationGetNamespace(check->table)),
                                             RelationGetRelationName(check->table));
    Datum index = ObjectIdGetDatum(RelationGetRelid(check->index));
    StringInfoData sql;

    initStringInfo(&sql);
    appendStringInfoString(&sql, "SELECT ctid, ");
    if (RelationGetIndexPredicate(check->index) != NIL) {
        bool isNull;
        Datum predicate =
            SysCacheGetAttr(INDEXRELID, check->index->rd_indextuple, Anum_pg_index_indpred, &isNull);

        appendStringInfo(&sql, "(%s) IS TRUE",
                         TextDatumGetCString(DirectFunctionCall2(
                             pg_get_expr, predicate, ObjectIdGetDatum(RelationGetRelid(check->table)))));
    } else
        appendStringInfoString(&sql, "true");
    for (int i = 1; i <= IndexRelationGetNumberOfKeyAttributes(check->index); i++)
        appendStringInfo(&sql, ", %s",
                         TextDatumGetCString(DirectFunctionCall3(pg_get_indexdef_ext, index, Int32GetDatum(i),
                                                                 BoolGetDatum(false))));
    appendStringInfo(&sql, " FROM ONLY %s", table);
    if (check->nRows > 0)
        appendStringInfo(&sql,
                         " WHERE ctid OPERATOR(pg_catalog.=) ANY (ARRAY(SELECT s.ctid FROM ONLY %s s"
                         " ORDER BY pg_catalog.random() LIMIT " INT64_FORMAT "))",
                         table, check->nRows);
    return sql.data;
}

/* Predicts the sampled rows, and enters them into the table of rows. */
static void
read_sample(Check *check)
{
    HASHCTL control = {
        .keysize = sizeof(ItemPointerData), .entrysize = sizeof(SampledRow), .hcxt = CurrentMemoryContext};
    int rc = SPI_execute(sample_query(check), true, 0);
    bool isNull;

    if (rc != SPI_OK_SELECT)
        elog(ERROR, "SPI_execute failed: %s", SPI_result_code_string(rc));
    check->rows = SPI_tuptable;
    check->checked = (int64) SPI_processed;
    check->byTid = hash_create("ia3 sampled rows", 1024, &control, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
    for (int64 i = 0; i < check->checked; i++) {
        Datum tid = SPI_getbinval(check->rows->vals[i], check->rows->tupdesc, 1, &isNull);
        SampledRow *row = hash_search(check->byTid, DatumGetPointer(tid), HASH_ENTER, NULL);

        row->at = i;
        row->seen = false;
    }
}

static bool
belongs(const Check *check, const SampledRow *row)
{
    bool isNull;

    return DatumGetBool(SPI_getbinval(check->rows->vals[row->at], check->rows->tupdesc, 2, &isNull));
}

/* Whether an entry of the index has the key that the row has now. */
static bool
has_key(const Check *check, const SampledRow *row, IndexTuple entry)
{
    TupleDesc desc = RelationGetDescr(check->index);
    Datum values[INDEX_MAX_KEYS];
    bool nulls[INDEX_MAX_KEYS];

    index_deform_tuple(entry, desc, values, nulls);
    for (int i = 0; i < IndexRelationGetNumberOfKeyAttributes(check->index); i++) {
        Form_pg_attribute att = TupleDescAttr(desc, i);
        bool isNull;
        Datum value = SPI_getbinval(check->rows->vals[row->at], check->rows->tupdesc, i + 3, &isNull);

        if (SPI_gettypeid(check->rows->tupdesc, i + 3) != att->atttypid)
            continue; /* name, which an index stores in another way */
        if (isNull != nulls[i] || (!isNull && !datum_image_eq(value, values[i], att->attbyval, att->attlen)))
            return false;
    }
    return true;
}

/* Goes through the whole index, because the entry of a row can be anywhere. */
static void
read_index(Check *check)
{
    TupleTableSlot *slot = table_slot_create(check->table, NULL);
    IndexScanDesc scan = Ia3IndexBeginScan(check->table, check->index, GetActiveSnapshot());

    scan->xs_want_itup = true;
    index_rescan(scan, NULL, 0, NULL, 0);
    while (index_getnext_slot(scan, ForwardScanDirection, slot)) {
        SampledRow *row = hash_search(check->byTid, &slot->tts_tid, HASH_FIND, NULL);

        CHECK_FOR_INTERRUPTS();
        if (row == NULL)
            continue;
        row->seen = true;
        if (!belongs(check, row) || !has_key(check, row, scan->xs_itup))
            check->differing++;
    }
    index_endscan(scan);
    ExecDropSingleTupleTableSlot(slot);
}

static void
count_missing(Check *check)
{
    HASH_SEQ_STATUS status;
    SampledRow *row;

    hash_seq_init(&status, check->byTid);
    while ((row = hash_seq_search(&status)) != NULL)
        if (!row->seen && belongs(check, row))
            check->differing++;
}

static void
add_context(void *arg)
{
    errcontext("checking index \"%s\"", RelationGetRelationName((Relation) arg));
}

/* Fills in the counts. Runs inside SPI. */
static void
check_index(Check *check, Oid index, Oid table)
{
    ErrorContextCallback callback;
    Oid user;
    int context, level = NewGUCNestLevel();

    check->table = table_open(table, AccessShareLock);
    check->index = index_open(index, AccessShareLock);
    GetUserIdAndSecContext(&user, &context);
    SetUserIdAndSecContext(check->table->rd_rel->relowner, context | SECURITY_RESTRICTED_OPERATION);
    (void) set_config_option("search_path", "pg_catalog, pg_temp", PGC_USERSET, PGC_S_SESSION,
                             GUC_ACTION_SAVE, true, 0, false);
    callback =
        (ErrorContextCallback){.previous = error_context_stack, .callback = add_context, .arg = check->index};
    error_context_stack = &callback;
    read_sample(check);
    read_index(check);
    count_missing(check);
    error_context_stack = callback.previous;
    AtEOXact_GUC(false, level);
    SetUserIdAndSecContext(user, context);
    index_close(check->index, AccessShareLock);
    table_close(check->table, AccessShareLock);
    hash_destroy(check->byTid);
    SPI_freetuptable(check->rows);
}

Datum
ia3_check_indexes(PG_FUNCTION_ARGS)
{
    ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
    int64 nRows = PG_ARGISNULL(0) ? 0 : PG_GETARG_INT32(0);
    SPITupleTable *indexes;
    uint64 n;
    bool isNull;

    if (!PG_ARGISNULL(0) && nRows < 1)
        ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("sample_rows must be positive")));
    Ia3InitMaterializedSRF(fcinfo);
    Ia3SpiConnect();
    n = Ia3QueryRun(&indexesQuery, NULL, NULL, true);
    indexes = SPI_tuptable;
    for (uint64 i = 0; i < n; i++) {
        Check check = {.nRows = nRows};
        Datum values[3];
        bool nulls[3] = {false};

        values[0] = SPI_getbinval(indexes->vals[i], indexes->tupdesc, 1, &isNull);
        check_index(&check, DatumGetObjectId(values[0]),
                    DatumGetObjectId(SPI_getbinval(indexes->vals[i], indexes->tupdesc, 2, &isNull)));
        values[1] = Int64GetDatum(check.checked);
        values[2] = Int64GetDatum(check.differing);
        tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
    }
    Ia3SpiFinish();
    return (Datum) 0;
}
