/*
 * pass.h
 *     Forward and backward over a batch, on the device.
 *
 * A pass lives in the device's arena: everything it points at is gone when the arena is released. It runs
 * inside ia3_model_guarded, so running out of memory leaves by a jump.
 */
#ifndef IA3_PASS_H
#define IA3_PASS_H

#include "batch.h"
#include "graph.h"

/* What the backward pass needs of one attention. */
typedef struct ia3_saved_attention {
    float *x;    /* residual stream before the norm [rows, d_model] */
    float *rstd; /* [rows] */
    void *q,
        *kv; /* act: fused [rows, 3·inner] for self-attention (kv = NULL); else q [rows, inner], kv [keys, 2·inner] */
    void *out;  /* act [rows, inner] */
    float *lse; /* [rows, heads] */
} ia3_saved_attention;

typedef struct ia3_saved_ff {
    float *x, *rstd;
    void *g; /* act [rows, d_ff or 2·d_ff] */
} ia3_saved_ff;

typedef struct ia3_saved_layer {
    ia3_saved_attention self, cross; /* cross: decoder only */
    ia3_saved_ff ff;
} ia3_saved_layer;

/* One stack's (encoder's or decoder's) rows and work space. */
typedef struct ia3_stack {
    bool decoder;
    int rows, n_layers;
    const int32_t *ids, *offsets, *slot_of_row;
    int max_rows;                 /* of one sequence */
    const ia3_segments *segments; /* host: rows of methods with hooks */
    const uint64_t *keys;         /* dropout */
    float *x;                     /* residual stream [rows, d_model] */
    float *y;                     /* fp32 scratch [rows, d_model], with dropout only */
    void *normed, *out;           /* act [rows, d_model]: scratch; the stack's result */
    float *final_rstd;            /* training */
    ia3_saved_layer *saved;       /* training: [n_layers] */
} ia3_stack;

typedef struct ia3_pass {
    ia3_model *m;
    const ia3_batch *batch;
    bool training;
    ia3_stack enc, dec;
    const int32_t *slot_of_input, *parent, *depth;
    const float *const *slots;
    float *const *grad_slots;
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

/* Log-probabilities of all pairs of the batch, into host lp[pairs]. training keeps what backward needs. */
void ia3_pass_forward(ia3_pass *p, ia3_model *m, const ia3_batch *batch, bool training, float *lp);

/* The first half of it: everything up to the encoder's output (p->enc.out). */
void ia3_pass_encode(ia3_pass *p, ia3_model *m, const ia3_batch *batch, bool training);

/*
 * Sub-layers, shared with generation: enter normalises the residual stream into s->normed (training keeps
 * stream and statistics), leave adds drop(a·Wᵀ) to it. `part` is the norm.
 */
void ia3_sublayer_enter(ia3_pass *p, ia3_stack *s, int layer, ia3_part part, const float *norm,
                        float **saved_x, float **saved_rstd);
void ia3_sublayer_leave(ia3_pass *p, ia3_stack *s, const void *a, ia3_matrix *w, int layer, ia3_site site);
void ia3_sublayer_feed_forward(ia3_pass *p, ia3_stack *s, int layer);

/* From dL/dlp (host [pairs]) to the gradients of the vectors, accumulated into the batch's grad_slots. */
void ia3_pass_backward(ia3_pass *p, const float *dlp);

/* Pieces that forward and backward share. */
ia3_dropout ia3_pass_dropout(const ia3_pass *p, const ia3_stack *s, int layer, ia3_site site);
bool ia3_pass_drops(const ia3_pass *p);
void ia3_pass_self_attention(const ia3_pass *p, const ia3_stack *s, int layer, const ia3_saved_attention *w,
                             ia3_attention *a);
void ia3_pass_cross_attention(const ia3_pass *p, int layer, const ia3_saved_attention *w, ia3_attention *a);
void ia3_pass_gated(const ia3_pass *p, const ia3_stack *s, int layer, ia3_gated *g);

/*
 * hooks.c: the graph's products and norms with what methods add there. `s` has the rows. The backward functions get dy,
 * the gradient of the result, and x, what the product or the norm's hook was applied to; x may be NULL when the stack has
 * no rows of methods with hooks.
 */
void ia3_pass_product(const ia3_pass *p, const ia3_stack *s, ia3_place at, void *y, const void *x,
                      ia3_matrix *w, ia3_out out);
void ia3_pass_product_bwd(const ia3_pass *p, const ia3_stack *s, ia3_place at, void *dx, const void *dy,
                          const void *x, ia3_matrix *w, ia3_out out);
void ia3_pass_norm(const ia3_pass *p, const ia3_stack *s, ia3_place at, void *y);
void ia3_pass_norm_bwd(const ia3_pass *p, const ia3_stack *s, ia3_place at, void *dy, const void *x);
/* The rows that methods have before each input, which the batch left free; and their gradients. */
void ia3_pass_lead(const ia3_pass *p, float *x);
void ia3_pass_lead_bwd(const ia3_pass *p, const float *dx);
/* The (IA)³ slots of the batch on the device, in which slots of other methods are ones; NULL: none is needed. */
const float *const *ia3_pass_slots(const ia3_pass *p);
float *const *ia3_pass_grad_slots(const ia3_pass *p);

/* trace.c */
void ia3_trace_f32(const ia3_pass *p, const char *site, int layer, const float *values, int rows, int cols);
void ia3_trace_act(const ia3_pass *p, const char *site, int layer, const void *values, int rows, int cols);
void ia3_trace_cross(const ia3_pass *p, int layer, const void *kv);

#endif
