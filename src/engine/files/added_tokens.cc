/*
 * added_tokens.cc
 *     Finds added tokens in texts.
 */
#include "added_tokens.h"

#include <algorithm>

#include "unicode.h"

void
ia3_added_tokens::trie::add(const std::string &content, int token)
{
    uint32_t node = 0;

    for (char c : content) {
        auto next = children.try_emplace(static_cast<uint64_t>(node) << 8 | static_cast<uint8_t>(c),
                                         static_cast<uint32_t>(found.size()));

        if (next.second)
            found.push_back(-1);
        node = next.first->second;
    }
    found[node] = token;
    starts[static_cast<uint8_t>(content[0])] = true;
}

int
ia3_added_tokens::trie::match(const char *p, size_t left, size_t *len) const
{
    uint32_t node = 0;
    int longest = -1;

    for (size_t i = 0; i < left; i++) {
        auto next = children.find(static_cast<uint64_t>(node) << 8 | static_cast<uint8_t>(p[i]));

        if (next == children.end())
            break;
        node = next->second;
        if (found[node] >= 0) {
            longest = found[node];
            *len = i + 1;
        }
    }
    return longest;
}

void
ia3_added_tokens::add(const ia3_added_token &token)
{
    tokens.push_back(token);
    (token.normalized ? normalized : exact).add(token.content, static_cast<int>(tokens.size()) - 1);
}

void
ia3_added_tokens::split_part(const trie &t, const char *text, size_t begin, size_t end,
                             std::vector<ia3_text_part> *parts) const
{
    size_t done = begin; /* everything before it is in a part */

    for (size_t at = begin, len; at < end;) {
        int found = t.starts[static_cast<uint8_t>(text[at])] ? t.match(text + at, end - at, &len) : -1;

        if (found < 0) {
            at++;
            continue;
        }

        const ia3_added_token &token = tokens[static_cast<size_t>(found)];
        size_t from = at, to = at + len;

        at = to;
        if (token.single_word &&
            (ia3_word_before(text + begin, from - begin) || ia3_word_at(text + to, end - to)))
            continue;
        if (token.lstrip)
            from -= ia3_spaces_before(text + done, from - done);
        if (token.rstrip)
            to += ia3_spaces_at(text + to, end - to);
        if (from > done)
            parts->push_back({-1, done, from});
        parts->push_back({token.id, from, to});
        done = at = to;
    }
    if (end > done)
        parts->push_back({-1, done, end});
}

std::vector<ia3_text_part>
ia3_added_tokens::split(const char *text, size_t len) const
{
    std::vector<ia3_text_part> first, parts;

    split_part(exact, text, 0, len, &first);
    for (const ia3_text_part &part : first) {
        if (part.id >= 0)
            parts.push_back(part);
        else
            split_part(normalized, text, part.begin, part.end, &parts);
    }
    return parts;
}
