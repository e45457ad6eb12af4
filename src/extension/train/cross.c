/*
 * cross.c
 *     Cross-validation: the scores of labelled rows by adapters that have not seen them.
 */
#include "postgres.h"

#include "portability/instr_time.h"
#include "utils/builtins.h"

#include "arrays.h"
#include "cross.h"
#include "early_stopping.h"
#include "extension/supervisor/progress.h"

static void
check_not_null(FunctionCallInfo fcinfo, int arg, const char *name)
{
    if (PG_ARGISNULL(arg))
        ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED), errmsg("%s must not be null", name)));
}

static int
int_argument(FunctionCallInfo fcinfo, int arg, const char *name, int min, int max)
{
    int value;

    check_not_null(fcinfo, arg, name);
    value = PG_GETARG_INT32(arg);
    if (value < min || value > max)
        ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                        errmsg("%s must be between %d and %d", name, min, max),
                        errdetail("The value is %d.", value)));
    return value;
}

static char *
text_argument(FunctionCallInfo fcinfo, int arg)
{
    return PG_ARGISNULL(arg) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(arg));
}

void
Ia3CrossArguments(Ia3Cross *cross, FunctionCallInfo fcinfo, int folds)
{
    check_not_null(fcinfo, 0, "query");
    cross->query = text_argument(fcinfo, 0);
    cross->folds = int_argument(fcinfo, folds, "folds", 2, IA3_MAX_FOLDS);
    cross->repeats = int_argument(fcinfo, folds + 1, "repeats", 1, IA3_MAX_REPEATS);
    cross->columns.group = text_argument(fcinfo, folds + 2);
}

void
Ia3CrossFunctionArguments(Ia3Cross *cross, FunctionCallInfo fcinfo)
{
    Ia3CrossArguments(cross, fcinfo, 1);
    cross->columns.id = text_argument(fcinfo, 4);
}

static void
put_examples(ia3_writer *w, void *arg)
{
    const Ia3Cross *cross = arg;

    Ia3ExamplesPut(w, cross->examples, cross->templates, cross->recipe->templates->n);
}

/* The progress of all of them is shown as an integer. A run has up to 32 members of an ensemble, which count, too. */
static void
check_steps(const Ia3Cross *cross)
{
    int max = PG_INT32_MAX / 32, steps = cross->recipe->steps;

    if ((int64) steps * cross->folds * Max(cross->nSizes, 1) > max / cross->repeats)
        ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                        errmsg("cross-validation must not have more than %d training steps", max),
                        cross->nSizes > 0
                            ? errdetail("There are %d sizes, %d folds, %d repeats and %d steps of each run.",
                                        cross->nSizes, cross->folds, cross->repeats, steps)
                            : errdetail("There are %d folds, %d repeats and %d steps of each run.",
                                        cross->folds, cross->repeats, steps),
                        errhint("Use fewer steps, folds or repeats.")));
}

void
Ia3CrossBegin(Ia3Cross *cross, FunctionCallInfo fcinfo, const Ia3Options *options)
{
    Ia3Recipe *recipe = Ia3RecipeFromArguments(fcinfo, options);
    int n;

    Ia3EarlyStoppingCheckCross(recipe);
    cross->recipe = recipe;
    cross->job.putExamples = put_examples;
    cross->job.arg = cross;
    cross->templates = Ia3TemplatesParse(recipe->templates, recipe->truncate);
    Ia3TrainPrepare(&cross->job, recipe);
    check_steps(cross);
    cross->columns.weight = recipe->weightColumn;
    cross->examples = Ia3ExamplesLabel(
        Ia3ReadTrainRows(cross->query, cross->templates, recipe->templates->n, &cross->columns),
        recipe->choices, recipe->wording);
    Ia3ExamplesCheckWording(cross->examples, recipe->wording, cross->templates, recipe->templates->n);
    cross->job.weighting = Ia3WeightingMake(recipe, cross->examples);
    n = cross->examples->rows->n;
    cross->fold = palloc(sizeof(int *) * cross->repeats);
    for (int r = 0; r < cross->repeats; r++) {
        cross->fold[r] = Ia3ArrayOf(n, sizeof(int));
        Ia3FoldsAssign(cross->examples->rows, cross->folds, recipe->seed, r, cross->fold[r]);
    }
    Ia3FoldsReportSingleLabels(cross->examples->rows);
    if (!recipe->hasSeed)
        ereport(NOTICE, (errmsg("the seed is " INT64_FORMAT, recipe->seed),
                         errhint("Specify it to get the same folds and the same training runs again.")));
}

void
Ia3CrossTrain(Ia3Cross *cross, int repeat, const Ia3JobRun *runs, int nRuns, Ia3Trained *trained)
{
    int64 steps = (int64) cross->recipe->steps * nRuns;

    cross->job.nRuns = nRuns;
    cross->job.runs = runs;
    cross->job.stepsBefore = repeat * steps;
    cross->job.stepsAfter = (cross->repeats - 1 - repeat) * steps;
    cross->job.isPart = true;
    Ia3TrainRun(&cross->job, trained);
}

static void
run_repeat(Ia3Cross *cross, int repeat)
{
    int n = cross->examples->rows->n, folds = cross->folds;
    Ia3JobRun *runs = palloc(sizeof(Ia3JobRun) * folds);
    Ia3Trained *trained = palloc0(sizeof(Ia3Trained) * folds);
    instr_time start, end;

    INSTR_TIME_SET_CURRENT(start);
    Ia3FoldsRuns(cross->fold[repeat], n, folds, cross->recipe->seed, repeat, runs);
    Ia3CrossTrain(cross, repeat, runs, folds, trained);
    cross->scores[repeat] = Ia3ArrayOf(n, sizeof(double *));
    Ia3FoldsScore(&cross->job, cross->examples, cross->templates[0], cross->fold[repeat], folds, trained,
                  cross->scores[repeat]);
    for (int f = 0; f < folds; f++) {
        pfree(runs[f].examples);
        pfree(trained[f].vectors);
    }
    INSTR_TIME_SET_CURRENT(end);
    INSTR_TIME_SUBTRACT(end, start);
    cross->seconds[repeat] = INSTR_TIME_GET_DOUBLE(end);
}

void
Ia3CrossRun(Ia3Cross *cross)
{
    cross->scores = palloc(sizeof(double **) * cross->repeats);
    cross->seconds = palloc(sizeof(double) * cross->repeats);
    for (int r = 0; r < cross->repeats; r++)
        run_repeat(cross, r);
    Ia3ProgressEnd();
}
