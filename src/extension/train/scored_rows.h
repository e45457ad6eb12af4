/*
 * scored_rows.h
 *     Predicting the labelled rows of a query with one task, or with several, and handing them over one by one.
 */
#ifndef IA3_SCORED_ROWS_H
#define IA3_SCORED_ROWS_H

#include "extension/predict/ranking.h"
#include "extension/tasks/task.h"
#include "train_rows.h"

/* What one of the tasks predicts for a row. */
typedef struct Ia3ScoredAnswer {
    const Ia3Ranking *ranking;
    int gold;          /* position of the row's label among the choices */
    const bool *right; /* of a multi-label task, by position; NULL: `gold` is right */
} Ia3ScoredAnswer;

typedef struct Ia3ScoredRow {
    int64 number; /* 1: the first row that the query returned */
    const Ia3TrainRows *rows;
    const Ia3TrainRow *row;
    const Ia3ScoredAnswer *answers; /* [tasks] */
} Ia3ScoredRow;

/* Valid only during the call, which runs inside the subtransaction that Ia3ScanTrainRows rolls back. */
typedef void (*Ia3TakeScored)(const Ia3ScoredRow *row, void *arg);

static inline bool
Ia3AnswerIsRight(const Ia3ScoredAnswer *answer)
{
    return answer->ranking->choices[0].position == answer->gold;
}

/*
 * Looks up a task, or one version of it ("task@3"), for Ia3ScoreRows. ERROR as for Ia3TaskLookup,
 * Ia3TaskCheckBackbone and Ia3CheckChoices, and 0A000 for a multi-label task if `function`, the name of what is called, is not NULL.
 */
extern Ia3Task *Ia3ScoringTask(const char *reference, const char *function);

/*
 * Reads the rows of a query once (see train_rows.h for what it may be; it must return the fields of the first template of
 * each task) and predicts each with the tasks, all by their first templates. A row's own choices come before those of a
 * task. If the first task is a multi-label one, so are the others, and the query's labels are arrays. Returns the number of rows. ERROR as for Ia3ScanTrainRows, 22023 for a label that is not among the choices of
 * its row and for a query without rows, and 0A000 for tasks that read values in different ways (`rowsAsWritten`).
 */
extern int64 Ia3ScoreRows(Ia3Task *const *tasks, int nTasks, const char *query, Ia3TakeScored take,
                          void *arg);

#endif
