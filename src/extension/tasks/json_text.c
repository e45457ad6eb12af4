/*
 * json_text.c
 *     JSON in values of the types json and text, whose bytes are the same.
 */
#include "postgres.h"

#include "common/jsonapi.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"

#include "extension/ia3_compat.h"
#include "json_text.h"

#define SPACES " \t\n\r"

bool
Ia3IsJsonObject(const char *text)
{
    const char *end = text + strlen(text);

    /* most texts are told apart without parsing them */
    text += strspn(text, SPACES);
    while (end > text && strchr(SPACES, end[-1]) != NULL)
        end--;
    if (end - text < 2 || *text != '{' || end[-1] != '}')
        return false;
    return pg_parse_json(Ia3JsonLexer((char *) text, end - text), &nullSemAction) == JSON_SUCCESS;
}

Jsonb *
Ia3JsonbFromText(Datum value)
{
    return DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum(TextDatumGetCString(value))));
}
