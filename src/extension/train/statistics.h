/*
 * statistics.h
 *     Intervals and tests for proportions. All intervals are two-sided, at 95%.
 */
#ifndef IA3_STATISTICS_H
#define IA3_STATISTICS_H

typedef struct Ia3Interval {
    double low, high;
} Ia3Interval;

/* Wilson's score interval for a proportion of `part` among `n` > 0 (Wilson 1927). */
extern Ia3Interval Ia3WilsonInterval(int64 part, int64 n);

/* How often two answers to the same questions are right. The sum is positive. */
typedef struct Ia3PairedCounts {
    int64 both, onlyFirst, onlySecond, none;
} Ia3PairedCounts;

/*
 * An interval for the proportion of the second that are right minus that of the first: method 10 of R. G. Newcombe,
 * Improved confidence intervals for the difference between binomial proportions based on paired data, Statistics in
 * Medicine 17 (1998), 2635-2650. It combines Wilson's intervals of the two proportions.
 */
extern Ia3Interval Ia3PairedInterval(const Ia3PairedCounts *counts);

/*
 * McNemar's exact test: the probability that, of the pairs in which just one is right, no more are on one side than
 * here, or that as few are on the other, if either is equally likely. 1 if there are no such pairs.
 */
extern double Ia3McNemarExact(const Ia3PairedCounts *counts);

#endif
