/*
 * examples.h
 *     Rows as examples to train on: their choices, and the part of a request that has them all.
 */
#ifndef IA3_EXAMPLES_H
#define IA3_EXAMPLES_H

#include "common/wire.h"
#include "train_rows.h"

typedef struct Ia3Examples {
    Ia3TrainRows *rows;
    const Ia3Strings
        *common; /* the choices of rows that have none of their own; NULL: each row has its own */
    int nSets;
    const Ia3Strings **sets;
    Ia3ChoiceSet *worded;  /* [nSets] what is scored for them */
    Ia3PromptLists *lists; /* [nSets] for templates */
    int *set;              /* [rows->n] */
    int *label;            /* [rows->n] position in the set; of a multi-label row, 0 */
    int *nRight;           /* [rows->n] of multi-label rows; NULL: rows have one label each */
    int **right;           /* [rows->n][nRight] positions in the set, ascending */
} Ia3Examples;

/*
 * Determines the choices of each row: its own, or else the given ones, or else (NULL) the distinct labels of all rows
 * without choices of their own, in order of first appearance. ERROR 22023 for a label that is not among the choices of
 * its row, for choices as in Ia3CheckChoices, and if there is only one label and no choices are given, and
 * as for Ia3WordingScored. Rows with arrays of labels make multi-label examples; ERROR 22023 if no row has any label.
 */
extern Ia3Examples *Ia3ExamplesLabel(Ia3TrainRows *rows, const Ia3Strings *given, const Ia3Wording *wording);

/*
 * Checks the options verbalizers and descriptions of a training run: ERROR 22023 if they name labels that are no choice of any
 * example, and for descriptions that no template shows, which would have no effect.
 */
extern void Ia3ExamplesCheckWording(const Ia3Examples *examples, const Ia3Wording *wording,
                                    Ia3Template **templates, int nTemplates);

/* Writes the choice sets, their verbalizers and the examples of a TRAIN or TRAIN_RUNS, rendered with every template. */
extern void Ia3ExamplesPut(ia3_writer *w, const Ia3Examples *examples, Ia3Template **templates,
                           int nTemplates);

#endif
