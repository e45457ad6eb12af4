/*
 * weighting.h
 *     How much each row counts in training: the options balanced, class_weights and weight_column.
 */
#ifndef IA3_WEIGHTING_H
#define IA3_WEIGHTING_H

#include "common/wire.h"
#include "examples.h"
#include "train_options.h"

typedef struct Ia3Weighting {
    int n; /* rows */
    bool balanced, multiLabel;
    const Ia3Strings *labels;
    int *label;     /* [n] position in labels */
    double *column; /* [n] what the weight column says; 1 without one */
    double *class;  /* [labels->n] what class_weights says; 1 without an entry */
} Ia3Weighting;

/*
 * Reads class_weights and numbers the labels, in the current memory context; NULL if the recipe has no such option, so that all
 * rows weigh the same. The rows, whose weights have been read (Ia3RowColumns), must live as long. ERROR 22023 for class_weights that are not an
 * object of numbers from 0 to IA3_MAX_WEIGHT, and for labels that are among no row's choices.
 */
extern Ia3Weighting *Ia3WeightingMake(const Ia3Recipe *recipe, const Ia3Examples *examples);

/*
 * Writes the weights of a training run, a list of a TRAIN or TRAIN_RUNS (protocol.h), for n of the rows; rows NULL: for all.
 * A weight is the product of what the options say. With `balanced` that is, as in scikit-learn,
 *
 *     Σ column / (k · Σ column over the rows with the label)
 *
 * with sums over the rows of this run, and k, how many labels they have: n / (k · n_label) without a weight column. An empty
 * list if weighting is NULL. ERROR 22023 if all weights are zero, or a product is above IA3_MAX_WEIGHT.
 */
extern void Ia3WeightingPut(ia3_writer *w, const Ia3Weighting *weighting, const int *rows, int n);

/*
 * A run's metrics about the weights of all rows as a jsonb object: "label_weights" (the mean weight of each label's rows, where
 * the mean of all is 1; left out if there are more than 1,000 labels) and "effective_examples" ((Σ w)² / Σ w²).
 */
extern Datum Ia3WeightingMetrics(const Ia3Weighting *weighting);

#endif
