/*
 * prefix.h
 *     What the two files of prefix tuning have in common.
 */
#ifndef IA3_PREFIX_H
#define IA3_PREFIX_H

#include "engine/files/method.h"

/*
 * A prefix is trained through a network of two layers, as Li and Liang (arXiv 2101.00190, section 4.3) propose and T-Few does: the
 * keys and values of an attention are W₂·tanh(W₁·e + b₁) + b₂ with an embedding e for each position. Each attention has W₂ and
 * b₂ of its own; the rest is common to the self-attentions of the encoder, to those of the decoder, and to the
 * cross-attentions. Only what it results in belongs to the adapter.
 *
 * A new prefix is that of a text, as in T-Few: the keys and values that the backbone computes for "Question:" before the
 * encoder's input and "Answer:" before the decoder's, repeated or cut to the length. (T-Few trains the network for 1,000 steps to
 * approximate them; here W₂ is chosen such that they result exactly, with the smallest change of its random initial values.)
 */
extern const ia3_reparameterization ia3_prefix_network;

#endif
