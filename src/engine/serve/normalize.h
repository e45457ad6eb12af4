/*
 * normalize.h
 *     NORMALIZE: an adapter in any spelling that its method takes, as the one that is stored.
 */
#ifndef IA3_NORMALIZE_H
#define IA3_NORMALIZE_H

#include "common/wire.h"
#include "engine/files/adapter.h"

/*
 * `layouts` are those of the methods. Writes the payload of NORMALIZE_OK (protocol.h). The same vectors give the same bytes, whatever names, order,
 * shapes or dtype they came with. False after an error: IA3_E_PROTOCOL, or IA3_E_BAD_ADAPTER naming the tensor;
 * nothing has been written then.
 */
bool ia3_normalize(const ia3_method *const *methods, ia3_layout *const *layouts, const uint8_t *payload,
                   size_t len, ia3_writer *w, ia3_error *err);

#endif
