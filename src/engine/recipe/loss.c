/*
 * loss.c
 *     Computes T-Few's losses and their gradients on the host, in double precision; this is little work.
 */
#include "loss.h"

#include <math.h>
#include <stdlib.h>

#include "engine/base/alloc.h"

static int
pair_of(const ia3_loss_question *q, int choice, int t)
{
    if (!q->chains)
        return q->first_pair + q->choices->choice_pairs[choice][t];
    int at = q->first_pair + t;
    for (int c = 0; c < choice; c++)
        at += q->choices->len[c];
    return at;
}

/* The tokens of a choice that count. */
static int
tokens(const ia3_loss_question *q, int choice)
{
    return q->choices->len[choice] - ia3_choices_given(q->choices, choice);
}

static int
wrong_tokens(const ia3_loss_question *q)
{
    int n = 0;
    for (int c = q->begin; c < q->end; c++)
        if (c != q->correct)
            n += tokens(q, c);
    return n;
}

/* -Σ lp over the tokens of the correct choice; each has the gradient -scale. */
static double
add_lm(const ia3_loss_question *q, double scale, const float *lp, float *dlp)
{
    double sum = 0;
    for (int t = ia3_choices_given(q->choices, q->correct); t < q->choices->len[q->correct]; t++) {
        int p = pair_of(q, q->correct, t);
        sum -= lp[p];
        dlp[p] -= (float) scale;
    }
    return sum;
}

/* -Σ log(1 - p + 0.01) over the tokens of the wrong choices, with the gradient scale · p / (1.01 - p). */
static double
add_unlikelihood(const ia3_loss_question *q, double scale, const float *lp, float *dlp)
{
    double sum = 0;
    for (int c = q->begin; c < q->end; c++) {
        for (int t = ia3_choices_given(q->choices, c); c != q->correct && t < q->choices->len[c]; t++) {
            int i = pair_of(q, c, t);
            double p = exp((double) lp[i]);
            sum -= log(1.01 - p);
            dlp[i] += (float) (scale * p / (1.01 - p));
        }
    }
    return sum;
}

/* Cross-entropy of softmax(-s) against the correct choice; dCE/dlp = (softmax - [choice is correct]) / len. */
static double
add_length_norm(const ia3_loss_question *q, double scale, const float *lp, float *dlp)
{
    double *mean = ia3_alloc_array(q->end - q->begin, sizeof(double)), top = -INFINITY, sum = 0;
    for (int c = q->begin; c < q->end; c++) {
        double *m = &mean[c - q->begin];
        for (int t = ia3_choices_given(q->choices, c); t < q->choices->len[c]; t++)
            *m += lp[pair_of(q, c, t)];
        *m /= tokens(q, c);
        top = fmax(top, *m);
    }
    for (int c = q->begin; c < q->end; c++)
        sum += exp(mean[c - q->begin] - top);
    double loss = top + log(sum) - mean[q->correct - q->begin];
    for (int c = q->begin; c < q->end; c++) {
        double g = exp(mean[c - q->begin] - top) / sum - (c == q->correct);
        for (int t = ia3_choices_given(q->choices, c); t < q->choices->len[c]; t++)
            dlp[pair_of(q, c, t)] += (float) (scale * g / tokens(q, c));
    }
    free(mean);
    return loss;
}

ia3_losses
ia3_loss(const ia3_loss_question *questions, int n, const ia3_recipe *recipe, const float *lp, float *dlp)
{
    bool each = recipe->averaging == IA3_LOSS_EXAMPLE;
    double correct = 0, wrong = 0, examples = 0;
    for (int i = 0; i < n; i++) {
        const ia3_loss_question *q = &questions[i];
        correct += q->share * tokens(q, q->correct);
        wrong += q->share * wrong_tokens(q);
        examples += q->share;
    }
    ia3_losses l = {0};
    for (int i = 0; i < n; i++) {
        const ia3_loss_question *q = &questions[i];
        double weight = q->weight * q->share, size = each ? recipe->batch_size : 1;
        double lm_scale = weight / (size * (each ? tokens(q, q->correct) : correct));
        double norm_scale = weight / (each ? recipe->batch_size : examples);
        double wrong_here = each ? wrong_tokens(q) : wrong;
        l.lm += lm_scale * add_lm(q, recipe->lm_weight * lm_scale, lp, dlp);
        l.length_norm += norm_scale * add_length_norm(q, recipe->length_norm_weight * norm_scale, lp, dlp);
        if (wrong_here > 0) {
            double wrong_scale = weight / (size * wrong_here);
            l.unlikelihood +=
                wrong_scale * add_unlikelihood(q, recipe->unlikelihood_weight * wrong_scale, lp, dlp);
        }
    }
    l.total = recipe->lm_weight * l.lm + recipe->unlikelihood_weight * l.unlikelihood +
              recipe->length_norm_weight * l.length_norm;
    return l;
}
