/*
 * string_list.c
 *     Lists of strings (choices, templates, fields) and their way to the engine.
 */
#include "postgres.h"

#include "catalog/namespace.h"
#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "mb/pg_wchar.h"
#include "utils/array.h"
#include "utils/builtins.h"

#include "string_list.h"

/* A hash table from string to position. */
typedef struct StringEntry {
    const char *string;
    uint32 hash;
    int position;
    char status;
} StringEntry;

#define SH_PREFIX            string_table
#define SH_ELEMENT_TYPE      StringEntry
#define SH_KEY_TYPE          const char *
#define SH_KEY               string
#define SH_HASH_KEY(tb, key) hash_bytes((const unsigned char *) (key), (int) strlen(key))
#define SH_EQUAL(tb, a, b)   (strcmp(a, b) == 0)
#define SH_STORE_HASH
#define SH_GET_HASH(tb, a) (a)->hash
#define SH_SCOPE           static inline
#define SH_DECLARE
#define SH_DEFINE
#include "lib/simplehash.h"

struct Ia3StringIndex {
    string_table_hash *table;
    Ia3Strings strings;
    int capacity;
    MemoryContext context;
};

Ia3Strings *
Ia3StringsFromArray(Datum array, const char *what)
{
    ArrayType *arr = DatumGetArrayTypeP(array);
    Ia3Strings *strings = palloc0(sizeof(Ia3Strings));
    Datum *elements;
    bool *nulls;

    if (ARR_NDIM(arr) > 1)
        ereport(ERROR,
                (errcode(ERRCODE_ARRAY_SUBSCRIPT_ERROR), errmsg("%s must be a one-dimensional array", what)));
    deconstruct_array(arr, TEXTOID, -1, false, TYPALIGN_INT, &elements, &nulls, &strings->n);
    strings->items = palloc(sizeof(char *) * Max(strings->n, 1));
    for (int i = 0; i < strings->n; i++) {
        if (nulls[i])
            ereport(ERROR,
                    (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED), errmsg("%s must not contain nulls", what),
                     errdetail("Element %d is null.", i + 1)));
        strings->items[i] = TextDatumGetCString(elements[i]);
    }
    return strings;
}

Datum
Ia3StringsToArray(const Ia3Strings *strings)
{
    Datum *elements = palloc(sizeof(Datum) * Max(strings->n, 1));

    for (int i = 0; i < strings->n; i++)
        elements[i] = CStringGetTextDatum(strings->items[i]);
    return PointerGetDatum(construct_array(elements, strings->n, TEXTOID, -1, false, TYPALIGN_INT));
}

char *
Ia3StringsJoin(const Ia3Strings *strings, const char *separator)
{
    StringInfoData out;

    initStringInfo(&out);
    for (int i = 0; i < strings->n; i++) {
        if (i > 0)
            appendStringInfoString(&out, separator);
        appendStringInfoString(&out, strings->items[i]);
    }
    return out.data;
}

bool
Ia3StringsEqual(const Ia3Strings *a, const Ia3Strings *b)
{
    if (a->n != b->n)
        return false;
    for (int i = 0; i < a->n; i++)
        if (strcmp(a->items[i], b->items[i]) != 0)
            return false;
    return true;
}

Ia3StringIndex *
Ia3StringIndexCreate(void)
{
    Ia3StringIndex *index = palloc0(sizeof(Ia3StringIndex));

    index->context = CurrentMemoryContext;
    index->table = string_table_create(CurrentMemoryContext, 16, NULL);
    index->capacity = 16;
    index->strings.items = palloc(sizeof(char *) * index->capacity);
    return index;
}

int
Ia3StringIndexAdd(Ia3StringIndex *index, char *string, bool *found)
{
    StringEntry *entry = string_table_insert(index->table, string, found);

    if (!*found) {
        if (index->strings.n == index->capacity) {
            index->capacity *= 2;
            index->strings.items = repalloc(index->strings.items, sizeof(char *) * index->capacity);
        }
        entry->position = index->strings.n;
        index->strings.items[index->strings.n++] = string;
    }
    return entry->position;
}

int
Ia3StringIndexFind(Ia3StringIndex *index, const char *string)
{
    StringEntry *entry = string_table_lookup(index->table, string);

    return entry ? entry->position : -1;
}

const Ia3Strings *
Ia3StringIndexStrings(const Ia3StringIndex *index)
{
    return &index->strings;
}

void
Ia3CheckChoices(const Ia3Strings *choices)
{
    Ia3StringIndex *index = Ia3StringIndexCreate();

    if (choices->n == 0)
        ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("choices must not be empty")));
    for (int i = 0; i < choices->n; i++) {
        bool found;

        if (choices->items[i][0] == '\0')
            ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                            errmsg("choice %d is an empty string", i + 1)));
        Ia3StringIndexAdd(index, choices->items[i], &found);
        if (found)
            ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                            errmsg("choice \"%s\" appears more than once", choices->items[i])));
    }
}

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

/* Writes unlike Ia3PutText no length. */
static size_t
put_converted(ia3_writer *w, const char *text, int len)
{
    char *utf8 = pg_server_to_any(text, len, PG_UTF8);
    size_t n = utf8 == text ? (size_t) len : strlen(utf8);

    ia3_put_bytes(w, utf8, n);
    if (utf8 != text)
        pfree(utf8);
    return n;
}

void
Ia3PutInput(ia3_writer *w, const char *text, int len, int tail)
{
    size_t body, rest, at = w->len;
    ia3_writer patch;

    /* The length is known only after the conversion: leave room, and fill it in afterwards. */
    ia3_put_u32(w, 0);
    body = put_converted(w, text, tail);
    rest = put_converted(w, text + tail, len - tail);
    ia3_put_u32(w, (uint32) body);

    patch = *w;
    patch.len = at;
    ia3_put_u32(&patch, (uint32) (body + rest));
}

void
Ia3PutStrings(ia3_writer *w, const Ia3Strings *strings)
{
    ia3_put_u32(w, strings->n);
    for (int i = 0; i < strings->n; i++)
        Ia3PutText(w, strings->items[i], strlen(strings->items[i]));
}

/* One character, legal UTF-8 of `len` bytes, in the server encoding. */
static void
append_character(StringInfo out, const unsigned char *c, int len, Oid conversion)
{
    if (OidIsValid(conversion)) {
#if PG_VERSION_NUM >= 140000
        unsigned char converted[MAX_CONVERSION_GROWTH * 4 + 1];

        if (pg_do_encoding_conversion_buf(conversion, PG_UTF8, GetDatabaseEncoding(), (unsigned char *) c,
                                          len, converted, sizeof converted, true) == len) {
            appendStringInfoString(out, (char *) converted);
            return;
        }
#endif
        /* 13 cannot ask without an error, so there only ASCII is taken over. */
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

void
Ia3ProtocolError(const char *what)
{
    Ia3RequestAbandon();
    ereport(ERROR, (errcode(ERRCODE_PROTOCOL_VIOLATION), errmsg("unexpected reply from the ia3 engine"),
                    errdetail("%s", what)));
}
