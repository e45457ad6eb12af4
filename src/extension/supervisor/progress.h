/*
 * progress.h
 *     The progress of training runs, and of tables being labelled, in shared memory: one slot per backend.
 */
#ifndef IA3_PROGRESS_H
#define IA3_PROGRESS_H

#include "datatype/timestamp.h"

typedef enum Ia3ProgressKind { IA3_PROGRESS_TRAIN, IA3_PROGRESS_LABEL } Ia3ProgressKind;

/* How far the labelling of a table is. */
typedef struct Ia3LabelProgress {
    Oid relation;
    int64 blocksDone, blocksTotal;
    int64 rows; /* labelled */
    TimestampTz started;
} Ia3LabelProgress;

/* What is under way in one backend; free when pid is 0. Guarded by Ia3ProgressLock(). */
typedef struct Ia3ProgressSlot {
    int pid;
    Ia3ProgressKind kind;
    Oid database;
    Oid user;
    char task[256];
    int step;
    int steps;
    double loss;          /* NaN before the first report */
    double rowsPerSecond; /* likewise */
    double secondsLeft;   /* likewise */
    TimestampTz started;
    Ia3LabelProgress label; /* the other members are of training */
} Ia3ProgressSlot;

/*
 * Shows that this backend now trains `task`, or "" for none, for `steps` steps. Without a free slot (there is one for every backend, so
 * only if the settings do not add up) nothing is shown; that is no reason to fail.
 */
extern void Ia3ProgressStart(const char *task, int steps);

/* Shows the number of steps done, of how many, the latest loss, the speed in examples per second and the seconds left. */
extern void Ia3ProgressUpdate(int step, int steps, double loss, double rowsPerSecond, double secondsLeft);

/*
 * Shows that this backend labels a table, and how far it is; `task` is "name@version". Has to be called again in each transaction,
 * because the slot is given back at the end of one.
 */
extern void Ia3ProgressLabel(const char *task, const Ia3LabelProgress *progress);

/* Gives the slot back; harmless without one. Also runs when the transaction aborts and when the backend exits. */
extern void Ia3ProgressEnd(void);

#endif
