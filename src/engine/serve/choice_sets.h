/*
 * choice_sets.h
 *     Choice sets, tokenized once: the same set is asked with every row of a task.
 *
 * Owned by the I/O thread (references are counted without locks); the compute thread only reads finished
 * sets of requests that hold a reference.
 */
#ifndef IA3_CHOICE_SETS_H
#define IA3_CHOICE_SETS_H

#include "engine/files/tokenizer.h"
#include "engine/model/choices.h"
#include "parse.h"

#define IA3_MAX_CHOICE_TOKENS 256 /* T-Few's model_max_length; a longer choice is refused, not cut */

typedef struct ia3_choice_set {
    ia3_choices *choices; /* NULL: the set cannot be used, `error` says why */
    ia3_error error;
    size_t bytes; /* memory it takes, about */
    /* private */
    int refs;
    bool cached;
    uint8_t *key;
    size_t key_len;
    uint64_t hash;
    uint32_t n, n_done;
    int32_t **ids;
    int *lens;
    struct ia3_choice_set *newer, *older;
} ia3_choice_set;

typedef struct ia3_choice_sets ia3_choice_sets;

ia3_choice_sets *ia3_choice_sets_create(const ia3_tokenizer *tok, int32_t start_id, size_t max_bytes);
void ia3_choice_sets_free(ia3_choice_sets *c);

/*
 * The set, new or known, with one more reference. A new one has to be built: call ia3_choice_set_build until
 * it returns true, each call tokenizes one choice.
 */
ia3_choice_set *ia3_choice_sets_get(ia3_choice_sets *c, const ia3_wire_set *set);
bool ia3_choice_set_build(ia3_choice_sets *c, ia3_choice_set *s, const ia3_span *choices);
void ia3_choice_set_release(ia3_choice_sets *c, ia3_choice_set *s);

/*
 * Without a cache: tokenizes n choices and builds the trie. Errors: IA3_E_CHOICES (naming the choices),
 * IA3_E_TOO_LONG, IA3_E_INVALID (not UTF-8).
 */
ia3_choices *ia3_choices_tokenize(const ia3_tokenizer *tok, int32_t start_id, const ia3_span *choices, int n,
                                  ia3_error *err);

#endif
