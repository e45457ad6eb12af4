/*
 * full.c
 *     Full fine-tuning: all weights of the backbone are trained, and a version has all of them.
 */
#include "methods.h"
#include "weight_tensors.h"

const ia3_method ia3_method_full = {
    .name = "full",
    .module = ia3_weight_tensors,
    .tensors = ia3_weight_tensors_rest,
    .marks = (const char *const[]){"shared.weight", NULL},
    .peft_lacks = "PEFT trains parameters beside the backbone's weights, which this method replaces.",
    .learning_rate = 3e-4,
    .steps = 300,
    .weights = true,
};
