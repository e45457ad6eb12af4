/*
 * row_hashes.c
 *     Hashes of the rows that a version was trained on.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "lib/stringinfo.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "port/pg_bswap.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

#include "arrays.h"
#include "row_hashes.h"
#include "extension/tasks/catalog.h"

struct Ia3RowHasher {
    const Ia3TrainRows *rows;
    MemoryContext scratch;
    int n;
    uint64 *hashes;
};

struct Ia3KnownRows {
    const Ia3Template *template;
    int n;
    uint64 hashes[FLEXIBLE_ARRAY_MEMBER]; /* sorted */
};

static Ia3Query hashesQuery = {
    .sql = "SELECT q.row_hashes FROM ia3.adapter_query q WHERE q.task OPERATOR(pg_catalog.=) $1"
           " AND q.version OPERATOR(pg_catalog.=) $2 AND q.row_hashes IS NOT NULL",
    .nArgs = 2,
    .argTypes = {TEXTOID, INT4OID},
};

static int
compare_names(const void *a, const void *b)
{
    return strcmp(*(const char *const *) a, *(const char *const *) b);
}

/* The fields of a template, in the order of their names. */
static char **
sorted_fields(const Ia3Template *template)
{
    char **fields = palloc(sizeof(char *) * Max(template->nFields, 1));

    memcpy(fields, template->fields, sizeof(char *) * template->nFields);
    qsort(fields, template->nFields, sizeof(char *), compare_names);
    return fields;
}

/* The bytes that are hashed: for each field its length, 8 bytes in network order, and its value in UTF-8. */
static bytea *
row_bytes(const Ia3TrainRows *rows, const Ia3TrainRow *row, const Ia3Template *template)
{
    StringInfoData bytes;
    char **fields = sorted_fields(template);

    initStringInfo(&bytes);
    appendStringInfoSpaces(&bytes, VARHDRSZ);
    for (int i = 0; i < template->nFields; i++) {
        const char *value = row->values[Ia3StringIndexFind(rows->index, fields[i])];
        char *utf8 = pg_server_to_any(value, strlen(value), PG_UTF8);
        uint64 length = pg_hton64(strlen(utf8));

        appendBinaryStringInfo(&bytes, (char *) &length, sizeof length);
        appendBinaryStringInfo(&bytes, utf8, strlen(utf8));
    }
    SET_VARSIZE(bytes.data, bytes.len);
    return (bytea *) bytes.data;
}

static uint64
row_hash(const Ia3TrainRows *rows, const Ia3TrainRow *row, const Ia3Template *template)
{
    Datum digest = DirectFunctionCall1(sha256_bytea, PointerGetDatum(row_bytes(rows, row, template)));
    uint64 hash;

    memcpy(&hash, VARDATA_ANY(DatumGetByteaPP(digest)), sizeof hash);
    return pg_ntoh64(hash);
}

static int
compare_hashes(const void *a, const void *b)
{
    uint64 x = *(const uint64 *) a, y = *(const uint64 *) b;

    return x < y ? -1 : x > y;
}

Ia3RowHasher *
Ia3RowHasherCreate(const Ia3TrainRows *rows, int n)
{
    Ia3RowHasher *hasher = palloc(sizeof(Ia3RowHasher));

    hasher->rows = rows;
    hasher->scratch = AllocSetContextCreate(CurrentMemoryContext, "ia3 hash", ALLOCSET_SMALL_SIZES);
    hasher->n = 0;
    hasher->hashes = Ia3ArrayOf(n, sizeof(uint64));
    return hasher;
}

void
Ia3RowHasherAdd(Ia3RowHasher *hasher, const Ia3TrainRow *row, const Ia3Template *template)
{
    MemoryContext old = MemoryContextSwitchTo(hasher->scratch);

    CHECK_FOR_INTERRUPTS();
    hasher->hashes[hasher->n++] = row_hash(hasher->rows, row, template);
    MemoryContextSwitchTo(old);
    MemoryContextReset(hasher->scratch);
}

bytea *
Ia3RowHasherResult(Ia3RowHasher *hasher)
{
    Size size = VARHDRSZ + sizeof(uint64) * (Size) hasher->n;
    bytea *result = palloc(size);

    qsort(hasher->hashes, hasher->n, sizeof(uint64), compare_hashes);
    SET_VARSIZE(result, size);
    for (int i = 0; i < hasher->n; i++) {
        uint64 hash = pg_hton64(hasher->hashes[i]);

        memcpy(VARDATA(result) + sizeof hash * i, &hash, sizeof hash);
    }
    return result;
}

bytea *
Ia3RowHashes(const Ia3TrainRows *rows, const Ia3Template *template)
{
    Ia3RowHasher *hasher = Ia3RowHasherCreate(rows, rows->n);

    for (int i = 0; i < rows->n; i++)
        Ia3RowHasherAdd(hasher, &rows->rows[i], template);
    return Ia3RowHasherResult(hasher);
}

typedef struct HashesLookup {
    const Ia3Task *task;
    MemoryContext context;
    bytea *hashes; /* NULL: there are none */
} HashesLookup;

static void
look_up_hashes(void *arg)
{
    HashesLookup *look = arg;
    Datum values[2];
    bool isNull;

    Ia3SpiConnect();
    values[0] = CStringGetTextDatum(look->task->name);
    values[1] = Int32GetDatum(look->task->version);
    if (Ia3QueryRun(&hashesQuery, values, NULL, true) > 0) {
        Datum value = Ia3QueryColumn(1, &isNull);
        MemoryContext old = MemoryContextSwitchTo(look->context);

        look->hashes = DatumGetByteaPCopy(value);
        MemoryContextSwitchTo(old);
    }
    Ia3SpiFinish();
}

Ia3KnownRows *
Ia3KnownRowsOf(const Ia3Task *task)
{
    HashesLookup look = {.task = task, .context = CurrentMemoryContext};
    Ia3KnownRows *known;
    int n;

    Ia3RunAndRollBack(look_up_hashes, &look);
    if (look.hashes == NULL)
        return NULL;
    n = VARSIZE_ANY_EXHDR(look.hashes) / sizeof(uint64);
    known =
        palloc_extended(offsetof(Ia3KnownRows, hashes) + sizeof(uint64) * Max((Size) n, 1), MCXT_ALLOC_HUGE);
    known->template = Ia3TemplatesParse(task->templates, task->truncate)[0];
    known->n = n;
    for (int i = 0; i < n; i++) {
        uint64 hash;

        memcpy(&hash, VARDATA_ANY(look.hashes) + sizeof hash * i, sizeof hash);
        known->hashes[i] = pg_ntoh64(hash);
    }
    return known;
}

bool
Ia3KnownRowsHave(const Ia3KnownRows *known, const Ia3TrainRows *rows, const Ia3TrainRow *row)
{
    uint64 hash = row_hash(rows, row, known->template);

    return bsearch(&hash, known->hashes, known->n, sizeof(uint64), compare_hashes) != NULL;
}
