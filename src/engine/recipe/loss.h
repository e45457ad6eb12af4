/*
 * loss.h
 *     T-Few's three losses, computed from log-probabilities of tokens (arXiv 2205.05638 §3.2; docs/engine.md §3.1).
 */
#ifndef IA3_LOSS_H
#define IA3_LOSS_H

#include "train.h"

/*
 * One example of the batch. A pair is a decoder row and a token whose log-probability after that row is wanted (batch.h).
 * The pairs of a batch are numbered consecutively.
 */
typedef struct ia3_loss_example {
    const ia3_choices *choices;
    int label;      /* the position of the correct choice */
    int first_pair; /* the example's first pair */
    double weight;  /* of the example among all of its training run, with a mean of 1 (ia3_train_weigh) */
    bool chains;    /* pairs are in the order of choices, then tokens; else choices->choice_pairs has them */
} ia3_loss_example;

typedef struct ia3_losses {
    double total, lm, unlikelihood, length_norm;
} ia3_losses;

/*
 * Computes the losses of n examples from lp [pairs], and adds dL/dlp to dlp [pairs], where L = Σ weight·loss with the
 * weights of the recipe, and w is the weight of a token's example:
 *
 *   lm            = -Σ w lp / Σ 1                   over the tokens of the correct choices
 *   length_norm   = Σ w CE(softmax(-s), correct choice) / Σ 1   over the examples,  s_c = Σ_t (-lp_ct) / len_c
 *   unlikelihood  = -Σ w log(1.01 - exp lp) / Σ 1   over the tokens of the wrong choices
 *
 * The denominators count tokens and examples whatever they weigh. The mean weight of the whole run is 1, so they do not change
 * the scale; a batch's own Σ w would undo the weights in batches whose examples all have the same.
 *
 * The reference implementation adds a constant for masked positions, which has no gradient and is left out here. With
 * IA3_LOSS_BATCH the sums are over the whole batch. With IA3_LOSS_EXAMPLE they are over each example, and the sum of
 * the examples' losses is divided by `batch_size` even if n is smaller.
 */
ia3_losses ia3_loss(const ia3_loss_example *examples, int n, const ia3_recipe *recipe, const float *lp,
                    float *dlp);

#endif
