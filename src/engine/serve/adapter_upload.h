/*
 * adapter_upload.h
 *     Adapters of the cache on the device. On the compute thread.
 */
#ifndef IA3_ADAPTER_UPLOAD_H
#define IA3_ADAPTER_UPLOAD_H

#include "serve.h"

/*
 * Moves the vectors of an adapter (NULL: nothing to do) to the device when it is used for the first time. IA3_E_MEMORY also
 * asks the I/O thread to evict what nobody uses.
 */
bool ia3_adapter_to_device(ia3_server *s, ia3_cached_adapter *a, ia3_error *err);

#endif
