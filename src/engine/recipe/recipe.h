/*
 * recipe.h
 *     The parameters of a training run with the T-Few recipe (docs/engine.md §3).
 */
#ifndef IA3_RECIPE_H
#define IA3_RECIPE_H

#include "engine/files/method.h"

typedef struct ia3_recipe {
    int steps, batch_size;
    double learning_rate, warmup_ratio;
    double lm_weight, unlikelihood_weight, length_norm_weight;
    double dropout; /* a probability; negative: the checkpoint's dropout_rate */
    uint64_t seed;
    Ia3LossAveraging averaging;
    Ia3Optimizer optimizer;
    double weight_decay; /* of AdamW */
    double
        ema; /* the result is the average, with this decay, of the values after each step; 0: those after the last */
    ia3_variant variant; /* of the method */
    int stop;            /* pause after this many steps; 0: do not pause */
    Ia3EarlyStopping early_stopping;
} ia3_recipe;

/* The limits of the parameters. */
typedef struct ia3_recipe_limit {
    const char *name;
    double min, max;
} ia3_recipe_limit;
enum { IA3_N_RECIPE_LIMITS = 10 };
extern const ia3_recipe_limit ia3_recipe_limits[IA3_N_RECIPE_LIMITS];

/* Checks that every parameter is in its range; the error IA3_E_INVALID names the first one that is not. */
bool ia3_recipe_check(const ia3_recipe *recipe, ia3_error *err);

/* Checks the weights [n] of a run's examples: IA3_E_INVALID unless all are numbers from 0 to IA3_MAX_WEIGHT, and one is positive. */
bool ia3_recipe_check_weights(const double *weights, size_t n, ia3_error *err);

/*
 * The learning rate after k steps, 0 <= k < steps: linear warm-up from 0, then linear decay to 0 (transformers'
 * get_linear_schedule_with_warmup).
 */
double ia3_recipe_learning_rate(const ia3_recipe *recipe, int k);

#endif
