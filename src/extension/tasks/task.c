/*
 * task.c
 *     Looking up tasks and their versions.
 *
 * Everything is read through SPI as the caller, so row security decides which tasks there are. Nothing is locked: a
 * version is immutable, and one that is dropped while we use it stays visible to our snapshot.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "mb/pg_wchar.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"

#include "task.h"
#include "catalog.h"
#include "extension/client/client.h"
#include "extension/client/text.h"
#include "extension/guc.h"

/*
 * $1 is the task, $2 the version, or NULL for the active one; $4 is the most tokens that any input can have. Recipes of imported versions may lack the fields. The
 * query avoids IS DISTINCT FROM and CASE x WHEN, because these look for their operator in the search_path.
 */
#define IN_RECIPE(field, type)                                                                               \
    "COALESCE(pg_catalog.jsonb_typeof(a.recipe OPERATOR(pg_catalog.->) '" field "')"                         \
    " OPERATOR(pg_catalog.=) '" type "', false)"
#define FROM_RECIPE(field, type) "$2 IS NOT NULL AND " IN_RECIPE(field, type)
#define RECIPE_ARRAY(field)                                                                                  \
    "ARRAY(SELECT pg_catalog.jsonb_array_elements_text(a.recipe OPERATOR(pg_catalog.->) '" field "'))"
#define OPTIONS "(a.recipe OPERATOR(pg_catalog.->>) 'method_options')"
#define DIGEST                                                                                               \
    "CASE WHEN " OPTIONS " IS NULL THEN a.digest ELSE pg_catalog.sha256(a.digest OPERATOR(pg_catalog.||)"    \
    "  pg_catalog.convert_to(" OPTIONS ", 'UTF8')) END"
#define AS_WRITTEN                                                                                           \
    "a.recipe OPERATOR(pg_catalog.?) 'steps' AND NOT a.recipe OPERATOR(pg_catalog.?) 'rendering'"
#define MULTI_LABEL                                                                                          \
    "COALESCE(a.recipe OPERATOR(pg_catalog.->) 'multi_label' OPERATOR(pg_catalog.=) 'true', false)"
#define TOKENS "(a.recipe OPERATOR(pg_catalog.->>) 'max_input_tokens')::pg_catalog.numeric"
#define INPUT_TOKENS                                                                                         \
    "CASE WHEN " IN_RECIPE("max_input_tokens", "number") " THEN CASE WHEN " TOKENS                           \
                                                         " OPERATOR(pg_catalog.>=) 16 AND " TOKENS           \
                                                         " OPERATOR(pg_catalog.<=) $4 THEN " TOKENS          \
                                                         "::pg_catalog.int4"                                 \
                                                         " END END"

/* clang-format off */
static Ia3Query lookupQuery = {
    .sql = "SELECT a.version, t.active_version, " DIGEST ", a.backbone_digest,"
           " CASE WHEN " FROM_RECIPE("backbone", "string")
           "  THEN a.recipe OPERATOR(pg_catalog.->>) 'backbone' ELSE t.backbone END,"
           " CASE WHEN " FROM_RECIPE("template", "array")
           "  THEN " RECIPE_ARRAY("template") " ELSE t.template END,"
           " CASE WHEN " FROM_RECIPE("choices", "array") " THEN " RECIPE_ARRAY("choices")
           "  WHEN " FROM_RECIPE("choices", "null") " THEN NULL ELSE t.choices END,"
           " a.method, " AS_WRITTEN ","
           " a.recipe OPERATOR(pg_catalog.->>) 'truncate', " OPTIONS ", t.min_probability, a.temperature,"
           " CASE WHEN $2 IS NOT NULL THEN a.recipe OPERATOR(pg_catalog.->) 'verbalizers' ELSE t.verbalizers END,"
           " CASE WHEN $2 IS NOT NULL THEN a.recipe OPERATOR(pg_catalog.->) 'descriptions' ELSE t.descriptions END,"
           " " INPUT_TOKENS ","
           " CASE WHEN $2 IS NOT NULL THEN " MULTI_LABEL " ELSE t.multi_label END, a.thresholds"
           " FROM ia3.task t LEFT JOIN ia3.adapter a ON a.task OPERATOR(pg_catalog.=) t.task"
           "  AND a.version OPERATOR(pg_catalog.=) COALESCE($2, t.active_version)"
           " WHERE t.task OPERATOR(pg_catalog.=) $1",
    .nArgs = 4,
    .argTypes = {TEXTOID, INT4OID, OIDOID, INT4OID},
};

/* The same columns from the recipe alone, for the role $3. Runs as the owner of the tables. */
static Ia3Query versionQuery = {
    .sql = "SELECT a.version, NULL::pg_catalog.int4, " DIGEST ", a.backbone_digest,"
           " CASE WHEN " IN_RECIPE("backbone", "string") " THEN a.recipe OPERATOR(pg_catalog.->>) 'backbone' END,"
           " CASE WHEN " IN_RECIPE("template", "array") " THEN " RECIPE_ARRAY("template") " END,"
           " CASE WHEN " IN_RECIPE("choices", "array") " THEN " RECIPE_ARRAY("choices") " END,"
           " a.method, " AS_WRITTEN ","
           " a.recipe OPERATOR(pg_catalog.->>) 'truncate', " OPTIONS ", NULL::pg_catalog.float8, a.temperature,"
           " a.recipe OPERATOR(pg_catalog.->) 'verbalizers', a.recipe OPERATOR(pg_catalog.->) 'descriptions',"
           " " INPUT_TOKENS ", " MULTI_LABEL ", a.thresholds"
           " FROM ia3.task t LEFT JOIN ia3.adapter a ON a.task OPERATOR(pg_catalog.=) t.task"
           "  AND a.version OPERATOR(pg_catalog.=) $2"
           " WHERE t.task OPERATOR(pg_catalog.=) $1 AND ia3.task_readable(t.owner, t.readers, $3)",
    .nArgs = 4,
    .argTypes = {TEXTOID, INT4OID, OIDOID, INT4OID},
};
/* clang-format on */

static Ia3Query vectorsQuery = {
    .sql = "SELECT a.vectors FROM ia3.adapter a WHERE a.task OPERATOR(pg_catalog.=) $1"
           " AND a.version OPERATOR(pg_catalog.=) $2",
    .nArgs = 2,
    .argTypes = {TEXTOID, INT4OID},
};

/* A name as messages show it: one that is too long may be a text that was given by mistake. */
static const char *
shown(const char *name)
{
    int len = strlen(name);
    int most = pg_mbcliplen(name, len, IA3_MAX_TASK_NAME);

    return len <= most ? name : psprintf("%.*s...", most, name);
}

static void
invalid_name(const char *name, const char *detail)
{
    ereport(ERROR, (errcode(ERRCODE_INVALID_NAME), errmsg("invalid ia3 task name \"%s\"", shown(name)),
                    errdetail("%s", detail)));
}

void
Ia3TaskCheckName(const char *name)
{
    if (name[0] == '\0')
        invalid_name(name, "A task name must not be empty.");
    if (strlen(name) > IA3_MAX_TASK_NAME)
        invalid_name(name, "A task name can have at most 200 bytes.");
    for (const char *p = name; *p; p++) {
        if (*p == '@')
            invalid_name(name, "The character \"@\" separates a task from its version.");
        if ((unsigned char) *p < ' ' || *p == 0x7f)
            invalid_name(name, "A task name must not contain control characters.");
    }
    if (pg_strcasecmp(name, "none") == 0)
        invalid_name(name, "This name is reserved for the bare backbone.");
}

Ia3TaskReference
Ia3TaskParseReference(const char *reference)
{
    Ia3TaskReference ref = {pstrdup(reference), 0};
    char *at = strchr(ref.name, '@');

    if (at != NULL) {
        const char *digits = at + 1;
        int64 version = 0;
        bool valid = *digits >= '1' && *digits <= '9';

        for (const char *p = digits; valid && *p; p++) {
            version = version * 10 + (*p - '0');
            valid = *p >= '0' && *p <= '9' && version <= PG_INT32_MAX;
        }
        if (!valid)
            ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                            errmsg("invalid ia3 task reference \"%s\"", shown(reference)),
                            errhint("Specify a task name, or name@version with a positive version number.")));
        *at = '\0';
        ref.version = (int) version;
    }
    Ia3TaskCheckName(ref.name);
    return ref;
}

static void
copy_digest(uint8 *dst, Datum value)
{
    bytea *digest = DatumGetByteaPP(value);

    if (VARSIZE_ANY_EXHDR(digest) != IA3_DIGEST_LEN)
        ereport(ERROR,
                (errcode(ERRCODE_DATA_CORRUPTED), errmsg("digest in ia3.adapter has %d bytes instead of %d",
                                                         (int) VARSIZE_ANY_EXHDR(digest), IA3_DIGEST_LEN)));
    memcpy(dst, VARDATA_ANY(digest), IA3_DIGEST_LEN);
}

/* Raises the ERROR that says why there is no version to use. */
static void
raise_missing(const Ia3TaskReference *ref, uint64 found, bool fixed)
{
    if (found == 0)
        ereport(ERROR,
                (errcode(ERRCODE_UNDEFINED_OBJECT), errmsg("ia3 task \"%s\" does not exist", ref->name)));
    if (ref->version != 0 || fixed)
        ereport(ERROR, (errcode(ERRCODE_UNDEFINED_OBJECT),
                        errmsg("version %d of ia3 task \"%s\" does not exist", ref->version, ref->name)));
    ereport(ERROR,
            (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
             errmsg("ia3 task \"%s\" has no active version", ref->name),
             errhint("Activate a version with ia3_activate, or specify one as \"%s@version\".", ref->name)));
}

/* Fills in the task from the row that lookupQuery has found, in the caller's memory context. */
static void
fill_task(Ia3Task *task)
{
    bool isNull;
    Datum value;

    task->version = DatumGetInt32(Ia3QueryColumn(1, &isNull));
    copy_digest(task->digest, Ia3QueryColumn(3, &isNull));
    copy_digest(task->backboneDigest, Ia3QueryColumn(4, &isNull));
    value = Ia3QueryColumn(5, &isNull);
    task->backbone = isNull ? NULL : TextDatumGetCString(value);
    value = Ia3QueryColumn(6, &isNull);
    task->templates = isNull || task->backbone == NULL ? NULL : Ia3StringsFromArray(value, "template");
    value = Ia3QueryColumn(7, &isNull);
    task->choices = isNull ? NULL : Ia3StringsFromArray(value, "choices");
    task->method = TextDatumGetCString(Ia3QueryColumn(8, &isNull));
    task->rowsAsWritten = DatumGetBool(Ia3QueryColumn(9, &isNull)) && !isNull;
    value = Ia3QueryColumn(10, &isNull);
    task->truncate = Ia3TruncateFromName(isNull ? NULL : TextDatumGetCString(value));
    value = Ia3QueryColumn(11, &isNull);
    task->methodOptions = isNull ? pstrdup("") : TextDatumGetCString(value);
    value = Ia3QueryColumn(12, &isNull);
    task->minProbability = isNull ? 0 : DatumGetFloat8(value);
    value = Ia3QueryColumn(13, &isNull);
    task->temperature = isNull ? 0 : DatumGetFloat8(value);
    task->wording = Ia3WordingMake(Ia3QueryJsonb(14), Ia3QueryJsonb(15));
    value = Ia3QueryColumn(16, &isNull);
    task->recordedInputTokens = isNull ? 0 : DatumGetInt32(value);
    task->multiLabel = DatumGetBool(Ia3QueryColumn(17, &isNull)) && !isNull;
    task->thresholds = Ia3QueryJsonb(18);
    task->label = psprintf("%s@%d", task->name, task->version);
}

/* Runs the query, as the owner of the tables for a version as it was stored; returns the number of rows. */
static uint64
run_lookup(const Ia3TaskReference *ref, bool fixed, bool readOnly)
{
    Ia3Identity caller = {InvalidOid};
    Datum values[4];
    char nulls[4] = {' ', ref->version == 0 && !fixed ? 'n' : ' ', fixed ? ' ' : 'n', ' '};
    uint64 found;

    if (fixed)
        caller = Ia3BecomeTableOwner();
    values[0] = CStringGetTextDatum(ref->name);
    values[1] = Int32GetDatum(ref->version);
    values[2] = ObjectIdGetDatum(caller.user);
    values[3] = Int32GetDatum(IA3_MAX_INPUT_TOKENS);
    found = Ia3QueryRun(fixed ? &versionQuery : &lookupQuery, values, nulls, readOnly);
    if (fixed)
        Ia3BecomeAgain(caller);
    return found;
}

static Ia3Task *
lookup(const Ia3TaskReference *ref, bool fixed, bool readOnly, bool missingOk)
{
    MemoryContext caller = CurrentMemoryContext;
    Ia3Task *task = palloc0(sizeof(Ia3Task));
    uint64 found;
    bool isNull = true;

    Ia3SpiConnect();
    found = run_lookup(ref, fixed, readOnly);
    if (found > 0)
        (void) Ia3QueryColumn(1, &isNull);
    if (isNull && !missingOk)
        raise_missing(ref, found, fixed);
    if (isNull) {
        Ia3SpiFinish();
        MemoryContextSwitchTo(caller);
        return NULL;
    }

    MemoryContextSwitchTo(caller);
    task->name = ref->name;
    task->fixed = fixed;
    fill_task(task);
    Ia3SpiFinish();
    MemoryContextSwitchTo(caller);
    return task;
}

static Ia3Task *
lookup_reference(const char *reference, bool readOnly, bool missingOk)
{
    Ia3TaskReference ref = Ia3TaskParseReference(reference);

    return lookup(&ref, false, readOnly, missingOk);
}

Ia3Task *
Ia3TaskLookup(const char *reference)
{
    return lookup_reference(reference, true, false);
}

Ia3Task *
Ia3TaskLookupIfExists(const char *reference)
{
    return lookup_reference(reference, true, true);
}

Ia3Task *
Ia3TaskLookupVersion(const char *name, int version, bool missingOk)
{
    Ia3TaskReference ref = {pstrdup(name), version};

    Ia3TaskCheckName(name);
    return lookup(&ref, true, true, missingOk);
}

int
Ia3TaskInputTokens(const Ia3Task *task)
{
    if (task == NULL || !task->fixed)
        return Ia3InputTokens();
    return task->recordedInputTokens > 0 ? task->recordedInputTokens : IA3_UNRECORDED_INPUT_TOKENS;
}

typedef struct DetachedLookup {
    const char *reference;
    Ia3Task *task;
} DetachedLookup;

static void
look_up_detached(void *arg)
{
    DetachedLookup *look = arg;

    look->task = Ia3TaskLookup(look->reference);
    look->task->vectors = Ia3TaskFetchVectors(look->task);
}

Ia3Task *
Ia3TaskLookupDetached(const char *reference)
{
    DetachedLookup look = {.reference = reference};

    Ia3RunAndRollBack(look_up_detached, &look);
    return look.task;
}

Ia3Task *
Ia3TaskLookupLatest(const char *reference)
{
    return lookup_reference(reference, false, false);
}

/* The first bytes suffice to tell digests apart in a message. */
static char *
short_digest(const uint8 *digest)
{
    char *hex = palloc(17);

    for (int i = 0; i < 8; i++)
        snprintf(hex + 2 * i, 3, "%02x", digest[i]);
    return hex;
}

void
Ia3TaskCheckEngine(const Ia3Task *task, const Ia3EngineInfo *engine)
{
    if (memcmp(engine->digest, task->backboneDigest, IA3_DIGEST_LEN) != 0)
        ereport(ERROR,
                (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
                 errmsg("adapter \"%s\" was trained on another backbone", task->label),
                 errdetail("The adapter needs backbone %s, but \"%s\" is %s.",
                           short_digest(task->backboneDigest), task->backbone, short_digest(engine->digest)),
                 errhint("Configure the backbone that it was trained on, or train the task again.")));
}

void
Ia3TaskCheckBackbone(const Ia3Task *task)
{
    Ia3TaskCheckEngine(task, Ia3GetEngineInfo(task->backbone));
}

Ia3ChoiceSet
Ia3TaskScored(const Ia3Task *task, const Ia3Strings *choices)
{
    Ia3ChoiceSet set = Ia3WordingScored(task->wording, choices);

    set.multiLabel = task->multiLabel;
    return set;
}

double
Ia3TaskThreshold(const Ia3Task *task, const char *label)
{
    JsonbValue key = {.type = jbvString}, *value = NULL;

    if (task->minProbability > 0)
        return task->minProbability;
    key.val.string.val = (char *) label;
    key.val.string.len = (int) strlen(label);
    if (task->thresholds && JB_ROOT_IS_OBJECT(task->thresholds))
        value = findJsonbValueFromContainer(&task->thresholds->root, JB_FOBJECT, &key);
    if (value == NULL || value->type != jbvNumeric)
        return IA3_DEFAULT_THRESHOLD;
    return DatumGetFloat8(DirectFunctionCall1(numeric_float8, NumericGetDatum(value->val.numeric)));
}

void
Ia3TaskRefuseMultiLabel(const Ia3Task *task, const char *what, const char *hint)
{
    if (task->multiLabel)
        ereport(ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
                        errmsg("%s cannot be used with a multi-label task", what),
                        errdetail("Any number of the choices of ia3 task \"%s\" are right.", task->name),
                        hint ? errhint("%s", hint) : 0));
}

bytea *
Ia3TaskFetchVectors(const Ia3Task *task)
{
    MemoryContext caller = CurrentMemoryContext;
    Datum values[2];
    bool isNull;
    bytea *vectors;

    Ia3SpiConnect();
    values[0] = CStringGetTextDatum(task->name);
    values[1] = Int32GetDatum(task->version);
    if (Ia3QueryRun(&vectorsQuery, values, NULL, true) == 0)
        ereport(ERROR, (errcode(ERRCODE_UNDEFINED_OBJECT),
                        errmsg("version %d of ia3 task \"%s\" does not exist", task->version, task->name)));
    MemoryContextSwitchTo(caller);
    vectors = DatumGetByteaPCopy(Ia3QueryColumn(1, &isNull));
    Ia3SpiFinish();
    MemoryContextSwitchTo(caller);
    return vectors;
}

void
Ia3TaskPutAdapter(const Ia3Task *task)
{
    bytea *vectors = task->vectors ? task->vectors : Ia3TaskFetchVectors(task);
    ia3_writer *w = Ia3RequestBegin(task->backbone);
    ia3_reader reader;
    uint8 type;

    Ia3TaskCheckEngine(task, Ia3RequestBindBackbone());
    ia3_put_bytes(w, task->digest, IA3_DIGEST_LEN);
    ia3_put_str(w, task->method, strlen(task->method));
    Ia3PutText(w, task->methodOptions, strlen(task->methodOptions));
    ia3_put_str(w, VARDATA_ANY(vectors), VARSIZE_ANY_EXHDR(vectors));
    Ia3RequestSend(IA3_PUT_ADAPTER);
    type = Ia3ReplyWait(&reader);
    if (type != IA3_OK)
        Ia3ProtocolError("The engine did not answer PUT_ADAPTER with OK.");
    if (vectors != task->vectors)
        pfree(vectors);
}
