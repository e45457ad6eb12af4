/*
 * reclaim.c
 *     When the device is short of memory, adapters that no request uses make room, and what the last pass left.
 */
#include "reclaim.h"

#include <stdlib.h>

#define WAIT_SECONDS 5.0

void
ia3_free_doomed(const ia3_server *s, ia3_adapter **doomed, int n)
{
    for (int i = 0; i < n; i++)
        ia3_adapter_free(s->model, doomed[i]);
    free(doomed);
}

bool
ia3_reclaim(ia3_server *s)
{
    int n;
    s->device->ops->arena_trim(s->device, 0);
    ia3_queue_shrink(s->queue, WAIT_SECONDS);
    ia3_adapter **doomed = ia3_queue_take_doomed(s->queue, &n);
    ia3_free_doomed(s, doomed, n);
    return n > 0;
}

bool
ia3_reclaim_after(ia3_server *s, ia3_error *err)
{
    if (err->code != IA3_E_MEMORY || !ia3_reclaim(s))
        return false;
    *err = (ia3_error){0};
    return true;
}
