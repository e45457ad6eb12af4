/*
 * error.h
 *     How the engine's functions report what went wrong.
 *
 * A function that can fail returns false or NULL after filling the caller's ia3_error; the first error
 * wins. The texts become PostgreSQL messages, so they follow its rules: a lowercase message without a
 * final period, detail and hint in full sentences (both may be empty).
 */
#ifndef IA3_ERROR_H
#define IA3_ERROR_H

#include <stdbool.h>
#include <stddef.h>

#include "common/protocol.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct ia3_error {
    Ia3ErrorCode code; /* 0 = no error */
    char message[512];
    char detail[512];
    char hint[256];
} ia3_error;

/* Sets the error and returns false, so that a function can `return ia3_fail(...)`. */
bool ia3_fail(ia3_error *err, Ia3ErrorCode code, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* Add to an error that has just been set; both return false. */
bool ia3_fail_detail(ia3_error *err, const char *format, ...) __attribute__((format(printf, 2, 3)));
bool ia3_fail_hint(ia3_error *err, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Writes "message: detail (hint)" into `buffer` as one line, for places that have no fields. */
void ia3_error_join(const ia3_error *err, char *buffer, size_t size);

#ifdef __cplusplus
}
#endif

#endif
