/*
 * generate_batch.h
 *     Generating the texts of a batch, on the compute thread.
 */
#ifndef IA3_GENERATE_BATCH_H
#define IA3_GENERATE_BATCH_H

#include "serve.h"

/* The rows of a batch that are to be continued rather than scored. Each gets its text or its error. */
void ia3_run_generation(ia3_server *s, ia3_row **rows, int n);

#endif
