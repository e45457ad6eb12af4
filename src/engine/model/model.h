/*
 * model.h
 *     A backbone on a device, and the passes over it. Written once, for every device.
 */
#ifndef IA3_MODEL_H
#define IA3_MODEL_H

#include "engine/files/adapter.h"
#include "engine/files/checkpoint.h"

typedef struct ia3_model ia3_model;

/*
 * Copies the checkpoint's weights to the device (progress as in checkpoint.h). `methods` are those whose adapters it will
 * take (methods.h); one of them is fused.
 */
ia3_model *ia3_model_load(const ia3_checkpoint *ck, ia3_device *dev, const ia3_method *const *methods,
                          void (*progress)(double fraction, void *arg), void *arg, ia3_error *err);
void ia3_model_free(ia3_model *m);

const ia3_config *ia3_model_config(const ia3_model *m);
const ia3_method *const *ia3_model_methods(const ia3_model *m);
ia3_layout *const *ia3_model_layouts(const ia3_model *m); /* of its methods, in their order; ends with NULL */
const ia3_layout *ia3_model_layout(const ia3_model *m);   /* of the fused one, (IA)³ */
ia3_device *ia3_model_device(const ia3_model *m);
uint64_t ia3_model_parameters(const ia3_model *m);
uint64_t ia3_model_bytes(const ia3_model *m); /* weights on the device */

/* An adapter's values on the device. `values` is host memory in the method's layout. */
typedef struct ia3_adapter {
    uint8_t digest[IA3_DIGEST_LEN];
    const ia3_method *method;
    float *values; /* device */
    size_t bytes;
} ia3_adapter;
/* IA3_E_INVALID when the device cannot run the method. */
ia3_adapter *ia3_adapter_create(ia3_model *m, const ia3_method *method, const float *values,
                                const uint8_t digest[IA3_DIGEST_LEN], ia3_error *err);
bool ia3_model_has_method(const ia3_model *m, const ia3_method *method, ia3_error *err);
void ia3_adapter_free(ia3_model *m, ia3_adapter *a);

/*
 * For tests: calls `fn` with a host fp32 copy of intermediate results of every following pass (NULL stops it).
 * Sites: "encoder.block.I" and "decoder.block.I" (residual stream after block I, before the final norm),
 * "encoder.out", "decoder.out" (after the final norm), "decoder.cross_k.I", "decoder.cross_v.I" (after (IA)³
 * scaling) with rows packed as in the batch.
 */
typedef void (*ia3_trace_fn)(const char *site, const float *values, int rows, int cols, void *arg);
void ia3_model_set_trace(ia3_model *m, ia3_trace_fn fn, void *arg);

#endif
