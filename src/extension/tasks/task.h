/*
 * task.h
 *     Looking up tasks and their versions.
 */
#ifndef IA3_TASK_H
#define IA3_TASK_H

#include "extension/client/engine_info.h"
#include "extension/client/string_list.h"
#include "template.h"
#include "wording.h"

#define IA3_MAX_TASK_NAME 200 /* bytes; also a constraint of ia3.task */

/* A parsed 'name' or 'name@version'. */
typedef struct Ia3TaskReference {
    char *name;
    int version; /* 0: the active one */
} Ia3TaskReference;

/* A version of a task, with everything that predicting needs but the vectors. */
typedef struct Ia3Task {
    char *name;
    int version;
    char *label; /* "name@version", for messages */
    char *backbone;
    Ia3Strings *templates;
    Ia3Strings *choices; /* NULL: every call brings its own */
    Ia3Wording *wording; /* of the choices; NULL: they are scored as they are */
    char *method;
    char *methodOptions;          /* as they were recorded, JSON; empty: none */
    uint8 digest[IA3_DIGEST_LEN]; /* of vectors and options, by which requests name the adapter */
    uint8 backboneDigest[IA3_DIGEST_LEN];
    bytea *vectors; /* NULL: not fetched yet (Ia3TaskPutAdapter does it) */
    /* trained on rows as the types' output functions write them: versions whose recipe has no "rendering" */
    bool rowsAsWritten;
    double
        minProbability; /* ia3_predict returns no choice that is less likely, unless it is told to; 0: any */
    double
        temperature; /* what scores are divided by before they become probabilities; 0: the version is not calibrated */
    Ia3Truncate truncate;    /* IA3_TRUNCATE_END for versions whose recipe has no "truncate" */
    int recordedInputTokens; /* the maximum of an input that its recipe records; 0: none */
    bool fixed; /* looked up by Ia3TaskLookupVersion: neither settings nor ia3.task say how it is asked */
    bool multiLabel;   /* any number of the choices are right */
    Jsonb *thresholds; /* {label: probability} from which on a label is right; NULL: none */
} Ia3Task;

/* ERROR 42602 for a name that no task can have: empty, too long, with '@' or control characters, or "none". */
extern void Ia3TaskCheckName(const char *name);

/*
 * Parses a reference; the name is palloc'd. ERROR 22023 when what follows '@' is not a version number, 42602 as
 * above.
 */
extern Ia3TaskReference Ia3TaskParseReference(const char *reference);

/*
 * Looks up a task under the snapshot of the calling statement, in the current memory context. ERROR 42704 when the
 * caller sees no such task or version, 55000 when the task has no active version. Without a version in the reference,
 * template, choices, wording and backbone come from ia3.task, so changes that the owner has made there count; with one they
 * come from the version's own recipe.
 */
extern Ia3Task *Ia3TaskLookup(const char *reference);
/* The same, but returns NULL when there is no such task or version; malformed references are still an ERROR. */
extern Ia3Task *Ia3TaskLookupIfExists(const char *reference);
/*
 * The same, and fetches the vectors; holds no lock on the tables afterwards, nor needs the tables again. For work that
 * takes long. Not in parallel workers.
 */
extern Ia3Task *Ia3TaskLookupDetached(const char *reference);
/* The same as Ia3TaskLookup with a new snapshot, for use after waiting for a lock. */
extern Ia3Task *Ia3TaskLookupLatest(const char *reference);

/*
 * Looks up a version as it was stored: everything comes from its recipe, and of ia3.task nothing matters but who may
 * read the task. `templates` is NULL if the recipe has no backbone or no template, and `minProbability` is 0. The setting
 * row_security does not matter either, since dumps are restored without it. ERROR 42704 as above, 42602 for a name that no task can
 * have; with `missingOk` the result is NULL instead of 42704.
 */
extern Ia3Task *Ia3TaskLookupVersion(const char *name, int version, bool missingOk);

/* What an input of versions may have that do not say it: the setting's default, which never changes. */
#define IA3_UNRECORDED_INPUT_TOKENS 512
/* The maximum number of tokens of an input: ia3.max_input_tokens, or, of a fixed version, what was recorded with it. */
extern int Ia3TaskInputTokens(const Ia3Task *task);

/*
 * Waits for the engine of the task's backbone if it is loading. ERROR 55000 when it runs another backbone than the
 * one that the task was trained on, and as for Ia3GetEngineInfo.
 */
extern void Ia3TaskCheckBackbone(const Ia3Task *task);
/* The same for this engine. */
extern void Ia3TaskCheckEngine(const Ia3Task *task, const Ia3EngineInfo *engine);

/* What is scored for these choices, and how. ERROR as for Ia3WordingScored. */
extern Ia3ChoiceSet Ia3TaskScored(const Ia3Task *task, const Ia3Strings *choices);

/* The probability from which on a label of a multi-label task is right, unless a call says otherwise. */
#define IA3_DEFAULT_THRESHOLD 0.5
extern double Ia3TaskThreshold(const Ia3Task *task, const char *label);

/* ERROR 0A000: `what`, such as "ia3_compare", works only with tasks that have one right choice. The hint may be NULL. */
extern void Ia3TaskRefuseMultiLabel(const Ia3Task *task, const char *what, const char *hint);

/* The stored safetensors, a palloc'd bytea; ERROR 42704 when the version is gone. */
extern bytea *Ia3TaskFetchVectors(const Ia3Task *task);

/*
 * Sends the adapter to the engine of its backbone (PUT_ADAPTER) and waits for the reply. No other request may be in
 * progress on the connection. ERROR as for Ia3TaskFetchVectors, Ia3TaskCheckBackbone and Ia3ReplyWait.
 */
extern void Ia3TaskPutAdapter(const Ia3Task *task);

#endif
