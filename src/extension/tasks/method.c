/*
 * method.c
 *     PEFT methods as the engines describe them.
 */
#include "postgres.h"

#include <math.h>

#include "lib/stringinfo.h"
#include "utils/fmgrprotos.h"
#include "utils/jsonb.h"

#include "extension/client/client.h"
#include "extension/client/string_list.h"
#include "extension/client/text.h"
#include "method.h"

const Ia3EngineMethod *
Ia3MethodFind(const Ia3EngineInfo *engine, const char *name)
{
    StringInfoData names;

    for (int i = 0; i < engine->nMethods; i++)
        if (strcmp(engine->methods[i].name, name) == 0)
            return &engine->methods[i];
    initStringInfo(&names);
    for (int i = 0; i < engine->nMethods; i++)
        appendStringInfo(&names, "%s\"%s\"",
                         i == 0                      ? ""
                         : i + 1 == engine->nMethods ? " and "
                                                     : ", ",
                         engine->methods[i].name);
    ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("unknown method \"%s\"", name),
                    errhint("Valid values are %s.", names.data)));
    return NULL;
}

void
Ia3MethodPut(ia3_writer *w, const char *name, const char *recorded, const char *options)
{
    Ia3PutText(w, name, strlen(name));
    ia3_put_u8(w, recorded != NULL);
    Ia3PutText(w, recorded ? recorded : "", recorded ? strlen(recorded) : 0);
    Ia3PutText(w, options, strlen(options));
}

void
Ia3MethodConfigure(Ia3Method *method, const char *backbone, const char *name, const char *recorded,
                   const char *options)
{
    ia3_writer *w = Ia3RequestBegin(backbone);
    ia3_reader reader;

    Ia3MethodPut(w, name, recorded, options);
    Ia3RequestSend(IA3_CONFIGURE);
    if (Ia3ReplyWait(&reader) != IA3_CONFIGURE_OK)
        Ia3ProtocolError("The engine did not answer CONFIGURE with options.");
    method->name = pstrdup(name);
    method->options = Ia3GetText(&reader);
    method->values = ia3_get_u64(&reader);
    method->peftConfig = Ia3GetText(&reader);
    method->peftLacks = Ia3GetText(&reader);
    if (reader.bad || reader.p != reader.end)
        Ia3ProtocolError("The length of the options does not match their contents.");
}

/* Adds a number; ERROR 22023 for one that JSON does not have. */
static void
put_number(Ia3JsonObject *json, const char *name, double value)
{
    if (!isfinite(value))
        ereport(ERROR,
                (errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("%s must be a finite number", name)));
    Ia3JsonPutFloat(json, name, value);
}

char *
Ia3MethodOptionsFromArguments(FunctionCallInfo fcinfo, int first)
{
    static const struct {
        const char *name;
        enum { INTEGER, FLOAT, BOOLEAN, STRINGS } type;
    } options[] = {{"rank", INTEGER},          {"alpha", FLOAT},           {"targets", STRINGS},
                   {"norms", BOOLEAN},         {"prompt_length", INTEGER}, {"decoder", BOOLEAN},
                   {"bottleneck", INTEGER},    {"prefix_length", INTEGER}, {"vectors", BOOLEAN},
                   {"intrinsic_dim", INTEGER}, {"keep_ratio", FLOAT},      {"ensemble", INTEGER}};
    Ia3JsonObject json;
    Jsonb *object;

    Ia3JsonBegin(&json);
    for (int i = 0; i < lengthof(options); i++) {
        const char *name = options[i].name;
        Datum value = fcinfo->args[first + i].value;

        if (PG_ARGISNULL(first + i))
            continue;
        if (options[i].type == INTEGER)
            Ia3JsonPutInteger(&json, name, DatumGetInt32(value));
        else if (options[i].type == FLOAT)
            put_number(&json, name, DatumGetFloat8(value));
        else if (options[i].type == BOOLEAN)
            Ia3JsonPutBool(&json, name, DatumGetBool(value));
        else
            Ia3JsonPutStrings(&json, name, Ia3StringsFromArray(value, name));
    }
    object = DatumGetJsonbP(Ia3JsonEnd(&json));
    if (JB_ROOT_COUNT(object) == 0)
        return pstrdup("");
    return JsonbToCString(NULL, &object->root, VARSIZE(object));
}

void
Ia3MethodPutOptions(const char *options, Ia3JsonObject *recipe)
{
    if (options[0] != '\0')
        Ia3JsonPutJsonb(recipe, "method_options",
                        DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum(options))));
}
