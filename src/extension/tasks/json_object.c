/*
 * json_object.c
 *     A JSON object that is built member by member.
 */
#include "postgres.h"

#include "common/shortest_dec.h"
#include "fmgr.h"
#include "utils/builtins.h"
#include "utils/numeric.h"

#include "json_object.h"

static void
push(Ia3JsonObject *object, JsonbIteratorToken token, JsonbValue *value)
{
    (void) pushJsonbValue(&object->state, token, value);
}

static JsonbValue
string_value(const char *string)
{
    JsonbValue value = {.type = jbvNull};

    if (string != NULL) {
        value.type = jbvString;
        value.val.string.val = (char *) string;
        value.val.string.len = (int) strlen(string);
    }
    return value;
}

static JsonbValue
numeric_value(Datum number)
{
    JsonbValue value = {.type = jbvNumeric};

    value.val.numeric = DatumGetNumeric(number);
    return value;
}

static void
put_key(Ia3JsonObject *object, const char *key)
{
    JsonbValue value = string_value(key);

    push(object, WJB_KEY, &value);
}

static void
put(Ia3JsonObject *object, const char *key, JsonbValue value)
{
    put_key(object, key);
    push(object, WJB_VALUE, &value);
}

void
Ia3JsonBegin(Ia3JsonObject *object)
{
    object->state = NULL;
    push(object, WJB_BEGIN_OBJECT, NULL);
}

Datum
Ia3JsonEnd(Ia3JsonObject *object)
{
    return JsonbPGetDatum(JsonbValueToJsonb(pushJsonbValue(&object->state, WJB_END_OBJECT, NULL)));
}

void
Ia3JsonPutString(Ia3JsonObject *object, const char *key, const char *value)
{
    put(object, key, string_value(value));
}

void
Ia3JsonPutStrings(Ia3JsonObject *object, const char *key, const Ia3Strings *values)
{
    if (values == NULL) {
        put(object, key, string_value(NULL));
        return;
    }
    put_key(object, key);
    push(object, WJB_BEGIN_ARRAY, NULL);
    for (int i = 0; i < values->n; i++) {
        JsonbValue element = string_value(values->items[i]);

        push(object, WJB_ELEM, &element);
    }
    push(object, WJB_END_ARRAY, NULL);
}

void
Ia3JsonPutBool(Ia3JsonObject *object, const char *key, bool value)
{
    JsonbValue boolean = {.type = jbvBool};

    boolean.val.boolean = value;
    put(object, key, boolean);
}

void
Ia3JsonPutInteger(Ia3JsonObject *object, const char *key, int64 value)
{
    put(object, key, numeric_value(DirectFunctionCall1(int8_numeric, Int64GetDatum(value))));
}

void
Ia3JsonPutFloat(Ia3JsonObject *object, const char *key, double value)
{
    char digits[DOUBLE_SHORTEST_DECIMAL_LEN];

    double_to_shortest_decimal_buf(value, digits);
    put(object, key,
        numeric_value(DirectFunctionCall3(numeric_in, CStringGetDatum(digits), ObjectIdGetDatum(InvalidOid),
                                          Int32GetDatum(-1))));
}

void
Ia3JsonPutJsonb(Ia3JsonObject *object, const char *key, Jsonb *value)
{
    JsonbValue binary = {.type = jbvBinary};

    binary.val.binary.data = &value->root;
    binary.val.binary.len = (int) (VARSIZE(value) - VARHDRSZ);
    put(object, key, binary);
}

void
Ia3JsonBeginMember(Ia3JsonObject *object, const char *key)
{
    put_key(object, key);
    push(object, WJB_BEGIN_OBJECT, NULL);
}

void
Ia3JsonEndMember(Ia3JsonObject *object)
{
    push(object, WJB_END_OBJECT, NULL);
}
