/*
 * layout.h
 *     The layout of an adapter's values in the engine: one fp32 array, with a position for each tensor.
 *
 * The variant of the method determines which tensors there are (method.h). In most methods they belong to modules of the backbone;
 * their order is then that of the places in the graph (ia3_part), layer by layer, first the encoder, and the final norm
 * of a stack after its layers.
 */
#ifndef IA3_LAYOUT_H
#define IA3_LAYOUT_H

#include "common/cost.h"
#include "config.h"
#include "variant.h"

typedef struct ia3_layout_entry {
    char name[96]; /* as stored: "base_model.model.encoder.block.0.layer.0.SelfAttention.k.ia3_l" */
    size_t offset; /* of its first value in the layout */
    int len;
    int ndim, slices, rows, cols; /* the shape as stored; [cols] if ndim is 1, [rows, cols] if it is 2 */
    /* Of entries in a row that mean nothing without each other all but the last have 1, and the last has -1; others have 0. */
    int partner;
    int uses; /* with how many numbers of an activation's row each element of a matrix is multiplied; usually 1 */
    bool feedforward; /* (IA)³: stored as [1, len] (as peft does for feedforward_modules); else as [len, 1] */
    bool
        required; /* there are no values with which the tensor would change nothing, so adapters must have it */
    float
        start; /* the initial value of its elements, with which the tensor changes nothing (except in a prompt) */
} ia3_layout_entry;

/* The places in a layer: norms, and matrix products as they are fused (q | k | v, k | v, wi_0 | wi_1). */
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

/* The kinds of linear layers: of self-attention, of cross-attention, of the feed-forward. */
typedef enum ia3_kind {
    IA3_KIND_Q,
    IA3_KIND_K,
    IA3_KIND_V,
    IA3_KIND_O,
    IA3_KIND_CROSS_Q,
    IA3_KIND_CROSS_K,
    IA3_KIND_CROSS_V,
    IA3_KIND_CROSS_O,
    IA3_KIND_WI,
    IA3_KIND_WI_0,
    IA3_KIND_WI_1,
    IA3_KIND_WO,
    IA3_N_KINDS
} ia3_kind;
enum { IA3_ALL_KINDS = (1 << IA3_N_KINDS) - 1 };
extern const char *const ia3_kind_names[IA3_N_KINDS]; /* "SelfAttention.q" ... */

/* The kind of the linear layer that a tensor with the ending (".lora_A.weight") belongs to; IA3_N_KINDS if there is none. */
int ia3_kind_of_tensor(const char *tensor, const char *ending);

typedef struct ia3_place {
    bool decoder;
    int layer; /* may also be the number of layers; the SELF_NORM of this "layer" is the final norm */
    ia3_part part;
} ia3_place;

typedef struct ia3_layout {
    ia3_variant variant;
    int n, capacity;
    ia3_layout_entry *entries; /* in the order of their offsets */
    int *by_name;              /* [n] indices of the entries in the order of their names */
    size_t n_values;           /* number of values, for example 540,672 for (IA)³ and T0-3B */
    size_t *
        places; /* [n_places] offsets of the values of each place (ia3_place_offset); NULL: no place has any */
    size_t n_places;
    size_t rest; /* offset of the values that belong to no place */
    int lead_rows,
        dec_lead_rows; /* how many rows precede each input, and the decoder's rows, of such an adapter */
    bool
        lead_keys; /* of these rows the adapter has the keys and values of each attention, [rows, 2·inner] at its place; not embeddings */
    int n_enc, n_dec, inner, d_ff;
    bool gated; /* the backbone has wi_1 */
    bool plain; /* the fused method, and its values are where ia3_enc_offset and ia3_dec_offset say */
    int kinds;  /* of linear layers that have values, as bits */
    bool
        weights; /* the tensors are those of the backbone, under their names in its state dict, and passes use them in its place */
    /*
     * of adapters that replace some weights, how many; else 0. The first tensors are three vectors of this length: positions among the
     * weights, as values of layout->expanded, in ascending order, divided by 65536 and the rest, and the weights that stand there.
     * Others are of one number each, which is always the initial value
     */
    size_t kept;
    bool hooks;           /* rows of such adapters need calls of the method's hooks */
    ia3_method_cost cost; /* what the method adds to the backbone's work */

    bool vectors; /* the values that belong to no place are vectors of (IA)³, in its standard layout */
    /* what is trained, if that is not the adapter's values themselves but others that they are computed from (method.h); else NULL */
    struct ia3_layout *trained;

    /* the values that passes use, if they are computed from those that are stored (method.h); else NULL. It has all the places. */
    struct ia3_layout *expanded;

    /* of an ensemble: how many members it has, and the layout of one; else 1 and NULL */
    int members;
    struct ia3_layout *member;

    /* the list that it belongs to (layouts.h); NULL: none */
    struct ia3_layouts *home;
    struct ia3_layout *next;
    int owners;
} ia3_layout;

/* Builds the layout of a variant's adapters for a backbone; never NULL. Freeing NULL is allowed. */
ia3_layout *ia3_layout_create(const ia3_config *config, ia3_variant variant);
void ia3_layout_free(ia3_layout *layout);

/* The layout of the values that passes use. */
static inline const ia3_layout *
ia3_layout_in_passes(const ia3_layout *l)
{
    return l->expanded ? l->expanded : l;
}

/* Whether its adapters, or the members of its ensembles, replace weights. */
static inline bool
ia3_layout_replaces(const ia3_layout *l)
{
    return ia3_layout_in_passes(l->member ? l->member : l)->weights;
}

/* Position number i of an adapter that replaces some weights, and the weight there. */
static inline size_t
ia3_kept_position(const ia3_layout *l, const float *values, size_t i)
{
    return (size_t) (int64_t) (values[i] + 0.5) * 65536 + (size_t) (int64_t) (values[l->kept + i] + 0.5);
}
static inline void
ia3_keep_position(const ia3_layout *l, float *values, size_t i, size_t position)
{
    values[i] = (float) (position / 65536);
    values[l->kept + i] = (float) (position % 65536);
}
static inline float
ia3_kept_value(const ia3_layout *l, const float *values, size_t i)
{
    return values[2 * l->kept + i];
}

/* Why a mean of adapters does not do what they do on average, a sentence; NULL if it does. */
const char *ia3_layout_no_mean(const ia3_layout *l);

/* The entry with this name, or NULL. */
const ia3_layout_entry *ia3_layout_find(const ia3_layout *l, const char *name);

/*
 * For methods: add a tensor after those added so far, a vector [len], a matrix [rows, cols], or several [slices, rows, cols], with the
 * initial value `start` and a name. The returned entry may be changed until the next one is added.
 */
ia3_layout_entry *ia3_layout_add_vector(ia3_layout *l, int len, float start, const char *format, ...)
    __attribute__((format(printf, 4, 5)));
ia3_layout_entry *ia3_layout_add_matrix(ia3_layout *l, int rows, int cols, float start, const char *format,
                                        ...) __attribute__((format(printf, 5, 6)));
ia3_layout_entry *ia3_layout_add_matrices(ia3_layout *l, int slices, int rows, int cols, float start,
                                          const char *format, ...) __attribute__((format(printf, 6, 7)));

static inline size_t
ia3_place_offset(const ia3_layout *l, ia3_place p)
{
    return l->places[(p.layer + (p.decoder ? l->n_enc + 1 : 0)) * IA3_N_PARTS + p.part];
}
/* The number of linear layers that are stacked in the matrix product of a part. */
static inline int
ia3_part_linears(const ia3_layout *l, ia3_part part)
{
    return part == IA3_PART_SELF_QKV            ? 3
           : part == IA3_PART_CROSS_KV          ? 2
           : part == IA3_PART_FF_WI && l->gated ? 2
                                                : 1;
}

/* The kind of linear layer number i of a part. */
static inline ia3_kind
ia3_part_kind(const ia3_layout *l, ia3_part part, int i)
{
    switch (part) {
    case IA3_PART_SELF_QKV:
        return (ia3_kind) (IA3_KIND_Q + i);
    case IA3_PART_CROSS_Q:
        return IA3_KIND_CROSS_Q;
    case IA3_PART_CROSS_KV:
        return (ia3_kind) (IA3_KIND_CROSS_K + i);
    case IA3_PART_CROSS_O:
        return IA3_KIND_CROSS_O;
    case IA3_PART_FF_WI:
        return l->gated ? (ia3_kind) (IA3_KIND_WI_0 + i) : IA3_KIND_WI;
    case IA3_PART_FF_WO:
        return IA3_KIND_WO;
    default:
        return IA3_KIND_O;
    }
}

/* How many values a place has. */
static inline size_t
ia3_place_values(const ia3_layout *l, ia3_place p)
{
    size_t i = (size_t) (p.layer + (p.decoder ? l->n_enc + 1 : 0)) * IA3_N_PARTS + p.part + 1;
    return (i < l->n_places ? l->places[i] : l->rest) - l->places[i - 1];
}

/* Offsets of the first vector of a layer in the standard layout of (IA)³ (model/methods/ia3.c). */
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
