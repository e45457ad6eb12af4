/*
 * watchdog.h
 *     Notices engines that give no sign of life, and kills them. In the supervisor only.
 */
#ifndef IA3_WATCHDOG_H
#define IA3_WATCHDOG_H

#include "supervisor_engine.h"

/* An engine's process has just been started. */
extern void Ia3WatchBegin(Ia3Engine *engine);

/* The engine has answered, and its compute thread has been silent for that long although it has work. */
extern void Ia3WatchAnswer(Ia3Engine *engine, long silentMs);

/* Does what is due for an engine that runs; returns when something will be next, PG_INT64_MAX = never. */
extern Ia3Time Ia3WatchRun(Ia3Engine *engine, Ia3Time now);

/* The supervisor itself did not run for that long: perhaps nothing did, and no engine is to blame. */
extern void Ia3WatchExcuse(Ia3Time ms);

#endif
