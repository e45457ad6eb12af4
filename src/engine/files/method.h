/*
 * method.h
 *     What a PEFT method is to the engine: one descriptor says what its adapters consist of, how they are trained and
 *     what they add to the graph.
 *
 * Each method is one file of model/methods/, whose descriptor the list there holds (methods.h). Nothing else names a
 * method: everybody gets the list from whoever loads the model, requests carry the method's name, and the extension
 * learns names, defaults and constants from the answer to INFO.
 */
#ifndef IA3_METHOD_H
#define IA3_METHOD_H

#include "engine/device/device.h"
#include "layout.h"
#include "safetensors.h"

/* A constant of a method, without which its adapters mean nothing: recorded with every version. */
typedef struct ia3_method_constant {
    const char *name;
    int value;
} ia3_method_constant;

/* A norm or one linear of the backbone, while a layout is made. */
typedef struct ia3_module {
    const char *name; /* "base_model.model.encoder.block.0.layer.0.SelfAttention.q" */
    bool norm;        /* else a linear [out, in] */
    int out, in;      /* both d_model for a norm */
} ia3_module;

/*
 * Other spellings of a method's tensors than the layout's. `find` returns the entry that a tensor's name stands for;
 * NULL is an error (IA3_E_BAD_ADAPTER, as from fits). `fits` checks the shape. `module` takes a name that was found
 * apart: the module that the tensor belongs to, and whether it scales the module's input (else its output).
 */
typedef struct ia3_spelling {
    const ia3_layout_entry *(*find)(const ia3_layout *l, const ia3_st_tensor *t, ia3_error *err);
    bool (*fits)(const ia3_layout_entry *e, const ia3_st_tensor *t, ia3_error *err);
    const char *(*module)(const char *tensor, size_t *len, bool *scales_input);
} ia3_spelling;

/* What a fresh start may be drawn from. */
typedef struct ia3_start {
    uint64_t seed;
    ia3_device *dev;
    const ia3_config *config;
    const void *embedding; /* device, act [vocab_size, d_model] */
} ia3_start;

/* Rows of one adapter at a place of the graph: pointers given with it point at the first of them. */
typedef struct ia3_method_rows {
    ia3_device *dev;
    const float *values; /* device: the adapter's at this place */
    float *grads;        /* likewise, to be added to; NULL in a forward pass that keeps nothing */
    int rows, d_model;
    int linears; /* stacked in the product */
} ia3_method_rows;

typedef struct ia3_method {
    const char *name;
    const ia3_method_constant *constants; /* ends with a NULL name; NULL: none */

    /*
     * The tensors. `module` adds those beside a module, `tensors` those that belong to none; either may be NULL.
     * `marks` are endings of tensors' names by which an adapter of unknown method is taken for one of this; the first
     * method of the list of which a tensor has a mark is it, and the first method of the list needs none.
     */
    void (*module)(ia3_layout *l, const ia3_module *m);
    void (*tensors)(ia3_layout *l, const ia3_config *config);
    const char *const *marks;     /* ends with NULL */
    const ia3_spelling *spelling; /* NULL: only the layout's */

    /*
     * Interchange: the members of PEFT's adapter_config.json that are the method's own (JSON, without braces; NULL: PEFT
     * does not have it), and the ending after the module's name of the vectors that can be folded into the weights: into
     * the columns where they are stored as [1, len], else into the rows (NULL: they cannot).
     */
    const char *peft_config;
    const char *merge_suffix;

    /*
     * Training. A fresh adapter has each entry's start value, which `start` (may be NULL) may replace: values are the
     * host's [n_values]. False is an error. fixed_step: Adafactor's steps do not grow with the values.
     */
    double learning_rate; /* the default, T-Few's */
    bool (*start)(const ia3_layout *l, const ia3_start *s, float *values, ia3_error *err);
    bool fixed_step;

    /*
     * The graph. `fused`: the kernels themselves multiply by the values, whose layout they know (ia3_scale); one method of
     * the list is, and has no hooks. All others have hooks, each of which may be NULL, and are computed run by run of rows.
     *
     * product: y = x·Wᵀ has been computed (out says where to); add to it. product_bwd: the same to dx, and the gradient.
     * norm: y is the norm's output. norm_bwd: from the gradient of what `norm` made to that of the norm's output, x.
     * lead_rows: rows that each input of such an adapter has before its own; `lead` fills them, in fp32, and lead_bwd
     * takes their gradient, through that dropout.
     */
    bool fused;
    bool (*runs_on)(const ia3_device_ops *ops); /* NULL: everywhere */
    void (*product)(const ia3_method_rows *r, void *y, const void *x, const ia3_matrix *w, ia3_out out);
    void (*product_bwd)(const ia3_method_rows *r, void *dx, const void *dy, const void *x,
                        const ia3_matrix *w, ia3_out out);
    void (*norm)(const ia3_method_rows *r, void *y);
    void (*norm_bwd)(const ia3_method_rows *r, void *dy, const void *x);
    int lead_rows;
    void (*lead)(const ia3_method_rows *r, float *x);
    void (*lead_bwd)(const ia3_method_rows *r, const float *dx, ia3_dropout drop);
} ia3_method;

/* A list of methods ends with NULL. The method of that name, or NULL. */
const ia3_method *ia3_method_find(const ia3_method *const *methods, const char *name, size_t len);
/* The same, but NULL is an error (IA3_E_INVALID), with a hint that names all methods. */
const ia3_method *ia3_method_require(const ia3_method *const *methods, const char *name, size_t len,
                                     ia3_error *err);

/* Whether s, of len bytes, ends with the suffix. */
bool ia3_name_ends_with(const char *s, size_t len, const char *suffix);

#endif
