/*
 * adapter_request.c
 *     Repeats a request until the engine has the adapters that it needs.
 */
#include "postgres.h"

#include "adapter_request.h"
#include "extension/client/client.h"

/* Two rounds cover an eviction in between; an engine that keeps losing the adapters it was just given is broken. */
#define MAX_ROUNDS 4

void
Ia3AdapterRequestCheck(const Ia3Task *const *adapters, int n, const Ia3EngineInfo *engine)
{
    for (int i = 0; i < n; i++)
        if (adapters[i])
            Ia3TaskCheckEngine(adapters[i], engine);
}

static bool
uses_adapters(const Ia3AdapterRequest *request)
{
    for (int i = 0; i < request->nAdapters; i++)
        if (request->adapters[i])
            return true;
    return false;
}

/* Sends the request and waits for the first reply that is not progress; *running tells whether there was progress. */
static uint8
run_once(const Ia3AdapterRequest *request, ia3_reader *reader, bool *running)
{
    bool trains = request->type == IA3_TRAIN || request->type == IA3_TRAIN_RUNS;
    ia3_writer *w = trains ? Ia3RequestBeginTraining(request->backbone) : Ia3RequestBegin(request->backbone);
    uint8 type;

    /* The backbone is checked again, since the engine may have been replaced after the tasks were read. */
    if (request->engine || uses_adapters(request)) {
        const Ia3EngineInfo *engine = Ia3RequestBindBackbone();

        if (request->engine)
            *request->engine = *engine;
        Ia3AdapterRequestCheck(request->adapters, request->nAdapters, engine);
    }
    request->write(w, request->arg);
    Ia3RequestSend(request->type);
    *running = false;
    while ((type = Ia3ReplyWaitOrRepeat(reader)) == IA3_PROGRESS && request->progress) {
        *running = true;
        request->progress(reader, request->arg);
    }
    return type;
}

static const Ia3Task *
find_adapter(const Ia3AdapterRequest *request, const uint8 *digest)
{
    for (int i = 0; i < request->nAdapters; i++)
        if (request->adapters[i] && memcmp(request->adapters[i]->digest, digest, IA3_DIGEST_LEN) == 0)
            return request->adapters[i];
    return NULL;
}

/* Sends the engine the adapters that a MISSING reply lists. */
static void
put_missing(const Ia3AdapterRequest *request, ia3_reader *r)
{
    uint32 n = ia3_get_count(r, IA3_DIGEST_LEN);
    uint8 *missing = palloc(n * IA3_DIGEST_LEN + 1);
    const uint8 *bytes = ia3_get_bytes(r, (size_t) n * IA3_DIGEST_LEN);

    if (r->bad || n == 0)
        Ia3ProtocolError("The engine lacks adapters, but does not say which.");
    /* The bytes of the reader are valid only until the next request. */
    memcpy(missing, bytes, (size_t) n * IA3_DIGEST_LEN);
    for (uint32 i = 0; i < n; i++) {
        const Ia3Task *task = find_adapter(request, missing + i * IA3_DIGEST_LEN);

        if (task == NULL)
            Ia3ProtocolError("The engine lacks an adapter that the request does not use.");
        Ia3TaskPutAdapter(task);
    }
    pfree(missing);
}

void
Ia3AdapterRequestRun(const Ia3AdapterRequest *request, ia3_reader *reader)
{
    for (int round = 0; round < MAX_ROUNDS; round++) {
        bool running;
        uint8 type = run_once(request, reader, &running);

        if (type == request->reply)
            return;
        if (running || (type != IA3_GOODBYE && type != IA3_MISSING))
            Ia3ProtocolError("The engine sent a reply of an unexpected type.");
        if (type == IA3_MISSING)
            put_missing(request, reader);
    }
    ereport(ERROR,
            (errcode(ERRCODE_INTERNAL_ERROR), errmsg("ia3 engine does not keep the adapters it is given"),
             errhint("Increase ia3.adapter_cache_size.")));
}
