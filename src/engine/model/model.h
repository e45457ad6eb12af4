/*
 * model.h
 *     A backbone whose weights are on a device, and adapters for it.
 */
#ifndef IA3_MODEL_H
#define IA3_MODEL_H

#include "engine/files/adapter.h"
#include "engine/files/checkpoint.h"
#include "engine/files/tokenizer.h"

typedef struct ia3_model ia3_model;
typedef struct ia3_weights ia3_weights; /* graph.h */

/*
 * Copies the checkpoint's weights to the device. `methods` (see methods.h) are those whose adapters the model can use;
 * one of them is fused. `progress` (may be NULL) is called with a fraction from 0 to 1. NULL with IA3_E_BAD_CHECKPOINT
 * for unusable weights, IA3_E_UNSUPPORTED if the device does not support the model's shape, or IA3_E_MEMORY. The
 * checkpoint may be closed afterwards; the device must stay open.
 */
ia3_model *ia3_model_load(const ia3_checkpoint *ck, ia3_device *dev, const ia3_method *const *methods,
                          void (*progress)(double fraction, void *arg), void *arg, ia3_error *err);
void ia3_model_free(ia3_model *m);

const ia3_config *ia3_model_config(const ia3_model *m);
const ia3_method *const *ia3_model_methods(const ia3_model *m);
ia3_layouts *ia3_model_layouts(const ia3_model *m);     /* of its methods' adapters */
const ia3_layout *ia3_model_layout(const ia3_model *m); /* of the fused method, (IA)³ */
ia3_device *ia3_model_device(const ia3_model *m);
uint64_t ia3_model_parameters(const ia3_model *m);
uint64_t ia3_model_bytes(const ia3_model *m); /* memory that the weights take on the device */

/*
 * Makes the tokenizer known, which must outlive the model, for methods whose new adapters begin with texts. Without it (NULL, the
 * default) they begin with random tokens.
 */
void ia3_model_set_tokenizer(ia3_model *m, const ia3_tokenizer *tok);

/*
 * Makes the checkpoint known from which the backbone was loaded, and which must outlive the model, for methods that replace weights: they
 * begin with its values. Without it (NULL, the default) their versions can be used only if they have all weights.
 */
void ia3_model_set_checkpoint(ia3_model *m, const ia3_checkpoint *ck);

/* An adapter whose values are on the device. */
typedef struct ia3_adapter {
    uint8_t digest[IA3_DIGEST_LEN];
    const ia3_layout *layout;
    float *values; /* device memory, as passes use them (ia3_layout_in_passes); NULL if there are weights */
    ia3_weights
        *weights; /* those of a version that replaces weights, of which a pass has only one; else NULL */
    size_t bytes;
    struct ia3_adapter
        *members; /* [layout->members] of an ensemble, whose values are among these; else NULL */
} ia3_adapter;
/*
 * Copies an adapter to the device; `values` is host memory in the layout, which is retained. NULL with IA3_E_INVALID if the
 * device does not support the method (which ia3_model_has_method checks), or with IA3_E_MEMORY.
 */
ia3_adapter *ia3_adapter_create(ia3_model *m, const ia3_layout *layout, const float *values,
                                const uint8_t digest[IA3_DIGEST_LEN], ia3_error *err);
bool ia3_model_has_method(const ia3_model *m, const ia3_method *method, ia3_error *err);
void ia3_adapter_free(ia3_model *m, ia3_adapter *a);

/*
 * For tests: from now on every pass calls `fn` with fp32 copies of intermediate results in host memory; NULL ends this.
 * The sites are "encoder.block.I" and "decoder.block.I" (the residual stream after block I, before the final norm),
 * "encoder.out" and "decoder.out" (after the final norm), and "decoder.cross_k.I" and "decoder.cross_v.I" (after (IA)³
 * scaling). Rows are packed as in the batch.
 */
typedef void (*ia3_trace_fn)(const char *site, const float *values, int rows, int cols, void *arg);
void ia3_model_set_trace(ia3_model *m, ia3_trace_fn fn, void *arg);

/*
 * Long work gives way to other work. Between the sub-layers of a pass, the slices of a long attention and the tokens of a
 * generation, `fn` is called. It may run other passes on the same model, as long as they end before it returns, and it
 * returns false to abandon the work that called it, which then fails with IA3_E_CANCELLED. NULL (the default): no calls.
 */
typedef bool (*ia3_give_way_fn)(void *arg);
typedef struct ia3_give_way {
    ia3_give_way_fn fn;
    void *arg;
} ia3_give_way;
/* Returns the one before, for whoever has to restore it. */
ia3_give_way ia3_model_set_give_way(ia3_model *m, ia3_give_way way);

/*
 * How the cost of attention grows with the length of an input: a token of an input of n tokens costs 1 + n · this, in
 * units of what a token costs without attention. Attention's multiplications count twice, since they run at about half the
 * speed of those of the large matrix products.
 */
double ia3_model_attention_cost(const ia3_model *m);

#endif
