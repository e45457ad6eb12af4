/*
 * measures.c
 *     How good predictions are, from numbers alone.
 */
#include "postgres.h"

#include <math.h>

#include "miscadmin.h"

#include "arrays.h"
#include "measures.h"
#include "random.h"

void
Ia3PredictedMeasure(Ia3Predicted *p, const double *scores, int n, int label, double temperature)
{
    double best = scores[0], sum = 0, logSum;

    for (int c = 1; c < n; c++)
        best = Max(best, scores[c]);
    for (int c = 0; c < n; c++)
        sum += exp((scores[c] - best) / temperature);
    logSum = log(sum);
    p->probability = 1 / sum;
    p->logLoss = logSum - (scores[label] - best) / temperature;
    p->brier = 0;
    for (int c = 0; c < n; c++) {
        double off = exp((scores[c] - best) / temperature - logSum) - (c == label);

        p->brier += off * off;
    }
}

double
Ia3Accuracy(const Ia3Predicted *p, int n)
{
    int right = 0;

    for (int i = 0; i < n; i++)
        right += p[i].label == p[i].predicted;
    return (double) right / n;
}

/* F1 is 2tp / (2tp + fp + fn); seen[] is the denominator. */
static double
mean_f1(const int *right, const int *seen, int nLabels)
{
    double sum = 0;
    int n = 0;

    for (int l = 0; l < nLabels; l++)
        if (seen[l] > 0) {
            sum += 2.0 * right[l] / seen[l];
            n++;
        }
    return n > 0 ? sum / n : 0;
}

double
Ia3MacroF1(const Ia3Predicted *p, int n, int nLabels)
{
    int *right = Ia3ArrayOf(nLabels, sizeof(int)), *seen = Ia3ArrayOf(nLabels, sizeof(int));
    double f1;

    for (int i = 0; i < n; i++) {
        seen[p[i].label]++;
        seen[p[i].predicted]++;
        if (p[i].label == p[i].predicted)
            right[p[i].label]++;
    }
    f1 = mean_f1(right, seen, nLabels);
    pfree(right);
    pfree(seen);
    return f1;
}

double
Ia3MeanLogLoss(const Ia3Predicted *p, int n)
{
    double sum = 0;

    for (int i = 0; i < n; i++)
        sum += p[i].logLoss;
    return sum / n;
}

double
Ia3MeanBrier(const Ia3Predicted *p, int n)
{
    double sum = 0;

    for (int i = 0; i < n; i++)
        sum += p[i].brier;
    return sum / n;
}

static int
compare_probabilities(const void *a, const void *b)
{
    const Ia3Predicted *x = *(const Ia3Predicted *const *) a, *y = *(const Ia3Predicted *const *) b;

    if (x->probability != y->probability)
        return x->probability < y->probability ? -1 : 1;
    return x < y ? -1 : x > y; /* the order of the rows */
}

int
Ia3CalibrationBins(const Ia3Predicted *p, int n, Ia3CalibrationBin bins[IA3_CALIBRATION_BINS])
{
    const Ia3Predicted **sorted = Ia3ArrayOf(n, sizeof *sorted);
    int nBins = Min(n, IA3_CALIBRATION_BINS), at = 0;

    for (int i = 0; i < n; i++)
        sorted[i] = &p[i];
    qsort(sorted, n, sizeof *sorted, compare_probabilities);
    for (int b = 0; b < nBins; b++) {
        Ia3CalibrationBin *bin = &bins[b];
        double probability = 0, right = 0;

        bin->n = n / nBins + (b < n % nBins);
        for (int k = 0; k < bin->n; k++, at++) {
            probability += sorted[at]->probability;
            right += sorted[at]->label == sorted[at]->predicted;
        }
        bin->probability = probability / bin->n;
        bin->accuracy = right / bin->n;
    }
    pfree(sorted);
    return nBins;
}

double
Ia3CalibrationError(const Ia3Predicted *p, int n)
{
    Ia3CalibrationBin bins[IA3_CALIBRATION_BINS];
    int nBins = Ia3CalibrationBins(p, n, bins);
    double error = 0;

    for (int b = 0; b < nBins; b++)
        error += (double) bins[b].n / n * fabs(bins[b].probability - bins[b].accuracy);
    return error;
}

static int
compare_doubles(const void *a, const void *b)
{
    double x = *(const double *) a, y = *(const double *) b;

    return x < y ? -1 : x > y;
}

/* The 2.5 % and 97.5 % quantiles of the draws, interpolated. */
static Ia3Interval
percentiles(double *draws)
{
    double at = 0.025 * (IA3_BOOTSTRAP_DRAWS - 1), part;
    int k = (int) at;
    Ia3Interval interval;

    part = at - k;
    qsort(draws, IA3_BOOTSTRAP_DRAWS, sizeof(double), compare_doubles);
    interval.low = draws[k] + part * (draws[k + 1] - draws[k]);
    k = IA3_BOOTSTRAP_DRAWS - 1 - k;
    interval.high = draws[k] + part * (draws[k - 1] - draws[k]);
    return interval;
}

void
Ia3Bootstrap(Ia3Predicted *const *repeats, int nRepeats, int n, const int *unit, int nUnits, int nLabels,
             uint64 seed, Ia3Interval *accuracy, Ia3Interval *macroF1)
{
    double *accuracies = Ia3ArrayOf(IA3_BOOTSTRAP_DRAWS, sizeof(double));
    double *f1s = Ia3ArrayOf(IA3_BOOTSTRAP_DRAWS, sizeof(double));
    int *times = Ia3ArrayOf(nUnits, sizeof(int)); /* how often a unit was drawn */
    int *right = Ia3ArrayOf(nLabels, sizeof(int)), *seen = Ia3ArrayOf(nLabels, sizeof(int));
    uint64 counter = 0;

    for (int draw = 0; draw < IA3_BOOTSTRAP_DRAWS; draw++) {
        memset(times, 0, sizeof(int) * nUnits);
        for (int u = 0; u < nUnits; u++)
            times[Ia3Random(seed, counter++) % nUnits]++;
        for (int r = 0; r < nRepeats; r++) {
            const Ia3Predicted *p = repeats[r];
            double all = 0, correct = 0;

            CHECK_FOR_INTERRUPTS();
            memset(right, 0, sizeof(int) * nLabels);
            memset(seen, 0, sizeof(int) * nLabels);
            for (int i = 0; i < n; i++) {
                int t = times[unit[i]];

                all += t;
                seen[p[i].label] += t;
                seen[p[i].predicted] += t;
                if (p[i].label == p[i].predicted) {
                    correct += t;
                    right[p[i].label] += t;
                }
            }
            accuracies[draw] += correct / all / nRepeats;
            f1s[draw] += mean_f1(right, seen, nLabels) / nRepeats;
        }
    }
    *accuracy = percentiles(accuracies);
    *macroF1 = percentiles(f1s);
    pfree(accuracies);
    pfree(f1s);
    pfree(times);
    pfree(right);
    pfree(seen);
}
