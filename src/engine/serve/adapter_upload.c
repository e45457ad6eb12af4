/*
 * adapter_upload.c
 *     Cached adapters move to the device when they are first used.
 */
#include "adapter_upload.h"

#include <stdlib.h>

bool
ia3_adapter_to_device(ia3_server *s, ia3_cached_adapter *a, ia3_error *err)
{
    if (a == NULL || a->device)
        return true;
    a->device = ia3_adapter_create(s->model, a->layout, a->values, a->digest, err);
    if (a->device == NULL) {
        if (err->code == IA3_E_MEMORY)
            ia3_queue_post(s->queue, &(ia3_event){.kind = IA3_EVENT_SHRINK});
        return false;
    }
    free(a->values);
    a->values = NULL;
    return true;
}
