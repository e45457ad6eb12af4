/*
 * cross_function.c
 *     ia3_cross_predict: every row of a query, predicted by an adapter that has not seen it.
 */
#include "postgres.h"

#include "miscadmin.h"
#include "utils/builtins.h"
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

static void
put_row(ReturnSetInfo *rsinfo, const Ia3Cross *cross, int repeat, int i)
{
    const Ia3TrainRow *row = &cross->examples->rows->rows[i];
    const Ia3Strings *choices = Ia3CrossChoices(cross, i);
    Ia3ScoreResult result = {.ok = true, .n = choices->n, .scores = cross->scores[repeat][i]};
    Ia3Ranking *ranking = Ia3RankingMake(NULL, choices, &result);
    Datum values[N_COLUMNS];
    bool nulls[N_COLUMNS] = {false};

    nulls[1] = row->id == NULL;
    values[0] = Int64GetDatum(i + 1);
    values[1] = row->id ? CStringGetTextDatum(row->id) : (Datum) 0;
    values[2] = CStringGetTextDatum(row->label);
    values[3] = CStringGetTextDatum(ranking->choices[0].choice);
    values[4] = Float8GetDatum(ranking->choices[0].probability);
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
