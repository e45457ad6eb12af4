/*
 * train.c
 *     The T-Few recipe: choosing the examples of a step, one pass for all jobs, Adafactor, saving and restoring jobs.
 *
 * All random choices (the order of examples, the template for each access, dropout) are functions of the seed and of
 * counters, so a job's result depends only on its own inputs.
 */
#include "train.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "common/protocol.h"
#include "common/wire.h"
#include "engine/base/alloc.h"
#include "engine/base/rng.h"
#include "engine/model/pass.h"
#include "engine/model/work.h"
#include "optimizer.h"
#include "parameters.h"
#include "stopping.h"

struct ia3_train {
    ia3_model *m;
    const ia3_layout *layout; /* of the recipe's variant */
    ia3_train_example *examples;
    double *weights; /* [n] of the examples, with a mean of 1; NULL: all are 1 */
    int n;
    ia3_recipe recipe;
    double dropout; /* the probability in use; never negative */
    int batch_tokens;

    ia3_parameters parameters;
    ia3_optimizer *variant; /* NULL: Adafactor, without an average */

    int step; /* number of steps done */
    ia3_stopping stopping;
    bool ended; /* by early stopping */
    int draws;  /* of examples for the choice of the weights that are trained, so far */
    /* sampling: the epoch's examples in random order, and how many of them have been used */
    int *order;
    int used, epoch;
    uint64_t accesses;

    /* the batch of the current step */
    int *batch, *texts, n_batch;
    ia3_choices **drawn; /* [n_batch] for examples with verbalizers, else NULL */
    ia3_train_report last;
};

/* --- creation --- */

static bool
check_examples(const ia3_train_example *examples, int n, ia3_error *err)
{
    if (n < 1)
        return ia3_fail(err, IA3_E_INVALID, "there are no training examples");
    for (int i = 0; i < n; i++)
        if (!ia3_train_example_check(&examples[i], i + 1, err))
            return false;
    return true;
}

/* The mean number of tokens over all examples, times the batch size. */
static int
count_batch_tokens(const ia3_train *t)
{
    double tokens = 0;
    for (int i = 0; i < t->n; i++) {
        const ia3_train_example *e = &t->examples[i];
        for (int k = 0; k < e->n_texts; k++)
            tokens += (double) e->n_ids[k] / e->n_texts;
        for (int c = 0; t->dropout > 0 && c < e->choices->n; c++)
            tokens += e->choices->len[c];
        tokens += t->dropout > 0 ? 0 : e->choices->n_rows;
    }
    for (int i = 0; i < t->n; i++)
        tokens += t->layout->lead_rows +
                  (t->dropout > 0 ? t->examples[i].choices->n : 1) * (double) t->layout->dec_lead_rows;
    int size = t->recipe.batch_size < t->n ? t->recipe.batch_size : t->n;
    return (int) ceil(tokens / t->n * size);
}

/* What methods that replace weights need. */
static bool
may_train(ia3_model *m, const ia3_layout *layout, const ia3_recipe *recipe, ia3_error *err)
{
    const char *name = layout->variant.method->name;
    if (!ia3_layout_replaces(layout))
        return true;
    if (!ia3_model_may_train(m, err))
        return false;
    if (m->dev->ops->matmul_grad == NULL) {
        ia3_fail(err, IA3_E_INVALID, "device \"%s\" does not support training with the method \"%s\"",
                 m->dev->name, name);
        return ia3_fail_hint(err, "Train on a backbone on the CPU.");
    }
    if (layout->kept == 0 || recipe->weight_decay == 0)
        return true;
    ia3_fail(err, IA3_E_INVALID, "weight_decay cannot be used with the method \"%s\"", name);
    return ia3_fail_detail(err, "It would change weights that are not among those trained.");
}

/* A run that is going to be paused hands over its state and the adapter in one message (IA3_TRAIN_OK). */
static bool
may_pause(const ia3_layout *layout, const ia3_recipe *recipe, ia3_error *err)
{
    const size_t state = 2 * ia3_parameters_layout(layout)->n_values + 2 * layout->kept;
    const size_t bytes = (state + layout->n_values) * sizeof(float);
    if (recipe->stop == 0 || bytes <= IA3_MAX_VALUE_BYTES)
        return true;
    ia3_fail(err, IA3_E_TOO_LONG,
             "training with the method \"%s\" cannot be saved in checkpoints on this backbone",
             layout->variant.method->name);
    ia3_fail_detail(err, "The state and the version would have %zu MB, but the limit is %u MB.", bytes >> 20,
                    IA3_MAX_VALUE_BYTES >> 20);
    return ia3_fail_hint(err, "Train in one piece, with checkpoint_every => 0.");
}

ia3_train *
ia3_train_create(ia3_model *m, const ia3_train_example *examples, int n, const ia3_recipe *recipe,
                 const float *init, ia3_error *err)
{
    if (!ia3_recipe_check(recipe, err) || !check_examples(examples, n, err) ||
        !ia3_model_has_method(m, recipe->variant.method, err))
        return NULL;
    if (recipe->variant.members != 1) {
        ia3_fail(err, IA3_E_INVALID, "the members of an ensemble are trained one by one");
        return NULL;
    }
    const ia3_layout *layout = ia3_layouts_get(m->layouts, &recipe->variant, err);
    if (layout == NULL || !may_train(m, layout, recipe, err) || !may_pause(layout, recipe, err) ||
        (!ia3_layout_replaces(layout) && !ia3_model_retain_backward(m, err))) {
        ia3_layout_release(layout);
        return NULL;
    }
    ia3_train *t = ia3_alloc(sizeof *t);
    t->m = m;
    t->layout = layout;
    t->n = n;
    t->recipe = *recipe;
    t->stopping = ia3_stopping_begin(recipe->steps, recipe->warmup_ratio);
    t->dropout = recipe->dropout < 0 ? m->config.dropout_rate : recipe->dropout;
    t->examples = ia3_alloc_array(n, sizeof *t->examples);
    memcpy(t->examples, examples, (size_t) n * sizeof *t->examples);
    t->batch_tokens = count_batch_tokens(t);
    t->order = ia3_alloc_array(n, sizeof(int));
    t->used = n; /* so that the first step shuffles */
    t->batch = ia3_alloc_array(recipe->batch_size, sizeof(int));
    t->texts = ia3_alloc_array(recipe->batch_size, sizeof(int));
    t->drawn = ia3_alloc_array(recipe->batch_size, sizeof *t->drawn);
    if (!ia3_parameters_create(&t->parameters, m, layout, recipe->seed, init, err)) {
        ia3_train_free(t);
        return NULL;
    }
    t->variant = ia3_optimizer_create(recipe, &t->parameters);
    return t;
}

/* Forgets the batch, so that the next step chooses another one. */
static void
end_batch(ia3_train *t)
{
    for (int i = 0; i < t->n_batch; i++) {
        if (t->drawn[i])
            ia3_choices_free(t->drawn[i]);
        t->drawn[i] = NULL;
    }
    t->n_batch = 0;
}

void
ia3_train_free(ia3_train *t)
{
    if (!t)
        return;
    end_batch(t);
    free(t->drawn);
    ia3_optimizer_free(t->variant);
    ia3_parameters_free(&t->parameters);
    if (!ia3_layout_replaces(t->layout))
        ia3_model_release_backward(t->m);
    ia3_layout_release(t->layout);
    free(t->examples);
    free(t->weights);
    free(t->order);
    free(t->batch);
    free(t->texts);
    free(t);
}

/* --- weights of examples --- */

/* Dividing by the largest first keeps the sum of tiny weights exact enough, and makes equal ones exactly 1. */
bool
ia3_train_weigh(ia3_train *t, const double *weights, ia3_error *err)
{
    double largest = 0, sum = 0;
    if (!ia3_recipe_check_weights(weights, (size_t) t->n, err))
        return false;
    for (int i = 0; i < t->n; i++)
        largest = fmax(largest, weights[i]);
    t->weights = ia3_alloc_array(t->n, sizeof *t->weights);
    for (int i = 0; i < t->n; i++) {
        t->weights[i] = weights[i] / largest;
        sum += t->weights[i];
    }
    for (int i = 0; i < t->n; i++)
        t->weights[i] *= t->n / sum;
    return true;
}

static double
weight_of(const ia3_train *t, int example)
{
    return t->weights ? t->weights[example] : 1;
}

/* --- sampling --- */

static void
shuffle(ia3_train *t)
{
    for (int i = 0; i < t->n; i++)
        t->order[i] = i;
    for (int i = t->n - 1; i > 0; i--) {
        int j = (int) ia3_draw(t->recipe.seed, IA3_STREAM_SHUFFLE, (uint64_t) t->epoch << 32 | (uint32_t) i,
                               (uint32_t) i + 1);
        int swap = t->order[i];
        t->order[i] = t->order[j];
        t->order[j] = swap;
    }
    t->epoch++;
    t->used = 0;
}

/*
 * Chooses the next batch (docs/engine.md §3.2). With token-weighted averaging an incomplete batch at the end of an
 * epoch is dropped (PyTorch's drop_last), as in T-Few's 3B runs. Per-example averaging keeps it, as in runs with one
 * example per micro-batch, where nothing is dropped and the optimizer steps at the end of the epoch. If there are fewer
 * examples than batch_size, all of them are the batch.
 */
static void
sample(ia3_train *t, int batch_size)
{
    int size = batch_size < t->n ? batch_size : t->n, left = t->n - t->used;
    if (left == 0 || (left < size && t->recipe.averaging == IA3_LOSS_BATCH)) {
        shuffle(t);
        left = t->n;
    }
    t->n_batch = left < size ? left : size;
    for (int i = 0; i < t->n_batch; i++) {
        t->batch[i] = t->order[t->used++];
        const ia3_train_example *e = &t->examples[t->batch[i]];
        uint32_t texts = (uint32_t) e->n_texts;
        if (e->verbalizers)
            t->drawn[i] = ia3_verbalizers_draw(e->verbalizers, e->choices, t->recipe.seed, t->accesses);
        t->texts[i] = (int) ia3_draw(t->recipe.seed, IA3_STREAM_TEXT, t->accesses++, texts);
    }
}

/* --- one pass --- */

/* One job's part of a pass. */
typedef struct share {
    ia3_train *job;
    const int *examples, *texts;
    ia3_choices *const *drawn; /* [n], each NULL for an example without verbalizers; or NULL */
    int n;
    bool squared; /* the gradient will be squared, and its square is to have the example's weight */
    ia3_loss_question *questions; /* of the examples, one after another */
    int n_questions;
    ia3_losses losses;
    double flops;
} share;

typedef struct train_pass {
    ia3_model *m;
    share *shares;
    int n_shares;
    ia3_batch batch;
    float *lp, *dlp; /* host memory [pairs] */
} train_pass;

static void
add_share(train_pass *tp, share *s)
{
    const ia3_train *t = s->job;
    int slot = ia3_batch_add_slot(&tp->batch, t->layout, t->parameters.passed, t->parameters.passed_grads);
    if (t->parameters.weights) {
        tp->batch.weights = t->parameters.weights;
        tp->batch.weight_layout = t->parameters.trained;
        tp->batch.weight_grads = t->parameters.grads;
    }
    for (int i = 0; i < s->n; i++)
        s->n_questions += ia3_train_example_questions(&t->examples[s->examples[i]]);
    s->questions = ia3_alloc_array(s->n_questions, sizeof *s->questions);
    for (int i = 0, q = 0; i < s->n; i++) {
        const ia3_train_example *e = &t->examples[s->examples[i]];
        const ia3_choices *choices = s->drawn && s->drawn[i] ? s->drawn[i] : e->choices;
        const double weight = weight_of(t, s->examples[i]);
        ia3_batch_add_input(&tp->batch, e->ids[s->texts[i]], e->n_ids[s->texts[i]], slot);
        bool chains = t->dropout > 0;
        int first =
            chains ? ia3_batch_add_chains(&tp->batch, choices) : ia3_batch_add_trie(&tp->batch, choices);
        ia3_train_example_ask(e, choices, first, chains, s->squared ? sqrt(weight) : weight,
                              s->questions + q);
        q += ia3_train_example_questions(e);
    }
}

/* Makes the rows' dropout keys from the job's seed and step, the example's index in its batch, and the position. */
static uint64_t *
row_keys(const train_pass *tp, const ia3_ints *offsets, int rows)
{
    uint64_t *keys = ia3_alloc_array(rows, sizeof *keys);
    int input = 0;
    for (int k = 0; k < tp->n_shares; k++) {
        const share *s = &tp->shares[k];
        for (int i = 0; i < s->n; i++, input++)
            for (int r = offsets->v[input]; r < offsets->v[input + 1]; r++)
                keys[r] = ia3_row_key(s->job->recipe.seed, (uint32_t) (s->job->step + s->job->draws),
                                      (uint32_t) i, (uint32_t) (r - offsets->v[input]));
    }
    return keys;
}

/* Inputs are in the order of the shares. */
static void
count_flops(train_pass *tp)
{
    int input = 0;
    for (int k = 0; k < tp->n_shares; k++) {
        tp->shares[k].flops += 2 * tp->shares[k].job->layout->cost.step;
        for (int i = 0; i < tp->shares[k].n; i++)
            tp->shares[k].flops += ia3_input_flops(tp->m, &tp->batch, input++, IA3_PASS_TRAINING);
    }
}

static void
build_pass(train_pass *tp)
{
    ia3_batch *b = &tp->batch;
    ia3_batch_init(b);
    for (int k = 0; k < tp->n_shares; k++)
        add_share(tp, &tp->shares[k]);
    count_flops(tp);
    b->dropout = (float) tp->shares[0].job->dropout;
    if (b->dropout > 0) {
        b->enc_keys = row_keys(tp, &b->enc_offsets, b->enc_ids.n);
        b->dec_keys = row_keys(tp, &b->dec_offsets, b->dec_ids.n);
    }
    tp->lp = ia3_alloc_array(b->pair_tokens.n, sizeof(float));
    tp->dlp = ia3_alloc_array(b->pair_tokens.n, sizeof(float));
}

static void
run_pass(void *arg)
{
    train_pass *tp = arg;
    ia3_pass p;
    for (int k = 0; k < tp->n_shares; k++) {
        ia3_parameters_prepare_pass(&tp->shares[k].job->parameters);
        ia3_parameters_zero_grads(&tp->shares[k].job->parameters);
    }
    ia3_pass_forward(&p, tp->m, &tp->batch, true, tp->lp);
    for (int k = 0; k < tp->n_shares; k++) {
        share *s = &tp->shares[k];
        s->losses = ia3_loss(s->questions, s->n_questions, &s->job->recipe, tp->lp, tp->dlp);
    }
    ia3_pass_backward(&p, tp->dlp);
}

/* Adds the gradients of all shares, which must have the same dropout, to their jobs' grads. */
static bool
compute(ia3_model *m, share *shares, int n, ia3_error *err)
{
    train_pass tp = {.m = m, .shares = shares, .n_shares = n};
    for (int i = 0; shares[0].drawn == NULL && i < shares[0].n; i++) /* chosen by a caller (train.h) */
        if (shares[0].job->examples[shares[0].examples[i]].verbalizers)
            return ia3_fail(err, IA3_E_INVALID, "example %d has verbalizers", shares[0].examples[i] + 1);
    build_pass(&tp);
    bool ok = ia3_model_guarded(m, run_pass, &tp, err);
    for (int k = 0; k < n; k++) {
        if (ok)
            ia3_parameters_finish_adapter_grads(&shares[k].job->parameters);
        free(shares[k].questions);
    }
    free(tp.lp);
    free(tp.dlp);
    ia3_batch_free(&tp.batch);
    return ok;
}

/* --- steps --- */

static void
report(ia3_train_report *out, const share *s, int step)
{
    *out = (ia3_train_report){.step = step,
                              .loss = s->losses.total,
                              .lm_loss = s->losses.lm,
                              .unlikelihood_loss = s->losses.unlikelihood,
                              .length_norm_loss = s->losses.length_norm,
                              .examples = s->n,
                              .flops = s->flops};
}

static void
count_step(ia3_train *t, const share *s)
{
    t->step++;
    report(&t->last, s, t->step);
    if (t->recipe.early_stopping == IA3_STOP_LOSS)
        t->ended = ia3_stopping_add(&t->stopping, s->losses.total);
}

static void
finish_grads(const share *shares, int n)
{
    for (int k = 0; k < n; k++)
        ia3_parameters_finish_grads(&shares[k].job->parameters);
}

/* The steps of Adafactor of several jobs. */
typedef struct adafactor_steps {
    ia3_device *dev;
    ia3_adafactor *steps;
    int n;
} adafactor_steps;

static void
run_adafactor(void *arg)
{
    const adafactor_steps *a = arg;
    a->dev->ops->adafactor(a->dev, a->steps, a->n);
}

/* Either all of these jobs make their step or, for lack of memory, none does. */
static bool
step_adafactor(ia3_model *m, const share *shares, int n, ia3_error *err)
{
    adafactor_steps a = {.dev = m->dev, .steps = ia3_alloc_array(n, sizeof *a.steps)};
    for (int k = 0; k < n; k++) {
        const ia3_train *t = shares[k].job;
        if (t->recipe.optimizer == IA3_OPTIMIZER_ADAMW)
            continue;
        a.steps[a.n] = ia3_parameters_adafactor(&t->parameters);
        a.steps[a.n].learning_rate = ia3_recipe_learning_rate(&t->recipe, t->step);
        a.steps[a.n++].step = t->step + 1;
    }
    bool ok = a.n == 0 || ia3_model_guarded(m, run_adafactor, &a, err);
    free(a.steps);
    return ok;
}

/* Only Adafactor can fail, so it is first: nothing else has changed or been counted then. */
static bool
update(ia3_model *m, share *shares, int n, ia3_error *err)
{
    if (!step_adafactor(m, shares, n, err))
        return false;
    for (int k = 0; k < n; k++) {
        ia3_train *t = shares[k].job;
        if (t->recipe.optimizer == IA3_OPTIMIZER_ADAMW)
            ia3_optimizer_adamw(t->variant, &t->parameters, ia3_recipe_learning_rate(&t->recipe, t->step),
                                t->step + 1);
        count_step(t, &shares[k]);
        ia3_parameters_changed(&t->parameters);
        if (t->variant)
            ia3_optimizer_average(t->variant, &t->parameters, t->step);
    }
    return true;
}

/* Whether two jobs can share a pass, which has one probability of dropout and runs with one copy of the weights. */
static bool
may_share(const ia3_train *a, const ia3_train *b)
{
    return a->dropout == b->dropout && !a->parameters.weights && !b->parameters.weights;
}

/* Runs one pass for all jobs that can share it. */
static bool
compute_all(ia3_model *m, share *shares, int n, ia3_error *err)
{
    bool ok = true;
    for (int i = 0; ok && i < n;) {
        int last = i + 1;
        for (int k = last; k < n; k++) {
            if (may_share(shares[k].job, shares[i].job)) {
                share swap = shares[last];
                shares[last++] = shares[k];
                shares[k] = swap;
            }
        }
        ok = compute(m, shares + i, last - i, err);
        i = last;
    }
    return ok;
}

/* Without dropout, other texts and verbalizers, each time that all examples have been drawn is like the first. */
static int
count_draws(const ia3_train *t)
{
    const int draws = t->layout->variant.method->mask_draws;
    bool random = t->dropout > 0;
    for (int i = 0; i < t->n; i++)
        random = random || t->examples[i].n_texts > 1 || t->examples[i].verbalizers;
    return random || draws % t->n != 0 ? draws : t->n;
}

/*
 * Draws one of the examples that decide which weights are trained (docs/engine.md §2). After the last one training
 * begins with the same random numbers as if there had been none.
 */
static bool
draw_for_mask(ia3_train *t, ia3_error *err)
{
    if (t->n_batch == 0)
        sample(t, 1);
    share s = {.job = t, .examples = t->batch, .texts = t->texts, .drawn = t->drawn, .n = 1, .squared = true};
    if (!compute(t->m, &s, 1, err))
        return false;
    ia3_parameters_add_squares(&t->parameters);
    report(&t->last, &s, 0);
    end_batch(t);
    if (++t->draws < count_draws(t))
        return true;
    t->used = t->n;
    t->epoch = t->draws = 0;
    t->accesses = 0;
    return ia3_parameters_choose_mask(&t->parameters, err);
}

bool
ia3_train_step(ia3_train *const *jobs, int n_jobs, ia3_error *err)
{
    share *shares = ia3_alloc_array(n_jobs, sizeof *shares);
    bool ok = true;
    int n = 0;
    for (int k = 0; ok && k < n_jobs; k++) {
        ia3_train *t = jobs[k];
        if (ia3_parameters_lack_mask(&t->parameters)) {
            ok = draw_for_mask(t, err);
            continue;
        }
        if (t->n_batch == 0) /* a step that failed for lack of memory is repeated with the same batch */
            sample(t, t->recipe.batch_size);
        shares[n++] =
            (share){.job = t, .examples = t->batch, .texts = t->texts, .drawn = t->drawn, .n = t->n_batch};
    }
    if (ok && n > 0 && (ok = compute_all(shares[0].job->m, shares, n, err))) {
        finish_grads(shares, n);
        ok = update(shares[0].job->m, shares, n, err);
        for (int k = 0; ok && k < n; k++)
            end_batch(shares[k].job);
    }
    free(shares);
    return ok;
}

bool
ia3_train_step_on(ia3_train *t, const int *examples, const int *texts, int n, ia3_error *err)
{
    share s = {.job = t, .examples = examples, .texts = texts, .n = n};
    while (ia3_parameters_lack_mask(&t->parameters))
        if (!draw_for_mask(t, err))
            return false;
    if (!compute(t->m, &s, 1, err))
        return false;
    finish_grads(&s, 1);
    return update(t->m, &s, 1, err);
}

bool
ia3_train_gradients(ia3_train *t, const int *examples, const int *texts, int n, float *grads,
                    ia3_train_report *out, ia3_error *err)
{
    share s = {.job = t, .examples = examples, .texts = texts, .n = n};
    if (!compute(t->m, &s, 1, err))
        return false;
    ia3_parameters_read_grads(&t->parameters, grads);
    report(out, &s, t->step);
    return true;
}

bool
ia3_train_finished(const ia3_train *t)
{
    return t->ended || t->step >= (t->recipe.stop ? t->recipe.stop : t->recipe.steps);
}

bool
ia3_train_ended_early(const ia3_train *t)
{
    return t->ended;
}

void
ia3_train_last(const ia3_train *t, ia3_train_report *out)
{
    *out = t->last;
}

int
ia3_train_batch_tokens(const ia3_train *t)
{
    return t->batch_tokens;
}

const ia3_layout *
ia3_train_layout(const ia3_train *t)
{
    return t->layout;
}

void
ia3_train_values(ia3_train *t, float *values)
{
    const float *averaged = ia3_optimizer_averaged(t->variant);
    if (averaged)
        memcpy(values, averaged, t->layout->n_values * sizeof(float));
    else
        ia3_parameters_read(&t->parameters, values);
}

/* --- pausing --- */

static const char STATE_MAGIC[8] = "ia3state";
enum { STATE_FORMAT = 1 };

static uint64_t
mix_in_double(uint64_t hash, double value)
{
    uint64_t bits;
    memcpy(&bits, &value, sizeof bits);
    return ia3_hash_add(hash, bits);
}

/* A hash of everything, other than the state, that steps depend on. A state fits only jobs with the same hash. */
static uint64_t
fingerprint(const ia3_train *t)
{
    const ia3_recipe *r = &t->recipe;
    int method = 0; /* its place in the list */
    while (ia3_model_methods(t->m)[method] != r->variant.method)
        method++;
    uint64_t h = ia3_hash_add(ia3_mix64(r->seed), (uint64_t) r->steps);
    h = ia3_hash_add(h, (uint64_t) r->batch_size << 8 | (uint64_t) method << 4 | (uint64_t) r->averaging);
    const double numbers[] = {r->learning_rate,       r->warmup_ratio,       r->lm_weight,
                              r->unlikelihood_weight, r->length_norm_weight, t->dropout};
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        h = mix_in_double(h, numbers[i]);
    for (int i = 0; r->variant.method->options && r->variant.method->options[i].name; i++)
        h = mix_in_double(h, r->variant.options[i]);
    h = ia3_hash_add(h, (uint64_t) t->n);
    for (int i = 0; i < t->n; i++) {
        h = ia3_train_example_hash(h, &t->examples[i]);
        if (weight_of(t, i) != 1) /* so states of runs without weights keep their hash */
            h = mix_in_double(h, weight_of(t, i));
    }
    return h;
}

static void
put_device(ia3_writer *w, const ia3_train *t, const float *values)
{
    size_t bytes = t->parameters.trained->n_values * sizeof(float);
    t->m->dev->ops->download(t->m->dev, ia3_put_room(w, bytes), values, bytes);
}

uint8_t *
ia3_train_save(ia3_train *t, size_t *len, ia3_error *err)
{
    if (ia3_parameters_lack_mask(&t->parameters)) {
        ia3_fail(err, IA3_E_INVALID, "the weights that are trained have not been chosen");
        return NULL;
    }
    const size_t kept = t->layout->kept;
    size_t size = sizeof STATE_MAGIC + 9 * sizeof(uint32_t) +
                  2 * (t->parameters.trained->n_values + kept) * sizeof(float);
    ia3_writer w = {.data = ia3_alloc(size), .cap = size};
    ia3_put_bytes(&w, STATE_MAGIC, sizeof STATE_MAGIC);
    ia3_put_u32(&w, STATE_FORMAT);
    ia3_put_u64(&w, fingerprint(t));
    ia3_put_u32(&w, (uint32_t) t->step);
    ia3_put_u32(&w, (uint32_t) t->epoch);
    ia3_put_u32(&w, (uint32_t) t->used);
    ia3_put_u64(&w, t->accesses);
    ia3_put_u32(&w, (uint32_t) t->parameters.trained->n_values);
    put_device(&w, t, t->parameters.values);
    put_device(&w, t, t->parameters.second_moment);
    for (size_t i = 0; i < kept; i++)
        ia3_put_u64(&w, t->parameters.positions[i]);
    *len = w.len;
    return w.data;
}

/* Sets the job's position in the random order of the examples, which the number of the epoch determines. */
static bool
resume_at(ia3_train *t, uint32_t step, uint32_t epoch, uint32_t used)
{
    if (step > (uint32_t) t->recipe.steps || used > (uint32_t) t->n || epoch > step ||
        (epoch == 0 && step > 0))
        return false;
    t->step = t->last.step = (int) step;
    if (epoch > 0) {
        t->epoch = (int) epoch - 1;
        shuffle(t);
        t->used = (int) used;
    }
    return true;
}

/* The positions of the weights that are trained, if these are only some. */
static bool
restore_mask(ia3_train *t, ia3_reader *r, ia3_error *err)
{
    const ia3_layout *l = t->layout;
    uint64_t *positions = ia3_alloc_array(l->kept + 1, sizeof *positions);
    bool ok = true;
    for (size_t i = 0; i < l->kept; i++) {
        positions[i] = ia3_get_u64(r);
        ok = ok && positions[i] < l->expanded->n_values && (i == 0 || positions[i] > positions[i - 1]);
    }
    if (r->bad || !ok)
        ok = ia3_fail(err, IA3_E_INVALID, "the saved training state is corrupted");
    else if (l->kept > 0)
        ok = ia3_parameters_set_mask(&t->parameters, positions, err);
    free(positions);
    return ok;
}

bool
ia3_train_restore(ia3_train *t, const uint8_t *state, size_t len, ia3_error *err)
{
    ia3_reader r = {.p = state, .end = state + len};
    const uint8_t *magic = ia3_get_bytes(&r, sizeof STATE_MAGIC);
    if (t->variant)
        return ia3_fail(err, IA3_E_UNSUPPORTED, "this optimizer cannot be paused");
    if (t->recipe.early_stopping != IA3_STOP_NEVER)
        return ia3_fail(err, IA3_E_UNSUPPORTED, "a training run with early stopping cannot be continued");
    if (!magic || memcmp(magic, STATE_MAGIC, sizeof STATE_MAGIC) != 0 || ia3_get_u32(&r) != STATE_FORMAT)
        return ia3_fail(err, IA3_E_INVALID, "the data is not a saved training state");
    if (ia3_get_u64(&r) != fingerprint(t)) {
        ia3_fail(err, IA3_E_INVALID,
                 "the saved state belongs to a training run with other examples or options");
        return ia3_fail_hint(err,
                             "Start a new training run, or use the same examples and options as before.");
    }
    uint32_t step = ia3_get_u32(&r), epoch = ia3_get_u32(&r), used = ia3_get_u32(&r);
    t->accesses = ia3_get_u64(&r);
    uint32_t n = ia3_get_u32(&r);
    size_t bytes = t->parameters.trained->n_values * sizeof(float);
    if (n != t->parameters.trained->n_values)
        return ia3_fail(err, IA3_E_INVALID, "the saved state belongs to a training run on another backbone");
    const uint8_t *values = ia3_get_bytes(&r, bytes), *second_moment = ia3_get_bytes(&r, bytes);
    if (!restore_mask(t, &r, err))
        return false;
    if (r.bad || r.p != r.end || !resume_at(t, step, epoch, used))
        return ia3_fail(err, IA3_E_INVALID, "the saved training state is corrupted");
    t->m->dev->ops->upload(t->m->dev, t->parameters.values, values, bytes);
    t->m->dev->ops->upload(t->m->dev, t->parameters.second_moment, second_moment, bytes);
    ia3_parameters_changed(&t->parameters);
    return true;
}
