/*
 * task.h
 *     Tasks and their versions as a caller sees them.
 */
#ifndef IA3_TASK_H
#define IA3_TASK_H

#include "extension/client/engine_info.h"
#include "extension/client/string_list.h"

#define IA3_MAX_TASK_NAME 200 /* bytes; also a constraint of ia3.task */

/* 'name' or 'name@version', taken apart. */
typedef struct Ia3TaskReference {
    char *name;
    int version; /* 0: not pinned, the active one */
} Ia3TaskReference;

/* One version of a task, ready to be asked. */
typedef struct Ia3Task {
    char *name;
    int version;
    char *label; /* "name@version", for messages */
    char *backbone;
    Ia3Strings *templates;
    Ia3Strings *choices; /* NULL: every call brings its own */
    uint8 digest[IA3_DIGEST_LEN];
    uint8 backboneDigest[IA3_DIGEST_LEN];
} Ia3Task;

/* ERROR 42602 when this cannot name a task: empty, too long, with '@' or control characters, or "none". */
extern void Ia3TaskCheckName(const char *name);

/* ERROR 22023 when what follows '@' is not a version, 42602 as above. */
extern Ia3TaskReference Ia3TaskParseReference(const char *reference);

/*
 * Looks a task up under the calling statement's snapshot. ERROR 42704 when the caller sees no such task or
 * version, 55000 when it has no active version. An unpinned reference takes template, choices and backbone
 * from ia3.task (so that a hand-made change counts), a pinned one from the version's own recipe.
 */
extern Ia3Task *Ia3TaskLookup(const char *reference);
/* The same, but NULL for what is not there; malformed references are still an ERROR. */
extern Ia3Task *Ia3TaskLookupIfExists(const char *reference);
/* The same with a new snapshot, for use after a lock was waited for. */
extern Ia3Task *Ia3TaskLookupLatest(const char *reference);

/*
 * ERROR 55000 when the engine of the task's backbone runs another one than it was trained on. Waits for an
 * engine that is loading.
 */
extern void Ia3TaskCheckBackbone(const Ia3Task *task);
/* The same for this engine. */
extern void Ia3TaskCheckEngine(const Ia3Task *task, const Ia3EngineInfo *engine);

/* The stored safetensors, a palloc'd bytea; ERROR 42704 when the version is gone. */
extern bytea *Ia3TaskFetchVectors(const Ia3Task *task);

/*
 * Sends the adapter to the engine of its backbone (PUT_ADAPTER) and waits for its OK. The connection must
 * have no request under way.
 */
extern void Ia3TaskPutAdapter(const Ia3Task *task);

#endif
