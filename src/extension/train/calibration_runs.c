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

static void
check_finite(const double *scores, int n)
{
    for (int k = 0; k < n; k++)
        if (!isfinite(scores[k]))
            ereport(ERROR, (errcode(ERRCODE_INTERNAL_ERROR),
                            errmsg("ia3 engine returned a score that is not a number")));
}

static int
n_choices(const Ia3Examples *examples, int i)
{
    return examples->sets[examples->set[i]]->n;
}

/* The labels of row i of multi-label examples as questions, of which the first answer is "yes", and the score is the difference. */
static void
add_labels(const Ia3CalibrationRuns *c, int i, const double *scores, Ia3HeldOut *heldOut)
{
    const Ia3Examples *examples = c->examples;
    double *both = Ia3ArrayOf(2 * (Size) n_choices(examples, i), sizeof(double));

    for (int l = 0, r = 0; l < n_choices(examples, i); l++, both += 2) {
        bool right = r < examples->nRight[i] && examples->right[i][r] == l;

        r += right;
        both[0] = scores[l];
        heldOut->rows[heldOut->n++] = (Ia3HeldOutRow){c->fold[i], right ? 0 : 1, 2, both};
    }
}

static Ia3HeldOut *
make_held_out(const Ia3CalibrationRuns *c, double **scores)
{
    const Ia3Examples *examples = c->examples;
    Ia3HeldOut *heldOut = palloc0(sizeof(Ia3HeldOut));
    int64 n = 0;

    for (int i = 0; i < examples->rows->n; i++)
        n += examples->nRight ? n_choices(examples, i) : 1;
    if (n > PG_INT32_MAX / 2)
        ereport(ERROR, (errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
                        errmsg("there are too many rows and labels for calibration")));
    heldOut->rows = Ia3ArrayOf(n, sizeof(Ia3HeldOutRow));
    for (int i = 0; i < examples->rows->n; i++) {
        check_finite(scores[i], n_choices(examples, i));
        if (examples->nRight)
            add_labels(c, i, scores[i], heldOut);
        else
            heldOut->rows[heldOut->n++] =
                (Ia3HeldOutRow){c->fold[i], examples->label[i], n_choices(examples, i), scores[i]};
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
