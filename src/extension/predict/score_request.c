/*
 * score_request.c
 *     One SCORE or GENERATE request: any number of rows, of any tasks of one backbone.
 */
#include "postgres.h"

#include "miscadmin.h"

#include "score_request.h"

/* An engine that keeps losing what it was just given is broken; two rounds cover an eviction in between. */
#define MAX_ROUNDS 4

/* So many lists of choices are looked at for one that is there already. */
#define LOOK_BACK 64

typedef struct ScoreRow {
    int adapter;
    int choices;          /* SCORE */
    Ia3Sampling sampling; /* GENERATE */
    Ia3Input input;
} ScoreRow;

struct Ia3ScoreRequest {
    char *backbone;
    bool generates;
    int maxInputTokens; /* the setting when the request was made, should it have to be repeated */
    MemoryContext context;
    int nAdapters, nChoices, nRows;
    int capAdapters, capChoices, capRows;
    const Ia3Task **adapters; /* NULL: the bare backbone */
    const Ia3Strings **choices;
    ScoreRow *rows;
    uint32 ahead; /* handle of what was sent and not collected; 0 = nothing */
};

Ia3ScoreRequest *
Ia3ScoreCreate(const char *backbone)
{
    Ia3ScoreRequest *request = palloc0(sizeof(Ia3ScoreRequest));

    request->backbone = pstrdup(backbone);
    request->maxInputTokens = Ia3MaxInputTokens;
    request->context = CurrentMemoryContext;
    return request;
}

Ia3ScoreRequest *
Ia3GenerateCreate(const char *backbone)
{
    Ia3ScoreRequest *request = Ia3ScoreCreate(backbone);

    request->generates = true;
    return request;
}

/* Makes room for one more item of `size` bytes. */
static void *
grow(Ia3ScoreRequest *request, void *items, int n, int *capacity, Size size)
{
    if (n < *capacity)
        return items;
    *capacity = Max(8, 2 * n);
    if (items == NULL)
        return MemoryContextAlloc(request->context, size * *capacity);
    return repalloc(items, size * *capacity);
}

int
Ia3ScoreAddAdapter(Ia3ScoreRequest *request, const Ia3Task *task)
{
    for (int i = 0; i < request->nAdapters; i++) {
        const Ia3Task *other = request->adapters[i];

        if (task == other || (task && other && memcmp(task->digest, other->digest, IA3_DIGEST_LEN) == 0))
            return i;
    }
    request->adapters =
        grow(request, request->adapters, request->nAdapters, &request->capAdapters, sizeof(Ia3Task *));
    request->adapters[request->nAdapters] = task;
    return request->nAdapters++;
}

int
Ia3ScoreAddChoices(Ia3ScoreRequest *request, const Ia3Strings *choices)
{
    /* Rows of one task come with the same choices one after the other; those of several tasks in turn. */
    if (request->nChoices > 0 && Ia3StringsEqual(request->choices[request->nChoices - 1], choices))
        return request->nChoices - 1;
    for (int i = Max(0, request->nChoices - LOOK_BACK); i < request->nChoices; i++)
        if (request->choices[i] == choices)
            return i;
    request->choices =
        grow(request, request->choices, request->nChoices, &request->capChoices, sizeof(Ia3Strings *));
    request->choices[request->nChoices] = choices;
    return request->nChoices++;
}

static ScoreRow *
add_row(Ia3ScoreRequest *request, int adapter, const Ia3Input *input)
{
    ScoreRow *row;

    request->rows = grow(request, request->rows, request->nRows, &request->capRows, sizeof(ScoreRow));
    row = &request->rows[request->nRows++];
    memset(row, 0, sizeof *row);
    row->adapter = adapter;
    row->input = *input;
    return row;
}

int
Ia3ScoreAddRow(Ia3ScoreRequest *request, int adapter, int choices, const Ia3Input *input)
{
    add_row(request, adapter, input)->choices = choices;
    return request->nRows - 1;
}

int
Ia3GenerateAddRow(Ia3ScoreRequest *request, int adapter, const Ia3Sampling *sampling, const Ia3Input *input)
{
    add_row(request, adapter, input)->sampling = *sampling;
    return request->nRows - 1;
}

static void
write_sampling(ia3_writer *w, const Ia3Sampling *s)
{
    ia3_put_u32(w, s->maxTokens);
    ia3_put_f64(w, s->temperature);
    ia3_put_u32(w, s->topK);
    ia3_put_u64(w, s->seed);
}

static void
write_request(const Ia3ScoreRequest *request, ia3_writer *w)
{
    static const uint8 bare[IA3_DIGEST_LEN];

    /* Once more, of the very engine that gets the request: it may have been replaced since the task was read. */
    for (int i = 0; i < request->nAdapters; i++)
        if (request->adapters[i])
            Ia3TaskCheckBackbone(request->adapters[i]);
    ia3_put_u32(w, request->maxInputTokens);
    ia3_put_u32(w, request->nAdapters);
    for (int i = 0; i < request->nAdapters; i++)
        ia3_put_bytes(w, request->adapters[i] ? request->adapters[i]->digest : bare, IA3_DIGEST_LEN);
    if (!request->generates)
        ia3_put_u32(w, request->nChoices);
    for (int i = 0; i < request->nChoices; i++)
        Ia3PutStrings(w, request->choices[i]);
    ia3_put_u32(w, request->nRows);
    for (int i = 0; i < request->nRows; i++) {
        const ScoreRow *row = &request->rows[i];

        ia3_put_u32(w, row->adapter);
        if (!request->generates)
            ia3_put_u32(w, row->choices);
        Ia3PutInput(w, row->input.text, row->input.len, row->input.tail);
        if (request->generates)
            write_sampling(w, &row->sampling);
    }
}

static Ia3ScoreResult *
read_results(const Ia3ScoreRequest *request, ia3_reader *r)
{
    Ia3ScoreResult *results =
        MemoryContextAllocHuge(CurrentMemoryContext, sizeof(Ia3ScoreResult) * Max(request->nRows, 1));

    memset(results, 0, sizeof(Ia3ScoreResult) * request->nRows);
    for (int i = 0; i < request->nRows && !r->bad; i++) {
        Ia3ScoreResult *result = &results[i];

        result->ok = ia3_get_u8(r) == 1;
        if (result->ok && request->generates)
            result->text = Ia3GetText(r);
        else if (result->ok) {
            result->n = ia3_get_count(r, 8);
            if (result->n != request->choices[request->rows[i].choices]->n)
                Ia3ProtocolError("A row came back with a wrong number of scores.");
            result->scores = palloc(sizeof(double) * result->n);
            for (int c = 0; c < result->n; c++)
                result->scores[c] = ia3_get_f64(r);
        } else {
            result->code = ia3_get_u32(r);
            result->message = Ia3GetText(r);
            result->detail = Ia3GetText(r);
            result->hint = Ia3GetText(r);
        }
    }
    if (r->bad || r->p != r->end)
        Ia3ProtocolError("The answers do not have the length they should have.");
    return results;
}

static uint8
request_type(const Ia3ScoreRequest *request)
{
    return request->generates ? IA3_GENERATE : IA3_SCORE;
}

static uint8
reply_type(const Ia3ScoreRequest *request)
{
    return request->generates ? IA3_GENERATE_OK : IA3_SCORE_OK;
}

/* Gives the engine the adapters of a MISSING reply. */
static void
put_missing(const Ia3ScoreRequest *request, ia3_reader *r)
{
    uint32 n = ia3_get_count(r, IA3_DIGEST_LEN);
    uint8 *missing = palloc(n * IA3_DIGEST_LEN + 1);
    const uint8 *bytes = ia3_get_bytes(r, (size_t) n * IA3_DIGEST_LEN);

    if (r->bad || n == 0)
        Ia3ProtocolError("The engine misses adapters, but does not say which.");
    /* The reader's bytes last only until the next request. */
    memcpy(missing, bytes, (size_t) n * IA3_DIGEST_LEN);
    for (uint32 m = 0; m < n; m++) {
        const Ia3Task *task = NULL;

        for (int i = 0; i < request->nAdapters && task == NULL; i++)
            if (request->adapters[i] &&
                memcmp(request->adapters[i]->digest, missing + m * IA3_DIGEST_LEN, IA3_DIGEST_LEN) == 0)
                task = request->adapters[i];
        if (task == NULL)
            Ia3ProtocolError("The engine misses an adapter that it was not asked to use.");
        Ia3TaskPutAdapter(task);
    }
    pfree(missing);
}

Ia3ScoreResult *
Ia3ScoreRun(Ia3ScoreRequest *request)
{
    for (int round = 0; round < MAX_ROUNDS; round++) {
        ia3_reader reader;
        uint8 type;

        write_request(request, Ia3RequestBegin(request->backbone));
        Ia3RequestSend(request_type(request));
        type = Ia3ReplyWaitOrRepeat(&reader);
        if (type == IA3_GOODBYE)
            continue;
        if (type == reply_type(request))
            return read_results(request, &reader);
        if (type != IA3_MISSING)
            Ia3ProtocolError("The engine did not answer with what it was asked for.");
        put_missing(request, &reader);
    }
    ereport(ERROR,
            (errcode(ERRCODE_INTERNAL_ERROR), errmsg("ia3 engine does not keep the adapters it is given"),
             errhint("Raise ia3.adapter_cache_size.")));
    return NULL;
}

/*
 * In two steps
 */

static void
write_ahead(ia3_writer *w, const void *arg)
{
    write_request(arg, w);
}

void
Ia3ScoreSend(Ia3ScoreRequest *request)
{
    request->ahead = Ia3AheadSend(request->backbone, request_type(request), write_ahead, request);
}

/* Adapters that are missing go over the ordinary connection, and so does the request then. */
Ia3ScoreResult *
Ia3ScoreCollect(Ia3ScoreRequest *request)
{
    ia3_reader reader;
    uint8 type = Ia3AheadWait(request->ahead, &reader);

    request->ahead = 0;
    if (type == reply_type(request))
        return read_results(request, &reader);
    if (type != 0 && type != IA3_MISSING)
        Ia3ProtocolError("The engine did not answer with what it was asked for.");
    return Ia3ScoreRun(request);
}

void
Ia3ScoreDrop(Ia3ScoreRequest *request)
{
    Ia3AheadDrop(request->ahead);
    request->ahead = 0;
}

void
Ia3ScoreCheck(const Ia3ScoreResult *result, const char *context)
{
    if (!result->ok)
        Ia3RaiseEngineError(result->code, result->message, result->detail, result->hint, context);
}
