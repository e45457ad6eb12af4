/*
 * loss.c
 *     Computes T-Few's losses and their gradients on the host, in double precision; this is little work.
 */
#include "loss.h"

#include <math.h>
#include <stdlib.h>

#include "engine/base/alloc.h"

static int
pair_of(const ia3_loss_example *e, int choice, int t)
{
    if (!e->chains)
        return e->first_pair + e->choices->choice_pairs[choice][t];
    int at = e->first_pair + t;
    for (int c = 0; c < choice; c++)
        at += e->choices->len[c];
    return at;
}

static int
wrong_tokens(const ia3_loss_example *e)
{
    int n = 0;
    for (int c = 0; c < e->choices->n; c++)
        if (c != e->label)
            n += e->choices->len[c];
    return n;
}

/* -Σ lp over the tokens of the correct choice; each has the gradient -scale. */
static double
add_lm(const ia3_loss_example *e, double scale, const float *lp, float *dlp)
{
    double sum = 0;
    for (int t = 0; t < e->choices->len[e->label]; t++) {
        int p = pair_of(e, e->label, t);
        sum -= lp[p];
        dlp[p] -= (float) scale;
    }
    return sum;
}

/* -Σ log(1 - p + 0.01) over the tokens of the wrong choices, with the gradient scale · p / (1.01 - p). */
static double
add_unlikelihood(const ia3_loss_example *e, double scale, const float *lp, float *dlp)
{
    double sum = 0;
    for (int c = 0; c < e->choices->n; c++) {
        for (int t = 0; c != e->label && t < e->choices->len[c]; t++) {
            int i = pair_of(e, c, t);
            double p = exp((double) lp[i]);
            sum -= log(1.01 - p);
            dlp[i] += (float) (scale * p / (1.01 - p));
        }
    }
    return sum;
}

/* Cross-entropy of softmax(-s) against the correct choice; dCE/dlp = (softmax - [choice is correct]) / len. */
static double
add_length_norm(const ia3_loss_example *e, double scale, const float *lp, float *dlp)
{
    const ia3_choices *c = e->choices;
    double *mean = ia3_alloc_array(c->n, sizeof(double)), top = -INFINITY, sum = 0;
    for (int i = 0; i < c->n; i++) {
        for (int t = 0; t < c->len[i]; t++)
            mean[i] += lp[pair_of(e, i, t)];
        mean[i] /= c->len[i];
        top = fmax(top, mean[i]);
    }
    for (int i = 0; i < c->n; i++)
        sum += exp(mean[i] - top);
    double loss = top + log(sum) - mean[e->label];
    for (int i = 0; i < c->n; i++) {
        double g = exp(mean[i] - top) / sum - (i == e->label);
        for (int t = 0; t < c->len[i]; t++)
            dlp[pair_of(e, i, t)] += (float) (scale * g / c->len[i]);
    }
    free(mean);
    return loss;
}

ia3_losses
ia3_loss(const ia3_loss_example *examples, int n, const ia3_recipe *recipe, const float *lp, float *dlp)
{
    bool each = recipe->averaging == IA3_LOSS_EXAMPLE;
    long correct = 0, wrong = 0;
    for (int i = 0; i < n; i++) {
        correct += examples[i].choices->len[examples[i].label];
        wrong += wrong_tokens(&examples[i]);
    }
    ia3_losses l = {0};
    for (int i = 0; i < n; i++) {
        const ia3_loss_example *e = &examples[i];
        double share = each ? recipe->batch_size : 1;
        double lm_scale = e->weight / (share * (each ? e->choices->len[e->label] : correct));
        double norm_scale = e->weight / (each ? recipe->batch_size : n);
        double tokens = each ? wrong_tokens(e) : wrong;
        l.lm += lm_scale * add_lm(e, recipe->lm_weight * lm_scale, lp, dlp);
        l.length_norm += norm_scale * add_length_norm(e, recipe->length_norm_weight * norm_scale, lp, dlp);
        if (tokens > 0) {
            double wrong_scale = e->weight / (share * tokens);
            l.unlikelihood +=
                wrong_scale * add_unlikelihood(e, recipe->unlikelihood_weight * wrong_scale, lp, dlp);
        }
    }
    l.total = recipe->lm_weight * l.lm + recipe->unlikelihood_weight * l.unlikelihood +
              recipe->length_norm_weight * l.length_norm;
    return l;
}
