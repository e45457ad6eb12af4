/*
 * read_file.h
 *     Opens and reads files of a checkpoint.
 */
#ifndef IA3_READ_FILE_H
#define IA3_READ_FILE_H

#include <stdbool.h>
#include <stddef.h>

#include "engine/base/error.h"

#ifdef __cplusplus
extern "C" {
#endif

/* The path of a file in a directory, malloc'd. */
char *ia3_join_path(const char *directory, const char *file);

/*
 * Adds to the error about `path` who the engine's user is and which command helps, if `error`, an errno, says that a
 * permission is missing.
 */
void ia3_explain_access(const char *path, int error, ia3_error *err);

/*
 * Opens a regular file for reading, without blocking if the path is a pipe or a device. Returns the descriptor and the
 * file's size, or -1 after filling err (IA3_E_BAD_CHECKPOINT).
 */
int ia3_open_file(const char *path, size_t *size, ia3_error *err);

/*
 * Reads a regular file of at most `max` bytes into malloc'd memory, with a zero byte after the *len bytes that were read. NULL
 * after filling err (IA3_E_BAD_CHECKPOINT).
 */
char *ia3_read_file(const char *path, size_t max, size_t *len, ia3_error *err);

#ifdef __cplusplus
}
#endif

#endif
