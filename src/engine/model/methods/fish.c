/*
 * fish.c
 *     Fixed sparse training with a FISH mask (Sung, Nair, Raffel, arXiv 2111.09839), as T-Few has it (src/models/fishmask.py): of all weights
 *     of the backbone those with the largest empirical Fisher information are trained.
 *
 * The information of a weight is the mean of the square of its gradient, one example at a time, with the correct answers, of the same loss that
 * is trained, with dropout. T-Few's configurations draw 300 examples for it: they leave the number of steps at the default, with a batch
 * size of one. How many weights are kept is keep_ratio times their number, rounded down. Then training is that of all weights,
 * with zeros for the gradients of the others.
 *
 * A version has the weights' positions among all in the order of full.c's layout, and their values. A position is in two numbers, because a
 * float cannot tell those beyond 2^24 apart. For the same reason keep_ratio, from which their number follows, is the sum of two.
 */
#include "methods.h"
#include "weight_tensors.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define VALUES_NAME     "fish_mask.values"
#define RATIO_NAME      "fish_mask.keep_ratio"
#define RATIO_REST_NAME "fish_mask.keep_ratio_rest"

enum { KEEP_RATIO };
static const ia3_method_option options[] = {
    [KEEP_RATIO] = {.name = "keep_ratio",
                    .kind = IA3_OPTION_NUMBER,
                    .min = 1e-9,
                    .max = 1,
                    .standard = 0.002,
                    .before = 0.002},
    {.name = NULL},
};

static size_t
count_kept(const ia3_layout *l)
{
    return (size_t) ((double) l->expanded->n_values * ia3_option(l, KEEP_RATIO));
}

static void
add_tensors(ia3_layout *l, const ia3_config *config)
{
    ia3_weight_tensors_rest(l->expanded, config);

    const size_t n = count_kept(l) > 0 ? count_kept(l) : 1;
    const int len = n < INT32_MAX ? (int) n : INT32_MAX;
    const char *const names[] = {"fish_mask.high", "fish_mask.low", VALUES_NAME};

    l->kept = n;
    for (int i = 0; i < 3; i++) {
        ia3_layout_entry *e = ia3_layout_add_vector(l, len, 0.0f, "%s", names[i]);

        e->partner = i < 2 ? 1 : -1;
        e->required = true;
    }

    const double ratio = ia3_option(l, KEEP_RATIO);
    const float high = (float) ratio;

    ia3_layout_add_vector(l, 1, high, RATIO_NAME);
    ia3_layout_add_vector(l, 1, (float) (ratio - high), RATIO_REST_NAME);
}

static double
only_value(const ia3_safetensors *st, const char *name)
{
    const ia3_st_tensor *t = ia3_safetensors_find(st, name);
    float value = 0;

    if (t && t->dtype == IA3_F32 && t->bytes == sizeof value)
        memcpy(&value, t->data, sizeof value);
    return value;
}

/* Two floats have about 14 of the decimal digits that somebody wrote. */
static void
guess(const ia3_safetensors *st, ia3_variant *v)
{
    const double ratio = only_value(st, RATIO_NAME) + only_value(st, RATIO_REST_NAME);
    char digits[32];

    snprintf(digits, sizeof digits, "%.14g", ratio);
    if (ratio != 0)
        v->options[KEEP_RATIO] = strtod(digits, NULL);
}

static bool
suits(const ia3_layout *l, ia3_error *err)
{
    if (count_kept(l) > 0)
        return true;
    ia3_fail(err, IA3_E_INVALID, "keep_ratio must be at least %.3g for this backbone",
             1.0 / (double) l->expanded->n_values);
    return ia3_fail_detail(err, "Of its %zu weights none would be trained.", l->expanded->n_values);
}

static bool
is_whole(float x)
{
    return x >= 0 && x == floorf(x);
}

static bool
valid(const ia3_layout *l, const float *values, ia3_error *err)
{
    size_t before = 0;

    for (size_t i = 0; i < l->kept; i++) {
        const float high = values[i], low = values[l->kept + i];
        const bool is_position = is_whole(high) && is_whole(low) && high < 16777216 && low < 65536;
        const size_t at = is_position ? ia3_kept_position(l, values, i) : 0;

        if (!is_position || at >= l->expanded->n_values || (i > 0 && at <= before)) {
            ia3_fail(err, IA3_E_BAD_ADAPTER, "adapter: position %zu of \"fish_mask\" is invalid", i);
            return ia3_fail_detail(
                err, "Positions must be ascending whole numbers less than the backbone's %zu weights.",
                l->expanded->n_values);
        }
        before = at;
    }
    return true;
}

const ia3_method ia3_method_fish = {
    .name = "fish",
    .options = options,
    .suits = suits,
    .valid = valid,
    .module = ia3_weight_tensors,
    .tensors = add_tensors,
    .guess = guess,
    .marks = (const char *const[]){VALUES_NAME, NULL},
    .peft_lacks = "PEFT trains parameters beside the backbone's weights, of which this method replaces some.",
    .learning_rate = 3e-4,
    .steps = 1500,
    .weights = true,
    .mask_draws = 300,
};
