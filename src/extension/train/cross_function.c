/*
 * cross_function.c
 *     ia3_cross_predict: every row of a query, predicted by an adapter that has not seen it.
 */
#include "postgres.h"

#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/memutils.h"

#include "cross.h"
#include "extension/ia3_compat.h"
#include "extension/predict/ranking.h"

PG_FUNCTION_INFO_V1(ia3_cross_predict);

#define N_COLUMNS 8

static Datum
probabilities(const Ia3Ranking *ranking)
{
    Ia3JsonObject json;

    Ia3JsonBegin(&json);
    for (int c = 0; c < ranking->n; c++)
        Ia3JsonPutFloat(&json, ranking->choices[c].choice, ranking->choices[c].probability);
    return Ia3JsonEnd(&json);
}

/* Of a multi-label row: the labels that are predicted, as the text of an array, and how probable it is that just these are right. */
static Datum
predicted_labels(const Ia3Ranking *ranking, double *probability)
{
    Ia3Strings *labels = Ia3RankingLabels(ranking, IA3_TASK_MIN_PROBABILITY);

    *probability = 1;
    for (int c = 0; c < ranking->n; c++) {
        double p = ranking->choices[c].probability;

        *probability *= Ia3LabelIsPredicted(&ranking->choices[c], IA3_TASK_MIN_PROBABILITY) ? p : 1 - p;
    }
    return CStringGetTextDatum(OidOutputFunctionCall(F_ARRAY_OUT, Ia3StringsToArray(labels)));
}

static void
put_row(ReturnSetInfo *rsinfo, const Ia3Cross *cross, int repeat, int i)
{
    const Ia3TrainRow *row = &cross->examples->rows->rows[i];
    const Ia3Strings *choices = Ia3CrossChoices(cross, i);
    Ia3ScoreResult result = {.ok = true, .n = choices->n, .scores = cross->scores[repeat][i]};
    const Ia3Task task = {.multiLabel = row->labels != NULL};
    Ia3Ranking *ranking = Ia3RankingMake(&task, choices, &result);
    double probability = ranking->choices[0].probability;
    Datum values[N_COLUMNS];
    bool nulls[N_COLUMNS] = {false};

    nulls[1] = row->id == NULL;
    values[0] = Int64GetDatum(i + 1);
    values[1] = row->id ? CStringGetTextDatum(row->id) : (Datum) 0;
    values[2] = CStringGetTextDatum(row->label);
    values[3] = ranking->multiLabel ? predicted_labels(ranking, &probability)
                                    : CStringGetTextDatum(ranking->choices[0].choice);
    values[4] = Float8GetDatum(probability);
    values[5] = probabilities(ranking);
    values[6] = Int32GetDatum(cross->fold[repeat][i] + 1);
    values[7] = Int32GetDatum(repeat + 1);
    tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
}

Datum
ia3_cross_predict(PG_FUNCTION_ARGS)
{
    ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
    Ia3Cross cross = {0};
    MemoryContext scratch, old;

    PreventCommandIfParallelMode("ia3_cross_predict()");
    Ia3CrossFunctionArguments(&cross, fcinfo);
    cross.columns.labels = IA3_LABEL_ANY;
    Ia3CrossBegin(&cross, fcinfo, &Ia3CrossOptions);
    Ia3CrossRun(&cross);
    Ia3InitMaterializedSRF(fcinfo);
    scratch = AllocSetContextCreate(CurrentMemoryContext, "ia3 predictions", ALLOCSET_DEFAULT_SIZES);
    old = MemoryContextSwitchTo(scratch);
    for (int r = 0; r < cross.repeats; r++)
        for (int i = 0; i < cross.examples->rows->n; i++) {
            CHECK_FOR_INTERRUPTS();
            put_row(rsinfo, &cross, r, i);
            MemoryContextReset(scratch);
        }
    MemoryContextSwitchTo(old);
    return (Datum) 0;
}
