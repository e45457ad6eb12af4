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

extern void Ia3JsonBegin(Ia3JsonObject *object);
/* The finished object, a jsonb Datum. */
extern Datum Ia3JsonEnd(Ia3JsonObject *object);

/* Each adds a member; strings and objects are not copied before the end. NULL becomes null. */
extern void Ia3JsonPutString(Ia3JsonObject *object, const char *key, const char *value);
extern void Ia3JsonPutStrings(Ia3JsonObject *object, const char *key, const Ia3Strings *values);
extern void Ia3JsonPutBool(Ia3JsonObject *object, const char *key, bool value);
extern void Ia3JsonPutInteger(Ia3JsonObject *object, const char *key, int64 value);
/* The shortest number that reads back as the same float8. */
extern void Ia3JsonPutFloat(Ia3JsonObject *object, const char *key, double value);
extern void Ia3JsonPutJsonb(Ia3JsonObject *object, const char *key, Jsonb *value);

/* An object as a member: what is added between the two is inside. */
extern void Ia3JsonBeginMember(Ia3JsonObject *object, const char *key);
extern void Ia3JsonEndMember(Ia3JsonObject *object);

#endif
