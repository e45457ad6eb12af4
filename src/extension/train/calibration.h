/*
 * calibration.h
 *     The temperature that makes probabilities of scores honest, from scores of rows that had not been seen.
 *
 *     The probabilities of a row's choices are softmax(scores / T). T is where
 *
 *         sum over rows of -ln(probability of the row's label)  +  (ln T)² / 2
 *
 *     is least between IA3_MIN_TEMPERATURE and IA3_MAX_TEMPERATURE. (Guo, Pleiss, Sun, Weinberger, On calibration of modern
 *     neural networks, ICML 2017, section 4.2; the second term is a standard normal prior of ln T, which weighs as much as a
 *     single row or two, and keeps few rows from looking certain.) A temperature is positive, so the order of the choices
 *     remains.
 */
#ifndef IA3_CALIBRATION_H
#define IA3_CALIBRATION_H

#include "extension/tasks/held_out.h"
#include "measures.h"

#define IA3_MIN_TEMPERATURE 0.05 /* both also in constraints of ia3.adapter */
#define IA3_MAX_TEMPERATURE 20.0

/* The temperature from all rows but those of one fold; -1: from all. */
extern double Ia3TemperatureFit(const Ia3HeldOut *heldOut, int leftOut);

/*
 * What the rows' scores predict, in the order of the rows, if those of fold f are divided by temperature[f]; NULL: by 1. The
 * number of a label is its position.
 */
extern Ia3Predicted *Ia3HeldOutPredict(const Ia3HeldOut *heldOut, const double *temperature);

/* The number of folds: one more than the highest number of a fold. */
extern int Ia3HeldOutFolds(const Ia3HeldOut *heldOut);

/*
 * For each fold that occurs, the temperature from the others: predictions with these say what calibration is worth on rows
 * that it has not seen. If there is but one fold, its temperature is 1.
 */
extern double *Ia3TemperatureByFold(const Ia3HeldOut *heldOut);

/* What calibration is worth: measures of the rows' predictions before (T = 1) and after (Ia3TemperatureByFold). */
typedef struct Ia3Calibration {
    double temperature; /* from all rows */
    double logLossBefore, logLossAfter;
    double errorBefore, errorAfter; /* Ia3CalibrationError */
} Ia3Calibration;

extern void Ia3CalibrationFit(const Ia3HeldOut *heldOut, Ia3Calibration *calibration);

#endif
