/*
 * optimizer.c
 *     AdamW and the exponential moving average of values.
 */
#include "optimizer.h"

#include <math.h>
#include <stdlib.h>

#include "engine/base/alloc.h"
#include "engine/model/graph.h"

struct ia3_optimizer {
    double decay, ema;
    /* AdamW; all are NULL otherwise */
    size_t n;
    float *values,
        *grads; /* copies of those on the device; the values stay current, because AdamW alone changes them */
    float *first, *second; /* moments */
    /* the average; NULL: none */
    size_t n_adapter;
    float *average, *adapter; /* adapter: a copy of that on the device; NULL if it is in `values` */
    bool averaged;
};

ia3_optimizer *
ia3_optimizer_create(const ia3_recipe *recipe, const ia3_parameters *p)
{
    if (recipe->optimizer == IA3_OPTIMIZER_ADAFACTOR && recipe->ema == 0)
        return NULL;
    ia3_optimizer *o = ia3_alloc(sizeof *o);
    const size_t n = p->trained->n_values, n_adapter = p->layout->n_values;
    *o = (ia3_optimizer){.decay = recipe->weight_decay, .ema = recipe->ema, .n = n, .n_adapter = n_adapter};
    if (recipe->optimizer == IA3_OPTIMIZER_ADAMW) {
        o->values = ia3_alloc_array(n, sizeof(float));
        o->grads = ia3_alloc_array(n, sizeof(float));
        o->first = ia3_alloc_array(n, sizeof(float));
        o->second = ia3_alloc_array(n, sizeof(float));
    }
    if (recipe->ema > 0) {
        o->average = ia3_alloc_array(n_adapter, sizeof(float));
        if (o->values == NULL || p->values != p->adapter)
            o->adapter = ia3_alloc_array(n_adapter, sizeof(float));
    }
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
    free(o->adapter);
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
ia3_optimizer_adamw(ia3_optimizer *o, const ia3_parameters *p, double rate, int step)
{
    ia3_device *dev = p->m->dev;
    const double b1 = 0.9, b2 = 0.999, epsilon = 1e-8;
    const double c1 = 1 - pow(b1, step), c2 = 1 - pow(b2, step);
    if (step == 1)
        dev->ops->download(dev, o->values, p->values, o->n * sizeof(float));
    dev->ops->download(dev, o->grads, p->grads, o->n * sizeof(float));
    const double clip = fmin(1, 1 / (norm(o->grads, o->n) + 1e-6));
    for (size_t i = 0; i < o->n; i++) {
        const double g = clip * o->grads[i];
        const double m = b1 * o->first[i] + (1 - b1) * g, v = b2 * o->second[i] + (1 - b2) * g * g;
        o->first[i] = (float) m;
        o->second[i] = (float) v;
        o->values[i] =
            (float) (o->values[i] * (1 - rate * o->decay) - rate * (m / c1) / (sqrt(v / c2) + epsilon));
    }
    dev->ops->upload(dev, p->values, o->values, o->n * sizeof(float));
}

void
ia3_optimizer_average(ia3_optimizer *o, const ia3_parameters *p, int step)
{
    const double keep = step == 1 ? 0 : o->ema;
    const float *now = o->adapter ? o->adapter : o->values;
    if (o->average == NULL)
        return;
    if (o->adapter)
        ia3_parameters_read(p, o->adapter);
    for (size_t i = 0; i < o->n_adapter; i++)
        o->average[i] = (float) (keep * o->average[i] + (1 - keep) * now[i]);
    o->averaged = true;
}

const float *
ia3_optimizer_averaged(const ia3_optimizer *o)
{
    return o && o->averaged ? o->average : NULL;
}
