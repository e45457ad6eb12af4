/*
 * json_object.h
 *     A JSON object that is built member by member.
 */
#ifndef IA3_JSON_OBJECT_H
#define IA3_JSON_OBJECT_H

#include "utils/jsonb.h"

#include "extension/client/string_list.h"

typedef struct Ia3JsonObject {
    JsonbParseState *state;
} Ia3JsonObject;

/* Begins an object, which is built in the current memory context. */
extern void Ia3JsonBegin(Ia3JsonObject *object);
/* Ends the object and returns it as a jsonb Datum. */
extern Datum Ia3JsonEnd(Ia3JsonObject *object);

/* Each of these adds a member. Strings and objects are not copied before Ia3JsonEnd. NULL becomes null. */
extern void Ia3JsonPutString(Ia3JsonObject *object, const char *key, const char *value);
extern void Ia3JsonPutStrings(Ia3JsonObject *object, const char *key, const Ia3Strings *values);
extern void Ia3JsonPutBool(Ia3JsonObject *object, const char *key, bool value);
extern void Ia3JsonPutInteger(Ia3JsonObject *object, const char *key, int64 value);
/* Adds the shortest number that is read as the same float8. */
extern void Ia3JsonPutFloat(Ia3JsonObject *object, const char *key, double value);
extern void Ia3JsonPutJsonb(Ia3JsonObject *object, const char *key, Jsonb *value);

/* Begin and end an object as a member; what is added between these two calls becomes part of it. */
extern void Ia3JsonBeginMember(Ia3JsonObject *object, const char *key);
extern void Ia3JsonEndMember(Ia3JsonObject *object);

#endif
