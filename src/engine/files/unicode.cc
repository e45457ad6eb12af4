/*
 * unicode.cc
 *     Asks PCRE2 for the classes of characters.
 */
#include "unicode.h"

#include <memory>
#include <new>

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

namespace {

using code = std::unique_ptr<pcre2_code, void (*)(pcre2_code *)>;
using match_data = std::unique_ptr<pcre2_match_data, void (*)(pcre2_match_data *)>;

/* Letters, marks, digits, connectors, and the circled and squared letters, which are symbols to PCRE2. */
const char *const word_class = "[\\p{L}\\p{M}\\p{Nd}\\p{Nl}\\p{Pc}\\x{200c}\\x{200d}\\x{24b6}-\\x{24e9}"
                               "\\x{1f130}-\\x{1f149}\\x{1f150}-\\x{1f169}\\x{1f170}-\\x{1f189}]";

/* What Rust's \w is, in which the library `tokenizers` is written. */
bool
is_word(const char *character, size_t len)
{
    static const code word(
        [] {
            int error;
            PCRE2_SIZE at;

            return pcre2_compile(reinterpret_cast<PCRE2_SPTR>(word_class), PCRE2_ZERO_TERMINATED,
                                 PCRE2_UTF | PCRE2_NEVER_BACKSLASH_C, &error, &at, nullptr);
        }(),
        pcre2_code_free);

    if (!word)
        throw std::bad_alloc();

    match_data data(pcre2_match_data_create(1, nullptr), pcre2_match_data_free);

    if (!data)
        throw std::bad_alloc();
    return pcre2_match(word.get(), reinterpret_cast<PCRE2_SPTR>(character), len, 0,
                       PCRE2_ANCHORED | PCRE2_NO_UTF_CHECK, data.get(), nullptr) > 0;
}

} // namespace

uint32_t
ia3_next_character(const char *text, size_t *at)
{
    const auto *p = reinterpret_cast<const uint8_t *>(text + *at);
    size_t n = p[0] < 0x80 ? 1 : p[0] < 0xe0 ? 2 : p[0] < 0xf0 ? 3 : 4;
    uint32_t c = n == 1 ? p[0] : p[0] & (0xffu >> (n + 1));

    for (size_t i = 1; i < n; i++)
        c = c << 6 | (p[i] & 0x3fu);
    *at += n;
    return c;
}

size_t
ia3_character_before(const char *text, size_t at)
{
    do
        at--;
    while (at > 0 && (static_cast<uint8_t>(text[at]) & 0xc0) == 0x80);
    return at;
}

bool
ia3_is_space(uint32_t c)
{
    return (c >= 9 && c <= 13) || c == ' ' || c == 0x85 || c == 0xa0 || c == 0x1680 ||
           (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 || c == 0x202f || c == 0x205f ||
           c == 0x3000;
}

bool
ia3_word_at(const char *text, size_t len)
{
    size_t n = 0;

    if (len == 0)
        return false;
    ia3_next_character(text, &n);
    return is_word(text, n);
}

bool
ia3_word_before(const char *text, size_t len)
{
    if (len == 0)
        return false;

    size_t at = ia3_character_before(text, len);

    return is_word(text + at, len - at);
}

size_t
ia3_spaces_at(const char *text, size_t len)
{
    size_t at = 0;

    while (at < len) {
        size_t next = at;

        if (!ia3_is_space(ia3_next_character(text, &next)))
            break;
        at = next;
    }
    return at;
}

size_t
ia3_spaces_before(const char *text, size_t len)
{
    size_t at = len;

    while (at > 0) {
        size_t start = ia3_character_before(text, at), next = start;

        if (!ia3_is_space(ia3_next_character(text, &next)))
            break;
        at = start;
    }
    return len - at;
}
