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
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/memutils.h"

#include "extension/tasks/procedure.h"
#include "extension/tasks/versions.h"
#include "calibration_runs.h"
#include "early_stopping.h"
#include "examples.h"
#include "row_hashes.h"
#include "thresholds.h"
#include "train_job.h"
#include "weighting.h"

PG_FUNCTION_INFO_V1(ia3_train);
PG_FUNCTION_INFO_V1(ia3_train_task);

typedef struct Training {
    Ia3TrainJob job;
    const char *query;
    Ia3Recipe *recipe;
    Ia3Template **templates;
    Ia3Strings *choices; /* of the task; NULL: the rows have none in common */
    MemoryContext rowContext;
    Ia3Examples *examples;
    bytea *rowHashes;
    Ia3CalibrationRuns calibrationRuns;
    Ia3StepChoice stepChoice; /* early_stopping 'folds' */
    Ia3HeldOut *heldOut;      /* NULL: the version is not calibrated */
    Ia3Calibration calibration;
    Ia3Thresholds thresholds; /* of a calibrated multi-label version */
    bool multiLabel;
    Datum weightMetrics; /* jsonb; 0: all rows weigh the same */
} Training;

static void
put_examples(ia3_writer *w, void *arg)
{
    const Training *t = arg;

    Ia3ExamplesPut(w, t->examples, t->templates, t->recipe->templates->n);
}

/* Frees the rows once the engine has them, unless they are to be scored, too. */
static void
forget_rows(void *arg)
{
    Training *t = arg;

    MemoryContextDelete(t->rowContext);
    t->rowContext = NULL;
    t->examples = NULL;
    t->job.weighting = NULL;
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
    const Ia3RowColumns columns = {.labels = IA3_LABEL_ANY, .weight = t->recipe->weightColumn};
    MemoryContext old;

    t->rowContext = AllocSetContextCreate(CurrentMemoryContext, "ia3 training rows", ALLOCSET_DEFAULT_SIZES);
    old = MemoryContextSwitchTo(t->rowContext);
    t->examples =
        Ia3ExamplesLabel(Ia3ReadTrainRows(t->query, t->templates, t->recipe->templates->n, &columns),
                         t->recipe->choices, t->recipe->wording);
    Ia3ExamplesCheckWording(t->examples, t->recipe->wording, t->templates, t->recipe->templates->n);
    t->job.weighting = Ia3WeightingMake(t->recipe, t->examples);
    MemoryContextSwitchTo(old);
    if (t->job.weighting)
        t->weightMetrics = Ia3WeightingMetrics(t->job.weighting);
    t->multiLabel = t->examples->rows->multiLabel;
    t->rowHashes = Ia3RowHashes(t->examples->rows, t->templates[0]);
    return t->examples->common ? copy_strings(t->examples->common) : NULL;
}

static void
put_more(Ia3JsonObject *recipe, const void *arg)
{
    const Training *t = arg;

    if (t->multiLabel)
        Ia3JsonPutBool(recipe, "multi_label", true);
    if (t->recipe->calibrate)
        Ia3JsonPutBool(recipe, "calibrate", true);
    if (t->recipe->earlyStopping == IA3_EARLY_FOLDS)
        Ia3JsonPutInteger(recipe, "chosen_steps", t->job.recipe->steps);
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
        .more = put_more,
        .arg = t,
    };
    Ia3NewVersion version = {
        .task = t->job.task,
        .backbone = t->job.backbone,
        .templates = t->recipe->templates,
        .choices = t->choices,
        .wording = t->recipe->wording,
        .multiLabel = t->multiLabel,
        .vectors = trained->vectors,
        .backboneDigest = trained->engine.digest,
        .parentVersion = Ia3TrainParent(&t->job),
        .examples = trained->examples,
        .recipe = Ia3RecipeJson(t->recipe, &context),
        .metrics = t->weightMetrics ? DirectFunctionCall2(jsonb_concat, trained->metrics, t->weightMetrics)
                                    : trained->metrics,
        .rowHashes = t->rowHashes,
        .temperature = t->calibration.temperature,
        .thresholds = t->thresholds.byLabel,
        .heldOut = t->multiLabel ? NULL : t->heldOut,
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
    t->job.arg = t;
    t->job.task = text_to_cstring(PG_GETARG_TEXT_PP(0));
    t->query = text_to_cstring(PG_GETARG_TEXT_PP(1));
    Ia3TaskCheckName(t->job.task);
    t->recipe = Ia3RecipeFromArguments(fcinfo, &Ia3TrainOptions);
    t->templates = Ia3TemplatesParse(t->recipe->templates, t->recipe->truncate);
    Ia3TrainPrepare(&t->job, t->recipe);
    t->choices = read_rows(t);
    if (t->recipe->earlyStopping == IA3_EARLY_FOLDS)
        Ia3StepsPrepare(&t->stepChoice, &t->job, t->examples, t->templates[0]);
    else if (t->recipe->calibrate) {
        t->calibrationRuns = (Ia3CalibrationRuns){
            .job = &t->job, .examples = t->examples, .template = t->templates[0], .withAll = true};
        Ia3CalibrationRunsPrepare(&t->calibrationRuns);
    } else
        t->job.taken = forget_rows;
}

/* Thresholds need the rows' labels. */
static void
set_held_out(Training *t, Ia3HeldOut *heldOut)
{
    t->heldOut = heldOut;
    if (t->multiLabel)
        Ia3ThresholdsFit(t->examples, heldOut, &t->thresholds);
}

/* The runs that choose the steps are those that calibration would need. */
static void
train_chosen_steps(Training *t, Ia3Trained *trained)
{
    Ia3StepsChoose(&t->stepChoice, &t->job);
    if (t->recipe->calibrate)
        set_held_out(t, t->stepChoice.heldOut);
    t->job.taken = forget_rows;
    Ia3TrainRun(&t->job, trained);
    trained->metrics = Ia3StepsMetrics(trained->metrics, &t->stepChoice);
}

static void
train(Training *t, Ia3Trained *trained)
{
    if (t->recipe->earlyStopping == IA3_EARLY_FOLDS)
        train_chosen_steps(t, trained);
    else if (t->recipe->calibrate)
        set_held_out(t, Ia3CalibrationRunsTrain(&t->calibrationRuns, trained));
    else
        Ia3TrainRun(&t->job, trained);
    if (t->heldOut == NULL)
        return;
    Ia3CalibrationFit(t->heldOut, &t->calibration);
    trained->metrics = Ia3CalibrationMetrics(trained->metrics, t->heldOut, &t->calibration);
    if (t->multiLabel)
        trained->metrics = Ia3ThresholdsMetrics(trained->metrics, &t->thresholds);
}

Datum
ia3_train(PG_FUNCTION_ARGS)
{
    Training t = {0};
    Ia3Trained trained;

    Ia3TrainPrevent("ia3_train()");
    begin(&t, fcinfo);
    train(&t, &trained);
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
    train(&t, &trained);
    Ia3ProcedureResume(&procedure);
    version = Int32GetDatum(store(&t, &trained));
    Ia3ProcedureEnd(&procedure);
    PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), &version, &isNull)));
}
