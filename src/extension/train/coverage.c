/*
 * coverage.c
 *     ia3_coverage_curve: how many rows each threshold leaves answered, and how accurately.
 */
#include "postgres.h"

#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

#include "arrays.h"
#include "calibration.h"
#include "extension/ia3_compat.h"
#include "extension/tasks/versions.h"
#include "scored_rows.h"

PG_FUNCTION_INFO_V1(ia3_coverage_curve);
PG_FUNCTION_INFO_V1(ia3_coverage_curve_held_out);

/* The best choice for a row. */
typedef struct Answer {
    double probability;
    bool right;
} Answer;

typedef struct Answers {
    int64 n, capacity;
    Answer *items;
} Answers;

static void
add_answer(const Ia3ScoredRow *row, void *arg)
{
    Answers *answers = arg;

    if (answers->n == answers->capacity) {
        answers->capacity *= 2;
        answers->items = repalloc_huge(answers->items, sizeof(Answer) * answers->capacity);
    }
    answers->items[answers->n].probability = row->answers[0].ranking->choices[0].probability;
    answers->items[answers->n++].right = Ia3AnswerIsRight(&row->answers[0]);
}

/* The most likely first. */
static int
compare_answers(const void *a, const void *b)
{
    double x = ((const Answer *) a)->probability, y = ((const Answer *) b)->probability;

    return x > y ? -1 : x < y;
}

/* A row for each probability that occurs: as a threshold it leaves all rows answered that come before it, or with it. */
static void
put_curve(const Answers *answers, ReturnSetInfo *rsinfo)
{
    int64 right = 0;

    for (int64 i = 0; i < answers->n; i++) {
        Datum values[3];
        bool nulls[3] = {false};

        CHECK_FOR_INTERRUPTS();
        right += answers->items[i].right;
        if (i + 1 < answers->n && answers->items[i + 1].probability == answers->items[i].probability)
            continue;
        values[0] = Float8GetDatum(answers->items[i].probability);
        values[1] = Int64GetDatum(i + 1);
        values[2] = Float8GetDatum((double) right / (i + 1));
        tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
    }
}

static Datum
return_curve(FunctionCallInfo fcinfo, Answers *answers)
{
    qsort(answers->items, answers->n, sizeof(Answer), compare_answers);
    Ia3InitMaterializedSRF(fcinfo);
    put_curve(answers, (ReturnSetInfo *) fcinfo->resultinfo);
    return (Datum) 0;
}

Datum
ia3_coverage_curve(PG_FUNCTION_ARGS)
{
    Answers answers = {.capacity = 256};
    Ia3Task *task = Ia3ScoringTask(text_to_cstring(PG_GETARG_TEXT_PP(0)), "ia3_coverage_curve");

    answers.items = palloc(sizeof(Answer) * answers.capacity);
    (void) Ia3ScoreRows(&task, 1, text_to_cstring(PG_GETARG_TEXT_PP(1)), add_answer, &answers);
    return return_curve(fcinfo, &answers);
}

/* What the version's temperature makes of the scores that it is calibrated with. */
Datum
ia3_coverage_curve_held_out(PG_FUNCTION_ARGS)
{
    Ia3Task *task = Ia3TaskLookup(text_to_cstring(PG_GETARG_TEXT_PP(0)));
    const Ia3HeldOut *heldOut;
    const Ia3Predicted *predicted;
    Answers answers = {.n = 0};
    double *temperatures;
    int folds;

    Ia3TaskRefuseMultiLabel(task, "ia3_coverage_curve", NULL);
    Ia3VersionsCheckOwner(task->name);
    heldOut = Ia3HeldOutRead(task, IA3_HELD_OUT_CALLER);
    if (heldOut == NULL)
        Ia3HeldOutRaiseMissing(
            task, "Without a query, the curve needs the scores of rows that the version has not seen.",
            "Train the task with calibrate => true, use ia3_calibrate, or specify a query.");
    folds = Ia3HeldOutFolds(heldOut);
    temperatures = palloc(sizeof(double) * folds);
    for (int f = 0; f < folds; f++)
        temperatures[f] = task->temperature > 0 ? task->temperature : 1;
    predicted = Ia3HeldOutPredict(heldOut, temperatures);
    answers.items = Ia3ArrayOf(heldOut->n, sizeof(Answer));
    for (; answers.n < heldOut->n; answers.n++) {
        Answer *answer = &answers.items[answers.n];

        answer->probability = predicted[answers.n].probability;
        answer->right = predicted[answers.n].label == predicted[answers.n].predicted;
    }
    return return_curve(fcinfo, &answers);
}
