/*
 * linear_baseline.h
 *     What a bag of words with logistic regression predicts for held-out rows.
 */
#ifndef IA3_LINEAR_BASELINE_H
#define IA3_LINEAR_BASELINE_H

#include "examples.h"

/*
 * Predicts the rows of each fold by a linear model that is fitted to all other rows, in the engine of a backbone (LINEAR).
 * The words are those of the fields that the templates name: runs of letters, digits and characters outside ASCII, in lower
 * case. Rows whose fold is IA3_LINEAR_OMIT are neither predicted nor fitted to. predicted[i] becomes a position in the common choices. Returns false if there is no such model: rows have
 * choices of their own, or there are too many words and labels (IA3_MAX_LINEAR), which a NOTICE says.
 */
#define IA3_LINEAR_OMIT (-1)
extern bool Ia3LinearPredict(const Ia3Examples *examples, const char *backbone, const int *fold,
                             int *predicted);

#endif
