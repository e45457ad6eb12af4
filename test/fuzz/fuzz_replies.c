/*
 * fuzz_replies.c
 *     Fuzzes what a backend does with the replies of an engine, from the socket to the results.
 *
 * The first byte of an input selects the request (its low three bits), and whether the answers to the greeting come
 * from the input as well (the highest bit). What follows is a sequence of replies: the type, the length of the payload
 * in two bytes (little-endian) and the payload. Each is sent with the number of the request that waits for it; at the
 * end of the input the engine is gone.
 */
#include "pg_standin.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "access/xact.h"
#include "executor/tuptable.h"
#include "funcapi.h"
#include "replies.h"
#include "storage/latch.h"
#include "utils/jsonb.h"
#include "utils/tuplestore.h"

#include "extension/client/client.h"
#include "extension/client/client_ahead.h"
#include "extension/client/client_errors.h"
#include "extension/client/connection.h"
#include "extension/client/engine_choice.h"
#include "extension/predict/score_request.h"
#include "extension/train/train_job.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
extern Datum ia3_tokenize(PG_FUNCTION_ARGS);

/* The rest of the input, and whether it also answers the greeting. */
static const uint8_t *input;
static size_t inputLeft;
static bool greets;
static int engineSocket = -1;

/*
 * The engine
 */

static uint8_t *
grow(uint8_t *data, size_t len, size_t cap)
{
    data = realloc(data, cap);
    if (data == NULL)
        abort();
    return data;
}

static void
put_text(ia3_writer *w, const char *text)
{
    ia3_put_str(w, text, strlen(text));
}

/* The payloads of HELLO_OK and INFO_OK that this library expects. */
static void
put_greeting(ia3_writer *w, uint8_t request)
{
    static const uint8_t digest[IA3_DIGEST_LEN] = {1};
    static const char *const texts[] = {"fuzz", "/models/fuzz", "cpu", "a processor", "float32", "t5"};

    if (request == IA3_HELLO) {
        ia3_put_u32(w, IA3_PROTOCOL_VERSION);
        put_text(w, "1.0");
        return;
    }
    for (int i = 0; i < 6; i++)
        put_text(w, texts[i]);
    ia3_put_bytes(w, digest, sizeof digest);
    for (int i = 0; i < 3; i++)
        ia3_put_u64(w, 1000);
    for (int i = 0; i < 4; i++)
        ia3_put_u32(w, 2);
    ia3_put_f64(w, 0.1);
    ia3_put_u32(w, 1); /* methods */
    put_text(w, "ia3");
    ia3_put_f64(w, 0.003);
    ia3_put_u64(w, 1000);
    ia3_put_u32(w, 0); /* options */
    ia3_put_u32(w, 0); /* limits */
}

static void
hang_up(void)
{
    if (engineSocket >= 0)
        close(engineSocket);
    engineSocket = -1;
}

/* Answers the request with the next message of the input, or the greeting with what is right. */
static void
answer(uint8_t request, uint32 number)
{
    bool greeting = !greets && (request == IA3_HELLO || request == IA3_INFO);
    ia3_writer w = {.grow = grow};
    size_t len;

    if (!greeting && inputLeft < 3) {
        inputLeft = 0;
        hang_up();
        return;
    }
    ia3_put_room(&w, 4);
    ia3_put_u8(&w, greeting ? request + IA3_HELLO_OK - IA3_HELLO : input[0]);
    ia3_put_u32(&w, !greeting && input[0] == IA3_GOODBYE ? 0 : number);
    if (greeting)
        put_greeting(&w, request);
    else {
        len = Min((size_t) input[1] | (size_t) input[2] << 8, inputLeft - 3);
        ia3_put_bytes(&w, input + 3, len);
        input += 3 + len;
        inputLeft -= 3 + len;
    }
    len = w.len;
    w.len = 0;
    ia3_put_u32(&w, (uint32) (len - 4));
    if (send(engineSocket, w.data, len, MSG_NOSIGNAL | MSG_DONTWAIT) != (ssize_t) len)
        hang_up();
    free(w.data);
}

/* The engine's turn: the backend waits for it. */
static void
serve(void)
{
    static uint8_t bytes[1 << 16];
    static uint8_t last;
    static uint32 number;
    ssize_t n = engineSocket < 0 ? 0 : recv(engineSocket, bytes, sizeof bytes, MSG_DONTWAIT);
    ia3_reader r = {bytes, bytes + Max(n, 0), false};

    if (n > 0) {
        ia3_get_u32(&r);
        last = ia3_get_u8(&r);
        number = ia3_get_u32(&r);
        if (r.bad)
            abort();
    }
    if (engineSocket >= 0)
        answer(last, number);
}

/* connection.c connects to a path; here, to this process. */
int
connect(int fd, const struct sockaddr *address, socklen_t len)
{
    int fds[2];

    hang_up();
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fds) != 0 ||
        dup3(fds[0], fd, O_CLOEXEC) < 0)
        abort();
    close(fds[0]);
    engineSocket = fds[1];
    return 0;
}

int
WaitLatchOrSocket(Latch *latch, int events, pgsocket fd, long timeout, uint32 wait)
{
    if (fd == PGINVALID_SOCKET)
        return 0;
    serve();
    return events & (WL_SOCKET_READABLE | WL_SOCKET_WRITEABLE);
}

int
WaitLatch(Latch *latch, int events, long timeout, uint32 wait)
{
    return 0;
}

/*
 * The rest of PostgreSQL and of the extension
 */

struct Latch *MyLatch;
int MyProcPid = 1, work_mem = 4096;
int Ia3StartTimeout, Ia3MaxChoices = 100;
char *Ia3Backbone = "fuzz", *Ia3BackbonesSetting = "";
static XactCallback endTransaction;
static uint32 generation = 1;
static int connects;

void
ResetLatch(Latch *latch)
{
}

SubTransactionId
GetCurrentSubTransactionId(void)
{
    return 1;
}

void
RegisterXactCallback(XactCallback callback, void *arg)
{
    endTransaction = callback;
}

void
RegisterSubXactCallback(SubXactCallback callback, void *arg)
{
}

void
before_shmem_exit(void (*callback)(int code, Datum arg), Datum arg)
{
}

bool
AcquireExternalFD(void)
{
    return true;
}

void
ReleaseExternalFD(void)
{
}

void
InvalidateCatalogSnapshotConditionally(void)
{
}

Datum
jsonb_in(PG_FUNCTION_ARGS)
{
    return (Datum) 0;
}

Datum
DirectFunctionCall1Coll(PGFunction function, Oid collation, Datum a)
{
    if (function != jsonb_in)
        abort();
    if (strlen(DatumGetCString(a)) % 4 == 3)
        ereport(ERROR, (errcode(ERRCODE_INVALID_TEXT_REPRESENTATION), errmsg("invalid input syntax")));
    return a;
}

TypeFuncClass
get_call_result_type(FunctionCallInfo fcinfo, Oid *type, TupleDesc *desc)
{
    static TupleDescData none;

    *desc = &none;
    return TYPEFUNC_COMPOSITE;
}

TupleDesc
CreateTupleDescCopy(TupleDesc desc)
{
    return desc;
}

Tuplestorestate *
tuplestore_begin_heap(bool randomAccess, bool interXact, int kilobytes)
{
    return NULL;
}

void
tuplestore_putvalues(Tuplestorestate *state, TupleDesc desc, Datum *values, bool *nulls)
{
    pfree(DatumGetPointer(values[2]));
}

void
Ia3RequirePreload(void)
{
}

bool
Ia3ConfigurationIsKnown(void)
{
    return true;
}

int
Ia3ParseBackbones(const char *setting, Ia3BackboneSpec *specs, char **error)
{
    return 0;
}

const char *
Ia3EngineStateName(Ia3EngineState state)
{
    return "ready";
}

int
Ia3GetEngineStatuses(Ia3EngineStatus *statuses, Ia3EngineLoad *loads)
{
    return 0;
}

bool
Ia3EngineIsCurrent(Ia3EngineKey key)
{
    return key.generation == generation;
}

bool
Ia3EngineLastWords(Ia3EngineKey key, const char *backbone, char *words, size_t size)
{
    strlcpy(words, "killed by signal 9", size);
    return true;
}

void
Ia3EngineAddLoad(Ia3EngineKey key, Ia3EngineLoad load)
{
}

/* A new engine for each connection, up to a number of them. */
bool
Ia3ChooseEngine(const char *backbone, const Ia3EngineWish *wish, Ia3EngineStatus *status, Ia3EngineKey *key)
{
    memset(status, 0, sizeof *status);
    strcpy(status->spec.name, "fuzz");
    strcpy(status->socket, "/nowhere");
    status->state = IA3_ENGINE_READY;
    key->slot = 0;
    key->generation = ++connects < 20 ? generation : 0;
    return true;
}

Ia3EngineWish
Ia3MakeWish(const char *backbone, bool training, const Ia3Connection *last)
{
    return (Ia3EngineWish){0};
}

bool
Ia3AvoidEngine(Ia3EngineWish *wish, uint32 which)
{
    return true;
}

void
Ia3StayWith(const char *backbone, Ia3EngineKey engine)
{
}

void
Ia3StayNoLonger(void)
{
}

Ia3IoResult
Ia3OpenReady(Ia3Connection *conn, const Ia3EngineStatus *status, Ia3EngineKey engine,
             const Ia3EngineWish *wish, ia3_reader *reader, Ia3Time deadline)
{
    return Ia3OpenConnection(conn, status, engine, reader, 0);
}

static Ia3Connection separate = {.fd = -1};

Ia3Connection *
Ia3OpenSeparate(const Ia3EngineStatus *status, Ia3Time deadline)
{
    ia3_reader reader = {0};
    Ia3EngineKey nobody = {0};

    if (Ia3OpenConnection(&separate, status, nobody, &reader, 0) == IA3_IO_OK)
        return &separate;
    Ia3CloseConnection(&separate);
    return NULL;
}

int
Ia3InputTokens(void)
{
    return 128;
}

void
Ia3RecipePut(const Ia3Recipe *recipe, ia3_writer *w)
{
}

void
Ia3ProgressStart(const char *task, int steps)
{
}

void
Ia3ProgressUpdate(int step, int steps, double loss, double rate, double left)
{
}

void
Ia3ProgressEnd(void)
{
}

/*
 * Requests
 */

/* An adapter of the engine that the right greeting describes. */
static Ia3Task *
make_task(void)
{
    Ia3Task *task = palloc0(sizeof(Ia3Task));

    task->name = task->label = "task";
    task->version = 1;
    task->backbone = "fuzz";
    task->method = "ia3";
    task->methodOptions = "";
    task->digest[0] = 7;
    task->backboneDigest[0] = 1;
    task->vectors = palloc(VARHDRSZ);
    SET_VARSIZE(task->vectors, VARHDRSZ);
    return task;
}

static const Ia3Input inputText = {.text = "a text", .len = 6, .tail = 6};

static void
score(void)
{
    static char *names[] = {"yes", "no", "maybe"};
    static const int first[] = {0, 1, 3}; /* the second label has two verbalizers */
    const Ia3Strings three = {3, names}, two = {2, names};
    const Ia3ChoiceSet plain = {&three, &three, NULL}, worded = {&two, &three, first};
    Ia3ScoreRequest *request = Ia3ScoreCreate("fuzz");
    int adapter = Ia3ScoreAddAdapter(request, make_task()), bare = Ia3ScoreAddAdapter(request, NULL);
    int many = Ia3ScoreAddChoices(request, &plain), few = Ia3ScoreAddChoices(request, &worded);
    Ia3ScoreResult *results;

    Ia3ScoreAddRow(request, adapter, many, &inputText);
    Ia3ScoreAddRow(request, bare, few, &inputText);
    results = Ia3ScoreRun(request);
    if (results[0].ok && (results[0].n != 3 || results[0].scores == NULL))
        abort();
    if (results[1].ok && (results[1].n != 2 || results[1].scores == NULL))
        abort();
    Ia3ScoreCheck(&results[0], NULL);
    Ia3ScoreCheck(&results[1], "a context");
}

static void
generate(void)
{
    const Ia3Sampling sampling = {.maxTokens = 5};
    Ia3ScoreRequest *request = Ia3GenerateCreate("fuzz");
    int adapter = Ia3ScoreAddAdapter(request, make_task());
    Ia3ScoreResult *results;

    Ia3GenerateAddRow(request, adapter, &sampling, &inputText);
    Ia3GenerateAddRow(request, adapter, &sampling, &inputText);
    results = Ia3ScoreRun(request);
    for (int i = 0; i < 2; i++) {
        Ia3ScoreCheck(&results[i], NULL);
        if (results[i].text == NULL ||
            pg_text((const uint8_t *) results[i].text, strlen(results[i].text)) == NULL)
            abort();
    }
}

static void
put_examples(ia3_writer *w, void *arg)
{
}

static void
train(int stop)
{
    Ia3Recipe recipe = {.steps = 10};
    Ia3TrainJob job = {.task = "task",
                       .backbone = "fuzz",
                       .recipe = &recipe,
                       .init = make_task(),
                       .maxInputTokens = 128,
                       .putExamples = put_examples,
                       .stop = stop};
    Ia3Trained trained;

    Ia3TrainRun(&job, &trained);
    if (VARSIZE(trained.vectors) <= VARHDRSZ || (trained.state != NULL) != (stop != 0))
        abort();
}

static void
tokenize(void)
{
    LOCAL_FCINFO(fcinfo, 1);
    ReturnSetInfo result = {.type = T_ReturnSetInfo, .allowedModes = SFRM_Materialize};
    ExprContext context = {.ecxt_per_query_memory = CurrentMemoryContext};

    result.econtext = &context;
    InitFunctionCallInfoData(*fcinfo, NULL, 1, InvalidOid, NULL, (Node *) &result);
    fcinfo->args[0].value = PointerGetDatum(make_task()->vectors);
    fcinfo->args[0].isnull = false;
    (void) ia3_tokenize(fcinfo);
}

static void
run(void *arg)
{
    Ia3EngineStatus status;
    Ia3EngineKey key;

    switch (*(int *) arg) {
    case 0:
        score();
        break;
    case 1:
        generate();
        break;
    case 2:
        train(0);
        break;
    case 3:
        train(5);
        break;
    case 4:
        tokenize();
        break;
    case 5:
        replies_normalize();
        break;
    case 6:
        (void) Ia3ChooseEngine("fuzz", NULL, &status, &key);
        (void) replies_stats(&status);
        break;
    case 7: /* two requests over one connection */
        tokenize();
        score();
        break;
    }
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    int request;

    if (size == 0)
        return 0;
    request = data[0] & 7;
    greets = (data[0] & 128) != 0;
    input = data + 1;
    inputLeft = size - 1;
    connects = 0;
    (void) pg_run(run, &request);
    /* the end of the transaction, and of the engine */
    if (endTransaction != NULL)
        endTransaction(XACT_EVENT_ABORT, NULL);
    Ia3CloseConnection(&separate);
    hang_up();
    generation++;
    pg_reset();
    return 0;
}
