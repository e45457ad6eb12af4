/*
 * optimizer.h
 *     The variants of the optimizer that a recipe may ask for, beside the devices' Adafactor: AdamW, and an exponential moving
 *     average of the values.
 *
 * They are computed in host memory, tensor by tensor alike, with a copy of gradients and values in each step. This serves all
 * devices, and takes little compared with the pass, because adapters are small.
 */
#ifndef IA3_OPTIMIZER_H
#define IA3_OPTIMIZER_H

#include "parameters.h"
#include "recipe.h"

typedef struct ia3_optimizer ia3_optimizer;

/* The state for these parameters, with a copy of the recipe; NULL if it asks for no variant. */
ia3_optimizer *ia3_optimizer_create(const ia3_recipe *recipe, const ia3_parameters *p);
void ia3_optimizer_free(ia3_optimizer *o);

/*
 * Step number `step`, from 1, with the learning rate of this step (Loshchilov and Hutter, arXiv 1711.05101; torch.optim.AdamW with its
 * default betas and epsilon): with g *= min(1, 1 / (‖g‖ + 1e-6)), as for Adafactor,
 *   p *= 1 - rate·decay; m = 0.9·m + 0.1·g; v = 0.999·v + 0.001·g²; p -= rate·(m / (1 - 0.9^t)) / (√(v / (1 - 0.999^t)) + 1e-8)
 */
void ia3_optimizer_adamw(ia3_optimizer *o, const ia3_parameters *p, double rate, int step);

/* After a step: average = d·average + (1 - d)·the adapter's values; after the first one, these. */
void ia3_optimizer_average(ia3_optimizer *o, const ia3_parameters *p, int step);

/* The average, of the adapter's values; NULL if the recipe asks for none or there has been no step. */
const float *ia3_optimizer_averaged(const ia3_optimizer *o);

#endif
