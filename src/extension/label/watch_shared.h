/*
 * watch_shared.h
 *     Deferred watches in shared memory: which databases need a worker, and about how many rows wait.
 *
 * All of it are hints. What is true stands in the tables ia3.watch_entry of the databases; the launcher looks into all of them when
 * the server has started.
 */
#ifndef IA3_LABEL_WATCH_SHARED_H
#define IA3_LABEL_WATCH_SHARED_H

#include "postgres.h"

#include "storage/latch.h"

#include "extension/clock.h"

/* Installs the hooks that reserve and set up the shared memory. Only from _PG_init while preloading. */
extern void Ia3WatchShmemInit(void);

/* --- for everybody --- */

/* Rows wait in the database: wakes its worker, or lets the launcher start one. Raises no ERROR; does nothing without shared memory. */
extern void Ia3WatchWake(Oid database);

/*
 * When the present transaction has committed: Ia3WatchWake for this database, or, with `all`, lets the launcher look into all databases,
 * since there may be a new one in which rows wait. A transaction that is prepared wakes nobody.
 */
extern void Ia3WatchWakeAtCommit(bool all);

/* Ends the worker of the database, if there is one, and lets no other start for some seconds. */
extern void Ia3WatchStop(Oid database);

/* Whether the launcher runs. */
extern bool Ia3WatchHasLauncher(void);

/*
 * Adds rows that a statement has queued to the number of those that wait, and sets *total to the sum. False if the number is not known
 * yet: it has to be counted and set. The number is not exact: it includes what transactions queue that have not committed, or never
 * will, until the worker counts again.
 */
extern bool Ia3WatchCountAdd(Oid relation, const char *label, int64 n, int64 *total);
extern void Ia3WatchCountSet(Oid relation, const char *label, int64 n);

/* Sets the numbers of all other watches of this database to 0. */
typedef struct Ia3WatchName {
    Oid relation;
    const char *label;
} Ia3WatchName;
extern void Ia3WatchCountClear(const Ia3WatchName *except, int n);

/* --- for the launcher --- */

/* This process is the launcher; it is forgotten when it exits. */
extern void Ia3WatchBeLauncher(void);

/* Whether all databases have to be looked at, since the last call. */
extern bool Ia3WatchTakeWakeAll(void);

/* Databases that a worker can be started for. */
#define IA3_WATCH_SLOTS 64
typedef struct Ia3WatchSlot {
    Oid database;      /* InvalidOid: the slot is free */
    bool started;      /* a worker has been registered with the postmaster */
    int pid;           /* of the worker; 0: none runs */
    Latch *latch;      /* of the worker */
    bool wake;         /* rows have been queued since the worker has looked */
    Ia3Time notBefore; /* no worker is started before that */
    int failures;      /* workers that have ended too early, one after the other */
} Ia3WatchSlot;
/* Copies the slots. */
extern void Ia3WatchSlots(Ia3WatchSlot slots[IA3_WATCH_SLOTS]);
/* Whether there is a slot for the database by now. */
extern bool Ia3WatchWant(Oid database);
extern void Ia3WatchStarted(int slot);
/* A worker could not be started, or has ended before it attached: later, again. */
extern void Ia3WatchPostpone(int slot, Ia3Time delay);
extern void Ia3WatchForget(int slot);

/* --- for a worker --- */

/* This process is the worker of its database; false if it has one. Until it detaches, its exit lets another one be started. */
extern bool Ia3WatchAttach(void);
/* Nothing waits any more; false, and the worker has to go on, if rows have been queued since Ia3WatchTakeWake. */
extern bool Ia3WatchDetach(void);
extern void Ia3WatchTakeWake(void);
extern bool Ia3WatchIsWoken(void);
/* It has done what it is there for. */
extern void Ia3WatchSucceeded(void);

#endif
