/*
 * merger.h
 *     The thread that handles MERGE requests, one at a time in the order of arrival. Reading and writing gigabytes
 *     would delay the I/O loop or the next batch, so neither of the other threads does it.
 */
#ifndef IA3_MERGER_H
#define IA3_MERGER_H

#include <time.h>

#include "serve.h"

typedef struct ia3_merger ia3_merger;

ia3_merger *ia3_merger_create(ia3_server *s);

/*
 * Parses a MERGE frame. Takes ownership of frame->data even on failure. NULL on error: IA3_E_PROTOCOL (the connection
 * must be closed), or IA3_E_INVALID for an impossible path.
 */
ia3_request *ia3_merger_parse(const ia3_frame *frame, ia3_error *err);

/* Hands over a request (I/O thread). It comes back as DONE, with its error set if it failed. */
void ia3_merger_add(ia3_merger *m, ia3_request *r);

/*
 * Waits for the thread to end, at most until the time `until` (CLOCK_MONOTONIC); the caller has cancelled all requests.
 * False if the thread is still busy; then nothing that it uses may be freed.
 */
bool ia3_merger_stop(ia3_merger *m, const struct timespec *until);
void ia3_merger_free(ia3_merger *m); /* after a successful stop */

#endif
