/*
 * method.c
 *     PEFT methods as the engines describe them.
 */
#include "postgres.h"

#include "lib/stringinfo.h"
#include "utils/fmgrprotos.h"

#include "extension/client/client.h"
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
    if (reader.bad || reader.p != reader.end)
        Ia3ProtocolError("The length of the options does not match their contents.");
}

void
Ia3MethodPutOptions(const char *options, Ia3JsonObject *recipe)
{
    if (options[0] != '\0')
        Ia3JsonPutJsonb(recipe, "method_options",
                        DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum(options))));
}
