/*
 * cross_measures.c
 *     The scores of a cross-validation as predictions that can be measured.
 */
#include "postgres.h"

#include "arrays.h"
#include "cross_measures.h"

static int
label_number(const Ia3CrossRows *rows, char *label)
{
    bool found;

    return Ia3StringIndexAdd(rows->labels, label, &found);
}

void
Ia3CrossNumber(Ia3CrossRows *rows, const Ia3Cross *cross)
{
    const Ia3TrainRows *read = cross->examples->rows;
    const Ia3Strings *common = cross->examples->common;
    Ia3StringIndex *groups = Ia3StringIndexCreate();
    bool found;

    rows->cross = cross;
    rows->n = read->n;
    rows->labels = Ia3StringIndexCreate();
    rows->label = Ia3ArrayOf(rows->n, sizeof(int));
    rows->unit = Ia3ArrayOf(rows->n, sizeof(int));
    rows->nUnits = 0;
    for (int c = 0; common && c < common->n; c++)
        label_number(rows, common->items[c]);
    for (int i = 0; i < rows->n; i++) {
        rows->label[i] = label_number(rows, read->rows[i].label);
        rows->unit[i] = read->rows[i].group ? Ia3StringIndexAdd(groups, read->rows[i].group, &found) : i;
        rows->nUnits = Max(rows->nUnits, rows->unit[i] + 1);
    }
}

int
Ia3CrossLabels(const Ia3CrossRows *rows)
{
    return Ia3StringIndexStrings(rows->labels)->n;
}

Ia3Predicted *
Ia3CrossMeasure(const Ia3CrossRows *rows, double *const *scores)
{
    const Ia3Examples *examples = rows->cross->examples;
    Ia3Predicted *predicted = Ia3ArrayOf(rows->n, sizeof(Ia3Predicted));

    for (int i = 0; i < rows->n; i++) {
        const Ia3Strings *choices = Ia3CrossChoices(rows->cross, i);
        int best = 0;

        for (int c = 1; c < choices->n; c++)
            if (scores[i][c] > scores[i][best])
                best = c;
        Ia3PredictedMeasure(&predicted[i], scores[i], choices->n, examples->label[i], 1);
        predicted[i].label = rows->label[i];
        predicted[i].predicted = label_number(rows, choices->items[best]);
    }
    return predicted;
}
