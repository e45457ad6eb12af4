/*
 * watch_worker.h
 *     The background worker that labels the rows which deferred watches of one database have queued.
 */
#ifndef IA3_LABEL_WATCH_WORKER_H
#define IA3_LABEL_WATCH_WORKER_H

/* Its main function, which PostgreSQL looks up by name; the argument is the database. */
extern PGDLLEXPORT void Ia3WatchWorkerMain(Datum arg);

#endif
