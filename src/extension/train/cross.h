/*
 * cross.h
 *     Cross-validation: the scores of labelled rows by adapters that have not seen them.
 */
#ifndef IA3_CROSS_H
#define IA3_CROSS_H

#include "folds.h"

typedef struct Ia3Cross {
    const char *query;
    int folds, repeats;
    int nSizes; /* how many runs each fold of a learning curve has; 0: it is a cross-validation */
    Ia3RowColumns columns;
    /* the rest is filled in by Ia3CrossBegin and Ia3CrossRun */
    Ia3TrainJob job;
    Ia3Recipe *recipe;
    Ia3Template **templates;
    Ia3Examples *examples;
    int **fold;       /* [repeats][rows] from 0 */
    double ***scores; /* [repeats][rows][choices of the row] */
    double *seconds;  /* [repeats] */
} Ia3Cross;

/*
 * Reads the argument query, which is the first one, and folds, repeats and group_column, which follow one another from argument
 * `folds`, from 0. ERROR 22004 for a NULL in one of the first three, 22023 for numbers out of range.
 */
extern void Ia3CrossArguments(Ia3Cross *cross, FunctionCallInfo fcinfo, int folds);

/* The same for ia3_cross_predict and ia3_cross_validate: query, folds, repeats, group_column, id_column. */
extern void Ia3CrossFunctionArguments(Ia3Cross *cross, FunctionCallInfo fcinfo);

/*
 * Reads and labels the rows, in the current memory context, and assigns the folds. A NOTICE says which seed was drawn, if none
 * was given, and how many labels occur only once. ERROR as for ia3_train, and as for Ia3FoldsAssign. No lock on a table
 * remains.
 */
extern void Ia3CrossBegin(Ia3Cross *cross, FunctionCallInfo fcinfo, const Ia3Options *options);

/*
 * Trains the runs [nRuns] of a repeat together, with progress that is that of all repeats. The caller calls Ia3ProgressEnd after
 * the last one.
 */
extern void Ia3CrossTrain(Ia3Cross *cross, int repeat, const Ia3JobRun *runs, int nRuns, Ia3Trained *trained);

/*
 * Trains a run for each fold of each repeat, the folds of a repeat together, and scores the rows that it has not seen. Nothing
 * is stored.
 */
extern void Ia3CrossRun(Ia3Cross *cross);

/* The choices of row i. */
static inline const Ia3Strings *
Ia3CrossChoices(const Ia3Cross *cross, int i)
{
    return cross->examples->sets[cross->examples->set[i]];
}

#endif
