/*
 * adapter_request.h
 *     A request that uses adapters. The engine is sent those that it lacks, and then the request again.
 */
#ifndef IA3_ADAPTER_REQUEST_H
#define IA3_ADAPTER_REQUEST_H

#include "common/wire.h"
#include "extension/client/engine_info.h"
#include "task.h"

typedef struct Ia3AdapterRequest {
    const char *backbone;
    uint8 type;  /* IA3_SCORE ... */
    uint8 reply; /* the reply that ends it */
    int nAdapters;
    const Ia3Task *const *adapters; /* each of `backbone`, or NULL: the bare backbone */
    /* Writes the payload; called again if the request has to be sent again. */
    void (*write)(ia3_writer *w, void *arg);
    /* Reads an IA3_PROGRESS, after which the request is not sent again. NULL: there is none. */
    void (*progress)(ia3_reader *reader, void *arg);
    void *arg;
    /* NULL, or receives the description of the engine that gets the request, which is then bound to its backbone. */
    Ia3EngineInfo *engine;
} Ia3AdapterRequest;

/*
 * Sends the request and waits for its reply; *reader reads the payload until the next call of the client. ERROR as
 * for Ia3RequestBegin and Ia3ReplyWait, 55000 for an adapter that was trained on another backbone than the engine
 * runs.
 */
extern void Ia3AdapterRequestRun(const Ia3AdapterRequest *request, ia3_reader *reader);

/* ERROR 55000, as above, unless all adapters belong to the backbone that this engine runs. */
extern void Ia3AdapterRequestCheck(const Ia3Task *const *adapters, int n, const Ia3EngineInfo *engine);

#endif
