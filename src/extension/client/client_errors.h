/*
 * client_errors.h
 *     What a backend raises when an engine refuses a request, is not there, or goes away.
 */
#ifndef IA3_CLIENT_ERRORS_H
#define IA3_CLIENT_ERRORS_H

#include "extension/ia3_compat.h"
#include "connection.h"

/*
 * Raises an engine's error with the SQLSTATE of its code. `detail` and `hint` may be NULL or empty; `context` may be
 * NULL and becomes the errcontext. All in server encoding (Ia3GetText).
 */
extern void Ia3RaiseEngineError(uint32 code, const char *message, const char *detail, const char *hint,
                                const char *context) pg_attribute_noreturn();
/* Raises the error that an ERROR frame carries. */
extern void Ia3RaiseErrorFrame(ia3_reader *reader) pg_attribute_noreturn();

/*
 * Closes the connection and raises what `result`, which is not IA3_IO_OK, means: 08006 if the engine went away, 08P01
 * if its reply cannot be understood, 57P03 if it does not answer, 55000 if it speaks another version of the protocol.
 */
extern void Ia3RaiseIo(Ia3Connection *conn, Ia3IoResult result, ia3_reader *reader) pg_attribute_noreturn();

extern void Ia3RaiseUnknownBackbone(const char *backbone) pg_attribute_noreturn();
/* All engines of the backbone have failed; with several devices, each says why. */
extern void Ia3RaiseFailed(const char *backbone) pg_attribute_noreturn();
extern void Ia3RaiseNotReady(const char *backbone, const Ia3EngineStatus *status) pg_attribute_noreturn();

#endif
