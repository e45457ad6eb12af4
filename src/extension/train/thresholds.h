/*
 * thresholds.h
 *     From which probability on a label of a multi-label task is right, from scores of rows that had not been seen.
 *
 *     A label's threshold is the one with the best F1 of its own on these rows. Of all that give this F1 it is 0.5, if that is among
 *     them, else the middle of those nearest to it. A label that fewer than IA3_MIN_THRESHOLD_ROWS rows have, or lack, keeps 0.5: so
 *     few rows say little. (Yang, A study on thresholding strategies for text categorization, SIGIR 2001, section 2: SCut.)
 */
#ifndef IA3_THRESHOLDS_H
#define IA3_THRESHOLDS_H

#include "calibration.h"
#include "examples.h"

#define IA3_MIN_THRESHOLD_ROWS 3

typedef struct Ia3Thresholds {
    Datum byLabel; /* jsonb {label: threshold}, of all labels of the examples */
    /* micro-F1 of the held-out rows, with 0.5 for all labels, and with thresholds from the other folds */
    double f1Before, f1After;
} Ia3Thresholds;

/*
 * `heldOut` is what Ia3CalibrationRunsTrain has made of multi-label examples: one row for each label of each example, in order.
 * Probabilities are those of its temperature (calibration.h); what is made with the other folds has theirs.
 */
extern void Ia3ThresholdsFit(const Ia3Examples *examples, const Ia3HeldOut *heldOut,
                             Ia3Thresholds *thresholds);

/* The metrics with what the thresholds are worth, as the member "thresholds". */
extern Datum Ia3ThresholdsMetrics(Datum metrics, const Ia3Thresholds *thresholds);

#endif
