/*
 * subsets.h
 *     Stratified, nested subsets of training rows: for every size, the first rows of one order.
 */
#ifndef IA3_SUBSETS_H
#define IA3_SUBSETS_H

#include "postgres.h"

/*
 * Puts rows, given by their numbers rows[n], in an order of which every beginning has each label's share, rounded. Rows of a
 * label are shuffled; row j of the c rows of a label, from 1, is placed by (j - 1/2) / c, and among rows that are equal in
 * this by the number of their labels, label[row]. So a label gets the rows that it would get by the method of Webster and
 * Sainte-Laguë (M. Balinski, H. P. Young, Fair Representation, 1982). The shuffling is a function of seed and repeat, and the same
 * for every set of rows: of two rows of a label, the same one comes first.
 */
extern void Ia3SubsetsOrder(int *rows, int n, const int *label, int64 seed, int repeat);

#endif
