/*
 * score_batch.h
 *     Scoring the rows of a batch, on the compute thread.
 */
#ifndef IA3_SCORE_BATCH_H
#define IA3_SCORE_BATCH_H

#include "serve.h"

/* Each row gets its scores or its error. Reorders the rows. */
void ia3_score_batch(ia3_server *s, ia3_row_batch *batch);

#endif
