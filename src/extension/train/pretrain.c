/*
 * pretrain.c
 *     ia3_pretrain: one adapter from the examples of many tasks, as a starting point for others.
 *
 * This is a procedure. It trains a few steps at a time, a segment; after each segment the engine hands over the state
 * of the run, which is saved in ia3.checkpoint and committed, so a restart of the server or of the engine loses one
 * segment at most. The rows are read once, at the beginning. Everything that has to survive a commit lives in a
 * memory context of its own; no lock and no snapshot of ours does.
 */
#include "postgres.h"

#include <math.h>

#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

#include "extension/client/client.h"
#include "extension/guc.h"
#include "extension/tasks/pretrain_lock.h"
#include "extension/tasks/procedure.h"
#include "extension/tasks/versions.h"
#include "loss_curve.h"
#include "mixture.h"
#include "pretrain_checkpoint.h"
#include "train_job.h"

PG_FUNCTION_INFO_V1(ia3_pretrain);

/* Positions of the arguments that only ia3_pretrain has, from 0. */
enum {
    ARG_TASK,
    ARG_QUERY,
    ARG_TEMPLATE,
    ARG_TEMPLATES,
    ARG_SEED = 11,
    ARG_CHECKPOINT_EVERY = 14,
    ARG_RESUME
};

typedef struct Pretraining {
    Ia3TrainJob job;
    const char *query;
    Ia3Recipe *recipe;
    Jsonb *templates; /* by task; NULL: recipe->templates for all */
    Ia3Mixture *mixture;
    int every; /* steps between checkpoints; 0: none */
    int parent;
    Ia3Checkpoint at; /* step 0: nothing has been trained yet */
    int nLosses[IA3_LOSS_POINTS];
} Pretraining;

/* Raises an ERROR when the call cannot commit, but has checkpoints to save. */
static void
check_atomic(FunctionCallInfo fcinfo, const Pretraining *p)
{
    if (Ia3ProcedureIsAtomic(fcinfo) && p->every > 0 && p->every < p->recipe->steps)
        ereport(ERROR, (errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
                        errmsg("ia3_pretrain() cannot save checkpoints inside a transaction block"),
                        errhint("Call it outside a transaction block, or with checkpoint_every => 0.")));
}

static void
read_arguments(FunctionCallInfo fcinfo, Pretraining *p)
{
    if (PG_ARGISNULL(ARG_TASK) || PG_ARGISNULL(ARG_QUERY))
        ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
                        errmsg("%s must not be null", PG_ARGISNULL(ARG_TASK) ? "task" : "query")));
    p->job.task = text_to_cstring(PG_GETARG_TEXT_PP(ARG_TASK));
    p->query = text_to_cstring(PG_GETARG_TEXT_PP(ARG_QUERY));
    Ia3TaskCheckName(p->job.task);
    p->recipe = Ia3RecipeFromArguments(fcinfo, &Ia3PretrainOptions);
    if (!PG_ARGISNULL(ARG_TEMPLATES)) {
        p->templates = PG_GETARG_JSONB_P_COPY(ARG_TEMPLATES);
        if (!PG_ARGISNULL(ARG_TEMPLATE))
            ereport(ERROR,
                    (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                     errmsg("template and templates must not both be specified"),
                     errhint("\"template\" applies to all tasks, \"templates\" to each task separately.")));
    }
    p->every = PG_ARGISNULL(ARG_CHECKPOINT_EVERY) ? 1000 : PG_GETARG_INT32(ARG_CHECKPOINT_EVERY);
    if (p->every < 0)
        ereport(ERROR,
                (errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("checkpoint_every must not be negative")));
    check_atomic(fcinfo, p);
}

/* Adds the members that only the recipe of a pre-training run has. */
static void
put_mixture(Ia3JsonObject *recipe, const void *arg)
{
    const Pretraining *p = arg;

    Ia3MixturePutTasks(p->mixture, recipe);
    if (p->templates)
        Ia3JsonPutJsonb(recipe, "templates", p->templates);
}

/* The recipe of the finished version, which also identifies the run that a checkpoint belongs to. */
static Datum
recipe_json(const Pretraining *p, const Ia3EngineInfo *engine)
{
    Ia3RecipeContext context = {
        .query = p->query,
        .backbone = p->job.backbone,
        .engine = engine,
        .init = p->job.init ? p->job.init->label : NULL,
        .maxInputTokens = p->job.maxInputTokens,
        .more = put_mixture,
        .arg = p,
    };

    return Ia3RecipeJson(p->recipe, &context);
}

/* Begins a run, or resumes it from its checkpoint. */
static void
begin(Pretraining *p, bool resume, bool seedGiven)
{
    const Ia3EngineInfo *engine = Ia3GetEngineInfo(p->job.backbone);
    Ia3Checkpoint saved;
    bool found = resume && Ia3CheckpointLoad(p->job.task, &saved);
    char *difference;

    if (found && !seedGiven)
        p->recipe->seed = Ia3CheckpointSeed(&saved);
    p->at.recipe = recipe_json(p, engine);
    memcpy(p->at.backboneDigest, engine->digest, IA3_DIGEST_LEN);
    for (int i = 0; i < IA3_LOSS_POINTS; i++)
        p->at.losses[i] = NAN;
    if (!found)
        return;

    difference = Ia3CheckpointDifference(saved.recipe, p->at.recipe);
    if (difference == NULL && memcmp(saved.backboneDigest, engine->digest, IA3_DIGEST_LEN) != 0)
        difference = "backbone";
    if (difference != NULL)
        ereport(ERROR,
                (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
                 errmsg("ia3 task \"%s\" has a checkpoint of a different pre-training run", p->job.task),
                 errdetail("The runs differ in: %s.", difference),
                 errhint("Repeat the call that was interrupted, or start again with resume => false.")));
    saved.recipe = p->at.recipe;
    p->at = saved;
    p->job.init = NULL; /* the state contains its vectors */
    for (int i = 0; i < IA3_LOSS_POINTS; i++)
        p->nLosses[i] = isnan(saved.losses[i]) ? 0 : 1;
    ereport(NOTICE, (errmsg("resuming after step %d of %d", saved.step, p->recipe->steps)));
}

/* Adds the losses of a segment, which has ended at step `stop`. */
static void
add_losses(Pretraining *p, const Ia3Trained *trained, int stop)
{
    Jsonb *metrics = DatumGetJsonbP(trained->metrics);
    JsonbContainer *array = Ia3JsonArray(&metrics->root, "loss_curve");
    double seconds = Ia3JsonNumber(&metrics->root, "seconds");
    int points = Min(p->recipe->steps, IA3_LOSS_POINTS);
    Ia3LossCurve curve = {0};

    if (!isnan(seconds))
        p->at.seconds += seconds;
    if (array == NULL || !Ia3LossCurveRead(array, &curve))
        return;
    for (int i = 0; i < curve.n; i++) {
        double step = p->at.step + (i + 0.5) * (stop - p->at.step) / curve.n;
        int k = Min((int) (step * points / p->recipe->steps), points - 1);

        if (isnan(curve.values[i]))
            continue;
        p->at.losses[k] = p->nLosses[k] == 0
                              ? curve.values[i]
                              : (p->at.losses[k] * p->nLosses[k] + curve.values[i]) / (p->nLosses[k] + 1);
        p->nLosses[k]++;
    }
}

/* Trains up to the next checkpoint, or to the end. */
static void
train_piece(Pretraining *p, Ia3Trained *trained)
{
    int steps = p->recipe->steps;
    int stop = p->every == 0 ? steps : Min(steps, (p->at.step / p->every + 1) * p->every);

    p->job.stop = stop < steps ? stop : 0;
    p->job.state = p->at.step > 0 ? p->at.state : NULL;
    Ia3TrainRun(&p->job, trained);
    if (memcmp(trained->engine.digest, p->at.backboneDigest, IA3_DIGEST_LEN) != 0)
        ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
                        errmsg("backbone \"%s\" was replaced by another during the pre-training run",
                               p->job.backbone)));
    add_losses(p, trained, stop);
    p->at.step = stop;
    p->at.state = trained->state;
    p->job.init = NULL; /* the state contains its vectors */
}

static void
store(const Pretraining *p, const Ia3Trained *trained)
{
    Ia3NewVersion version = {
        .task = p->job.task,
        .backbone = p->job.backbone,
        .templates = p->recipe->templates,
        .vectors = trained->vectors,
        .backboneDigest = p->at.backboneDigest,
        .parentVersion = p->parent,
        .examples = trained->examples,
        .recipe = p->at.recipe,
        .metrics = Ia3CheckpointMetrics(trained->metrics, p->recipe->steps, &p->at),
        .rowHashes = Ia3MixtureRowHashes(p->mixture),
        .activate = p->recipe->activate,
    };

    Ia3VersionsStore(&version);
    Ia3CheckpointDelete(p->job.task);
}

static void
pretrain(Pretraining *p, const Ia3Procedure *procedure)
{
    MemoryContext keep = CurrentMemoryContext;
    MemoryContext pieces[2];

    for (int i = 0; i < 2; i++)
        pieces[i] = AllocSetContextCreate(keep, "ia3 pre-training segment", ALLOCSET_DEFAULT_SIZES);
    for (int i = 0;; i = 1 - i) {
        Ia3Trained trained;

        /* The state that this segment starts from is in the other context. */
        MemoryContextReset(pieces[i]);
        MemoryContextSwitchTo(pieces[i]);
        Ia3ProcedureCommit(procedure);
        train_piece(p, &trained);
        Ia3ProcedureResume(procedure);
        if (p->at.step == p->recipe->steps) {
            store(p, &trained);
            break;
        }
        Ia3CheckpointSave(p->job.task, p->job.backbone, p->recipe->templates, &p->at);
    }
    MemoryContextSwitchTo(keep);
}

Datum
ia3_pretrain(PG_FUNCTION_ARGS)
{
    Ia3Procedure procedure;
    Pretraining *p;
    LOCKTAG lock;

    Ia3TrainPrevent("ia3_pretrain()");
    Ia3ProcedureBegin(&procedure, fcinfo, "ia3_pretrain()");
    p = palloc0(sizeof(Pretraining));
    read_arguments(fcinfo, p);

    Ia3TrainPrepare(&p->job, p->recipe);
    p->parent = Ia3TrainParent(&p->job);
    lock = Ia3PretrainLock(p->job.task, true);
    PG_TRY();
    {
        p->mixture = Ia3MixtureRead(p->query, p->recipe, p->templates);
        p->job.putExamples = Ia3MixturePut;
        p->job.arg = p->mixture;
        begin(p, PG_ARGISNULL(ARG_RESUME) || PG_GETARG_BOOL(ARG_RESUME), !PG_ARGISNULL(ARG_SEED));
        pretrain(p, &procedure);
    }
    PG_FINALLY();
    {
        Ia3PretrainUnlock(&lock);
    }
    PG_END_TRY();

    Ia3ProcedureEnd(&procedure);
    PG_RETURN_VOID();
}
