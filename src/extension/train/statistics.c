/*
 * statistics.c
 *     Intervals and tests for proportions.
 */
#include "postgres.h"

#include <math.h>

#include "statistics.h"

/* The 97.5% quantile of the normal distribution. */
#define Z 1.959963984540054

Ia3Interval
Ia3WilsonInterval(int64 part, int64 n)
{
    double p = (double) part / n, z2 = Z * Z / n;
    double center = (p + z2 / 2) / (1 + z2);
    double half = Z * sqrt(p * (1 - p) / n + z2 / (4 * n)) / (1 + z2);

    /* at the ends rounding would leave the interval without the proportion */
    return (Ia3Interval){part == 0 ? 0 : center - half, part == n ? 1 : center + half};
}

/*
 * The correlation of the two, with Newcombe's correction for continuity of a positive one; 0 if one of them is always
 * or never right.
 */
static double
paired_correlation(const Ia3PairedCounts *c)
{
    double n = (double) c->both + c->onlyFirst + c->onlySecond + c->none;
    double margins = ((double) c->both + c->onlyFirst) * ((double) c->onlySecond + c->none) *
                     ((double) c->both + c->onlySecond) * ((double) c->onlyFirst + c->none);
    double product = (double) c->both * c->none - (double) c->onlyFirst * c->onlySecond;

    if (margins == 0)
        return 0;
    if (product > 0)
        product = Max(product - n / 2, 0);
    return product / sqrt(margins);
}

/* The length of the sum of two vectors of these lengths whose angle has the cosine -correlation. */
static double
square_and_add(double a, double b, double correlation)
{
    return sqrt(Max(a * a - 2 * correlation * a * b + b * b, 0));
}

Ia3Interval
Ia3PairedInterval(const Ia3PairedCounts *c)
{
    int64 n = c->both + c->onlyFirst + c->onlySecond + c->none;
    double first = (double) (c->both + c->onlyFirst) / n, second = (double) (c->both + c->onlySecond) / n;
    Ia3Interval a = Ia3WilsonInterval(c->both + c->onlyFirst, n);
    Ia3Interval b = Ia3WilsonInterval(c->both + c->onlySecond, n);
    double correlation = paired_correlation(c), difference = (double) (c->onlySecond - c->onlyFirst) / n;

    return (Ia3Interval){difference - square_and_add(second - b.low, a.high - first, correlation),
                         difference + square_and_add(b.high - second, first - a.low, correlation)};
}

double
Ia3McNemarExact(const Ia3PairedCounts *c)
{
    int64 fewer = Min(c->onlyFirst, c->onlySecond), n = c->onlyFirst + c->onlySecond;
    double term, sum = 0;

    if (c->onlyFirst == c->onlySecond)
        return 1;
    /* from the largest term down; each is the one before times k / (n - k + 1) */
    term = exp(lgamma((double) n + 1) - lgamma((double) fewer + 1) - lgamma((double) (n - fewer) + 1) -
               n * log(2.0));
    for (int64 k = fewer; k >= 0 && term > sum * 1e-17; k--) {
        sum += term;
        term *= (double) k / (n - k + 1);
    }
    return Min(2 * sum, 1);
}
