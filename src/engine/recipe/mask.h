/*
 * mask.h
 *     Which weights a sparse method trains: those with the largest Fisher information (Sung, Nair, Raffel, arXiv 2111.09839, equation 4).
 */
#ifndef IA3_MASK_H
#define IA3_MASK_H

#include <stddef.h>
#include <stdint.h>

/*
 * Finds the positions of the `kept` largest of n sums, in ascending order; of equal sums those at the beginning. NaN counts as zero.
 */
void ia3_mask_choose(const float *sums, size_t n, size_t kept, size_t *positions);

/* The positions as bits: bit i mod 32 of word i / 32; malloc'd, n bits. */
uint32_t *ia3_mask_bits(const size_t *positions, size_t kept, size_t n);

#endif
