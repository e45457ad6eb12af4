/*
 * layout.h
 *     The flat layout in which the engine computes with an adapter's numbers: one fp32 array, and which tensor lies
 *     where in it.
 *
 * Which tensors there are is the method's business (method.h). Most methods have them beside the modules of the
 * backbone: their layout follows the places of the graph (ia3_part), layer after layer, encoder first, the final norm
 * of a stack behind its layers.
 */
#ifndef IA3_LAYOUT_H
#define IA3_LAYOUT_H

#include "config.h"

struct ia3_method;

typedef struct ia3_layout_entry {
    char name[96]; /* as stored: "base_model.model.encoder.block.0.layer.0.SelfAttention.k.ia3_l" */
    size_t offset; /* into the flat layout */
    int len;
    int ndim, rows, cols; /* as stored; [cols] when ndim is 1 */
    bool feedforward;     /* (IA)³: stored [1, len] (peft's feedforward form); else [len, 1] */
    float start;          /* the value of a fresh adapter's elements */
} ia3_layout_entry;

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
    const struct ia3_method *method;
    int n, capacity;
    ia3_layout_entry *entries; /* in flat order */
    int *by_name;              /* [n]: the entries in the order of their names */
    size_t n_values;           /* e.g. 540,672 for (IA)³ and T0-3B */
    size_t *places;            /* where the values of a place begin (ia3_place_offset); NULL: none has any */
    size_t rest;               /* where the values begin that belong to no place */
    int n_enc, n_dec, inner, d_ff;
    bool gated; /* wi_1 exists */
} ia3_layout;

ia3_layout *ia3_layout_create(const ia3_config *config, const struct ia3_method *method);
void ia3_layout_free(ia3_layout *layout); /* NULL is allowed */

/* The entry of that name, or NULL. */
const ia3_layout_entry *ia3_layout_find(const ia3_layout *l, const char *name);

/*
 * For methods: a tensor behind those added so far, a vector [len] or a matrix [rows, cols]. The entry may be changed
 * until the next one is added.
 */
ia3_layout_entry *ia3_layout_add_vector(ia3_layout *l, int len, float start, const char *format, ...)
    __attribute__((format(printf, 4, 5)));
ia3_layout_entry *ia3_layout_add_matrix(ia3_layout *l, int rows, int cols, float start, const char *format,
                                        ...) __attribute__((format(printf, 5, 6)));

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

/* Offsets of single vectors in the flat layout of (IA)³ (model/methods/ia3.c). */
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

#endif
