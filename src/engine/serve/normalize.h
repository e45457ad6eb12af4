/*
 * normalize.h
 *     Handles NORMALIZE, which converts an adapter in any format that its method supports to the stored format.
 */
#ifndef IA3_NORMALIZE_H
#define IA3_NORMALIZE_H

#include "common/wire.h"
#include "engine/files/adapter.h"

/*
 * Parses the payload of NORMALIZE and writes that of NORMALIZE_OK (protocol.h). The same values always give the same
 * bytes, whatever names, order, shapes or dtype they have in the input. On error it writes nothing and returns false:
 * IA3_E_PROTOCOL for a malformed request,
 * IA3_E_BAD_ADAPTER for bytes that are not an adapter of this backbone, IA3_E_INVALID for a configuration that
 * contradicts them or that the method cannot compute, IA3_E_UNSUPPORTED for one of a method that PEFT does not have.
 */
bool ia3_normalize(ia3_layouts *layouts, const uint8_t *payload, size_t len, ia3_writer *w, ia3_error *err);

#endif
