/*
 * early_stopping.c
 *     The option early_stopping: when training ends before the steps that were asked for.
 */
#include "postgres.h"

#include "portability/instr_time.h"
#include "utils/fmgrprotos.h"

#include "early_stopping.h"

Ia3EarlyStoppingOption
Ia3EarlyStoppingParse(const char *value)
{
    if (value == NULL || strcmp(value, "none") == 0)
        return IA3_EARLY_NONE;
    if (strcmp(value, "loss") == 0)
        return IA3_EARLY_LOSS;
    if (strcmp(value, "folds") != 0)
        ereport(ERROR,
                (errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("unknown early_stopping \"%s\"", value),
                 errhint("Valid values are \"none\", \"loss\" and \"folds\".")));
    return IA3_EARLY_FOLDS;
}

const char *
Ia3EarlyStoppingName(Ia3EarlyStoppingOption option)
{
    return option == IA3_EARLY_LOSS ? "loss" : option == IA3_EARLY_FOLDS ? "folds" : NULL;
}

void
Ia3EarlyStoppingCheckCross(const Ia3Recipe *recipe)
{
    if (recipe->earlyStopping == IA3_EARLY_FOLDS)
        ereport(
            ERROR,
            (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
             errmsg("early_stopping \"folds\" cannot be used in cross-validation"),
             errdetail("Each fold would need a cross-validation of its own."),
             errhint("ia3_train records the held-out log loss and accuracy of each number of steps in the "
                     "version's metrics.")));
}

static void
check_enough(const Ia3Recipe *recipe, const Ia3TrainRows *rows)
{
    if (recipe->steps < IA3_MIN_FOLDS_STEPS)
        ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                        errmsg("early_stopping \"folds\" needs at least %d steps", IA3_MIN_FOLDS_STEPS),
                        errdetail("steps is %d.", recipe->steps)));
    if (rows->n < IA3_CALIBRATION_FOLDS)
        ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                        errmsg("early_stopping \"folds\" needs at least %d rows", IA3_CALIBRATION_FOLDS),
                        errdetail("The query returns %d.", rows->n)));
}

void
Ia3StepsPrepare(Ia3StepChoice *choice, Ia3TrainJob *job, const Ia3Examples *examples,
                const Ia3Template *template)
{
    check_enough(job->recipe, examples->rows);
    choice->runs = (Ia3CalibrationRuns){.job = job, .examples = examples, .template = template};
    choice->maxSteps = job->recipe->steps;
    for (int i = 0, divisor = 1 << (IA3_STEP_CANDIDATES - 1); i < IA3_STEP_CANDIDATES; i++, divisor /= 2)
        choice->candidates[i].steps = choice->maxSteps / divisor;
    Ia3CalibrationRunsPrepare(&choice->runs);
}

/* A recipe like the job's, for another number of steps. */
static const Ia3Recipe *
recipe_with_steps(const Ia3Recipe *recipe, int steps)
{
    Ia3Recipe *copy = palloc(sizeof(Ia3Recipe));

    *copy = *recipe;
    copy->steps = steps;
    return copy;
}

/* Trains and scores the folds with the steps of a candidate. */
static Ia3HeldOut *
try_candidate(Ia3StepChoice *choice, Ia3StepCandidate *candidate)
{
    Ia3HeldOut *heldOut;
    Ia3Predicted *predicted;
    instr_time start, end;

    INSTR_TIME_SET_CURRENT(start);
    heldOut = Ia3CalibrationRunsTrain(&choice->runs, NULL);
    predicted = Ia3HeldOutPredict(heldOut, NULL);
    candidate->logLoss = Ia3MeanLogLoss(predicted, heldOut->n);
    candidate->accuracy = Ia3Accuracy(predicted, heldOut->n);
    pfree(predicted);
    INSTR_TIME_SET_CURRENT(end);
    INSTR_TIME_SUBTRACT(end, start);
    candidate->seconds = INSTR_TIME_GET_DOUBLE(end);
    return heldOut;
}

static void
report_choice(const Ia3StepChoice *choice)
{
    StringInfoData table;

    initStringInfo(&table);
    for (int i = 0; i < IA3_STEP_CANDIDATES; i++) {
        const Ia3StepCandidate *c = &choice->candidates[i];

        appendStringInfo(&table, _("%s%d (log loss %.3f, accuracy %.3f, %.1f s)"), i > 0 ? ", " : "",
                         c->steps, c->logLoss, c->accuracy, c->seconds);
    }
    ereport(
        NOTICE,
        (errmsg("chose %d of at most %d steps", choice->candidates[choice->chosen].steps, choice->maxSteps),
         errdetail("The rows held out in %d folds, by steps: %s.", IA3_CALIBRATION_FOLDS, table.data)));
}

/* What the runs of the candidate from `first` on take, in steps of single runs. */
static int64
steps_from(const Ia3StepChoice *choice, int first)
{
    int64 steps = 0;

    for (int i = first; i < IA3_STEP_CANDIDATES; i++)
        steps += (int64) choice->candidates[i].steps * IA3_CALIBRATION_FOLDS;
    return steps;
}

void
Ia3StepsChoose(Ia3StepChoice *choice, Ia3TrainJob *job)
{
    const Ia3Recipe *recipe = job->recipe;

    for (int i = 0; i < IA3_STEP_CANDIDATES; i++) {
        Ia3HeldOut *heldOut;

        job->recipe = recipe_with_steps(recipe, choice->candidates[i].steps);
        job->stepsBefore = steps_from(choice, 0) - steps_from(choice, i);
        job->stepsAfter = steps_from(choice, i + 1) + choice->maxSteps; /* of the last run, at most */
        heldOut = try_candidate(choice, &choice->candidates[i]);
        if (i == 0 || choice->candidates[i].logLoss < choice->candidates[choice->chosen].logLoss) {
            choice->chosen = i;
            choice->heldOut = heldOut;
        }
    }
    report_choice(choice);
    job->recipe = recipe_with_steps(recipe, choice->candidates[choice->chosen].steps);
    job->nRuns = 0;
    job->stepsBefore = steps_from(choice, 0);
    job->stepsAfter = 0;
    job->isPart = false;
}

Datum
Ia3StepsMetrics(Datum metrics, const Ia3StepChoice *choice)
{
    Ia3JsonObject json;
    double seconds = 0;

    for (int i = 0; i < IA3_STEP_CANDIDATES; i++)
        seconds += choice->candidates[i].seconds;
    Ia3JsonBegin(&json);
    Ia3JsonBeginMember(&json, "early_stopping");
    Ia3JsonPutString(&json, "rule", "folds");
    Ia3JsonPutInteger(&json, "max_steps", choice->maxSteps);
    Ia3JsonPutInteger(&json, "folds", IA3_CALIBRATION_FOLDS);
    Ia3JsonPutInteger(&json, "chosen_steps", choice->candidates[choice->chosen].steps);
    Ia3JsonPutFloat(&json, "seconds", seconds);
    Ia3JsonBeginMember(&json, "candidates");
    for (int i = 0; i < IA3_STEP_CANDIDATES; i++) {
        const Ia3StepCandidate *c = &choice->candidates[i];

        Ia3JsonBeginMember(&json, psprintf("%d", c->steps));
        Ia3JsonPutFloat(&json, "log_loss", c->logLoss);
        Ia3JsonPutFloat(&json, "accuracy", c->accuracy);
        Ia3JsonPutFloat(&json, "seconds", c->seconds);
        Ia3JsonEndMember(&json);
    }
    Ia3JsonEndMember(&json);
    Ia3JsonEndMember(&json);
    return DirectFunctionCall2(jsonb_concat, metrics, Ia3JsonEnd(&json));
}
