/*
 * readahead_explain.c
 *     EXPLAIN of the read-ahead node, and adding up the counts of parallel workers.
 *
 * The leader and the workers add their counts to a struct in the query's dynamic shared memory; it consists of
 * atomics and needs no lock. The segment is freed before EXPLAIN is printed, so the leader copies the sums at
 * shutdown.
 */
#include "postgres.h"

#include "access/parallel.h"
#include "port/atomics.h"
#include "utils/ruleutils.h"

#include "readahead_explain.h"
#include "extension/ia3_compat_planner.h"

struct Ia3SharedCounts {
    pg_atomic_uint64 batches, rows, largest, flops;
};

void
Ia3ReadAheadPublish(Ia3ReadAheadState *state)
{
    Ia3SharedCounts *shared = state->shared;
    uint64 largest;

    if (shared == NULL)
        return;
    pg_atomic_fetch_add_u64(&shared->batches, state->counts.batches);
    pg_atomic_fetch_add_u64(&shared->rows, state->counts.rows);
    pg_atomic_fetch_add_u64(&shared->flops, state->counts.flops);
    largest = pg_atomic_read_u64(&shared->largest);
    while (state->counts.largest > largest &&
           !pg_atomic_compare_exchange_u64(&shared->largest, &largest, state->counts.largest))
        ;
    memset(&state->counts, 0, sizeof state->counts);
}

Size
Ia3ReadAheadEstimateDSM(CustomScanState *node, ParallelContext *pcxt)
{
    return sizeof(Ia3SharedCounts);
}

void
Ia3ReadAheadInitializeDSM(CustomScanState *node, ParallelContext *pcxt, void *coordinate)
{
    Ia3ReadAheadState *state = (Ia3ReadAheadState *) node;

    state->shared = coordinate;
    pg_atomic_init_u64(&state->shared->batches, 0);
    pg_atomic_init_u64(&state->shared->rows, 0);
    pg_atomic_init_u64(&state->shared->largest, 0);
    pg_atomic_init_u64(&state->shared->flops, 0);
    Ia3ReadAheadPublish(state);
}

/* The plan runs again with the same segment, so counting continues. */
void
Ia3ReadAheadReInitializeDSM(CustomScanState *node, ParallelContext *pcxt, void *coordinate)
{
    Ia3ReadAheadState *state = (Ia3ReadAheadState *) node;

    if (state->shared == NULL) /* since the shutdown, ours are the sums, which the segment still has */
        memset(&state->counts, 0, sizeof state->counts);
    state->shared = coordinate;
}

void
Ia3ReadAheadInitializeWorker(CustomScanState *node, shm_toc *toc, void *coordinate)
{
    ((Ia3ReadAheadState *) node)->shared = coordinate;
}

void
Ia3ReadAheadShutdown(CustomScanState *node)
{
    Ia3ReadAheadState *state = (Ia3ReadAheadState *) node;

    if (state->shared == NULL)
        return;
    Ia3ReadAheadPublish(state);
    state->counts.batches = pg_atomic_read_u64(&state->shared->batches);
    state->counts.rows = pg_atomic_read_u64(&state->shared->rows);
    state->counts.largest = pg_atomic_read_u64(&state->shared->largest);
    state->counts.flops = pg_atomic_read_u64(&state->shared->flops);
    state->shared = NULL;
}

void
Ia3ReadAheadExplain(CustomScanState *node, List *ancestors, ExplainState *es)
{
    Ia3ReadAheadState *state = (Ia3ReadAheadState *) node;
    CustomScan *scan = (CustomScan *) node->ss.ps.plan;
    List *context = set_deparse_context_plan(es->deparse_cxt, (Plan *) scan, ancestors);
    bool useprefix = es->verbose || list_length(es->rtable) > 1;
    List *calls = NIL;

    for (int i = 0; i < state->plan.nSites; i++) {
        List *site = list_nth(scan->custom_exprs, i);

        calls = lappend(calls, deparse_expression(linitial(site), context, useprefix, false));
    }
    ExplainPropertyList("Batched Calls", calls, es);
    if (es->analyze) {
        ExplainPropertyUInteger("Batches", NULL, state->counts.batches, es);
        ExplainPropertyUInteger("Batched Rows", NULL, state->counts.rows, es);
        ExplainPropertyUInteger("Largest Batch", NULL, state->counts.largest, es);
        ExplainPropertyUInteger("FLOPs", NULL, state->counts.flops, es);
    }
}
