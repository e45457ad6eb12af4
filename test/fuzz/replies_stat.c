/*
 * replies_stat.c
 *     ia3_stat_engine's reader of replies, for fuzz_replies.c; the function itself needs a whole server.
 */
#include "extension/client/stat.c"

#include "replies.h"

bool
replies_stats(const Ia3EngineStatus *status)
{
    double values[IA3_N_STATS];
    Ia3EngineInfo info;

    return get_stats(status, values, &info);
}
