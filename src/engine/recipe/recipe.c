/*
 * recipe.c
 *     The limits of the parameters of a training run, and of its examples' weights. Nothing else defines them.
 */
#include "recipe.h"

#include <math.h>

#include "stopping.h"

const ia3_recipe_limit ia3_recipe_limits[IA3_N_RECIPE_LIMITS] = {
    {"steps", 1, 1000000},           {"batch_size", 1, 1024},
    {"learning_rate", 1e-9, 10},     {"warmup_ratio", 0, 1},
    {"lm_weight", 0, 1000},          {"unlikelihood_weight", 0, 1000},
    {"length_norm_weight", 0, 1000}, {"dropout", 0, 0.9},
    {"weight_decay", 0, 1},          {"ema", 0, 0.99999},
};

static bool
check_number(double v, double min, double max, const char *name, ia3_error *err)
{
    if (v >= min && v <= max)
        return true;
    ia3_fail(err, IA3_E_INVALID, "%s must be between %.15g and %.15g", name, min, max);
    return ia3_fail_detail(err, "It is %.15g.", v);
}

static bool
check_early_stopping(const ia3_recipe *r, ia3_error *err)
{
    if (r->early_stopping == IA3_STOP_NEVER)
        return true;
    if (r->early_stopping != IA3_STOP_LOSS)
        return ia3_fail(err, IA3_E_INVALID, "unknown early_stopping");
    if (r->stop != 0)
        return ia3_fail(err, IA3_E_UNSUPPORTED, "a training run with early stopping cannot be paused");
    const int earliest = ia3_stopping_earliest(r->steps, r->warmup_ratio);
    if (earliest < r->steps)
        return true;
    ia3_fail(err, IA3_E_INVALID, "there are too few steps for early_stopping");
    ia3_fail_detail(err, "With %d steps and this warm-up, a training run could not end before step %d.",
                    r->steps, earliest);
    return ia3_fail_hint(err, "Use more steps, or no early stopping.");
}

bool
ia3_recipe_check(const ia3_recipe *r, ia3_error *err)
{
    /* in the order of the limits */
    const double numbers[IA3_N_RECIPE_LIMITS] = {
        r->steps,
        r->batch_size,
        r->learning_rate,
        r->warmup_ratio,
        r->lm_weight,
        r->unlikelihood_weight,
        r->length_norm_weight,
        r->dropout < 0 ? 0 : r->dropout,
        r->weight_decay,
        r->ema,
    };

    for (int i = 0; i < IA3_N_RECIPE_LIMITS; i++) {
        const ia3_recipe_limit *l = &ia3_recipe_limits[i];

        if (!check_number(numbers[i], l->min, l->max, l->name, err))
            return false;
    }
    if (r->averaging != IA3_LOSS_BATCH && r->averaging != IA3_LOSS_EXAMPLE)
        return ia3_fail(err, IA3_E_INVALID, "unknown loss_averaging");
    if (r->optimizer != IA3_OPTIMIZER_ADAFACTOR && r->optimizer != IA3_OPTIMIZER_ADAMW)
        return ia3_fail(err, IA3_E_INVALID, "unknown optimizer");
    if (r->weight_decay > 0 && r->optimizer != IA3_OPTIMIZER_ADAMW)
        return ia3_fail(err, IA3_E_INVALID, "weight_decay needs the optimizer \"adamw\"");
    if (r->stop != 0 && (r->optimizer != IA3_OPTIMIZER_ADAFACTOR || r->ema > 0))
        return ia3_fail(err, IA3_E_UNSUPPORTED, "this optimizer cannot be paused");
    if (r->variant.method == NULL)
        return ia3_fail(err, IA3_E_INVALID, "unknown method");
    if (!ia3_variant_check(&r->variant, err))
        return false;
    if (r->stop != 0 && !check_number(r->stop, 1, r->steps, "the step to pause at", err))
        return false;
    if (!check_early_stopping(r, err))
        return false;
    if (r->lm_weight + r->unlikelihood_weight + r->length_norm_weight == 0) {
        ia3_fail(err, IA3_E_INVALID, "all loss weights are zero");
        return ia3_fail_hint(
            err, "At least one of lm_weight, unlikelihood_weight and length_norm_weight must be positive.");
    }
    return true;
}

bool
ia3_recipe_check_weights(const double *weights, size_t n, ia3_error *err)
{
    bool positive = false;
    for (size_t i = 0; i < n; i++) {
        if (!(weights[i] >= 0 && weights[i] <= IA3_MAX_WEIGHT)) /* nor is NaN */
            return ia3_fail(err, IA3_E_INVALID, "the weight of example %zu is not a number from 0 to %g", i,
                            IA3_MAX_WEIGHT);
        positive = positive || weights[i] > 0;
    }
    return positive || ia3_fail(err, IA3_E_INVALID, "the weights of all examples are zero");
}

double
ia3_recipe_learning_rate(const ia3_recipe *r, int k)
{
    double warmup = r->steps * r->warmup_ratio;
    if (k < warmup)
        return r->learning_rate * k / fmax(1, warmup);
    return r->learning_rate * fmax(0, (r->steps - k) / fmax(1, r->steps - warmup));
}
