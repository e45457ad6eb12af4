/*
 * window.c
 *     ia3_predict_window: ia3_predict as a window function, which forms batches without any help from the planner.
 *
 *     SELECT id, ia3_predict_window('topic', body) OVER () FROM tickets
 *
 * A window function may look at the rows that follow. At a row without an answer, it predicts this row and the next
 * ones of the partition, 1, 2, 4, ... rows up to ia3.batch_rows, so a LIMIT remains cheap. The function has a name of
 * its own because PostgreSQL does not distinguish a window function from an ordinary one with the same arguments.
 * Frame and ORDER BY have no influence on the results.
 */
#include "postgres.h"

#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "windowapi.h"

#include "ask.h"
#include "classify.h"
#include "extension/guc.h"

PG_FUNCTION_INFO_V1(ia3_predict_window_text);
PG_FUNCTION_INFO_V1(ia3_predict_window_fields);
PG_FUNCTION_INFO_V1(ia3_predict_window_fields_text);
PG_FUNCTION_INFO_V1(ia3_predict_window_zero_shot);

/* A batch ends early when its arguments become longer than this. */
#define MAX_BATCH_BYTES (4 * 1024 * 1024)

/* The state of a partition, which lives as long as the partition. */
typedef struct WindowState {
    MemoryContext batch;
    Ia3ResultCache *cache;
    Ia3AskCounts counts;
    int64 asked; /* rows before this one have been sent to the engine */
    int size;    /* of the next batch */
} WindowState;

/* The function has the argument min_probability, and then NULL choices are those of the task. */
static bool
has_threshold(FunctionCallInfo fcinfo)
{
    return PG_NARGS() > IA3_MAX_TASK_ARGS;
}

/*
 * Gets the arguments of the row `offset` rows ahead. Returns false if one is NULL that must not be, or if there is no
 * such row, in which case *isOut is set.
 */
static bool
get_arguments(FunctionCallInfo fcinfo, int offset, Ia3Call *call, bool *isOut)
{
    WindowObject window = PG_WINDOW_OBJECT();
    int n = Min(PG_NARGS(), IA3_MAX_TASK_ARGS);
    bool isNull = false;

    *isOut = false;
    for (call->nArgs = 0; call->nArgs < n; call->nArgs++) {
        Datum value =
            WinGetFuncArgInPartition(window, call->nArgs, offset, WINDOW_SEEK_CURRENT, false, &isNull, isOut);

        if (*isOut)
            return false;
        if (isNull)
            return has_threshold(fcinfo) && call->nArgs == 2;
        /* reading the next row overwrites this one */
        call->args[call->nArgs] = datumCopy(value, false, -1);
    }
    return true;
}

static WindowState *
get_state(WindowObject window)
{
    WindowState *state = WinGetPartitionLocalMemory(window, sizeof(WindowState));

    if (state->cache == NULL) {
        /* both are freed with the partition's memory */
        MemoryContext old = MemoryContextSwitchTo(GetMemoryChunkContext(state));

        state->cache = Ia3CacheCreate(GetActiveSnapshot(), 2 * Ia3BatchRows);
        state->batch = AllocSetContextCreate(CurrentMemoryContext, "ia3 batch", ALLOCSET_DEFAULT_SIZES);
        state->size = 1;
        MemoryContextSwitchTo(old);
    }
    return state;
}

/* Predicts the current row and those that follow. */
static void
look_ahead(FunctionCallInfo fcinfo, WindowState *state, Ia3CallForm form)
{
    MemoryContext old = MemoryContextSwitchTo(state->batch);
    Ia3Asking *asking = Ia3AskingCreate(state->cache, &state->counts);
    uint64 batch = state->counts.batches + 1;
    Size bytes = 0;

    if (!Ia3CacheBeginBatch(state->cache, batch, batch)) {
        MemoryContextSwitchTo(old);
        return;
    }
    for (int i = 0; i < state->size && bytes < MAX_BATCH_BYTES; i++) {
        Ia3Call call = {.form = form};
        bool isOut;

        if (get_arguments(fcinfo, i, &call, &isOut))
            bytes += Ia3AskingAdd(asking, &call);
        if (isOut)
            break;
        state->asked++;
    }
    Ia3AskingSend(asking, false);
    Ia3AskingCollect(asking);
    state->size = Min(2 * state->size, Ia3BatchRows);
    MemoryContextSwitchTo(old);
    MemoryContextReset(state->batch);
}

static Datum
predict(FunctionCallInfo fcinfo, Ia3CallForm form)
{
    WindowObject window = PG_WINDOW_OBJECT();
    WindowState *state = get_state(window);
    Ia3Call call = {.form = form};
    int64 position = WinGetCurrentPosition(window);
    double minProbability = IA3_TASK_MIN_PROBABILITY;
    const char *best;
    bool isOut, isNull;

    if (Ia3EnableBatching && position >= state->asked) {
        state->asked = position;
        look_ahead(fcinfo, state, form);
    }
    WinSetMarkPosition(window, position); /* earlier rows will not be needed again */
    if (!get_arguments(fcinfo, 0, &call, &isOut))
        PG_RETURN_NULL();
    if (has_threshold(fcinfo)) {
        Datum value = WinGetFuncArgCurrent(window, IA3_MAX_TASK_ARGS, &isNull);

        if (!isNull) {
            minProbability = DatumGetFloat8(value);
            Ia3CheckMinProbability(minProbability);
        }
    }
    best = Ia3RankingBest(Ia3Answer(&call, IA3_ANSWER_ONE), minProbability);
    if (best == NULL)
        PG_RETURN_NULL();
    PG_RETURN_TEXT_P(cstring_to_text(best));
}

Datum
ia3_predict_window_text(PG_FUNCTION_ARGS)
{
    return predict(fcinfo, IA3_CALL_TEXT);
}

Datum
ia3_predict_window_fields(PG_FUNCTION_ARGS)
{
    return predict(fcinfo, IA3_CALL_FIELDS);
}

Datum
ia3_predict_window_fields_text(PG_FUNCTION_ARGS)
{
    return predict(fcinfo, IA3_CALL_FIELDS_TEXT);
}

Datum
ia3_predict_window_zero_shot(PG_FUNCTION_ARGS)
{
    return predict(fcinfo, IA3_CALL_ZERO_SHOT);
}
