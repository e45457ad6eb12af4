/*
 * lanes.h
 *     Rows waiting to be scored, and which of them make the next batch. Guarded by the queue's lock.
 */
#ifndef IA3_BATCHER_H
#define IA3_BATCHER_H

#include "queue.h"

/* The requests of one client, oldest first. */
typedef struct ia3_lane {
    uint64_t client;
    ia3_request *first, *last;
    bool full; /* its next row did not fit into the batch being filled */
} ia3_lane;

typedef struct ia3_lanes {
    ia3_lane *lanes;
    int n, cap;
    int cursor;         /* the lane that begins the next batch */
    uint64_t n_waiting; /* rows ready and not taken */
    int max_tokens;
} ia3_lanes;

void ia3_lanes_free(ia3_lanes *l);

/* Enters a request, or takes note that one that is in has `more` ready rows (r->n_ready was raised by that). */
void ia3_lanes_add(ia3_lanes *l, ia3_request *r, uint32_t more);

/*
 * Takes rows in turn from all lanes until the token budget is reached, at least one if any waits. A lane whose
 * next row does not fit is left alone for this batch and begins the next one. Returns the number taken.
 */
uint32_t ia3_lanes_fill(ia3_lanes *l, ia3_row_batch *batch);

/* Removes one cancelled request, or NULL. */
ia3_request *ia3_lanes_take_cancelled(ia3_lanes *l);

#endif
