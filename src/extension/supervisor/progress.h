/*
 * progress.h
 *     The progress of training runs, in shared memory: one slot per backend that trains.
 */
#ifndef IA3_PROGRESS_H
#define IA3_PROGRESS_H

#include "datatype/timestamp.h"

/* A training run under way in one backend; free when pid is 0. Guarded by Ia3ProgressLock(). */
typedef struct Ia3ProgressSlot {
    int pid;
    Oid database;
    Oid user;
    char task[256];
    int step;
    int steps;
    double loss;          /* NaN before the first report */
    double rowsPerSecond; /* likewise */
    double secondsLeft;   /* likewise */
    TimestampTz started;
} Ia3ProgressSlot;

/*
 * Shows that this backend now trains `task`, or "" for none, for `steps` steps. Without a free slot (there is one for every backend, so
 * only if the settings do not add up) nothing is shown; that is no reason to fail.
 */
extern void Ia3ProgressStart(const char *task, int steps);

/* Shows the number of steps done, of how many, the latest loss, the speed in examples per second and the seconds left. */
extern void Ia3ProgressUpdate(int step, int steps, double loss, double rowsPerSecond, double secondsLeft);

/* Gives the slot back; harmless without one. Also runs when the transaction aborts and when the backend exits. */
extern void Ia3ProgressEnd(void);

#endif
