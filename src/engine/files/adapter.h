/*
 * adapter.h
 *     Adapters: the flat layout the engine computes with, and the safetensors form that is stored.
 *
 * (IA)³ is what the engine is made for. Flat layout, fp32: encoder layers first, per layer l_k [inner], l_v [inner],
 * l_ff [d_ff]; then decoder layers, per layer self l_k, self l_v, cross l_k, cross l_v [inner each], l_ff [d_ff].
 * l_ff multiplies the input of wo (equal to T-Few's wi_1 placement for gated feed-forwards; the only correct one for
 * T5 v1.0).
 *
 * The methods that the paper compares with (engine.md §3.4) have their values at places of the graph, in the
 * order of the places (ia3_part) of layer after layer, encoder first, the final norm of a stack behind its layers:
 *   lora       y += (x·Aᵀ)·Bᵀ / rank for each linear: A [rank, in], B [out, rank]. Stored as peft does,
 *              "base_model.model.<module>.lora_A.weight"
 *   layernorm  y = y ⊙ s behind each norm, s [d_model]: "base_model.model.<norm>.scale"
 *   bitfit     y += b for each linear, b [out]: "base_model.model.<module>.bias"; and the scales of layernorm
 *   prompt     IA3_PROMPT_TOKENS embeddings before those of the encoder's input: peft's "prompt_embeddings"
 * As T-Few configures them, but that its LoRA trains the norms too and its prompts stand before the decoder's
 * input as well; a norm's weight is trained as a factor of the backbone's.
 */
#ifndef IA3_ADAPTER_H
#define IA3_ADAPTER_H

#include "config.h"

typedef struct ia3_layout_entry {
    char
        name[96]; /* the peft tensor name, "base_model.model.encoder.block.0.layer.0.SelfAttention.k.ia3_l" */
    size_t offset; /* into the flat layout */
    int len;
    bool feedforward;     /* (IA)³: stored [1, len] (peft's feedforward form); else [len, 1] */
    int ndim, rows, cols; /* as stored; [cols] when ndim is 1 */
} ia3_layout_entry;

enum { IA3_LORA_RANK = 4, IA3_PROMPT_TOKENS = 10 };

/* What a method has, as bits. */
enum { IA3_HAS_LOW_RANK = 1, IA3_HAS_BIAS = 2, IA3_HAS_NORM = 4, IA3_HAS_PROMPT = 8 };
unsigned ia3_method_has(Ia3Method method);

/* Places in the graph: norms, and products as they are fused (q | k | v, k | v, wi_0 | wi_1). */
typedef enum ia3_part {
    IA3_PART_SELF_NORM,
    IA3_PART_SELF_QKV,
    IA3_PART_SELF_O,
    IA3_PART_CROSS_NORM,
    IA3_PART_CROSS_Q,
    IA3_PART_CROSS_KV,
    IA3_PART_CROSS_O,
    IA3_PART_FF_NORM,
    IA3_PART_FF_WI,
    IA3_PART_FF_WO,
    IA3_N_PARTS
} ia3_part;
typedef struct ia3_place {
    bool decoder;
    int layer; /* the number of layers: behind them; its SELF_NORM is the final norm */
    ia3_part part;
} ia3_place;

typedef struct ia3_layout {
    int n;
    ia3_layout_entry *entries; /* in flat order */
    size_t n_values;           /* e.g. 540,672 for T0-3B */
    Ia3Method method;
    size_t *places; /* where the values of a place begin (ia3_place_offset); not for (IA)³ */
    int n_enc, n_dec, inner, d_ff;
    bool gated; /* wi_1 exists */
} ia3_layout;

ia3_layout *ia3_layout_create(const ia3_config *config); /* of (IA)³ */
ia3_layout *ia3_layout_create_method(const ia3_config *config, Ia3Method method);
void ia3_layout_free(ia3_layout *layout);

static inline size_t
ia3_place_offset(const ia3_layout *l, ia3_place p)
{
    return l->places[(p.layer + (p.decoder ? l->n_enc + 1 : 0)) * IA3_N_PARTS + p.part];
}
/* How many linears the product of a part stacks. */
static inline int
ia3_part_linears(const ia3_layout *l, ia3_part part)
{
    return part == IA3_PART_SELF_QKV            ? 3
           : part == IA3_PART_CROSS_KV          ? 2
           : part == IA3_PART_FF_WI && l->gated ? 2
                                                : 1;
}

/* Offsets of single vectors in the flat layout of (IA)³. */
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
 * Reads an adapter_model.safetensors into malloc'd floats [n_values]. Of (IA)³ it accepts peft names with the feed-forward
 * as wo.ia3_l [1, d_ff] or wi_1.ia3_l [d_ff, 1] (gated models), and T-Few's names (… .multi_lora_b); fp32, bf16
 * or fp16 storage; [n], or peft's orientation: [1, n] for wo, [n, 1] for the others (the other way round they
 * would scale another place of the graph). Of other methods the names and shapes that are written. Strict: every vector exactly once, nothing else, all finite. Errors
 * (IA3_E_BAD_ADAPTER) name the tensor.
 */
float *ia3_adapter_parse(const ia3_layout *layout, const uint8_t *data, size_t len, ia3_error *err);

/* The method that the tensors' names say (any of them; (IA)³ when none does or the bytes are no safetensors). */
Ia3Method ia3_adapter_method(const uint8_t *data, size_t len);

/* Parses an adapter of any method; layouts [IA3_N_METHODS]. */
float *ia3_adapter_parse_any(ia3_layout *const *layouts, const uint8_t *data, size_t len, Ia3Method *method,
                             ia3_error *err);

/* Serialises flat values as peft's adapter_model.safetensors (malloc'd). */
uint8_t *ia3_adapter_serialize(const ia3_layout *layout, const float *values, size_t *len);

#endif
