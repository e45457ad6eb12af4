/*
 * stats.c
 *     Updates and copies the engine's counters under their mutex.
 */
#include "stats.h"

#include <string.h>

void
ia3_stats_init(ia3_stats *s)
{
    memset(s->values, 0, sizeof s->values);
    pthread_mutex_init(&s->lock, NULL);
}

void
ia3_stats_destroy(ia3_stats *s)
{
    pthread_mutex_destroy(&s->lock);
}

void
ia3_stats_add(ia3_stats *s, int which, double amount)
{
    pthread_mutex_lock(&s->lock);
    s->values[which] += amount;
    pthread_mutex_unlock(&s->lock);
}

void
ia3_stats_set(ia3_stats *s, int which, double value)
{
    pthread_mutex_lock(&s->lock);
    s->values[which] = value;
    pthread_mutex_unlock(&s->lock);
}

void
ia3_stats_max(ia3_stats *s, int which, double value)
{
    pthread_mutex_lock(&s->lock);
    if (value > s->values[which])
        s->values[which] = value;
    pthread_mutex_unlock(&s->lock);
}

void
ia3_stats_snapshot(ia3_stats *s, double values[IA3_N_STATS])
{
    pthread_mutex_lock(&s->lock);
    memcpy(values, s->values, sizeof s->values);
    pthread_mutex_unlock(&s->lock);
}
