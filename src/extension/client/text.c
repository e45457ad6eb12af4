/*
 * text.c
 *     Converts between the server encoding and the UTF-8 of the protocol.
 */
#include "postgres.h"

#include "catalog/namespace.h"
#include "lib/stringinfo.h"
#include "mb/pg_wchar.h"

#include "text.h"
#include "extension/ia3_compat.h"

void
Ia3PutText(ia3_writer *w, const char *text, int len)
{
    char *utf8 = pg_server_to_any(text, len, PG_UTF8);

    if (utf8 == text)
        ia3_put_str(w, text, len);
    else {
        ia3_put_str(w, utf8, strlen(utf8));
        pfree(utf8);
    }
}

/* Writes a part of a text, unlike Ia3PutText without its length; returns its end in what has been written of it. */
static uint32
put_part(ia3_writer *w, size_t start, const char *text, int len)
{
    char *utf8 = pg_server_to_any(text, len, PG_UTF8);

    ia3_put_bytes(w, utf8, utf8 == text ? (size_t) len : strlen(utf8));
    if (utf8 != text)
        pfree(utf8);
    return (uint32) (w->len - start);
}

void
Ia3PutInput(ia3_writer *w, const Ia3Input *input)
{
    size_t at = w->len, start = at + sizeof(uint32);
    Ia3InputField *fields = palloc_extended(sizeof(Ia3InputField) * Max(input->nFields, 1), MCXT_ALLOC_HUGE);
    int from = 0;
    uint32 tail, len;
    ia3_writer patch;

    /* The length is known only after the conversion: leave room, and fill it in afterwards. */
    ia3_put_u32(w, 0);
    for (int i = 0; i < input->nFields; i++) {
        const Ia3InputField *field = &input->fields[i];

        fields[i].begin = put_part(w, start, input->text + from, field->begin - from);
        fields[i].end = put_part(w, start, input->text + field->begin, field->end - field->begin);
        from = field->end;
    }
    tail = put_part(w, start, input->text + from, input->tail - from);
    len = put_part(w, start, input->text + input->tail, input->len - input->tail);
    patch = *w;
    patch.len = at;
    ia3_put_u32(&patch, len);

    ia3_put_u32(w, tail);
    ia3_put_u32(w, input->nFields);
    for (int i = 0; i < input->nFields; i++) {
        ia3_put_u32(w, fields[i].begin);
        ia3_put_u32(w, fields[i].end);
    }
    pfree(fields);
}

void
Ia3PutChoices(ia3_writer *w, const Ia3Strings *choices, bool multiLabel)
{
    ia3_put_u8(w, multiLabel);
    ia3_put_u32(w, choices->n);
    for (int i = 0; i < choices->n; i++)
        Ia3PutText(w, choices->items[i], strlen(choices->items[i]));
}

/* One character, legal UTF-8 of `len` bytes, in the server encoding. */
static void
append_character(StringInfo out, const unsigned char *c, int len, Oid conversion)
{
    if (OidIsValid(conversion)) {
        unsigned char converted[MAX_CONVERSION_GROWTH * 4 + 1];

        if (Ia3TryConversionFromUtf8(conversion, c, len, converted, sizeof converted)) {
            appendStringInfoString(out, (char *) converted);
            return;
        }
        appendStringInfo(out, "\\u%04X", utf8_to_unicode(c));
        return;
    }
    appendBinaryStringInfo(out, (const char *) c, len);
}

static char *
from_utf8(const char *text, size_t n)
{
    const unsigned char *p = (const unsigned char *) text, *end = p + n;
    int encoding = GetDatabaseEncoding();
    Oid conversion = InvalidOid;
    StringInfoData out;

    if (encoding != PG_UTF8 && encoding != PG_SQL_ASCII)
        conversion = FindDefaultConversionProc(PG_UTF8, encoding);
    initStringInfo(&out);
    while (p < end) {
        int len = pg_utf_mblen(p);

        if (*p == '\0' || len > end - p || !pg_utf8_islegal(p, len)) {
            appendStringInfoChar(&out, '?');
            p++;
        } else if (len == 1) {
            appendStringInfoChar(&out, *p++);
        } else {
            append_character(&out, p, len, conversion);
            p += len;
        }
    }
    return out.data;
}

char *
Ia3GetText(ia3_reader *r)
{
    size_t n;
    const char *text = ia3_get_str(r, &n);

    return from_utf8(text, n);
}

char *
Ia3EngineText(const char *message)
{
    return from_utf8(message, strlen(message));
}
