/*
 * graph.h
 *     The structure of a loaded backbone, which the passes over it use (see pass.h).
 */
#ifndef IA3_GRAPH_H
#define IA3_GRAPH_H

#include "model.h"

/* A table of relative position biases [n_buckets, n_heads], and its expansion by distance on the device. */
typedef struct ia3_bias {
    float *table; /* host memory; NULL: this attention has none */
    bool bidirectional;
    float *expanded; /* device [n_heads, 2·span - 1] */
    int span;
    /* of weights in training: the table on the device, which belongs to the parameters; and the bucket of each distance [2·span - 1] */
    const float *master;
    int32_t *bucket_of;
} ia3_bias;

typedef struct ia3_ff {
    float *norm;         /* [d_model] */
    ia3_matrix *wi, *wo; /* wi: [d_ff or 2·d_ff (wi_0 | wi_1), d_model]; wo: [d_model, d_ff] */
} ia3_ff;

typedef struct ia3_self_attention {
    float *norm;
    ia3_matrix *qkv, *o; /* [3·inner, d_model]; [d_model, inner] */
    ia3_bias *bias;      /* own or shared with block 0 */
} ia3_self_attention;

typedef struct ia3_cross_attention {
    float *norm;
    ia3_matrix *q, *kv, *o; /* kv [2·inner, d_model] over encoder outputs */
} ia3_cross_attention;

typedef struct ia3_enc_layer {
    ia3_self_attention self;
    ia3_ff ff;
} ia3_enc_layer;

typedef struct ia3_dec_layer {
    ia3_self_attention self;
    ia3_cross_attention cross;
    ia3_ff ff;
} ia3_dec_layer;

/* The weights that a pass runs with: the backbone's, or those of a version that replaces them (weights.h). */
struct ia3_weights {
    void *embedding; /* table [vocab, d_model] */
    ia3_matrix *head;
    ia3_enc_layer *enc;
    ia3_dec_layer *dec;
    ia3_bias *enc_bias, *dec_bias; /* [n layers]; only [0] has a table unless bias_every_layer */
    float *enc_norm, *dec_norm;
    uint64_t bytes; /* of device memory */
};

struct ia3_model {
    ia3_config config;
    ia3_device *dev;
    ia3_layouts *layouts;
    const ia3_layout *layout; /* of the fused method, (IA)³ */
    ia3_weights *weights;     /* the backbone's */
    float logit_scale;
    float *ones; /* device [n_values]: the bare backbone inside a mixed batch */
    uint64_t parameters;
    bool few_by_states; /* the device supports state_attention for every layer of the decoder */
    int backward_users; /* number of training jobs that need the backward weights */
    /* per layer, pointers of the current pass; kept here because a pass may end by longjmp (pass.h) */
    struct ia3_saved_layer *enc_saved, *dec_saved;
    ia3_trace_fn trace;
    void *trace_arg;
    ia3_give_way give_way;
    const ia3_tokenizer *tokenizer;   /* may be NULL */
    const ia3_checkpoint *checkpoint; /* may be NULL */
};

/* Expands the table for sequences of up to `length`, in powers of two. Jumps to dev->oom for lack of memory. */
void ia3_bias_cover(ia3_model *m, ia3_bias *b, int length);
/* The bucket of the relative position key - query (docs/engine.md §1.3; modeling_t5.py, _relative_position_bucket). */
int ia3_relative_bucket(const ia3_config *c, bool bidirectional, int relative);

/* IA3_E_UNSUPPORTED for weights in int8. */
bool ia3_model_may_train(const ia3_model *m, ia3_error *err);

/*
 * Backward weights exist while there are training jobs: retain builds them for the first one, release drops them after
 * the last. Retaining fails as ia3_model_may_train does, and with IA3_E_MEMORY.
 */
bool ia3_model_retain_backward(ia3_model *m, ia3_error *err);
void ia3_model_release_backward(ia3_model *m);

/*
 * Runs pass(arg) and releases the arena afterwards. A jump for lack of memory becomes IA3_E_MEMORY, one that abandons the
 * pass IA3_E_CANCELLED. May be called while another pass gives way.
 */
bool ia3_model_guarded(ia3_model *m, void (*pass)(void *arg), void *arg, ia3_error *err);

/* Gives way to other work (model.h); does not return if that abandons the pass. */
void ia3_model_give_way(const ia3_model *m);

#endif
