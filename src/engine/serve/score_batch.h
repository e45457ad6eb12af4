/*
 * score_batch.h
 *     Batches of rows from all connections, on the compute thread.
 */
#ifndef IA3_SCORE_BATCH_H
#define IA3_SCORE_BATCH_H

#include "serve.h"

/* Computes one batch, hands finished requests back. */
void ia3_run_batch(ia3_server *s, ia3_row_batch *batch);

/* Moves the vectors of an adapter (NULL: nothing to do) to the device when it is used for the first time. */
bool ia3_adapter_to_device(ia3_server *s, ia3_cached_adapter *a, ia3_error *err);

#endif
