/*
 * readahead_run.h
 *     Whether a query is run to its end.
 */
#ifndef IA3_READAHEAD_RUN_H
#define IA3_READAHEAD_RUN_H

/* Installs the hook of the executor; called by Ia3ReadAheadInit. */
extern void Ia3RunInit(void);

/*
 * Whether the current run of the executor has a row limit of its own, as for FETCH, a driver's fetch size, loops and
 * SELECT INTO in PL/pgSQL, and functions in SQL. The plan does not tell.
 */
extern bool Ia3RunMayStop(void);

#endif
