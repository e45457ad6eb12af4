/*
 * unknown_runs.h
 *     Shortens long runs of characters that a tokenizer does not know, without changing the tokens. C++ only.
 *
 * SentencePiece turns a run of unknown characters into one unknown token, but takes time with the square of its length: 26
 * seconds for a megabyte.
 */
#ifndef IA3_UNKNOWN_RUNS_H
#define IA3_UNKNOWN_RUNS_H

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

/* Which characters are pieces of a vocabulary, by code point. */
class ia3_known_characters {
  public:
    ia3_known_characters() : known(0x110000)
    {
    }
    void add(const std::string &piece); /* does nothing if the piece is not a single character */
    bool
    contains(uint32_t character) const
    {
        return known[character];
    }

  private:
    std::vector<bool> known;
};

/* Bytes that were removed before byte `at` of the shortened text. */
struct ia3_removed {
    size_t at, bytes;
};

/*
 * Returns the text, valid UTF-8, without the inner part of long runs that are one unknown token, which `is_unknown` says of a
 * piece of text. Appends to *removed, in the order of `at`, what was removed; nothing, if the text is as it was.
 */
std::string ia3_shorten_unknown_runs(const char *text, size_t len, const ia3_known_characters &known,
                                     const std::function<bool(const char *, size_t)> &is_unknown,
                                     std::vector<ia3_removed> *removed);

#endif
