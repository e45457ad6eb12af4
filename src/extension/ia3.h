/*
 * ia3.h
 *     What the extension's files share: settings, engine state, the client.
 *
 * The extension includes from the engine's world only ../common (protocol, wire format).
 */
#ifndef IA3_H
#define IA3_H

#include "postgres.h"

#include "fmgr.h"
#include "lib/stringinfo.h"

#include "common/protocol.h"
#include "common/wire.h"
#include "ia3_compat.h"

#define IA3_VERSION "1.0"

/* Settings (guc.c) */
extern char *Ia3BackbonesSetting; /* ia3.backbones: "name=path[@device[|device...]][:dtype], ..." */
extern int Ia3Threads;            /* ia3.threads, 0 = all cores */
extern int Ia3MaxBatchTokens;
extern int Ia3MaxInputTokens;
extern int Ia3AdapterCacheSize; /* MB */
extern int Ia3MemoryLimit;      /* MB, 0 = none */
extern int Ia3StartTimeout;     /* ms that a query waits for an engine that is starting or loading */
extern char *Ia3Backbone;       /* ia3.backbone (USERSET): the backbone of new tasks and zero-shot calls */
extern int Ia3BatchRows;
extern bool Ia3EnableBatching;
extern void Ia3DefineSettings(void);

/*
 * An engine that ia3.backbones asks for (backbones.c). A backbone has one for each of its devices; their specs
 * follow each other and differ in the device, if at all.
 */
#define IA3_MAX_BACKBONES  16
#define IA3_MAX_DEVICES    16 /* of one backbone */
#define IA3_MAX_CONFIGURED 32 /* engines of all backbones */
typedef struct Ia3BackboneSpec {
    char name[NAMEDATALEN];
    char path[MAXPGPATH]; /* absolute, or a bare name resolved in the share directory */
    char device[16];      /* "cpu", "cuda:0", "auto" */
    char dtype[16];       /* "auto", "float32", "bfloat16", "int8" */
    int nDevices;         /* of the backbone */
    int cpuEngines;       /* how many of them share the cores */
} Ia3BackboneSpec;
/*
 * Parses the setting into specs[IA3_MAX_CONFIGURED]; returns their number, or -1 with *error set (palloc'd
 * detail). Used by the GUC check hook.
 */
extern int Ia3ParseBackbones(const char *setting, Ia3BackboneSpec *specs, char **error);

/*
 * Engine state in shared memory (shmem.c); written by the supervisor, read by everyone. The current engines of a
 * backbone, one per device, share its requests; while its entry in the setting changes there may be successors
 * that load, and for a while predecessors that finish what they were asked. All of them have entries.
 */
#define IA3_MAX_ENGINES (4 * IA3_MAX_CONFIGURED)
typedef enum Ia3EngineState {
    IA3_ENGINE_UNUSED = 0,
    IA3_ENGINE_STARTING,
    IA3_ENGINE_LOADING,
    IA3_ENGINE_READY,
    IA3_ENGINE_FAILED,     /* gave its reason; tried again with back-off */
    IA3_ENGINE_RESTARTING, /* died; waits for its back-off */
    IA3_ENGINE_DRAINING,   /* replaced or removed; finishes what it was asked */
    IA3_ENGINE_STOPPED
} Ia3EngineState;

#define IA3_MAX_SOCKET 108 /* what sockaddr_un holds */
typedef struct Ia3EngineStatus {
    Ia3BackboneSpec spec;
    Ia3EngineState state;
    bool current; /* one of those of its backbone that requests go to */
    int percent;  /* while loading */
    int pid;
    uint32 generation; /* grows at every start */
    uint32 restarts;
    TimestampTz since; /* of this state */
    char message[512]; /* why it failed or died last; what a draining one is still doing */
    char socket[IA3_MAX_SOCKET];
} Ia3EngineStatus;

extern bool Ia3Loaded(void);         /* preloaded: shared memory is there */
extern void Ia3RequirePreload(void); /* else ERROR 55000 with a hint */
/* Of a backbone's current engines the one that is best off; false if there is none. */
extern bool Ia3GetEngineStatus(const char *backbone, Ia3EngineStatus *status);

/* Progress of training, in shared memory (progress.c); one slot per backend that trains. */
extern void Ia3ProgressStart(const char *task, int steps);
extern void Ia3ProgressUpdate(int step, double loss, double rowsPerSecond, double secondsLeft);
extern void Ia3ProgressEnd(void); /* also runs at transaction abort and backend exit */

/*
 * The client (client.c). A backend keeps its connections; one is dropped at any error that leaves a reply
 * outstanding. All waits obey interrupts, statement_timeout and postmaster death.
 *
 * Usage:   ia3_writer *w = Ia3RequestBegin(backbone);     -- connects if needed; waits up to ia3.start_timeout
 *          ia3_put_...(w, ...);                              for an engine that loads; ERRORs otherwise
 *          Ia3RequestSend(IA3_SCORE);
 *          uint8 type = Ia3ReplyWait(&reader);            -- ERROR replies are raised as ERROR here
 *
 * The reader's bytes live in a client-owned buffer until the next call. IA3_PROGRESS is returned like any
 * reply; the caller waits again. If the engine dies or breaks the protocol while we wait: ERROR 08006
 * "ia3 engine for backbone "x" went away" with the hint that it is being restarted. If the engine is replaced
 * before it has taken the request, the request goes to another. Should the caller have asked for
 * Ia3GetEngineInfo since Ia3RequestBegin, and the other run another backbone, it has to begin again:
 * Ia3ReplyWait raises 55000, Ia3ReplyWaitOrRepeat returns IA3_GOODBYE.
 */
extern ia3_writer *Ia3RequestBegin(const char *backbone);
extern ia3_writer *Ia3RequestBeginTraining(const char *backbone); /* goes where the fewest of them are */
extern void Ia3RequestSend(uint8 type);
extern uint8 Ia3ReplyWait(ia3_reader *reader);
extern uint8 Ia3ReplyWaitOrRepeat(ia3_reader *reader);
extern void Ia3RequestAbandon(void); /* closes a connection that has a request outstanding (abort, cancel) */

/*
 * Requests whose replies are awaited later (client_ahead.c); others may be made meanwhile. Sending returns 0 if
 * the engine is not there, waiting returns 0 if the request has to be made again. Errors as above.
 */
extern uint32 Ia3AheadSend(const char *backbone, uint8 type, void (*write)(ia3_writer *w, const void *arg),
                           const void *arg);
extern uint8 Ia3AheadWait(uint32 handle, ia3_reader *reader);
extern void Ia3AheadDrop(uint32 handle);

/* What INFO answers, cached per connection (so per engine generation). */
typedef struct Ia3EngineInfo {
    char name[NAMEDATALEN];
    char path[MAXPGPATH];
    char device[32];
    char deviceDescription[128];
    char dtype[16];
    char modelType[16];
    uint8 digest[IA3_DIGEST_LEN];
    uint64 parameters, bytes, adapterValues;
    uint32 vocabSize, dModel, nEncoderLayers, nDecoderLayers;
    double dropoutRate;
} Ia3EngineInfo;
extern const Ia3EngineInfo *Ia3GetEngineInfo(const char *backbone);
/* Counters; values[IA3_N_STATS]. Returns false (no ERROR) when the engine is not ready. */
extern bool Ia3GetEngineStats(const Ia3EngineStatus *status, double *values, Ia3EngineInfo *info);

/* Raises an engine's error with the SQLSTATE of its code; `context` (may be NULL) becomes the errcontext. */
extern void Ia3RaiseEngineError(uint32 code, const char *message, const char *detail, const char *hint,
                                const char *context) pg_attribute_noreturn();

extern PGDLLEXPORT void Ia3SupervisorMain(Datum arg); /* supervisor.c */
extern void Ia3ShmemInit(void);                       /* from _PG_init: hooks */
extern void Ia3SupervisorRegister(void);              /* from _PG_init */

#endif
