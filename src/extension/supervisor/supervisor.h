/*
 * supervisor.h
 *     The background worker that keeps the engines running.
 */
#ifndef IA3_SUPERVISOR_H
#define IA3_SUPERVISOR_H

/* Registers the supervisor as a static background worker. Only from _PG_init while preloading. */
extern void Ia3SupervisorRegister(void);
/* Whether that has worked. PostgreSQL only logs it if there is no room for another worker. */
extern bool Ia3SupervisorIsRegistered(void);

/* Its main function, which PostgreSQL looks up by name. */
extern PGDLLEXPORT void Ia3SupervisorMain(Datum arg);

#endif
