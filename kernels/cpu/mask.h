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

#define IA3_MASK_BLOCKS 16 /* Philox blocks computed side by side */

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
        uint32_t c0[IA3_MASK_BLOCKS], c1[IA3_MASK_BLOCKS], c2[IA3_MASK_BLOCKS], c3[IA3_MASK_BLOCKS];
        for (uint32_t b = 0; b < IA3_MASK_BLOCKS; b++) {
            c0[b] = (uint32_t) ((col + at) >> 2) + b;
            c1[b] = site;
            c2[b] = (uint32_t) key;
            c3[b] = (uint32_t) (key >> 32);
        }
        uint32_t k0 = IA3_PHILOX_KEY0, k1 = IA3_PHILOX_KEY1;
        for (int round = 0; round < 10; round++) {
            for (int b = 0; b < IA3_MASK_BLOCKS; b++) {
                uint64_t p0 = (uint64_t) 0xD2511F53u * c0[b], p1 = (uint64_t) 0xCD9E8D57u * c2[b];
                uint32_t n0 = (uint32_t) (p1 >> 32) ^ c1[b] ^ k0, n2 = (uint32_t) (p0 >> 32) ^ c3[b] ^ k1;
                c1[b] = (uint32_t) p1;
                c3[b] = (uint32_t) p0;
                c0[b] = n0;
                c2[b] = n2;
            }
            k0 += 0x9E3779B9u;
            k1 += 0xBB67AE85u;
        }
        for (int b = 0; b < IA3_MASK_BLOCKS; b++) {
            m[at + 4 * b] = c0[b] >= threshold ? keep : 0.0f;
            m[at + 4 * b + 1] = c1[b] >= threshold ? keep : 0.0f;
            m[at + 4 * b + 2] = c2[b] >= threshold ? keep : 0.0f;
            m[at + 4 * b + 3] = c3[b] >= threshold ? keep : 0.0f;
        }
    }
}

#endif
