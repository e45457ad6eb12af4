/*
 * watch_queue.h
 *     The queue of deferred watches: the statements on ia3.watch_entry and ia3.watch_failure.
 *
 * All of these run inside SPI, with an active snapshot, and as the owner of the tables, which they become for the time. They
 * raise ERROR 42704 if the extension has been dropped.
 */
#ifndef IA3_LABEL_WATCH_QUEUE_H
#define IA3_LABEL_WATCH_QUEUE_H

#include "postgres.h"

#include "utils/timestamp.h"

/* Settings with which keys and labels are written and read, so that they are the same in every session: {name, value}, … */
#define IA3_WATCH_OUTPUT_SETTINGS                                                                            \
    {"DateStyle", "ISO"}, {"IntervalStyle", "postgres"}, {"extra_float_digits", "3"},                        \
        {"bytea_output", "hex"},                                                                             \
    {                                                                                                        \
        "lc_monetary", "C"                                                                                   \
    }

/* The n texts as a text[]; nulls may be NULL. */
extern Datum Ia3QueueTexts(Datum *values, const bool *nulls, int n);

/* --- for statements that change watched rows --- */

/*
 * Adds n entries: keys, which are texts of arrays of texts, with the labels that the rows have. ERROR 53400 if more than
 * ia3.watch_queue_limit rows of the watch would wait then. The worker is woken when the transaction commits.
 */
extern void Ia3QueueAdd(Oid relation, const char *label, int n, Datum *keys, Datum *labels,
                        const bool *noLabel);

/* Rows have other keys now: those that wait get an entry for the new one. All are arrays of n texts. */
extern void Ia3QueueMove(Oid relation, const char *label, int n, Datum *old, Datum *new, Datum *labels,
                         const bool *noLabel);

/* --- for the worker --- */

/* What waits for one watch. */
typedef struct Ia3QueuedWatch {
    Oid relation;
    char *label;
    int64 waiting;    /* entries */
    int64 due;        /* of these, how many can be tried now; 0 while the watch itself has to wait */
    TimestampTz next; /* when more are, infinity: never */
    int failures;     /* of the watch itself, one after the other */
} Ia3QueuedWatch;

/* All watches for which entries wait, in the current memory context; returns how many. */
extern int Ia3QueueList(Ia3QueuedWatch **watches);

/* A row that waits, with all its entries that are due. */
typedef struct Ia3QueuedRow {
    int nKey, nEntries;
    char **key;
    Datum keyText; /* as Ia3QueueForget has it */
    Datum entries; /* int8[] */
    char *label;   /* NULL: none */
} Ia3QueuedRow;

/*
 * The rows of the first entries of the watch after this one that are due, at most `limit` entries, in the current memory context.
 * Sets *last to the last of them. Returns how many rows there are; 0: there is no entry.
 */
extern int Ia3QueueClaim(Oid relation, const char *label, int64 after, int limit, Ia3QueuedRow **rows,
                         int64 *last);

/* Locks n entries until the transaction ends; false if some of them are gone, or others have locked them. */
extern bool Ia3QueueLock(Oid relation, const char *label, Datum entries, int n);

/* Removes them: their rows are done. */
extern void Ia3QueueDelete(Oid relation, const char *label, Datum entries);

/* Removes those entries that are set aside for rows which have been labelled, or are gone: n keys, as texts of arrays of texts. */
extern void Ia3QueueForget(Oid relation, const char *label, int n, Datum *keys);

/* Tries them later: somebody has locked the row. The longer it has waited, the longer it will. */
extern void Ia3QueueDelay(Oid relation, const char *label, Datum entries);

/* The row could not be labelled: it is tried later, or, after ia3.watch_attempts, set aside. Returns whether it was. */
extern bool Ia3QueueFail(Oid relation, const char *label, Datum entries, const char *error);

/* Removes all entries, and the failure, of a watch that has ended; returns how many entries. */
extern int64 Ia3QueueClear(Oid relation, const char *label);

/* The watch itself does not work, or, with NULL, works again. It is not tried before `due`. */
extern void Ia3QueueSetFailure(Oid relation, const char *label, int attempts, TimestampTz due,
                               const char *error);

#endif
