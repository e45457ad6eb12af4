/*
 * choice_sets.h
 *     A cache of tokenized choice sets, because all rows of a task have the same set.
 *
 * Threads: it belongs to the I/O thread, which counts references without locks. The compute thread only reads finished
 * sets to which a request holds a reference.
 */
#ifndef IA3_CHOICE_SETS_H
#define IA3_CHOICE_SETS_H

#include "engine/files/tokenizer.h"
#include "engine/model/choices.h"
#include "parse.h"

#define IA3_MAX_CHOICE_TOKENS 256 /* T-Few's model_max_length; longer choices are an error, not truncated */

typedef struct ia3_choice_set {
    ia3_choices *choices; /* NULL: the set is invalid, and `error` says why */
    ia3_error error;
    size_t bytes; /* approximate memory that it takes */
    /* private */
    int refs;
    bool cached;
    uint8_t *key;
    size_t key_len;
    uint64_t hash;
    bool multi_label;   /* each choice has two targets (protocol.h) */
    uint32_t n, n_done; /* targets */
    int32_t **ids;
    int *lens;
    struct ia3_choice_set *newer, *older;
} ia3_choice_set;

typedef struct ia3_choice_sets ia3_choice_sets;

ia3_choice_sets *ia3_choice_sets_create(const ia3_tokenizer *tok, int32_t start_id, size_t max_bytes);
void ia3_choice_sets_free(ia3_choice_sets *c);

/*
 * Returns the set, from the cache or new, with one more reference. A new set must be built: call ia3_choice_set_build,
 * which tokenizes one choice per call, until it returns true.
 */
ia3_choice_set *ia3_choice_sets_get(ia3_choice_sets *c, const ia3_wire_set *set);
bool ia3_choice_set_build(ia3_choice_sets *c, ia3_choice_set *s, const ia3_span *choices);
void ia3_choice_set_release(ia3_choice_sets *c, ia3_choice_set *s);

/*
 * Tokenizes n choices and builds the trie, without using a cache. Errors: IA3_E_CHOICES (naming the choices),
 * IA3_E_TOO_LONG, IA3_E_INVALID (not valid UTF-8).
 */
ia3_choices *ia3_choices_tokenize(const ia3_tokenizer *tok, int32_t start_id, const ia3_span *choices, int n,
                                  ia3_error *err);

#endif
