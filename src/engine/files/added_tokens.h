/*
 * added_tokens.h
 *     Tokens that were added to a tokenizer, such as "{" or "<sep>": a text is divided at them before the rest of it is
 *     tokenized. C++ only.
 */
#ifndef IA3_ADDED_TOKENS_H
#define IA3_ADDED_TOKENS_H

#include <cstddef>
#include <cstdint>
#include <string>
#include <unordered_map>
#include <vector>

/* As in tokenizer.json. */
struct ia3_added_token {
    int id;
    std::string content;
    bool single_word = false; /* only where no letter, digit or mark is beside it */
    bool lstrip = false;      /* takes the white space before it */
    bool rstrip = false;      /* takes the white space after it */
    bool normalized = true;   /* found after all those that are not */
    bool special = false;     /* not part of decoded text */
};

/* A part of a text, in bytes: an added token, or what is between them (id = -1). */
struct ia3_text_part {
    int id;
    size_t begin, end;
};

/* The tokens that are looked for in texts. */
class ia3_added_tokens {
  public:
    void add(const ia3_added_token &token);
    bool
    empty() const
    {
        return tokens.empty();
    }
    /* Divides a text, valid UTF-8, as the library `tokenizers` does: the longest token at the first place where one is. */
    std::vector<ia3_text_part> split(const char *text, size_t len) const;

  private:
    /* A trie of bytes; node 0 is its root. */
    struct trie {
        std::unordered_map<uint64_t, uint32_t> children; /* node << 8 | byte */
        std::vector<int> found{-1}; /* of each node: a token's place in `tokens`, or -1 */
        bool starts[256] = {};

        void add(const std::string &content, int token);
        /* The longest token at p; -1 if there is none. */
        int match(const char *p, size_t left, size_t *len) const;
    };

    void split_part(const trie &t, const char *text, size_t begin, size_t end,
                    std::vector<ia3_text_part> *parts) const;

    std::vector<ia3_added_token> tokens;
    trie exact, normalized;
};

#endif
