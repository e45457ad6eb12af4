/*
 * guc.h
 *     The settings ia3.*.
 */
#ifndef IA3_GUC_H
#define IA3_GUC_H

#include "utils/guc.h"

/* PGC_SIGHUP: what shapes the engines */
extern char *Ia3BackbonesSetting; /* ia3.backbones, parsed by Ia3ParseBackbones */
extern int Ia3Threads;            /* 0: all cores */
extern int Ia3MaxBatchTokens;
extern int Ia3AdapterCacheSize; /* MB */
extern int Ia3MemoryLimit;      /* MB, 0: none */

/* PGC_USERSET */
extern char *Ia3Backbone; /* of new tasks and zero-shot calls */
extern int Ia3MaxInputTokens;
extern int Ia3StartTimeout; /* ms that a query waits for an engine that is starting or loading */
extern int Ia3BatchRows;
extern bool Ia3EnableBatching;

/* Defines every setting; called once, from _PG_init. `checkBackbones` is the check hook of ia3.backbones. */
extern void Ia3DefineSettings(GucStringCheckHook checkBackbones);

#endif
