/*
 * error.h
 *     Error reporting in the engine.
 *
 * A function that can fail returns false or NULL after filling the caller's ia3_error. Once an error is set, later
 * ones are ignored. The texts become PostgreSQL messages and follow PostgreSQL's style: the message is lowercase
 * without a final period, detail and hint are full sentences (both may be empty). Longer texts are truncated; control
 * characters and invalid UTF-8 are replaced by "?".
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

/* Sets the error and returns false, so that a function can `return ia3_fail(...)`. err may be NULL. */
bool ia3_fail(ia3_error *err, Ia3ErrorCode code, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* Add a detail or a hint to an error that has just been set; both return false. */
bool ia3_fail_detail(ia3_error *err, const char *format, ...) __attribute__((format(printf, 2, 3)));
bool ia3_fail_hint(ia3_error *err, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Writes "message: detail (hint)" to `buffer` as one line, for places without separate fields. */
void ia3_error_join(const ia3_error *err, char *buffer, size_t size);

#ifdef __cplusplus
}
#endif

#endif
