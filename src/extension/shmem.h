/*
 * shmem.h
 *     The extension's shared memory, for those who write it: the supervisor (engines) and progress.c.
 *
 * Readers use the functions of ia3.h.
 */
#ifndef IA3_SHMEM_H
#define IA3_SHMEM_H

#include "ia3.h"

#include "storage/lwlock.h"

/* A training under way in one backend; free when pid is 0. Guarded by Ia3ProgressLock(). */
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

extern LWLock *Ia3ProgressLock(void);
extern Ia3ProgressSlot *Ia3ProgressSlots(int *n);

extern void Ia3ShmemResetEngines(void); /* a new supervisor begins with the configured list */
extern void Ia3PublishEngine(int slot, const Ia3EngineStatus *status);
/* Two at once: nobody sees a backbone without a current engine, or with two. */
extern void Ia3PublishEngines(int slot1, const Ia3EngineStatus *status1, int slot2,
                              const Ia3EngineStatus *status2);
/* The supervisor has acted on the configuration that was loaded at that time. */
extern void Ia3PublishConfigured(TimestampTz loaded);
/* True if that is no older than the one this process has. */
extern bool Ia3ConfigurationIsKnown(void);
extern uint32 Ia3NextGeneration(void);

/* "starting", "ready" ...; never NULL. */
extern const char *Ia3EngineStateName(Ia3EngineState state);

/* True if the engine of `backbone` is ready and still the one that `generation` names. */
extern bool Ia3EngineIsCurrent(const char *backbone, uint32 generation);

#endif
