/*
 * ask.c
 *     Predicting many calls at once: those of a batch of rows.
 *
 * Each task is looked up once per batch, under the statement's snapshot. Calls are sent in one request per backbone,
 * or in several if their texts are long.
 */
#include "postgres.h"

#include <math.h>

#include "access/detoast.h"
#include "mb/pg_wchar.h"

#include "ask.h"
#include "extension/client/client.h"
#include "extension/supervisor/shmem.h"

/* The maximum size of texts and choices in one request, and of its reply; a single call may be larger. */
#define MAX_REQUEST_BYTES (16 * 1024 * 1024)
#define MAX_REPLY_BYTES   (64 * 1024 * 1024)

/* The maximum size of adapters in one request: an engine keeps all of them while it computes, and accepts 2 GB. */
#define MAX_REQUEST_ADAPTER_BYTES (1024 * 1024 * 1024)

/* A call that has no answer yet. */
typedef struct Pending {
    Ia3Call call;
    Ia3CacheEntry *entry;
} Pending;

/* A request, and the calls that its rows stand for. */
typedef struct Sent {
    const char *backbone;
    bool generates;
    int maxInputTokens;
    Ia3ScoreRequest *request;
    Size bytes, replyBytes;
    int nChoices; /* of all rows, although rows may share them */
    int nAdapters, maxAdapters;
    int nRows;
    Ia3CacheEntry **entries;
    const Ia3Task **tasks;      /* each NULL for the bare backbone */
    const Ia3Strings **choices; /* each NULL in a request that generates */
} Sent;

struct Ia3Asking {
    MemoryContext context;
    Ia3ResultCache *cache;
    Ia3AskCounts *counts;
    int nPending, capPending;
    Pending *pending;
    Ia3StringIndex *taskIndex;
    int nTasks, capTasks;
    Ia3CallTask **tasks; /* that calls of this batch refer to; NULL: unusable */
    List *sent;          /* of Sent */
};

Ia3Asking *
Ia3AskingCreate(Ia3ResultCache *cache, Ia3AskCounts *counts)
{
    Ia3Asking *asking = palloc0(sizeof(Ia3Asking));

    asking->context = CurrentMemoryContext;
    asking->cache = cache;
    asking->counts = counts;
    asking->capPending = 64;
    asking->pending = palloc(sizeof(Pending) * asking->capPending);
    asking->taskIndex = Ia3StringIndexCreate();
    asking->capTasks = 16;
    asking->tasks = palloc(sizeof(Ia3CallTask *) * asking->capTasks);
    return asking;
}

Size
Ia3AskingAdd(Ia3Asking *asking, const Ia3Call *call)
{
    bool isNew;
    Ia3CacheEntry *entry = Ia3CacheEnter(asking->cache, call, &isNew);
    Size bytes = 0;

    if (!isNew)
        return 0;
    if (asking->nPending == asking->capPending) {
        asking->capPending *= 2;
        asking->pending = repalloc_huge(asking->pending, sizeof(Pending) * asking->capPending);
    }
    asking->pending[asking->nPending++] = (Pending){*call, entry};
    for (int i = 0; i < call->nArgs; i++)
        bytes += Ia3CallArgIsInteger(call, i) ? sizeof(int32) : toast_raw_datum_size(call->args[i]);
    return bytes;
}

/*
 * Drops an error that concerns a single call. The code under the PG_TRYs below only computes and allocates, or reads
 * toasted values, whose errors are raised again, so nothing is left behind when its error is dropped.
 */
static void
forget_user_error(MemoryContext context)
{
    int category = ERRCODE_TO_CATEGORY(geterrcode());

    MemoryContextSwitchTo(context);
    if (category != ERRCODE_TO_CATEGORY(ERRCODE_DATA_EXCEPTION) &&
        category != ERRCODE_TO_CATEGORY(ERRCODE_PROGRAM_LIMIT_EXCEEDED) && /* deep JSON, long strings in it */
        category != ERRCODE_TO_CATEGORY(ERRCODE_SYNTAX_ERROR_OR_ACCESS_RULE_VIOLATION))
        PG_RE_THROW();
    FlushErrorState();
}

/* Whether a call can name a task at all. */
static bool
is_task_reference(const Ia3Call *call, const char *name)
{
    MemoryContext context = CurrentMemoryContext;
    volatile bool valid = false;

    PG_TRY();
    {
        if (Ia3CallNamesVersion(call))
            Ia3TaskCheckName(name);
        else
            (void) Ia3TaskParseReference(name);
        valid = true;
    }
    PG_CATCH();
    {
        forget_user_error(context);
    }
    PG_END_TRY();
    return valid;
}

static Ia3CallTask *
parse_task(const Ia3Task *task)
{
    MemoryContext context = CurrentMemoryContext;
    Ia3CallTask *volatile result = NULL;

    PG_TRY();
    {
        result = Ia3CallTaskMake(task);
    }
    PG_CATCH();
    {
        forget_user_error(context);
    }
    PG_END_TRY();
    return result;
}

/*
 * Whether sending a request makes sense. An engine that is starting is worth waiting for; one that has failed is left
 * to the function, which will raise the error if it is really called.
 */
static bool
engine_is_there(const char *backbone)
{
    Ia3EngineStatus status;

    return Ia3GetEngineStatus(backbone, &status) && status.state != IA3_ENGINE_FAILED &&
           status.state != IA3_ENGINE_STOPPED;
}

/* The task, or NULL if it cannot be used, for whatever reason. */
static Ia3CallTask *
find_task(const Ia3Call *call)
{
    char *name = Ia3CallTaskName(call);
    Ia3Task *task;

    if (!is_task_reference(call, name))
        return NULL;
    task = Ia3CallNamesVersion(call) ? Ia3TaskLookupVersion(name, Ia3CallVersion(call), true)
                                     : Ia3TaskLookupIfExists(name);
    if (task == NULL || task->templates == NULL || !engine_is_there(task->backbone))
        return NULL;
    if (memcmp(Ia3GetEngineInfo(task->backbone)->digest, task->backboneDigest, IA3_DIGEST_LEN) != 0)
        return NULL;
    return parse_task(task);
}

static Ia3CallTask *
batch_task_of(Ia3Asking *asking, const Ia3Call *call)
{
    bool found;
    /* a version that is asked as it was stored differs from the same version by reference */
    char *key = psprintf("%d@%s", Ia3CallVersion(call), Ia3CallTaskName(call));
    int position;

    if (Ia3CallNamesVersion(call))
        key = psprintf("=%s", key);
    position = Ia3StringIndexAdd(asking->taskIndex, key, &found);
    if (found) {
        pfree(key);
        return asking->tasks[position];
    }
    if (asking->nTasks == asking->capTasks) {
        asking->capTasks *= 2;
        asking->tasks = repalloc(asking->tasks, sizeof(Ia3CallTask *) * asking->capTasks);
    }
    Assert(position == asking->nTasks);
    asking->tasks[asking->nTasks++] = NULL;
    asking->tasks[position] = find_task(call);
    return asking->tasks[position];
}

/* The protocol uses UTF-8. A text that cannot be converted must not make the request of all the others fail. */
static void
check_encoding(const Ia3Question *question)
{
    if (GetDatabaseEncoding() == PG_UTF8)
        return;
    (void) pg_server_to_any(question->input.text, question->input.len, PG_UTF8);
    for (int i = 0; question->choices && i < question->set.scored->n; i++)
        (void) pg_server_to_any(question->set.scored->items[i], strlen(question->set.scored->items[i]),
                                PG_UTF8);
}

static bool
make_question(const Ia3Call *call, const Ia3CallTask *task, Ia3Question *question)
{
    MemoryContext context = CurrentMemoryContext;
    volatile bool valid = false;

    PG_TRY();
    {
        Ia3QuestionMake(call, task, question);
        check_encoding(question);
        valid = true;
    }
    PG_CATCH();
    {
        forget_user_error(context);
    }
    PG_END_TRY();
    return valid;
}

/* The maximum number of bytes that a question adds to a request. */
static Size
question_bytes(const Ia3Question *question)
{
    Size bytes = question->input.len + 2 * sizeof(uint32) * (Size) question->input.nFields;

    for (int i = 0; question->choices && i < question->set.scored->n; i++)
        bytes += strlen(question->set.scored->items[i]);
    return bytes;
}

static Size
reply_bytes(const Ia3Question *question)
{
    return 5 + (question->choices ? 8 * (Size) question->set.scored->n
                                  : IA3_TOKEN_BYTES * (Size) question->maxTokens);
}

static int
max_adapters(const char *backbone)
{
    uint64 bytes = Ia3GetEngineInfo(backbone)->adapterValues * sizeof(float);

    return Min(IA3_MAX_DIGESTS, Max(1, MAX_REQUEST_ADAPTER_BYTES / Max(bytes, 1)));
}

/* Whether the question may be added to a request. A request that is too large fails as a whole. */
static bool
has_room(const Sent *sent, const Ia3Question *question)
{
    int nChoices = question->choices ? question->set.scored->n : 0;

    return sent->bytes + question_bytes(question) <= MAX_REQUEST_BYTES &&
           sent->replyBytes + reply_bytes(question) <= MAX_REPLY_BYTES &&
           sent->nChoices + (int64) nChoices <= IA3_MAX_CHOICES && sent->nRows < IA3_MAX_SETS &&
           sent->nAdapters < sent->maxAdapters;
}

/* The request that this question goes into, which is created if necessary. */
static Sent *
request_for(Ia3Asking *asking, const Ia3Question *question)
{
    bool generates = question->choices == NULL;
    int maxInputTokens = Ia3TaskInputTokens(question->task);
    ListCell *lc;
    Sent *sent;

    foreach (lc, asking->sent) {
        sent = lfirst(lc);
        if (strcmp(sent->backbone, question->backbone) == 0 && sent->generates == generates &&
            sent->maxInputTokens == maxInputTokens && has_room(sent, question))
            return sent;
    }
    sent = palloc0(sizeof(Sent));
    sent->backbone = pstrdup(question->backbone);
    sent->generates = generates;
    sent->maxAdapters = max_adapters(sent->backbone);
    sent->request = generates ? Ia3GenerateCreate(sent->backbone) : Ia3ScoreCreate(sent->backbone);
    sent->maxInputTokens = maxInputTokens;
    Ia3ScoreSetInputTokens(sent->request, maxInputTokens);
    sent->entries = palloc(sizeof(Ia3CacheEntry *) * asking->nPending);
    sent->tasks = palloc(sizeof(Ia3Task *) * asking->nPending);
    sent->choices = palloc(sizeof(Ia3Strings *) * asking->nPending);
    asking->sent = lappend(asking->sent, sent);
    return sent;
}

static void
add_question(Ia3Asking *asking, const Ia3Question *question, Ia3CacheEntry *entry)
{
    Sent *sent = request_for(asking, question);
    int adapter = Ia3ScoreAddAdapter(sent->request, question->task);

    if (sent->generates)
        Ia3GenerateAddRow(sent->request, adapter, &(Ia3Sampling){.maxTokens = question->maxTokens},
                          &question->input);
    else
        Ia3ScoreAddRow(sent->request, adapter, Ia3ScoreAddChoices(sent->request, &question->set),
                       &question->input);
    sent->bytes += question_bytes(question);
    sent->replyBytes += reply_bytes(question);
    sent->nChoices += question->choices ? question->set.scored->n : 0;
    sent->nAdapters = Max(sent->nAdapters, adapter + 1);
    sent->entries[sent->nRows] = entry;
    sent->tasks[sent->nRows] = question->task;
    sent->choices[sent->nRows++] = question->choices;
}

static void
prepare(Ia3Asking *asking)
{
    for (int i = 0; i < asking->nPending; i++) {
        const Ia3Call *call = &asking->pending[i].call;
        Ia3CallTask *task = NULL;
        Ia3Question question;

        if (Ia3CallNamesTask(call)) {
            task = batch_task_of(asking, call);
            if (task == NULL)
                continue;
        }
        if (!make_question(call, task, &question))
            continue;
        if (question.task == NULL && !engine_is_there(question.backbone))
            continue;
        add_question(asking, &question, asking->pending[i].entry);
    }
}

void
Ia3AskingSend(Ia3Asking *asking, bool ahead)
{
    MemoryContext old = MemoryContextSwitchTo(asking->context);
    ListCell *lc;

    prepare(asking);
    foreach (lc, asking->sent) {
        Sent *sent = lfirst(lc);

        if (ahead)
            Ia3ScoreSend(sent->request);
        asking->counts->batches++;
        asking->counts->rows += sent->nRows;
        asking->counts->largest = Max(asking->counts->largest, (uint64) sent->nRows);
    }
    MemoryContextSwitchTo(old);
}

/* NULL for a row whose error the function has to raise. */
static Ia3Ranking *
ranking_of(const Ia3ScoreResult *result, const Ia3Task *task, const Ia3Strings *choices)
{
    if (!result->ok)
        return NULL;
    if (result->text != NULL)
        return Ia3RankingOfText(result->text);
    for (int i = 0; i < result->n; i++)
        if (!isfinite(result->scores[i]))
            return NULL;
    return Ia3RankingMake(task, choices, result);
}

void
Ia3AskingCollect(Ia3Asking *asking)
{
    MemoryContext old = MemoryContextSwitchTo(asking->context);

    while (asking->sent) {
        Sent *sent = linitial(asking->sent);
        Ia3ScoreResult *results = Ia3ScoreCollect(sent->request);

        asking->counts->flops += (uint64) Ia3ScoreFlops(sent->request);
        for (int i = 0; i < sent->nRows; i++) {
            Ia3Ranking *ranking = ranking_of(&results[i], sent->tasks[i], sent->choices[i]);

            if (ranking != NULL)
                Ia3CacheStore(asking->cache, sent->entries[i], ranking);
        }
        asking->sent = list_delete_first(asking->sent);
    }
    MemoryContextSwitchTo(old);
}

void
Ia3AskingDrop(Ia3Asking *asking)
{
    ListCell *lc;

    foreach (lc, asking->sent) {
        Sent *sent = lfirst(lc);

        Ia3ScoreDrop(sent->request);
        for (int i = 0; i < sent->nRows; i++)
            Ia3CacheForget(sent->entries[i]);
    }
    asking->sent = NIL;
}
