/*
 * readahead.h
 *     Sending the rows of a plan to the engine in batches: the parts of the read-ahead node and how they fit.
 *
 * ia3_classify, ia3_predict and ia3_generate are called by ordinary executor nodes, row by row. After planning we put a
 * custom scan, Ia3ReadAhead, below every node that calls them. It reads some rows of its child, evaluates the arguments that
 * the calls above it will have, sends all of these calls to the engine at once and keeps the answers in a result
 * cache (result_cache.h); then it returns the rows unchanged. The functions are still called for each row and find
 * their answers in the cache. A call that finds none goes to the engine by itself, so a missing or useless read-ahead
 * costs time, but never changes a result.
 *
 *     readahead_plan.c       the planner hook, and the walk over the finished plan that decides where nodes go
 *     readahead_functions.c  which functions are ours
 *     readahead_sites.c      finding calls in expressions, and when their arguments may be computed early
 *     readahead_safety.c     which subtrees and expressions may run ahead of their consumer
 *     readahead_rewrite.c    inserting the node between two nodes, or on top of one that is split
 *     readahead_exec.c       executing the node: reading and returning batches, rescans
 *     readahead_run.c        whether a query is run to its end
 *     readahead_position.c   which row of a table a cursor is at
 *     readahead_explain.c    EXPLAIN, and adding up the counts of parallel workers
 */
#ifndef IA3_READAHEAD_H
#define IA3_READAHEAD_H

/* Registers the node and installs the hooks of planner and executor; called by _PG_init. */
extern void Ia3ReadAheadInit(void);

#endif
