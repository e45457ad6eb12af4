/*
 * evaluate.h
 *     Measuring a task on labelled rows.
 */
#ifndef IA3_EVALUATE_H
#define IA3_EVALUATE_H

#include "extension/predict/ranking.h"
#include "extension/tasks/task.h"

typedef struct Ia3ConfusionCell {
    int label, predicted; /* positions in `labels`; of a multi-label task, they are the same, or one is -1 */
    int64 n;              /* rows, at least 1 */
} Ia3ConfusionCell;

/* How often a label occurs. */
typedef struct Ia3ClassCounts {
    int64 n, predicted; /* as true label, as prediction */
    int64 right;        /* as both */
} Ia3ClassCounts;

typedef struct Ia3Confusion {
    const Ia3Task *task;
    const Ia3Strings *labels; /* the task's choices, then other labels and predictions as they occurred */
    int nCells;
    Ia3ConfusionCell *cells; /* sorted by label, then by prediction */
    Ia3ClassCounts *classes; /* [labels->n] */
    int64 n;                 /* rows */
    double accuracy;
    double macroF1;          /* over the labels that occur as true label or as prediction; NaN: none does */
    double microF1;          /* of a multi-label task, over the labels of all rows; NaN: none occurs */
    bool hasGap;             /* some row has more than one choice */
    int64 answered;          /* rows whose prediction is likely enough */
    double answeredAccuracy; /* over these rows; NaN if there are none */
    double meanGap;          /* over these rows: the score of the true label minus the best other score */
    double seconds;
} Ia3Confusion;

/*
 * Predicts every row of a query with a task, or with one version of it ("task@3"), and compares with the labels, also
 * predictions that are less likely than `minProbability` (ranking.h), which only decides what counts as answered. The
 * result lives in the current memory context. ERROR as for Ia3ScoringTask and Ia3ScoreRows.
 *
 * Of a multi-label task, accuracy is the share of rows whose labels are all as predicted, and all rows are answered; `minProbability`
 * is the threshold of all labels. The gap is over all labels of all rows: how much more likely the right answer is, "yes" or "no".
 */
extern Ia3Confusion *Ia3Evaluate(const char *reference, const char *query, double minProbability,
                                 const char *function);

#endif
