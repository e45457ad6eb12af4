/*
 * train_rows.h
 *     Labelled examples read by a task's query.
 */
#ifndef IA3_TRAIN_ROWS_H
#define IA3_TRAIN_ROWS_H

#include "template.h"

typedef struct Ia3TrainRow {
    char **values; /* [nFields]; a NULL field other than "text" is an empty string */
    char *label;
    Ia3Strings *choices; /* NULL: the common choices */
} Ia3TrainRow;

typedef struct Ia3TrainRows {
    int nFields;
    char **fields; /* what the templates name, each once */
    int n;         /* at least 1 */
    Ia3TrainRow *rows;
} Ia3TrainRows;

/*
 * Runs `query` as the caller, read-only and under the caller's search_path, and reads every row. Columns are
 * found by name: label, the templates' fields, optionally choices (an array); in a two-column query whatever
 * is not called label is also the text, and without a column of that name the second one is the label.
 *
 * When this returns, nothing that the query touched is locked any more: it ran in a subtransaction that has
 * been rolled back.
 *
 * ERROR 22023 for something else than one SELECT and for a query without rows, 25006 for one that changes
 * data, 42703 for a missing and 42702 for an ambiguous column, 42804 for choices that are no array, 22004 for
 * NULLs, 54000 for more text than a request may hold.
 */
extern Ia3TrainRows *Ia3ReadTrainRows(const char *query, Ia3Template **templates, int nTemplates);

/* The value of a field of a row (field must be one of rows->fields). */
extern const char *Ia3TrainRowValue(const Ia3TrainRows *rows, const Ia3TrainRow *row, const char *field);

#endif
