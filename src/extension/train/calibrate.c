/*
 * calibrate.c
 *     ia3_calibrate: a version with the vectors of another, calibrated by training runs like the one that made it.
 *
 * The order of the steps is that of ia3_train: no table is locked while the engine works.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "utils/builtins.h"

#include "calibration_runs.h"
#include "extension/tasks/catalog.h"
#include "extension/tasks/versions.h"
#include "thresholds.h"
#include "train_job.h"
#include "weighting.h"

PG_FUNCTION_INFO_V1(ia3_calibrate);

typedef struct Calibrating {
    Ia3TrainJob job;
    const char *reference, *query;
    Ia3Task *version; /* that is calibrated */
    /* what else is stored with it; 0 or NULL: nothing */
    Jsonb *recordedRecipe, *metrics;
    int nExamples, parentVersion;
    bytea *rowHashes;
    Ia3Template **templates;
    Ia3Examples *examples;
    Ia3CalibrationRuns runs;
} Calibrating;

/* The query of the training run is where versions are stored from: in the recipe. */
static Ia3Query recordedQuery = {
    .sql = "SELECT CASE WHEN q.query IS NULL THEN a.recipe ELSE a.recipe OPERATOR(pg_catalog.||)"
           "  pg_catalog.jsonb_build_object('query', q.query) END,"
           " a.metrics, a.examples, a.parent_version, q.row_hashes"
           " FROM ia3.adapter a LEFT JOIN ia3.adapter_query q ON q.task OPERATOR(pg_catalog.=) a.task"
           "  AND q.version OPERATOR(pg_catalog.=) a.version"
           " WHERE a.task OPERATOR(pg_catalog.=) $1 AND a.version OPERATOR(pg_catalog.=) $2",
    .nArgs = 2,
    .argTypes = {TEXTOID, INT4OID},
};

static void
read_recorded(Calibrating *c)
{
    MemoryContext caller = CurrentMemoryContext;
    Datum values[2], columns[5];
    bool nulls[5];

    Ia3SpiConnect();
    values[0] = CStringGetTextDatum(c->version->name);
    values[1] = Int32GetDatum(c->version->version);
    if (Ia3QueryRun(&recordedQuery, values, NULL, true) == 0)
        elog(ERROR, "version \"%s\" is gone", c->version->label); /* the snapshot is the same */
    for (int i = 0; i < 5; i++)
        columns[i] = Ia3QueryColumn(i + 1, &nulls[i]);
    MemoryContextSwitchTo(caller);
    c->recordedRecipe = DatumGetJsonbPCopy(columns[0]);
    c->metrics = nulls[1] ? NULL : DatumGetJsonbPCopy(columns[1]);
    c->nExamples = nulls[2] ? 0 : DatumGetInt32(columns[2]);
    c->parentVersion = nulls[3] ? 0 : DatumGetInt32(columns[3]);
    c->rowHashes = nulls[4] ? NULL : DatumGetByteaPCopy(columns[4]);
    Ia3SpiFinish();
    MemoryContextSwitchTo(caller);
}

/* Looks up the version and what is recorded with it; rolled back, so that no lock remains. */
static void
look_up(void *arg)
{
    Calibrating *c = arg;

    c->version = Ia3TaskLookup(c->reference);
    Ia3VersionsCheckOwner(c->version->name);
    c->version->vectors = Ia3TaskFetchVectors(c->version);
    read_recorded(c);
}

typedef struct InitLookup {
    const char *reference;
    bool found;
} InitLookup;

static void
look_up_init(void *arg)
{
    InitLookup *look = arg;

    look->found = Ia3TaskLookupIfExists(look->reference) != NULL;
}

/* ERROR 0A000 or 55000 if there can be no runs like the version's. */
static void
check_repeatable(const Calibrating *c, const Ia3Recipe *recipe)
{
    InitLookup look = {.reference = recipe->init};

    if (c->version->rowsAsWritten)
        ereport(ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
                        errmsg("version \"%s\" cannot be calibrated", c->version->label),
                        errdetail("It reads values of rows as earlier releases did."),
                        errhint("Train the task again, with calibrate => true.")));
    if (recipe->init == NULL)
        return;
    Ia3RunAndRollBack(look_up_init, &look);
    if (!look.found)
        ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
                        errmsg("the training run of version \"%s\" cannot be repeated", c->version->label),
                        errdetail("It started from \"%s\", which does not exist.", recipe->init),
                        errhint("Train the task again, with calibrate => true.")));
}

static void
put_examples(ia3_writer *w, void *arg)
{
    const Calibrating *c = arg;

    Ia3ExamplesPut(w, c->examples, c->templates, c->version->templates->n);
}

/* As in ia3_evaluate, a row's own choices come before those of the task. */
static void
read_rows(Calibrating *c)
{
    const Ia3RowColumns columns = {.labels = c->version->multiLabel ? IA3_LABEL_ARRAY : IA3_LABEL_ONE,
                                   .weight = c->job.recipe->weightColumn};
    Ia3TrainRows *rows = Ia3ReadTrainRows(c->query, c->templates, c->version->templates->n, &columns);

    for (int i = 0; i < rows->n && c->version->choices == NULL; i++)
        if (rows->rows[i].choices == NULL)
            Ia3RaiseNoChoices(c->version);
    c->examples = Ia3ExamplesLabel(rows, c->version->choices, c->version->wording);
    c->job.weighting = Ia3WeightingMake(c->job.recipe, c->examples);
}

/* The recorded recipe with what the calibration adds, and with the prompt and the choices that it was made for. */
static Datum
make_recipe(const Calibrating *c)
{
    static const char *const replaced[] = {"verbalizers", "descriptions", "multi_label"};
    Datum recorded = JsonbPGetDatum(c->recordedRecipe);
    Ia3JsonObject json;

    for (int i = 0; i < lengthof(replaced); i++)
        recorded = DirectFunctionCall2(jsonb_delete, recorded, CStringGetTextDatum(replaced[i]));
    Ia3JsonBegin(&json);
    Ia3JsonPutBool(&json, "calibrate", true);
    Ia3JsonPutString(&json, "calibrated_version", c->version->label);
    Ia3JsonPutStrings(&json, "template", c->version->templates);
    Ia3JsonPutStrings(&json, "choices", c->version->choices);
    if (c->version->recordedInputTokens == 0)
        Ia3JsonPutInteger(&json, "max_input_tokens", c->job.maxInputTokens);
    Ia3WordingPut(c->version->wording, &json);
    if (c->version->multiLabel)
        Ia3JsonPutBool(&json, "multi_label", true);
    Ia3JsonPutString(&json, "backbone", c->version->backbone);
    return DirectFunctionCall2(jsonb_concat, recorded, Ia3JsonEnd(&json));
}

static int
store(const Calibrating *c, const Ia3HeldOut *heldOut)
{
    Ia3Calibration calibration;
    Ia3Thresholds thresholds;
    Ia3NewVersion version = {
        .task = c->version->name,
        .backbone = c->version->backbone,
        .templates = c->version->templates,
        .choices = c->version->choices,
        .wording = c->version->wording,
        .multiLabel = c->version->multiLabel,
        .vectors = c->version->vectors,
        .backboneDigest = c->version->backboneDigest,
        .parentVersion = c->parentVersion,
        .examples = c->nExamples,
        .recipe = make_recipe(c),
        .rowHashes = c->rowHashes,
        .heldOut = c->version->multiLabel ? NULL : heldOut,
        .replaces = c->version->version,
    };

    Ia3CalibrationFit(heldOut, &calibration);
    version.temperature = calibration.temperature;
    version.metrics =
        Ia3CalibrationMetrics(c->metrics ? JsonbPGetDatum(c->metrics) : (Datum) 0, heldOut, &calibration);
    if (c->version->multiLabel) {
        Ia3ThresholdsFit(c->examples, heldOut, &thresholds);
        version.thresholds = thresholds.byLabel;
        version.metrics = Ia3ThresholdsMetrics(version.metrics, &thresholds);
    }
    return Ia3VersionsStore(&version);
}

Datum
ia3_calibrate(PG_FUNCTION_ARGS)
{
    Calibrating c = {.job = {.putExamples = put_examples}};
    Ia3Recipe *recipe;

    Ia3TrainPrevent("ia3_calibrate()");
    if (PG_ARGISNULL(0) || PG_ARGISNULL(1))
        ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
                        errmsg("%s must not be null", PG_ARGISNULL(0) ? "task" : "query")));
    c.reference = text_to_cstring(PG_GETARG_TEXT_PP(0));
    c.query = text_to_cstring(PG_GETARG_TEXT_PP(1));
    Ia3RunAndRollBack(look_up, &c);
    Ia3TaskCheckBackbone(c.version);
    recipe = Ia3RecipeOfVersion(c.version, c.recordedRecipe);
    check_repeatable(&c, recipe);
    c.job.arg = &c;
    c.job.task = c.version->name;
    c.templates = Ia3TemplatesParse(c.version->templates, c.version->truncate);
    Ia3TrainPrepare(&c.job, recipe);
    read_rows(&c);
    c.runs = (Ia3CalibrationRuns){.job = &c.job, .examples = c.examples, .template = c.templates[0]};
    Ia3CalibrationRunsPrepare(&c.runs);
    PG_RETURN_INT32(store(&c, Ia3CalibrationRunsTrain(&c.runs, NULL)));
}
