/*
 * score_batch.h
 *     Computes batches of rows from all connections, on the compute thread.
 */
#ifndef IA3_SCORE_BATCH_H
#define IA3_SCORE_BATCH_H

#include "serve.h"

/* Computes one batch and posts requests that are finished as DONE. */
void ia3_run_batch(ia3_server *s, ia3_row_batch *batch);

/* Moves an adapter's values to the device if it is used for the first time. a may be NULL. */
bool ia3_adapter_to_device(ia3_server *s, ia3_cached_adapter *a, ia3_error *err);

#endif
