/*
 * normalize.h
 *     Handles NORMALIZE, which converts an adapter in any format that its method supports to the stored format.
 */
#ifndef IA3_NORMALIZE_H
#define IA3_NORMALIZE_H

#include "common/wire.h"
#include "engine/files/adapter.h"

/*
 * Parses the payload of NORMALIZE and writes that of NORMALIZE_OK (protocol.h); `layouts` are those of the methods. The
 * same values always give the same bytes, whatever names, order, shapes or dtype they have in the input. On error it
 * writes nothing and returns false: IA3_E_PROTOCOL, or IA3_E_BAD_ADAPTER naming the tensor.
 */
bool ia3_normalize(const ia3_method *const *methods, ia3_layout *const *layouts, const uint8_t *payload,
                   size_t len, ia3_writer *w, ia3_error *err);

#endif
