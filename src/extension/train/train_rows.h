/*
 * train_rows.h
 *     Labelled examples read by a task's query: all at once to train on, or batch by batch to evaluate.
 */
#ifndef IA3_TRAIN_ROWS_H
#define IA3_TRAIN_ROWS_H

#include "extension/ia3_compat.h"
#include "extension/tasks/template.h"

typedef struct Ia3TrainRow {
    char **values; /* [nFields]; a NULL field other than "text" is an empty string */
    char *label;
    Ia3Strings *choices; /* NULL: the common choices */
} Ia3TrainRow;

typedef struct Ia3TrainRows {
    int nFields;
    char **fields; /* what the templates name, each once */
    int64 first;   /* rows of the query before these */
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

/*
 * The same, but gives the rows away in batches of at most IA3_SCAN_ROWS while it reads them, so that any number
 * of them takes no more memory than a few batches. `take` owns the context that its rows live in, which is the
 * current one when it is called; it runs inside the subtransaction. In the end it is called with NULL, without
 * any rows before if there are none.
 */
#define IA3_SCAN_ROWS 256
typedef void (*Ia3TakeRows)(const Ia3TrainRows *rows, MemoryContext context, void *arg);
extern void Ia3ScanTrainRows(const char *query, Ia3Template **templates, int nTemplates, Ia3TakeRows take,
                             void *arg);

/* Renders a row; the template is one of those that its fields were collected from. */
extern void Ia3TrainRowRender(const Ia3TrainRows *rows, const Ia3TrainRow *row, const Ia3Template *template,
                              const char *choices, Ia3Input *input);

/* ERROR 22023: the label of row rows->rows[row] is none of these. */
extern void Ia3RaiseTrainLabel(const Ia3TrainRows *rows, int row, const Ia3Strings *choices)
    pg_attribute_noreturn();

#endif
