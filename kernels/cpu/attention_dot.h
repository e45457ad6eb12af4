/*
 * attention_dot.h
 *     Attention on bfloat16 data with the bfloat16 dot products of AVX512-BF16, forward and backward.
 *
 * The formulas are those of attention.c and attention_bwd.c, except that (IA)³ vectors are applied where no rounding
 * to bfloat16 follows: q·(k ⊙ l) = (q ⊙ l)·k, P·(v ⊙ l) = (P·v) ⊙ l, dS·(k ⊙ l) = (dS·k) ⊙ l. bgemm.h computes all
 * matrix products; keys, values, queries and gradients are packed once per head or block of queries. Attention
 * weights and their gradients are rounded to bfloat16 as operands of a product; sums, softmax statistics, dk and dv
 * are fp32.
 */
#ifndef IA3_CPU_ATTENTION_DOT_H
#define IA3_CPU_ATTENTION_DOT_H

#include "attention.h"

/* Whether these functions can compute this attention; if not, they must not be called. */
bool ia3_dot_usable(const ia3_cpu *cpu, const ia3_attention *a);

void ia3_dot_attention(ia3_cpu *cpu, const ia3_attention *a);

/*
 * partial: [n_seq, 2, inner], zeroed by the caller, receives each sequence's share of dl_k and dl_v; or NULL. dbias: [n_seq,
 * n_heads, 2·bias_span - 1], likewise, of the gradient of the bias.
 */
void ia3_dot_attention_bwd(ia3_cpu *cpu, const ia3_attention *a, const ia3_attention_grad *g, float *partial,
                           float *dbias);

#endif
