/*
 * clock.h
 *     The clock by which the engine measures time and waits.
 */
#ifndef IA3_CLOCK_H
#define IA3_CLOCK_H

/* Seconds on the monotonic clock, which is not affected when the system time is set. */
double ia3_now(void);

#endif
