/*
 * watch_batch.h
 *     Labelling the rows that wait for a deferred watch, one batch at a time.
 */
#ifndef IA3_LABEL_WATCH_BATCH_H
#define IA3_LABEL_WATCH_BATCH_H

#include "postgres.h"

#include "watch_queue.h"

/* What has become of a batch. */
typedef enum Ia3BatchResult {
    IA3_BATCH_EMPTY,  /* nothing was due */
    IA3_BATCH_DONE,   /* done; there may be more */
    IA3_BATCH_STOPPED /* the watch does not work at present, which has been recorded */
} Ia3BatchResult;

/*
 * Labels the rows of the next entries after *after, and moves *after on. Outside of a transaction; runs several. Raises no ERROR for
 * anything that has to do with the watch or its rows.
 */
extern Ia3BatchResult Ia3WatchBatch(const Ia3QueuedWatch *watch, int64 *after);

#endif
