/*
 * cost.h
 *     What a backbone costs: parameters, floating-point operations (FLOPs) and memory, as the T-Few paper estimates them
 *     and as the engine works.
 *
 * T-Few is Liu et al., "Few-Shot Parameter-Efficient Fine-Tuning is Better and Cheaper than In-Context Learning",
 * arXiv 2205.05638, section 4.2 and table 1; Kaplan et al. is "Scaling Laws for Neural Language Models", arXiv
 * 2001.08361, section 2.1. As there, a multiplication and the addition of its product are two FLOPs, and only matrix
 * products count: with weights, with the vocabulary, and of attention. Norms, activations, softmax, dropout and the
 * products with the vectors of (IA)³ are element by element and do not count.
 *
 * Numbers are doubles, because products of the largest permitted sizes exceed 64 bits. They are exact up to 2^53.
 */
#ifndef IA3_COST_H
#define IA3_COST_H

#include <stdbool.h>

/* The sizes of a backbone. */
typedef struct ia3_sizes {
    double vocab_size, d_model, inner /* heads times the width of a head */, d_ff, n_heads;
    double n_encoder, n_decoder; /* layers */
    bool gated;                  /* the feed-forward has wi_0 and wi_1 */
    double bias_values;          /* relative position biases, all tables together */
    /*
     * GPT-2, for comparison: no encoder and no cross-attention; n_positions learned positions; biases in all linear
     * layers and norms.
     */
    bool decoder_only;
    double n_positions;
} ia3_sizes;

/* --- parameters --- */

/* The weights of linear layers in one layer: q, k, v, o of each attention, and the feed-forward. */
static inline double
ia3_layer_weights(const ia3_sizes *s, bool cross)
{
    return (cross ? 8 : 4) * s->d_model * s->inner + (s->gated ? 3 : 2) * s->d_model * s->d_ff;
}

/* All weights of linear layers: 12·n_layer·d_model² for a GPT (Kaplan et al., table 1). */
static inline double
ia3_linear_weights(const ia3_sizes *s)
{
    return s->n_encoder * ia3_layer_weights(s, false) + s->n_decoder * ia3_layer_weights(s, !s->decoder_only);
}

/* The parameters that are neither weights of linear layers nor embeddings. */
static inline double
ia3_other_parameters(const ia3_sizes *s)
{
    if (s->decoder_only) /* per layer two norms with biases, and the biases of q, k, v, o and of the feed-forward */
        return s->n_decoder * (4 * s->d_model + 4 * s->d_model + s->d_ff + s->d_model) + 2 * s->d_model;
    return (2 * s->n_encoder + 3 * s->n_decoder + 2) * s->d_model + s->bias_values;
}

/* N of Kaplan et al.: all parameters without those of embeddings, of positions, and of the head. */
static inline double
ia3_parameters_without_embeddings(const ia3_sizes *s)
{
    return ia3_linear_weights(s) + ia3_other_parameters(s);
}

/* Values of an (IA)³ adapter: l_k and l_v of each attention, and l_ff (docs/engine.md §2). */
static inline double
ia3_vector_values(const ia3_sizes *s)
{
    return s->n_encoder * (2 * s->inner + s->d_ff) + s->n_decoder * (4 * s->inner + s->d_ff);
}

/* --- the paper's estimates (T-Few §4.2) --- */

/*
 * Per token, 2N FLOPs for the forward pass and 4N for the backward pass (Kaplan et al., section 2.1, without the term for
 * attention). In an encoder-decoder model a token passes only the encoder or the decoder, which have about N/2 parameters
 * each, so it costs half as much (T-Few §4.2: "FLOPs per token" N and 3N).
 */
static inline double
ia3_paper_inference_flops(const ia3_sizes *s, double tokens)
{
    return (s->decoder_only ? 2 : 1) * ia3_parameters_without_embeddings(s) * tokens;
}

/* `tokens` per example. That the backbone's weights need no gradients is not taken into account. */
static inline double
ia3_paper_training_flops(const ia3_sizes *s, double tokens, double steps, double batch_size)
{
    return 3 * ia3_paper_inference_flops(s, tokens) * steps * batch_size;
}

/*
 * In-context learning, where every input is preceded by all shots: 2N per token for the decoder-only models that the paper
 * compares with (GPT-3), N for an encoder-decoder model (T5+LM in table 1).
 */
static inline double
ia3_paper_icl_flops(const ia3_sizes *s, double tokens, double shots, double shot_tokens)
{
    return ia3_paper_inference_flops(s, shots * shot_tokens + tokens);
}

/* --- the engine's work (docs/engine.md §4) --- */

/*
 * The rows of a pass and the pairs of a query and a key, summed over its inputs. For decoder-only models "decoder" means
 * all rows.
 */
typedef struct ia3_pass_rows {
    double encoder_rows, decoder_rows;
    double head_rows;     /* rows whose logits are computed */
    double encoder_pairs; /* each row of an input with each */
    double decoder_pairs; /* each row with itself and its ancestors */
    double
        cross_pairs;   /* each row of the decoder with each of the encoder, where there are keys and values */
    double keyed_rows; /* rows of the encoder whose keys and values cross-attention uses */
    /* inputs whose cross-attention does without keys and values (state_attention in device.h) */
    double state_rows, state_pairs;
} ia3_pass_rows;

/*
 * What a method adds: multiply-adds in the forward and in the backward pass, per row of the encoder, of the decoder, and
 * of the encoder's output where keys and values for cross-attention are computed; and rows that precede every input.
 */
typedef struct ia3_row_cost {
    double forward, backward;
} ia3_row_cost;
typedef struct ia3_method_cost {
    ia3_row_cost encoder, decoder, keys;
    double lead_rows, decoder_lead_rows; /* the latter precede every trie and every chain */
    bool below_vectors; /* values below the (IA)³ vectors of the first layer need gradients */
    double trained;     /* how many values are trained if these are not the adapter's own; else 0 */
    double expanded;    /* how many values passes use if they are computed from an adapter's; else 0 */
    double
        weights; /* how many of the backbone's weights have copies of their own, all of which get gradients in training; else 0 */
    double positions; /* how many of an adapter's values are not parameters, but say where weights stand */
    double draws;     /* of an example, before the first step of training */
    double step;      /* multiply-adds of a step of training that do not depend on its rows */
} ia3_method_cost;

/*
 * The rows of one input of n tokens, and of `choices` choices of t tokens that share nothing but the start token and `lead`
 * rows before it.
 */
static inline ia3_pass_rows
ia3_rows_of_trie(double n, double lead, double choices, double t)
{
    ia3_pass_rows w = {.encoder_rows = n, .keyed_rows = n, .encoder_pairs = n * n};

    w.decoder_rows = w.head_rows = lead + 1 + choices * (t - 1);
    w.decoder_pairs =
        lead * (lead + 1) / 2 + lead * (1 + choices * (t - 1)) + 1 + choices * (t * (t + 1) / 2 - 1);
    w.cross_pairs = w.decoder_rows * n;
    return w;
}

/* The same with a start token and lead rows for each choice, as in training with dropout. */
static inline ia3_pass_rows
ia3_rows_of_chains(double n, double lead, double choices, double t)
{
    ia3_pass_rows w = {.encoder_rows = n, .keyed_rows = n, .encoder_pairs = n * n};

    w.decoder_rows = w.head_rows = choices * (lead + t);
    w.decoder_pairs = choices * (lead + t) * (lead + t + 1) / 2;
    w.cross_pairs = w.decoder_rows * n;
    return w;
}

/* The same for a decoder-only model, which computes the input once for all choices. */
static inline ia3_pass_rows
ia3_rows_of_continuations(double n, double choices, double t)
{
    ia3_pass_rows w = {.decoder_rows = n + choices * (t - 1), .head_rows = 1 + choices * (t - 1)};

    w.decoder_pairs = n * (n + 1) / 2 + choices * ((t - 1) * n + t * (t - 1) / 2);
    return w;
}

/* FLOPs of encoding the inputs. A pair costs `inner` multiply-adds for S = q·k and as many for the sum of values. */
static inline double
ia3_encoder_flops(const ia3_sizes *s, const ia3_pass_rows *w, const ia3_method_cost *m)
{
    double macs =
        s->n_encoder * (w->encoder_rows * ia3_layer_weights(s, false) + 2 * w->encoder_pairs * s->inner);

    return 2 * (macs + w->encoder_rows * m->encoder.forward);
}

/*
 * FLOPs of the decoder and the head. Of the eight square matrices of a decoder layer, k and v of cross-attention multiply
 * the rows of the encoder. Without keys and values, a row's query is multiplied by k, its result by v, and each head
 * attends to the encoder's output itself.
 */
static inline double
ia3_decoder_flops(const ia3_sizes *s, const ia3_pass_rows *w, const ia3_method_cost *m)
{
    double square = s->d_model * s->inner, row = ia3_layer_weights(s, !s->decoder_only);
    double macs = w->decoder_rows * (s->decoder_only ? row : row - 2 * square);

    macs += 2 * (w->decoder_pairs + w->cross_pairs) * s->inner + 2 * w->keyed_rows * square;
    macs += 2 * w->state_rows * square + 2 * w->state_pairs * s->n_heads * s->d_model;
    macs = s->n_decoder * macs + w->head_rows * s->vocab_size * s->d_model;
    return 2 * (macs + w->decoder_rows * m->decoder.forward + w->keyed_rows * m->keys.forward);
}

static inline double
ia3_forward_flops(const ia3_sizes *s, const ia3_pass_rows *w, const ia3_method_cost *m)
{
    return ia3_encoder_flops(s, w, m) + ia3_decoder_flops(s, w, m);
}

/*
 * FLOPs of the backward pass of an encoder-decoder model. The backbone is frozen, so each weight takes part in one
 * product, for the gradient of its input; where weights are trained, in another one for its own. The head takes part in two, since logits are not kept. Attention has five
 * products (S again, and the gradients of P, q, k, v) to the forward pass's two. Below the (IA)³ vectors of each stack's
 * first layer nothing is trained, so there neither the gradient of q is computed nor those of the inputs of q, k, v.
 */
static inline double
ia3_backward_flops(const ia3_sizes *s, const ia3_pass_rows *w, const ia3_method_cost *m)
{
    double square = s->d_model * s->inner, pairs = w->encoder_pairs + w->decoder_pairs;
    double macs =
        s->n_encoder * (w->encoder_rows * ia3_layer_weights(s, false) + 5 * w->encoder_pairs * s->inner);

    macs +=
        s->n_decoder * (w->decoder_rows * (ia3_layer_weights(s, true) - 2 * square) +
                        5 * (w->decoder_pairs + w->cross_pairs) * s->inner + 2 * w->encoder_rows * square);
    macs += 2 * w->head_rows * s->vocab_size * s->d_model;
    if (!m->below_vectors)
        macs -= 3 * (w->encoder_rows + w->decoder_rows) * square + pairs * s->inner;
    macs +=
        w->encoder_rows * (m->encoder.backward + m->keys.backward) + w->decoder_rows * m->decoder.backward;
    if (m->weights > 0) /* one more product for each weight */
        macs += s->n_encoder * w->encoder_rows * ia3_layer_weights(s, false) +
                s->n_decoder * (w->decoder_rows * (ia3_layer_weights(s, true) - 2 * square) +
                                2 * w->encoder_rows * square) +
                w->head_rows * s->vocab_size * s->d_model;
    return 2 * macs;
}

/* --- memory --- */

/* Bytes per element of the matrices, of the table of embeddings, and of activations (`act` in device.h). */
typedef struct ia3_element_sizes {
    double matrix, table, act;
} ia3_element_sizes;

/* The weights. The embeddings are both a table and the matrix of the head, even if both are the same. */
static inline double
ia3_weight_bytes(const ia3_sizes *s, const ia3_element_sizes *e)
{
    double embedding = s->vocab_size * s->d_model;

    return (ia3_linear_weights(s) + embedding) * e->matrix +
           (embedding + s->n_positions * s->d_model) * e->table + 4 * ia3_other_parameters(s);
}

static inline double
ia3_larger(double a, double b)
{
    return a > b ? a : b;
}

/* Per row: the residual stream, its norm, and the stack's output, which both passes keep from beginning to end. */
static inline double
ia3_row_bytes(const ia3_sizes *s, const ia3_element_sizes *e)
{
    return s->d_model * (4 + 2 * e->act);
}

/* What a forward pass needs at one time apart from the weights: the stacks, and the largest sub-layer. */
static inline double
ia3_forward_bytes(const ia3_sizes *s, const ia3_pass_rows *w, const ia3_element_sizes *e)
{
    double rows = ia3_larger(w->encoder_rows, w->decoder_rows);
    double self = 4 * s->inner * rows, ff = (s->gated ? 3 : 2) * s->d_ff * rows;
    double cross = 2 * s->inner * (w->decoder_rows + w->encoder_rows);
    double layer = ia3_larger(ia3_larger(self, ff), s->decoder_only ? 0 : cross);

    /* a decoder-only model keeps the keys and values of all its layers, so that choices share those of the input */
    if (s->decoder_only)
        layer += 2 * s->inner * w->decoder_rows * s->n_decoder;
    return (w->encoder_rows + w->decoder_rows) * ia3_row_bytes(s, e) + layer * e->act;
}

/*
 * What a step of training keeps until its backward pass is over, apart from the weights: for each attention its input
 * (fp32), q, k, v, its result and lse, for each feed-forward its input and what the activation is computed from. In the
 * backward pass there are also the gradients of both residual streams (fp32, and as act), of the encoder's and the
 * decoder's output, and of the largest sub-layer's activations.
 */
static inline double
ia3_step_bytes(const ia3_sizes *s, const ia3_pass_rows *w, const ia3_element_sizes *e)
{
    double d = s->d_model, inner = s->inner, g = (s->gated ? 2 : 1) * s->d_ff,
           rows = w->encoder_rows + w->decoder_rows;
    double layer = 2 * 4 * (d + 1) + 4 * s->n_heads + (4 * inner + g) * e->act;
    double cross = 4 * (d + 1) + 4 * s->n_heads + 2 * inner * e->act;
    double bytes = s->n_encoder * w->encoder_rows * layer +
                   s->n_decoder * (w->decoder_rows * (layer + cross) + w->encoder_rows * 2 * inner * e->act);
    double largest = ia3_larger(w->encoder_rows, w->decoder_rows) * ia3_larger(s->d_ff + g, 4 * inner);

    largest = ia3_larger(largest, 2 * inner * rows);
    return bytes + rows * (ia3_row_bytes(s, e) + d * (8 + e->act)) + largest * e->act;
}

#endif
