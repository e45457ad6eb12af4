/*
 * norm_scale.h
 *     A trained factor behind each norm, which more than one method has: y = y ⊙ s, s [d_model], stored as
 *     "base_model.model.<norm>.scale". T-Few trains the norm's own weight; here it is a factor of the backbone's.
 */
#ifndef IA3_NORM_SCALE_H
#define IA3_NORM_SCALE_H

#include "engine/files/method.h"

void ia3_norm_scale_tensor(ia3_layout *l, const ia3_module *norm);
void ia3_norm_scale(const ia3_method_rows *r, void *y);
void ia3_norm_scale_bwd(const ia3_method_rows *r, void *dy, const void *x);

#endif
