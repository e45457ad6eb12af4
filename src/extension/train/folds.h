/*
 * folds.h
 *     The folds of a cross-validation: which row is held out by which training run.
 */
#ifndef IA3_FOLDS_H
#define IA3_FOLDS_H

#include "examples.h"
#include "train_job.h"

#define IA3_MAX_FOLDS   100
#define IA3_MAX_REPEATS 100

/*
 * Distributes the rows: fold[i], from 0, is the fold of rows->rows[i]. Rows of a group stay together; without groups each row
 * is one. The groups are taken in order: the largest first, among equals by the label of their first row (in the order in
 * which labels appear), then at random, as a function of seed and repeat. Each goes to the fold that has the smallest share
 * of its rows' labels, among equals to the one with the fewest rows, then to the first. So without groups the folds' sizes
 * differ by at most one, and so does the number of rows of each label. ERROR 22023 if there are fewer groups than folds.
 */
extern void Ia3FoldsAssign(const Ia3TrainRows *rows, int folds, int64 seed, int repeat, int *fold);

/* Says how many labels occur only once, by a NOTICE: whoever predicts such a row has seen none with its label. */
extern void Ia3FoldsReportSingleLabels(const Ia3TrainRows *rows);

/*
 * The seed of the run that holds out a fold, both from 0: seed + 32 * (repeat * folds + fold), modulo 2^64. The members of an
 * ensemble, at most 32, use consecutive seeds.
 */
extern int64 Ia3FoldSeed(int64 seed, int folds, int repeat, int fold);

/* The runs [folds] that each leave out one fold, their examples in the order of the rows. */
extern void Ia3FoldsRuns(const int *fold, int n, int folds, int64 seed, int repeat, Ia3JobRun *runs);

/*
 * Scores every row with the adapter of the run that has not seen it, trained[fold of the row], and the first template.
 * scores[i] becomes the scores of the choices of row i, as in Ia3ScoreResult. Inputs are cut as in training (the job's
 * maxInputTokens). Reads no table, and needs no snapshot. ERROR for the first row that cannot be
 * scored.
 */
extern void Ia3FoldsScore(const Ia3TrainJob *job, const Ia3Examples *examples, const Ia3Template *template,
                          const int *fold, int folds, const Ia3Trained *trained, double **scores);

#endif
