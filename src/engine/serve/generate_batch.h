/*
 * generate_batch.h
 *     Generates the texts of a batch, on the compute thread.
 */
#ifndef IA3_GENERATE_BATCH_H
#define IA3_GENERATE_BATCH_H

#include "serve.h"

/* Generates text for n rows of GENERATE requests; each gets its text or an error. */
void ia3_run_generation(ia3_server *s, ia3_row **rows, int n);

#endif
