/*
 * label_watch.h
 *     Watched tables: what a watch is, in the arguments of its triggers, and the statement that reads the rows to be labelled.
 *
 * A watch is two statement-level triggers, AFTER INSERT and AFTER UPDATE, of the function ia3.watch_changes(), with the same
 * arguments. Each argument is "name=value"; there are no OIDs, so that a dump can be restored anywhere.
 */
#ifndef IA3_LABEL_WATCH_H
#define IA3_LABEL_WATCH_H

#include "postgres.h"

#include "commands/trigger.h"
#include "utils/rel.h"
#include "utils/reltrigger.h"

#include "label_rows.h"
#include "label_target.h"

/* The names of the transition tables. */
#define IA3_WATCH_OLD "ia3_old"
#define IA3_WATCH_NEW "ia3_new"

typedef struct Ia3Watch {
    Ia3LabelTarget target; /* with expressions as Ia3ExpressionQualify writes them */
    char *task;            /* 'name' or 'name@version' */
    char *searchPath;      /* when ia3_watch was called, for the triggers that fire when labels are stored */
    char *mode;            /* NULL: direct; "deferred" */
} Ia3Watch;

/* Whether rows are labelled by a worker, later. */
extern bool Ia3WatchIsDeferred(const Ia3Watch *watch);

/* The OID of ia3.watch_changes(), InvalidOid if it does not exist. */
extern Oid Ia3WatchFunction(void);

/* The arguments, as a list of literals for CREATE TRIGGER. */
extern char *Ia3WatchWrite(const Ia3Watch *watch);

/* Reads the arguments of a trigger of the relation. ERROR 22023 if they are none that Ia3WatchWrite has written. */
extern Ia3Watch *Ia3WatchRead(Relation relation, const Trigger *trigger);

/* ERROR 42501 unless the caller owns the relation that is the first argument; 22004 if it is NULL. */
extern void Ia3WatchCheckOwner(FunctionCallInfo fcinfo);

/* The watch of a column of the relation, as one of its triggers has it; NULL if it is not watched. */
extern Ia3Watch *Ia3WatchFind(Relation relation, const char *label);

/* How rows before and after an UPDATE are matched. */
typedef enum Ia3WatchPairs {
    IA3_WATCH_BY_KEY,
    IA3_WATCH_BY_ORDER, /* the statement has changed keys, and the transition tables have their rows in the same order */
    IA3_WATCH_UNPAIRED,  /* it cannot be known */
    IA3_WATCH_UNCOMPARED /* by key, and the expressions are not to be evaluated */
} Ia3WatchPairs;

/* The columns of a key by which rows of a table are found again, and the operators that compare them, qualified. */
typedef struct Ia3WatchKey {
    int n;
    char **columns; /* quoted */
    char **equals;
    char **types; /* of the columns, qualified */
} Ia3WatchKey;

/*
 * The primary key of the relation, or else one of its unique indexes on columns that are NOT NULL. ERROR 55000 if it has neither.
 */
extern Ia3WatchKey *Ia3WatchFindKey(Relation relation);

/*
 * The statement that reads the inserted rows that have to be labelled, from the table and the transition table IA3_WATCH_NEW: as
 * (tableoid, ctid, input), or for a deferred watch as (key, label), which are the texts of an array of texts and of a value.
 * `compare` is false if the expressions are not to be evaluated.
 */
extern char *Ia3WatchInserted(Relation relation, const Ia3Watch *watch, const Ia3WatchKey *key, bool compare);

/* The same for updated rows, from the table and both transition tables. */
extern char *Ia3WatchUpdated(Relation relation, const Ia3Watch *watch, const Ia3WatchKey *key,
                             Ia3WatchPairs pairs);

/*
 * The statement that reads the rows which the entries of a deferred watch mean, as (tableoid, ctid, input, entry). Its parameters are
 * arrays with an element for each entry: int4[], its number; text[], its label; and for each column of the key its values, text[]. Rows whose
 * label is another one by now are left out, unless they have none. With `lock` the rows are locked, and those that others have
 * locked are left out.
 */
extern char *Ia3WatchQueued(Relation relation, const Ia3Watch *watch, const Ia3WatchKey *key, bool lock);

/* For rows whose key an UPDATE has changed: (old key, new key, label), as Ia3WatchUpdated has them. */
extern char *Ia3WatchMoved(const Ia3Watch *watch, const Ia3WatchKey *key);

/* A statement that returns two booleans: whether an UPDATE has changed keys, and whether the transition tables have as many rows. */
extern char *Ia3WatchKeysChanged(const Ia3WatchKey *key);

/* --- deferred watches --- */

/* What the trigger of a deferred watch does, inside SPI that knows the transition tables: queues the rows that have to be labelled. */
extern void Ia3WatchEnqueue(const TriggerData *data, const Ia3Watch *watch);

/* How rows before and after the present UPDATE are matched, inside the same SPI. */
extern Ia3WatchPairs Ia3WatchFindPairs(const Ia3WatchKey *key);

/* ERROR 0A000 if other tables inherit from the relation: transition tables have their rows, too, which do not share its key. */
extern void Ia3WatchCheckChildren(Relation relation);

/* --- acting as the owner of the table --- */

/*
 * Between these two calls the current role is the owner of the relation, in a security-restricted operation, with a search_path
 * without other schemas than pg_catalog: nothing that the expressions do depends on who has changed the table, and they can do to
 * nobody what their owner could not. An error ends this state together with the (sub)transaction.
 */
typedef struct Ia3WatchCaller {
    Oid user;
    int context;
    int nest;
} Ia3WatchCaller;

extern Ia3WatchCaller Ia3WatchBecomeOwner(Relation relation);

/*
 * The same for changing the table: not security-restricted, because deferred triggers may be queued then, and with the watch's own
 * search_path, because other triggers of the table may need one, which must not be the caller's.
 */
extern Ia3WatchCaller Ia3WatchBecomeOwnerToStore(Relation relation, const Ia3Watch *watch);
extern void Ia3WatchBecomeCaller(Ia3WatchCaller caller);

/* The same as Ia3WatchBecomeOwner and Ia3WatchBecomeOwnerToStore for a worker, whose own rights are unlimited: always restricted. */
extern Ia3WatchCaller Ia3WatchBecomeRole(Oid role, const char *searchPath);

/* Stores labels with a statement of Ia3LabelPrepareUpdate. The triggers of the watch ignore what it changes. */
extern void Ia3WatchStore(Relation relation, const Ia3Watch *watch, SPIPlanPtr update,
                          const Ia3LabelAnswers *answers);

#endif
