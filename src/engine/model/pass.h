/*
 * pass.h
 *     The forward and the backward pass over a batch, on the device.
 *
 * All memory of a pass is in the device's arena and becomes invalid when the arena is released. A pass runs inside
 * ia3_model_guarded; if there is too little memory, it ends by longjmp.
 */
#ifndef IA3_PASS_H
#define IA3_PASS_H

#include "batch.h"
#include "graph.h"

/* The values of one attention that the backward pass needs. */
typedef struct ia3_saved_attention {
    float *x;    /* the residual stream before the norm [rows, d_model] */
    float *rstd; /* [rows] */
    void *q,
        *kv; /* act: fused [rows, 3·inner] for self-attention (kv = NULL); else q [rows, inner], kv [keys, 2·inner] */
    void *out;  /* act [rows, inner] */
    float *lse; /* [rows, heads] */
    float *y;   /* [rows, d_model], only if methods change the results of sub-layers: the result as it was */
} ia3_saved_attention;

typedef struct ia3_saved_ff {
    float *x, *rstd;
    void *g;  /* act [rows, d_ff or 2·d_ff] */
    float *y; /* as in ia3_saved_attention */
} ia3_saved_ff;

typedef struct ia3_saved_layer {
    ia3_saved_attention self, cross; /* cross: decoder only */
    ia3_saved_ff ff;
} ia3_saved_layer;

/* The rows and buffers of one stack, the encoder or the decoder. */
typedef struct ia3_stack {
    bool decoder;
    int rows, n_layers;
    const int32_t *ids, *offsets, *slot_of_row;
    int max_rows;                 /* rows of the longest sequence */
    const ia3_segments *segments; /* host memory: runs of rows whose methods have hooks */
    const uint64_t *keys;         /* dropout */
    float *x;                     /* residual stream [rows, d_model] */
    float *y;                     /* fp32 scratch [rows, d_model], only with dropout */
    bool late;                    /* drop(y) is still to be added to x; the next norm does it */
    ia3_dropout late_drop;
    void *normed, *out;       /* act [rows, d_model]: scratch for norms; the stack's result */
    const int32_t *lead_keys; /* leads.c */
    float *final_rstd;        /* training */
    ia3_saved_layer *saved;   /* training: [n_layers] */
} ia3_stack;

/* The vectors that the kernels multiply by, in a layer. */
typedef enum ia3_vector {
    IA3_VECTOR_K,
    IA3_VECTOR_V,
    IA3_VECTOR_CROSS_K, /* of the decoder, like the next one */
    IA3_VECTOR_CROSS_V,
    IA3_VECTOR_FF,
    IA3_N_VECTORS
} ia3_vector;

/*
 * Where the kernels find the (IA)³ vectors of the slots and add to their gradients (vectors.c). If all (IA)³ adapters have the
 * standard layout, [n_slots] pointers to the slots' values; else [layers, IA3_N_VECTORS, n_slots] pointers to vectors.
 */
typedef struct ia3_vectors {
    const float *const *slots; /* NULL: ones everywhere */
    float *const *grads;       /* in training */
    bool by_place;
    float *twins, *twin_grads; /* for adapters that have vectors of both q and k */
} ia3_vectors;

typedef struct ia3_pass {
    ia3_model *m;
    const ia3_batch *batch;
    ia3_weights *w;
    bool training;
    ia3_stack enc, dec;
    const int32_t *slot_of_input, *parent, *depth;
    ia3_vectors vectors;
    const int32_t *pair_offsets, *pair_tokens;
    float *lp;  /* [pairs] */
    float *lse; /* [decoder rows] */
} ia3_pass;

typedef enum ia3_site {
    IA3_SITE_SELF_PROBS,
    IA3_SITE_SELF_OUT,
    IA3_SITE_CROSS_PROBS,
    IA3_SITE_CROSS_OUT,
    IA3_SITE_FF_HIDDEN,
    IA3_SITE_FF_OUT,
    IA3_SITE_INPUT, /* of the stack; layer 0 */
    IA3_SITE_OUTPUT
} ia3_site;

/*
 * Computes the log-probabilities of all pairs of the batch and copies them to host memory lp[pairs]. With `training` it
 * keeps what the backward pass needs.
 */
void ia3_pass_forward(ia3_pass *p, ia3_model *m, const ia3_batch *batch, bool training, float *lp);

/*
 * After a pass without training: computes other decoder rows for the same inputs. `batch` has the same inputs and slots as
 * the one before, which is not used any more.
 */
void ia3_pass_decode_more(ia3_pass *p, const ia3_batch *batch, float *lp);

/* Does the first half of ia3_pass_forward, up to the encoder's output (p->enc.out). */
void ia3_pass_encode(ia3_pass *p, ia3_model *m, const ia3_batch *batch, bool training);

/*
 * Sub-layers, which generation uses too. enter writes the normalised residual stream to s->normed (training keeps the
 * stream and its statistics); leave adds drop(a·Wᵀ) to the residual stream. `part` is the norm.
 */
void ia3_sublayer_enter(ia3_pass *p, ia3_stack *s, int layer, ia3_part part, const float *norm,
                        float **saved_x, float **saved_rstd);
void ia3_sublayer_leave(ia3_pass *p, ia3_stack *s, const void *a, ia3_matrix *w, int layer, ia3_site site);
void ia3_sublayer_feed_forward(ia3_pass *p, ia3_stack *s, int layer);

/* Computes the adapters' gradients from dL/dlp (host memory [pairs]) and adds them to the batch's grad_slots, or weight_grads. */
void ia3_pass_backward(ia3_pass *p, const float *dlp);

/*
 * Descriptions of operations that both passes use: the dropout at a site, whether there is dropout at all, attention
 * and the activation.
 */
ia3_dropout ia3_pass_dropout(const ia3_pass *p, const ia3_stack *s, int layer, ia3_site site);
bool ia3_pass_drops(const ia3_pass *p);
void ia3_pass_self_attention(const ia3_pass *p, const ia3_stack *s, int layer, const ia3_saved_attention *w,
                             ia3_attention *a);
void ia3_pass_cross_attention(const ia3_pass *p, int layer, const ia3_saved_attention *w, ia3_attention *a);
void ia3_pass_gated(const ia3_pass *p, const ia3_stack *s, int layer, ia3_gated *g);

/*
 * hooks.c: the graph's matrix products and norms together with what methods add there. `s` has the rows. The backward
 * functions take dy, the gradient of the result, which they may change, and x, the input of the product or of the norm's hook; x
 * may be NULL if the stack has no rows whose methods have hooks and no weights are trained. The gradient of a trained weight is added, too.
 */
void ia3_pass_product(const ia3_pass *p, const ia3_stack *s, ia3_place at, void *y, const void *x,
                      ia3_matrix *w, ia3_out out);
void ia3_pass_product_bwd(const ia3_pass *p, const ia3_stack *s, ia3_place at, void *dx, void *dy,
                          const void *x, ia3_matrix *w, ia3_out out);
/*
 * The last product of a sub-layer with the methods' changes of its result: adds a·Wᵀ, changed, to the residual stream; or changes the
 * product y, fp32 [rows, d_model]. keep [rows, d_model] receives the results as they were, which the backward pass needs; NULL: it does not.
 */
bool ia3_pass_changes_outputs(const ia3_pass *p, const ia3_stack *s, ia3_part part);
void ia3_pass_add_product(const ia3_pass *p, const ia3_stack *s, ia3_place at, const void *a, ia3_matrix *w,
                          float *keep);
void ia3_pass_output(const ia3_pass *p, const ia3_stack *s, ia3_place at, float *y, float *keep);
void ia3_pass_output_bwd(const ia3_pass *p, const ia3_stack *s, ia3_place at, void *dy, const float *y);
void ia3_pass_norm(const ia3_pass *p, const ia3_stack *s, ia3_place at, void *y);
void ia3_pass_norm_bwd(const ia3_pass *p, const ia3_stack *s, ia3_place at, void *dy, const void *x);
/*
 * leads.c. Fill the lead rows of a stack, for which the batch left room, with the adapters' values, and add their gradients. The
 * third writes the k-th lead row of the decoder for a slot to x [d_model]. All this concerns embeddings.
 */
void ia3_pass_lead(const ia3_pass *p, const ia3_stack *s, float *x);
void ia3_pass_lead_bwd(const ia3_pass *p, const ia3_stack *s, const float *dx);
void ia3_pass_decoder_lead(const ia3_pass *p, int slot, int k, float *x);
/*
 * The same for adapters that have keys and values for lead rows: put them into the product y, act, that computes keys and values;
 * move the gradients from dy to the adapters', leaving zeros; put those of the k-th lead row of the decoder into the row y of a
 * layer's self-attention. The first function prepares a stack for this.
 */
void ia3_pass_find_leads(const ia3_pass *p, ia3_stack *s);
void ia3_pass_lead_keys(const ia3_pass *p, const ia3_stack *s, ia3_place at, void *y);
void ia3_pass_lead_keys_bwd(const ia3_pass *p, const ia3_stack *s, ia3_place at, void *dy);
void ia3_pass_decoder_keys(const ia3_pass *p, int slot, int layer, int k, void *y);

/*
 * vectors.c: finds p->vectors; describes one of them, with one slot per sequence or row, and its gradient; completes the
 * gradients after the backward pass; and says where a slot's vector is on the device.
 */
void ia3_pass_find_vectors(ia3_pass *p);
ia3_scale ia3_pass_scale(const ia3_pass *p, bool decoder, int layer, ia3_vector v, const int32_t *slot_of);
ia3_scale_grad ia3_pass_scale_grad(const ia3_pass *p, ia3_scale scale);
void ia3_pass_finish_gradients(const ia3_pass *p);
const float *ia3_pass_vector(const ia3_pass *p, int slot, bool decoder, int layer, ia3_vector v);

/* trace.c */
void ia3_trace_f32(const ia3_pass *p, const char *site, int layer, const float *values, int rows, int cols);
void ia3_trace_act(const ia3_pass *p, const char *site, int layer, const void *values, int rows, int cols);
void ia3_trace_cross(const ia3_pass *p, int layer, const void *kv);

#endif
