/*
 * train_job.c
 *     A TRAIN or TRAIN_RUNS request: sending it, reporting its progress, and reading its result.
 */
#include "postgres.h"

#include <math.h>

#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/jsonb.h"
#include "utils/snapmgr.h"

#include "train_job.h"
#include "extension/client/client.h"
#include "extension/client/text.h"
#include "extension/guc.h"
#include "extension/supervisor/shmem.h"
#include "extension/supervisor/progress.h"
#include "extension/tasks/adapter_request.h"
#include "extension/tasks/catalog.h"
#include "extension/tasks/versions.h"
#include "extension/tasks/writable.h"

#define NOTICE_INTERVAL_MS 2000

void
Ia3TrainPrevent(const char *function)
{
    Ia3CheckWritable(function);
    Ia3RequirePreload();
}

/* The requested backbone, or else the task's, or else the session's. */
static const char *
choose_backbone(const char *task, const Ia3Recipe *recipe)
{
    const char *backbone = recipe->backbone;

    if (backbone == NULL && task)
        backbone = Ia3VersionsBackbone(task);
    return backbone ? backbone : pstrdup(Ia3Backbone);
}

/* Looks up what the run needs from the tables; rolled back, so that no lock remains. */
static void
look_up(void *arg)
{
    Ia3TrainJob *job = arg;
    const char *init = job->recipe->init;

    if (job->task)
        Ia3VersionsCheckOwner(job->task);
    job->backbone = choose_backbone(job->task, job->recipe);
    if (init) {
        job->init = Ia3TaskLookup(init);
        job->init->vectors = Ia3TaskFetchVectors(job->init);
        job->init->backbone = pstrdup(job->backbone); /* the vectors are needed there */
    }
}

void
Ia3TrainPrepare(Ia3TrainJob *job, Ia3Recipe *recipe)
{
    job->recipe = recipe;
    job->maxInputTokens = Ia3InputTokens();
    Ia3RunAndRollBack(look_up, job);
    Ia3RecipeComplete(recipe, job->backbone, job->init);
}

int
Ia3TrainParent(const Ia3TrainJob *job)
{
    return job->init && job->task && strcmp(job->init->name, job->task) == 0 ? job->init->version : 0;
}

static void
write_request(ia3_writer *w, void *arg)
{
    static const uint8 none[IA3_DIGEST_LEN];
    const Ia3TrainJob *job = arg;

    ia3_put_u32(w, job->maxInputTokens);
    Ia3RecipePut(job->recipe, w);
    ia3_put_bytes(w, job->init ? job->init->digest : none, IA3_DIGEST_LEN);
    ia3_put_u32(w, job->stop);
    if (job->state)
        ia3_put_str(w, VARDATA_ANY(job->state), VARSIZE_ANY_EXHDR(job->state));
    else
        ia3_put_str(w, NULL, 0);
    job->putExamples(w, job->arg);
    if (job->nRuns == 0)
        Ia3WeightingPut(w, job->weighting, NULL, job->weighting ? job->weighting->n : 0);
    else
        ia3_put_u32(w, job->nRuns);
    for (int k = 0; k < job->nRuns; k++) {
        const Ia3JobRun *run = &job->runs[k];

        ia3_put_u64(w, (uint64) run->seed);
        ia3_put_u32(w, run->n);
        for (int i = 0; i < run->n; i++)
            ia3_put_u32(w, run->examples[i]);
        Ia3WeightingPut(w, job->weighting, run->examples, run->n);
    }
    ia3_put_u8(w, job->recipe->earlyStopping == IA3_EARLY_LOSS ? IA3_STOP_LOSS : IA3_STOP_NEVER);
}

/* Reports, once in a run, how many inputs are longer than the engine takes. */
static void
report_truncated(Ia3TrainJob *job, uint32 truncated, uint32 inputs)
{
    if (truncated > 0 && !job->toldTruncated)
        ereport(
            NOTICE,
            (errmsg("truncated %u of %u inputs to %d tokens", truncated, inputs, job->maxInputTokens),
             job->recipe->truncate == IA3_TRUNCATE_END
                 ? errdetail("Their ends were cut off, except for the template's text after the last field.")
                 : errdetail("The longest fields were shortened."),
             errhint("Increase \"ia3.max_input_tokens\", also for predictions, to keep their whole text.")));
    job->toldTruncated = true;
}

/* The steps of the request's runs, of one member of each. */
static int
own_steps(const Ia3TrainJob *job)
{
    return job->recipe->steps * Max(job->nRuns, 1);
}

/* Reports every tenth of the steps by a NOTICE, but no more often than every two seconds. */
static void
report_progress(ia3_reader *r, void *arg)
{
    Ia3TrainJob *job = arg;
    int step = (int) ia3_get_u32(r);
    int steps = (int) ia3_get_u32(r);
    double loss = ia3_get_f64(r), rate = ia3_get_f64(r), left = ia3_get_f64(r);
    uint32 truncated = ia3_get_u32(r), inputs = ia3_get_u32(r);
    Ia3Time now = Ia3Now();
    int tenths;

    if (r->bad || steps < 1)
        Ia3ProtocolError("The length of a progress report does not match its contents.");
    if (!job->running && job->taken)
        job->taken(job->arg);
    if (!job->running) /* later there may be fewer steps, if runs end early */
        job->members = Max(steps / own_steps(job), 1);
    job->running = true;
    if (job->stepsBefore + job->stepsAfter > 0) {
        step += (int) (job->stepsBefore * job->members);
        steps += (int) ((job->stepsBefore + job->stepsAfter) * job->members);
        left = (double) (now - job->begun) / 1000 * (steps - step) / Max(step, 1);
    }
    Ia3ProgressUpdate(step, steps, loss, rate, left);
    report_truncated(job, truncated, inputs);
    /* whatever has looked into a system catalog meanwhile */
    InvalidateCatalogSnapshotConditionally();
    tenths = (int) ((int64) step * 10 / steps);
    if (tenths > job->tenths && now - job->told >= NOTICE_INTERVAL_MS) {
        job->tenths = tenths;
        job->told = now;
        ereport(NOTICE, (errmsg("step %d of %d, loss %.3f, %.1f examples/s, %.0f s left", step, steps, loss,
                                rate, ceil(left))));
    }
}

static bytea *
read_bytes(ia3_reader *r)
{
    size_t len;
    const char *bytes = ia3_get_str(r, &len);
    bytea *value = palloc(VARHDRSZ + len);

    SET_VARSIZE(value, VARHDRSZ + len);
    memcpy(VARDATA(value), bytes, len);
    return value;
}

static void
read_trained(const Ia3TrainJob *job, Ia3Trained *trained, ia3_reader *r)
{
    int n = Max(job->nRuns, 1);

    if (job->nRuns > 0 && ia3_get_u32(r) != job->nRuns)
        Ia3ProtocolError("The engine did not return as many training runs as were requested.");
    for (int k = 0; k < n; k++) {
        trained[k].vectors = read_bytes(r);
        trained[k].metrics = DirectFunctionCall1(jsonb_in, CStringGetDatum(Ia3GetText(r)));
        trained[k].examples = (int) ia3_get_u32(r);
        trained[k].state = job->nRuns > 0 ? NULL : read_bytes(r);
        if (r->bad || VARSIZE(trained[k].vectors) == VARHDRSZ)
            Ia3ProtocolError("The length of the trained adapter does not match its contents.");
    }
    if (r->p != r->end)
        Ia3ProtocolError("The length of the trained adapter does not match its contents.");
    if (job->nRuns == 0 && (VARSIZE(trained->state) > VARHDRSZ) != (job->stop != 0))
        Ia3ProtocolError("The engine did not pause where it was told to.");
    if (job->stop == 0)
        trained->state = NULL;
}

void
Ia3TrainRun(Ia3TrainJob *job, Ia3Trained *trained)
{
    const Ia3Task *init = job->init;
    Ia3AdapterRequest run = {
        .backbone = job->backbone,
        .type = job->nRuns > 0 ? IA3_TRAIN_RUNS : IA3_TRAIN,
        .reply = job->nRuns > 0 ? IA3_TRAIN_RUNS_OK : IA3_TRAIN_OK,
        .nAdapters = 1,
        .adapters = &init,
        .write = write_request,
        .progress = report_progress,
        .arg = job,
        .engine = &trained->engine,
    };
    ia3_reader reader;

    if (job->told == 0)
        job->told = Ia3Now();
    if (job->stepsBefore == 0) {
        job->begun = Ia3Now();
        Ia3ProgressStart(job->task ? job->task : "", (int) (own_steps(job) + job->stepsAfter));
    }
    job->running = false;
    Ia3AdapterRequestRun(&run, &reader);
    read_trained(job, trained, &reader);
    for (int k = 1; k < job->nRuns; k++)
        trained[k].engine = trained->engine;
    if (!job->isPart)
        Ia3ProgressEnd();
}

static void
digest(const uint8 *bytes, Size len, uint8 *result)
{
    bytea *value = palloc(VARHDRSZ + len), *hash;

    SET_VARSIZE(value, VARHDRSZ + len);
    memcpy(VARDATA(value), bytes, len);
    hash = DatumGetByteaPP(DirectFunctionCall1(sha256_bytea, PointerGetDatum(value)));
    memcpy(result, VARDATA_ANY(hash), IA3_DIGEST_LEN);
    pfree(value);
}

/* The digest is made as protocol.h says; the options are ASCII, and so are the same in every encoding. */
Ia3Task *
Ia3TrainedTask(const Ia3TrainJob *job, const Ia3Trained *trained, const char *label)
{
    const char *options = job->recipe->method.options;
    Size len = strlen(options);
    Ia3Task *task = palloc0(sizeof(Ia3Task));

    task->name = task->label = pstrdup(label);
    task->backbone = pstrdup(job->backbone);
    task->method = job->recipe->method.name;
    task->methodOptions = pstrdup(options);
    task->vectors = trained->vectors;
    memcpy(task->backboneDigest, trained->engine.digest, IA3_DIGEST_LEN);
    digest((uint8 *) VARDATA_ANY(trained->vectors), VARSIZE_ANY_EXHDR(trained->vectors), task->digest);
    if (len > 0) {
        uint8 *both = palloc(IA3_DIGEST_LEN + len);

        memcpy(both, task->digest, IA3_DIGEST_LEN);
        memcpy(both + IA3_DIGEST_LEN, options, len);
        digest(both, IA3_DIGEST_LEN + len, task->digest);
    }
    return task;
}
