/*
 * merger.h
 *     The thread that serves MERGE: reading and writing gigabytes belongs neither into the I/O loop nor between
 *     two batches. One merge at a time, in the order of arrival.
 */
#ifndef IA3_MERGER_H
#define IA3_MERGER_H

#include <time.h>

#include "serve.h"

typedef struct ia3_merger ia3_merger;

ia3_merger *ia3_merger_create(ia3_server *s);

/*
 * Makes a request of a MERGE frame. Takes ownership of frame->data in every case. NULL on error: IA3_E_PROTOCOL
 * (the connection must be closed), IA3_E_INVALID for a path that cannot be one.
 */
ia3_request *ia3_merger_parse(const ia3_frame *frame, ia3_error *err);

/* I/O thread: hands the request over; it comes back as DONE, with its error set if it failed. */
void ia3_merger_add(ia3_merger *m, ia3_request *r);

/*
 * Once every request is cancelled: waits for the thread until the time `until` (CLOCK_REALTIME); false when it
 * is still busy, and then nothing that it uses may be freed.
 */
bool ia3_merger_stop(ia3_merger *m, const struct timespec *until);
void ia3_merger_free(ia3_merger *m); /* after a successful stop */

#endif
