/*
 * mask.h
 *     Dropout multipliers, exactly as rng.h defines them, many columns at a time.
 *
 *   m[j] = bits(key, site, col + j) >= p·2^32 ? 1/(1-p) : 0
 */
#ifndef IA3_CPU_MASK_H
#define IA3_CPU_MASK_H

#include "../../src/engine/device.h"
#include "../../src/engine/rng.h"

typedef struct ia3_mask {
    bool on;
    uint32_t threshold;
    float keep; /* 1/(1-p), what a survivor is multiplied by */
} ia3_mask;

static inline ia3_mask
ia3_mask_of(const ia3_dropout *d)
{
    ia3_mask m = {.on = d->p > 0.0f && d->row_key, .threshold = 0, .keep = 1.0f};
    if (m.on) {
        m.threshold = ia3_dropout_threshold(d->p);
        m.keep = 1.0f / (1.0f - d->p);
    }
    return m;
}

#define IA3_MASK_BLOCKS 16 /* Philox blocks computed per pass */

/* 32-bit numbers in 64-bit lanes, so that a product has its high half where it can be taken. */
typedef uint64_t ia3_u64x8 __attribute__((vector_size(64)));

/* ia3_philox() of eight counters in place. */
static inline void
ia3_philox_x8(ia3_u64x8 c[4])
{
    const ia3_u64x8 low = (ia3_u64x8){0} + 0xffffffffu;
    ia3_u64x8 c0 = c[0], c1 = c[1], c2 = c[2], c3 = c[3];
    uint32_t k0 = IA3_PHILOX_KEY0, k1 = IA3_PHILOX_KEY1;
    for (int round = 0; round < 10; round++) {
        ia3_u64x8 p0 = c0 * (uint64_t) 0xD2511F53u, p1 = c2 * (uint64_t) 0xCD9E8D57u;
        c0 = (p1 >> 32) ^ c1 ^ (uint64_t) k0;
        c2 = (p0 >> 32) ^ c3 ^ (uint64_t) k1;
        c1 = p1 & low;
        c3 = p0 & low;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    c[0] = c0;
    c[1] = c1;
    c[2] = c2;
    c[3] = c3;
}

/*
 * Fills m[0 .. n) for columns col .. col + n; col must be a multiple of 4. m may be written up to the next
 * multiple of 64 behind n.
 */
static inline void
ia3_mask_row(float *m, size_t n, uint32_t col, uint64_t key, uint32_t site, const ia3_mask *mask)
{
    const uint32_t threshold = mask->threshold;
    const float keep = mask->keep;
    for (size_t at = 0; at < n; at += 4 * IA3_MASK_BLOCKS) {
        ia3_u64x8 c[2][4];
        for (int half = 0; half < 2; half++) {
            uint64_t first = ((col + at) >> 2) + 8 * (uint64_t) half;
            for (uint64_t b = 0; b < 8; b++)
                c[half][0][b] = (uint32_t) (first + b);
            c[half][1] = (ia3_u64x8){0} + site;
            c[half][2] = (ia3_u64x8){0} + (uint32_t) key;
            c[half][3] = (ia3_u64x8){0} + (key >> 32);
        }
        ia3_philox_x8(c[0]);
        ia3_philox_x8(c[1]);
        for (int half = 0; half < 2; half++)
            for (int b = 0; b < 8; b++)
                for (int x = 0; x < 4; x++)
                    m[at + 32 * (size_t) half + 4 * (size_t) b + (size_t) x] =
                        c[half][x][b] >= threshold ? keep : 0.0f;
    }
}

#endif
