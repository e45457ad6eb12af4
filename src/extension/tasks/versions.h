/*
 * versions.h
 *     Changes of ia3.task and ia3.adapter: new versions, activation, removal.
 */
#ifndef IA3_VERSIONS_H
#define IA3_VERSIONS_H

#include "extension/ia3_compat.h"
#include "held_out.h"
#include "wording.h"

/* A version that is to be stored. */
typedef struct Ia3NewVersion {
    const char *task;
    const char *backbone;
    const Ia3Strings *templates;
    const Ia3Strings *choices; /* NULL: every call brings its own */
    const Ia3Wording *wording; /* of the choices; NULL: they are scored as they are */
    bool multiLabel;           /* any number of the choices are right */
    bytea *vectors;
    const uint8 *backboneDigest;
    int parentVersion;         /* 0: none */
    int examples;              /* 0: imported */
    Datum recipe;              /* jsonb */
    Datum metrics;             /* jsonb; 0: none */
    bytea *rowHashes;          /* of the rows that it was trained on, in a recipe with a query; NULL: none */
    double temperature;        /* 0: it is not calibrated */
    Datum thresholds;          /* jsonb, of a multi-label version {label: probability}; 0: none */
    const Ia3HeldOut *heldOut; /* what it is calibrated with; NULL: nothing */
    bool activate;
    int replaces; /* it becomes the active one, too, if this version is when it is stored; 0: none */
} Ia3NewVersion;

/*
 * Checks that the caller may store versions of the task: it has the privileges of its owner, or there is no such
 * task. Otherwise ERROR 42501 when the caller sees the task, 42710 when it does not: names are unique in a database,
 * so a name that another role uses is not available, and the error reveals no more than that. Row security hides such
 * a task, so without this check only the last step of a long training run would fail.
 */
extern void Ia3VersionsCheckOwner(const char *task);

/*
 * Checks that the name is free for a new task: ERROR as for Ia3VersionsCheckOwner, and 42710 when the caller has a task
 * of this name.
 */
extern void Ia3VersionsCheckNew(const char *task);
/* For a new task whose name another session has just taken: the errors of Ia3VersionsCheckOwner. */
extern void Ia3VersionsRaiseTaken(const char *task) pg_attribute_noreturn();

/* For a change that has affected no row: ERROR 42501 when the caller may only read the task, otherwise 42704. */
extern void Ia3VersionsRaiseNotOwned(const char *task) pg_attribute_noreturn();

/* The backbone of a task that the caller sees, palloc'd; NULL when there is none. */
extern char *Ia3VersionsBackbone(const char *task);

/*
 * Numbers and inserts the version, and returns the number. A new task is created for it, with the caller as owner;
 * with `activate` the task takes over the template, choices, wording and backbone. The task's row stays locked until the
 * transaction ends, so concurrent training runs get different versions. ERROR as for Ia3VersionsCheckOwner.
 */
extern int Ia3VersionsStore(const Ia3NewVersion *version);

/* Creates a task without versions, owned by the caller, unless there is one of this name, whoever owns it. */
extern void Ia3VersionsMakeTask(const char *task, const char *backbone, const Ia3Strings *templates);

/*
 * Makes a version the active one; template, choices, wording and backbone of the task become those of its recipe. ERROR 42704
 * when there is no such task or version, 42501 when the caller may only read it.
 */
extern void Ia3VersionsActivate(const char *task, int version);

/* Deletes a task with all its versions. ERROR as for Ia3VersionsRaiseNotOwned, and 2BP01 as for Ia3DependentsCheck. */
extern void Ia3VersionsDropTask(const char *task);
/* Deletes a version. ERROR 55000 for the active one, 2BP01 as for Ia3DependentsCheck, otherwise as for Ia3VersionsActivate. */
extern void Ia3VersionsDrop(const char *task, int version);

#endif
