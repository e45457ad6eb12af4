/*
 * cross_measures.h
 *     The scores of a cross-validation as predictions that can be measured (measures.h).
 */
#ifndef IA3_CROSS_MEASURES_H
#define IA3_CROSS_MEASURES_H

#include "cross.h"
#include "measures.h"

typedef struct Ia3CrossRows {
    const Ia3Cross *cross;
    int n;
    Ia3StringIndex *labels; /* all labels, and all choices that were predicted */
    int *label;             /* [n] */
    int *unit;              /* [n] what the bootstrap draws: the row, or its group */
    int nUnits;
} Ia3CrossRows;

/* Numbers the labels and units of the rows that Ia3CrossBegin has read. The common choices have the numbers of their positions. */
extern void Ia3CrossNumber(Ia3CrossRows *rows, const Ia3Cross *cross);

/* The number of labels, which grows as others are predicted. */
extern int Ia3CrossLabels(const Ia3CrossRows *rows);

/* The predictions [n] that the scores of the rows (Ia3FoldsScore) make, palloc'd. */
extern Ia3Predicted *Ia3CrossMeasure(const Ia3CrossRows *rows, double *const *scores);

#endif
