/*
 * watch_queue.c
 *     The queue of deferred watches: the statements on ia3.watch_entry and ia3.watch_failure.
 *
 * Whoever changes a watched row only inserts an entry, in the same transaction, and never waits for anybody here: a row may have
 * many entries, and the worker treats them as one. The worker deletes entries in the transaction that stores the label. If it
 * dies before that, or the transaction fails, the entry is still there.
 *
 * Statements look for entries with "=" on the first two columns of the primary key and in the order of the third. Those that the worker
 * deletes are dead at the beginning of this order until the table is vacuumed, which is why it goes on where it was
 * (Ia3QueueClaim), and returns to the beginning only from time to time.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/syscache.h"

#include "label_target.h"
#include "label_watch.h"
#include "watch_queue.h"
#include "watch_shared.h"
#include "extension/guc.h"
#include "extension/tasks/catalog.h"

PG_FUNCTION_INFO_V1(ia3_watch_retry);

#define EQUALS   " OPERATOR(pg_catalog.=) "
#define OF_WATCH "relation" EQUALS "$1 AND label_column" EQUALS "$2"

/* Runs a statement as the owner of the tables. */
static uint64
run(Ia3Query *query, Datum *values, const char *nulls)
{
    const Ia3Identity caller = Ia3BecomeTableOwner();
    const uint64 n = Ia3QueryRun(query, values, nulls, false);

    Ia3BecomeAgain(caller);
    return n;
}

Datum
Ia3QueueTexts(Datum *values, const bool *nulls, int n)
{
    int dims[1] = {n}, lower[1] = {1};

    return PointerGetDatum(
        construct_md_array(values, (bool *) nulls, 1, dims, lower, TEXTOID, -1, false, TYPALIGN_INT));
}

/* --- for statements --- */

/* Counts the entries of the watch. */
static int64
count(Oid relation, const char *label)
{
    static Ia3Query query = {
        "SELECT pg_catalog.count(*) FROM ia3.watch_entry WHERE " OF_WATCH, 2, {OIDOID, TEXTOID}};
    Datum values[] = {ObjectIdGetDatum(relation), CStringGetTextDatum(label)};
    bool isNull;

    (void) run(&query, values, NULL);
    return DatumGetInt64(Ia3QueryColumn(1, &isNull));
}

static void
check_limit(Oid relation, const char *label, int64 n)
{
    int64 total;
    const bool known = Ia3WatchCountAdd(relation, label, n, &total);

    /* the number that is known includes what was rolled back since the last count */
    if (!known || (Ia3WatchQueueLimit > 0 && total > Ia3WatchQueueLimit)) {
        total = count(relation, label) + n;
        Ia3WatchCountSet(relation, label, total);
    }
    if (Ia3WatchQueueLimit > 0 && total > Ia3WatchQueueLimit) {
        (void) Ia3WatchCountAdd(relation, label, -n, &total);
        ereport(
            ERROR,
            (errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
             errmsg("too many rows of table \"%s\" wait to be labelled", get_rel_name(relation)),
             errdetail("Column \"%s\" is watched; about " INT64_FORMAT
                       " rows wait already, and ia3.watch_queue_limit is %d.",
                       label, Max(total, 0), Ia3WatchQueueLimit),
             errhint(
                 "Try again later. If the number does not become smaller, see ia3.watch_queue. To label many "
                 "rows at once, use ia3_label.")));
    }
}

void
Ia3QueueAdd(Oid relation, const char *label, int n, Datum *keys, Datum *labels, const bool *noLabel)
{
    static Ia3Query query = {
        "INSERT INTO ia3.watch_entry (relation, label_column, key, label)"
        " SELECT $1, $2, key::pg_catalog.text[], label"
        " FROM ROWS FROM (pg_catalog.unnest($3), pg_catalog.unnest($4)) AS r(key, label)",
        4,
        {OIDOID, TEXTOID, TEXTARRAYOID, TEXTARRAYOID}};
    Datum values[] = {ObjectIdGetDatum(relation), CStringGetTextDatum(label), Ia3QueueTexts(keys, NULL, n),
                      Ia3QueueTexts(labels, noLabel, n)};

    check_limit(relation, label, n);
    (void) run(&query, values, NULL);
    Ia3WatchWakeAtCommit(false);
}

void
Ia3QueueMove(Oid relation, const char *label, int n, Datum *old, Datum *new, Datum *labels,
             const bool *noLabel)
{
    static Ia3Query query = {"INSERT INTO ia3.watch_entry (relation, label_column, key, label)"
                             " SELECT $1, $2, new::pg_catalog.text[], label"
                             " FROM ROWS FROM (pg_catalog.unnest($3), pg_catalog.unnest($4), "
                             "pg_catalog.unnest($5)) AS r(old, new, label)"
                             " WHERE old::pg_catalog.text[] OPERATOR(pg_catalog.=) ANY (SELECT key FROM "
                             "ia3.watch_entry WHERE " OF_WATCH ")",
                             5,
                             {OIDOID, TEXTOID, TEXTARRAYOID, TEXTARRAYOID, TEXTARRAYOID}};
    Datum values[] = {ObjectIdGetDatum(relation), CStringGetTextDatum(label), Ia3QueueTexts(old, NULL, n),
                      Ia3QueueTexts(new, NULL, n), Ia3QueueTexts(labels, noLabel, n)};

    if (run(&query, values, NULL) > 0)
        Ia3WatchWakeAtCommit(false);
}

/* --- for the worker --- */

int
Ia3QueueList(Ia3QueuedWatch **watches)
{
    static Ia3Query query = {
        "SELECT e.relation, e.label_column, e.waiting,"
        " CASE WHEN f.due OPERATOR(pg_catalog.>) $1 THEN 0 ELSE e.ready END,"
        " GREATEST(f.due, e.next), COALESCE(f.attempts, 0)"
        " FROM (SELECT relation, label_column, pg_catalog.count(*) AS waiting,"
        "  pg_catalog.count(*) FILTER (WHERE due OPERATOR(pg_catalog.<=) $1) AS ready,"
        "  pg_catalog.min(due) AS next FROM ia3.watch_entry GROUP BY relation, label_column) e"
        " LEFT JOIN ia3.watch_failure f ON f.relation OPERATOR(pg_catalog.=) e.relation"
        "  AND f.label_column OPERATOR(pg_catalog.=) e.label_column ORDER BY e.relation, e.label_column",
        1,
        {TIMESTAMPTZOID}};
    MemoryContext context = CurrentMemoryContext, old;
    Datum values[] = {TimestampTzGetDatum(GetCurrentTimestamp())};
    int n;

    Ia3SpiConnect();
    n = (int) run(&query, values, NULL);
    old = MemoryContextSwitchTo(context);
    *watches = palloc(sizeof(Ia3QueuedWatch) * (n + 1));
    for (int i = 0; i < n; i++) {
        HeapTuple tuple = SPI_tuptable->vals[i];
        TupleDesc desc = SPI_tuptable->tupdesc;
        bool isNull;

        (*watches)[i].relation = DatumGetObjectId(SPI_getbinval(tuple, desc, 1, &isNull));
        (*watches)[i].label = TextDatumGetCString(SPI_getbinval(tuple, desc, 2, &isNull));
        (*watches)[i].waiting = DatumGetInt64(SPI_getbinval(tuple, desc, 3, &isNull));
        (*watches)[i].due = DatumGetInt64(SPI_getbinval(tuple, desc, 4, &isNull));
        (*watches)[i].next = DatumGetTimestampTz(SPI_getbinval(tuple, desc, 5, &isNull));
        (*watches)[i].failures = DatumGetInt32(SPI_getbinval(tuple, desc, 6, &isNull));
    }
    MemoryContextSwitchTo(old);
    Ia3SpiFinish();
    return n;
}

/* The elements of a text[] as strings. */
static char **
strings_of(Datum array, int *n)
{
    Datum *elements;
    char **strings;

    deconstruct_array(DatumGetArrayTypeP(array), TEXTOID, -1, false, TYPALIGN_INT, &elements, NULL, n);
    strings = palloc(sizeof(char *) * Max(*n, 1));
    for (int i = 0; i < *n; i++)
        strings[i] = TextDatumGetCString(elements[i]);
    return strings;
}

static void
read_row(Ia3QueuedRow *row, HeapTuple tuple, TupleDesc desc, int64 *last)
{
    bool isNull;
    Datum value = SPI_getbinval(tuple, desc, 1, &isNull);

    row->key = strings_of(value, &row->nKey);
    row->entries = PointerGetDatum(DatumGetArrayTypePCopy(SPI_getbinval(tuple, desc, 2, &isNull)));
    row->nEntries = ArrayGetNItems(1, ARR_DIMS((ArrayType *) DatumGetPointer(row->entries)));
    value = SPI_getbinval(tuple, desc, 3, &isNull);
    row->label = isNull ? NULL : TextDatumGetCString(value);
    *last = Max(*last, DatumGetInt64(SPI_getbinval(tuple, desc, 4, &isNull)));
    row->keyText = PointerGetDatum(DatumGetTextPCopy(SPI_getbinval(tuple, desc, 5, &isNull)));
}

int
Ia3QueueClaim(Oid relation, const char *label, int64 after, int limit, Ia3QueuedRow **rows, int64 *last)
{
    static Ia3Query query = {
        "SELECT key, pg_catalog.array_agg(entry), (pg_catalog.array_agg(label ORDER BY entry DESC))[1],"
        " pg_catalog.max(entry), key::pg_catalog.text FROM (SELECT key, entry, label FROM ia3.watch_entry "
        "WHERE " OF_WATCH "  AND entry OPERATOR(pg_catalog.>) $3 AND due OPERATOR(pg_catalog.<=) $4"
        "  ORDER BY relation, label_column, entry LIMIT $5) e GROUP BY key ORDER BY 4",
        5,
        {OIDOID, TEXTOID, INT8OID, TIMESTAMPTZOID, INT4OID}};
    Datum values[] = {ObjectIdGetDatum(relation), CStringGetTextDatum(label), Int64GetDatum(after),
                      TimestampTzGetDatum(GetCurrentTimestamp()), Int32GetDatum(limit)};
    MemoryContext context = CurrentMemoryContext, old;
    int n;

    Ia3SpiConnect();
    n = (int) run(&query, values, NULL);
    old = MemoryContextSwitchTo(context);
    *rows = palloc(sizeof(Ia3QueuedRow) * (n + 1));
    for (int i = 0; i < n; i++)
        read_row(&(*rows)[i], SPI_tuptable->vals[i], SPI_tuptable->tupdesc, last);
    MemoryContextSwitchTo(old);
    Ia3SpiFinish();
    return n;
}

#define OF_ENTRIES OF_WATCH " AND entry" EQUALS "ANY ($3)"

bool
Ia3QueueLock(Oid relation, const char *label, Datum entries, int n)
{
    static Ia3Query query = {"SELECT FROM ia3.watch_entry WHERE " OF_ENTRIES " FOR UPDATE SKIP LOCKED",
                             3,
                             {OIDOID, TEXTOID, INT8ARRAYOID}};
    Datum values[] = {ObjectIdGetDatum(relation), CStringGetTextDatum(label), entries};

    return run(&query, values, NULL) == (uint64) n;
}

void
Ia3QueueDelete(Oid relation, const char *label, Datum entries)
{
    static Ia3Query query = {
        "DELETE FROM ia3.watch_entry WHERE " OF_ENTRIES, 3, {OIDOID, TEXTOID, INT8ARRAYOID}};
    Datum values[] = {ObjectIdGetDatum(relation), CStringGetTextDatum(label), entries};

    (void) run(&query, values, NULL);
}

void
Ia3QueueForget(Oid relation, const char *label, int n, Datum *keys)
{
    static Ia3Query query = {"DELETE FROM ia3.watch_entry WHERE " OF_WATCH " AND due" EQUALS
                             "'infinity' AND key::pg_catalog.text" EQUALS "ANY ($3)",
                             3,
                             {OIDOID, TEXTOID, TEXTARRAYOID}};
    Datum values[] = {ObjectIdGetDatum(relation), CStringGetTextDatum(label), Ia3QueueTexts(keys, NULL, n)};

    (void) run(&query, values, NULL);
}

void
Ia3QueueDelay(Oid relation, const char *label, Datum entries)
{
    static Ia3Query query = {
        "UPDATE ia3.watch_entry SET due = $4 OPERATOR(pg_catalog.+) LEAST(interval '1 minute', "
        "GREATEST(interval "
        "'1 second', ($4 OPERATOR(pg_catalog.-) queued_at) OPERATOR(pg_catalog./) 4)) WHERE " OF_ENTRIES,
        4,
        {OIDOID, TEXTOID, INT8ARRAYOID, TIMESTAMPTZOID}};
    Datum values[] = {ObjectIdGetDatum(relation), CStringGetTextDatum(label), entries,
                      TimestampTzGetDatum(GetCurrentTimestamp())};

    (void) run(&query, values, NULL);
}

bool
Ia3QueueFail(Oid relation, const char *label, Datum entries, const char *error)
{
    static Ia3Query query = {
        "UPDATE ia3.watch_entry SET attempts = attempts OPERATOR(pg_catalog.+) 1, error = $4,"
        " due = CASE WHEN attempts OPERATOR(pg_catalog.+) 1 OPERATOR(pg_catalog.>=) $5 THEN 'infinity'"
        " ELSE $6 OPERATOR(pg_catalog.+) (interval '1 second' OPERATOR(pg_catalog.*)"
        "  pg_catalog.power(2, LEAST(attempts, 8))) END WHERE " OF_ENTRIES
        " RETURNING due OPERATOR(pg_catalog.=) 'infinity'",
        6,
        {OIDOID, TEXTOID, INT8ARRAYOID, TEXTOID, INT4OID, TIMESTAMPTZOID}};
    Datum values[] = {ObjectIdGetDatum(relation),
                      CStringGetTextDatum(label),
                      entries,
                      CStringGetTextDatum(error),
                      Int32GetDatum(Ia3WatchAttempts),
                      TimestampTzGetDatum(GetCurrentTimestamp())};
    bool isNull;

    return run(&query, values, NULL) > 0 && DatumGetBool(Ia3QueryColumn(1, &isNull));
}

int64
Ia3QueueClear(Oid relation, const char *label)
{
    static Ia3Query entries = {"DELETE FROM ia3.watch_entry WHERE " OF_WATCH, 2, {OIDOID, TEXTOID}};
    static Ia3Query failure = {"DELETE FROM ia3.watch_failure WHERE " OF_WATCH, 2, {OIDOID, TEXTOID}};
    Datum values[] = {ObjectIdGetDatum(relation), CStringGetTextDatum(label)};
    const int64 n = (int64) run(&entries, values, NULL);

    (void) run(&failure, values, NULL);
    return n;
}

void
Ia3QueueSetFailure(Oid relation, const char *label, int attempts, TimestampTz due, const char *error)
{
    static Ia3Query remove = {"DELETE FROM ia3.watch_failure WHERE " OF_WATCH, 2, {OIDOID, TEXTOID}};
    static Ia3Query set = {
        "INSERT INTO ia3.watch_failure AS f (relation, label_column, attempts, due, error) VALUES ($1, $2, "
        "$3, $4, $5)"
        " ON CONFLICT ON CONSTRAINT watch_failure_pkey"
        " DO UPDATE SET attempts = excluded.attempts, due = excluded.due, error = excluded.error",
        5,
        {OIDOID, TEXTOID, INT4OID, TIMESTAMPTZOID, TEXTOID}};
    Datum values[] = {ObjectIdGetDatum(relation), CStringGetTextDatum(label), Int32GetDatum(attempts),
                      TimestampTzGetDatum(due), error ? CStringGetTextDatum(error) : (Datum) 0};

    (void) run(error ? &set : &remove, values, NULL);
}

/* --- ia3_watch_retry --- */

/* The label column may be NULL: those of all watches of the table. */
Datum
ia3_watch_retry(PG_FUNCTION_ARGS)
{
    static Ia3Query entries = {
        "UPDATE ia3.watch_entry SET due = '-infinity', attempts = 0 WHERE relation" EQUALS
        "$1 AND COALESCE(label_column" EQUALS "$2, true) AND attempts OPERATOR(pg_catalog.>) 0",
        2,
        {OIDOID, TEXTOID}};
    static Ia3Query failure = {"UPDATE ia3.watch_failure SET due = '-infinity' WHERE relation" EQUALS
                               "$1 AND COALESCE(label_column" EQUALS "$2, true)",
                               2,
                               {OIDOID, TEXTOID}};
    const char *label = Ia3LabelText(fcinfo, 1, NULL);
    const char nulls[] = {' ', label ? ' ' : 'n', '\0'};
    Datum values[] = {PG_ARGISNULL(0) ? (Datum) 0 : PG_GETARG_DATUM(0),
                      label ? CStringGetTextDatum(label) : (Datum) 0};
    uint64 n;

    Ia3WatchCheckOwner(fcinfo);
    Ia3SpiConnect();
    n = run(&entries, values, nulls);
    (void) run(&failure, values, nulls);
    Ia3WatchWakeAtCommit(false);
    Ia3SpiFinish();
    PG_RETURN_INT64((int64) n);
}
