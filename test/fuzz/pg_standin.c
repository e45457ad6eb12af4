/*
 * pg_standin.c
 *     The parts of PostgreSQL that the parsers of the extension use: memory, errors, characters. See pg_standin.h.
 *
 * StringInfo, psprintf, the hash function and the tables of characters come from PostgreSQL's own libraries for client
 * programs; the functions that these call in turn (pg_malloc and so on) are here.
 */
#include "pg_standin.h"

#include <setjmp.h>

#include "lib/stringinfo.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

/*
 * Memory
 */

typedef struct Chunk {
    struct Chunk *next, **prev;
} Chunk;

static MemoryContextData inputContext, topContext;
MemoryContext CurrentMemoryContext = &inputContext;
MemoryContext TopMemoryContext = &topContext;
static Chunk *inputChunks, *topChunks;

static void *
allocate(MemoryContext context, Size size, int flags)
{
    Chunk **list = context == &topContext ? &topChunks : &inputChunks;
    Chunk *chunk;

    if (size > ((flags & MCXT_ALLOC_HUGE) != 0 ? MaxAllocHugeSize : MaxAllocSize))
        elog(ERROR, "invalid memory alloc request size %zu", size);
    chunk = malloc(sizeof(Chunk) + size);
    if (chunk == NULL)
        ereport(ERROR, (errcode(ERRCODE_OUT_OF_MEMORY), errmsg("out of memory")));
    chunk->prev = list;
    chunk->next = *list;
    if (*list != NULL)
        (*list)->prev = &chunk->next;
    *list = chunk;
    if (flags & MCXT_ALLOC_ZERO)
        memset(chunk + 1, 0, size);
    return chunk + 1;
}

static void *
reallocate(void *pointer, Size size, int flags)
{
    Chunk *chunk = (Chunk *) pointer - 1;

    if (size > ((flags & MCXT_ALLOC_HUGE) != 0 ? MaxAllocHugeSize : MaxAllocSize))
        elog(ERROR, "invalid memory alloc request size %zu", size);
    chunk = realloc(chunk, sizeof(Chunk) + size);
    if (chunk == NULL)
        abort();
    *chunk->prev = chunk;
    if (chunk->next != NULL)
        chunk->next->prev = &chunk->next;
    return chunk + 1;
}

void
pfree(void *pointer)
{
    Chunk *chunk = (Chunk *) pointer - 1;

    *chunk->prev = chunk->next;
    if (chunk->next != NULL)
        chunk->next->prev = chunk->prev;
    free(chunk);
}

void
pg_reset(void)
{
    while (inputChunks != NULL)
        pfree(inputChunks + 1);
}

void *
palloc(Size size)
{
    return allocate(CurrentMemoryContext, size, 0);
}

void *
palloc0(Size size)
{
    return allocate(CurrentMemoryContext, size, MCXT_ALLOC_ZERO);
}

void *
palloc_extended(Size size, int flags)
{
    return allocate(CurrentMemoryContext, size, flags);
}

void *
MemoryContextAlloc(MemoryContext context, Size size)
{
    return allocate(context, size, 0);
}

void *
MemoryContextAllocZero(MemoryContext context, Size size)
{
    return allocate(context, size, MCXT_ALLOC_ZERO);
}

void *
MemoryContextAllocHuge(MemoryContext context, Size size)
{
    return allocate(context, size, MCXT_ALLOC_HUGE);
}

void *
MemoryContextAllocExtended(MemoryContext context, Size size, int flags)
{
    return allocate(context, size, flags);
}

void *
repalloc(void *pointer, Size size)
{
    return reallocate(pointer, size, 0);
}

void *
repalloc_huge(void *pointer, Size size)
{
    return reallocate(pointer, size, MCXT_ALLOC_HUGE);
}

char *
pnstrdup(const char *in, Size len)
{
    char *out;

    len = strnlen(in, len);
    out = palloc(len + 1);
    memcpy(out, in, len);
    out[len] = '\0';
    return out;
}

char *
pstrdup(const char *in)
{
    return pnstrdup(in, strlen(in));
}

/* Called by the libraries. */
void *pg_malloc(size_t size);
void *pg_malloc0(size_t size);
void *pg_malloc_extended(size_t size, int flags);
void *pg_realloc(void *pointer, size_t size);
char *pg_strdup(const char *in);
void pg_free(void *pointer);

void *
pg_malloc(size_t size)
{
    return palloc(size);
}

void *
pg_malloc0(size_t size)
{
    return palloc0(size);
}

void *
pg_malloc_extended(size_t size, int flags)
{
    return palloc_extended(size, flags);
}

void *
pg_realloc(void *pointer, size_t size)
{
    return pointer ? repalloc(pointer, size) : palloc(size);
}

char *
pg_strdup(const char *in)
{
    return pstrdup(in);
}

void
pg_free(void *pointer)
{
    if (pointer != NULL)
        pfree(pointer);
}

/*
 * Errors
 */

sigjmp_buf *PG_exception_stack = NULL;
ErrorContextCallback *error_context_stack = NULL;
volatile sig_atomic_t InterruptPending = false;
static int level;
int pg_sqlstate;
char pg_message[8192];

bool
pg_run(void (*function)(void *arg), void *arg)
{
    sigjmp_buf jump;
    bool ok = sigsetjmp(jump, 0) == 0;

    PG_exception_stack = ok ? &jump : NULL;
    if (ok)
        function(arg);
    PG_exception_stack = NULL;
    CurrentMemoryContext = &inputContext;
    return ok;
}

void
pg_re_throw(void)
{
    siglongjmp(*PG_exception_stack, 1);
}

bool
errstart(int elevel, const char *domain)
{
    level = elevel;
    if (elevel >= ERROR)
        pg_sqlstate = ERRCODE_INTERNAL_ERROR;
    return true;
}

bool
errstart_cold(int elevel, const char *domain)
{
    return errstart(elevel, domain);
}

void
errfinish(const char *file, int line, const char *function)
{
    if (level >= ERROR)
        pg_re_throw();
}

int
errcode(int sqlstate)
{
    if (level >= ERROR)
        pg_sqlstate = sqlstate;
    return 0;
}

/* Formats what is said, in order to read it; the primary message is kept. */
static int
say(bool primary, const char *format, va_list args)
{
    char text[8192];

    vsnprintf(text, sizeof text, format, args);
    if (primary && level >= ERROR)
        strcpy(pg_message, text);
    return 0;
}

#define SAYS(name, primary)                                                                                  \
    int name(const char *format, ...)                                                                        \
    {                                                                                                        \
        va_list args;                                                                                        \
        va_start(args, format);                                                                              \
        say(primary, format, args);                                                                          \
        va_end(args);                                                                                        \
        return 0;                                                                                            \
    }
SAYS(errmsg, true)
SAYS(errmsg_internal, true)
SAYS(errdetail, false)
SAYS(errdetail_internal, false)
SAYS(errhint, false)
SAYS(errcontext_msg, false)

int
set_errcontext_domain(const char *domain)
{
    return 0;
}

int
errcode_for_file_access(void)
{
    return errcode(ERRCODE_IO_ERROR);
}

int
errcode_for_socket_access(void)
{
    return errcode(ERRCODE_IO_ERROR);
}

void
ExceptionalCondition(const char *condition,
#if PG_VERSION_NUM < 160000
                     const char *type,
#endif
                     const char *file, int line)
{
    fprintf(stderr, "failed assertion: %s, %s:%d\n", condition, file, line);
    abort();
}

void
ProcessInterrupts(void)
{
}

void
pg_check_error(void)
{
    if (pg_sqlstate == ERRCODE_INTERNAL_ERROR) {
        fprintf(stderr, "internal error: %s\n", pg_message);
        abort();
    }
}

/*
 * Characters
 */

int
GetDatabaseEncoding(void)
{
    return PG_UTF8;
}

int
pg_mbcliplen(const char *string, int len, int limit)
{
    int clipped = 0;

    while (clipped < len && string[clipped] != '\0') {
        int n = pg_utf_mblen((const unsigned char *) string + clipped);

        if (clipped + n > limit)
            break;
        clipped += n;
    }
    return clipped;
}

int
pg_encoding_mbcliplen(int encoding, const char *string, int len, int limit)
{
    return pg_mbcliplen(string, len, limit);
}

int
pg_mbstrlen_with_len(const char *string, int len)
{
    int n = 0;

    for (int i = 0; i < len && string[i] != '\0'; n++)
        i += pg_utf_mblen((const unsigned char *) string + i);
    return n;
}

char *
pg_server_to_any(const char *string, int len, int encoding)
{
    return (char *) string;
}

char *
pg_text(const uint8_t *data, size_t size)
{
    if (memchr(data, 0, size) != NULL ||
        pg_encoding_verifymbstr(PG_UTF8, (const char *) data, size) != (int) size)
        return NULL;
    return pnstrdup((const char *) data, size);
}

text *
cstring_to_text(const char *string)
{
    size_t len = strlen(string);
    text *t = palloc(VARHDRSZ + len);

    SET_VARSIZE(t, VARHDRSZ + len);
    memcpy(VARDATA(t), string, len);
    return t;
}

char *
text_to_cstring(const text *t)
{
    return pnstrdup(VARDATA_ANY(t), VARSIZE_ANY_EXHDR(t));
}

struct varlena *
pg_detoast_datum(struct varlena *datum)
{
    return datum;
}

struct varlena *
pg_detoast_datum_packed(struct varlena *datum)
{
    return datum;
}
