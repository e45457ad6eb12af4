/*
 * input.h
 *     From the text of an input to its tokens, with what is cut off when there are too many.
 */
#ifndef IA3_INPUT_H
#define IA3_INPUT_H

#include "tokenizer.h"

/* A part of a text that a template's field stands for, in bytes. */
typedef struct ia3_field {
    uint32_t begin, end;
} ia3_field;

typedef struct ia3_input {
    const char *text; /* [len], not zero-terminated */
    uint32_t len;
    /* without fields: the end of the text before `tail` may be cut off, what follows may not */
    uint32_t tail;
    /* with fields: only they may be shortened. In the order of the text, without overlaps; may be empty. */
    uint32_t n_fields;
    const ia3_field *fields;
} ia3_input;

/*
 * Encodes an input as at most max_tokens tokens, including those around the text; ids are malloc'd [n]. One that fits gives the tokens of
 * its text, whatever its fields are. Of a longer one *truncated says that something was cut:
 *
 * - Without fields, tokens before the tail are dropped as ia3_tokenizer_encode_input says.
 * - With fields, the longest one, counted in tokens, is cut at its end, between tokens, and the resulting text encoded
 *   anew. If it would become shorter than the next longest, both are shortened, then the third, and so on, so that all
 *   shortened fields have equally many tokens, or one more in the first ones of them. If the rest of the text does not
 *   fit without the fields, the error is IA3_E_TOO_LONG.
 *
 * A text of megabytes is first shortened, in the same manner, to the part that can matter, so that a single document
 * does not keep the caller busy for seconds.
 */
bool ia3_input_encode(const ia3_tokenizer *tok, const ia3_input *input, uint32_t max_tokens, int32_t **ids,
                      int *n, bool *truncated, ia3_error *err);

#endif
