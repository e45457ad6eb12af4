/*
 * cross_validate.c
 *     ia3_cross_validate: how good a task would be that is trained on the rows of a query.
 */
#include "postgres.h"

#include <math.h>

#include "miscadmin.h"

#include "arrays.h"
#include "cross_measures.h"
#include "extension/ia3_compat.h"
#include "linear_baseline.h"

PG_FUNCTION_INFO_V1(ia3_cross_validate);

/* The columns of the result, in their order. */
typedef enum Column {
    COLUMN_REPEAT,
    COLUMN_N,
    COLUMN_ACCURACY,
    COLUMN_ACCURACY_LOW,
    COLUMN_ACCURACY_HIGH,
    COLUMN_MACRO_F1,
    COLUMN_MACRO_F1_LOW,
    COLUMN_MACRO_F1_HIGH,
    COLUMN_LOG_LOSS,
    COLUMN_BRIER,
    COLUMN_CALIBRATION_ERROR,
    COLUMN_MAJORITY_ACCURACY,
    COLUMN_LINEAR_ACCURACY,
    COLUMN_LINEAR_MACRO_F1,
    COLUMN_SECONDS,
    N_COLUMNS
} Column;

typedef struct Validation {
    Ia3Cross cross;
    Ia3CrossRows rows;
    int n, nLabels;
    int **linear;             /* [repeats][n] what a linear model predicts; NULL: there is none */
    Ia3Predicted **predicted; /* [repeats][n] */
} Validation;

/* The accuracy of predicting the most frequent label of the other folds; of equally frequent ones, the first. */
static double
majority_accuracy(const Validation *v, const int *fold)
{
    int *count = Ia3ArrayOf(v->nLabels, sizeof(int)), right = 0;

    for (int f = 0; f < v->cross.folds; f++) {
        int best = 0;

        memset(count, 0, sizeof(int) * v->nLabels);
        for (int i = 0; i < v->n; i++)
            if (fold[i] != f)
                count[v->rows.label[i]]++;
        for (int l = 1; l < v->nLabels; l++)
            if (count[l] > count[best])
                best = l;
        for (int i = 0; i < v->n; i++)
            right += fold[i] == f && v->rows.label[i] == best;
    }
    pfree(count);
    return (double) right / v->n;
}

/*
 * Fits the linear models. This comes before the training runs, since an error would lose their results. The common choices
 * have the numbers of their positions.
 */
static void
predict_linear(Validation *v)
{
    const Ia3Cross *cross = &v->cross;

    v->linear = palloc(sizeof(int *) * cross->repeats);
    for (int r = 0; r < cross->repeats; r++) {
        v->linear[r] = Ia3ArrayOf(v->n, sizeof(int));
        if (!Ia3LinearPredict(cross->examples, cross->job.backbone, cross->fold[r], v->linear[r])) {
            v->linear = NULL; /* nor would there be one for other folds */
            return;
        }
    }
}

/* NaN in both if there is no linear model. */
static void
measure_linear(const Validation *v, int repeat, double *values)
{
    Ia3Predicted *p;

    values[COLUMN_LINEAR_ACCURACY] = values[COLUMN_LINEAR_MACRO_F1] = NAN;
    if (v->linear == NULL)
        return;
    p = Ia3ArrayOf(v->n, sizeof(Ia3Predicted));
    for (int i = 0; i < v->n; i++) {
        p[i].label = v->rows.label[i];
        p[i].predicted = v->linear[repeat][i];
    }
    values[COLUMN_LINEAR_ACCURACY] = Ia3Accuracy(p, v->n);
    values[COLUMN_LINEAR_MACRO_F1] = Ia3MacroF1(p, v->n, v->nLabels);
    pfree(p);
}

static void
set_interval(double *values, Column low, Ia3Interval interval)
{
    values[low] = interval.low;
    values[low + 1] = interval.high;
}

static void
measure_repeat(const Validation *v, int repeat, double *values)
{
    const Ia3Predicted *p = v->predicted[repeat];
    Ia3Interval accuracy, macroF1;

    values[COLUMN_REPEAT] = repeat + 1;
    values[COLUMN_N] = v->n;
    values[COLUMN_ACCURACY] = Ia3Accuracy(p, v->n);
    values[COLUMN_MACRO_F1] = Ia3MacroF1(p, v->n, v->nLabels);
    values[COLUMN_LOG_LOSS] = Ia3MeanLogLoss(p, v->n);
    values[COLUMN_BRIER] = Ia3MeanBrier(p, v->n);
    values[COLUMN_CALIBRATION_ERROR] = Ia3CalibrationError(p, v->n);
    values[COLUMN_MAJORITY_ACCURACY] = majority_accuracy(v, v->cross.fold[repeat]);
    measure_linear(v, repeat, values);
    values[COLUMN_SECONDS] = v->cross.seconds[repeat];
    Ia3Bootstrap(&v->predicted[repeat], 1, v->n, v->rows.unit, v->rows.nUnits, v->nLabels,
                 (uint64) v->cross.recipe->seed, &accuracy, &macroF1);
    /* Wilson's interval needs rows that are independent, which those of a group are not */
    if (v->cross.columns.group == NULL)
        accuracy = Ia3WilsonInterval((int64) rint(values[COLUMN_ACCURACY] * v->n), v->n);
    set_interval(values, COLUMN_ACCURACY_LOW, accuracy);
    set_interval(values, COLUMN_MACRO_F1_LOW, macroF1);
}

/* The means over the repeats, except for n, the seconds and the intervals. */
static void
measure_all(const Validation *v, double (*repeats)[N_COLUMNS], double *values)
{
    Ia3Interval accuracy, macroF1;
    int n = v->cross.repeats;

    for (int column = 0; column < N_COLUMNS; column++) {
        values[column] = 0;
        for (int r = 0; r < n; r++)
            values[column] += repeats[r][column] / n;
    }
    values[COLUMN_REPEAT] = NAN;
    values[COLUMN_SECONDS] *= n;
    Ia3Bootstrap(v->predicted, n, v->n, v->rows.unit, v->rows.nUnits, v->nLabels,
                 (uint64) v->cross.recipe->seed, &accuracy, &macroF1);
    set_interval(values, COLUMN_ACCURACY_LOW, accuracy);
    set_interval(values, COLUMN_MACRO_F1_LOW, macroF1);
}

static void
put_row(ReturnSetInfo *rsinfo, const double *columns)
{
    Datum values[N_COLUMNS];
    bool nulls[N_COLUMNS];

    for (int column = 0; column < N_COLUMNS; column++) {
        nulls[column] = isnan(columns[column]);
        values[column] = Float8GetDatum(columns[column]);
    }
    values[COLUMN_REPEAT] = Int32GetDatum(nulls[COLUMN_REPEAT] ? 0 : (int32) columns[COLUMN_REPEAT]);
    values[COLUMN_N] = Int64GetDatum((int64) columns[COLUMN_N]);
    tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
}

Datum
ia3_cross_validate(PG_FUNCTION_ARGS)
{
    ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
    Validation v = {.n = 0};
    double(*repeats)[N_COLUMNS], all[N_COLUMNS];

    PreventCommandIfParallelMode("ia3_cross_validate()");
    Ia3CrossFunctionArguments(&v.cross, fcinfo);
    Ia3CrossBegin(&v.cross, fcinfo, &Ia3CrossOptions);
    Ia3CrossNumber(&v.rows, &v.cross);
    v.n = v.rows.n;
    predict_linear(&v);
    Ia3CrossRun(&v.cross);
    v.predicted = palloc(sizeof(Ia3Predicted *) * v.cross.repeats);
    for (int r = 0; r < v.cross.repeats; r++)
        v.predicted[r] = Ia3CrossMeasure(&v.rows, v.cross.scores[r]);
    v.nLabels = Ia3CrossLabels(&v.rows);
    repeats = palloc(sizeof(*repeats) * v.cross.repeats);
    Ia3InitMaterializedSRF(fcinfo);
    for (int r = 0; r < v.cross.repeats; r++) {
        measure_repeat(&v, r, repeats[r]);
        put_row(rsinfo, repeats[r]);
    }
    measure_all(&v, repeats, all);
    put_row(rsinfo, all);
    return (Datum) 0;
}
