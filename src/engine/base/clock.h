/*
 * clock.h
 *     The clock that the engine measures and waits with.
 */
#ifndef IA3_CLOCK_H
#define IA3_CLOCK_H

/* Seconds on the monotonic clock, which no change of the wall clock moves. */
double ia3_now(void);

#endif
