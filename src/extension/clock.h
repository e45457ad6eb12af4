/*
 * clock.h
 *     Points in time for deadlines and intervals, which must not jump when somebody sets the machine's clock.
 *
 * GetCurrentTimestamp() is only for what users see.
 */
#ifndef IA3_CLOCK_H
#define IA3_CLOCK_H

#include "postgres.h"

#include <time.h>

/* Milliseconds of the monotonic clock. 0 is never the present; a deadline of 0 means that there is none. */
typedef int64 Ia3Time;

static inline Ia3Time
Ia3Now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return 1 + (Ia3Time) t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

#endif
