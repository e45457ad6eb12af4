/*
 * watch_launcher.h
 *     The background worker that starts the workers of deferred watches.
 */
#ifndef IA3_LABEL_WATCH_LAUNCHER_H
#define IA3_LABEL_WATCH_LAUNCHER_H

/* Registers the launcher as a static background worker. Only from _PG_init while preloading. */
extern void Ia3WatchLauncherInit(void);

/* Its main function, which PostgreSQL looks up by name. */
extern PGDLLEXPORT void Ia3WatchLauncherMain(Datum arg);

#endif
