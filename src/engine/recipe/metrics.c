/*
 * metrics.c
 *     Averages the losses over the steps of a training run, adds up its FLOPs, and writes them as JSON.
 */
#include "metrics.h"

#include <jansson.h>
#include <math.h>

#include "engine/base/alloc.h"

void
ia3_loss_record_add(ia3_loss_record *l, const ia3_train_report *report)
{
    int points = l->steps < IA3_CURVE_POINTS ? l->steps : IA3_CURVE_POINTS;
    int step = report->step - l->first;
    int k = (int) ((int64_t) (step - 1) * points / l->steps);
    l->curve[k] += report->loss;
    l->curve_n[k]++;
    l->flops += report->flops;
    int tail = l->steps / 10 > 0 ? l->steps / 10 : 1;
    if (step <= l->steps - tail)
        return;
    l->sums[0] += report->loss;
    l->sums[1] += report->lm_loss;
    l->sums[2] += report->unlikelihood_loss;
    l->sums[3] += report->length_norm_loss;
    l->n_sums++;
}

/* A JSON number, or null for NaN and infinities, which JSON does not have. */
static json_t *
number(double v)
{
    return isfinite(v) ? json_real(v) : json_null();
}

/* A whole number, exact up to 2^53. */
static json_t *
count(double v)
{
    return v < 0x1p62 ? json_integer((json_int_t) v) : number(v);
}

char *
ia3_metrics_json(const ia3_loss_record *l, uint32_t examples, double seconds, uint32_t truncated)
{
    static const char *const names[] = {"loss", "lm_loss", "unlikelihood_loss", "length_norm_loss"};
    json_t *o = json_object();
    for (int i = 0; i < 4; i++)
        json_object_set_new(o, names[i], number(l->n_sums ? l->sums[i] / l->n_sums : NAN));
    json_object_set_new(o, "steps", json_integer(l->steps));
    json_object_set_new(o, "examples", json_integer(examples));
    json_object_set_new(o, "seconds", number(seconds));
    json_object_set_new(o, "flops", count(l->flops));
    json_object_set_new(o, "truncated", json_integer(truncated));
    json_t *curve = json_array();
    for (int i = 0; i < IA3_CURVE_POINTS; i++)
        if (l->curve_n[i] > 0)
            json_array_append_new(curve, number(l->curve[i] / l->curve_n[i]));
    json_object_set_new(o, "loss_curve", curve);
    char *text = json_dumps(o, JSON_COMPACT | JSON_REAL_PRECISION(8));
    json_decref(o);
    return text;
}
