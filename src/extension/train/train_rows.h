/*
 * train_rows.h
 *     Reading labelled examples by a query: all at once to train on them, or batch by batch to evaluate.
 */
#ifndef IA3_TRAIN_ROWS_H
#define IA3_TRAIN_ROWS_H

#include "extension/ia3_compat.h"
#include "extension/tasks/task.h"

typedef struct Ia3TrainRow {
    char **values;       /* [nFields]; an empty string for a NULL field other than "text" */
    char *label;         /* of a multi-label row, the text of the array, with its elements sorted */
    Ia3Strings *labels;  /* of a multi-label row; NULL: the row has one label */
    Ia3Strings *choices; /* NULL: the row has none of its own */
    char *id;            /* NULL: NULL, or no column was asked for */
    char *group;         /* NULL: no column was asked for */
    double weight;       /* 1: no column was asked for */
} Ia3TrainRow;

/* What the column with the label may be. */
typedef enum Ia3LabelKind {
    IA3_LABEL_ONE,   /* a value; ERROR for an array */
    IA3_LABEL_ARRAY, /* an array, whose elements are the labels of the row; ERROR for other types */
    IA3_LABEL_ANY
} Ia3LabelKind;

/* Columns that options name; NULL: there is none. */
typedef struct Ia3RowColumns {
    Ia3LabelKind labels;
    const char *id;     /* what identifies the row to the caller */
    const char *group;  /* rows with the same value belong together; it may not be NULL */
    const char *weight; /* how much a row counts, a number from 0 to IA3_MAX_WEIGHT; it may not be NULL */
} Ia3RowColumns;

typedef struct Ia3TrainRows {
    int nFields;
    char **fields;         /* the fields that the templates name, each once */
    Ia3StringIndex *index; /* of the fields */
    bool multiLabel;       /* rows have arrays of labels */
    int64 first;           /* rows of the query before these */
    int n;                 /* at least 1 */
    Ia3TrainRow *rows;
} Ia3TrainRows;

/*
 * Runs `query` as the caller, read-only and with the caller's search_path, and reads every row into the current
 * memory context. Columns are found by name: label, the templates' fields, and optionally choices, an array. In a
 * two-column query the column that is not called label is also the text; if neither is, the second one is the label.
 *
 * Fields become text as values of to_jsonb do, labels, choices, ids and groups as a cast to text makes it (value_text.h).
 * `columns` may be NULL.
 *
 * When this returns, nothing that the query touched is locked any longer, because it ran in a subtransaction that has
 * been rolled back.
 *
 * ERROR 22023 for anything but a single SELECT, for a query without rows and for a weight out of range, 25006 for one that
 * changes data, 42703 for a missing and 42702 for an ambiguous column, 42804 for choices that are not an array and weights that
 * are no numbers, 22004 for NULLs, 54000 for more text than a request can hold; of arrays of labels, 22004 for NULL elements, 22023
 * for a label that is there twice, 2202E for more than one dimension.
 */
extern Ia3TrainRows *Ia3ReadTrainRows(const char *query, Ia3Template **templates, int nTemplates,
                                      const Ia3RowColumns *columns);

/*
 * The same, but hands over the rows in batches of at most IA3_SCAN_ROWS, fewer if they are large, while it reads them,
 * so that any number of rows takes no more memory than a few batches. `take` owns the context that the rows live in, which is
 * the current one when it is called; it runs inside the subtransaction. At the end it is called with NULL; that is the only call
 * for a query without rows. `asWritten` is for versions whose recipe has no "rendering" (Ia3Task).
 */
#define IA3_SCAN_ROWS 256
typedef void (*Ia3TakeRows)(const Ia3TrainRows *rows, MemoryContext context, void *arg);
extern void Ia3ScanTrainRows(const char *query, Ia3Template **templates, int nTemplates, bool asWritten,
                             Ia3LabelKind labels, Ia3TakeRows take, void *arg);

/* Renders a row with one of the templates that the fields were collected from. ERROR as for Ia3TemplateRender. */
extern void Ia3TrainRowRender(const Ia3TrainRows *rows, const Ia3TrainRow *row, const Ia3Template *template,
                              const Ia3PromptLists *lists, Ia3Input *input);

/* ERROR 22023: neither the task nor a row of the query has choices. */
extern void Ia3RaiseNoChoices(const Ia3Task *task) pg_attribute_noreturn();

/* A numeric as the nearest double; infinity if it is too large for one. */
extern double Ia3NumericToDouble(Datum numeric);

/* A list of choices for a message, each in quotes; of more than 20 the first 20. */
extern char *Ia3ChoicesQuoted(const Ia3Strings *choices);

/* ERROR 22023: this label of rows->rows[row] is not among these choices. */
extern void Ia3RaiseTrainLabel(const Ia3TrainRows *rows, int row, const char *label,
                               const Ia3Strings *choices) pg_attribute_noreturn();

#endif
