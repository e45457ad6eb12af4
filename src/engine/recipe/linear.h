/*
 * linear.h
 *     A baseline that needs no backbone: a bag of words with logistic regression.
 *
 * Each class has a model of its own (one against the rest), L2-regularized with C = 1 as in scikit-learn's
 * LogisticRegression(solver="liblinear"), fitted by liblinear's trust region Newton method. A feature is how often a word
 * occurs in the row; another one is always 1.
 */
#ifndef IA3_LINEAR_H
#define IA3_LINEAR_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "engine/base/error.h"

typedef struct ia3_linear_row {
    uint32_t label, fold;
    uint32_t n;
    uint32_t *words; /* [n], which are sorted here */
} ia3_linear_row;

/*
 * Fits a model to the rows of all folds but one, for each fold, and predicts that fold's rows: predicted[i] becomes a label that
 * a row of another fold has. If no row has another fold, it is the row's own label. Words are less than n_words, folds
 * less than n_folds. A model takes 8 bytes per word and label. Error: IA3_E_CANCELLED, between two folds.
 */
bool ia3_linear_cross(ia3_linear_row *rows, uint32_t n, uint32_t n_words, uint32_t n_folds,
                      const atomic_bool *cancelled, uint32_t *predicted, ia3_error *err);

#endif
