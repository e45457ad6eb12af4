/*
 * lanes.h
 *     The rows that wait to be computed, and the choice of those for the next batch. The queue's lock protects them.
 */
#ifndef IA3_LANES_H
#define IA3_LANES_H

#include "queue.h"

/* The requests of one client, oldest first. */
typedef struct ia3_lane {
    uint64_t client;
    ia3_request *first, *last;
    bool done;    /* it has no further row for the current batch */
    bool no_room; /* its next row does not fit in the current batch */
} ia3_lane;

typedef struct ia3_lanes {
    ia3_lane *lanes;
    int n, cap;
    int cursor[IA3_ROW_ANY + 1]; /* by `below`: the lane with which the next batch begins */
    uint64_t n_waiting;          /* number of rows that are ready and not yet taken */
    int max_tokens;
    double attention; /* what attention costs (ia3_model_attention_cost) */
} ia3_lanes;

void ia3_lanes_free(ia3_lanes *l);

/* Adds a request, or records that it has `more` additional ready rows; the caller has added these to r->n_ready. */
void ia3_lanes_add(ia3_lanes *l, ia3_request *r, uint32_t more);

/*
 * Fills a batch with rows of kinds from `from` up to but not including `below`. Takes them from all lanes in turn until
 * the token budget is used up, but at least one row if there is one. A row costs its tokens: those of the input, and the rows of the choices' trie or the
 * tokens that may be generated. A long input costs more, since attention grows with the square. A row that costs more
 * than the whole budget is a batch by itself. If the next row of a lane does not fit or is not of such a kind, the lane is
 * skipped for the rest of this batch; the first lane that did not fit begins the next one. Returns the number of rows taken.
 */
uint32_t ia3_lanes_fill(ia3_lanes *l, ia3_row_kind from, ia3_row_kind below, ia3_row_batch *batch);

/* Removes and returns one cancelled request; NULL if there is none. */
ia3_request *ia3_lanes_take_cancelled(ia3_lanes *l);

#endif
