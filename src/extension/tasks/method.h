/*
 * method.h
 *     PEFT methods as the engines describe them. The extension knows only the default one by name.
 */
#ifndef IA3_METHOD_H
#define IA3_METHOD_H

#include "extension/client/engine_info.h"
#include "json_object.h"

#define IA3_DEFAULT_METHOD "ia3" /* the SQL script has it, too */

/* The engine's method with this name. ERROR 22023, with a hint that lists the names, if there is none. */
extern const Ia3EngineMethod *Ia3MethodFind(const Ia3EngineInfo *engine, const char *name);

/* Adds the method's constants to a recipe, as the member "method_options"; nothing if there are none. */
extern void Ia3MethodPutOptions(const Ia3EngineMethod *method, Ia3JsonObject *recipe);

#endif
