/*
 * measures.h
 *     How good predictions are, from numbers alone: accuracy, macro-F1, log loss, Brier score, calibration error, intervals.
 */
#ifndef IA3_MEASURES_H
#define IA3_MEASURES_H

#include "postgres.h"

#include "statistics.h"

/* A prediction. Labels are numbers from 0. */
typedef struct Ia3Predicted {
    int label, predicted;
    double probability; /* of what was predicted */
    double logLoss;     /* -ln of the probability of the label */
    double
        brier; /* the sum, over the choices, of (probability - 1 if it is the label)² (Brier 1950): from 0 to 2 */
} Ia3Predicted;

/* Fills in all members but `label`'s and `predicted`'s numbers, given the scores of n choices and the label's position. */
extern void Ia3PredictedMeasure(Ia3Predicted *p, const double *scores, int n, int label, double temperature);

/* The share of n > 0 predictions that are right. */
extern double Ia3Accuracy(const Ia3Predicted *p, int n);
/* The mean F1 of all labels that occur as label or as prediction, all less than nLabels, as in scikit-learn's f1_score. */
extern double Ia3MacroF1(const Ia3Predicted *p, int n, int nLabels);
extern double Ia3MeanLogLoss(const Ia3Predicted *p, int n);
extern double Ia3MeanBrier(const Ia3Predicted *p, int n);

/*
 * The expected calibration error: the predictions are sorted by their probability and split into 10 bins of equal counts
 * (as far as possible; the first ones have one more), and the differences of mean probability and accuracy in a bin are
 * averaged, weighted by the bins' counts. (Naeini, Cooper, Hauskrecht, AAAI 2015; Nguyen, O'Connor, EMNLP 2015, for equal counts.)
 */
#define IA3_CALIBRATION_BINS 10
extern double Ia3CalibrationError(const Ia3Predicted *p, int n);
/* The bins: number of predictions, mean probability and accuracy of each; returns how many there are, at most n. */
typedef struct Ia3CalibrationBin {
    int n;
    double probability, accuracy;
} Ia3CalibrationBin;
extern int Ia3CalibrationBins(const Ia3Predicted *p, int n, Ia3CalibrationBin bins[IA3_CALIBRATION_BINS]);

/*
 * 95 % intervals of accuracy and macro-F1, both the mean over the repeats, by the percentile bootstrap: units, numbered from 0
 * in unit[n], are drawn with replacement, IA3_BOOTSTRAP_DRAWS times, as a function of the seed. repeats[nRepeats][n] are the
 * predictions of the same n rows.
 */
#define IA3_BOOTSTRAP_DRAWS 1000
extern void Ia3Bootstrap(Ia3Predicted *const *repeats, int nRepeats, int n, const int *unit, int nUnits,
                         int nLabels, uint64 seed, Ia3Interval *accuracy, Ia3Interval *macroF1);

#endif
