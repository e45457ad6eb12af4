/*
 * json_file.h
 *     Reads the JSON files of a checkpoint, as they are written by Python.
 *
 * Python's json module writes and reads more than JSON allows: integers of any size (transformers stores "no maximum" as
 * 1000000000000000019884624838656), NaN and Infinity. Of several members with one name it keeps the last. Some editors put
 * a byte order mark in front.
 */
#ifndef IA3_JSON_FILE_H
#define IA3_JSON_FILE_H

#include <jansson.h>
#include <stddef.h>

#include "engine/base/error.h"

#ifdef __cplusplus
extern "C" {
#endif

/*
 * Parses an object. Integers beyond 18 digits become reals, and what no number can represent becomes a string: "NaN",
 * "Infinity", "-Infinity". So a reader that asks for a number refuses it, and one that does not look at it never notices.
 * NULL after filling err (IA3_E_BAD_CHECKPOINT), which names the path and the line. The caller owns the object.
 */
json_t *ia3_json_parse(const char *text, size_t len, const char *path, ia3_error *err);

/* Reads and parses a file of at most `max` bytes. Errors are those of ia3_json_parse and ia3_read_file. */
json_t *ia3_json_read(const char *path, size_t max, ia3_error *err);

#ifdef __cplusplus
}
#endif

#endif
