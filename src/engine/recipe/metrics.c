/*
 * metrics.c
 *     Averages the losses over the steps of a training run, adds up its FLOPs, and writes them as JSON.
 */
#include "metrics.h"

#include <jansson.h>
#include <math.h>
#include <string.h>

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
    const double losses[4] = {report->loss, report->lm_loss, report->unlikelihood_loss,
                              report->length_norm_loss};
    if (l->may_end) { /* which steps are the last ones is known at the end */
        for (int i = 0; i < 4; i++)
            l->early.sums[k][i] += losses[i];
        l->early.n[k]++;
        return;
    }
    int tail = l->steps / 10 > 0 ? l->steps / 10 : 1;
    if (step <= l->steps - tail)
        return;
    for (int i = 0; i < 4; i++)
        l->sums[i] += losses[i];
    l->n_sums++;
}

void
ia3_loss_record_end(ia3_loss_record *l, int step, bool flat)
{
    ia3_early_record *e = &l->early;
    int n = 0;
    if (!l->may_end)
        return;
    for (int k = IA3_CURVE_POINTS - 1; k >= 0 && n < (step + 9) / 10; k--) {
        for (int i = 0; i < 4; i++)
            l->sums[i] += e->sums[k][i];
        n += e->n[k];
    }
    l->n_sums += n;
    memset(e->sums, 0, sizeof e->sums);
    memset(e->n, 0, sizeof e->n);
    e->steps[e->members] = step;
    e->flat[e->members++] = flat;
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

static int
count_steps(const ia3_loss_record *l)
{
    int most = 0;
    for (int i = 0; i < l->early.members; i++)
        most = l->early.steps[i] > most ? l->early.steps[i] : most;
    return l->may_end ? most : l->steps;
}

static json_t *
early_stopping(const ia3_loss_record *l)
{
    json_t *steps = json_array(), *ended_by = json_array();
    for (int i = 0; i < l->early.members; i++) {
        json_array_append_new(steps, json_integer(l->early.steps[i]));
        json_array_append_new(ended_by, json_string(l->early.flat[i] ? "flat" : "steps"));
    }
    return json_pack("{s:s, s:i, s:o, s:o}", "rule", "loss", "max_steps", l->steps, "steps", steps,
                     "ended_by", ended_by);
}

char *
ia3_metrics_json(const ia3_loss_record *l, uint32_t examples, double seconds, uint32_t truncated)
{
    static const char *const names[] = {"loss", "lm_loss", "unlikelihood_loss", "length_norm_loss"};
    json_t *o = json_object();
    for (int i = 0; i < 4; i++)
        json_object_set_new(o, names[i], number(l->n_sums ? l->sums[i] / l->n_sums : NAN));
    json_object_set_new(o, "steps", json_integer(count_steps(l)));
    json_object_set_new(o, "examples", json_integer(examples));
    json_object_set_new(o, "seconds", number(seconds));
    json_object_set_new(o, "flops", count(l->flops));
    json_object_set_new(o, "truncated", json_integer(truncated));
    json_t *curve = json_array();
    for (int i = 0; i < IA3_CURVE_POINTS; i++)
        if (l->curve_n[i] > 0)
            json_array_append_new(curve, number(l->curve[i] / l->curve_n[i]));
    json_object_set_new(o, "loss_curve", curve);
    if (l->may_end)
        json_object_set_new(o, "early_stopping", early_stopping(l));
    char *text = json_dumps(o, JSON_COMPACT | JSON_REAL_PRECISION(8));
    json_decref(o);
    return text;
}
