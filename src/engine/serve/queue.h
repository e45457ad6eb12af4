/*
 * queue.h
 *     What the I/O thread and the compute thread hand to each other.
 *
 * One mutex guards everything here; neither side holds it while it computes or talks to a socket. The compute
 * thread sleeps on a condition variable, the I/O thread is woken through an eventfd.
 *
 * Rows wait in lanes, one per client, and a batch takes one row of each lane in turn, so a client that asks
 * for a million rows delays another's single row by one batch at most.
 */
#ifndef IA3_QUEUE_H
#define IA3_QUEUE_H

#include "request.h"

/* From the compute thread to the I/O thread. */
typedef enum ia3_event_kind {
    IA3_EVENT_LOADING,  /* percent */
    IA3_EVENT_READY,    /* the server's model, tokenizer and digest may be used */
    IA3_EVENT_FAILED,   /* error: the backbone cannot be loaded */
    IA3_EVENT_PROGRESS, /* of a training request */
    IA3_EVENT_DONE,     /* the request belongs to the I/O thread again */
    IA3_EVENT_SHRINK    /* the device is short of memory: evict adapters nobody uses */
} ia3_event_kind;

typedef struct ia3_event {
    struct ia3_event *next;
    ia3_event_kind kind;
    ia3_request *request;
    int percent;
    ia3_error error;
    uint32_t step;
    double loss, examples_per_second, seconds_left;
} ia3_event;

/* The rows of one scoring batch. */
#define IA3_MAX_BATCH_ROWS 4096
typedef struct ia3_row_batch {
    int n;
    ia3_row *rows[IA3_MAX_BATCH_ROWS];
} ia3_row_batch;

/* What the compute thread is given. Lists are linked through lane_next. */
typedef struct ia3_work {
    ia3_row_batch batch;
    ia3_request *trainings; /* new ones, oldest first */
    ia3_adapter **doomed;   /* malloc'd; device copies to free */
    int n_doomed;
} ia3_work;

typedef struct ia3_queue ia3_queue;

/* wake_fd: an eventfd. max_batch_tokens: the budget of a batch (ia3_score_row_tokens). */
ia3_queue *ia3_queue_create(int wake_fd, int max_batch_tokens, ia3_stats *stats);
void ia3_queue_free(ia3_queue *q);

/* I/O thread. */
void ia3_queue_publish(ia3_queue *q, ia3_request *r, uint32_t n_ready); /* SCORE: its first n_ready rows */
void ia3_queue_train(ia3_queue *q, ia3_request *r);
/* A queued request comes back as DONE before the next batch or step; one under way when that ends. */
void ia3_queue_cancel(ia3_queue *q, ia3_request *r);
void ia3_queue_doom(ia3_queue *q, ia3_adapter *adapter);
void ia3_queue_stop(ia3_queue *q);
ia3_event *ia3_queue_events(ia3_queue *q); /* oldest first; the caller frees each */

/* Compute thread. */
/* Waits for work (does not wait when `busy`: trainings are under way). Returns false when it must stop. */
bool ia3_queue_next(ia3_queue *q, bool busy, ia3_work *work);
void ia3_queue_post(ia3_queue *q, const ia3_event *event); /* copies it */
bool ia3_queue_stopping(ia3_queue *q);

#endif
