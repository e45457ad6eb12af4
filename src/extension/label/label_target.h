/*
 * label_target.h
 *     The table whose column is filled with predictions, and the statements that read and change it.
 */
#ifndef IA3_LABEL_TARGET_H
#define IA3_LABEL_TARGET_H

#include "postgres.h"

#include "executor/spi.h"

typedef struct Ia3LabelTarget {
    Oid relation;
    char *name;        /* qualified and quoted */
    char *label;       /* names of columns */
    char *version;     /* NULL: none */
    char *probability; /* NULL: none */
    char *input;       /* expressions, as they were given */
    char *condition;   /* NULL: none */
    bool relabel;      /* also rows that another version has labelled */
} Ia3LabelTarget;

/* The plans of the statements, which stay when a transaction ends. Blocks are int8, from the first up to but not including the second. */
typedef struct Ia3LabelPlans {
    SPIPlanPtr count; /* ($1, $2 blocks) → how many rows there have no label yet */
    SPIPlanPtr
        lock; /* ($1, $2 blocks) → (tableoid, ctid, input) of these rows, locked; skips those that others have locked */
    SPIPlanPtr wait;   /* the same, but waits for the others */
    SPIPlanPtr update; /* ($1 tableoid[], $2 ctid[], $3 text[] labels, $4 float8[] probabilities) */
} Ia3LabelPlans;

/* A text argument of a function; NULL if it is NULL, or ERROR 22004 if `name` is given. */
extern char *Ia3LabelText(FunctionCallInfo fcinfo, int arg, const char *name);

/* The name of a table, qualified and quoted. ERROR 42P01 if there is none. */
extern char *Ia3LabelTableName(Oid relation);

/*
 * Checks the target. ERROR 42809 unless it is a table that can be updated here, 42703 for columns that it lacks, 42804 for columns of
 * types that cannot take the values, 428C9 for generated ones, 42601 unless `input` and `condition` are one expression each.
 */
extern void Ia3LabelCheck(const Ia3LabelTarget *target);

/* Checks its columns only. */
extern void Ia3LabelCheckColumns(const Ia3LabelTarget *target);

/* Prepares the statements, in which rows get this version. Inside SPI; ERROR for whatever PostgreSQL finds wrong with them. */
extern void Ia3LabelPrepare(const Ia3LabelTarget *target, int version, Ia3LabelPlans *plans);

/* Prepares the last of them only. The caller frees it. */
extern SPIPlanPtr Ia3LabelPrepareUpdate(const Ia3LabelTarget *target, int version);

/* Frees those that have been prepared. */
extern void Ia3LabelFree(Ia3LabelPlans *plans);

/* The number of blocks of the table, or of the largest of its partitions and children. */
extern int64 Ia3LabelBlocks(const Ia3LabelTarget *target);

#endif
