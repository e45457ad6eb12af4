/*
 * queue.h
 *     The queue between the I/O thread and the compute thread: work in one direction, events in the other.
 *
 * One mutex protects everything here; neither thread holds it while it computes or uses a socket. The compute thread
 * sleeps on a condition variable; the I/O thread is woken through an eventfd.
 *
 * Rows wait in lanes, one per client, and a batch takes one row from each lane in turn. So a client that requests a
 * million rows delays another client's single row only by the batch that is under way, and by one more if a row of
 * each client does not fit in one batch. A short row does not even wait for longer work to end (compute_thread.c), and a
 * client that requests few rows does not wait for a full batch of others to end.
 */
#ifndef IA3_QUEUE_H
#define IA3_QUEUE_H

#include "request.h"

/* To the I/O thread, from the compute thread and the threads for merging and for long texts. */
typedef enum ia3_event_kind {
    IA3_EVENT_LOADING,  /* the backbone is loaded to `percent` */
    IA3_EVENT_READY,    /* from now on the server's model, tokenizer and digest may be used */
    IA3_EVENT_FAILED,   /* the backbone could not be loaded, because of `error` */
    IA3_EVENT_PROGRESS, /* progress of a training request */
    IA3_EVENT_DONE,     /* the request is finished and belongs to the I/O thread again */
    IA3_EVENT_PREPARED, /* a long text of the request is tokenized (long_texts.h) */
    IA3_EVENT_SHRINK /* the device is short of memory: unused adapters are evicted, then ia3_queue_shrunk called */
} ia3_event_kind;

typedef struct ia3_event {
    struct ia3_event *next;
    ia3_event_kind kind;
    ia3_request *request;
    int percent;
    ia3_error error;
    uint32_t step, steps;
    double loss, examples_per_second, seconds_left;
} ia3_event;

/*
 * Rows differ in how long they keep the compute thread busy; the kinds are in this order. Work on rows of one kind gives
 * way to rows of the kinds before it.
 */
typedef enum ia3_row_kind {
    IA3_ROW_QUICK, /* short, and its client waits for a few rows only */
    IA3_ROW_SHORT,
    IA3_ROW_LONG, /* costs more than the budget of a batch */
    IA3_ROW_TEXT, /* GENERATE: a pass for each token */
    IA3_ROW_ANY   /* not a kind, but the upper bound that admits all of them */
} ia3_row_kind;

/* The rows of one batch. */
#define IA3_MAX_BATCH_ROWS 4096
typedef struct ia3_row_batch {
    int n;
    ia3_row_kind kind; /* the highest of the kinds of its rows */
    ia3_row *rows[IA3_MAX_BATCH_ROWS];
} ia3_row_batch;

/* Work for the compute thread. Lists are linked through lane_next. */
typedef struct ia3_work {
    ia3_row_batch batch;
    ia3_request *trainings; /* new training requests, the oldest first */
    ia3_adapter **doomed;   /* evicted adapters to be freed on the device; malloc'd array */
    int n_doomed;
} ia3_work;

typedef struct ia3_queue ia3_queue;

/* wake_fd: the I/O thread's eventfd. max_batch_tokens: the budget of a batch (see ia3_lanes_fill). */
ia3_queue *ia3_queue_create(int wake_fd, int max_batch_tokens, ia3_stats *stats);
void ia3_queue_free(ia3_queue *q);

/* The following functions are for the I/O thread. */
/* Makes the first n_ready rows of a SCORE or GENERATE request available to batches. */
void ia3_queue_publish(ia3_queue *q, ia3_request *r, uint32_t n_ready);
void ia3_queue_train(ia3_queue *q, ia3_request *r);
/* A request that waits comes back as DONE before the next batch or step, one being computed after the current one. */
void ia3_queue_cancel(ia3_queue *q, ia3_request *r);
void ia3_queue_doom(ia3_queue *q, ia3_adapter *adapter); /* lets the compute thread free it */
void ia3_queue_shrunk(ia3_queue *q);
void ia3_queue_stop(ia3_queue *q);
ia3_event *ia3_queue_events(ia3_queue *q); /* takes all events, the oldest first; the caller frees each */

/* The following functions are for the compute thread. */
/*
 * Waits for work; if `busy` (training runs are in progress) it does not wait. Quick rows are a batch of their own: the next
 * one if `quick`, else when there are no others. Returns false when it must stop.
 */
bool ia3_queue_next(ia3_queue *q, bool busy, bool quick, ia3_work *work);
/*
 * For work that gives way: fills `batch` with waiting rows of kinds from `from` up to but not including `below` and does
 * not wait. The batch may be empty. Cancelled requests that had not begun are sent back.
 */
void ia3_queue_give_way(ia3_queue *q, ia3_row_kind from, ia3_row_kind below, ia3_row_batch *batch);
/* Marks rows of a batch as done; a request whose rows are all done goes back as DONE, so the rows must not be used again. */
void ia3_queue_hand_back(ia3_queue *q, ia3_row **rows, int n);
/* What attention costs (ia3_model_attention_cost); 0 before this is known. */
void ia3_queue_set_attention_cost(ia3_queue *q, double cost);
void ia3_queue_post(ia3_queue *q, const ia3_event *event); /* copies the event */
bool ia3_queue_stopping(ia3_queue *q);
/*
 * Lets the I/O thread evict all adapters that no request uses, and waits for it, but at most `seconds`; then there may be
 * adapters to be freed on the device. The I/O thread never waits for the compute thread, except when the engine stops.
 */
void ia3_queue_shrink(ia3_queue *q, double seconds);
/* Takes the adapters to be freed on the device; a malloc'd array [*n]. */
ia3_adapter **ia3_queue_take_doomed(ia3_queue *q, int *n);

/* Forgets all work. For the I/O thread, after the compute thread has ended and before requests are freed. */
void ia3_queue_clear(ia3_queue *q);

#endif
