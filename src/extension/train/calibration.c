/*
 * calibration.c
 *     The temperature that makes probabilities of scores honest, from scores of rows that had not been seen.
 */
#include "postgres.h"

#include <math.h>

#include "miscadmin.h"

#include "arrays.h"
#include "calibration.h"

/* The distance of the logarithms that are tried before the best of them is refined. */
#define GRID_STEP 0.1

/* -ln of the probability of a row's label. */
static double
log_loss(const Ia3HeldOutRow *row, double temperature)
{
    double best = row->scores[0], sum = 0;

    for (int c = 1; c < row->n; c++)
        best = Max(best, row->scores[c]);
    for (int c = 0; c < row->n; c++)
        sum += exp((row->scores[c] - best) / temperature);
    return log(sum) - (row->scores[row->label] - best) / temperature;
}

/* What is to be minimized, as a function of ln T. */
static double
objective(const Ia3HeldOut *h, int leftOut, double logTemperature)
{
    double temperature = exp(logTemperature), sum = logTemperature * logTemperature / 2;

    for (int i = 0; i < h->n; i++)
        if (h->rows[i].fold != leftOut)
            sum += log_loss(&h->rows[i], temperature);
    CHECK_FOR_INTERRUPTS();
    return sum;
}

/*
 * The best point of a grid, refined by golden-section search between its neighbors. The sum of losses has one minimum, since
 * it is convex in 1/T; together with the prior it may have several, and the grid finds the lowest.
 */
double
Ia3TemperatureFit(const Ia3HeldOut *h, int leftOut)
{
    const double low = log(IA3_MIN_TEMPERATURE), high = log(IA3_MAX_TEMPERATURE), ratio = (sqrt(5) - 1) / 2;
    double best = 0, least = objective(h, leftOut, 0), a, b, x[2], y[2];

    for (double at = low; at < high + GRID_STEP / 2; at += GRID_STEP) {
        double value = objective(h, leftOut, Min(at, high));

        if (value < least) {
            least = value;
            best = Min(at, high);
        }
    }
    a = Max(best - GRID_STEP, low);
    b = Min(best + GRID_STEP, high);
    x[0] = b - ratio * (b - a);
    x[1] = a + ratio * (b - a);
    y[0] = objective(h, leftOut, x[0]);
    y[1] = objective(h, leftOut, x[1]);
    while (b - a > 1e-7) {
        int kept =
            y[0] < y[1] ? 0 : 1; /* the better point; it becomes the other one of the smaller interval */

        if (kept == 0)
            b = x[1];
        else
            a = x[0];
        x[1 - kept] = x[kept];
        y[1 - kept] = y[kept];
        x[kept] = kept == 0 ? b - ratio * (b - a) : a + ratio * (b - a);
        y[kept] = objective(h, leftOut, x[kept]);
    }
    return Min(Max(exp((a + b) / 2), IA3_MIN_TEMPERATURE), IA3_MAX_TEMPERATURE);
}

int
Ia3HeldOutFolds(const Ia3HeldOut *h)
{
    int folds = 0;

    for (int i = 0; i < h->n; i++)
        folds = Max(folds, h->rows[i].fold + 1);
    return folds;
}

double *
Ia3TemperatureByFold(const Ia3HeldOut *h)
{
    int folds = Ia3HeldOutFolds(h), *count = Ia3ArrayOf(folds, sizeof(int));
    double *temperature = Ia3ArrayOf(folds, sizeof(double));

    for (int i = 0; i < h->n; i++)
        count[h->rows[i].fold]++;
    for (int f = 0; f < folds; f++)
        if (count[f] > 0)
            temperature[f] = count[f] < h->n ? Ia3TemperatureFit(h, f) : 1;
    pfree(count);
    return temperature;
}

Ia3Predicted *
Ia3HeldOutPredict(const Ia3HeldOut *h, const double *temperature)
{
    Ia3Predicted *predicted = Ia3ArrayOf(h->n, sizeof(Ia3Predicted));

    for (int i = 0; i < h->n; i++) {
        const Ia3HeldOutRow *row = &h->rows[i];
        Ia3Predicted *p = &predicted[i];

        Ia3PredictedMeasure(p, row->scores, row->n, row->label, temperature ? temperature[row->fold] : 1);
        p->label = row->label;
        p->predicted = 0;
        for (int c = 1; c < row->n; c++)
            if (row->scores[c] > row->scores[p->predicted])
                p->predicted = c;
    }
    return predicted;
}

void
Ia3CalibrationFit(const Ia3HeldOut *h, Ia3Calibration *c)
{
    double *temperature = Ia3TemperatureByFold(h);
    Ia3Predicted *before = Ia3HeldOutPredict(h, NULL), *after = Ia3HeldOutPredict(h, temperature);

    c->temperature = Ia3TemperatureFit(h, -1);
    c->logLossBefore = Ia3MeanLogLoss(before, h->n);
    c->logLossAfter = Ia3MeanLogLoss(after, h->n);
    c->errorBefore = Ia3CalibrationError(before, h->n);
    c->errorAfter = Ia3CalibrationError(after, h->n);
    pfree(temperature);
    pfree(before);
    pfree(after);
}
