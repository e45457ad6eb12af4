/*
 * thresholds.c
 *     From which probability on a label of a multi-label task is right, from scores of rows that had not been seen.
 */
#include "postgres.h"

#include <math.h>

#include "miscadmin.h"
#include "utils/fmgrprotos.h"

#include "arrays.h"
#include "thresholds.h"

/* A label of a held-out row. */
typedef struct Answer {
    int label, fold;
    bool right;
    double score; /* of "yes" less that of "no" */
} Answer;

typedef struct Answers {
    int n;
    Answer *items; /* sorted by label, then by score, the highest first */
    const Ia3Strings *labels;
    int *first; /* [labels->n + 1] where each label's answers begin */
} Answers;

static int
compare_answers(const void *a, const void *b)
{
    const Answer *x = a, *y = b;

    if (x->label != y->label)
        return x->label - y->label;
    return x->score == y->score ? 0 : x->score > y->score ? -1 : 1;
}

static Answers
collect_answers(const Ia3Examples *examples, const Ia3HeldOut *heldOut)
{
    Answers answers = {.n = heldOut->n, .items = Ia3ArrayOf(heldOut->n, sizeof(Answer))};
    Ia3StringIndex *index = Ia3StringIndexCreate();

    for (int i = 0, at = 0; i < examples->rows->n; i++) {
        const Ia3Strings *labels = examples->sets[examples->set[i]];

        for (int l = 0; l < labels->n; l++, at++) {
            const Ia3HeldOutRow *row = &heldOut->rows[at];
            bool found;

            answers.items[at] = (Answer){Ia3StringIndexAdd(index, labels->items[l], &found), row->fold,
                                         row->label == 0, row->scores[0] - row->scores[1]};
        }
    }
    answers.labels = Ia3StringIndexStrings(index);
    answers.first = Ia3ArrayOf(answers.labels->n + 1, sizeof(int));
    for (int i = 0; i < answers.n; i++)
        answers.first[answers.items[i].label + 1]++;
    for (int l = 0; l < answers.labels->n; l++)
        answers.first[l + 1] += answers.first[l];
    qsort(answers.items, answers.n, sizeof(Answer), compare_answers);
    return answers;
}

static double
probability(const Answer *answer, double temperature)
{
    return 1 / (1 + exp(-answer->score / temperature));
}

/* Of the thresholds above `low` and up to `high`, which all say the same: the default if it is one of them, else the middle. */
static double
between(double low, double high)
{
    if (low < IA3_DEFAULT_THRESHOLD && IA3_DEFAULT_THRESHOLD <= high)
        return IA3_DEFAULT_THRESHOLD;
    return (low + high) / 2;
}

/* The threshold of a label, from the rows of all folds but one; -1: from all. */
static double
fit_label(const Answers *answers, int label, int leftOut, double temperature)
{
    int from = answers->first[label], end = answers->first[label + 1];
    int right = 0, wrong = 0, predicted = 0, hits = 0;
    double best = IA3_DEFAULT_THRESHOLD, bestF1 = -1, last = 1;

    for (int i = from; i < end; i++)
        if (answers->items[i].fold != leftOut)
            (*(answers->items[i].right ? &right : &wrong))++;
    if (right < IA3_MIN_THRESHOLD_ROWS || wrong < IA3_MIN_THRESHOLD_ROWS)
        return best;
    for (int i = from; i <= end; i++) {
        double p, f1, threshold;

        if (i < end && answers->items[i].fold == leftOut)
            continue;
        p = i < end ? probability(&answers->items[i], temperature) : 0;
        threshold = between(p, last); /* what comes before is right, this is not */
        f1 = 2.0 * hits / (predicted + right);
        if (p < last && (f1 > bestF1 || (f1 == bestF1 && fabs(threshold - IA3_DEFAULT_THRESHOLD) <
                                                             fabs(best - IA3_DEFAULT_THRESHOLD)))) {
            bestF1 = f1;
            best = threshold;
        }
        predicted++;
        hits += i < end && answers->items[i].right;
        last = p;
    }
    return best;
}

/* How the answers that are "yes" compare with those that are right. */
typedef struct Counts {
    int64 right, predicted, hits;
} Counts;

static void
count_answers(const Answers *answers, int label, int fold, double threshold, double temperature,
              Counts *counts)
{
    for (int i = answers->first[label]; i < answers->first[label + 1]; i++) {
        const Answer *a = &answers->items[i];
        bool yes = probability(a, temperature) >= threshold;

        if (a->fold != fold)
            continue;
        counts->right += a->right;
        counts->predicted += yes;
        counts->hits += yes && a->right;
    }
}

static double
f1_of(const Counts *counts)
{
    int64 both = counts->right + counts->predicted;

    return both > 0 ? 2.0 * counts->hits / both : 1;
}

/* Decides the rows of each fold with what the others say. */
static void
measure(const Answers *answers, const Ia3HeldOut *heldOut, Ia3Thresholds *result)
{
    double *temperature = Ia3TemperatureByFold(heldOut);
    int folds = Ia3HeldOutFolds(heldOut);
    Counts before = {0}, after = {0};

    for (int l = 0; l < answers->labels->n; l++)
        for (int f = 0; f < folds; f++) {
            CHECK_FOR_INTERRUPTS();
            if (temperature[f] == 0) /* no row is in the fold */
                continue;
            count_answers(answers, l, f, IA3_DEFAULT_THRESHOLD, temperature[f], &before);
            count_answers(answers, l, f, fit_label(answers, l, f, temperature[f]), temperature[f], &after);
        }
    result->f1Before = f1_of(&before);
    result->f1After = f1_of(&after);
    pfree(temperature);
}

void
Ia3ThresholdsFit(const Ia3Examples *examples, const Ia3HeldOut *heldOut, Ia3Thresholds *thresholds)
{
    Answers answers = collect_answers(examples, heldOut);
    double temperature = Ia3TemperatureFit(heldOut, -1);
    Ia3JsonObject json;

    Ia3JsonBegin(&json);
    for (int l = 0; l < answers.labels->n; l++)
        Ia3JsonPutFloat(&json, answers.labels->items[l], fit_label(&answers, l, -1, temperature));
    thresholds->byLabel = Ia3JsonEnd(&json);
    measure(&answers, heldOut, thresholds);
    pfree(answers.items);
    pfree(answers.first);
}

Datum
Ia3ThresholdsMetrics(Datum metrics, const Ia3Thresholds *thresholds)
{
    Ia3JsonObject json;

    Ia3JsonBegin(&json);
    Ia3JsonBeginMember(&json, "thresholds");
    Ia3JsonPutFloat(&json, "micro_f1_before", thresholds->f1Before);
    Ia3JsonPutFloat(&json, "micro_f1_after", thresholds->f1After);
    Ia3JsonEndMember(&json);
    return DirectFunctionCall2(jsonb_concat, metrics, Ia3JsonEnd(&json));
}
