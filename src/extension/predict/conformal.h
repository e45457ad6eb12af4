/*
 * conformal.h
 *     The threshold of split conformal prediction (V. Vovk, A. Gammerman, G. Shafer, Algorithmic Learning in a Random
 *     World, 2005; A. N. Angelopoulos, S. Bates, arXiv 2107.07511, section 1).
 *
 * The score of a choice is 1 - its probability. If the scores of n labels and that of another row's label are exchangeable, the
 * last is at most the quantile below with at least the probability `coverage`.
 */
#ifndef IA3_CONFORMAL_H
#define IA3_CONFORMAL_H

/*
 * The k-th smallest of the n scores, k = ceil((n + 1) * coverage); infinity if k > n, minus infinity if k is 0. `coverage`
 * is from 0 to 1. Sorts the scores.
 */
extern double Ia3ConformalQuantile(double *scores, int n, double coverage);

/* ERROR 22023 unless it is from 0 to 1. */
extern void Ia3CheckCoverage(double coverage);

#endif
