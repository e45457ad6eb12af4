/*
 * early_stopping.h
 *     The option early_stopping: when training ends before the steps that were asked for.
 *
 *     With 'loss' the engine ends each run by its own losses (engine/recipe/stopping.h). With 'folds' the number of steps is chosen
 *     here: cross-validation runs train with an eighth, a quarter, a half and all of `steps`, each with a learning rate that
 *     rises and falls over its own number of steps, and the number whose held-out log loss is the least is trained on all rows.
 */
#ifndef IA3_EARLY_STOPPING_H
#define IA3_EARLY_STOPPING_H

#include "extension/tasks/held_out.h"
#include "calibration_runs.h"

#define IA3_STEP_CANDIDATES 4
#define IA3_MIN_FOLDS_STEPS 8 /* so that the candidates differ */

/* What cross-validation says of a number of steps. */
typedef struct Ia3StepCandidate {
    int steps;
    double logLoss, accuracy; /* of all rows, each by the run that has not seen it */
    double seconds;
} Ia3StepCandidate;

typedef struct Ia3StepChoice {
    Ia3CalibrationRuns runs; /* on the folds that calibration has */
    int maxSteps;
    Ia3StepCandidate candidates[IA3_STEP_CANDIDATES]; /* by steps */
    int chosen;
    Ia3HeldOut *heldOut; /* how the rows were scored with the chosen number of steps */
} Ia3StepChoice;

/* A value of the option; NULL: 'none'. ERROR 22023 for an unknown one. */
extern Ia3EarlyStoppingOption Ia3EarlyStoppingParse(const char *value);
/* NULL for 'none'. */
extern const char *Ia3EarlyStoppingName(Ia3EarlyStoppingOption option);

/* ERROR 22023 if the option is 'folds', which needs rows to hold out that cross-validation does not leave. */
extern void Ia3EarlyStoppingCheckCross(const Ia3Recipe *recipe);

/*
 * Assigns the rows of the job, whose recipe is complete, to folds. ERROR 22023 for fewer rows or steps than are needed. The
 * examples must live until Ia3StepsChoose returns.
 */
extern void Ia3StepsPrepare(Ia3StepChoice *choice, Ia3TrainJob *job, const Ia3Examples *examples,
                            const Ia3Template *template);

/*
 * Trains and scores the runs of all candidates, and gives the job, for the run on all rows that is to follow, a recipe with the chosen steps.
 * The least log loss wins; among equals the fewest steps. A NOTICE tells what was chosen, and from what. Progress is that of all runs, the one
 * to follow included. Reads no table, and needs no snapshot. ERROR as for Ia3CalibrationRunsTrain.
 */
extern void Ia3StepsChoose(Ia3StepChoice *choice, Ia3TrainJob *job);

/* The metrics of a version with the member "early_stopping": what was chosen, and the candidates. */
extern Datum Ia3StepsMetrics(Datum metrics, const Ia3StepChoice *choice);

#endif
