/*
 * writable.h
 *     Whether a function may write to the database, asked before it has cost any time.
 */
#ifndef IA3_WRITABLE_H
#define IA3_WRITABLE_H

/* ERROR 25006 in a read-only transaction and on a standby server, 25000 in a parallel worker. `function`: "ia3_drop()" */
extern void Ia3CheckWritable(const char *function);

#endif
