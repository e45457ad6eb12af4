/*
 * replies.h
 *     Readers of replies that are static functions of the extension: replies_stat.c and replies_normalize.c.
 */
#ifndef REPLIES_H
#define REPLIES_H

#include "extension/supervisor/shmem.h"

bool replies_stats(const Ia3EngineStatus *status);
void replies_normalize(void);

#endif
