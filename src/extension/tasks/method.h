/*
 * method.h
 *     PEFT methods as the engines describe them. The extension knows only the default one by name, and the options of
 *     none: it passes them on as JSON, and records what the engine makes of them.
 */
#ifndef IA3_METHOD_H
#define IA3_METHOD_H

#include "fmgr.h"

#include "common/wire.h"
#include "extension/client/engine_info.h"
#include "json_object.h"

#define IA3_DEFAULT_METHOD "ia3" /* the SQL script has it, too */

/* A method with values for all its options. */
typedef struct Ia3Method {
    char *name;
    char *options;    /* a JSON object, as it is recorded; empty: there is nothing to record */
    uint64 values;    /* numbers in one adapter */
    char *peftConfig; /* a JSON object; empty: PEFT has nothing like this */
    char *
        peftLacks; /* why PEFT has nothing like any variant of the method, a sentence; empty: it has, for some */
} Ia3Method;

/* The engine's method with this name. ERROR 22023, with a hint that lists the names, if there is none. */
extern const Ia3EngineMethod *Ia3MethodFind(const Ia3EngineInfo *engine, const char *name);

/*
 * Has the engine of the backbone complete and check the options, a JSON object or empty. Those that are not specified
 * have the values in the record of a version (`recorded`, may be empty), or, if this is NULL, their defaults. Results
 * are palloc'd. ERROR 22023 for an unknown method or option, and for values that are not allowed; 0A000 for a record that the
 * engine does not know; 54000 for adapters that would be too large.
 */
extern void Ia3MethodConfigure(Ia3Method *method, const char *backbone, const char *name,
                               const char *recorded, const char *options);

/* Writes the method and its options as Ia3MethodConfigure sends them, at the end of a request. */
extern void Ia3MethodPut(ia3_writer *w, const char *name, const char *recorded, const char *options);

/*
 * The options of methods that the arguments of a call specify, as a JSON object, palloc'd; empty if there are none. The first of these
 * arguments has number `first`, from 0; the others follow it in the order that all functions have.
 */
extern char *Ia3MethodOptionsFromArguments(FunctionCallInfo fcinfo, int first);

/* Adds options to a recipe, as the member "method_options"; nothing if they are empty. */
extern void Ia3MethodPutOptions(const char *options, Ia3JsonObject *recipe);

#endif
