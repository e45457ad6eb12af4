/*
 * heartbeat.h
 *     Signs of life of the compute thread, which tell an engine that is slow from one that is stuck.
 *
 * Whatever takes long beats between its pieces: layers, parts of a matrix product, tokens of a generation. Beats are
 * counted for the whole process, since only one thread at a time has work that the threads of its device help with.
 */
#ifndef IA3_HEARTBEAT_H
#define IA3_HEARTBEAT_H

#include <stdbool.h>
#include <stdint.h>

/* Any thread: work goes on. */
void ia3_heartbeat(void);

/*
 * Says whether beats are to be expected from now on: not while there is no work, nor while a backbone is loaded. Whoever
 * hands over work says so, too, since the compute thread might not wake up. This is not a beat.
 */
void ia3_heartbeat_expect(bool expected);

/* What an observer has seen; all zero at first. */
typedef struct ia3_heartbeat_seen {
    uint64_t beats;
    bool expected;
    double since; /* when it first saw this number of beats, and that more are expected, by ia3_now() */
} ia3_heartbeat_seen;

/* For how many seconds there has been no beat although one was expected, as far as earlier calls for `seen` can tell. */
double ia3_heartbeat_silence(ia3_heartbeat_seen *seen);

#endif
