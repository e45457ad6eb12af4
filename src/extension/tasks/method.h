/*
 * method.h
 *     PEFT methods, as the engines name them. The extension knows one by name, the default.
 */
#ifndef IA3_METHOD_H
#define IA3_METHOD_H

#include "extension/client/engine_info.h"
#include "json_object.h"

#define IA3_DEFAULT_METHOD "ia3" /* also in the SQL script */

/* The engine's method of that name; ERROR 22023, with a hint that names all of them, if there is none. */
extern const Ia3EngineMethod *Ia3MethodFind(const Ia3EngineInfo *engine, const char *name);

/* The method's constants, as the member "method_options" of a recipe; nothing if there are none. */
extern void Ia3MethodPutOptions(const Ia3EngineMethod *method, Ia3JsonObject *recipe);

#endif
