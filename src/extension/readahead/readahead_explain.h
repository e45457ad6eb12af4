/*
 * readahead_explain.h
 *     EXPLAIN of the read-ahead node, and adding up the counts of parallel workers.
 */
#ifndef IA3_READAHEAD_EXPLAIN_H
#define IA3_READAHEAD_EXPLAIN_H

#include "access/parallel.h"
#include "nodes/extensible.h"

#include "readahead_exec.h"

/* Adds what this process has counted to the shared counts, if there are any. */
extern void Ia3ReadAheadPublish(Ia3ReadAheadState *state);
/* The methods of CustomExecMethods that concern EXPLAIN and parallel plans. */
extern void Ia3ReadAheadExplain(CustomScanState *node, List *ancestors, ExplainState *es);
extern Size Ia3ReadAheadEstimateDSM(CustomScanState *node, ParallelContext *pcxt);
extern void Ia3ReadAheadInitializeDSM(CustomScanState *node, ParallelContext *pcxt, void *coordinate);
extern void Ia3ReadAheadReInitializeDSM(CustomScanState *node, ParallelContext *pcxt, void *coordinate);
extern void Ia3ReadAheadInitializeWorker(CustomScanState *node, shm_toc *toc, void *coordinate);
extern void Ia3ReadAheadShutdown(CustomScanState *node);

#endif
