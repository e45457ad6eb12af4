/*
 * train_function.c
 *     ia3_train and ia3_train_task: a new version of a task from the rows of a query.
 *
 * The order of the steps decides for how long anything is locked. The arguments are checked, tasks are looked up and rows
 * are read, with the locks released at once (Ia3RunAndRollBack), and the engine trains; only then are the tables written,
 * so the task is locked no longer than the rest of the transaction takes. Whatever has changed meanwhile is found then.
 *
 * A function cannot let go of the snapshot of the statement that calls it. The procedure commits before the engine works.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

#include "extension/client/text.h"
#include "extension/guc.h"
#include "extension/tasks/versions.h"
#include "row_hashes.h"
#include "train_job.h"
#include "train_procedure.h"
#include "train_rows.h"

PG_FUNCTION_INFO_V1(ia3_train);
PG_FUNCTION_INFO_V1(ia3_train_task);

/* The choices of each row. */
typedef struct LabelledRows {
    Ia3TrainRows *rows;
    const Ia3Strings *common; /* NULL: every row has its own */
    int nSets;
    const Ia3Strings **sets;
    char **joined; /* [nSets] for {choices} */
    int *set;      /* [rows->n] */
    int *label;    /* [rows->n] position in the set */
} LabelledRows;

typedef struct Training {
    Ia3TrainJob job;
    const char *query;
    Ia3Recipe *recipe;
    Ia3Template **templates;
    Ia3Strings *choices; /* of the task; NULL: the rows have none in common */
    MemoryContext rowContext;
    LabelledRows *rows;
    bytea *rowHashes;
} Training;

static int
add_set(LabelledRows *l, const Ia3Strings *choices)
{
    l->sets[l->nSets] = choices;
    l->joined[l->nSets] = Ia3StringsJoin(choices, ", ");
    return l->nSets++;
}

/*
 * Determines the choices of rows that have none of their own: the given ones, or else the distinct labels in order of
 * first appearance. Fills in label[] of these rows.
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

        CHECK_FOR_INTERRUPTS();
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
                        errhint("Specify the choices explicitly if other labels are possible.")));
}

/* Fills in label[] and set[] of a row that has its own choices. */
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
    /* Neighboring rows often have the same choices. */
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
put_examples(ia3_writer *w, void *arg)
{
    const Training *t = arg;
    const LabelledRows *l = t->rows;
    MemoryContext scratch =
        AllocSetContextCreate(CurrentMemoryContext, "ia3 rendering", ALLOCSET_DEFAULT_SIZES);
    MemoryContext old = MemoryContextSwitchTo(scratch);

    ia3_put_u32(w, l->nSets);
    for (int i = 0; i < l->nSets; i++)
        Ia3PutStrings(w, l->sets[i]);
    ia3_put_u32(w, l->rows->n);
    for (int i = 0; i < l->rows->n; i++) {
        CHECK_FOR_INTERRUPTS();
        ia3_put_u32(w, l->set[i]);
        ia3_put_u32(w, l->label[i]);
        ia3_put_u32(w, t->recipe->templates->n);
        for (int k = 0; k < t->recipe->templates->n; k++) {
            Ia3Input input;

            Ia3TrainRowRender(l->rows, &l->rows->rows[i], t->templates[k], l->joined[l->set[i]], &input);
            Ia3PutInput(w, &input);
        }
        MemoryContextReset(scratch);
    }
    MemoryContextSwitchTo(old);
    MemoryContextDelete(scratch);
}

/* Frees the rows once the engine has them. */
static void
forget_rows(void *arg)
{
    Training *t = arg;

    MemoryContextDelete(t->rowContext);
    t->rowContext = NULL;
    t->rows = NULL;
}

/* Copies strings that have to outlive the rows. */
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

/*
 * Reads, labels and hashes the rows, in a context of their own; returns the task's choices, NULL if rows have none in
 * common.
 */
static Ia3Strings *
read_rows(Training *t)
{
    MemoryContext old;

    t->rowContext = AllocSetContextCreate(CurrentMemoryContext, "ia3 training rows", ALLOCSET_DEFAULT_SIZES);
    old = MemoryContextSwitchTo(t->rowContext);
    t->rows =
        label_rows(Ia3ReadTrainRows(t->query, t->templates, t->recipe->templates->n), t->recipe->choices);
    MemoryContextSwitchTo(old);
    t->rowHashes = Ia3RowHashes(t->rows->rows, t->templates[0]);
    return t->rows->common ? copy_strings(t->rows->common) : NULL;
}

/* Stores the version and returns its number. */
static int
store(const Training *t, const Ia3Trained *trained)
{
    Ia3RecipeContext context = {
        .query = t->query,
        .backbone = t->job.backbone,
        .engine = &trained->engine,
        .choices = t->choices,
        .init = t->job.init ? t->job.init->label : NULL,
        .maxInputTokens = t->job.maxInputTokens,
    };
    Ia3NewVersion version = {
        .task = t->job.task,
        .backbone = t->job.backbone,
        .templates = t->recipe->templates,
        .choices = t->choices,
        .vectors = trained->vectors,
        .backboneDigest = trained->engine.digest,
        .parentVersion = Ia3TrainParent(&t->job),
        .examples = trained->examples,
        .recipe = Ia3RecipeJson(t->recipe, &context),
        .metrics = trained->metrics,
        .rowHashes = t->rowHashes,
        .activate = t->recipe->activate,
    };

    return Ia3VersionsStore(&version);
}

/* Does all that comes before the engine's work. Everything is copied into the current memory context. */
static void
begin(Training *t, FunctionCallInfo fcinfo)
{
    if (PG_ARGISNULL(0) || PG_ARGISNULL(1))
        ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
                        errmsg("%s must not be null", PG_ARGISNULL(0) ? "task" : "query")));
    t->job.putExamples = put_examples;
    t->job.running = forget_rows;
    t->job.arg = t;
    t->job.task = text_to_cstring(PG_GETARG_TEXT_PP(0));
    t->query = text_to_cstring(PG_GETARG_TEXT_PP(1));
    Ia3TaskCheckName(t->job.task);
    t->recipe = Ia3RecipeFromArguments(fcinfo, &Ia3TrainOptions);
    t->templates = Ia3TemplatesParse(t->recipe->templates, t->recipe->truncate);
    Ia3TrainPrepare(&t->job, t->recipe);
    t->choices = read_rows(t);
}

Datum
ia3_train(PG_FUNCTION_ARGS)
{
    Training t = {0};
    Ia3Trained trained;

    Ia3TrainPrevent("ia3_train()");
    begin(&t, fcinfo);
    Ia3TrainRun(&t.job, &trained);
    PG_RETURN_INT32(store(&t, &trained));
}

/* The last argument, after those of ia3_train, is the INOUT argument "version". */
Datum
ia3_train_task(PG_FUNCTION_ARGS)
{
    Training t = {0};
    Ia3Trained trained;
    Ia3Procedure procedure;
    TupleDesc desc;
    Datum version;
    bool isNull = false;

    Ia3TrainPrevent("ia3_train_task()");
    if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
        elog(ERROR, "result type must be a row type");
    Ia3ProcedureCheck(fcinfo, "ia3_train_task()", "Call it by itself, or use the function ia3_train.");
    Ia3ProcedureBegin(&procedure, fcinfo, "ia3_train_task()");
    begin(&t, fcinfo);
    Ia3ProcedureCommit(&procedure);
    Ia3TrainRun(&t.job, &trained);
    Ia3ProcedureResume(&procedure);
    version = Int32GetDatum(store(&t, &trained));
    Ia3ProcedureEnd(&procedure);
    PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), &version, &isNull)));
}
