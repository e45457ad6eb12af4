/*
 * string_list.c
 *     Converts lists of strings from and to arrays, and finds strings by hash.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"

#include "extension/guc.h"
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
        CHECK_FOR_INTERRUPTS();
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
    Ia3StringIndex *index;

    if (choices->n > Ia3MaxChoices)
        ereport(ERROR,
                (errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED), errmsg("too many choices"),
                 errdetail("There are %d choices, but ia3.max_choices is %d.", choices->n, Ia3MaxChoices),
                 errhint("Narrow the choices down first, for instance to the most similar ones, or ask a "
                         "superuser to raise ia3.max_choices.")));
    index = Ia3StringIndexCreate();
    if (choices->n == 0)
        ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("choices must not be empty")));
    for (int i = 0; i < choices->n; i++) {
        bool found;

        CHECK_FOR_INTERRUPTS();
        if (choices->items[i][0] == '\0')
            ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                            errmsg("choice %d is an empty string", i + 1)));
        Ia3StringIndexAdd(index, choices->items[i], &found);
        if (found)
            ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                            errmsg("choice \"%s\" appears more than once", choices->items[i])));
    }
}
