/*
 * guc.h
 *     The settings ia3.*.
 */
#ifndef IA3_GUC_H
#define IA3_GUC_H

#include "utils/guc.h"

/* PGC_SIGHUP: what shapes the engines */
#define IA3_DEFAULT_BACKBONE "default"
extern char *Ia3BackbonesSetting; /* ia3.backbones, parsed by Ia3ParseBackbones */
extern int Ia3Threads;            /* 0: all cores */
extern int Ia3MaxBatchTokens;
extern int Ia3AdapterCacheSize; /* MB */
extern int Ia3MemoryLimit;      /* MB, 0: none, -1: depending on the machine */
extern int Ia3HangTimeout;      /* s, 0: engines are not watched */

/* PGC_SIGHUP: the workers of deferred watches */
extern int Ia3WatchAttempts; /* until a row that cannot be labelled is set aside */
extern int Ia3WatchTimeout;  /* s, for expressions and triggers of a batch; 0: none */

/* PGC_SUSET */
extern int Ia3WatchQueueLimit; /* rows that may wait for a deferred watch; 0: any number */

/* PGC_USERSET */
extern char *Ia3Backbone;          /* of new tasks and zero-shot calls */
extern int Ia3MaxInputTokens;      /* as set; Ia3InputTokens() is what counts */
extern int Ia3MaxInputTokensLimit; /* what roles may set it to */
extern int Ia3MaxChoices;          /* of one call or task; set by superusers */
extern int Ia3StartTimeout;        /* ms that a query waits for an engine that is starting or loading */
extern int Ia3BatchRows;
extern bool Ia3EnableBatching;

/* ia3.max_input_tokens, within ia3.max_input_tokens_limit. */
extern int Ia3InputTokens(void);

/* Defines every setting; called once, from _PG_init. `checkBackbones` is the check hook of ia3.backbones. */
extern void Ia3DefineSettings(GucStringCheckHook checkBackbones);

#endif
