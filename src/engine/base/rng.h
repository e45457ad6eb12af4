/*
 * rng.h
 *     The random number generators for dropout, shuffling, the choice of templates and verbalizers, and initial values.
 *
 * Dropout uses Philox4x32-10 (Salmon, Moraes, Dror, Shaw: "Parallel Random Numbers: As Easy as 1, 2, 3", SC 2011),
 * which is counter-based: a number is a function of its counter. So the forward and the backward pass, batches in any
 * order and all devices agree on a dropout mask without storing it.
 */
#ifndef IA3_RNG_H
#define IA3_RNG_H

#include <math.h>
#include <stdint.h>

#include "host_device.h"

#define IA3_PHILOX_KEY0 0x69613331u /* "ia31" */
#define IA3_PHILOX_KEY1 0x54466577u /* "TFew" */

IA3_HOST_DEVICE void
ia3_philox(const uint32_t counter[4], uint32_t out[4])
{
    uint32_t c0 = counter[0], c1 = counter[1], c2 = counter[2], c3 = counter[3];
    uint32_t k0 = IA3_PHILOX_KEY0, k1 = IA3_PHILOX_KEY1;
#ifdef __CUDA_ARCH__ /* the host's compiler does not know it */
#pragma unroll
#endif
    for (int round = 0; round < 10; round++) {
        uint64_t p0 = (uint64_t) 0xD2511F53u * c0, p1 = (uint64_t) 0xCD9E8D57u * c2;
        uint32_t n0 = (uint32_t) (p1 >> 32) ^ c1 ^ k0, n2 = (uint32_t) (p0 >> 32) ^ c3 ^ k1;
        c1 = (uint32_t) p1;
        c3 = (uint32_t) p0;
        c0 = n0;
        c2 = n2;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    out[0] = c0;
    out[1] = c1;
    out[2] = c2;
    out[3] = c3;
}

/*
 * The definition of dropout: element (row, col) at `site` survives if and only if the 32-bit number that this function
 * returns is >= p·2^32, and is then multiplied by 1/(1-p). `key` identifies the row (ia3_row_key); four neighbouring
 * columns share one block of Philox. For attention weights, `site` is the base site plus the head, the row is that of
 * the query, and the column is the index of the key in its sequence (in tree attention, the depth of the ancestor).
 */
IA3_HOST_DEVICE uint32_t
ia3_dropout_bits(uint64_t key, uint32_t site, uint32_t col)
{
    uint32_t counter[4] = {col >> 2, site, (uint32_t) key, (uint32_t) (key >> 32)};
    uint32_t out[4];
    ia3_philox(counter, out);
    return out[col & 3];
}

/* The threshold for these numbers: an element survives if and only if its number is >= the threshold. */
IA3_HOST_DEVICE uint32_t
ia3_dropout_threshold(float p)
{
    double t = (double) p * 4294967296.0;
    return t >= 4294967295.0 ? 4294967295u : (uint32_t) t;
}

/* A 64-bit mixing function (the finaliser of SplitMix64), which makes row keys and seeds from small integers. */
IA3_HOST_DEVICE uint64_t
ia3_mix64(uint64_t x)
{
    x += 0x9E3779B97F4A7C15u;
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
    return x ^ (x >> 31);
}

/* Mixes another value into a hash. */
static inline uint64_t
ia3_hash_add(uint64_t hash, uint64_t value)
{
    return ia3_mix64(hash ^ value);
}

/* The key of one row: from the job's seed, the step, the example's index in the batch, and the row's position in it. */
IA3_HOST_DEVICE uint64_t
ia3_row_key(uint64_t seed, uint32_t step, uint32_t example, uint32_t position)
{
    return ia3_mix64(ia3_mix64(ia3_mix64(seed) + step) + ((uint64_t) example << 32 | position));
}

/* The independent streams of random numbers that the seed of a training run has. */
enum { IA3_STREAM_SHUFFLE = 1, IA3_STREAM_TEXT = 2, IA3_STREAM_INIT = 3, IA3_STREAM_VERBALIZER = 4 };

/* Returns the number with this counter in a stream; it is uniformly distributed over [0, below). */
static inline uint32_t
ia3_draw(uint64_t seed, uint32_t stream, uint64_t counter, uint32_t below)
{
    uint64_t bits = ia3_mix64(ia3_mix64(ia3_mix64(seed) + stream) + counter) >> 32;
    return (uint32_t) (bits * below >> 32);
}

/* Returns a number of the standard normal distribution (Box-Muller), from the numbers 2·counter and 2·counter + 1 of the stream. */
static inline float
ia3_draw_normal(uint64_t seed, uint32_t stream, uint64_t counter)
{
    double u = (ia3_draw(seed, stream, 2 * counter, 1u << 31) + 1) * 0x1p-31;
    double v = ia3_draw(seed, stream, 2 * counter + 1, 1u << 31) * 0x1p-31;
    return (float) (sqrt(-2 * log(u)) * cos(2 * M_PI * v));
}

/* Returns a number that is uniformly distributed between -1 and 1, from number 2·counter of the stream. */
static inline float
ia3_draw_uniform(uint64_t seed, uint32_t stream, uint64_t counter)
{
    return (float) ((ia3_draw(seed, stream, 2 * counter, 1u << 31) + 0.5) * 0x1p-30 - 1);
}

#endif
