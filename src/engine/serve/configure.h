/*
 * configure.h
 *     Handles CONFIGURE, which checks the options of a method.
 */
#ifndef IA3_CONFIGURE_H
#define IA3_CONFIGURE_H

#include "common/wire.h"
#include "engine/files/layouts.h"

/*
 * Parses the payload of CONFIGURE and writes that of CONFIGURE_OK (protocol.h). On error it writes nothing and returns
 * false: IA3_E_PROTOCOL for a malformed request, IA3_E_INVALID
 * for an unknown method or option and for values that are not allowed, IA3_E_UNSUPPORTED for a version that this engine
 * does not know, IA3_E_TOO_LONG for adapters that are too large.
 */
bool ia3_configure(ia3_layouts *layouts, const uint8_t *payload, size_t len, ia3_writer *w, ia3_error *err);

/* Reads a method and its options at the end of a message, whose name is `what`. Errors are the first three above. */
bool ia3_configure_read(ia3_reader *in, const ia3_method *const *methods, const char *what,
                        ia3_variant *variant, ia3_error *err);

#endif
