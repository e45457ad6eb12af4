/*
 * random.h
 *     Random numbers that are a function of a seed and a counter: SplitMix64 (Steele, Lea, Flood: "Fast splittable
 *     pseudorandom number generators", OOPSLA 2014). Every platform and every release has the same.
 */
#ifndef IA3_RANDOM_H
#define IA3_RANDOM_H

#include "postgres.h"

/* Number `counter` of the sequence that begins with `seed`. */
static inline uint64
Ia3Random(uint64 seed, uint64 counter)
{
    uint64 z = seed + (counter + 1) * UINT64CONST(0x9e3779b97f4a7c15);

    z = (z ^ (z >> 30)) * UINT64CONST(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64CONST(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

#endif
