/*
 * spills.c
 *     Loops for the test of scripts/spills.pl. The sums of `keeps` fit into the registers of AVX512 but not into those of
 *     AVX2, the sums of `fits` into both.
 */
#include <stddef.h>

typedef float vec __attribute__((vector_size(32)));

enum { MANY = 24, FEW = 6 };

#define SUMS(name, n)                                                                                        \
    void name(vec *out, const vec *w, const float *x, size_t k)                                              \
    {                                                                                                        \
        vec sum[n] = {{0}};                                                                                  \
        for (size_t i = 0; i < k; i++)                                                                       \
            _Pragma("GCC unroll 32") for (int r = 0; r < n; r++) sum[r] += x[i * n + (size_t) r] * w[i];     \
        _Pragma("GCC unroll 32") for (int r = 0; r < n; r++) out[r] = sum[r];                                \
    }

SUMS(keeps, MANY)
SUMS(fits, FEW)
