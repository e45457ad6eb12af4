/*
 * batch.h
 *     One pass's worth of work: packed inputs, their decoder rows and the tokens to be predicted.
 *
 * Built on the host by score.c and train.c, then copied into the device's arena by the pass. Input i has
 * encoder rows [enc_offsets[i], enc_offsets[i+1]) and decoder rows [dec_offsets[i], dec_offsets[i+1]); the
 * decoder rows of one input are a forest (several choice tries, or one chain per choice).
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

/* Runs of rows of slots whose method has hooks. */
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
    ia3_ints pair_offsets, pair_tokens; /* pair_offsets [decoder rows + 1] */
    int max_input, max_dec, max_depth;  /* longest input; most decoder rows of one input; deepest path */
    int n_by_states; /* the last inputs, whose cross-attention goes without keys and values (scoring) */

    /* (IA)³ vectors: device pointers, one slot per adapter; none at all = the bare backbone */
    const float **slots;
    float **grad_slots; /* training */
    int n_slots;

    /* what each slot is, how many are not of the fused method, and the rows of those */
    const ia3_method **methods;
    int n_others;
    ia3_segments enc_segments, dec_segments;

    /* dropout (training): one key per row, NULL without */
    float dropout;
    uint64_t *enc_keys, *dec_keys;
} ia3_batch;

void ia3_batch_init(ia3_batch *b);
void ia3_batch_free(ia3_batch *b);

/* Adds a slot and returns its index; values (and grads, NULL when scoring) are device memory. */
int ia3_batch_add_slot(ia3_batch *b, const ia3_method *method, const float *values, float *grads);

/* The slot that holds `values`, added when there is none. For scoring: no gradients. */
int ia3_batch_find_slot(ia3_batch *b, const ia3_method *method, const float *values);

/*
 * Opens the next input, behind the rows that its method has before each. Decoder rows added from now on belong to it.
 * Returns its index.
 */
int ia3_batch_add_input(ia3_batch *b, const int32_t *ids, int n, int slot);

/*
 * Adds the decoder rows of a choice set to the last input and returns the index of its first pair: as a trie
 * (pair of token t of choice c: first + choices->choice_pairs[c][t]) or as one chain per choice (pairs in the
 * order of choices, then tokens), which training with dropout needs: every choice draws its own masks.
 */
int ia3_batch_add_trie(ia3_batch *b, const ia3_choices *choices);
int ia3_batch_add_chains(ia3_batch *b, const ia3_choices *choices);

/* Generation instead: decoder row i belongs to input i. */
void ia3_batch_one_row_each(ia3_batch *b);

#endif
