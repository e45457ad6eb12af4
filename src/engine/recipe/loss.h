/*
 * loss.h
 *     T-Few's three losses on token log-probabilities (arXiv 2205.05638 §3.2; engine.md §3.1).
 */
#ifndef IA3_LOSS_H
#define IA3_LOSS_H

#include "train.h"

/* One example of the batch, and where its tokens' log-probabilities begin among the batch's pairs. */
typedef struct ia3_loss_example {
    const ia3_choices *choices;
    int label;
    int first_pair;
    bool chains; /* pairs in the order of choices, then tokens; else by choices->choice_pairs */
} ia3_loss_example;

typedef struct ia3_losses {
    double total, lm, unlikelihood, length_norm;
} ia3_losses;

/*
 * Losses of n examples and, added into dlp, dL/dlp of every pair, L = Σ weight·loss (weights of the recipe).
 *
 *   lm            = -Σ lp / Σ 1                     over the gold tokens
 *   length_norm   = mean over examples of CE(softmax(-s), gold),  s_c = Σ_t (-lp_ct) / len_c
 *   unlikelihood  = -Σ log(1.01 - exp lp) / Σ 1     over the tokens of wrong choices
 *
 * (the constant that the reference implementation adds for masked cells is dropped; it has no gradient).
 * IA3_LOSS_BATCH takes the sums over the whole batch; IA3_LOSS_EXAMPLE over each example alone, and divides
 * the sum of the examples' losses by `batch_size` even when n is smaller.
 */
ia3_losses ia3_loss(const ia3_loss_example *examples, int n, const ia3_recipe *recipe, const float *lp,
                    float *dlp);

#endif
