/*
 * mask.c
 *     Selects the largest of many numbers.
 */
#include "mask.h"

#include <math.h>
#include <stdlib.h>

#include "engine/base/alloc.h"

/*
 * Sums of squares are not negative, so their bits are in the order of their values. The 65,536 values of the upper half are counted, and
 * then, within that in which the last one kept is, those of the lower half.
 */
static uint32_t
bits_of(float x)
{
    union {
        float f;
        uint32_t u;
    } bits = {.f = x};

    return isnan(x) || x < 0 ? 0 : bits.u;
}

/* The largest threshold such that at least `kept` numbers are not below it; *above: how many are above it. */
static uint32_t
find_threshold(const float *sums, size_t n, size_t kept, size_t *above)
{
    size_t *count = ia3_alloc_array(1 << 16, sizeof *count), seen = 0;
    uint32_t high = 0xffff, low = 0xffff;

    for (size_t i = 0; i < n; i++)
        count[bits_of(sums[i]) >> 16]++;
    while (seen + count[high] < kept)
        seen += count[high--];
    for (size_t i = 0; i < 1 << 16; i++)
        count[i] = 0;
    for (size_t i = 0; i < n; i++)
        if (bits_of(sums[i]) >> 16 == high)
            count[bits_of(sums[i]) & 0xffff]++;
    while (seen + count[low] < kept)
        seen += count[low--];
    free(count);
    *above = seen;
    return high << 16 | low;
}

void
ia3_mask_choose(const float *sums, size_t n, size_t kept, size_t *positions)
{
    size_t above, at = 0;
    const uint32_t threshold = find_threshold(sums, n, kept, &above);
    size_t equal = kept - above; /* how many of those that equal the threshold are kept */

    for (size_t i = 0; i < n; i++) {
        const uint32_t bits = bits_of(sums[i]);

        if (bits > threshold || (bits == threshold && equal > 0)) {
            equal -= bits == threshold;
            positions[at++] = i;
        }
    }
}

uint32_t *
ia3_mask_bits(const size_t *positions, size_t kept, size_t n)
{
    uint32_t *bits = ia3_alloc_array(n / 32 + 1, sizeof *bits);

    for (size_t i = 0; i < kept; i++)
        bits[positions[i] / 32] |= UINT32_C(1) << positions[i] % 32;
    return bits;
}
