/*
 * method.h
 *     The descriptor of a fine-tuning (PEFT) method: what its adapters consist of, how they are trained, and what they
 *     add to the graph.
 *
 * Each method is one file in model/methods/; methods.h there has the list of descriptors. Nothing else refers to a
 * method by its name: the code that loads a model passes the list on, requests contain the method's name and its
 * options (variant.h), and the extension learns names and defaults from the replies to INFO and CONFIGURE.
 */
#ifndef IA3_METHOD_H
#define IA3_METHOD_H

#include "engine/device/device.h"
#include "layout.h"
#include "safetensors.h"

/* A norm or a linear layer of the backbone, for which a layout gets tensors. */
typedef struct ia3_module {
    const char *name; /* "base_model.model.encoder.block.0.layer.0.SelfAttention.q" */
    bool norm;        /* a norm; else a linear layer [out, in] */
    ia3_kind kind;    /* of a linear layer */
    int out, in;      /* both d_model for a norm */
} ia3_module;

/*
 * How to read adapters whose tensors have other names or shapes than in the layout. `find` returns the entry for a
 * tensor's name, or NULL with IA3_E_BAD_ADAPTER. `fits` checks the shape and fails with the same code. `module` returns
 * the module in a name that was found, and whether the tensor scales this module's input (else its output).
 */
typedef struct ia3_spelling {
    const ia3_layout_entry *(*find)(const ia3_layout *l, const ia3_st_tensor *t, ia3_error *err);
    bool (*fits)(const ia3_layout_entry *e, const ia3_st_tensor *t, ia3_error *err);
    const char *(*module)(const char *tensor, size_t *len, bool *scales_input);
} ia3_spelling;

/* What the initial values of an adapter may depend on. */
typedef struct ia3_start {
    uint64_t seed;
    ia3_device *dev;
    const ia3_config *config;
    const void *embedding; /* device memory, act [vocab_size, d_model] */
    struct ia3_model *model;
} ia3_start;

/* Values that are trained instead of those of an adapter, which are computed from them. All arrays are device memory. */
typedef struct ia3_trained {
    ia3_device *dev;
    const ia3_layout *layout; /* of the adapter; layout->trained is that of the following two */
    const float *values;
    float *grads;
    float *adapter_values;
    float *adapter_grads; /* may be overwritten */
    float *scratch;       /* as many as the method asks for */
} ia3_trained;

/*
 * Training of other values than those of the adapter. `tensors` adds them to a new layout, which l->trained will be; `scratch` is
 * how many floats the others need beside; `step_work` counts the multiply-adds of both computations together. `start` finds
 * initial values [l->trained->n_values], host memory, from which those of an adapter, `init`, follow up to rounding; if that is NULL,
 * new ones. `compute` computes the adapter's values; compute_bwd, after it, adds to the gradients of the trained ones.
 */
typedef struct ia3_reparameterization {
    void (*tensors)(ia3_layout *trained, const ia3_layout *l, const ia3_config *config);
    size_t (*scratch)(const ia3_layout *l);
    double (*step_work)(const ia3_layout *trained, const ia3_layout *l);
    bool (*start)(const ia3_layout *l, const ia3_start *s, const float *init, float *values, ia3_error *err);
    void (*compute)(const ia3_trained *t);
    void (*compute_bwd)(const ia3_trained *t);
} ia3_reparameterization;

/*
 * Adapters that are stored and trained in a small form, from which the values that passes use are computed. The small form is the
 * method's `tensors`, the values that passes use are those of its `module`s: layout->expanded, which is complete before `tensors`
 * is called. All arrays are host memory, so the values are the same on all devices. prepare returns what the other functions need, which
 * `release` frees. expand computes all of `expanded`; expand_bwd, after it with the same values, adds to grads.
 */
typedef struct ia3_expansion {
    void *(*prepare)(const ia3_layout *l);
    void (*release)(void *prepared);
    void (*expand)(const ia3_layout *l, void *prepared, const float *values, float *expanded);
    void (*expand_bwd)(const ia3_layout *l, void *prepared, const float *values, const float *expanded_grads,
                       float *grads);
} ia3_expansion;

/* Rows of one adapter at a place in the graph. The array pointers that a hook gets point to the first of these rows. */
typedef struct ia3_method_rows {
    ia3_device *dev;
    const ia3_layout *layout;
    const float *values; /* device memory: the adapter's values for this place */
    float *grads;        /* device memory: their gradients, to which hooks add; NULL unless training */
    int rows, d_model;
    int linears;       /* number of linear layers that are stacked in the product */
    ia3_kind kinds[3]; /* their kinds */
} ia3_method_rows;

typedef struct ia3_method {
    const char *name;
    const ia3_method_option *options; /* at most IA3_MAX_OPTIONS; ends with a NULL name; NULL: none */
    /* Whether the backbone can have such adapters; NULL: always. It returns false after setting err (IA3_E_INVALID). */
    bool (*suits)(const ia3_layout *l, ia3_error *err);
    /* Whether an adapter's values are possible beyond being finite; NULL: always. IA3_E_BAD_ADAPTER. values [l->n_values] */
    bool (*valid)(const ia3_layout *l, const float *values, ia3_error *err);
    int d_model_multiple; /* if not 0, only backbones whose d_model is a multiple of this can have such adapters */

    /*
     * The tensors, which may depend on the layout's variant. `module` adds those of one module to the layout, `tensors`
     * those that belong to no module, and sets lead_rows and dec_lead_rows if their first values are such rows, or if the
     * modules' are their keys and values (lead_keys); either may be NULL. `guess` (may be NULL) sets the options that the
     * tensors of a file tell; the file need not be valid. `marks`
     * are suffixes of tensor names that identify the method of an adapter: it is the first method in the list with a mark
     * that occurs. The first method of the list is the default and needs no marks.
     */
    void (*module)(ia3_layout *l, const ia3_module *m);
    void (*tensors)(ia3_layout *l, const ia3_config *config);
    void (*guess)(const ia3_safetensors *st, ia3_variant *v);
    const char *const *marks;     /* ends with NULL */
    const ia3_spelling *spelling; /* NULL: tensors always have the layout's names and shapes */

    /*
     * Interchange. `peft`: the members of PEFT's adapter_config.json that are specific to the method; NULL if PEFT does
     * not have it. That of (IA)³ is checked by the extension, which also writes the standard one (tasks/adapter_config.c).
     * It returns NULL for a variant that PEFT does not have. `read_peft` sets the options that such a configuration has,
     * whose "peft_type" is `peft_type`, and fails if it contradicts those that the tensors tell, or means what the method
     * cannot compute (peft_config.h). `peft_lacks`: why neither is possible, a
     * sentence, although PEFT has a method of this name (peft_type), or the method has options. `merge_suffix`: the suffix, after the module's name, of
     * vectors that can be merged into the weights, by scaling columns if they are stored as [1, len], else rows; NULL
     * if the method cannot be merged.
     */
    json_t *(*peft)(const ia3_variant *v);
    const char *peft_type;
    bool (*read_peft)(const json_t *config, ia3_variant *v, ia3_error *err);
    const char *peft_lacks;
    const char *merge_suffix;

    /*
     * Training. The initial values of an adapter are those of the layout's entries, which `start` (may be NULL) may
     * change: values is host memory [n_values]. It returns false after setting err. fixed_step: Adafactor's steps do
     * not depend on the size of the values. With a reparameterization, which has a `start` of its own, the adapter's values are
     * computed from others, which are trained; NULL: they are trained themselves.
     */
    double learning_rate; /* the default, T-Few's */
    int steps;            /* the default, T-Few's */
    bool (*start)(const ia3_layout *l, const ia3_start *s, float *values, ia3_error *err);
    bool fixed_step;
    const ia3_reparameterization *reparameterization;
    const ia3_expansion
        *expansion; /* NULL: passes use the values as they are stored. Not together with the former */

    /*
     * Versions of a method with `weights` replace weights of the backbone. The layout that passes use has all of the backbone's tensors,
     * under their names in its state dict without a prefix; and no hooks. They are trained from their values in the checkpoint, in fp32.
     * mask_draws: not 0 if only some of them are: those that have the largest Fisher information in so many draws of an example
     * from those trained on (recipe/mask.h). An adapter then has these, and where they stand (`kept` in layout.h), while all
     * weights are layout->expanded, whose tensors without a module `tensors` adds, too; there is no expansion.
     */
    bool weights;
    int mask_draws;

    /*
     * The graph. `fused` means that the kernels themselves multiply by the values (ia3_scale), which vectors.c finds;
     * exactly one method of the list is fused, and of the hooks it has none but output and output_bwd. All others have
     * hooks, any of which may be NULL. Hooks are called for each run of rows with the same adapter.
     *
     * product: adds to y = x·Wᵀ, which has already been computed (`out` is the type of y). product_bwd: adds to dx, and
     * to the gradients. output: changes y, fp32, the result of a sub-layer before its dropout; `outputs` says of which
     * sub-layers, by bits 1 << IA3_PART_SELF_O, _CROSS_O and _FF_WO. output_bwd: turns dy, the gradient of the changed
     * result, into that of y, the result itself, and adds to the gradients. norm: changes y, the output of a norm.
     * norm_bwd: turns dy, the gradient of the changed output, into that of the norm's output x, and adds to the gradients.
     */
    bool fused;
    bool (*runs_on)(const ia3_device_ops *ops); /* NULL: everywhere */
    void (*product)(const ia3_method_rows *r, void *y, const void *x, const ia3_matrix *w, ia3_out out);
    void (*product_bwd)(const ia3_method_rows *r, void *dx, const void *dy, const void *x,
                        const ia3_matrix *w, ia3_out out);
    int outputs;
    void (*output)(const ia3_method_rows *r, float *y);
    void (*output_bwd)(const ia3_method_rows *r, void *dy, const float *y);
    void (*norm)(const ia3_method_rows *r, void *y);
    void (*norm_bwd)(const ia3_method_rows *r, void *dy, const void *x);
} ia3_method;

/* Finds a method by its name, of len bytes, in a list that ends with NULL. NULL if there is none. */
const ia3_method *ia3_method_find(const ia3_method *const *methods, const char *name, size_t len);
/* The same, but NULL is an error (IA3_E_INVALID), with a hint that names all methods. */
const ia3_method *ia3_method_require(const ia3_method *const *methods, const char *name, size_t len,
                                     ia3_error *err);

/* Why PEFT has no configuration for any variant of the method, a sentence; NULL if it has one for some. */
static inline const char *
ia3_method_peft_lacks(const ia3_method *method)
{
    return method->peft ? NULL : method->peft_lacks ? method->peft_lacks : "PEFT does not have this method.";
}

/* The value of option number i of the layout's variant. */
static inline double
ia3_option(const ia3_layout *l, int i)
{
    return l->variant.options[i];
}

/* Appends a name in quotes to a list in a hint, of which it is number i of n. */
void ia3_list_name(char *list, size_t size, const char *name, int i, int n);

/* Whether s, of len bytes, ends with the suffix. */
bool ia3_name_ends_with(const char *s, size_t len, const char *suffix);

#endif
