/*
 * train_job.h
 *     A TRAIN or TRAIN_RUNS request: sending it, reporting its progress, and reading its result.
 */
#ifndef IA3_TRAIN_JOB_H
#define IA3_TRAIN_JOB_H

#include "extension/client/engine_info.h"
#include "extension/clock.h"
#include "extension/tasks/task.h"
#include "train_options.h"
#include "weighting.h"

/* A run on some of the examples (TRAIN_RUNS). */
typedef struct Ia3JobRun {
    int64 seed;
    int n;
    int *examples; /* [n] from 0, in the order in which they count */
} Ia3JobRun;

typedef struct Ia3TrainJob {
    const char *task; /* shown in ia3_stat_progress_train; NULL: the run is for no task */
    const char *backbone;
    const Ia3Recipe *recipe;
    Ia3Task *init;      /* NULL: ones */
    int maxInputTokens; /* the setting when the run was prepared; a commit may change it back */
    /* Writes the rest of the request, from the choice sets; called again when the request has to be sent again. */
    void (*putExamples)(ia3_writer *w, void *arg);
    void (*taken)(void *arg); /* NULL, or called as soon as the request will not be sent again */
    void *arg;
    int stop;           /* step after which to pause and return the state; 0: train to the end */
    const bytea *state; /* to resume from; NULL: begin */
    const Ia3Weighting
        *weighting; /* of the examples; NULL: all weigh the same. Not needed once the request is `taken` */
    int nRuns;      /* 0: a single run on all examples, with the recipe's seed */
    const Ia3JobRun *runs;
    /* Of requests that follow one another with the progress of all: the steps of runs before and after this request. */
    int64 stepsBefore, stepsAfter;
    bool isPart; /* the progress remains after this request */
    /* what is carried over from one request of the run to the next; zero at first */
    Ia3Time told;       /* time of the latest NOTICE */
    int tenths;         /* of the steps reported so far */
    bool toldTruncated; /* how many inputs were truncated */
    bool running;       /* the engine has reported progress of the present request */
    int members;        /* that a run has, each with the run's steps: those of an ensemble, or 1 */
    Ia3Time begun;      /* the first of the requests */
} Ia3TrainJob;

/* The result, in the memory context of the caller. */
typedef struct Ia3Trained {
    Ia3EngineInfo engine;
    bytea *vectors;
    Datum metrics; /* jsonb, for the steps of this request */
    int examples;
    bytea *state; /* NULL without a stop */
} Ia3Trained;

/*
 * Raises the errors that keep any run from starting: 25006 in a transaction that cannot write, 55000 unless
 * preloaded.
 */
extern void Ia3TrainPrevent(const char *function);

/*
 * Fills in the job's recipe, backbone, init and maxInputTokens, given its task, if it has one, and completes the recipe. No
 * lock on a table is held afterwards. ERROR as for Ia3VersionsCheckOwner, Ia3TaskLookup, Ia3GetEngineInfo and Ia3RecipeComplete.
 */
extern void Ia3TrainPrepare(Ia3TrainJob *job, Ia3Recipe *recipe);

/* The version of the same task that the job starts from, 0 if there is none. */
extern int Ia3TrainParent(const Ia3TrainJob *job);

/*
 * Waits for the engine if it is loading, and trains. Reads no table, and needs no snapshot. Progress is reported in ia3_stat_progress_train and by NOTICEs.
 * *trained is an array, [nRuns] if the job has runs. If the request is a part, the progress remains until Ia3ProgressEnd or
 * the end of the last request, which is not marked as one.
 * ERROR as the engine raises it, and 55000 when `init` belongs to another backbone.
 */
extern void Ia3TrainRun(Ia3TrainJob *job, Ia3Trained *trained);

/*
 * The result as a version that is nowhere stored, with which rows can be scored (score_request.h). `label` is its name in
 * messages. The vectors are not copied.
 */
extern Ia3Task *Ia3TrainedTask(const Ia3TrainJob *job, const Ia3Trained *trained, const char *label);

#endif
