/*
 * method.c
 *     PEFT methods as the engines describe them.
 */
#include "postgres.h"

#include "lib/stringinfo.h"

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
Ia3MethodPutOptions(const Ia3EngineMethod *method, Ia3JsonObject *recipe)
{
    if (method->nConstants == 0)
        return;
    Ia3JsonBeginMember(recipe, "method_options");
    for (int i = 0; i < method->nConstants; i++)
        Ia3JsonPutInteger(recipe, method->constants[i].name, method->constants[i].value);
    Ia3JsonEndMember(recipe);
}
