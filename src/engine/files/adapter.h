/*
 * adapter.h
 *     Reads adapters from and writes them to safetensors, the format in which they are stored.
 */
#ifndef IA3_ADAPTER_H
#define IA3_ADAPTER_H

#include "layouts.h"

/*
 * Reads an adapter_model.safetensors into malloc'd floats [n_values]. Tensors may be stored as fp32, bf16 or fp16, with
 * the names and shapes of the layout or any others that the method allows (ia3_spelling). Every tensor must occur
 * exactly once, there must be no others, and all values must be finite. Errors (IA3_E_BAD_ADAPTER) name the tensor.
 */
float *ia3_adapter_parse(const ia3_layout *layout, const uint8_t *data, size_t len, ia3_error *err);

/*
 * Determines the method of an adapter from the marks in its tensors' names. If there are none, or the data is not valid
 * safetensors, it is the first method of the list.
 */
const ia3_method *ia3_adapter_method(const ia3_method *const *methods, const uint8_t *data, size_t len);

/*
 * Determines the variant: the method as above, and from the tensors' shapes and names those of its options that they
 * tell; the others are the standard ones. IA3_E_BAD_ADAPTER for a variant that cannot be.
 */
bool ia3_adapter_variant(const ia3_method *const *methods, const uint8_t *data, size_t len,
                         ia3_variant *variant, ia3_error *err);

/* Determines the variant and parses the adapter; *layout is then that of the variant, which the caller releases. */
float *ia3_adapter_parse_any(ia3_layouts *layouts, const uint8_t *data, size_t len, const ia3_layout **layout,
                             ia3_error *err);

/* Serialises values [n_values] as peft's adapter_model.safetensors; returns a malloc'd buffer of *len bytes. */
uint8_t *ia3_adapter_serialize(const ia3_layout *layout, const float *values, size_t *len);

#endif
