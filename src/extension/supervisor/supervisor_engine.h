/*
 * supervisor_engine.h
 *     The life of one engine. In the supervisor only.
 */
#ifndef IA3_SUPERVISOR_ENGINE_H
#define IA3_SUPERVISOR_ENGINE_H

#include "engine_process.h"
#include "extension/clock.h"
#include "shmem.h"

/* In the data directory, 0700, left out of base backups. */
#define IA3_SOCKET_DIRECTORY PG_STAT_TMP_DIR

/* Whether a running engine gives signs of life (watchdog.c). */
typedef struct Ia3Watch {
    int64 timeout;              /* in ms, that the rest follows */
    Ia3Time askAt;              /* when to ask for the next sign */
    Ia3Time answeredAt;         /* when its I/O thread answered last */
    Ia3Time aliveAt;            /* when it was last known to make progress, or to have nothing to do */
    Ia3EngineState stateBefore; /* while it is hung: its state before that */
    bool killed;
} Ia3Watch;

typedef struct Ia3Engine {
    Ia3EngineStatus status; /* published after every change */
    char label[sizeof(((Ia3BackboneSpec *) NULL)->name) +
               sizeof(((Ia3BackboneSpec *) NULL)->device)]; /* for messages */
    Ia3EngineSettings settings;
    Ia3Process process;
    char lastError[IA3_LINE_MAX + 1]; /* the last that it has logged since its start */
    bool outdated;                    /* current only until its successors take over */
    bool leaving;                     /* drains or stops; once it has ended, its entry is freed */
    bool stopping;                    /* SIGTERM was sent */
    bool keep;                        /* while the configuration is applied: it is wanted */
    bool gaveReason;                  /* status.message says why it failed */
    int failures;                     /* ends in a row before it was ready */
    int backoffMs;                    /* of the next restart */
    TimestampTz readySince;           /* while it is ready: what users see as the beginning of this */
    Ia3Time readyAt;                  /* 0 = not ready */
    Ia3Time startAt;                  /* while it does not run: when to start; 0 = never */
    Ia3Time endBy; /* while it leaves: when it gets the next stronger signal; 0 = no bound */
    Ia3Watch watch;
} Ia3Engine;

/* The entries have the numbers of those in shared memory. */
extern Ia3Engine Ia3Engines[IA3_MAX_ENGINES];

extern bool Ia3EngineInUse(const Ia3Engine *engine);

/* Publishes that the engine is in that state from now on. */
extern void Ia3EngineSetState(Ia3Engine *engine, Ia3EngineState state);

/*
 * Takes an unused entry for an engine that is to be started now. In shared memory the entry may already say that the
 * engine starts (Ia3ShmemResetEngines), and queries do not see it disappear in between.
 */
extern void Ia3EngineAdd(Ia3Engine *engine, const Ia3BackboneSpec *spec, const Ia3EngineSettings *settings,
                         bool current);
/* Starts the process; it says itself when it is ready. */
extern void Ia3EngineStart(Ia3Engine *engine);
/* The engine stays under a new list, in which its backbone may have more or fewer devices than before. */
extern void Ia3EngineAdopt(Ia3Engine *engine, const Ia3BackboneSpec *spec);
/* If the engine waits for its next attempt to start, it waits no longer: what was wrong may have been put right. */
extern void Ia3EngineRetry(Ia3Engine *engine);

/* Asks a running engine to end; its entry shows `state` in the meantime. */
extern void Ia3EngineTerminate(Ia3Engine *engine, Ia3EngineState state);
/* Ends an engine that is no longer wanted, whatever it is doing. */
extern void Ia3EngineStop(Ia3Engine *engine);
/* Notes that a serving engine is to finish its requests and end; neither publishes that nor signals the engine. */
extern void Ia3EngineBeginDraining(Ia3Engine *engine);
/* An engine is no longer wanted: depending on its state, it drains, is stopped, or its entry is freed. */
extern void Ia3EngineDismiss(Ia3Engine *engine);
/* Sends the next stronger signal to an engine that takes too long to leave. */
extern void Ia3EnginePress(Ia3Engine *engine);

/* Reads what the engine says, notices if it has ended, and decides what follows. */
extern void Ia3EngineAttend(Ia3Engine *engine);
/*
 * The supervisor itself ends: the engine is told to end, although its death pipe would tell it too, and queries learn
 * that it does not serve.
 */
extern void Ia3EngineForget(Ia3Engine *engine);

/* Notices for the supervisor's loop, which takes them back: a pipe was opened or closed, an entry was freed. */
extern bool Ia3PipesChanged;
extern bool Ia3EntryFreed;

#endif
