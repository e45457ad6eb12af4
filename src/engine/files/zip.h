/*
 * zip.h
 *     The entries of a zip archive in memory, as torch.save writes it: stored, not compressed.
 */
#ifndef IA3_ZIP_H
#define IA3_ZIP_H

#include <stddef.h>
#include <stdint.h>

#include "engine/base/error.h"

typedef struct ia3_zip_entry {
    const char *name; /* within the archive, not terminated */
    size_t name_len;
    const uint8_t *data; /* NULL if the entry is compressed or encrypted */
    size_t size;         /* bytes of data */
} ia3_zip_entry;

typedef struct ia3_zip {
    int n;
    ia3_zip_entry *entries; /* sorted by name */
} ia3_zip;

/*
 * Reads the central directory, with the extensions for large files (zip64). `data` [len bytes] must outlive the result.
 * Every entry lies within the archive. Errors (IA3_E_BAD_CHECKPOINT) begin with `what`. Freeing NULL is allowed.
 */
ia3_zip *ia3_zip_parse(const uint8_t *data, size_t len, const char *what, ia3_error *err);
const ia3_zip_entry *ia3_zip_find(const ia3_zip *zip, const char *name,
                                  size_t name_len); /* NULL: no such entry */
void ia3_zip_free(ia3_zip *zip);

#endif
