/*
 * learning_curve.c
 *     ia3_learning_curve: how accuracy grows with the number of training rows.
 */
#include "postgres.h"

#include <math.h>

#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/memutils.h"

#include "arrays.h"
#include "cross_measures.h"
#include "extension/ia3_compat.h"
#include "extension/supervisor/progress.h"
#include "linear_baseline.h"
#include "subsets.h"

PG_FUNCTION_INFO_V1(ia3_learning_curve);

#define ARG_SIZES 1
#define ARG_FOLDS 2 /* repeats and group_column follow */
#define N_COLUMNS 12

typedef struct LearningCurve {
    Ia3Cross cross;
    Ia3CrossRows rows;
    int nSizes;
    int32 *sizes;     /* [nSizes] increasing */
    Ia3JobRun **runs; /* [repeats][nSizes * folds] the folds of the first size, then of the second, ... */
    Ia3Predicted ***predicted; /* [nSizes][repeats][n] */
    int ***linear;             /* [nSizes][repeats][n] what a linear model predicts; NULL: there is none */
} LearningCurve;

static void
raise_sizes(const char *detail)
{
    ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                    errmsg("sizes must be an increasing list of numbers of training rows"),
                    errdetail_internal("%s", detail)));
}

static void
read_sizes(LearningCurve *c, FunctionCallInfo fcinfo)
{
    ArrayType *array;

    if (PG_ARGISNULL(ARG_SIZES))
        ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED), errmsg("sizes must not be null")));
    array = PG_GETARG_ARRAYTYPE_P(ARG_SIZES);
    if (array_contains_nulls(array))
        ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED), errmsg("sizes must not contain nulls")));
    if (ARR_NDIM(array) > 1)
        ereport(ERROR, (errcode(ERRCODE_ARRAY_SUBSCRIPT_ERROR), errmsg("sizes must be one-dimensional")));
    c->nSizes = ArrayGetNItems(ARR_NDIM(array), ARR_DIMS(array));
    if (c->nSizes == 0)
        raise_sizes(_("The list is empty."));
    c->sizes = (int32 *) ARR_DATA_PTR(array);
    for (int s = 0; s < c->nSizes; s++) {
        if (c->sizes[s] < 1)
            raise_sizes(psprintf(_("It has %d."), c->sizes[s]));
        if (s > 0 && c->sizes[s] <= c->sizes[s - 1])
            raise_sizes(psprintf(_("%d comes after %d."), c->sizes[s], c->sizes[s - 1]));
    }
    if (c->nSizes > IA3_MAX_RUNS / c->cross.folds)
        ereport(ERROR,
                (errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("there are too many sizes"),
                 errdetail("There are %d sizes and %d folds, and at most %u training runs in a repeat.",
                           c->nSizes, c->cross.folds, IA3_MAX_RUNS)));
}

static int
compare_rows(const void *a, const void *b)
{
    return *(const int *) a - *(const int *) b;
}

/* Fills in the runs of a fold; `run` is that on all other rows. */
static void
choose_subsets(const LearningCurve *c, const Ia3JobRun *run, int repeat, Ia3JobRun *runs)
{
    int *order = Ia3ArrayOf(run->n, sizeof(int));

    memcpy(order, run->examples, sizeof(int) * run->n);
    Ia3SubsetsOrder(order, run->n, c->rows.label, c->cross.recipe->seed, repeat);
    for (int s = 0; s < c->nSizes; s++) {
        Ia3JobRun *subset = &runs[s * c->cross.folds];

        if (c->sizes[s] > run->n)
            ereport(ERROR,
                    (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                     errmsg("size %d is larger than the number of training rows", c->sizes[s]),
                     errdetail("The query returns %d rows, and the smallest of the %d training sets has %d.",
                               c->rows.n, c->cross.folds, run->n)));
        subset->seed = run->seed;
        subset->n = c->sizes[s];
        subset->examples = Ia3ArrayOf(subset->n, sizeof(int));
        memcpy(subset->examples, order, sizeof(int) * subset->n);
        qsort(subset->examples, subset->n, sizeof(int), compare_rows);
    }
    pfree(order);
}

static void
choose_runs(LearningCurve *c)
{
    const Ia3Cross *cross = &c->cross;
    Ia3JobRun *whole = palloc(sizeof(Ia3JobRun) * cross->folds);

    c->runs = palloc(sizeof(Ia3JobRun *) * cross->repeats);
    for (int r = 0; r < cross->repeats; r++) {
        int smallest = 0;

        c->runs[r] = palloc(sizeof(Ia3JobRun) * c->nSizes * cross->folds);
        Ia3FoldsRuns(cross->fold[r], c->rows.n, cross->folds, cross->recipe->seed, r, whole);
        for (int f = 1; f < cross->folds; f++)
            if (whole[f].n < whole[smallest].n)
                smallest = f;
        /* this one comes first, so that what an error says holds for all of them */
        choose_subsets(c, &whole[smallest], r, &c->runs[r][smallest]);
        for (int f = 0; f < cross->folds; f++) {
            CHECK_FOR_INTERRUPTS();
            if (f != smallest)
                choose_subsets(c, &whole[f], r, &c->runs[r][f]);
            pfree(whole[f].examples);
        }
    }
    pfree(whole);
}

/* What linear models predict that are fitted to the rows of the runs of a size. Returns false if there are none. */
static bool
predict_size(const LearningCurve *c, int repeat, int size, int *predicted)
{
    const Ia3Cross *cross = &c->cross;
    const int *fold = cross->fold[repeat];
    int *part = Ia3ArrayOf(c->rows.n, sizeof(int)), *answer = Ia3ArrayOf(c->rows.n, sizeof(int));
    bool fits = true;

    for (int f = 0; f < cross->folds && fits; f++) {
        const Ia3JobRun *run = &c->runs[repeat][size * cross->folds + f];

        for (int i = 0; i < c->rows.n; i++)
            part[i] = fold[i] == f ? 0 : IA3_LINEAR_OMIT;
        for (int k = 0; k < run->n; k++)
            part[run->examples[k]] = 1;
        fits = Ia3LinearPredict(cross->examples, cross->job.backbone, part, answer);
        for (int i = 0; i < c->rows.n && fits; i++)
            if (fold[i] == f)
                predicted[i] = answer[i];
    }
    pfree(part);
    pfree(answer);
    return fits;
}

/* Fits the linear models. This comes before the training runs, since an error would lose their results. */
static void
predict_linear(LearningCurve *c)
{
    c->linear = palloc(sizeof(int **) * c->nSizes);
    /* the largest first: if there is a model for it, there is one for the others */
    for (int s = c->nSizes - 1; s >= 0; s--) {
        c->linear[s] = palloc(sizeof(int *) * c->cross.repeats);
        for (int r = 0; r < c->cross.repeats; r++) {
            c->linear[s][r] = Ia3ArrayOf(c->rows.n, sizeof(int));
            if (!predict_size(c, r, s, c->linear[s][r])) {
                c->linear = NULL;
                return;
            }
        }
    }
}

/* Trains all runs of a repeat together, and measures them. */
static void
run_repeat(LearningCurve *c, int repeat)
{
    Ia3Cross *cross = &c->cross;
    int nRuns = c->nSizes * cross->folds;
    Ia3Trained *trained = palloc0(sizeof(Ia3Trained) * nRuns);
    double **scores = Ia3ArrayOf(c->rows.n, sizeof(double *));

    Ia3CrossTrain(cross, repeat, c->runs[repeat], nRuns, trained);
    for (int s = 0; s < c->nSizes; s++) {
        Ia3FoldsScore(&cross->job, cross->examples, cross->templates[0], cross->fold[repeat], cross->folds,
                      trained + s * cross->folds, scores);
        c->predicted[s][repeat] = Ia3CrossMeasure(&c->rows, scores);
        for (int i = 0; i < c->rows.n; i++)
            pfree(scores[i]);
    }
    for (int k = 0; k < nRuns; k++) {
        pfree(c->runs[repeat][k].examples);
        pfree(trained[k].vectors);
    }
    pfree(scores);
    pfree(trained);
}

/* The mean over the repeats. */
static double
linear_accuracy(const LearningCurve *c, int size)
{
    int64 right = 0;

    for (int r = 0; r < c->cross.repeats; r++)
        for (int i = 0; i < c->rows.n; i++)
            right += c->linear[size][r][i] == c->rows.label[i];
    return (double) right / c->cross.repeats / c->rows.n;
}

static void
put_size(ReturnSetInfo *rsinfo, const LearningCurve *c, int size)
{
    const Ia3Cross *cross = &c->cross;
    int nLabels = Ia3CrossLabels(&c->rows), n = c->rows.n;
    double accuracy = 0, macroF1 = 0, logLoss = 0, brier = 0;
    Ia3Interval accuracies, f1s;
    Datum values[N_COLUMNS];
    bool nulls[N_COLUMNS] = {false};

    for (int r = 0; r < cross->repeats; r++) {
        const Ia3Predicted *p = c->predicted[size][r];

        accuracy += Ia3Accuracy(p, n) / cross->repeats;
        macroF1 += Ia3MacroF1(p, n, nLabels) / cross->repeats;
        logLoss += Ia3MeanLogLoss(p, n) / cross->repeats;
        brier += Ia3MeanBrier(p, n) / cross->repeats;
    }
    Ia3Bootstrap(c->predicted[size], cross->repeats, n, c->rows.unit, c->rows.nUnits, nLabels,
                 (uint64) cross->recipe->seed, &accuracies, &f1s);
    values[0] = Int32GetDatum(c->sizes[size]);
    values[1] = Int32GetDatum(cross->folds * cross->repeats);
    values[2] = Int64GetDatum(n);
    values[3] = Float8GetDatum(accuracy);
    values[4] = Float8GetDatum(accuracies.low);
    values[5] = Float8GetDatum(accuracies.high);
    values[6] = Float8GetDatum(macroF1);
    values[7] = Float8GetDatum(f1s.low);
    values[8] = Float8GetDatum(f1s.high);
    values[9] = Float8GetDatum(logLoss);
    values[10] = Float8GetDatum(brier);
    nulls[11] = c->linear == NULL;
    values[11] = Float8GetDatum(nulls[11] ? 0 : linear_accuracy(c, size));
    tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
}

Datum
ia3_learning_curve(PG_FUNCTION_ARGS)
{
    ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
    LearningCurve c = {.nSizes = 0};

    PreventCommandIfParallelMode("ia3_learning_curve()");
    Ia3CrossArguments(&c.cross, fcinfo, ARG_FOLDS);
    read_sizes(&c, fcinfo);
    c.cross.nSizes = c.nSizes;
    Ia3CrossBegin(&c.cross, fcinfo, &Ia3CrossOptions);
    Ia3CrossNumber(&c.rows, &c.cross);
    choose_runs(&c);
    predict_linear(&c);
    c.predicted = palloc(sizeof(Ia3Predicted **) * c.nSizes);
    for (int s = 0; s < c.nSizes; s++)
        c.predicted[s] = palloc(sizeof(Ia3Predicted *) * c.cross.repeats);
    for (int r = 0; r < c.cross.repeats; r++)
        run_repeat(&c, r);
    Ia3ProgressEnd();
    Ia3InitMaterializedSRF(fcinfo);
    for (int s = 0; s < c.nSizes; s++)
        put_size(rsinfo, &c, s);
    return (Datum) 0;
}
