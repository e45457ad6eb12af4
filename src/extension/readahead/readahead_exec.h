/*
 * readahead_exec.h
 *     Executing the read-ahead node.
 */
#ifndef IA3_READAHEAD_EXEC_H
#define IA3_READAHEAD_EXEC_H

#include "nodes/execnodes.h"
#include "nodes/extensible.h"

#include "extension/predict/ask.h"
#include "extension/predict/call.h"
#include "extension/predict/result_cache.h"
#include "readahead_rewrite.h"

#define IA3_READAHEAD_NAME "Ia3ReadAhead"

extern const CustomScanMethods Ia3ReadAheadScanMethods;

typedef struct Ia3Site {
    Ia3CallForm form;
    bool nullChoices; /* NULL as its third argument stands for the task's choices */
    bool nested;      /* its arguments contain other calls, whose answers are needed first */
    List *guards;     /* ExprStates */
    List *args;
    bool isNewValue[IA3_MAX_CALL_ARGS]; /* evaluating it allocates memory */
} Ia3Site;

typedef struct Ia3Batch {
    MemoryContext context; /* of everything below but `rows` itself */
    uint64 number;
    int nRows;
    int nextRow; /* to be returned next */
    MinimalTuple *rows;
    ItemPointerData *tids; /* of the rows; only if there is a positionScan */
    Ia3Asking *asking;     /* NULL: nothing in progress */
} Ia3Batch;

typedef struct Ia3SharedCounts Ia3SharedCounts;

typedef struct Ia3ReadAheadState {
    CustomScanState css;
    Ia3ReadAheadPlan plan;
    Ia3Site *sites;
    ExprState *limitCount, *limitOffset;
    bool enabled; /* ia3.enable_batching when the query started */

    Ia3Batch batches[2]; /* one is being returned, one is read while the engine is busy */
    Ia3Batch *current, *next;
    TupleTableSlot *rowSlot; /* deforms stored rows */
    int capacity;            /* rows of a full batch */
    int size;                /* rows of the next batch if the consumer may stop */
    bool started, collected;
    bool backward;   /* the direction in which the batches have been read */
    bool childDone;  /* the child is beyond its last row in that direction */
    bool ended;      /* and so is the consumer */
    int64 position;  /* the number of the row that the child is at: 0 before the first */
    uint64 nBatches; /* read so far, which numbers them */
    int64 bound;     /* the consumer will read at most this many rows; -1: no limit */
    /* the scan that the child's rows come from, one by one, so that a cursor's current row can be told; or NULL */
    ScanState *positionScan;
    Ia3ResultCache *cache;

    Ia3AskCounts counts;
    Ia3SharedCounts *shared; /* of the leader and the workers; NULL outside parallel plans */
} Ia3ReadAheadState;

#endif
