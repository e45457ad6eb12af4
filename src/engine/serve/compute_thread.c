/*
 * compute_thread.c
 *     The compute thread loads the backbone, then runs one batch and one training step in turn, so that neither waits for
 *     more than one of the other.
 *
 * Work that takes longer than a batch of short rows gives way to shorter work: between two of its pieces (model.h says
 * what these are) the thread runs a batch of rows that are waiting. A long row gives way to short rows, a
 * generation to all rows that are scored and to training steps. A training step does not give way: at every layer of it
 * a busy queue would have a batch, and training would starve. So a short row never waits for long
 * work to end, but only for one piece of it or for the batch under way, and then for its lane's turn (queue.h). At the
 * same places, a long row or a generation is abandoned if all its requests have been cancelled or the engine stops.
 */
#include "serve.h"

#include <stdlib.h>

#include "engine/base/alloc.h"
#include "engine/base/heartbeat.h"
#include "generate_batch.h"
#include "score_batch.h"
#include "train_jobs.h"

/* In bytes: large enough for ordinary batches of a small backbone; with a larger one, memory is not what takes time. */
#define KEEP_ARENA ((size_t) 64 << 20)

typedef struct compute_thread {
    ia3_server *server;
    ia3_trainer *trainer;
} compute_thread;

/* Work under way that gives way to others. */
typedef struct ia3_long_work {
    compute_thread *t;
    ia3_row_kind kind;
    ia3_row **rows; /* [n] */
    int n;
} ia3_long_work;

static void run_batch(compute_thread *t, ia3_row_batch *batch);
static void train_step(compute_thread *t);

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
    if (!is_wanted(w) || ia3_queue_stopping(s->queue))
        return false;
    ia3_row_batch *batch = ia3_alloc(sizeof *batch);
    ia3_queue_give_way(s->queue, w->kind, batch);
    if (batch->n > 0)
        run_batch(w->t, batch);
    free(batch);
    if (w->kind == IA3_ROW_TEXT && ia3_trainer_busy(w->t->trainer))
        train_step(w->t);
    return true;
}

/* After work that may have needed much more memory than usual: the device gives back what it keeps for the next pass. */
static void
trim(const ia3_server *s)
{
    s->device->ops->arena_trim(s->device, KEEP_ARENA);
}

/* Marks rows as done and posts the requests that are complete. */
static void
hand_back(ia3_server *s, ia3_row **rows, int n)
{
    for (int i = 0; i < n; i++) {
        ia3_request *r = rows[i]->request;
        if (++r->n_done == r->n_rows) /* when posted, it belongs to the I/O thread */
            ia3_queue_post(s->queue, &(ia3_event){.kind = IA3_EVENT_DONE, .request = r});
    }
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
    ia3_long_work long_row = {t, IA3_ROW_LONG, batch->rows, n}, text = {t, IA3_ROW_TEXT, writing, n_writing};
    ia3_give_way none = {NULL, NULL}, before = ia3_model_set_give_way(s->model, none);
    /* Scores are sent before text is generated, because that takes one pass per token. */
    if (n > 0) {
        if (n == 1 && batch->kind == IA3_ROW_LONG)
            ia3_model_set_give_way(s->model, (ia3_give_way){give_way, &long_row});
        ia3_score_batch(s, batch);
        if (batch->kind == IA3_ROW_LONG)
            trim(s);
    }
    hand_back(s, batch->rows, n);
    ia3_model_set_give_way(s->model, (ia3_give_way){give_way, &text});
    if (n_writing > 0) {
        ia3_run_generation(s, writing, n_writing);
        trim(s);
    }
    hand_back(s, writing, n_writing);
    ia3_model_set_give_way(s->model, before);
    free(writing);
}

static void
train_step(compute_thread *t)
{
    ia3_give_way none = {NULL, NULL}, before = ia3_model_set_give_way(t->server->model, none);
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
    while (ia3_queue_next(s->queue, ia3_trainer_busy(t.trainer), work)) {
        for (int i = 0; i < work->n_doomed; i++)
            ia3_adapter_free(s->model, work->doomed[i]);
        free(work->doomed);
        if (work->batch.n > 0)
            run_batch(&t, &work->batch);
        for (ia3_request *r = work->trainings, *next; r; r = next) {
            next = r->lane_next;
            ia3_trainer_add(t.trainer, r);
        }
        if (ia3_trainer_busy(t.trainer))
            train_step(&t);
    }
    for (int i = 0; i < work->n_doomed; i++)
        ia3_adapter_free(s->model, work->doomed[i]);
    free(work->doomed);
    free(work);
    ia3_trainer_free(t.trainer);
    ia3_heartbeat_expect(false);
    return NULL;
}
