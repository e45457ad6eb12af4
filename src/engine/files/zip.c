/*
 * zip.c
 *     Reads the directory of a zip archive (PKWARE's APPNOTE.TXT, sections 4.3 and 4.5.3).
 *
 * The directory is at the end, followed by a record that says where it begins. Sizes that do not fit in 32 bits are in an
 * extra field. Checksums are not compared: a backbone has a digest.
 */
#include "zip.h"

#include <stdlib.h>
#include <string.h>

#include "bytes.h"
#include "engine/base/alloc.h"

enum {
    LOCAL_SIZE = 30,
    ENTRY_SIZE = 46,
    END_SIZE = 22,
    LOCATOR_SIZE = 20,
    END64_SIZE = 56,
    MOST_COMMENT = 65535,
    EXTRA_ZIP64 = 1
};

typedef struct archive {
    const uint8_t *data;
    size_t len;
    const char *what;
    ia3_error *err;
} archive;

static bool
fail(const archive *a, const char *message)
{
    ia3_fail(a->err, IA3_E_BAD_CHECKPOINT, "%s: %s", a->what, message);
    return ia3_fail_hint(a->err, "Download the file again: it may be incomplete.");
}

/* The record at the end, before which there may only be the records of zip64. NULL if there is none. */
static const uint8_t *
find_end(const archive *a)
{
    for (size_t back = END_SIZE; back <= a->len && back <= END_SIZE + MOST_COMMENT; back++) {
        const uint8_t *at = a->data + a->len - back;
        if (ia3_little_endian(at, 4) == 0x06054b50 && ia3_little_endian(at + 20, 2) == back - END_SIZE)
            return at;
    }
    return NULL;
}

/* Where the directory is, from the record at the end or the one of zip64 that precedes it. */
static bool
find_directory(const archive *a, uint64_t *offset, uint64_t *size, uint64_t *n)
{
    const uint8_t *end = find_end(a);
    if (end == NULL)
        return fail(a, "the directory at the end of the zip archive is missing");
    *n = ia3_little_endian(end + 10, 2);
    *size = ia3_little_endian(end + 12, 4);
    *offset = ia3_little_endian(end + 16, 4);
    if (end - a->data >= LOCATOR_SIZE && ia3_little_endian(end - LOCATOR_SIZE, 4) == 0x07064b50) {
        uint64_t at = ia3_little_endian(end - LOCATOR_SIZE + 8, 8);
        if (at > a->len || a->len - at < END64_SIZE || ia3_little_endian(a->data + at, 4) != 0x06064b50)
            return fail(a, "the directory of the zip archive is invalid");
        *n = ia3_little_endian(a->data + at + 32, 8);
        *size = ia3_little_endian(a->data + at + 40, 8);
        *offset = ia3_little_endian(a->data + at + 48, 8);
    }
    if (*offset > a->len || *size > a->len - *offset || *n > *size / ENTRY_SIZE || *n > INT32_MAX)
        return fail(a, "the directory of the zip archive is invalid");
    return true;
}

/* The fields of an entry that an extra field may replace. */
typedef struct large {
    uint64_t size, compressed, local;
} large;

static bool
read_zip64(const archive *a, const uint8_t *extra, size_t len, large *l)
{
    while (len >= 4) {
        size_t id = ia3_little_endian(extra, 2), n = ia3_little_endian(extra + 2, 2);
        if (n > len - 4)
            break;
        const uint8_t *at = extra + 4, *end = at + n;
        if (id == EXTRA_ZIP64) {
            /* in this order, and only those that do not fit */
            uint64_t *fields[] = {&l->size, &l->compressed, &l->local};
            for (int i = 0; i < 3; i++)
                if (*fields[i] == UINT32_MAX) {
                    if (end - at < 8)
                        return fail(a, "the directory of the zip archive is invalid");
                    *fields[i] = ia3_little_endian(at, 8);
                    at += 8;
                }
        }
        extra += 4 + n;
        len -= 4 + n;
    }
    return true;
}

/* Reads the entry at `at`, of which `room` bytes are in the directory; *used is its length. */
static bool
read_entry(const archive *a, const uint8_t *at, size_t room, ia3_zip_entry *e, size_t *used)
{
    if (room < ENTRY_SIZE || ia3_little_endian(at, 4) != 0x02014b50)
        return fail(a, "the directory of the zip archive is invalid");
    size_t name = ia3_little_endian(at + 28, 2), extra = ia3_little_endian(at + 30, 2),
           comment = ia3_little_endian(at + 32, 2);
    *used = ENTRY_SIZE + name + extra + comment;
    if (*used > room)
        return fail(a, "the directory of the zip archive is invalid");
    large l = {.compressed = ia3_little_endian(at + 20, 4),
               .size = ia3_little_endian(at + 24, 4),
               .local = ia3_little_endian(at + 42, 4)};
    if (!read_zip64(a, at + ENTRY_SIZE + name, extra, &l))
        return false;
    *e = (ia3_zip_entry){.name = (const char *) at + ENTRY_SIZE, .name_len = name, .size = l.size};
    bool encrypted = ia3_little_endian(at + 8, 2) & 1, stored = ia3_little_endian(at + 10, 2) == 0;
    if (encrypted || !stored)
        return true;
    if (l.local > a->len || a->len - l.local < LOCAL_SIZE ||
        ia3_little_endian(a->data + l.local, 4) != 0x04034b50)
        return fail(a, "an entry of the zip archive is not where the directory says");
    uint64_t begin = l.local + LOCAL_SIZE + ia3_little_endian(a->data + l.local + 26, 2) +
                     ia3_little_endian(a->data + l.local + 28, 2);
    if (begin > a->len || l.size > a->len - begin)
        return fail(a, "an entry of the zip archive reaches beyond the end of the file");
    e->data = a->data + begin;
    return true;
}

static int
compare_entries(const void *a, const void *b)
{
    const ia3_zip_entry *x = a, *y = b;
    return ia3_compare_bytes(x->name, x->name_len, y->name, y->name_len);
}

ia3_zip *
ia3_zip_parse(const uint8_t *data, size_t len, const char *what, ia3_error *err)
{
    archive a = {data, len, what, err};
    uint64_t offset = 0, size = 0, n = 0;
    if (!find_directory(&a, &offset, &size, &n))
        return NULL;
    ia3_zip *zip = ia3_alloc(sizeof *zip);
    zip->entries = ia3_alloc_array(n ? n : 1, sizeof *zip->entries);
    const uint8_t *at = data + offset;
    for (size_t used = 0; zip->n < (int64_t) n; at += used, size -= used)
        if (!read_entry(&a, at, size, &zip->entries[zip->n++], &used)) {
            ia3_zip_free(zip);
            return NULL;
        }
    qsort(zip->entries, (size_t) zip->n, sizeof *zip->entries, compare_entries);
    return zip;
}

const ia3_zip_entry *
ia3_zip_find(const ia3_zip *zip, const char *name, size_t name_len)
{
    const ia3_zip_entry key = {.name = name, .name_len = name_len};
    return bsearch(&key, zip->entries, (size_t) zip->n, sizeof *zip->entries, compare_entries);
}

void
ia3_zip_free(ia3_zip *zip)
{
    if (zip == NULL)
        return;
    free(zip->entries);
    free(zip);
}
