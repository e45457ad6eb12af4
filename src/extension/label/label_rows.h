/*
 * label_rows.h
 *     Predictions for rows that have been read from a table.
 */
#ifndef IA3_LABEL_ROWS_H
#define IA3_LABEL_ROWS_H

#include "postgres.h"

#include "executor/spi.h"

#include "extension/predict/call.h"
#include "extension/tasks/value_text.h"

/* How the input of rows is read. */
typedef struct Ia3LabelInput {
    const Ia3CallTask *task;
    Ia3CallForm form;
    Ia3ValueText text; /* of IA3_CALL_TEXT */
    bool keepErrors;   /* of single rows that the engine refuses, as answers */
} Ia3LabelInput;

/* Answers for n rows, in their order, as arrays of SQL. A label is NULL if the input is, or no choice is likely enough. */
typedef struct Ia3LabelAnswers {
    int n;
    Datum *relations, *ids;        /* oid, tid */
    Datum *labels, *probabilities; /* text, float8; the probability is that of the most likely choice */
    bool *noLabel, *noProbability;
    char **errors; /* only with keepErrors; NULL: none */
} Ia3LabelAnswers;

/* How inputs of this type become calls: jsonb and json have fields, everything else is a text. */
extern void Ia3LabelInputInit(Ia3LabelInput *input, const Ia3CallTask *task, Oid type);

/*
 * Predicts the rows (tableoid, ctid, input) of a table. The answers are in the current memory context, and point to the rows. ERROR as for
 * ia3_predict, with a context that names the row.
 */
extern Ia3LabelAnswers *Ia3LabelPredict(Ia3LabelInput *input, const SPITupleTable *rows);

/*
 * Stores the answers with the statement that Ia3LabelPrepareUpdate has made for this table; returns how many rows it has updated.
 * ERROR 0A000 if rules replace it.
 */
extern int64 Ia3LabelStore(SPIPlanPtr update, Oid relation, const Ia3LabelAnswers *answers);

/* ERROR 0A000 for a multi-label task, of which a column of labels could hold only one. */
extern void Ia3LabelRefuseMultiLabel(const Ia3Task *task);

#endif
