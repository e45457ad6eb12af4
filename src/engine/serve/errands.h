/*
 * errands.h
 *     The thread that carries out MERGE (merger.h) and LINEAR (baseline.h), one at a time in the order of arrival. Reading
 *     and writing gigabytes, or fitting a model for seconds, would delay the I/O loop or the next batch, so neither of the
 *     other threads does it.
 */
#ifndef IA3_ERRANDS_H
#define IA3_ERRANDS_H

#include <time.h>

#include "serve.h"

typedef struct ia3_errands ia3_errands;

ia3_errands *ia3_errands_create(ia3_server *s);

/* Hands over a request (I/O thread). It comes back as DONE, with its error set if it failed. */
void ia3_errands_add(ia3_errands *m, ia3_request *r);

/*
 * Waits for the thread to end, at most until the time `until` (CLOCK_MONOTONIC); the caller has cancelled all requests.
 * False if the thread is still busy; then nothing that it uses may be freed.
 */
bool ia3_errands_stop(ia3_errands *m, const struct timespec *until);
void ia3_errands_free(ia3_errands *m); /* after a successful stop */

#endif
