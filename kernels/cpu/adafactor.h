/*
 * adafactor.h
 *     What the two files of Adafactor call in each other.
 */
#ifndef IA3_CPU_ADAFACTOR_H
#define IA3_CPU_ADAFACTOR_H

#include "cpu.h"

/* Σ x², in double precision and 8 partial sums. */
double ia3_sum_squares(const float *x, size_t n);

/* Whether a tensor is a matrix that is large enough for the threads to divide it. */
bool ia3_adafactor_is_large(const ia3_adafactor *a, int tensor);

/* What the step of such a matrix needs, for any one of several: a matrix has `blocks` blocks of rows. */
typedef struct ia3_adafactor_scratch {
    float *col_sums;           /* [blocks, cols] of g² + 1e-30 */
    double *sums;              /* [cols] of the blocks' col_sums */
    float *factors;            /* [cols] 1/√c */
    double *squares, *updates; /* [blocks]: Σ p² or Σ g², Σ u² */
} ia3_adafactor_scratch;

/* Allocates that in the arena, for all large matrices of the jobs. Jumps to dev->oom for lack of memory. */
ia3_adafactor_scratch ia3_adafactor_large_scratch(ia3_cpu *cpu, const ia3_adafactor *jobs, int n_jobs);

/* Σ g² of such a matrix, and its part of the step, with gradients multiplied by `clip`. Both use all threads. */
double ia3_adafactor_large_norm(ia3_cpu *cpu, const ia3_adafactor *a, int tensor,
                                const ia3_adafactor_scratch *scratch);
void ia3_adafactor_large_update(ia3_cpu *cpu, const ia3_adafactor *a, int tensor, float clip,
                                const ia3_adafactor_scratch *scratch);

#endif
