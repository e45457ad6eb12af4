/*
 * adapter_upload.c
 *     Cached adapters move to the device when they are first used.
 */
#include "adapter_upload.h"

#include <stdlib.h>

#include "reclaim.h"

/* Whether the values on the device are not those of the adapter, from which training may start. */
static bool
keeps_values(const ia3_layout *layout)
{
    const ia3_layout *one = layout->member ? layout->member : layout;

    return ia3_layout_in_passes(one) != one || ia3_layout_replaces(layout);
}

bool
ia3_adapter_to_device(ia3_server *s, ia3_cached_adapter *a, ia3_error *err)
{
    if (a == NULL || a->device)
        return true;
    a->device = ia3_adapter_create(s->model, a->layout, a->values, a->digest, err);
    if (a->device == NULL && err->code == IA3_E_MEMORY) {
        ia3_reclaim(s);
        *err = (ia3_error){0};
        a->device = ia3_adapter_create(s->model, a->layout, a->values, a->digest, err);
    }
    if (a->device == NULL)
        return false;
    if (!keeps_values(a->layout)) {
        free(a->values);
        a->values = NULL;
    }
    return true;
}
