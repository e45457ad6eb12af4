/*
 * shmem.h
 *     The extension's shared memory: what the supervisor publishes about its engines, and the load of requests that
 *     backends have sent them. Everyone reads it; the supervisor writes the entries, backends the loads.
 */
#ifndef IA3_SHMEM_H
#define IA3_SHMEM_H

#include "datatype/timestamp.h"
#include "storage/lwlock.h"

#include "backbones.h"
#include "progress.h"

/* Installs the hooks that reserve and set up the shared memory. Only from _PG_init while preloading. */
extern void Ia3ShmemInit(void);
/* True if the library was preloaded, that is, if the shared memory is there. */
extern bool Ia3Loaded(void);
/* ERROR 55000 with a hint unless it was. */
extern void Ia3RequirePreload(void);

/*
 * Engines
 *
 * The current engines of a backbone, one per device, share its requests. While its entry in the setting changes there
 * may be successors that load, and for a while predecessors that finish their requests. All of them have entries.
 */
#define IA3_MAX_ENGINES (4 * IA3_MAX_CONFIGURED)
typedef enum Ia3EngineState {
    IA3_ENGINE_UNUSED = 0,
    IA3_ENGINE_STARTING,
    IA3_ENGINE_LOADING,
    IA3_ENGINE_READY,
    IA3_ENGINE_FAILED,     /* gave its reason; tried again with back-off */
    IA3_ENGINE_RESTARTING, /* died; waits for its back-off */
    IA3_ENGINE_DRAINING,   /* replaced or removed; finishes its requests */
    IA3_ENGINE_HUNG,       /* gives no sign of life; will be killed */
    IA3_ENGINE_STOPPED
} Ia3EngineState;

/* Why no attempt is made to start an engine. */
typedef enum Ia3Obstacle {
    IA3_OBSTACLE_NONE,
    IA3_OBSTACLE_SETTING,    /* ia3.backbones is invalid */
    IA3_OBSTACLE_NO_WORKER,  /* there is no background worker for the supervisor */
    IA3_OBSTACLE_SINGLE_USER /* no background workers at all */
} Ia3Obstacle;

#define IA3_MAX_SOCKET 108 /* what sockaddr_un holds */
typedef struct Ia3EngineStatus {
    Ia3BackboneSpec spec;
    Ia3EngineState state;
    Ia3Obstacle obstacle; /* the state is then IA3_ENGINE_FAILED, and the message says more */
    bool current;         /* one of those of its backbone that requests go to */
    int percent;          /* while loading */
    int pid;
    uint32 generation; /* grows at every start */
    uint32 restarts;
    TimestampTz since; /* of this state */
    char message
        [512]; /* why it failed or died last; what a draining one still does; for how long a hung one has been silent */
    char socket[IA3_MAX_SOCKET];
} Ia3EngineStatus;

/* "starting", "ready" ...; never NULL. */
extern const char *Ia3EngineStateName(Ia3EngineState state);

/*
 * Requests of the backends to an engine that are not answered yet. The backends account for them themselves, also at
 * their end (connection.c); if one crashes, all shared memory is made anew.
 */
typedef struct Ia3EngineLoad {
    int connections;
    int trainings;
    int64 bytes; /* of requests to score and to generate */
} Ia3EngineLoad;

/*
 * What a new request has to wait for, in bytes of requests: the outstanding ones, and the step under way of each
 * training run. A slow engine accumulates more of it, and so gets fewer requests.
 */
extern int64 Ia3OutstandingBytes(const Ia3EngineLoad *load);

/*
 * Copies all used entries into statuses[IA3_MAX_ENGINES], and their loads unless NULL; returns how many. 0 when the
 * library was not preloaded.
 */
extern int Ia3GetEngineStatuses(Ia3EngineStatus *statuses, Ia3EngineLoad *loads);
/* Copies the entry of that current engine of the backbone which is nearest to serving; false if there is none. */
extern bool Ia3GetEngineStatus(const char *backbone, Ia3EngineStatus *status);

/* Names an engine between its start and its end. */
typedef struct Ia3EngineKey {
    int slot;
    uint32 generation; /* 0 = no engine */
} Ia3EngineKey;

/* True while requests go to the engine. */
extern bool Ia3EngineIsCurrent(Ia3EngineKey key);
/*
 * Why an engine of the backbone has ended, as far as the supervisor knows; empty if it does not. False if the
 * supervisor has not noticed yet that it has.
 */
extern bool Ia3EngineLastWords(Ia3EngineKey key, const char *backbone, char *words, size_t size);
/* Adds to the load of the engine; does nothing if it has ended. */
extern void Ia3EngineAddLoad(Ia3EngineKey key, Ia3EngineLoad load);

/* Which engine of a backbone is wanted. */
typedef struct Ia3EngineWish {
    bool training;        /* where the fewest training runs are, rather than where the least work is */
    Ia3EngineKey present; /* preferred unless another has clearly less to do */
    bool stay;            /* preferred in any case */
    int nAvoid;
    uint32 avoid[IA3_MAX_DEVICES]; /* generations that do not answer; taken only if there is no other */
} Ia3EngineWish;

/*
 * Copies the entry of the engine that the next request to the backbone should go to, and sets *key. If none is ready,
 * the entry is the one of Ia3GetEngineStatus and key->generation is 0. False if the backbone has no current engine.
 */
extern bool Ia3ChooseEngine(const char *backbone, const Ia3EngineWish *wish, Ia3EngineStatus *status,
                            Ia3EngineKey *key);
/* How many engines of the backbone are ready and not to be avoided. */
extern int Ia3CountEngines(const char *backbone, const Ia3EngineWish *wish);
extern bool Ia3EngineAvoided(const Ia3EngineWish *wish, uint32 generation);

/* True if the supervisor has acted on the configuration that this process has, or on a later one. */
extern bool Ia3ConfigurationIsKnown(void);

/*
 * For the supervisor
 */

/*
 * A new supervisor begins with the configured list. If that is invalid, the engines that it names have failed with the
 * reason, until engines are published in their entries.
 */
extern void Ia3ShmemResetEngines(void);
extern void Ia3PublishEngine(int slot, const Ia3EngineStatus *status);
/* All at once: nobody sees a backbone without a current engine, or with old and new ones. */
extern void Ia3PublishEngines(const int *slots, const Ia3EngineStatus *const *statuses, int n);
/* It has acted on the configuration that was loaded at that time; 0: it is about to act on one. */
extern void Ia3PublishConfigured(TimestampTz loaded);
/* Never 0 and never given twice, also not to different supervisors of one server run. */
extern uint32 Ia3NextGeneration(void);

/*
 * For progress.c
 */

extern LWLock *Ia3ProgressLock(void);
extern Ia3ProgressSlot *Ia3ProgressSlots(int *n);

#endif
