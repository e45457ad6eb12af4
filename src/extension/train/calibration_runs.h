/*
 * calibration_runs.h
 *     The training runs of a calibration, which each leave out a fifth of the rows and score it.
 */
#ifndef IA3_CALIBRATION_RUNS_H
#define IA3_CALIBRATION_RUNS_H

#include "calibration.h"
#include "folds.h"

#define IA3_CALIBRATION_FOLDS 5

typedef struct Ia3CalibrationRuns {
    Ia3TrainJob *job;
    const Ia3Examples *examples;
    const Ia3Template *template; /* the first one, with which rows are scored */
    bool withAll;                /* the first run is on all rows, and makes the version itself */
    int *fold;                   /* [rows] from 0 */
    Ia3JobRun *runs;
} Ia3CalibrationRuns;

/*
 * Assigns the rows to folds and gives the job its runs, whose seeds are those of ia3_cross_predict with five folds, all in the
 * current memory context. job, examples and template are filled in. A NOTICE says how many labels occur only once.
 * ERROR 22023 if there are fewer rows than folds.
 */
extern void Ia3CalibrationRunsPrepare(Ia3CalibrationRuns *c);

/*
 * Trains, and scores every row by the run that has not seen it. *version becomes the result of the first run if it is on all
 * rows. Of multi-label examples, each label of each row becomes a row with two answers, "yes" and "no". The progress ends, unless the job has steps to come. Reads no table, and needs no snapshot. ERROR as for Ia3TrainRun and Ia3FoldsScore.
 */
extern Ia3HeldOut *Ia3CalibrationRunsTrain(Ia3CalibrationRuns *c, Ia3Trained *version);

/* The metrics (jsonb; 0: none) of a version with what its calibration is worth, as the member "calibration". */
extern Datum Ia3CalibrationMetrics(Datum metrics, const Ia3HeldOut *heldOut,
                                   const Ia3Calibration *calibration);

#endif
