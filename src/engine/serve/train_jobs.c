/*
 * train_jobs.c
 *     The current training runs, whose steps are computed together on the compute thread.
 */
#include "train_jobs.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/alloc.h"
#include "engine/base/clock.h"
#include "engine/base/log.h"
#include "engine/recipe/metrics.h"

#define PROGRESS_SECONDS 0.2

/* The members of an ensemble are trained one after another. */
typedef struct ia3_job {
    ia3_request *request;
    const ia3_layout *layout; /* of all members */
    ia3_train *train;         /* of the member in training */
    int member;
    float *init;   /* host memory: the values to start from, of one member or of all; NULL: fresh ones */
    bool init_all; /* of all */
    float *values; /* [layout->n_values] of the members that have been trained */
    ia3_loss_record losses;
    double started, ready, reported; /* times; ready: since when the job has been waiting for its next step */
    double examples;                 /* number of examples trained on so far */
} ia3_job;

struct ia3_trainer {
    ia3_server *server;
    int n, cap;
    ia3_job **jobs; /* in the order of their next steps */
};

ia3_trainer *
ia3_trainer_create(ia3_server *s)
{
    ia3_trainer *t = ia3_alloc(sizeof *t);
    t->server = s;
    return t;
}

static void
free_job(ia3_job *job)
{
    ia3_train_free(job->train);
    ia3_layout_release(job->layout);
    free(job->init);
    free(job->values);
    free(job);
}

void
ia3_trainer_free(ia3_trainer *t)
{
    for (int i = 0; i < t->n; i++)
        free_job(t->jobs[i]);
    free(t->jobs);
    free(t);
}

bool
ia3_trainer_busy(const ia3_trainer *t)
{
    return t->n > 0;
}

static void
hand_back(ia3_trainer *t, ia3_request *r)
{
    ia3_queue_post(t->server->queue, &(ia3_event){.kind = IA3_EVENT_DONE, .request = r});
}

/* The values to start from, in malloc'd host memory; NULL for a fresh start, or after setting r->error. */
static float *
initial_values(ia3_trainer *t, const ia3_request *r)
{
    const ia3_cached_adapter *a = r->adapters[0];
    if (a == NULL)
        return NULL;
    const size_t bytes = a->layout->n_values * sizeof(float);
    float *values = ia3_alloc(bytes);
    if (a->values)
        memcpy(values, a->values, bytes);
    else {
        ia3_device *dev = ia3_model_device(t->server->model);
        dev->ops->download(dev, values, a->device->values, bytes);
    }
    return values;
}

/* An ensemble may start from one adapter, from which all members do then. */
static bool
may_start_from(const ia3_cached_adapter *a, const ia3_layout *layout, ia3_error *err)
{
    if (a == NULL)
        return true;
    const ia3_variant *variant = &layout->variant;
    if (a->layout->variant.method != variant->method) {
        ia3_fail(err, IA3_E_INVALID, "the version to start from was trained with another method");
        return ia3_fail_hint(err, "Use the method of that version, or start from another version.");
    }
    if (ia3_variant_equal(&a->layout->variant, variant) ||
        (layout->member && ia3_variant_equal(&a->layout->variant, &layout->member->variant)))
        return true;
    char *options = ia3_variant_text(&a->layout->variant);
    ia3_fail(err, IA3_E_INVALID, "the version to start from was trained with other options of the method");
    ia3_fail_detail(err, "Its options are %s.", options);
    ia3_fail_hint(err, "Use the options of that version, or start from another version.");
    free(options);
    return false;
}

/* Begins to train a member, with a seed of its own. */
static bool
start_member(ia3_trainer *t, ia3_job *job)
{
    const ia3_request *r = job->request;
    const size_t n = job->layout->n_values / (size_t) job->layout->members;
    ia3_recipe recipe = r->recipe;
    recipe.variant.members = 1;
    recipe.seed += (uint64_t) job->member;
    const float *init = job->init_all ? job->init + (size_t) job->member * n : job->init;
    job->train = ia3_train_create(t->server->model, r->examples, (int) r->n_examples, &recipe, init,
                                  &job->request->error);
    return job->train != NULL;
}

static bool
fail_interrupted(ia3_error *err)
{
    ia3_fail(err, IA3_E_UNSUPPORTED, "an ensemble cannot be trained with checkpoints");
    return ia3_fail_hint(err, "Start from a single version, or train in one piece.");
}

static bool
start_job(ia3_trainer *t, ia3_job *job)
{
    ia3_request *r = job->request;
    job->layout = ia3_layouts_get(ia3_model_layouts(t->server->model), &r->recipe.variant, &r->error);
    if (job->layout == NULL || !may_start_from(r->adapters[0], job->layout, &r->error))
        return false;
    if (job->layout->members > 1 && (r->recipe.stop != 0 || r->state != NULL))
        return fail_interrupted(&r->error);
    job->init = initial_values(t, r);
    job->init_all = job->init && r->adapters[0]->layout->members > 1;
    job->values = ia3_alloc_array(job->layout->n_values, sizeof *job->values);
    return start_member(t, job) &&
           (r->state == NULL || ia3_train_restore(job->train, r->state, r->state_len, &r->error));
}

void
ia3_trainer_add(ia3_trainer *t, ia3_request *r)
{
    ia3_job *job = ia3_alloc(sizeof *job);
    job->request = r;
    if (!start_job(t, job)) {
        free_job(job);
        hand_back(t, r);
        return;
    }
    ia3_train_report begun;
    ia3_train_last(job->train, &begun);
    job->losses.first = begun.step;
    job->losses.steps = (r->recipe.stop ? r->recipe.stop : r->recipe.steps) - begun.step;
    job->ready = r->arrived;
    job->started = ia3_now();
    if (t->n == t->cap) {
        t->cap = t->cap ? 2 * t->cap : 8;
        t->jobs = ia3_realloc(t->jobs, (size_t) t->cap * sizeof(ia3_job *));
    }
    t->jobs[t->n++] = job;
    ia3_stats_set(&t->server->stats, IA3_STAT_TRAIN_JOBS, t->n);
}

static void
remove_job(ia3_trainer *t, int i)
{
    ia3_job *job = t->jobs[i];
    memmove(t->jobs + i, t->jobs + i + 1, (size_t) (t->n - i - 1) * sizeof(ia3_job *));
    t->n--;
    ia3_stats_set(&t->server->stats, IA3_STAT_TRAIN_JOBS, t->n);
    hand_back(t, job->request);
    free_job(job);
}

static bool
all_finite(const float *values, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (!isfinite(values[i]))
            return false;
    return true;
}

/* Stores what has been trained and continues with the next member; false after the last one, or an error. */
static bool
next_member(ia3_trainer *t, ia3_job *job)
{
    ia3_request *r = job->request;
    const size_t n = job->layout->n_values / (size_t) job->layout->members;
    float *values = job->values + (size_t) job->member * n;
    ia3_train_values(job->train, values);
    if (!all_finite(values, n)) {
        ia3_fail(&r->error, IA3_E_INVALID, "training diverged: the adapter's values are no longer finite");
        return ia3_fail_hint(&r->error, "Use a smaller learning_rate.");
    }
    if (job->member + 1 == job->layout->members)
        return false;
    ia3_train *done =
        job->train; /* freed last, because the weights for the backward pass go with the last job */
    job->member++;
    job->train = NULL;
    bool ok = start_member(t, job);
    ia3_train_free(done);
    return ok;
}

static void
finish_job(ia3_job *job)
{
    ia3_request *r = job->request;
    r->result.adapter = ia3_adapter_serialize(job->layout, job->values, &r->result.adapter_len);
    r->result.metrics =
        ia3_metrics_json(&job->losses, r->n_examples, ia3_now() - job->started, r->n_truncated);
    if (r->recipe.stop)
        r->result.state = ia3_train_save(job->train, &r->result.state_len);
}

static void
after_step(ia3_trainer *t, ia3_job *job, double now)
{
    ia3_train_report report;
    ia3_train_last(job->train, &report);
    ia3_stats_add(&t->server->stats, IA3_STAT_TRAIN_FLOPS, report.flops);
    if (report.step == 0) { /* no step yet, but a choice of weights for it */
        job->losses.flops += report.flops;
        job->ready = now;
        return;
    }
    ia3_loss_record_add(&job->losses, &report);
    job->examples += report.examples;
    job->ready = now;
    const int members = job->layout->members, done = job->member * job->request->recipe.steps + report.step;
    bool last = job->member + 1 == members && ia3_train_finished(job->train);
    if (!last && now - job->reported < PROGRESS_SECONDS)
        return;
    double elapsed = now - job->started;
    job->reported = now;
    ia3_queue_post(t->server->queue,
                   &(ia3_event){.kind = IA3_EVENT_PROGRESS,
                                .request = job->request,
                                .step = (uint32_t) done,
                                .steps = (uint32_t) (members * job->request->recipe.steps),
                                .loss = report.loss,
                                .examples_per_second = elapsed > 0 ? job->examples / elapsed : 0,
                                .seconds_left = elapsed / (done - job->losses.first) *
                                                (members * job->request->recipe.steps - done)});
}

/* Does a step of n jobs together; if that fails, of each job alone, so that only jobs that cannot continue fail. */
static void
step_jobs(ia3_trainer *t, ia3_job **jobs, int n)
{
    ia3_train **trains = ia3_alloc_array((size_t) n, sizeof *trains);
    for (int i = 0; i < n; i++)
        trains[i] = jobs[i]->train;
    ia3_error err = {0};
    bool together = ia3_train_step(trains, n, &err);
    for (int i = 0; i < n; i++) {
        ia3_error alone = err;
        bool ok = together;
        if (!together && n > 1) {
            memset(&alone, 0, sizeof alone);
            ok = ia3_train_step(&trains[i], 1, &alone);
        }
        if (ok)
            after_step(t, jobs[i], ia3_now());
        else
            jobs[i]->request->error = alone;
    }
    free(trains);
}

static void
end_cancelled(ia3_trainer *t)
{
    for (int i = t->n - 1; i >= 0; i--)
        if (atomic_load(&t->jobs[i]->request->cancelled)) {
            ia3_fail(&t->jobs[i]->request->error, IA3_E_CANCELLED, "training was cancelled");
            remove_job(t, i);
        }
}

void
ia3_trainer_step(ia3_trainer *t)
{
    end_cancelled(t);
    if (t->n == 0)
        return;
    double started = ia3_now();
    int64_t tokens = 0;
    int n = 0;
    while (n < t->n && (n == 0 || tokens + ia3_train_batch_tokens(t->jobs[n]->train) <=
                                      t->server->options->max_batch_tokens))
        tokens += ia3_train_batch_tokens(t->jobs[n++]->train);
    double waited = 0;
    for (int i = 0; i < n; i++)
        waited += started - t->jobs[i]->ready;
    step_jobs(t, t->jobs, n);
    ia3_stats_add(&t->server->stats, IA3_STAT_TRAIN_STEPS, n);
    ia3_stats_add(&t->server->stats, IA3_STAT_TRAIN_SECONDS, ia3_now() - started);
    ia3_stats_add(&t->server->stats, IA3_STAT_TRAIN_WAIT_SECONDS, waited);

    /* Jobs that did a step go to the end of the line. */
    ia3_job **order = ia3_alloc_array((size_t) t->n, sizeof *order);
    for (int i = 0; i < t->n; i++)
        order[i] = t->jobs[(i + n) % t->n];
    memcpy(t->jobs, order, (size_t) t->n * sizeof *order);
    free(order);
    for (int i = t->n - 1; i >= 0; i--) {
        ia3_job *job = t->jobs[i];
        if (job->request->error.code == 0 && (!ia3_train_finished(job->train) || next_member(t, job)))
            continue;
        if (job->request->error.code == 0)
            finish_job(job);
        remove_job(t, i);
    }
}
