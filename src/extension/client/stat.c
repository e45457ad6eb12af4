/*
 * stat.c
 *     ia3_stat_engine: what the supervisor knows about the engines, and what they count.
 *
 * A monitoring function must work when the thing it watches does not: an engine that is down or does not
 * answer has NULLs for its counters, and so has one that is being replaced, which takes no new connections.
 * Nothing waits for one that is starting.
 */
#include "postgres.h"

#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "extension/supervisor/shmem.h"
#include "string_list.h"

PG_FUNCTION_INFO_V1(ia3_stat_engine);

/* Columns of ia3_stat_engine, in the order of its declaration. */
enum {
    COL_BACKBONE,
    COL_PATH,
    COL_DEVICE,
    COL_DTYPE,
    COL_STATE,
    COL_PERCENT,
    COL_PID,
    COL_SINCE,
    COL_RESTARTS,
    COL_MESSAGE,
    COL_DEVICE_DESCRIPTION,
    COL_MODEL_TYPE,
    COL_PARAMETERS,
    COL_BYTES,
    COL_BACKBONE_DIGEST,
    COL_QUEUE_ROWS,
    COL_BATCHES,
    COL_ROWS,
    COL_INPUT_TOKENS,
    COL_DECODER_TOKENS,
    COL_PADDING_TOKENS,
    COL_MEAN_ROWS_PER_BATCH,
    COL_DISTINCT_TASKS_PER_BATCH,
    COL_MAX_BATCH_ROWS,
    COL_DEDUP_ROWS,
    COL_CACHE_HITS,
    COL_CACHE_MISSES,
    COL_CACHED_ADAPTERS,
    COL_CACHED_BYTES,
    COL_TRAIN_JOBS,
    COL_TRAIN_STEPS,
    COL_SCORE_SECONDS,
    COL_TRAIN_SECONDS,
    COL_SCORE_WAIT_SECONDS,
    COL_TRAIN_WAIT_SECONDS,
    COL_CONNECTIONS,
    COL_OUTSTANDING,
    N_COLUMNS
};

/* Counters that are shown as they come, and whether as a whole number. */
static const struct {
    int column;
    int stat;
    bool whole;
} plainStats[] = {
    {COL_QUEUE_ROWS, IA3_STAT_QUEUE_ROWS, true},
    {COL_BATCHES, IA3_STAT_BATCHES, true},
    {COL_ROWS, IA3_STAT_ROWS, true},
    {COL_INPUT_TOKENS, IA3_STAT_INPUT_TOKENS, true},
    {COL_DECODER_TOKENS, IA3_STAT_DECODER_TOKENS, true},
    {COL_PADDING_TOKENS, IA3_STAT_PADDING_TOKENS, true},
    {COL_MAX_BATCH_ROWS, IA3_STAT_MAX_BATCH_ROWS, true},
    {COL_DEDUP_ROWS, IA3_STAT_DEDUP_ROWS, true},
    {COL_CACHE_HITS, IA3_STAT_CACHE_HITS, true},
    {COL_CACHE_MISSES, IA3_STAT_CACHE_MISSES, true},
    {COL_CACHED_ADAPTERS, IA3_STAT_CACHED_ADAPTERS, true},
    {COL_CACHED_BYTES, IA3_STAT_CACHED_BYTES, true},
    {COL_TRAIN_JOBS, IA3_STAT_TRAIN_JOBS, true},
    {COL_TRAIN_STEPS, IA3_STAT_TRAIN_STEPS, true},
    {COL_SCORE_SECONDS, IA3_STAT_SCORE_SECONDS, false},
    {COL_TRAIN_SECONDS, IA3_STAT_TRAIN_SECONDS, false},
    {COL_SCORE_WAIT_SECONDS, IA3_STAT_SCORE_WAIT_SECONDS, false},
    {COL_TRAIN_WAIT_SECONDS, IA3_STAT_TRAIN_WAIT_SECONDS, false},
    {COL_CONNECTIONS, IA3_STAT_CONNECTIONS, true},
};

static void
put_datum(Datum *values, bool *nulls, int column, Datum value)
{
    values[column] = value;
    nulls[column] = false;
}

static void
put_status(const Ia3EngineStatus *status, const Ia3EngineLoad *load, Datum *values, bool *nulls)
{
    put_datum(values, nulls, COL_BACKBONE, CStringGetTextDatum(status->spec.name));
    put_datum(values, nulls, COL_PATH, CStringGetTextDatum(Ia3EngineText(status->spec.path)));
    put_datum(values, nulls, COL_DEVICE, CStringGetTextDatum(status->spec.device));
    put_datum(values, nulls, COL_DTYPE, CStringGetTextDatum(status->spec.dtype));
    put_datum(values, nulls, COL_STATE, CStringGetTextDatum(Ia3EngineStateName(status->state)));
    if (status->state == IA3_ENGINE_LOADING || status->state == IA3_ENGINE_READY)
        put_datum(values, nulls, COL_PERCENT, Int32GetDatum(status->percent));
    if (status->pid != 0)
        put_datum(values, nulls, COL_PID, Int32GetDatum(status->pid));
    put_datum(values, nulls, COL_SINCE, TimestampTzGetDatum(status->since));
    put_datum(values, nulls, COL_OUTSTANDING, Int64GetDatum(Ia3OutstandingBytes(load)));
    put_datum(values, nulls, COL_RESTARTS, Int64GetDatum(status->restarts));
    if (status->message[0] != '\0')
        put_datum(values, nulls, COL_MESSAGE, CStringGetTextDatum(Ia3EngineText(status->message)));
}

/* Device and dtype become those in use: the configured ones may be "auto". */
static void
put_info(const Ia3EngineInfo *info, Datum *values, bool *nulls)
{
    bytea *digest = palloc(VARHDRSZ + IA3_DIGEST_LEN);

    SET_VARSIZE(digest, VARHDRSZ + IA3_DIGEST_LEN);
    memcpy(VARDATA(digest), info->digest, IA3_DIGEST_LEN);
    put_datum(values, nulls, COL_DEVICE, CStringGetTextDatum(info->device));
    put_datum(values, nulls, COL_DTYPE, CStringGetTextDatum(info->dtype));
    put_datum(values, nulls, COL_DEVICE_DESCRIPTION,
              CStringGetTextDatum(Ia3EngineText(info->deviceDescription)));
    put_datum(values, nulls, COL_MODEL_TYPE, CStringGetTextDatum(info->modelType));
    put_datum(values, nulls, COL_PARAMETERS, Int64GetDatum((int64) info->parameters));
    put_datum(values, nulls, COL_BYTES, Int64GetDatum((int64) info->bytes));
    put_datum(values, nulls, COL_BACKBONE_DIGEST, PointerGetDatum(digest));
}

static void
put_counters(const double *stats, Datum *values, bool *nulls)
{
    for (int i = 0; i < lengthof(plainStats); i++) {
        double value = stats[plainStats[i].stat];

        put_datum(values, nulls, plainStats[i].column,
                  plainStats[i].whole ? Int64GetDatum((int64) value) : Float8GetDatum(value));
    }
    if (stats[IA3_STAT_BATCHES] > 0) {
        put_datum(values, nulls, COL_MEAN_ROWS_PER_BATCH,
                  Float8GetDatum(stats[IA3_STAT_ROWS] / stats[IA3_STAT_BATCHES]));
        put_datum(values, nulls, COL_DISTINCT_TASKS_PER_BATCH,
                  Float8GetDatum(stats[IA3_STAT_DISTINCT_TASKS] / stats[IA3_STAT_BATCHES]));
    }
}

/*
 * One row per engine: of each backbone the current ones, one per device, successors that load, and those that
 * were replaced and finish what they were asked. Counters (of current ones) since the engine started; bytes in
 * bytes, *_seconds in seconds, waits are sums over requests and training steps. `outstanding` is what requests
 * are spread by, in bytes (Ia3OutstandingBytes).
 *
 * CREATE FUNCTION ia3_stat_engine(
 *     OUT backbone text, OUT path text, OUT device text, OUT dtype text, OUT state text, OUT percent integer,
 *     OUT pid integer, OUT since timestamptz, OUT restarts bigint, OUT message text,
 *     OUT device_description text, OUT model_type text,
 *     OUT parameters bigint, OUT bytes bigint, OUT backbone_digest bytea, OUT queue_rows bigint,
 *     OUT batches bigint, OUT rows bigint, OUT input_tokens bigint, OUT decoder_tokens bigint,
 *     OUT padding_tokens bigint, OUT mean_rows_per_batch double precision,
 *     OUT distinct_tasks_per_batch double precision, OUT max_batch_rows bigint, OUT dedup_rows bigint,
 *     OUT cache_hits bigint, OUT cache_misses bigint, OUT cached_adapters bigint, OUT cached_bytes bigint,
 *     OUT train_jobs bigint, OUT train_steps bigint, OUT score_seconds double precision,
 *     OUT train_seconds double precision, OUT score_wait_seconds double precision,
 *     OUT train_wait_seconds double precision, OUT connections bigint, OUT outstanding bigint)
 *     RETURNS SETOF record
 *     LANGUAGE c VOLATILE STRICT PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'ia3_stat_engine';
 */
Datum
ia3_stat_engine(PG_FUNCTION_ARGS)
{
    ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
    Ia3EngineStatus *statuses;
    Ia3EngineLoad loads[IA3_MAX_ENGINES];
    int n;

    Ia3RequirePreload();
    Ia3InitMaterializedSRF(fcinfo);
    if (rsinfo->setDesc->natts != N_COLUMNS)
        elog(ERROR, "ia3_stat_engine is declared with %d columns instead of %d", rsinfo->setDesc->natts,
             N_COLUMNS);

    statuses = palloc(sizeof(Ia3EngineStatus) * IA3_MAX_ENGINES);
    n = Ia3GetEngineStatuses(statuses, loads);
    for (int i = 0; i < n; i++) {
        Datum values[N_COLUMNS] = {0};
        bool nulls[N_COLUMNS];
        double stats[IA3_N_STATS];
        Ia3EngineInfo info;

        memset(nulls, true, sizeof nulls);
        put_status(&statuses[i], &loads[i], values, nulls);
        if (statuses[i].current && statuses[i].state == IA3_ENGINE_READY &&
            Ia3GetEngineStats(&statuses[i], stats, &info)) {
            put_info(&info, values, nulls);
            put_counters(stats, values, nulls);
        }
        tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
    }
    return (Datum) 0;
}
