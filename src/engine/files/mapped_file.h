/*
 * mapped_file.h
 *     A file that is mapped into memory read-only, and that may change meanwhile.
 *
 * A process that reads a mapped page behind the end of its file is killed with SIGBUS, and anybody who may write to the file
 * can truncate it at any time. While a file is mapped here, such pages read as zeros, and ia3_mapped_unchanged() says that
 * the file has changed.
 *
 * Threads: any thread may map, read and unmap. The signal handler stays when the last file is closed.
 */
#ifndef IA3_MAPPED_FILE_H
#define IA3_MAPPED_FILE_H

#include <stdint.h>
#include <time.h>

#include "engine/base/error.h"

typedef struct ia3_mapped_file {
    const uint8_t *data; /* NULL if the file is empty */
    size_t len;
    int slot; /* of the handler's table */
    int fd;
    struct timespec modified;
} ia3_mapped_file;

/* Maps a regular file. Errors (IA3_E_BAD_CHECKPOINT) name the path. */
bool ia3_mapped_open(ia3_mapped_file *f, const char *path, ia3_error *err);

/*
 * Whether the file is still what it was when it was mapped, as far as its size, its time of modification and the pages that
 * have been read tell.
 */
bool ia3_mapped_unchanged(const ia3_mapped_file *f);

/* Tells the operating system that the pages within [data, data + len) are not needed now. A later access reads them again. */
void ia3_mapped_release(const ia3_mapped_file *f, const void *data, size_t len);

/* Closing a file that could not be opened is allowed. */
void ia3_mapped_close(ia3_mapped_file *f);

#endif
