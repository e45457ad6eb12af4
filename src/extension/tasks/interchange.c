/*
 * interchange.c
 *     ia3_export, ia3_export_config, ia3_import and ia3_merge: exchanging adapters with other tools.
 *
 * What is stored is a PEFT file already, so exporting only reads it. An import has the engine of the backbone convert
 * whatever naming the file uses into the stored form. The engine thus decides which vectors there are; what the
 * configuration of (IA)³ says about them is checked here (adapter_config.c), that of other methods by the engine.
 */
#include "postgres.h"

#include <sys/stat.h>

#include "catalog/pg_type.h"
#include "commands/tablespace.h"
#include "miscadmin.h"
#include "port.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"

#include "adapter_config.h"
#include "catalog.h"
#include "common/version.h"
#include "extension/client/client.h"
#include "extension/client/text.h"
#include "extension/guc.h"
#include "extension/supervisor/shmem.h"
#include "json_text.h"
#include "template.h"
#include "versions.h"
#include "writable.h"

PG_FUNCTION_INFO_V1(ia3_export);
PG_FUNCTION_INFO_V1(ia3_export_config);
PG_FUNCTION_INFO_V1(ia3_import);
PG_FUNCTION_INFO_V1(ia3_import_text);
PG_FUNCTION_INFO_V1(ia3_merge);

static Ia3Query settingsQuery = {
    .sql = "SELECT t.backbone, t.template, t.choices, a.recipe OPERATOR(pg_catalog.->>) 'truncate',"
           " t.verbalizers, t.descriptions, t.multi_label"
           " FROM ia3.task t LEFT JOIN ia3.adapter a ON a.task OPERATOR(pg_catalog.=) t.task"
           "  AND a.version OPERATOR(pg_catalog.=) t.active_version"
           " WHERE t.task OPERATOR(pg_catalog.=) $1",
    .nArgs = 1,
    .argTypes = {TEXTOID},
};

/* An adapter on its way into the catalog. */
typedef struct Import {
    char *task;
    bool exists; /* the task does; otherwise it is created with the default template and no choices */
    char *backbone;
    Ia3Strings *templates;
    Ia3Strings *choices; /* NULL: every call brings its own */
    Ia3Wording *wording; /* NULL: choices are scored as they are */
    bool multiLabel;
    Ia3Truncate truncate;
    Jsonb *config; /* NULL: none given */
    Ia3EngineInfo engine;
    char *method, *methodOptions;
    Ia3Strings assumed; /* options that are not known and have their defaults */
    bytea *vectors;
    uint32 nTensors, nAllTensors; /* in the adapter; in a complete one */
    Ia3AdapterModules modules;
} Import;

Datum
ia3_export(PG_FUNCTION_ARGS)
{
    const Ia3Task *task = Ia3TaskLookup(text_to_cstring(PG_GETARG_TEXT_PP(0)));

    if (task->wording || task->temperature > 0 || task->minProbability > 0 || task->multiLabel)
        ereport(NOTICE,
                (errmsg("the export of \"%s\" has vectors only", task->label),
                 errdetail("Files of PEFT have no place for verbalizers, descriptions, a temperature, "
                           "thresholds or several labels of ia3."),
                 errhint("ia3_export_task exports everything.")));
    PG_RETURN_BYTEA_P(Ia3TaskFetchVectors(task));
}

Datum
ia3_export_config(PG_FUNCTION_ARGS)
{
    Ia3Task *task = Ia3TaskLookup(text_to_cstring(PG_GETARG_TEXT_PP(0)));
    Ia3EngineStatus status;
    bool known = Ia3Loaded() && Ia3GetEngineStatus(task->backbone, &status);

    bool isDefault = strcmp(task->method, IA3_DEFAULT_METHOD) == 0 && task->methodOptions[0] == '\0';
    Ia3Method method;

    if (!isDefault)
        Ia3MethodConfigure(&method, task->backbone, task->method, task->methodOptions, "");
    PG_RETURN_DATUM(Ia3AdapterConfigMake(known ? status.spec.path : NULL, isDefault ? NULL : &method));
}

/*
 * Backbone, template, choices, wording and truncation of the version: those of the task and its active version if there are any,
 * otherwise the defaults. Other programs cut off the end of what is too long.
 */
static void
read_settings(Import *import)
{
    MemoryContext caller = CurrentMemoryContext;
    Datum value = CStringGetTextDatum(import->task);
    bool isNull;

    Ia3SpiConnect();
    import->exists = Ia3QueryRun(&settingsQuery, &value, NULL, true) > 0;
    MemoryContextSwitchTo(caller);
    if (import->exists) {
        import->backbone = TextDatumGetCString(Ia3QueryColumn(1, &isNull));
        import->templates = Ia3StringsFromArray(Ia3QueryColumn(2, &isNull), "template");
        value = Ia3QueryColumn(3, &isNull);
        import->choices = isNull ? NULL : Ia3StringsFromArray(value, "choices");
        value = Ia3QueryColumn(4, &isNull);
        import->truncate = Ia3TruncateFromName(isNull ? NULL : TextDatumGetCString(value));
        import->wording = Ia3WordingMake(Ia3QueryJsonb(5), Ia3QueryJsonb(6));
        import->multiLabel = DatumGetBool(Ia3QueryColumn(7, &isNull));
    } else {
        import->backbone = pstrdup(Ia3Backbone);
        import->templates = palloc(sizeof(Ia3Strings));
        import->templates->n = 1;
        import->templates->items = palloc(sizeof(char *));
        import->templates->items[0] = pstrdup(IA3_DEFAULT_TEMPLATE);
    }
    Ia3SpiFinish();
    MemoryContextSwitchTo(caller);
}

/* Has the engine convert the bytes to the stored form; ERROR 22P03 when they are no adapter of the backbone. */
static void
normalize(Import *import, bytea *adapter)
{
    ia3_reader reader;
    const char *bytes;
    char *config =
        import->config ? JsonbToCString(NULL, &import->config->root, VARSIZE(import->config)) : pstrdup("");
    size_t len;
    uint8 type;

    do {
        ia3_writer *w = Ia3RequestBegin(import->backbone);

        import->engine = *Ia3RequestBindBackbone();
        ia3_put_str(w, VARDATA_ANY(adapter), VARSIZE_ANY_EXHDR(adapter));
        Ia3PutText(w, config, strlen(config));
        Ia3RequestSend(IA3_NORMALIZE);
        type = Ia3ReplyWaitOrRepeat(&reader);
    } while (type == IA3_GOODBYE);
    if (type != IA3_NORMALIZE_OK)
        Ia3ProtocolError("The engine did not answer NORMALIZE with an adapter.");
    import->method = Ia3GetText(&reader);
    import->methodOptions = Ia3GetText(&reader);
    import->assumed.n = (int) ia3_get_count(&reader, 4);
    import->assumed.items = palloc(sizeof(char *) * Max(import->assumed.n, 1));
    for (int i = 0; i < import->assumed.n; i++)
        import->assumed.items[i] = Ia3GetText(&reader);
    bytes = ia3_get_str(&reader, &len);
    import->vectors = palloc(VARHDRSZ + len);
    SET_VARSIZE(import->vectors, VARHDRSZ + len);
    memcpy(VARDATA(import->vectors), bytes, len);
    import->nTensors = ia3_get_u32(&reader);
    import->nAllTensors = ia3_get_u32(&reader);
    import->modules.n = (int) ia3_get_count(&reader, 5);
    import->modules.names = palloc(sizeof(char *) * Max(import->modules.n, 1));
    import->modules.scalesInput = palloc(sizeof(bool) * Max(import->modules.n, 1));
    for (int i = 0; i < import->modules.n; i++) {
        import->modules.names[i] = Ia3GetText(&reader);
        import->modules.scalesInput[i] = ia3_get_u8(&reader) != 0;
    }
    if (reader.bad || reader.p != reader.end || len == 0)
        Ia3ProtocolError("The length of the normalized adapter does not match its contents.");
}

/*
 * The recipe of an imported version says where it comes from. The template and choices that the task has now are
 * recorded in it, so that activating this version later restores them; a new task has none of its own yet, and its
 * owner may still set them.
 */
static Datum
make_recipe(const Import *import)
{
    Ia3JsonObject recipe;

    Ia3JsonBegin(&recipe);
    Ia3JsonPutBool(&recipe, "imported", true);
    Ia3JsonPutString(&recipe, "backbone", import->backbone);
    if (strcmp(import->method, IA3_DEFAULT_METHOD) != 0)
        Ia3JsonPutString(&recipe, "method", import->method);
    Ia3MethodPutOptions(import->methodOptions, &recipe);
    if (import->exists)
        Ia3JsonPutStrings(&recipe, "template", import->templates);
    if (import->choices)
        Ia3JsonPutStrings(&recipe, "choices", import->choices);
    Ia3WordingPut(import->wording, &recipe);
    if (import->multiLabel)
        Ia3JsonPutBool(&recipe, "multi_label", true);
    Ia3JsonPutInteger(&recipe, "max_input_tokens", Ia3InputTokens());
    Ia3JsonPutString(&recipe, "truncate", Ia3TruncateName(import->truncate));
    if (import->config)
        Ia3JsonPutJsonb(&recipe, "config", import->config);
    Ia3JsonPutString(&recipe, "ia3_version", IA3_VERSION);
    return Ia3JsonEnd(&recipe);
}

static int
store(const Import *import)
{
    Ia3NewVersion version = {
        .task = import->task,
        .backbone = import->backbone,
        .templates = import->templates,
        .choices = import->choices,
        .wording = import->wording,
        .multiLabel = import->multiLabel,
        .vectors = import->vectors,
        .backboneDigest = import->engine.digest,
        .recipe = make_recipe(import),
        .activate = true,
    };

    return Ia3VersionsStore(&version);
}

/* Tells the user when the configuration names another model than the backbone's. */
static void
report_base(const Import *import)
{
    char *base = Ia3AdapterConfigBase(import->config);
    Ia3EngineStatus status;

    if (base == NULL || !Ia3GetEngineStatus(import->backbone, &status) ||
        Ia3AdapterConfigFits(base, status.spec.path))
        return;
    ereport(NOTICE,
            (errmsg("adapter configuration names the model \"%s\"", base),
             errdetail("Backbone \"%s\" is \"%s\".", import->backbone, Ia3EngineText(status.spec.path)),
             errhint("An adapter is of use only with the model that it was trained on.")));
}

/* Stores an adapter that another tool has made; with a configuration, after checking the two against each other. */
static Datum
import_adapter(FunctionCallInfo fcinfo, Jsonb *config)
{
    Import import = {.config = config};

    Ia3CheckWritable("ia3_import()");
    Ia3RequirePreload();
    import.task = text_to_cstring(PG_GETARG_TEXT_PP(0));
    Ia3TaskCheckName(import.task);
    Ia3VersionsCheckOwner(import.task);
    read_settings(&import);
    normalize(&import, PG_GETARG_BYTEA_PP(1));
    if (import.config && strcmp(import.method, IA3_DEFAULT_METHOD) == 0)
        Ia3AdapterConfigCheck(import.config, &import.modules);
    if (import.config)
        report_base(&import);
    for (int i = 0; i < import.assumed.n; i++)
        ereport(NOTICE, (errmsg("the value of \"%s\" was assumed, which the adapter does not contain",
                                import.assumed.items[i]),
                         errhint("Import the adapter together with its configuration.")));
    if (import.nTensors < import.nAllTensors)
        ereport(NOTICE, (errmsg("adapter has %u of the %u tensors of the method \"%s\"", import.nTensors,
                                import.nAllTensors, import.method),
                         errdetail("The others leave the backbone as it is.")));
    PG_RETURN_INT32(store(&import));
}

Datum
ia3_import(PG_FUNCTION_ARGS)
{
    return import_adapter(fcinfo, PG_NARGS() > 2 ? PG_GETARG_JSONB_P(2) : NULL);
}

Datum
ia3_import_text(PG_FUNCTION_ARGS)
{
    return import_adapter(fcinfo, Ia3JsonbFromText(PG_GETARG_DATUM(2)));
}

/* The rule is that of COPY TO a file. */
static void
check_may_write_files(void)
{
    if (!has_privs_of_role(GetUserId(), ROLE_PG_WRITE_SERVER_FILES))
        ereport(ERROR, (errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
                        errmsg("permission denied to write a checkpoint on the server"),
                        errdetail("Only roles with the privileges of the \"%s\" role may use ia3_merge.",
                                  "pg_write_server_files")));
}

/*
 * Checks of the directory that can be made before gigabytes are written. The engine, which runs as the same operating
 * system user, checks again.
 */
static char *
check_directory(char *directory)
{
    struct stat st;
    char *parent;

    canonicalize_path(directory);
    if (!is_absolute_path(directory))
        ereport(ERROR,
                (errcode(ERRCODE_INVALID_NAME), errmsg("relative path not allowed for ia3_merge()"),
                 errhint("Specify the absolute path of a directory on the server that does not exist yet.")));
    if (stat(directory, &st) == 0) {
        if (!S_ISDIR(st.st_mode))
            ereport(ERROR, (errcode(ERRCODE_DUPLICATE_FILE),
                            errmsg("\"%s\" exists and is not a directory", directory)));
        if (!directory_is_empty(directory))
            ereport(ERROR, (errcode(ERRCODE_DUPLICATE_FILE),
                            errmsg("directory \"%s\" exists and is not empty", directory)));
        return directory;
    }
    if (errno != ENOENT)
        ereport(ERROR,
                (errcode_for_file_access(), errmsg("could not access directory \"%s\": %m", directory)));
    parent = pstrdup(directory);
    get_parent_directory(parent);
    if (stat(parent, &st) != 0)
        ereport(ERROR, (errcode_for_file_access(), errmsg("could not access directory \"%s\": %m", parent)));
    return directory;
}

Datum
ia3_merge(PG_FUNCTION_ARGS)
{
    Ia3Task *task;
    char *directory;
    ia3_writer *w;
    ia3_reader reader;

    PreventCommandIfParallelMode("ia3_merge()");
    check_may_write_files();
    directory = check_directory(text_to_cstring(PG_GETARG_TEXT_PP(1)));
    Ia3RequirePreload();
    task = Ia3TaskLookupDetached(text_to_cstring(PG_GETARG_TEXT_PP(0)));
    w = Ia3RequestBegin(task->backbone);
    Ia3TaskCheckEngine(task, Ia3RequestBindBackbone());
    ia3_put_str(w, task->method, strlen(task->method));
    ia3_put_str(w, VARDATA_ANY(task->vectors), VARSIZE_ANY_EXHDR(task->vectors));
    ia3_put_str(w, directory, strlen(directory));
    Ia3RequestSend(IA3_MERGE);
    if (Ia3ReplyWait(&reader) != IA3_OK)
        Ia3ProtocolError("The engine did not answer MERGE with OK.");
    PG_RETURN_VOID();
}
