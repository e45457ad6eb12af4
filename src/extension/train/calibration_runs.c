/*
 * calibration_runs.c
 *     The training runs of a calibration, which each leave out a fifth of the rows and score it.
 */
#include "postgres.h"

#include <math.h>

#include "utils/fmgrprotos.h"

#include "arrays.h"
#include "calibration_runs.h"
#include "extension/supervisor/progress.h"

static void
check_rows(const Ia3TrainRows *rows)
{
    if (rows->n < IA3_CALIBRATION_FOLDS)
        ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                        errmsg("calibration needs at least %d rows", IA3_CALIBRATION_FOLDS),
                        errdetail("The query returns %d.", rows->n)));
}

void
Ia3CalibrationRunsPrepare(Ia3CalibrationRuns *c)
{
    const Ia3TrainRows *rows = c->examples->rows;
    int64 seed = c->job->recipe->seed;
    int first = c->withAll ? 1 : 0;

    check_rows(rows);
    c->fold = Ia3ArrayOf(rows->n, sizeof(int));
    c->runs = palloc(sizeof(Ia3JobRun) * (first + IA3_CALIBRATION_FOLDS));
    Ia3FoldsAssign(rows, IA3_CALIBRATION_FOLDS, seed, 0, c->fold);
    Ia3FoldsRuns(c->fold, rows->n, IA3_CALIBRATION_FOLDS, seed, 0, c->runs + first);
    if (c->withAll) {
        c->runs[0] = (Ia3JobRun){seed, rows->n, Ia3ArrayOf(rows->n, sizeof(int))};
        for (int i = 0; i < rows->n; i++)
            c->runs[0].examples[i] = i;
    }
    Ia3FoldsReportSingleLabels(rows);
    c->job->nRuns = first + IA3_CALIBRATION_FOLDS;
    c->job->runs = c->runs;
    c->job->isPart = true; /* so that the progress remains until the rows have been scored */
}

static Ia3HeldOut *
make_held_out(const Ia3CalibrationRuns *c, double **scores)
{
    const Ia3Examples *examples = c->examples;
    Ia3HeldOut *heldOut = palloc(sizeof(Ia3HeldOut));

    heldOut->n = examples->rows->n;
    heldOut->rows = Ia3ArrayOf(heldOut->n, sizeof(Ia3HeldOutRow));
    for (int i = 0; i < heldOut->n; i++) {
        Ia3HeldOutRow *row = &heldOut->rows[i];

        *row =
            (Ia3HeldOutRow){c->fold[i], examples->label[i], examples->sets[examples->set[i]]->n, scores[i]};
        for (int k = 0; k < row->n; k++)
            if (!isfinite(row->scores[k]))
                ereport(ERROR, (errcode(ERRCODE_INTERNAL_ERROR),
                                errmsg("ia3 engine returned a score that is not a number")));
    }
    return heldOut;
}

Ia3HeldOut *
Ia3CalibrationRunsTrain(Ia3CalibrationRuns *c, Ia3Trained *version)
{
    int n = c->examples->rows->n, first = c->withAll ? 1 : 0;
    Ia3Trained *trained = palloc0(sizeof(Ia3Trained) * c->job->nRuns);
    double **scores = Ia3ArrayOf(n, sizeof(double *));

    Ia3TrainRun(c->job, trained);
    Ia3FoldsScore(c->job, c->examples, c->template, c->fold, IA3_CALIBRATION_FOLDS, trained + first, scores);
    if (c->job->stepsAfter == 0)
        Ia3ProgressEnd();
    if (c->withAll)
        *version = trained[0];
    for (int f = 0; f < IA3_CALIBRATION_FOLDS; f++)
        pfree(trained[first + f].vectors);
    return make_held_out(c, scores);
}

Datum
Ia3CalibrationMetrics(Datum metrics, const Ia3HeldOut *heldOut, const Ia3Calibration *c)
{
    Ia3JsonObject json;
    Datum added;

    Ia3JsonBegin(&json);
    Ia3JsonBeginMember(&json, "calibration");
    Ia3JsonPutInteger(&json, "rows", heldOut->n);
    Ia3JsonPutInteger(&json, "folds", IA3_CALIBRATION_FOLDS);
    Ia3JsonPutFloat(&json, "log_loss_before", c->logLossBefore);
    Ia3JsonPutFloat(&json, "log_loss_after", c->logLossAfter);
    Ia3JsonPutFloat(&json, "error_before", c->errorBefore);
    Ia3JsonPutFloat(&json, "error_after", c->errorAfter);
    Ia3JsonEndMember(&json);
    added = Ia3JsonEnd(&json);
    return metrics ? DirectFunctionCall2(jsonb_concat, metrics, added) : added;
}
