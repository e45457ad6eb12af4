/*
 * attention_dot.h
 *     Attention on bfloat16 data with dot products of pairs (AVX512-BF16), forward and backward.
 *
 * The formulas are those of attention.c and attention_bwd.c, with (IA)³ vectors applied where no rounding to bfloat16
 * follows: q·(k ⊙ l) = (q ⊙ l)·k, P·(v ⊙ l) = (P·v) ⊙ l, dS·(k ⊙ l) = (dS·k) ⊙ l. All products are bgemm.h's; keys,
 * values, queries and gradients are packed once per head or block of queries. Weights of attention and their gradients
 * are rounded to bfloat16 on the way into a product; sums, softmax statistics and dk, dv are fp32.
 */
#ifndef IA3_CPU_ATTENTION_DOT_H
#define IA3_CPU_ATTENTION_DOT_H

#include "attention.h"

/* Whether these functions can be used for this attention; otherwise they must not be called. */
bool ia3_dot_usable(const ia3_cpu *cpu, const ia3_attention *a);

void ia3_dot_attention(ia3_cpu *cpu, const ia3_attention *a);

/* partial: [n_seq, 2, inner], cleared, to add what a sequence gives dl_k and dl_v; or NULL. */
void ia3_dot_attention_bwd(ia3_cpu *cpu, const ia3_attention *a, const ia3_attention_grad *g, float *partial);

#endif
