/*
 * compute_thread.c
 *     The compute thread loads the backbone, then runs one batch and one training step in turn, so that neither waits for
 *     more than one of the other.
 *
 * Work that takes longer than one piece gives way to shorter work: between two pieces (model.h says what these are) the
 * thread runs a batch of rows that are waiting. A batch and a training step give way to quick rows, a long row to all
 * that are not long, a generation to all rows that are scored and to training steps. So a quick row never waits for other
 * work to end, but only for one piece of it, and then for its lane's turn (queue.h). What gives way keeps as much time as
 * it gives to quick rows, and as it gives to others, however many rows arrive. At the same places, rows are abandoned
 * if all their requests have been cancelled or the engine stops.
 */
#include "serve.h"

#include <stdlib.h>

#include "engine/base/alloc.h"
#include "engine/base/clock.h"
#include "engine/base/heartbeat.h"
#include "generate_batch.h"
#include "reclaim.h"
#include "score_batch.h"
#include "train_jobs.h"

/* In bytes: large enough for ordinary batches of a small backbone; with a larger one, memory is not what takes time. */
#define KEEP_ARENA ((size_t) 64 << 20)

/* In seconds: work that is this far behind what it gave way to gives way again when it has caught up that much. */
#define MOST_GIVEN 0.2

typedef struct compute_thread {
    ia3_server *server;
    ia3_trainer *trainer;
} compute_thread;

/* How work shares the thread with what it gives way to. */
typedef struct time_share {
    double given; /* seconds by which the other work is ahead */
    double since; /* the time from here on has not been counted yet, neither as the work's own nor as given */
} time_share;

/* Work under way that gives way to others. */
typedef struct ia3_long_work {
    compute_thread *t;
    ia3_row_kind kind;        /* gives way to rows of kinds below this */
    time_share quick, others; /* what it gives way to */
    ia3_row **rows;           /* [n]; NULL for a training step */
    int n;
} ia3_long_work;

static void run_batch(compute_thread *t, ia3_row_batch *batch);
static void train_step(compute_thread *t);

/* Counts the time until now as the work's own. Returns whether it is the turn of others. */
static bool
may_give(time_share *s)
{
    double now = ia3_now(), left = s->given - (now - s->since);
    s->given = left > 0 ? left : 0;
    s->since = now;
    return s->given == 0;
}

/* Counts the time until now as given to others, up to a bound: one long piece must not keep the next ones waiting. */
static void
has_given(time_share *s)
{
    double now = ia3_now(), given = s->given + (now - s->since);
    s->given = given < MOST_GIVEN ? given : MOST_GIVEN;
    s->since = now;
}

static bool
is_wanted(const ia3_long_work *w)
{
    for (int i = 0; i < w->n; i++)
        if (!atomic_load(&w->rows[i]->request->cancelled))
            return true;
    return false;
}

/* ia3_give_way_fn: what other work does meanwhile. */
static bool
give_way(void *arg)
{
    ia3_long_work *w = arg;
    ia3_server *s = w->t->server;
    if (w->rows && (!is_wanted(w) || ia3_queue_stopping(s->queue)))
        return false;
    bool to_quick = may_give(&w->quick), to_others = may_give(&w->others) && w->kind > IA3_ROW_SHORT;
    time_share *share = &w->quick;
    ia3_row_batch *batch = ia3_alloc(sizeof *batch);
    if (to_quick)
        ia3_queue_give_way(s->queue, IA3_ROW_QUICK, IA3_ROW_SHORT, batch);
    if (batch->n == 0 && to_others) {
        share = &w->others;
        ia3_queue_give_way(s->queue, IA3_ROW_SHORT, w->kind, batch);
    }
    if (batch->n > 0)
        run_batch(w->t, batch);
    free(batch);
    int n_doomed;
    ia3_adapter **doomed = ia3_queue_take_doomed(s->queue, &n_doomed);
    ia3_free_doomed(s, doomed, n_doomed);
    if (share == &w->others && w->kind == IA3_ROW_TEXT && ia3_trainer_busy(w->t->trainer))
        train_step(w->t);
    has_given(share);
    w->quick.since = w->others.since = share->since;
    return true;
}

/* Makes what the model does from now on give way as *w says. */
static ia3_give_way
begin_giving(ia3_long_work *w)
{
    w->quick.since = w->others.since = ia3_now();
    return ia3_model_set_give_way(w->t->server->model, (ia3_give_way){give_way, w});
}

/* After work that may have needed much more memory than usual: the device gives back what it keeps for the next pass. */
static void
trim(const ia3_server *s)
{
    s->device->ops->arena_trim(s->device, KEEP_ARENA);
}

static void
run_batch(compute_thread *t, ia3_row_batch *batch)
{
    ia3_server *s = t->server;
    ia3_row **writing = ia3_alloc_array((size_t) batch->n, sizeof(ia3_row *));
    int n = 0, n_writing = 0;
    for (int i = 0; i < batch->n; i++)
        *(batch->rows[i]->sampling ? &writing[n_writing++] : &batch->rows[n++]) = batch->rows[i];
    batch->n = n;
    bool is_long = n == 1 && batch->kind == IA3_ROW_LONG;
    ia3_long_work scoring = {
        .t = t, .kind = is_long ? IA3_ROW_LONG : IA3_ROW_SHORT, .rows = batch->rows, .n = n};
    ia3_long_work text = {.t = t, .kind = IA3_ROW_TEXT, .rows = writing, .n = n_writing};
    ia3_give_way none = {NULL, NULL}, before = ia3_model_set_give_way(s->model, none);
    /* Scores are sent before text is generated, because that takes one pass per token. */
    if (n > 0) {
        if (batch->kind != IA3_ROW_QUICK)
            begin_giving(&scoring);
        ia3_score_batch(s, batch);
        if (is_long)
            trim(s);
    }
    ia3_queue_hand_back(s->queue, batch->rows, n);
    begin_giving(&text);
    if (n_writing > 0) {
        ia3_run_generation(s, writing, n_writing);
        trim(s);
    }
    ia3_queue_hand_back(s->queue, writing, n_writing);
    ia3_model_set_give_way(s->model, before);
    free(writing);
}

static void
train_step(compute_thread *t)
{
    ia3_long_work step = {.t = t, .kind = IA3_ROW_SHORT};
    ia3_give_way before = begin_giving(&step);
    ia3_trainer_step(t->trainer);
    ia3_model_set_give_way(t->server->model, before);
    if (!ia3_trainer_busy(t->trainer))
        trim(t->server);
}

static void
post_loading(ia3_server *s, int percent)
{
    ia3_queue_post(s->queue, &(ia3_event){.kind = IA3_EVENT_LOADING, .percent = percent});
}

void *
ia3_compute_main(void *arg)
{
    ia3_server *s = arg;
    ia3_event loaded = {.kind = IA3_EVENT_READY};
    if (!ia3_server_load(s, post_loading, &loaded.error))
        loaded.kind = IA3_EVENT_FAILED;
    else
        ia3_queue_set_attention_cost(s->queue, ia3_model_attention_cost(s->model));
    ia3_heartbeat_expect(loaded.kind == IA3_EVENT_READY);
    ia3_queue_post(s->queue, &loaded);
    if (loaded.kind == IA3_EVENT_FAILED)
        return NULL;

    compute_thread t = {s, ia3_trainer_create(s)};
    ia3_work *work = ia3_alloc(sizeof *work);
    time_share share = {.since = ia3_now()}; /* of all other work, which quick rows go before */
    while (ia3_queue_next(s->queue, ia3_trainer_busy(t.trainer), may_give(&share), work)) {
        ia3_free_doomed(s, work->doomed, work->n_doomed);
        if (work->batch.n > 0) {
            bool quick = work->batch.kind == IA3_ROW_QUICK;
            run_batch(&t, &work->batch);
            if (quick)
                has_given(&share);
        }
        for (ia3_request *r = work->trainings, *next; r; r = next) {
            next = r->lane_next;
            ia3_trainer_add(t.trainer, r);
        }
        if (ia3_trainer_busy(t.trainer))
            train_step(&t);
    }
    ia3_free_doomed(s, work->doomed, work->n_doomed);
    free(work);
    ia3_trainer_free(t.trainer);
    ia3_heartbeat_expect(false);
    return NULL;
}
