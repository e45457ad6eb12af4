/*
 * norm_scale.h
 *     A trained scale for the output of each norm, which several methods have: y = y ⊙ s, s [d_model], stored as
 *     "base_model.model.<norm>.scale". T-Few trains the norm's own weight; here s multiplies the backbone's weight.
 */
#ifndef IA3_NORM_SCALE_H
#define IA3_NORM_SCALE_H

#include "engine/files/method.h"

#define IA3_NORM_SCALE_SUFFIX "layer_norm.scale"

void ia3_norm_scale_tensor(ia3_layout *l, const ia3_module *norm);
void ia3_norm_scale(const ia3_method_rows *r, void *y);
void ia3_norm_scale_bwd(const ia3_method_rows *r, void *dy, const void *x);

#endif
