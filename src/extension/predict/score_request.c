/*
 * score_request.c
 *     A SCORE or GENERATE request: any number of rows for any tasks of one backbone.
 */
#include "postgres.h"

#include "miscadmin.h"

#include "score_request.h"
#include "extension/client/client.h"
#include "extension/client/client_ahead.h"
#include "extension/client/client_errors.h"
#include "extension/client/text.h"
#include "extension/tasks/adapter_request.h"
#include "extension/guc.h"

/* The number of most recently added lists of choices that are searched for one that has been added already. */
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
    int maxInputTokens; /* the setting when the request was created, in case it has to be repeated */
    MemoryContext context;
    int nAdapters, nChoices, nRows;
    int capAdapters, capChoices, capRows;
    const Ia3Task **adapters; /* NULL: the bare backbone */
    Ia3ChoiceSet *choices;
    ScoreRow *rows;
    double flops; /* of the reply */
    uint32 ahead; /* handle of the request that has been sent and not collected; 0: there is none */
};

Ia3ScoreRequest *
Ia3ScoreCreate(const char *backbone)
{
    Ia3ScoreRequest *request = palloc0(sizeof(Ia3ScoreRequest));

    request->backbone = pstrdup(backbone);
    request->maxInputTokens = Ia3InputTokens();
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

void
Ia3ScoreSetInputTokens(Ia3ScoreRequest *request, int maxInputTokens)
{
    request->maxInputTokens = maxInputTokens;
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

/* Whether results of the two sets have the same numbers. */
static bool
sets_are_equal(const Ia3ChoiceSet *a, const Ia3ChoiceSet *b)
{
    if (a->multiLabel != b->multiLabel || !Ia3StringsEqual(a->scored, b->scored) ||
        (a->first == NULL) != (b->first == NULL))
        return false;
    return a->first == NULL || (a->labels->n == b->labels->n &&
                                memcmp(a->first, b->first, sizeof(int) * ((Size) a->labels->n + 1)) == 0);
}

int
Ia3ScoreAddChoices(Ia3ScoreRequest *request, const Ia3ChoiceSet *choices)
{
    /* Consecutive rows of one task have the same choices; if tasks alternate, so do their choices. */
    if (request->nChoices > 0 && sets_are_equal(&request->choices[request->nChoices - 1], choices))
        return request->nChoices - 1;
    for (int i = Max(0, request->nChoices - LOOK_BACK); i < request->nChoices; i++)
        if (request->choices[i].scored == choices->scored &&
            request->choices[i].multiLabel == choices->multiLabel)
            return i;
    request->choices =
        grow(request, request->choices, request->nChoices, &request->capChoices, sizeof(Ia3ChoiceSet));
    request->choices[request->nChoices] = *choices;
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
write_request(ia3_writer *w, void *arg)
{
    static const uint8 bare[IA3_DIGEST_LEN];
    const Ia3ScoreRequest *request = arg;

    ia3_put_u32(w, request->maxInputTokens);
    ia3_put_u32(w, request->nAdapters);
    for (int i = 0; i < request->nAdapters; i++)
        ia3_put_bytes(w, request->adapters[i] ? request->adapters[i]->digest : bare, IA3_DIGEST_LEN);
    if (!request->generates)
        ia3_put_u32(w, request->nChoices);
    for (int i = 0; i < request->nChoices; i++)
        Ia3PutChoices(w, request->choices[i].scored, request->choices[i].multiLabel);
    ia3_put_u32(w, request->nRows);
    for (int i = 0; i < request->nRows; i++) {
        const ScoreRow *row = &request->rows[i];

        ia3_put_u32(w, row->adapter);
        if (!request->generates)
            ia3_put_u32(w, row->choices);
        Ia3PutInput(w, &row->input);
        if (request->generates)
            write_sampling(w, &row->sampling);
    }
}

/* The score of a label is the mean of those of its verbalizers. */
static void
read_scores(Ia3ScoreResult *result, const Ia3ChoiceSet *set, ia3_reader *r)
{
    if (ia3_get_count(r, 8) != set->scored->n)
        Ia3ProtocolError("A row was returned with a wrong number of scores.");
    result->n = set->labels->n;
    result->scores = palloc0(sizeof(double) * result->n);
    for (int l = 0; l < result->n; l++) {
        int n = set->first ? set->first[l + 1] - set->first[l] : 1;

        for (int i = 0; i < n; i++)
            result->scores[l] += ia3_get_f64(r);
        if (n > 1)
            result->scores[l] /= n;
    }
}

static Ia3ScoreResult *
read_results(Ia3ScoreRequest *request, ia3_reader *r)
{
    Ia3ScoreResult *results =
        MemoryContextAllocHuge(CurrentMemoryContext, sizeof(Ia3ScoreResult) * Max(request->nRows, 1));

    memset(results, 0, sizeof(Ia3ScoreResult) * request->nRows);
    for (int i = 0; i < request->nRows && !r->bad; i++) {
        Ia3ScoreResult *result = &results[i];

        result->ok = ia3_get_u8(r) == 1;
        if (result->ok && request->generates)
            result->text = Ia3GetText(r);
        else if (result->ok)
            read_scores(result, &request->choices[request->rows[i].choices], r);
        else {
            result->code = ia3_get_u32(r);
            result->message = Ia3GetText(r);
            result->detail = Ia3GetText(r);
            result->hint = Ia3GetText(r);
        }
    }
    request->flops = ia3_get_f64(r);
    if (r->bad || r->p != r->end)
        Ia3ProtocolError("The length of the results does not match their contents.");
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

Ia3ScoreResult *
Ia3ScoreRun(Ia3ScoreRequest *request)
{
    Ia3AdapterRequest run = {
        .backbone = request->backbone,
        .type = request_type(request),
        .reply = reply_type(request),
        .nAdapters = request->nAdapters,
        .adapters = request->adapters,
        .write = write_request,
        .arg = request,
    };
    ia3_reader reader;

    Ia3AdapterRequestRun(&run, &reader);
    return read_results(request, &reader);
}

/*
 * Sending and collecting separately
 */

static void
write_ahead(ia3_writer *w, const Ia3EngineInfo *engine, void *arg)
{
    const Ia3ScoreRequest *request = arg;

    Ia3AdapterRequestCheck(request->adapters, request->nAdapters, engine);
    write_request(w, arg);
}

void
Ia3ScoreSend(Ia3ScoreRequest *request)
{
    request->ahead = Ia3AheadSend(request->backbone, request_type(request), write_ahead, request);
}

/* Missing adapters are sent over the ordinary connection, and then the request is, too. */
Ia3ScoreResult *
Ia3ScoreCollect(Ia3ScoreRequest *request)
{
    ia3_reader reader;
    uint8 type = Ia3AheadWait(request->ahead, &reader);

    request->ahead = 0;
    if (type == reply_type(request))
        return read_results(request, &reader);
    if (type != 0 && type != IA3_MISSING)
        Ia3ProtocolError("The engine sent a reply of an unexpected type.");
    return Ia3ScoreRun(request);
}

double
Ia3ScoreFlops(const Ia3ScoreRequest *request)
{
    return request->flops;
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
