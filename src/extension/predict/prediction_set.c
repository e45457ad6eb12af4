/*
 * prediction_set.c
 *     ia3_predict_set: as many choices, best first, as it takes to contain the right one as often as asked.
 *
 * The choices are ranked as for ia3_predict. How unlikely a choice of the set may be is the same for all rows of a statement
 * that name the same task, so it is computed once and remembered.
 */
#include "postgres.h"

#include <math.h>

#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

#include "classify.h"
#include "conformal.h"
#include "extension/tasks/held_out.h"
#include "result_cache.h"

PG_FUNCTION_INFO_V1(ia3_predict_set_text);
PG_FUNCTION_INFO_V1(ia3_predict_set_fields);
PG_FUNCTION_INFO_V1(ia3_predict_set_fields_text);

#define MAX_BOUNDS 64

/* How unlikely a choice of the set may be: its 1 - probability is at most `bound`. */
typedef struct Bound {
    char *task; /* as the call names it */
    double coverage, bound;
} Bound;

/* Those of the statement at hand, as long as the same role calls. */
static struct {
    MemoryContext context;
    Ia3SnapshotTag snapshot;
    Oid user;
    int n;
    Bound bounds[MAX_BOUNDS];
} known;

/* The scores 1 - probability of the labels of the rows that the version is calibrated with. */
static double *
label_scores(const Ia3Task *task, const Ia3HeldOut *heldOut)
{
    double *scores = palloc_extended(sizeof(double) * heldOut->n, MCXT_ALLOC_HUGE);
    double temperature = task->temperature > 0 ? task->temperature : 1;

    for (int i = 0; i < heldOut->n; i++) {
        const Ia3HeldOutRow *row = &heldOut->rows[i];
        double best = row->scores[0], sum = 0;

        for (int c = 1; c < row->n; c++)
            best = Max(best, row->scores[c]);
        for (int c = 0; c < row->n; c++)
            sum += exp((row->scores[c] - best) / temperature);
        scores[i] = 1 - exp((row->scores[row->label] - best) / temperature) / sum;
    }
    return scores;
}

static double
compute_bound(const char *name, double coverage)
{
    const Ia3Task *task = Ia3TaskLookup(name);
    const Ia3HeldOut *heldOut = Ia3HeldOutRead(task, IA3_HELD_OUT_TASK);

    if (heldOut == NULL)
        Ia3HeldOutRaiseMissing(task,
                               "A set of choices needs the scores of rows that the version has not seen.",
                               "Train the task with calibrate => true, or use ia3_calibrate.");
    return Ia3ConformalQuantile(label_scores(task, heldOut), heldOut->n, coverage);
}

static bool
is_known(const Ia3SnapshotTag *snapshot)
{
    return known.n > 0 && known.user == GetUserId() &&
           memcmp(snapshot, &known.snapshot, sizeof *snapshot) == 0;
}

static void
remember(const Ia3SnapshotTag *snapshot, const char *name, double coverage, double bound)
{
    if (known.context == NULL)
        known.context = AllocSetContextCreate(TopMemoryContext, "ia3 bounds of sets", ALLOCSET_SMALL_SIZES);
    if (!is_known(snapshot) || known.n == MAX_BOUNDS) {
        known.n = 0;
        MemoryContextReset(known.context);
        known.snapshot = *snapshot;
        known.user = GetUserId();
    }
    known.bounds[known.n].task = MemoryContextStrdup(known.context, name);
    known.bounds[known.n].coverage = coverage;
    known.bounds[known.n++].bound = bound;
}

static double
bound_of(const char *name, double coverage)
{
    Ia3SnapshotTag snapshot;
    bool hasSnapshot = Ia3SnapshotTagFill(&snapshot);
    MemoryContext scratch, old;
    double bound;

    if (hasSnapshot && is_known(&snapshot))
        for (int i = 0; i < known.n; i++)
            if (known.bounds[i].coverage == coverage && strcmp(known.bounds[i].task, name) == 0)
                return known.bounds[i].bound;
    scratch = AllocSetContextCreate(CurrentMemoryContext, "ia3 held-out rows", ALLOCSET_DEFAULT_SIZES);
    old = MemoryContextSwitchTo(scratch);
    bound = compute_bound(name, coverage);
    MemoryContextSwitchTo(old);
    MemoryContextDelete(scratch);
    if (hasSnapshot)
        remember(&snapshot, name, coverage, bound);
    return bound;
}

/* The best choice, and all others that are not less likely than the bound allows. */
static Datum
choose_set(const Ia3Ranking *ranking, double bound)
{
    Ia3Strings set = {.items = palloc(sizeof(char *) * ranking->n)};

    for (int i = 0; i < ranking->n; i++)
        if (i == 0 || 1 - ranking->choices[i].probability <= bound)
            set.items[set.n++] = (char *) ranking->choices[i].choice;
    return Ia3StringsToArray(&set);
}

/* ia3_predict_set(task, input or fields, choices, coverage); choices may be NULL. */
static Datum
predict_set(FunctionCallInfo fcinfo, Ia3CallForm form)
{
    double coverage;
    const Ia3Ranking *ranking;

    if (PG_ARGISNULL(0) || PG_ARGISNULL(1))
        PG_RETURN_NULL();
    if (PG_ARGISNULL(3))
        ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED), errmsg("coverage must not be null")));
    coverage = PG_GETARG_FLOAT8(3);
    Ia3CheckCoverage(coverage);
    ranking = Ia3AnswerCall(fcinfo, form, PG_ARGISNULL(2) ? 2 : 3, IA3_ANSWER_ONE);
    PG_RETURN_DATUM(choose_set(ranking, bound_of(text_to_cstring(PG_GETARG_TEXT_PP(0)), coverage)));
}

Datum
ia3_predict_set_text(PG_FUNCTION_ARGS)
{
    return predict_set(fcinfo, IA3_CALL_TEXT);
}

Datum
ia3_predict_set_fields(PG_FUNCTION_ARGS)
{
    return predict_set(fcinfo, IA3_CALL_FIELDS);
}

Datum
ia3_predict_set_fields_text(PG_FUNCTION_ARGS)
{
    return predict_set(fcinfo, IA3_CALL_FIELDS_TEXT);
}
