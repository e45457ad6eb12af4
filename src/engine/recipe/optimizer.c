/*
 * optimizer.c
 *     AdamW and the exponential moving average of values.
 */
#include "optimizer.h"

#include <math.h>
#include <stdlib.h>

#include "engine/base/alloc.h"

struct ia3_optimizer {
    double decay, ema;
    size_t n;
    float *values,
        *grads; /* copies of those on the device; with AdamW, which alone changes them, values stay current */
    float *first, *second; /* moments; NULL: not AdamW */
    float *average;        /* NULL: none */
    bool averaged;
};

ia3_optimizer *
ia3_optimizer_create(const ia3_recipe *recipe, size_t n)
{
    if (recipe->optimizer == IA3_OPTIMIZER_ADAFACTOR && recipe->ema == 0)
        return NULL;
    ia3_optimizer *o = ia3_alloc(sizeof *o);
    *o = (ia3_optimizer){.decay = recipe->weight_decay,
                         .ema = recipe->ema,
                         .n = n,
                         .values = ia3_alloc_array(n, sizeof(float))};
    if (recipe->optimizer == IA3_OPTIMIZER_ADAMW) {
        o->grads = ia3_alloc_array(n, sizeof(float));
        o->first = ia3_alloc_array(n, sizeof(float));
        o->second = ia3_alloc_array(n, sizeof(float));
    }
    o->average = recipe->ema > 0 ? ia3_alloc_array(n, sizeof(float)) : NULL;
    return o;
}

void
ia3_optimizer_free(ia3_optimizer *o)
{
    if (o == NULL)
        return;
    free(o->values);
    free(o->grads);
    free(o->first);
    free(o->second);
    free(o->average);
    free(o);
}

static double
norm(const float *g, size_t n)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += (double) g[i] * g[i];
    return sqrt(sum);
}

void
ia3_optimizer_adamw(ia3_optimizer *o, ia3_device *dev, float *values, const float *grads, double rate,
                    int step)
{
    const double b1 = 0.9, b2 = 0.999, epsilon = 1e-8;
    const double c1 = 1 - pow(b1, step), c2 = 1 - pow(b2, step);
    if (step == 1)
        dev->ops->download(dev, o->values, values, o->n * sizeof(float));
    dev->ops->download(dev, o->grads, grads, o->n * sizeof(float));
    const double clip = fmin(1, 1 / (norm(o->grads, o->n) + 1e-6));
    for (size_t i = 0; i < o->n; i++) {
        const double g = clip * o->grads[i];
        const double m = b1 * o->first[i] + (1 - b1) * g, v = b2 * o->second[i] + (1 - b2) * g * g;
        o->first[i] = (float) m;
        o->second[i] = (float) v;
        o->values[i] =
            (float) (o->values[i] * (1 - rate * o->decay) - rate * (m / c1) / (sqrt(v / c2) + epsilon));
    }
    dev->ops->upload(dev, values, o->values, o->n * sizeof(float));
}

void
ia3_optimizer_average(ia3_optimizer *o, ia3_device *dev, const float *values, int step)
{
    const double keep = step == 1 ? 0 : o->ema;
    if (o->average == NULL)
        return;
    if (o->first == NULL)
        dev->ops->download(dev, o->values, values, o->n * sizeof(float));
    for (size_t i = 0; i < o->n; i++)
        o->average[i] = (float) (keep * o->average[i] + (1 - keep) * o->values[i]);
    o->averaged = true;
}

const float *
ia3_optimizer_averaged(const ia3_optimizer *o)
{
    return o && o->averaged ? o->average : NULL;
}
