/*
 * stat.c
 *     ia3_stat_engine: what the supervisor knows about the engines, and what they count.
 *
 * A monitoring function must work when the thing it watches does not: the counters of an engine that is down or does
 * not answer are NULL, and so are those of an engine that is being replaced, which takes no new connections. Nothing
 * here waits for an engine that is starting.
 *
 * Columns are found by their names, so that only the declaration of the function lists them.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "client.h"
#include "client_ahead.h"
#include "connection.h"
#include "text.h"

/* How long a monitoring query waits for an engine that should answer at once. */
#define STATS_TIMEOUT_MS 2000

PG_FUNCTION_INFO_V1(ia3_stat_engine);

typedef struct StatRow {
    TupleDesc desc;
    Datum *values;
    bool *nulls;
} StatRow;

/* -1 if there is none. */
static int
find_column(const StatRow *row, const char *name)
{
    for (int i = 0; i < row->desc->natts; i++)
        if (strcmp(NameStr(TupleDescAttr(row->desc, i)->attname), name) == 0)
            return i;
    return -1;
}

static void
put_datum(StatRow *row, const char *name, Oid type, Datum value)
{
    int column = find_column(row, name);

    if (column < 0 || TupleDescAttr(row->desc, column)->atttypid != type)
        elog(ERROR, "ia3_stat_engine is declared without a column \"%s\" of type %u", name, type);
    row->values[column] = value;
    row->nulls[column] = false;
}

static void
put_text(StatRow *row, const char *name, const char *value)
{
    put_datum(row, name, TEXTOID, CStringGetTextDatum(value));
}

static void
put_int64(StatRow *row, const char *name, int64 value)
{
    put_datum(row, name, INT8OID, Int64GetDatum(value));
}

static void
put_status(StatRow *row, const Ia3EngineStatus *status, const Ia3EngineLoad *load)
{
    put_text(row, "backbone", status->spec.name);
    if (status->spec.path[0] != '\0') /* of an entry that cannot be read */
        put_text(row, "path", Ia3EngineText(status->spec.path));
    if (status->spec.device[0] != '\0')
        put_text(row, "device", status->spec.device);
    if (status->spec.dtype[0] != '\0')
        put_text(row, "dtype", status->spec.dtype);
    put_text(row, "state", Ia3EngineStateName(status->state));
    if (status->state == IA3_ENGINE_LOADING || status->state == IA3_ENGINE_READY)
        put_datum(row, "percent", INT4OID, Int32GetDatum(status->percent));
    if (status->pid != 0)
        put_datum(row, "pid", INT4OID, Int32GetDatum(status->pid));
    put_datum(row, "since", TIMESTAMPTZOID, TimestampTzGetDatum(status->since));
    put_int64(row, "restarts", status->restarts);
    if (status->message[0] != '\0')
        put_text(row, "message", Ia3EngineText(status->message));
    put_int64(row, "outstanding", Ia3OutstandingBytes(load));
}

/* Device and dtype become those in use: the configured ones may be "auto". */
static void
put_info(StatRow *row, const Ia3EngineInfo *info)
{
    bytea *digest = palloc(VARHDRSZ + IA3_DIGEST_LEN);

    SET_VARSIZE(digest, VARHDRSZ + IA3_DIGEST_LEN);
    memcpy(VARDATA(digest), info->digest, IA3_DIGEST_LEN);
    put_text(row, "device", info->device);
    put_text(row, "dtype", info->dtype);
    put_text(row, "device_description", Ia3EngineText(info->deviceDescription));
    put_text(row, "model_type", info->modelType);
    put_int64(row, "parameters", (int64) info->parameters);
    put_int64(row, "bytes", (int64) info->bytes);
    put_datum(row, "backbone_digest", BYTEAOID, PointerGetDatum(digest));
}

/* Every counter whose name is that of a column, as the type of the column says, and two means. */
static void
put_counters(StatRow *row, const double *stats)
{
    static const char *const names[IA3_N_STATS] = IA3_STAT_NAMES;
    double batches = stats[IA3_STAT_BATCHES];

    for (int i = 0; i < IA3_N_STATS; i++) {
        int column = find_column(row, names[i]);

        if (column < 0)
            continue;
        if (TupleDescAttr(row->desc, column)->atttypid == INT8OID)
            put_int64(row, names[i], (int64) stats[i]);
        else
            put_datum(row, names[i], FLOAT8OID, Float8GetDatum(stats[i]));
    }
    if (batches == 0)
        return;
    put_datum(row, "mean_rows_per_batch", FLOAT8OID, Float8GetDatum(stats[IA3_STAT_ROWS] / batches));
    put_datum(row, "distinct_tasks_per_batch", FLOAT8OID,
              Float8GetDatum(stats[IA3_STAT_DISTINCT_TASKS] / batches));
}

/* Asks for the counters. */
static Ia3IoResult
ask_stats(Ia3Connection *conn, double *values, Ia3Time deadline)
{
    Ia3SmallRequest request;
    ia3_reader reader;
    Ia3IoResult result;
    uint32 n;

    result = Ia3Exchange(conn, IA3_STATS, Ia3SmallRequestBegin(&request), IA3_STATS_OK, &reader, deadline);
    if (result != IA3_IO_OK)
        return result;
    n = ia3_get_count(&reader, 12);
    for (uint32 i = 0; i < IA3_N_STATS; i++) {
        size_t len;

        if (i < n)
            ia3_get_str(&reader, &len);
        values[i] = i < n ? ia3_get_f64(&reader) : 0;
    }
    return n < IA3_N_STATS || reader.bad ? IA3_IO_GARBLED : IA3_IO_OK;
}

/*
 * The counters, values[IA3_N_STATS], of the engine with that entry, and what it is. False if it does not answer in
 * time; raises nothing but interrupts.
 */
static bool
get_stats(const Ia3EngineStatus *status, double *values, Ia3EngineInfo *info)
{
    Ia3Time deadline = Ia3Now() + STATS_TIMEOUT_MS;
    Ia3Connection *conn = Ia3KeptConnection(status->generation);
    bool kept = conn != NULL;
    bool answered;

    if (!kept)
        conn = Ia3OpenSeparate(status, deadline);
    if (conn == NULL)
        return false;
    answered = ask_stats(conn, values, deadline) == IA3_IO_OK;
    *info = conn->info;
    if (!kept || !answered)
        Ia3CloseConnection(conn);
    return answered;
}

/*
 * One row per engine: of each backbone the current ones, one per device, successors that load, and predecessors that
 * finish their requests. Counters (of current engines) since the engine started; bytes in bytes, *_seconds in seconds,
 * waits are sums over requests and training steps.
 */
Datum
ia3_stat_engine(PG_FUNCTION_ARGS)
{
    ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
    Ia3EngineStatus *statuses;
    Ia3EngineLoad loads[IA3_MAX_ENGINES];
    StatRow row;
    int n;

    Ia3RequirePreload();
    Ia3InitMaterializedSRF(fcinfo);
    row.desc = rsinfo->setDesc;
    row.values = palloc0(sizeof(Datum) * row.desc->natts);
    row.nulls = palloc(sizeof(bool) * row.desc->natts);

    statuses = palloc(sizeof(Ia3EngineStatus) * IA3_MAX_ENGINES);
    n = Ia3GetEngineStatuses(statuses, loads);
    for (int i = 0; i < n; i++) {
        double stats[IA3_N_STATS];
        Ia3EngineInfo info;

        memset(row.nulls, true, sizeof(bool) * row.desc->natts);
        put_status(&row, &statuses[i], &loads[i]);
        if (statuses[i].current && statuses[i].state == IA3_ENGINE_READY &&
            get_stats(&statuses[i], stats, &info)) {
            put_info(&row, &info);
            put_counters(&row, stats);
        }
        tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, row.values, row.nulls);
    }
    return (Datum) 0;
}
