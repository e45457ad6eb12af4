/*
 * shmem.h
 *     The extension's shared memory, for those who write it: the supervisor (engines), the client
 *     (their load) and progress.c.
 *
 * Readers use the functions of ia3.h.
 */
#ifndef IA3_SHMEM_H
#define IA3_SHMEM_H

#include "extension/ia3.h"

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
/* All at once: nobody sees a backbone without a current engine, or with old and new ones. */
extern void Ia3PublishEngines(const int *slots, const Ia3EngineStatus *const *statuses, int n);
/* The supervisor has acted on the configuration that was loaded at that time; 0: it is about to act on one. */
extern void Ia3PublishConfigured(TimestampTz loaded);
/* True if that is no older than the one this process has. */
extern bool Ia3ConfigurationIsKnown(void);
extern uint32 Ia3NextGeneration(void);

/* "starting", "ready" ...; never NULL. */
extern const char *Ia3EngineStateName(Ia3EngineState state);

/*
 * What the backends have asked an engine for and not yet been answered. They account for it themselves, also at
 * their end (client.c); if one crashes, all shared memory is made anew.
 */
typedef struct Ia3EngineLoad {
    int connections;
    int trainings;
    int64 bytes; /* of requests to score and to generate */
} Ia3EngineLoad;

/* Copies all used entries into statuses[IA3_MAX_ENGINES], and their loads unless NULL; returns how many. */
extern int Ia3GetEngineStatuses(Ia3EngineStatus *statuses, Ia3EngineLoad *loads);
extern int64 Ia3OutstandingBytes(const Ia3EngineLoad *load);

/* Names an engine between its start and its end. */
typedef struct Ia3EngineKey {
    int slot;
    uint32 generation; /* 0 = no engine */
} Ia3EngineKey;

/* Which engine of a backbone is wanted. */
typedef struct Ia3EngineWish {
    bool training;        /* where the fewest trainings are, rather than where the least work is */
    Ia3EngineKey present; /* preferred unless another has clearly less to do */
    bool stay;            /* preferred in any case */
    int nAvoid;
    uint32 avoid[IA3_MAX_DEVICES]; /* generations that do not answer; taken only if there is no other */
} Ia3EngineWish;

extern bool Ia3ChooseEngine(const char *backbone, const Ia3EngineWish *wish, Ia3EngineStatus *status,
                            Ia3EngineKey *key);
/* How many engines of the backbone are ready and not to be avoided. */
extern int Ia3CountEngines(const char *backbone, const Ia3EngineWish *wish);
extern bool Ia3EngineAvoided(const Ia3EngineWish *wish, uint32 generation);
extern bool Ia3EngineIsCurrent(Ia3EngineKey key);
extern bool Ia3EngineLastWords(Ia3EngineKey key, const char *backbone, char *words, size_t size);
/* Adds to the load of the engine; does nothing if it has ended. */
extern void Ia3EngineAddLoad(Ia3EngineKey key, Ia3EngineLoad load);

#endif
