/*
 * batch.h
 *     The work of one pass: packed inputs, their decoder rows and the tokens to be predicted.
 *
 * score.c, generate.c and train.c build a batch in host memory; the pass copies it to the device's arena. Input i has
 * encoder rows [enc_offsets[i], enc_offsets[i+1]) and decoder rows [dec_offsets[i], dec_offsets[i+1]). The decoder rows
 * of an input form a forest: one trie per choice set, or one chain per choice. If the slot's layout has lead rows in the
 * decoder, these precede the tries, as a chain on which their roots hang, and each of the chains. A pair is a decoder row and a token whose
 * log-probability after that row is wanted. A slot is one adapter of the batch.
 */
#ifndef IA3_BATCH_H
#define IA3_BATCH_H

#include "choices.h"
#include "model.h"

/* A growing array of int32. */
typedef struct ia3_ints {
    int32_t *v;
    int n, cap;
} ia3_ints;

/* A run of rows with the same slot; used for slots whose method has hooks. */
typedef struct ia3_segment {
    int first, rows, slot;
} ia3_segment;
typedef struct ia3_segments {
    ia3_segment *v;
    int n, cap;
} ia3_segments;

typedef struct ia3_batch {
    int n_inputs;
    ia3_ints enc_ids, enc_offsets, slot_of_input; /* enc_offsets [n_inputs + 1] */
    ia3_ints dec_ids, dec_offsets, dec_parent, dec_depth;
    ia3_ints enc_slots, dec_slots;      /* the slot of every row */
    ia3_ints dec_leads;                 /* the first row of each run of lead rows in the decoder */
    ia3_ints pair_offsets, pair_tokens; /* pair_offsets [decoder rows + 1] */
    int max_input, max_dec,
        max_depth;   /* longest input; most decoder rows of an input; longest path in nodes */
    int n_by_states; /* how many inputs, the last ones, use state_attention (scoring only) */

    /* (IA)³ vectors in device memory, one slot per adapter; no slots: only the bare backbone is used */
    const float **slots;
    float **grad_slots; /* training */
    int n_slots;

    /*
     * The layout of each slot; how many slots have a method that is not fused, how many have hooks, how many have vectors of
     * (IA)³ in other places than the standard ones, how many have keys and values for lead rows, and how many have any vectors of
     * (IA)³; the rows of those with hooks.
     */
    const ia3_layout **layouts;
    int n_others, n_hooked, n_placed, n_keyed, n_scaled;
    ia3_segments enc_segments, dec_segments;

    /*
     * The weights that the pass runs with, if a version replaces them; it is then the only slot. NULL: the backbone's. In training
     * weight_layout and weight_grads say where the gradients of weights are added.
     */
    ia3_weights *weights;
    const ia3_layout *weight_layout;
    float *weight_grads;

    /* dropout (training only): its probability, and one key per row; NULL: no dropout */
    float dropout;
    uint64_t *enc_keys, *dec_keys;
} ia3_batch;

void ia3_batch_init(ia3_batch *b);
void ia3_batch_free(ia3_batch *b);

/* Adds a slot and returns its index. values, and grads (NULL unless training), are device memory. */
int ia3_batch_add_slot(ia3_batch *b, const ia3_layout *layout, const float *values, float *grads);

/* Returns the slot that has these values, adding it if there is none. For scoring and generation: without gradients. */
int ia3_batch_find_slot(ia3_batch *b, const ia3_layout *layout, const float *values);

/*
 * Begins the next input, with ids [n], and returns its index. If the slot's layout has lead rows, room for these comes
 * first. Decoder rows that are added from now on belong to this input.
 */
int ia3_batch_add_input(ia3_batch *b, const int32_t *ids, int n, int slot);

/*
 * Adds the decoder rows of a choice set to the last input and returns the index of its first pair. In a trie the pair
 * of token t of choice c is first + choices->choice_pairs[c][t]. With one chain per choice, pairs are in the order of
 * choices, then tokens; training with dropout needs this, because every choice has masks of its own.
 */
int ia3_batch_add_trie(ia3_batch *b, const ia3_choices *choices);
int ia3_batch_add_chains(ia3_batch *b, const ia3_choices *choices);

/* For generation: adds one decoder row per input, row i for input i. */
void ia3_batch_one_row_each(ia3_batch *b);

#endif
