/*
 * adapter.h
 *     (IA)³ adapters: the flat layout the engine computes with, and the safetensors form that is stored.
 *
 * Flat layout, fp32: encoder layers first, per layer l_k [inner], l_v [inner], l_ff [d_ff]; then decoder
 * layers, per layer self l_k, self l_v, cross l_k, cross l_v [inner each], l_ff [d_ff]. l_ff multiplies the
 * input of wo (equal to T-Few's wi_1 placement for gated feed-forwards; the only correct one for T5 v1.0).
 */
#ifndef IA3_ADAPTER_H
#define IA3_ADAPTER_H

#include "config.h"

typedef struct ia3_layout_entry {
    char
        name[96]; /* the peft tensor name, "base_model.model.encoder.block.0.layer.0.SelfAttention.k.ia3_l" */
    size_t offset; /* into the flat layout */
    int len;
    bool feedforward; /* stored [1, len] (peft's feedforward form); else [len, 1] */
} ia3_layout_entry;

typedef struct ia3_layout {
    int n;
    ia3_layout_entry *entries; /* in flat order */
    size_t n_values;           /* e.g. 540,672 for T0-3B */
    int n_enc, n_dec, inner, d_ff;
    bool gated; /* wi_1 exists */
} ia3_layout;

ia3_layout *ia3_layout_create(const ia3_config *config);
void ia3_layout_free(ia3_layout *layout);

/* Offsets of single vectors in the flat layout. */
static inline size_t
ia3_enc_offset(const ia3_layout *l, int layer)
{
    return (size_t) layer * (2 * (size_t) l->inner + l->d_ff);
}
static inline size_t
ia3_dec_offset(const ia3_layout *l, int layer)
{
    return ia3_enc_offset(l, l->n_enc) + (size_t) layer * (4 * (size_t) l->inner + l->d_ff);
}

/*
 * Reads an adapter_model.safetensors into malloc'd floats [n_values]. Accepts peft names with the feed-forward
 * as wo.ia3_l [1, d_ff] or wi_1.ia3_l [d_ff, 1] (gated models), and T-Few's names (… .multi_lora_b); fp32, bf16
 * or fp16 storage; [n], or peft's orientation: [1, n] for wo, [n, 1] for the others (the other way round they
 * would scale another place of the graph). Strict: every vector exactly once, nothing else, all finite. Errors
 * (IA3_E_BAD_ADAPTER) name the tensor.
 */
float *ia3_adapter_parse(const ia3_layout *layout, const uint8_t *data, size_t len, ia3_error *err);

/* Serialises flat values as peft's adapter_model.safetensors (malloc'd). */
uint8_t *ia3_adapter_serialize(const ia3_layout *layout, const float *values, size_t *len);

#endif
