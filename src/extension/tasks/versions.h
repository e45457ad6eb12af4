/*
 * versions.h
 *     Writing ia3.task and ia3.adapter: new versions, activation, removal.
 */
#ifndef IA3_VERSIONS_H
#define IA3_VERSIONS_H

#include "extension/ia3_compat.h"
#include "task.h"

/* A version about to be stored. */
typedef struct Ia3NewVersion {
    const char *task;
    const char *backbone;
    const Ia3Strings *templates;
    const Ia3Strings *choices; /* NULL: every call brings its own */
    bytea *vectors;
    const uint8 *backboneDigest;
    int parentVersion; /* 0: none */
    int examples;      /* 0: it was not trained here */
    Datum recipe;      /* jsonb */
    Datum metrics;     /* jsonb; 0: none */
    bool activate;
} Ia3NewVersion;

/*
 * Whether the caller may store versions of the task: it has the privileges of its owner, or there is no such task. Else
 * ERROR 42501 when it sees the task, 42710 when it does not: names are unique in a database, so a name that
 * somebody else uses cannot be had, and that is all that the error tells. Row security hides such a task, so
 * without this only the last step of a long training would find out.
 */
extern void Ia3VersionsCheckOwner(const char *task);

/* After a change reached no row: ERROR 42501 when the caller may only read the task, else 42704. */
extern void Ia3VersionsRaiseNotOwned(const char *task) pg_attribute_noreturn();

/* The backbone of a task that the caller sees, NULL when there is none. */
extern char *Ia3VersionsBackbone(const char *task);

/*
 * Numbers and inserts the version, making the task if it is new (the caller owns it); with `activate` the task
 * takes its template, choices and backbone. The task's row stays locked until the transaction ends, so
 * concurrent trainings get different versions. Returns the number.
 */
extern int Ia3VersionsStore(const Ia3NewVersion *version);

/*
 * Makes a task without versions, owned by the caller, unless there is one. ERROR as for Ia3VersionsCheckOwner.
 */
extern void Ia3VersionsMakeTask(const char *task, const char *backbone, const Ia3Strings *templates);

/* Activation takes the template, choices and backbone from the version's recipe. ERROR 42704 as in task.h. */
extern void Ia3VersionsActivate(const char *task, int version);

extern void Ia3VersionsDropTask(const char *task);
/* ERROR 55000 for the active version. */
extern void Ia3VersionsDrop(const char *task, int version);

#endif
