/*
 * train.c
 *     ia3_train: a new version of a task from the rows of a query.
 *
 * Order of work, which decides what is held for how long: arguments are checked, rows are read (and their
 * locks released, train_rows.c), the engine trains, and only then the catalog is written, under a lock on
 * the task that is as short as the rest of the transaction.
 */
#include "postgres.h"

#include <math.h>

#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "recipe.h"
#include "train_rows.h"
#include "versions.h"

PG_FUNCTION_INFO_V1(ia3_train);

#define NOTICE_INTERVAL_MS 2000
#define MAX_ROUNDS         4 /* of supplying the adapter to start from */

/* Which choices each row has. */
typedef struct LabelledRows {
    Ia3TrainRows *rows;
    const Ia3Strings *common; /* NULL: every row brings its own */
    int nSets;
    const Ia3Strings **sets;
    char **joined; /* [nSets] for {choices} */
    int *set;      /* [rows->n] */
    int *label;    /* [rows->n] position in the set */
} LabelledRows;

/* What the engine made. */
typedef struct Trained {
    Ia3EngineInfo engine;
    bytea *vectors;
    Datum metrics; /* jsonb */
    int examples;
} Trained;

typedef struct TrainJob {
    const char *task;
    const char *query;
    const char *backbone;
    Ia3Recipe *recipe;
    Ia3Template **templates;
    Ia3Task *init; /* NULL: ones */
    MemoryContext rowContext;
    LabelledRows *rows;
} TrainJob;

static int
add_set(LabelledRows *l, const Ia3Strings *choices)
{
    l->sets[l->nSets] = choices;
    l->joined[l->nSets] = Ia3StringsJoin(choices, ", ");
    return l->nSets++;
}

/*
 * The choices of rows without their own: those given, else the distinct labels in order of first appearance.
 * Fills label[] of these rows.
 */
static void
label_common(LabelledRows *l, const Ia3Strings *given)
{
    Ia3StringIndex *index = Ia3StringIndexCreate();
    int first = -1;
    bool found;

    for (int i = 0; given && i < given->n; i++)
        Ia3StringIndexAdd(index, given->items[i], &found);
    for (int i = 0; i < l->rows->n; i++) {
        Ia3TrainRow *row = &l->rows->rows[i];

        if (row->choices != NULL)
            continue;
        if (first < 0)
            first = i;
        if (given == NULL)
            l->label[i] = Ia3StringIndexAdd(index, row->label, &found);
        else if ((l->label[i] = Ia3StringIndexFind(index, row->label)) < 0)
            Ia3RaiseTrainLabel(l->rows, i, given);
    }
    if (first < 0 && given == NULL)
        return;
    l->common = Ia3StringIndexStrings(index);
    Ia3CheckChoices(l->common);
    if (given == NULL && l->common->n == 1)
        ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                        errmsg("every example has the label \"%s\"", l->common->items[0]),
                        errhint("Give the choices explicitly if other labels are possible.")));
}

/* Fills label[] and set[] of a row that brings its own choices. */
static void
label_own(LabelledRows *l, int i)
{
    Ia3TrainRow *row = &l->rows->rows[i];

    Ia3CheckChoices(row->choices);
    l->label[i] = -1;
    for (int c = 0; c < row->choices->n; c++)
        if (strcmp(row->choices->items[c], row->label) == 0)
            l->label[i] = c;
    if (l->label[i] < 0)
        Ia3RaiseTrainLabel(l->rows, i, row->choices);
    /* Neighbours often share their choices. */
    if (l->nSets > 0 && Ia3StringsEqual(l->sets[l->nSets - 1], row->choices))
        l->set[i] = l->nSets - 1;
    else
        l->set[i] = add_set(l, row->choices);
}

static LabelledRows *
label_rows(Ia3TrainRows *rows, const Ia3Strings *given)
{
    LabelledRows *l = palloc0(sizeof(LabelledRows));
    int common = 0;

    l->rows = rows;
    l->sets = palloc_extended(sizeof(Ia3Strings *) * ((Size) rows->n + 1), MCXT_ALLOC_HUGE);
    l->joined = palloc_extended(sizeof(char *) * ((Size) rows->n + 1), MCXT_ALLOC_HUGE);
    l->set = palloc_extended(sizeof(int) * (Size) rows->n, MCXT_ALLOC_HUGE);
    l->label = palloc_extended(sizeof(int) * (Size) rows->n, MCXT_ALLOC_HUGE);
    label_common(l, given);
    if (l->common != NULL)
        common = add_set(l, l->common);
    for (int i = 0; i < rows->n; i++) {
        if (rows->rows[i].choices != NULL)
            label_own(l, i);
        else
            l->set[i] = common;
    }
    return l;
}

static void
write_request(const TrainJob *job, ia3_writer *w)
{
    static const uint8 ones[IA3_DIGEST_LEN];
    const LabelledRows *l = job->rows;
    MemoryContext scratch =
        AllocSetContextCreate(CurrentMemoryContext, "ia3 rendering", ALLOCSET_DEFAULT_SIZES);
    MemoryContext old = MemoryContextSwitchTo(scratch);

    ia3_put_u32(w, Ia3MaxInputTokens);
    Ia3RecipePut(job->recipe, w);
    ia3_put_bytes(w, job->init ? job->init->digest : ones, IA3_DIGEST_LEN);
    ia3_put_u32(w, 0);       /* no pause */
    ia3_put_str(w, NULL, 0); /* from the beginning */
    ia3_put_u32(w, l->nSets);
    for (int i = 0; i < l->nSets; i++)
        Ia3PutStrings(w, l->sets[i]);
    ia3_put_u32(w, l->rows->n);
    for (int i = 0; i < l->rows->n; i++) {
        CHECK_FOR_INTERRUPTS();
        ia3_put_u32(w, l->set[i]);
        ia3_put_u32(w, l->label[i]);
        ia3_put_u32(w, job->recipe->templates->n);
        for (int t = 0; t < job->recipe->templates->n; t++) {
            Ia3Input input;

            Ia3TrainRowRender(l->rows, &l->rows->rows[i], job->templates[t], l->joined[l->set[i]], &input);
            Ia3PutInput(w, input.text, input.len, input.tail);
        }
        MemoryContextReset(scratch);
    }
    MemoryContextSwitchTo(old);
    MemoryContextDelete(scratch);
}

typedef struct Reporter {
    TimestampTz last; /* of the latest NOTICE, or the start */
    int tenths;       /* of the steps, told so far */
} Reporter;

/* A NOTICE for every tenth of the steps, but never two within two seconds. */
static void
report_progress(Reporter *reporter, ia3_reader *r)
{
    int step = (int) ia3_get_u32(r);
    int steps = (int) ia3_get_u32(r);
    double loss = ia3_get_f64(r), rate = ia3_get_f64(r), left = ia3_get_f64(r);
    TimestampTz now = GetCurrentTimestamp();
    int tenths;

    if (r->bad || steps < 1)
        Ia3ProtocolError("A progress report does not have the length it should have.");
    Ia3ProgressUpdate(step, loss, rate, left);
    tenths = (int) ((int64) step * 10 / steps);
    if (tenths > reporter->tenths && TimestampDifferenceExceeds(reporter->last, now, NOTICE_INTERVAL_MS)) {
        reporter->tenths = tenths;
        reporter->last = now;
        ereport(NOTICE, (errmsg("step %d of %d, loss %.3f, %.1f examples/s, %.0f s left", step, steps, loss,
                                rate, ceil(left))));
    }
}

static void
read_trained(Trained *trained, ia3_reader *r)
{
    size_t len, stateLen;
    const char *bytes = ia3_get_str(r, &len);

    trained->vectors = palloc(VARHDRSZ + len);
    SET_VARSIZE(trained->vectors, VARHDRSZ + len);
    memcpy(VARDATA(trained->vectors), bytes, len);
    trained->metrics = DirectFunctionCall1(jsonb_in, CStringGetDatum(Ia3GetText(r)));
    trained->examples = (int) ia3_get_u32(r);
    (void) ia3_get_str(r, &stateLen);
    if (r->bad || r->p != r->end || len == 0)
        Ia3ProtocolError("The trained adapter does not have the length it should have.");
}

/* Sends the request and waits for the first reply that is no progress. */
static uint8
train_once(TrainJob *job, Trained *trained, ia3_reader *reader)
{
    ia3_writer *w = Ia3RequestBegin(job->backbone);
    Reporter reporter = {GetCurrentTimestamp(), 0};
    uint8 type;

    /* Of the very engine that gets the request; a restart might have brought another backbone. */
    trained->engine = *Ia3GetEngineInfo(job->backbone);
    if (job->init)
        Ia3TaskCheckBackbone(job->init);
    write_request(job, w);
    Ia3RequestSend(IA3_TRAIN);
    while ((type = Ia3ReplyWaitOrRepeat(reader)) == IA3_PROGRESS) {
        if (job->rowContext != NULL) {
            /* It is running, so the rows will not be sent again. */
            MemoryContextDelete(job->rowContext);
            job->rowContext = NULL;
        }
        report_progress(&reporter, reader);
    }
    return type;
}

static void
train(TrainJob *job, Trained *trained)
{
    Ia3ProgressStart(job->task, job->recipe->steps);
    for (int round = 0; round < MAX_ROUNDS; round++) {
        ia3_reader reader;
        uint8 type = train_once(job, trained, &reader);

        if (type == IA3_GOODBYE)
            continue;
        if (type == IA3_TRAIN_OK) {
            read_trained(trained, &reader);
            Ia3ProgressEnd();
            return;
        }
        if (type != IA3_MISSING || job->init == NULL || job->rowContext == NULL)
            Ia3ProtocolError("The engine did not answer TRAIN with an adapter.");
        Ia3TaskPutAdapter(job->init);
    }
    ereport(ERROR,
            (errcode(ERRCODE_INTERNAL_ERROR), errmsg("ia3 engine does not keep the adapters it is given"),
             errhint("Raise ia3.adapter_cache_size.")));
}

/* Copies what outlives the rows. */
static Ia3Strings *
copy_strings(const Ia3Strings *strings)
{
    Ia3Strings *copy = palloc(sizeof(Ia3Strings));

    copy->n = strings->n;
    copy->items = palloc(sizeof(char *) * Max(strings->n, 1));
    for (int i = 0; i < strings->n; i++)
        copy->items[i] = pstrdup(strings->items[i]);
    return copy;
}

/* Reads and labels the rows in a context of their own; returns the task's choices (NULL: none in common). */
static Ia3Strings *
read_rows(TrainJob *job)
{
    MemoryContext old;

    job->rowContext =
        AllocSetContextCreate(CurrentMemoryContext, "ia3 training rows", ALLOCSET_DEFAULT_SIZES);
    old = MemoryContextSwitchTo(job->rowContext);
    job->rows = label_rows(Ia3ReadTrainRows(job->query, job->templates, job->recipe->templates->n),
                           job->recipe->choices);
    MemoryContextSwitchTo(old);
    return job->rows->common ? copy_strings(job->rows->common) : NULL;
}

static int
store(const TrainJob *job, const Trained *trained, const Ia3Strings *choices, int maxInputTokens)
{
    Ia3RecipeContext context = {
        .query = job->query,
        .backbone = job->backbone,
        .engine = &trained->engine,
        .choices = choices,
        .init = job->init ? job->init->label : NULL,
        .maxInputTokens = maxInputTokens,
    };
    Ia3NewVersion version = {
        .task = job->task,
        .backbone = job->backbone,
        .templates = job->recipe->templates,
        .choices = choices,
        .vectors = trained->vectors,
        .backboneDigest = trained->engine.digest,
        .parentVersion = job->init && strcmp(job->init->name, job->task) == 0 ? job->init->version : 0,
        .examples = trained->examples,
        .recipe = Ia3RecipeJson(job->recipe, &context),
        .metrics = trained->metrics,
        .activate = job->recipe->activate,
    };

    return Ia3VersionsStore(&version);
}

/* The backbone asked for, else the task's own, else the session's. */
static const char *
choose_backbone(const char *task, const Ia3Recipe *recipe)
{
    const char *backbone = recipe->backbone;

    if (backbone == NULL)
        backbone = Ia3VersionsBackbone(task);
    return backbone ? backbone : pstrdup(Ia3Backbone);
}

Datum
ia3_train(PG_FUNCTION_ARGS)
{
    TrainJob job = {0};
    Trained trained;
    Ia3Strings *choices;
    int maxInputTokens = Ia3MaxInputTokens;

    PreventCommandDuringRecovery("ia3_train()");
    PreventCommandIfReadOnly("ia3_train()");
    PreventCommandIfParallelMode("ia3_train()");
    Ia3RequirePreload();
    if (PG_ARGISNULL(0) || PG_ARGISNULL(1))
        ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
                        errmsg("%s must not be null", PG_ARGISNULL(0) ? "task" : "query")));

    job.task = text_to_cstring(PG_GETARG_TEXT_PP(0));
    job.query = text_to_cstring(PG_GETARG_TEXT_PP(1));
    Ia3TaskCheckName(job.task);
    job.recipe = Ia3RecipeFromArguments(fcinfo);
    job.templates = Ia3TemplatesParse(job.recipe->templates);
    Ia3VersionsCheckOwner(job.task);
    job.backbone = choose_backbone(job.task, job.recipe);
    if (job.recipe->init) {
        job.init = Ia3TaskLookup(job.recipe->init);
        job.init->backbone = pstrdup(job.backbone); /* where its vectors have to be known */
    }
    choices = read_rows(&job);
    train(&job, &trained);
    PG_RETURN_INT32(store(&job, &trained, choices, maxInputTokens));
}
