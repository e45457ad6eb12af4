/*
 * catalog.h
 *     Prepared statements over ia3.task and ia3.adapter.
 */
#ifndef IA3_CATALOG_H
#define IA3_CATALOG_H

#include "executor/spi.h"

#define IA3_MAX_QUERY_ARGS 10

/*
 * One statement of the extension. Names in `sql` are qualified throughout, so the caller's search_path does
 * not matter; row security and privileges are the caller's. Prepared once per backend and kept; the plan
 * cache plans again when the role, the tables or the settings change.
 */
typedef struct Ia3Query {
    const char *sql;
    int nArgs;
    Oid argTypes[IA3_MAX_QUERY_ARGS];
    SPIPlanPtr plan; /* NULL until first used */
} Ia3Query;

/*
 * Runs the query inside SPI (the caller has connected) and checks that it did what its kind does; returns
 * the number of rows processed, which are in SPI_tuptable. `nulls` as SPI takes it, NULL for none. A
 * read-only query sees the snapshot of the statement that called us.
 */
extern uint64 Ia3QueryRun(Ia3Query *query, Datum *values, const char *nulls, bool readOnly);

/* Column `column` (from 1) of the first row of SPI_tuptable; *isNull may not be NULL. */
extern Datum Ia3QueryColumn(int column, bool *isNull);

/* Who called, while we act as the owner of the tables. */
typedef struct Ia3Identity {
    Oid user;
    int context;
} Ia3Identity;

/*
 * Between the two, queries run as the owner of the tables, whom row security does not bind: what the caller may do
 * has to be checked before. An error ends it together with the (sub)transaction.
 */
extern Ia3Identity Ia3BecomeTableOwner(void);
extern void Ia3BecomeAgain(Ia3Identity caller);

extern void Ia3SpiConnect(void);
extern void Ia3SpiFinish(void);

#endif
