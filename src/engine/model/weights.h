/*
 * weights.h
 *     The weights of a backbone on a device: the checkpoint's, or those of a version that replaces some or all of them.
 *
 * Versions that replace weights have a layout with `weights`, which passes use (layout.h): its tensors are those of the backbone. Weights in
 * training have their masters, fp32 values in such a layout, in device memory; what the operations read is made from these after each step.
 */
#ifndef IA3_WEIGHTS_H
#define IA3_WEIGHTS_H

#include "graph.h"

/* Where weights come from. `values` (host memory, of `layout`) are those that a version has in place of the checkpoint's; NULL: none. */
typedef struct ia3_weight_source {
    const ia3_checkpoint *checkpoint; /* may be NULL if a version has all weights */
    const ia3_layout *layout;
    const float *values;
    void (*progress)(double fraction, void *arg); /* may be NULL */
    void *arg;
} ia3_weight_source;

/*
 * Copies weights to the model's device. NULL with IA3_E_BAD_CHECKPOINT or IA3_E_MEMORY. ia3_weights_free may be called with NULL.
 */
ia3_weights *ia3_weights_create(ia3_model *m, const ia3_weight_source *source, ia3_error *err);
void ia3_weights_free(ia3_model *m, ia3_weights *w);

/* Those for the backward pass. On failure there are none. */
bool ia3_weights_prepare_backward(ia3_model *m, ia3_weights *w, ia3_error *err);
void ia3_weights_release_backward(ia3_model *m, ia3_weights *w);

/*
 * Gives all weights the values of their masters [layout->n_values], device memory that must stay until the weights are freed, because
 * position biases are expanded from it whenever inputs become longer. `layout` has `weights`.
 */
void ia3_weights_update(ia3_model *m, ia3_weights *w, const ia3_layout *layout, const float *masters);

/* Reads the checkpoint's weights into `values` [layout->n_values], host memory; `layout` has `weights`. */
bool ia3_weights_read(const ia3_checkpoint *ck, const ia3_layout *layout, float *values, ia3_error *err);

/* Bytes of device memory that a copy of a backbone's weights takes, about; for the backward pass, too, with `training`. */
uint64_t ia3_weights_estimate(const ia3_model *m, bool training);

#endif
