/*
 * catalog.h
 *     Prepared statements over the tables of the schema ia3, and running them as the owner of these tables.
 */
#ifndef IA3_CATALOG_H
#define IA3_CATALOG_H

#include "executor/spi.h"
#include "utils/jsonb.h"

#define IA3_MAX_QUERY_ARGS 12

/*
 * One statement of the extension. All names in `sql` are qualified, so the caller's search_path does not matter;
 * row security and privileges are the caller's. A statement is prepared once per backend and kept; PostgreSQL's
 * plan cache replans it when the role, the tables or the settings change.
 */
typedef struct Ia3Query {
    const char *sql;
    int nArgs;
    Oid argTypes[IA3_MAX_QUERY_ARGS];
    SPIPlanPtr plan; /* NULL until first used */
} Ia3Query;

/*
 * Runs the query inside SPI, to which the caller has connected, and returns the number of rows processed, which are
 * in SPI_tuptable. `nulls` is as SPI takes it, NULL if no value is null. A read-only query sees the snapshot of the
 * statement that called us. ERROR XX000 when SPI reports a failure. The text of the query means nothing to a user and
 * is removed from the context of an error.
 */
extern uint64 Ia3QueryRun(Ia3Query *query, Datum *values, const char *nulls, bool readOnly);

/* Column `column` (from 1) of the first row of SPI_tuptable; *isNull may not be NULL. */
extern Datum Ia3QueryColumn(int column, bool *isNull);
/* The same for a column of type jsonb, copied into the current memory context; NULL if it is NULL. */
extern Jsonb *Ia3QueryJsonb(int column);

/* The role that called us, while we act as the owner of the tables. */
typedef struct Ia3Identity {
    Oid user;
    int context;
} Ia3Identity;

/*
 * Between these two calls queries run as the owner of the tables, who is exempt from row security, so what the caller
 * may do has to be checked first. An error ends this state together with the (sub)transaction. ERROR 42704 if the
 * tables or the caller's role do not exist (any more).
 */
extern Ia3Identity Ia3BecomeTableOwner(void);
extern void Ia3BecomeAgain(Ia3Identity caller);

/*
 * Runs a function in a subtransaction that is rolled back at the end. So nothing remains of what it does in the
 * database, and the locks that it takes are released; memory that it allocates in the caller's context remains. For
 * look-ups before an engine works for a long time, which must not keep others from the tables. Not in parallel workers.
 */
extern void Ia3RunAndRollBack(void (*run)(void *arg), void *arg);

/* SPI_connect and SPI_finish, with ERROR XX000 when they fail. They switch memory contexts as those do. */
extern void Ia3SpiConnect(void);
extern void Ia3SpiFinish(void);

#endif
