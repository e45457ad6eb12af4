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
#include "reclaim.h"

#define PROGRESS_SECONDS 0.2

/* What the runs of a request have in common. */
typedef struct ia3_group {
    ia3_request *request;
    const ia3_layout *layout; /* of all members of an ensemble */
    float *init;    /* host memory: the values to start from, of one member or of all; NULL: fresh ones */
    bool init_all;  /* of all */
    uint32_t begun; /* runs that have been started, in their order */
    int jobs;       /* runs in training */
    int64_t tokens; /* of a step of them */
    int64_t step;  /* steps done in this request and before, by all of the request's runs and their members */
    int64_t steps; /* that they do if none ends earlier than those that have */
    int64_t first; /* steps done before this request */
    double started, reported; /* times */
    double examples;          /* number of examples trained on so far */
} ia3_group;

/* A run in training. The members of an ensemble are trained one after another. */
typedef struct ia3_job {
    ia3_group *group;
    ia3_run *run;
    ia3_train_example *examples; /* [run->n], if they are not all of the request's; else NULL */
    ia3_train *train;            /* of the member in training */
    int member;
    int tokens;    /* of a step */
    float *values; /* [layout->n_values] of the members that have been trained */
    ia3_loss_record losses;
    double started, ready; /* times; ready: since when the job has been waiting for its next step */
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
free_group(ia3_group *g)
{
    ia3_layout_release(g->layout);
    free(g->init);
    free(g);
}

/* Frees the job, but not its group. */
static void
free_job(ia3_job *job)
{
    ia3_train_free(job->train);
    free(job->examples);
    free(job->values);
    free(job);
}

void
ia3_trainer_free(ia3_trainer *t)
{
    for (int i = 0; i < t->n; i++) {
        if (--t->jobs[i]->group->jobs == 0)
            free_group(t->jobs[i]->group);
        free_job(t->jobs[i]);
    }
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
    const ia3_group *g = job->group;
    ia3_request *r = g->request;
    const size_t n = g->layout->n_values / (size_t) g->layout->members;
    ia3_recipe recipe = r->recipe;
    recipe.variant.members = 1;
    recipe.seed = job->run->seed + (uint64_t) job->member;
    const float *init = g->init_all ? g->init + (size_t) job->member * n : g->init;
    const ia3_train_example *examples = job->examples ? job->examples : r->examples;
    job->train = ia3_train_create(t->server->model, examples, (int) job->run->n, &recipe, init, &r->error);
    /* a run beside others of its request is not worth the place of idle versions */
    if (job->train == NULL && r->error.code == IA3_E_MEMORY && (g->jobs == 0 || job->member > 0)) {
        ia3_reclaim(t->server);
        r->error = (ia3_error){0};
        job->train =
            ia3_train_create(t->server->model, examples, (int) job->run->n, &recipe, init, &r->error);
    }
    return job->train &&
           (job->run->weights == NULL || ia3_train_weigh(job->train, job->run->weights, &r->error));
}

static bool
fail_interrupted(ia3_error *err)
{
    ia3_fail(err, IA3_E_UNSUPPORTED, "an ensemble cannot be trained with checkpoints");
    return ia3_fail_hint(err, "Start from a single version, or train in one piece.");
}

/* Whether the vectors of all runs fit in a reply. What comes on top of them is small, and is checked with the reply. */
static bool
fits_reply(const ia3_request *r, const ia3_layout *layout, ia3_error *err)
{
    if (r->n_runs == 1 || layout->n_values <= IA3_MAX_FRAME / sizeof(float) / r->n_runs)
        return true;
    ia3_fail(err, IA3_E_TOO_LONG, "the vectors of %u training runs have more than %u MB", r->n_runs,
             IA3_MAX_FRAME >> 20);
    return ia3_fail_hint(err, "Request fewer training runs at a time.");
}

static bool
start_group(ia3_trainer *t, ia3_group *g)
{
    ia3_request *r = g->request;
    g->layout = ia3_layouts_get(ia3_model_layouts(t->server->model), &r->recipe.variant, &r->error);
    if (g->layout == NULL || !may_start_from(r->adapters[0], g->layout, &r->error) ||
        !fits_reply(r, g->layout, &r->error))
        return false;
    if (g->layout->members > 1 && (r->recipe.stop != 0 || r->state != NULL))
        return fail_interrupted(&r->error);
    g->init = initial_values(t, r);
    g->init_all = g->init && r->adapters[0]->layout->members > 1;
    g->steps = (int64_t) r->n_runs * g->layout->members * r->recipe.steps;
    g->started = ia3_now();
    return true;
}

static void
choose_examples(ia3_job *job)
{
    const ia3_run *run = job->run;
    if (run->examples == NULL)
        return;
    job->examples = ia3_alloc_array(run->n, sizeof *job->examples);
    for (uint32_t i = 0; i < run->n; i++)
        job->examples[i] = job->group->request->examples[run->examples[i]];
}

static bool
start_job(ia3_trainer *t, ia3_job *job)
{
    ia3_group *g = job->group;
    ia3_request *r = g->request;
    ia3_train_report begun;
    choose_examples(job);
    job->values = ia3_alloc_array(g->layout->n_values, sizeof *job->values);
    if (!start_member(t, job) ||
        (r->state != NULL && !ia3_train_restore(job->train, r->state, r->state_len, &r->error)))
        return false;
    ia3_train_last(job->train, &begun);
    g->first += begun.step; /* 0, unless this is a single run that is continued */
    g->step += begun.step;
    job->losses.first = begun.step;
    job->losses.may_end = r->recipe.early_stopping != IA3_STOP_NEVER;
    job->losses.steps = (r->recipe.stop ? r->recipe.stop : r->recipe.steps) - begun.step;
    job->tokens = ia3_train_batch_tokens(job->train);
    job->started = ia3_now();
    job->ready = g->begun == 0 ? r->arrived : job->started;
    return true;
}

/*
 * Starts runs of the group until a step of them all fills a pass, since more at a time would not be faster, and would
 * leave less to other requests, or as many as there is memory for. False with the request's error if one cannot be started.
 */
static bool
start_jobs(ia3_trainer *t, ia3_group *g)
{
    /* Versions that replace weights share no pass, and each run has weights of its own. */
    const bool alone = ia3_layout_replaces(g->layout);
    while (g->begun < g->request->n_runs && !(alone && g->jobs > 0)) {
        ia3_job *job = ia3_alloc(sizeof *job);
        job->group = g;
        job->run = &g->request->runs[g->begun];
        if (!start_job(t, job)) {
            free_job(job);
            if (g->jobs == 0 || g->request->error.code != IA3_E_MEMORY)
                return false;
            /* those in training leave it their memory */
            memset(&g->request->error, 0, sizeof g->request->error);
            return true;
        }
        if (g->jobs > 0 && g->tokens + job->tokens > t->server->options->max_batch_tokens) {
            free_job(job);
            return true;
        }
        if (t->n == t->cap) {
            t->cap = t->cap ? 2 * t->cap : 8;
            t->jobs = ia3_realloc(t->jobs, (size_t) t->cap * sizeof(ia3_job *));
        }
        t->jobs[t->n++] = job;
        g->begun++;
        g->jobs++;
        g->tokens += job->tokens;
        ia3_stats_set(&t->server->stats, IA3_STAT_TRAIN_JOBS, t->n);
    }
    return true;
}

void
ia3_trainer_add(ia3_trainer *t, ia3_request *r)
{
    ia3_group *g = ia3_alloc(sizeof *g);
    g->request = r;
    if ((!start_group(t, g) || !start_jobs(t, g)) && g->jobs == 0) {
        free_group(g);
        hand_back(t, r);
    } /* otherwise the jobs that were started end with the next step */
}

/*
 * Frees a job that has ended. The next one is started first, because the weights for the backward pass go with the last,
 * unless there is too little memory for both.
 */
static void
remove_job(ia3_trainer *t, int i)
{
    ia3_job *job = t->jobs[i];
    ia3_group *g = job->group;
    memmove(t->jobs + i, t->jobs + i + 1, (size_t) (t->n - i - 1) * sizeof(ia3_job *));
    t->n--;
    g->jobs--;
    g->tokens -= job->tokens;
    if (g->request->error.code == 0 && !start_jobs(t, g) && g->jobs == 0 &&
        g->request->error.code == IA3_E_MEMORY) {
        free_job(job);
        job = NULL;
        memset(&g->request->error, 0, sizeof g->request->error);
        start_jobs(t, g);
    }
    ia3_stats_set(&t->server->stats, IA3_STAT_TRAIN_JOBS, t->n);
    if (g->jobs == 0) {
        hand_back(t, g->request);
        free_group(g);
    }
    if (job)
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
    const ia3_layout *layout = job->group->layout;
    ia3_request *r = job->group->request;
    const size_t n = layout->n_values / (size_t) layout->members;
    float *values = job->values + (size_t) job->member * n;
    ia3_train_report last;
    ia3_train_last(job->train, &last);
    ia3_loss_record_end(&job->losses, last.step, ia3_train_ended_early(job->train));
    ia3_train_values(job->train, values);
    if (!all_finite(values, n)) {
        ia3_fail(&r->error, IA3_E_INVALID, "training diverged: the adapter's values are no longer finite");
        return ia3_fail_hint(&r->error, "Use a smaller learning_rate.");
    }
    if (job->member + 1 == layout->members)
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
    const ia3_request *r = job->group->request;
    ia3_train_result *result = &job->run->result;
    result->adapter = ia3_adapter_serialize(job->group->layout, job->values, &result->adapter_len);
    result->metrics = ia3_metrics_json(&job->losses, job->run->n, ia3_now() - job->started, r->n_truncated);
    if (r->recipe.stop)
        result->state = ia3_train_save(job->train, &result->state_len, &job->group->request->error);
}

static void
after_step(ia3_trainer *t, ia3_job *job, double now)
{
    ia3_group *g = job->group;
    ia3_train_report report;
    ia3_train_last(job->train, &report);
    ia3_stats_add(&t->server->stats, IA3_STAT_TRAIN_FLOPS, report.flops);
    if (report.step == 0) { /* no step yet, but a choice of weights for it */
        job->losses.flops += report.flops;
        job->ready = now;
        return;
    }
    ia3_loss_record_add(&job->losses, &report);
    g->examples += report.examples;
    g->step++;
    if (ia3_train_ended_early(job->train))
        g->steps -= g->request->recipe.steps - report.step;
    job->ready = now;
    bool last = g->step == g->steps || (g->request->recipe.stop != 0 && ia3_train_finished(job->train));
    if (!last && now - g->reported < PROGRESS_SECONDS)
        return;
    double elapsed = now - g->started;
    g->reported = now;
    ia3_queue_post(t->server->queue,
                   &(ia3_event){.kind = IA3_EVENT_PROGRESS,
                                .request = g->request,
                                .step = (uint32_t) g->step,
                                .steps = (uint32_t) g->steps,
                                .loss = report.loss,
                                .examples_per_second = elapsed > 0 ? g->examples / elapsed : 0,
                                .seconds_left =
                                    elapsed / (double) (g->step - g->first) * (double) (g->steps - g->step)});
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
    if (!together && n == 1 && ia3_reclaim_after(t->server, &err))
        together = ia3_train_step(trains, 1, &err);
    for (int i = 0; i < n; i++) {
        ia3_error alone = err;
        bool ok = together;
        if (!together && n > 1) {
            memset(&alone, 0, sizeof alone);
            ok = ia3_train_step(&trains[i], 1, &alone) ||
                 (ia3_reclaim_after(t->server, &alone) && ia3_train_step(&trains[i], 1, &alone));
        }
        if (ok)
            after_step(t, jobs[i], ia3_now());
        else
            jobs[i]->group->request->error = alone;
    }
    free(trains);
}

/* Removes the runs of requests that have failed. */
static void
end_failed(ia3_trainer *t)
{
    for (int i = t->n - 1; i >= 0; i--)
        if (t->jobs[i]->group->request->error.code != 0)
            remove_job(t, i);
}

static void
end_cancelled(ia3_trainer *t)
{
    for (int i = 0; i < t->n; i++) {
        ia3_request *r = t->jobs[i]->group->request;
        if (atomic_load(&r->cancelled) && r->error.code == 0)
            ia3_fail(&r->error, IA3_E_CANCELLED, "training was cancelled");
    }
    end_failed(t);
}

/* Jobs whose last step is done continue with their next member, or are removed. */
static void
end_finished(ia3_trainer *t)
{
    for (int i = t->n - 1; i >= 0; i--) {
        ia3_job *job = t->jobs[i];
        if (job->group->request->error.code != 0 || !ia3_train_finished(job->train) || next_member(t, job))
            continue;
        if (job->group->request->error.code == 0) {
            finish_job(job);
            remove_job(t, i);
        }
    }
    end_failed(t);
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
    end_finished(t);
}
