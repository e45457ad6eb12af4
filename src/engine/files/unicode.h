/*
 * unicode.h
 *     Classes of Unicode characters that tokenizers distinguish. C++ only.
 */
#ifndef IA3_UNICODE_H
#define IA3_UNICODE_H

#include <cstddef>
#include <cstdint>

/* The character at *at of valid UTF-8, which moves behind it. */
uint32_t ia3_next_character(const char *text, size_t *at);

/* The start of the character that ends at `at` > 0 of valid UTF-8. */
size_t ia3_character_before(const char *text, size_t at);

/* Whether Unicode calls it white space. */
bool ia3_is_space(uint32_t character);

/* Whether a text begins, or ends, with a letter, digit or mark, an underscore or another connector. */
bool ia3_word_at(const char *text, size_t len);
bool ia3_word_before(const char *text, size_t len);

/* Bytes of white space at the beginning, or at the end, of a text. */
size_t ia3_spaces_at(const char *text, size_t len);
size_t ia3_spaces_before(const char *text, size_t len);

#endif
