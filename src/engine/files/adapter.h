/*
 * adapter.h
 *     Adapters out of and into safetensors, the form in which they are stored.
 */
#ifndef IA3_ADAPTER_H
#define IA3_ADAPTER_H

#include "method.h"

/*
 * Reads an adapter_model.safetensors into malloc'd floats [n_values]; fp32, bf16 or fp16 storage, names and shapes as the
 * layout has them or as the method's other spellings allow. Strict: every tensor exactly once, nothing else, all finite.
 * Errors (IA3_E_BAD_ADAPTER) name the tensor.
 */
float *ia3_adapter_parse(const ia3_layout *layout, const uint8_t *data, size_t len, ia3_error *err);

/*
 * For bytes of which nobody says what they are: the method whose marks the tensors' names bear; the first of the list
 * when they bear none or the bytes are no safetensors.
 */
const ia3_method *ia3_adapter_method(const ia3_method *const *methods, const uint8_t *data, size_t len);

/* A list of layouts ends with NULL. The one of the method, or NULL. */
const ia3_layout *ia3_layout_of(ia3_layout *const *layouts, const ia3_method *method);

/* Parses such bytes by one of the layouts, which there are for all methods of the list; *layout then points at it. */
float *ia3_adapter_parse_any(ia3_layout *const *layouts, const ia3_method *const *methods,
                             const uint8_t *data, size_t len, const ia3_layout **layout, ia3_error *err);

/* Serialises flat values as peft's adapter_model.safetensors (malloc'd). */
uint8_t *ia3_adapter_serialize(const ia3_layout *layout, const float *values, size_t *len);

#endif
