/*
 * tokenizer.h
 *     The tokenizer of a checkpoint, whatever its kind: SentencePiece, bytes, or byte-level BPE.
 *
 * Threads: an open tokenizer is never modified, so several threads may encode and decode at the same time.
 */
#ifndef IA3_TOKENIZER_H
#define IA3_TOKENIZER_H

#include <stdint.h>

#include "engine/base/error.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct ia3_tokenizer ia3_tokenizer;

/*
 * Opens the tokenizer of a checkpoint's directory (docs/engine.md §1.5 says which files count). vocab_size is the number of
 * rows of the backbone's embedding; a tokenizer with a token beyond it is an error, one with far fewer a WARNING in the log.
 * Errors are IA3_E_BAD_CHECKPOINT and name the file. Closing NULL is allowed.
 */
ia3_tokenizer *ia3_tokenizer_open(const char *directory, int vocab_size, ia3_error *err);
void ia3_tokenizer_close(ia3_tokenizer *tok);

/*
 * Encodes UTF-8 text, with the tokens that the tokenizer puts around it: usually </s> after it. Returns malloc'd ids [n] and,
 * unless offsets is NULL, the byte offsets in `text` at which the tokens begin, also malloc'd [n]; they need not be at the
 * beginning of a character. Text such as "</s>", "<pad>" or "<extra_id_0>" is ordinary text; it never becomes a control token.
 * Invalid UTF-8 and zero bytes are an error (IA3_E_INVALID).
 */
bool ia3_tokenizer_encode(const ia3_tokenizer *tok, const char *text, size_t len, int32_t **ids,
                          uint32_t **offsets, int *n, ia3_error *err);

/* The same for a text that the decoder produces: it ends with </s> even if the tokenizer does not put it there. */
bool ia3_tokenizer_encode_target(const ia3_tokenizer *tok, const char *text, size_t len, int32_t **ids,
                                 int *n, ia3_error *err);

/* How many tokens are put before and after those of a text. */
void ia3_tokenizer_around(const ia3_tokenizer *tok, int *before, int *after);

/*
 * Encodes an input as at most max_tokens tokens, including those around the text. If there are more, tokens are dropped from the end of
 * the body, that is, of those that end at or before byte `tail`; what follows is kept. *n_all is how many there were.
 * If the tail alone does not fit, the error is IA3_E_TOO_LONG. ids are malloc'd [n].
 */
bool ia3_tokenizer_encode_input(const ia3_tokenizer *tok, const char *text, size_t len, size_t tail,
                                int max_tokens, int32_t **ids, int *n, int *n_all, ia3_error *err);

/*
 * Decodes ids [n] to text in malloc'd memory, with a terminating zero byte that *len does not count. Control tokens and
 * ids outside the tokenizer are left out; the unknown token becomes " ⁇ ", as in SentencePiece. The text is valid
 * UTF-8 without zero bytes: each byte of an incomplete character becomes U+FFFD.
 */
bool ia3_tokenizer_decode(const ia3_tokenizer *tok, const int32_t *ids, int n, char **text, size_t *len,
                          ia3_error *err);

/* The piece of an id, such as "▁the", "</s>" or "<extra_id_7>"; "<unused_12>" for a row beyond the tokenizer. */
const char *ia3_tokenizer_piece(const ia3_tokenizer *tok, int32_t id, char buffer[64]);

/* Writes what kind of tokenizer it is, as in "32000 tokens in spiece.model, 100 extra ids, 2 added tokens". */
void ia3_tokenizer_describe(const ia3_tokenizer *tok, char *buffer, size_t size);

int ia3_tokenizer_unk(const ia3_tokenizer *tok);
int ia3_tokenizer_eos(const ia3_tokenizer *tok);

#ifdef __cplusplus
}
#endif
#endif
