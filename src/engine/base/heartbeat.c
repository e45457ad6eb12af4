/*
 * heartbeat.c
 *     Counts beats in an atomic variable, so that a beat costs next to nothing wherever it is.
 */
#include "heartbeat.h"

#include <stdatomic.h>

#include "clock.h"

static atomic_uint_fast64_t beats;
static atomic_bool expecting;

void
ia3_heartbeat(void)
{
    /* Beats at the same moment may count as one; adding would make threads wait for each other. */
    atomic_store_explicit(&beats, atomic_load_explicit(&beats, memory_order_relaxed) + 1,
                          memory_order_relaxed);
}

void
ia3_heartbeat_expect(bool expected)
{
    atomic_store(&expecting, expected);
}

double
ia3_heartbeat_silence(ia3_heartbeat_seen *seen)
{
    double now = ia3_now();
    bool expected = atomic_load(&expecting);
    uint64_t n = atomic_load_explicit(&beats, memory_order_relaxed);
    if (!expected || !seen->expected || n != seen->beats)
        *seen = (ia3_heartbeat_seen){.beats = n, .expected = expected, .since = now};
    return now - seen->since;
}
