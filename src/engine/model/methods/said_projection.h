/*
 * said_projection.h
 *     The random projections of intrinsic SAID (Aghajanyan, Zettlemoyer, Gupta, arXiv 2012.13255): Fastfood (Le, Sarlos, Smola, 2013).
 *
 * The result for a module is the first `len` numbers of k · H·G·Π·H·S·x. H is the Hadamard matrix [size, size] of ones and minus ones, where
 * size is the smallest power of two that is not less than len; S changes signs, Π permutes, G multiplies by numbers of the
 * standard normal distribution, and k = 1 / √(len · Σ G²) makes the result about as long as x. As in T-Few's code, x is continued with
 * zeros if it is shorter than `size`, and only its first `size` numbers count if it is longer.
 *
 * The random numbers depend on nothing but the module's number, so they need not be stored, and they are the same everywhere.
 */
#ifndef IA3_SAID_PROJECTION_H
#define IA3_SAID_PROJECTION_H

#include <stddef.h>
#include <stdint.h>

typedef struct ia3_projection {
    int len, size;
    float scale;
    float *signs, *gauss; /* [size] */
    int32_t *permutation; /* [size] number i of the result is this one */
    float *result;        /* [len], of the last call of ia3_project */
} ia3_projection;

ia3_projection ia3_projection_create(int module, int len);
void ia3_projection_free(ia3_projection *p);

/* x [n]; work and work2 [size] each, like below */
void ia3_project(const ia3_projection *p, const float *x, size_t n, float *work, float *work2);
/* dx [n] += the gradient for dresult [len] */
void ia3_project_bwd(const ia3_projection *p, float *dx, size_t n, const float *dresult, float *work,
                     float *work2);

#endif
