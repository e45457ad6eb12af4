/*
 * evaluate.h
 *     How good a task is on labelled rows.
 */
#ifndef IA3_EVALUATE_H
#define IA3_EVALUATE_H

#include "extension/tasks/task.h"

typedef struct Ia3ConfusionCell {
    int label, predicted; /* positions in labels */
    int64 n;              /* rows, at least 1 */
} Ia3ConfusionCell;

typedef struct Ia3Confusion {
    const Ia3Task *task;
    const Ia3Strings *labels; /* the task's choices, then what else occurred, as it occurred */
    int nCells;
    Ia3ConfusionCell *cells; /* by label, then by predicted */
    int64 n;                 /* rows */
    double accuracy;
    double macroF1; /* over the labels that occur as truth or as prediction */
    bool hasGap;    /* some row has more than one choice */
    double meanGap; /* mean over these of the score of the right choice minus the best other score */
    double seconds;
} Ia3Confusion;

/*
 * Asks a task (or one version of it, "task@3") about every row of a query (train_rows.h says what it may be).
 * ERROR as for these, and 22023 for a label that is not among the choices of its row and for no rows at all.
 */
extern Ia3Confusion *Ia3Evaluate(const char *reference, const char *query);

#endif
