/*
 * row_hashes.h
 *     Hashes of the rows that a version was trained on, by which a row is recognized that it has seen.
 *
 * A version keeps 8 bytes per row: the beginning of the SHA-256 of the row's values. A label is not part of it, because a
 * row has been seen whatever it is called now. Nor are the names of fields: they are in the order of the names, and so a
 * text is the same in a column "text" as in another. Hashes are in ia3.adapter_query beside the query, and like it
 * visible to the owner only: whoever can guess a row could otherwise find out whether it is among them.
 */
#ifndef IA3_ROW_HASHES_H
#define IA3_ROW_HASHES_H

#include "extension/tasks/task.h"
#include "train_rows.h"

/* Computes the hashes of rows one by one. Lives in the memory context in which it was created. */
typedef struct Ia3RowHasher Ia3RowHasher;

/* For rows of n at most; `rows` says which fields there are. */
extern Ia3RowHasher *Ia3RowHasherCreate(const Ia3TrainRows *rows, int n);
/* Adds a row, whose values are those of the fields that the template names. */
extern void Ia3RowHasherAdd(Ia3RowHasher *hasher, const Ia3TrainRow *row, const Ia3Template *template);
/* The hashes that have been added, sorted, as they are stored. */
extern bytea *Ia3RowHasherResult(Ia3RowHasher *hasher);
/* The same for all of the rows and one template. */
extern bytea *Ia3RowHashes(const Ia3TrainRows *rows, const Ia3Template *template);

/* The rows that a version was trained on. */
typedef struct Ia3KnownRows Ia3KnownRows;

/*
 * NULL if the version has no hashes (it was imported or averaged, or is older than they are), or if the caller does not
 * own the task. No lock on a table is held afterwards.
 */
extern Ia3KnownRows *Ia3KnownRowsOf(const Ia3Task *task);
/* Whether the version was trained on this row; `rows` must have the fields of the task's first template. */
extern bool Ia3KnownRowsHave(const Ia3KnownRows *known, const Ia3TrainRows *rows, const Ia3TrainRow *row);

#endif
