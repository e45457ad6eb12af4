/*
 * loss.h
 *     T-Few's three losses, computed from log-probabilities of tokens (arXiv 2205.05638 §3.2; docs/engine.md §3.1).
 */
#ifndef IA3_LOSS_H
#define IA3_LOSS_H

#include "engine/model/choices.h"
#include "recipe.h"

/*
 * One of several choices is correct: a question. An example has one, about all its choices, or, if it is a multi-label one, one
 * for each label, whose choices are the label's two answers. A pair is a decoder row and a token whose log-probability after that
 * row is wanted (batch.h). The pairs of a batch are numbered consecutively. Tokens that are given (choices.h) do not count.
 */
typedef struct ia3_loss_question {
    const ia3_choices *choices; /* of the example */
    int begin, end; /* the question's choices are those from `begin` up to but not including `end` */
    int correct;    /* one of them */
    int first_pair; /* the example's first pair */
    double weight;  /* of the example among all of its training run, with a mean of 1 (ia3_train_weigh) */
    double share;   /* of the question in the losses of its example: 1 / the number of its questions */
    bool chains;    /* pairs are in the order of choices, then tokens; else choices->choice_pairs has them */
} ia3_loss_question;

typedef struct ia3_losses {
    double total, lm, unlikelihood, length_norm;
} ia3_losses;

/*
 * Computes the losses of examples that have n questions altogether from lp [pairs], and adds dL/dlp to dlp [pairs], where
 * L = Σ weight·loss with the weights of the recipe, w is the weight of the example, and h is the share of the question:
 *
 *   lm            = -Σ w h lp / Σ h               over the tokens of the correct choices
 *   length_norm   = Σ w h CE(softmax(-s), correct choice) / Σ h   over the questions,  s_c = Σ_t (-lp_ct) / len_c
 *   unlikelihood  = -Σ w h log(1.01 - exp lp) / Σ h   over the tokens of the wrong choices
 *
 * With one question for each example, as T-Few has it, all h are 1. The denominators count tokens and examples whatever they
 * weigh. The mean weight of the whole run is 1, so they do not change
 * the scale; a batch's own Σ w would undo the weights in batches whose examples all have the same.
 *
 * The reference implementation adds a constant for masked positions, which has no gradient and is left out here. With
 * IA3_LOSS_BATCH the sums are over the whole batch. With IA3_LOSS_EXAMPLE a question's lm and unlikelihood are means over its own
 * tokens, an example's losses are the means of its questions', and the sum of the examples' losses is divided by `batch_size`
 * even if there are fewer.
 */
ia3_losses ia3_loss(const ia3_loss_question *questions, int n, const ia3_recipe *recipe, const float *lp,
                    float *dlp);

#endif
