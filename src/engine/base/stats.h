/*
 * stats.h
 *     The engine's counters (IA3_STAT_* in protocol.h). Any thread may use them; one mutex protects all.
 */
#ifndef IA3_STATS_H
#define IA3_STATS_H

#include <pthread.h>

#include "common/protocol.h"

typedef struct ia3_stats {
    pthread_mutex_t lock;
    double values[IA3_N_STATS];
} ia3_stats;

void ia3_stats_init(ia3_stats *s);
void ia3_stats_destroy(ia3_stats *s);
void ia3_stats_add(ia3_stats *s, int which, double amount);
void ia3_stats_set(ia3_stats *s, int which, double value);
void ia3_stats_max(ia3_stats *s, int which, double value);         /* sets the value if it is larger */
void ia3_stats_snapshot(ia3_stats *s, double values[IA3_N_STATS]); /* copies all at one moment */

#endif
