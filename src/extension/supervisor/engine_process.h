/*
 * engine_process.h
 *     One engine process as the supervisor sees it: a pid and the pipes to it.
 */
#ifndef IA3_ENGINE_PROCESS_H
#define IA3_ENGINE_PROCESS_H

#include "backbones.h"

/* The settings that an engine is started with; units as in guc.h. */
typedef struct Ia3EngineSettings {
    int threads;
    int maxBatchTokens;
    int adapterCacheSize;
    int memoryLimit;
    int memoryShare; /* if memoryLimit is -1: how many engines share the memory */
} Ia3EngineSettings;

/* A pipe that is read line by line; a longer line is cut. */
#define IA3_LINE_MAX 1000
typedef struct Ia3LineReader {
    int fd; /* -1 when closed */
    int len;
    char line[IA3_LINE_MAX + 1];
} Ia3LineReader;

typedef struct Ia3Process {
    pid_t pid;   /* 0 = none */
    int deathFd; /* the engine exits when this end is closed, and answers to bytes */
    Ia3LineReader status;
    Ia3LineReader log;
} Ia3Process;

extern void Ia3ProcessInit(Ia3Process *process);
/*
 * Starts the engine of `spec` with `settings`. Returns false and a reason in `error` if that fails at once; whether the
 * engine then loads, its status pipe tells.
 */
extern bool Ia3ProcessStart(Ia3Process *process, const Ia3BackboneSpec *spec,
                            const Ia3EngineSettings *settings, const char *socketPath, char *error,
                            size_t errorSize);
/*
 * Starts `ia3_engine check` on a directory, with the settings that it has a use for. What it prints comes through the log
 * pipe. Any process may call this, also a backend.
 */
extern bool Ia3ProcessStartCheck(Ia3Process *process, const char *path, const Ia3EngineSettings *settings,
                                 char *error, size_t errorSize);
/* If the process has ended: forgets its pid, says how in words, and returns true. Does not wait. */
extern bool Ia3ProcessReap(Ia3Process *process, char *how, size_t howSize);
extern void Ia3ProcessSignal(Ia3Process *process, int signal);
/* Asks for a sign of life, which comes through the status pipe; does not wait. */
extern void Ia3ProcessAsk(Ia3Process *process);
/* Closes our ends. An engine that still runs takes the end of its death pipe as the order to exit. */
extern void Ia3ProcessClosePipes(Ia3Process *process);

/* Reads what is there and calls `handle` for every complete line; closes the pipe at its end. */
extern void Ia3ReadLines(Ia3LineReader *reader, void (*handle)(void *arg, char *line), void *arg);

#endif
