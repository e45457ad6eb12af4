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

/* Σ g² of such a matrix, and its part of the step, with gradients multiplied by `clip`. Both use all threads. */
double ia3_adafactor_large_norm(ia3_cpu *cpu, const ia3_adafactor *a, int tensor);
void ia3_adafactor_large_update(ia3_cpu *cpu, const ia3_adafactor *a, int tensor, float clip);

#endif
