/*
 * recipe.c
 *     The limits of a recipe, apart from training: whoever parses a request needs them, but no model.
 */
#include "recipe.h"

static bool
check_number(double v, double low, double high, const char *name, ia3_error *err)
{
    if (v >= low && v <= high)
        return true;
    ia3_fail(err, IA3_E_INVALID, "%s is out of range", name);
    return ia3_fail_detail(err, "It must be between %g and %g.", low, high);
}

bool
ia3_recipe_check(const ia3_recipe *r, ia3_error *err)
{
    if (!check_number(r->steps, 1, 1000000, "steps", err) ||
        !check_number(r->batch_size, 1, 1024, "batch_size", err) ||
        !check_number(r->learning_rate, 1e-9, 10, "learning_rate", err) ||
        !check_number(r->warmup_ratio, 0, 1, "warmup_ratio", err) ||
        !check_number(r->lm_weight, 0, 1e6, "lm_weight", err) ||
        !check_number(r->unlikelihood_weight, 0, 1e6, "unlikelihood_weight", err) ||
        !check_number(r->length_norm_weight, 0, 1e6, "length_norm_weight", err))
        return false;
    if (!(r->dropout < 0) && !check_number(r->dropout, 0, 0.9, "dropout", err))
        return false;
    if (r->averaging != IA3_LOSS_BATCH && r->averaging != IA3_LOSS_EXAMPLE)
        return ia3_fail(err, IA3_E_INVALID, "unknown loss_averaging");
    if (r->method == NULL)
        return ia3_fail(err, IA3_E_INVALID, "unknown method");
    if (r->stop != 0 && !check_number(r->stop, 1, r->steps, "the step to pause at", err))
        return false;
    if (r->lm_weight + r->unlikelihood_weight + r->length_norm_weight == 0)
        return ia3_fail(err, IA3_E_INVALID, "all loss weights are zero");
    return true;
}
