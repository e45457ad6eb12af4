/*
 * queue.c
 *     The queue between the two threads. lanes.c chooses the rows of a batch.
 */
#include "queue.h"

#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "engine/base/alloc.h"
#include "engine/base/clock.h"
#include "engine/base/heartbeat.h"
#include "engine/base/log.h"
#include "lanes.h"

struct ia3_queue {
    pthread_mutex_t lock;
    pthread_cond_t work_arrived;
    ia3_stats *stats;
    int wake_fd;
    bool stop, cancelled;
    ia3_lanes lanes;
    ia3_request *trainings, **trainings_tail;
    ia3_adapter **doomed;
    int n_doomed, cap_doomed;
    bool shrinking; /* the compute thread waits for evictions */
    ia3_event *events, **events_tail;
};

ia3_queue *
ia3_queue_create(int wake_fd, int max_batch_tokens, ia3_stats *stats)
{
    ia3_queue *q = ia3_alloc(sizeof *q);
    pthread_mutex_init(&q->lock, NULL);
    pthread_cond_init(&q->work_arrived, NULL);
    q->wake_fd = wake_fd;
    q->stats = stats;
    q->lanes.max_tokens = max_batch_tokens;
    q->trainings_tail = &q->trainings;
    q->events_tail = &q->events;
    return q;
}

void
ia3_queue_free(ia3_queue *q)
{
    ia3_event *next;
    for (ia3_event *e = q->events; e; e = next) {
        next = e->next;
        free(e);
    }
    ia3_lanes_free(&q->lanes);
    free(q->doomed);
    pthread_cond_destroy(&q->work_arrived);
    pthread_mutex_destroy(&q->lock);
    free(q);
}

/* Tells the compute thread that there is something to do; the caller holds the lock. */
static void
wake(ia3_queue *q)
{
    ia3_heartbeat_expect(true);
    pthread_cond_signal(&q->work_arrived);
}

void
ia3_queue_publish(ia3_queue *q, ia3_request *r, uint32_t n_ready)
{
    pthread_mutex_lock(&q->lock);
    uint32_t more = n_ready - r->n_ready;
    r->n_ready = n_ready;
    ia3_lanes_add(&q->lanes, r, more);
    wake(q);
    pthread_mutex_unlock(&q->lock);
    ia3_stats_add(q->stats, IA3_STAT_QUEUE_ROWS, more);
}

void
ia3_queue_train(ia3_queue *q, ia3_request *r)
{
    pthread_mutex_lock(&q->lock);
    r->lane_next = NULL;
    *q->trainings_tail = r;
    q->trainings_tail = &r->lane_next;
    wake(q);
    pthread_mutex_unlock(&q->lock);
}

void
ia3_queue_cancel(ia3_queue *q, ia3_request *r)
{
    atomic_store(&r->cancelled, true);
    pthread_mutex_lock(&q->lock);
    q->cancelled = true;
    wake(q);
    pthread_mutex_unlock(&q->lock);
}

void
ia3_queue_doom(ia3_queue *q, ia3_adapter *adapter)
{
    pthread_mutex_lock(&q->lock);
    if (q->n_doomed == q->cap_doomed) {
        q->cap_doomed = q->cap_doomed ? 2 * q->cap_doomed : 16;
        q->doomed = ia3_realloc(q->doomed, (size_t) q->cap_doomed * sizeof(ia3_adapter *));
    }
    q->doomed[q->n_doomed++] = adapter;
    wake(q);
    pthread_mutex_unlock(&q->lock);
}

void
ia3_queue_shrunk(ia3_queue *q)
{
    pthread_mutex_lock(&q->lock);
    q->shrinking = false;
    wake(q);
    pthread_mutex_unlock(&q->lock);
}

void
ia3_queue_stop(ia3_queue *q)
{
    pthread_mutex_lock(&q->lock);
    q->stop = true;
    wake(q);
    pthread_mutex_unlock(&q->lock);
}

bool
ia3_queue_stopping(ia3_queue *q)
{
    pthread_mutex_lock(&q->lock);
    bool stop = q->stop;
    pthread_mutex_unlock(&q->lock);
    return stop;
}

ia3_event *
ia3_queue_events(ia3_queue *q)
{
    pthread_mutex_lock(&q->lock);
    ia3_event *events = q->events;
    q->events = NULL;
    q->events_tail = &q->events;
    pthread_mutex_unlock(&q->lock);
    return events;
}

/* Posts an event; the caller holds the lock. */
static void
post_locked(ia3_queue *q, const ia3_event *event)
{
    ia3_event *e = ia3_alloc(sizeof *e);
    *e = *event;
    e->next = NULL;
    *q->events_tail = e;
    q->events_tail = &e->next;
    uint64_t one = 1;
    ssize_t ignored =
        write(q->wake_fd, &one, sizeof one); /* failure means a full counter, which also wakes */
    (void) ignored;
}

void
ia3_queue_post(ia3_queue *q, const ia3_event *event)
{
    pthread_mutex_lock(&q->lock);
    post_locked(q, event);
    pthread_mutex_unlock(&q->lock);
}

void
ia3_queue_shrink(ia3_queue *q, double seconds)
{
    const double until = ia3_now() + seconds;
    const struct timespec end = {(time_t) until, (long) ((until - floor(until)) * 1e9)};
    int rc = 0;
    pthread_mutex_lock(&q->lock);
    q->shrinking = true;
    post_locked(q, &(ia3_event){.kind = IA3_EVENT_SHRINK});
    while (q->shrinking && !q->stop && rc == 0)
        rc = pthread_cond_clockwait(&q->work_arrived, &q->lock, CLOCK_MONOTONIC, &end);
    q->shrinking = false;
    pthread_mutex_unlock(&q->lock);
}

static void
post_cancelled(ia3_queue *q, ia3_request *r)
{
    ia3_fail(&r->error, IA3_E_CANCELLED, "request was cancelled");
    post_locked(q, &(ia3_event){.kind = IA3_EVENT_DONE, .request = r});
}

/*
 * Takes cancelled requests out of the lanes and returns them, except those that have rows in a batch under way: they are
 * returned when that has ended (ia3_queue_hand_back). The caller holds the lock.
 */
static void
sweep_cancelled(ia3_queue *q)
{
    q->cancelled = false;
    for (ia3_request *r; (r = ia3_lanes_take_cancelled(&q->lanes)) != NULL;) {
        ia3_stats_add(q->stats, IA3_STAT_QUEUE_ROWS, -(double) (r->n_ready - r->n_taken));
        r->n_wanted = r->n_taken;
        if (r->n_done == r->n_taken)
            post_cancelled(q, r);
    }
    q->trainings_tail = &q->trainings;
    while (*q->trainings_tail) {
        ia3_request *r = *q->trainings_tail;
        if (atomic_load(&r->cancelled)) {
            *q->trainings_tail = r->lane_next;
            post_cancelled(q, r);
        } else
            q->trainings_tail = &r->lane_next;
    }
}

void
ia3_queue_hand_back(ia3_queue *q, ia3_row **rows, int n)
{
    pthread_mutex_lock(&q->lock);
    for (int i = 0; i < n; i++) {
        ia3_request *r = rows[i]->request;
        if (++r->n_done == r->n_wanted)
            post_locked(q, &(ia3_event){.kind = IA3_EVENT_DONE, .request = r});
    }
    pthread_mutex_unlock(&q->lock);
}

/* The caller holds the lock and has found that there is nothing to do. */
static void
wait_for_work(ia3_queue *q)
{
    ia3_heartbeat_expect(false);
    pthread_cond_wait(&q->work_arrived, &q->lock);
    ia3_heartbeat();
}

/* Fills a batch with quick rows or with others, which never share a batch: quick ones would be delayed. */
static uint32_t
fill(ia3_queue *q, bool quick, ia3_row_batch *batch)
{
    uint32_t taken = quick ? ia3_lanes_fill(&q->lanes, IA3_ROW_QUICK, IA3_ROW_SHORT, batch) : 0;
    if (taken == 0)
        taken = ia3_lanes_fill(&q->lanes, IA3_ROW_SHORT, IA3_ROW_ANY, batch);
    if (taken == 0 && !quick)
        taken = ia3_lanes_fill(&q->lanes, IA3_ROW_QUICK, IA3_ROW_SHORT, batch);
    return taken;
}

static ia3_request *
trainings_locked(ia3_queue *q)
{
    ia3_request *trainings = q->trainings;
    q->trainings = NULL;
    q->trainings_tail = &q->trainings;
    return trainings;
}

static ia3_adapter **
doomed_locked(ia3_queue *q, int *n)
{
    ia3_adapter **doomed = q->doomed;
    *n = q->n_doomed;
    q->doomed = NULL;
    q->n_doomed = q->cap_doomed = 0;
    return doomed;
}

ia3_adapter **
ia3_queue_take_doomed(ia3_queue *q, int *n)
{
    pthread_mutex_lock(&q->lock);
    ia3_adapter **doomed = doomed_locked(q, n);
    pthread_mutex_unlock(&q->lock);
    return doomed;
}

void
ia3_queue_clear(ia3_queue *q)
{
    pthread_mutex_lock(&q->lock);
    q->lanes.n = 0;
    q->lanes.n_waiting = 0;
    q->cancelled = false;
    trainings_locked(q);
    pthread_mutex_unlock(&q->lock);
}

bool
ia3_queue_next(ia3_queue *q, bool busy, bool quick, ia3_work *work)
{
    work->batch.n = 0;
    pthread_mutex_lock(&q->lock);
    while (!q->stop && !busy && !q->trainings && q->n_doomed == 0 && !q->cancelled && q->lanes.n_waiting == 0)
        wait_for_work(q);
    if (q->cancelled)
        sweep_cancelled(q);
    uint32_t taken = fill(q, quick, &work->batch);
    work->trainings = trainings_locked(q);
    work->doomed = doomed_locked(q, &work->n_doomed);
    bool stop = q->stop;
    pthread_mutex_unlock(&q->lock);
    if (taken > 0)
        ia3_stats_add(q->stats, IA3_STAT_QUEUE_ROWS, -(double) taken);
    return !stop;
}

void
ia3_queue_give_way(ia3_queue *q, ia3_row_kind from, ia3_row_kind below, ia3_row_batch *batch)
{
    batch->n = 0;
    pthread_mutex_lock(&q->lock);
    if (q->cancelled)
        sweep_cancelled(q);
    uint32_t taken = ia3_lanes_fill(&q->lanes, from, below, batch);
    pthread_mutex_unlock(&q->lock);
    if (taken > 0)
        ia3_stats_add(q->stats, IA3_STAT_QUEUE_ROWS, -(double) taken);
}

void
ia3_queue_set_attention_cost(ia3_queue *q, double cost)
{
    pthread_mutex_lock(&q->lock);
    q->lanes.attention = cost;
    pthread_mutex_unlock(&q->lock);
}
