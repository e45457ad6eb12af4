/*
 * tokenizer.h
 *     SentencePiece behind a C interface (tokenizer.cc is the only C++ in the project).
 *
 * Thread safety: encoding is const and may run in several threads at once.
 */
#ifndef IA3_TOKENIZER_H
#define IA3_TOKENIZER_H

#include <stdint.h>

#include "engine/base/error.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct ia3_tokenizer ia3_tokenizer;

/* vocab_size is the backbone's: a tokenizer with more pieces than the embedding has rows is refused. */
ia3_tokenizer *ia3_tokenizer_open(const char *path, int vocab_size, ia3_error *err);
void ia3_tokenizer_close(ia3_tokenizer *tok);

/*
 * Encodes UTF-8 text and appends </s>; returns malloc'd ids [n] and, unless offsets is NULL, the byte offset
 * in `text` where each token begins [n]. Literal "</s>", "<pad>", "<extra_id_0>" are ordinary text: control
 * pieces are never produced from input. Invalid UTF-8 and embedded zero bytes are an error (IA3_E_INVALID).
 */
bool ia3_tokenizer_encode(const ia3_tokenizer *tok, const char *text, size_t len, int32_t **ids,
                          uint32_t **offsets, int *n, ia3_error *err);

/*
 * Encodes an input of at most max_tokens tokens (</s> included), keeping the tail: when there are too many,
 * tokens that end before or at byte `tail` are dropped from the end of the body. Sets *truncated. A tail that
 * alone does not fit is IA3_E_TOO_LONG.
 */
bool ia3_tokenizer_encode_input(const ia3_tokenizer *tok, const char *text, size_t len, size_t tail,
                                int max_tokens, int32_t **ids, int *n, bool *truncated, ia3_error *err);

/*
 * The text of ids, in NUL-terminated malloc'd memory. Control pieces and ids outside the tokenizer leave nothing;
 * an unknown piece is " ⁇ ", as SentencePiece writes it. The text is valid UTF-8 without zero bytes: of what pieces of single
 * bytes do not complete to a character, each byte becomes U+FFFD.
 */
bool ia3_tokenizer_decode(const ia3_tokenizer *tok, const int32_t *ids, int n, char **text, size_t *len,
                          ia3_error *err);

/* The piece of an id ("▁the", "</s>", "<extra_id_7>", "<unused_12>" for rows beyond the tokenizer). */
const char *ia3_tokenizer_piece(const ia3_tokenizer *tok, int32_t id, char buffer[64]);
int ia3_tokenizer_unk(const ia3_tokenizer *tok);
int ia3_tokenizer_eos(const ia3_tokenizer *tok);

#ifdef __cplusplus
}
#endif
#endif
