/*
 * train_job.h
 *     One TRAIN request: sent, watched and read.
 */
#ifndef IA3_TRAIN_JOB_H
#define IA3_TRAIN_JOB_H

#include "utils/timestamp.h"

#include "extension/client/engine_info.h"
#include "extension/tasks/task.h"
#include "train_options.h"

typedef struct Ia3TrainJob {
    const char *task; /* for ia3_stat_progress_train */
    const char *backbone;
    const Ia3Recipe *recipe;
    Ia3Task *init; /* NULL: ones */
    /* Writes the request from the choice sets on; called again when the request has to be sent again. */
    void (*putExamples)(ia3_writer *w, void *arg);
    void (*running)(void *arg); /* NULL, or called once it will not be sent again */
    void *arg;
    int stop;           /* pause after this step and give the state; 0: no */
    const bytea *state; /* to go on from; NULL: begin */
    /* kept from one request to the next, zero at first */
    TimestampTz told; /* when the latest NOTICE was */
    int tenths;       /* of the steps, told so far */
    bool runs;        /* the engine has reported progress of the present request */
} Ia3TrainJob;

/* What the engine made, in the memory context of the caller. */
typedef struct Ia3Trained {
    Ia3EngineInfo engine;
    bytea *vectors;
    Datum metrics; /* jsonb, of the steps of this request */
    int examples;
    bytea *state; /* NULL without a stop */
} Ia3Trained;

/* What keeps every training from starting here: ERROR 25006 in a transaction that cannot write, 55000 unless preloaded. */
extern void Ia3TrainPrevent(const char *function);

/*
 * Whose task, on which backbone, from where: fills the job's recipe, backbone and init for its task. ERROR as for
 * Ia3VersionsCheckOwner and Ia3TaskLookup.
 */
extern void Ia3TrainPrepare(Ia3TrainJob *job, const Ia3Recipe *recipe);

/* The version of the same task that the job starts from, 0 for none. */
extern int Ia3TrainParent(const Ia3TrainJob *job);

/*
 * Trains; waits for an engine that is loading. Reports progress in ia3_stat_progress_train and by NOTICEs. ERROR
 * as the engine has it, and 55000 when `init` belongs to another backbone.
 */
extern void Ia3TrainRun(Ia3TrainJob *job, Ia3Trained *trained);

#endif
