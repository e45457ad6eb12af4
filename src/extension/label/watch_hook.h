/*
 * watch_hook.h
 *     What the workers of deferred watches have to know of the statements of others.
 */
#ifndef IA3_LABEL_WATCH_HOOK_H
#define IA3_LABEL_WATCH_HOOK_H

/* Installs the hook. Only from _PG_init while preloading. */
extern void Ia3WatchHookInit(void);

#endif
