/*
 * parameters.h
 *     The numbers that a training run changes, on the device: the values of an adapter, or others that these are computed from
 *     (ia3_reparameterization in engine/files/method.h).
 */
#ifndef IA3_PARAMETERS_H
#define IA3_PARAMETERS_H

#include "engine/model/model.h"

typedef struct ia3_parameters {
    ia3_model *m;
    const ia3_layout *layout; /* of the adapter */
    const ia3_layout *
        trained; /* of what is trained; the same unless there is a reparameterization, or some weights are trained */
    float *adapter,
        *adapter_grads; /* NULL if only some of the weights that are trained belong to the adapter */
    float *passed,
        *passed_grads; /* of the values that passes use; the adapter's unless there is an expansion */
    float *values, *grads, *second_moment; /* of what is trained; the first two may be the adapter's */
    float *scratch;
    /* with an expansion: its own, and host memory for the adapter's values and gradients, and for the values that passes use */
    void *prepared;
    float *host, *host_passed;
    /*
     * of methods that replace weights: what passes run with; of which only some are trained, which (device memory; NULL until they have
     * been chosen) and where they are (host memory [layout->kept])
     */
    ia3_weights *weights;
    bool weights_stale; /* the values have changed since they were copied */
    uint32_t *mask;
    size_t *positions;
    int32_t *tensor_offsets, *tensor_rows, *tensor_slices; /* of the trained tensors, for Adafactor */
} ia3_parameters;

/* The layout of what is trained of an adapter. */
const ia3_layout *ia3_parameters_layout(const ia3_layout *adapter);

/*
 * Finds the initial values: those of an adapter, `init` (host memory), or new ones if it is NULL. On failure (IA3_E_MEMORY,
 * IA3_E_TOO_LONG), *p must be freed, too.
 */
bool ia3_parameters_create(ia3_parameters *p, ia3_model *m, const ia3_layout *layout, uint64_t seed,
                           const float *init, ia3_error *err);
void ia3_parameters_free(ia3_parameters *p);

/* Before a pass, which adds to passed_grads; and after it, complete the adapter's gradients, and then those of what is trained. */
void ia3_parameters_zero_grads(const ia3_parameters *p);
void ia3_parameters_finish_adapter_grads(const ia3_parameters *p);
void ia3_parameters_finish_grads(const ia3_parameters *p);
/* After `values` have changed: computes the adapter, and what passes use, except for copies of weights. */
void ia3_parameters_changed(ia3_parameters *p);
/* At the beginning of a pass: gives the copies of weights the values. Jumps to dev->oom for lack of memory, and may then be repeated. */
void ia3_parameters_prepare_pass(ia3_parameters *p);

/* Copy the adapter's values, or after a pass its gradients, to host memory [layout->n_values]. */
void ia3_parameters_read(const ia3_parameters *p, float *values);
void ia3_parameters_read_grads(const ia3_parameters *p, float *grads);

/*
 * Of methods that train some of the weights: whether these have not been chosen; add the squares of the gradients of a pass to their Fisher
 * information; choose the weights, after which training may begin; or set their positions [layout->kept], ascending. The last two fail
 * with IA3_E_MEMORY.
 */
bool ia3_parameters_lack_mask(const ia3_parameters *p);
void ia3_parameters_add_squares(const ia3_parameters *p);
bool ia3_parameters_choose_mask(ia3_parameters *p, ia3_error *err);
bool ia3_parameters_set_mask(ia3_parameters *p, const uint64_t *positions, ia3_error *err);

/* The step of Adafactor without learning rate and number. */
ia3_adafactor ia3_parameters_adafactor(const ia3_parameters *p);

#endif
