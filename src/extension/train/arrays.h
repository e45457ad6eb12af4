/*
 * arrays.h
 *     Arrays with an element for each row of a query, of which there may be more than palloc allocates at once.
 */
#ifndef IA3_ARRAYS_H
#define IA3_ARRAYS_H

#include "postgres.h"

/* n elements of `size` bytes, all zero, in the current memory context. */
static inline void *
Ia3ArrayOf(Size n, Size size)
{
    return palloc_extended(Max(n, 1) * size, MCXT_ALLOC_HUGE | MCXT_ALLOC_ZERO);
}

#endif
