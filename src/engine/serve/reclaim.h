/*
 * reclaim.h
 *     When the device is short of memory, adapters that no request uses make room, and what the last pass left.
 *
 * They stay on the device after use, because the next request is likely to need them: vectors up to a limit of their own,
 * weights of versions up to a share of the memory limit, or without such a limit until memory is short. Whoever runs out of
 * memory calls ia3_reclaim and tries again.
 */
#ifndef IA3_RECLAIM_H
#define IA3_RECLAIM_H

#include "serve.h"

/*
 * Frees memory that earlier passes needed, and the adapters on the device that no request uses. Returns whether there were
 * any of these; passes give the former back themselves. For the compute thread, between passes. The I/O thread may be busy with a large frame; it is waited for, but not long.
 */
bool ia3_reclaim(ia3_server *s);

/* Whether it failed for lack of memory, and there is more memory now; then *err is cleared, and trying again makes sense. */
bool ia3_reclaim_after(ia3_server *s, ia3_error *err);

/* Frees evicted adapters; takes over the array, which may be NULL. */
void ia3_free_doomed(const ia3_server *s, ia3_adapter **doomed, int n);

#endif
