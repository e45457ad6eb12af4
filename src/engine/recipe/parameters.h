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
    const ia3_layout *layout;  /* of the adapter */
    const ia3_layout *trained; /* of what is trained; the same unless there is a reparameterization */
    float *adapter, *adapter_grads;
    float *passed,
        *passed_grads; /* of the values that passes use; the adapter's unless there is an expansion */
    float *values, *grads, *second_moment; /* of what is trained; the first two may be the adapter's */
    float *scratch;
    /* with an expansion: its own, and host memory for the adapter's values and gradients, and for the values that passes use */
    void *prepared;
    float *host, *host_passed;
    int32_t *tensor_offsets, *tensor_rows, *tensor_slices; /* of the trained tensors, for Adafactor */
} ia3_parameters;

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
/* After `values` have changed: computes the adapter, and what passes use. */
void ia3_parameters_changed(const ia3_parameters *p);

/* The step of Adafactor without learning rate and number. */
ia3_adafactor ia3_parameters_adafactor(const ia3_parameters *p);

#endif
