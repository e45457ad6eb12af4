/*
 * pg_standin.h
 *     What fuzz targets of the extension use of pg_standin.c, which stands in for PostgreSQL.
 *
 * Memory is malloc'd piece by piece, so that AddressSanitizer sees the end of each, and freed after each input, except
 * that of TopMemoryContext. An ERROR ends what pg_run() was given. Strings are UTF-8; there are no interrupts.
 */
#ifndef PG_STANDIN_H
#define PG_STANDIN_H

#include "postgres.h"

/* Calls a function. False if it ended with an ERROR; pg_sqlstate and pg_message are then those of the error. */
bool pg_run(void (*function)(void *arg), void *arg);
extern int pg_sqlstate;
extern char pg_message[8192];

/* Frees everything that was palloc'd for the input. */
void pg_reset(void);

/* The bytes as a string that PostgreSQL would give to a function: NULL if they are not valid UTF-8 without zeros. */
char *pg_text(const uint8_t *data, size_t size);

/* Aborts if the last ERROR is one that only a fault of the extension causes. */
void pg_check_error(void);

#endif
