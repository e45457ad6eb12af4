/*
 * bpe_model.cc
 *     GPT-2's tokenizer: text is divided into words with a regular expression, and pairs of pieces within a word, at first
 *     single bytes, are merged in the order that the model gives.
 */
#include "bpe_model.h"

#include <cstdio>
#include <new>
#include <queue>
#include <unordered_map>
#include <utility>

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "unicode.h"

namespace {

/* GPT-2's expression. PCRE2's \s lacks U+0085, which Unicode calls white space. */
const char *const words = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\x{85}\\p{L}\\p{N}]+|"
                          "[\\s\\x{85}]+(?![^\\s\\x{85}])|[\\s\\x{85}]+";

using code = std::unique_ptr<pcre2_code, void (*)(pcre2_code *)>;
using match_data = std::unique_ptr<pcre2_match_data, void (*)(pcre2_match_data *)>;

const pcre2_code *
word_expression()
{
    static const code compiled(
        [] {
            int error;
            PCRE2_SIZE at;
            pcre2_code *c =
                pcre2_compile(reinterpret_cast<PCRE2_SPTR>(words), PCRE2_ZERO_TERMINATED,
                              PCRE2_UTF | PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C, &error, &at, nullptr);

            if (c == nullptr)
                throw std::bad_alloc();
            pcre2_jit_compile(c, PCRE2_JIT_COMPLETE); /* where it fails, matching only takes longer */
            return c;
        }(),
        pcre2_code_free);

    return compiled.get();
}

/* The byte that each character of GPT-2's alphabet stands for: printable characters of Latin-1 for themselves, U+0100 and
 * the following for the others, in order. */
class alphabet {
  public:
    alphabet()
    {
        uint32_t other = 0x100;

        for (uint32_t byte = 0; byte < 256; byte++) {
            bool printable = (byte > 0x20 && byte < 0x7f) || (byte > 0xa0 && byte != 0xad);

            bytes[printable ? byte : other++] = static_cast<uint8_t>(byte);
        }
    }

    /* The bytes of a piece; false if it has a character that stands for none. */
    bool
    decode(const std::string &piece, std::string *out) const
    {
        out->clear();
        for (size_t at = 0; at < piece.size();) {
            auto byte = bytes.find(ia3_next_character(piece.data(), &at));

            if (byte == bytes.end())
                return false;
            out->push_back(static_cast<char>(byte->second));
        }
        return true;
    }

  private:
    std::unordered_map<uint32_t, uint8_t> bytes;
};

struct merge {
    int rank, id;
};

/* A piece of a word that is being merged; `len` is 0 once it is part of the one before it. */
struct symbol {
    int id;
    uint32_t begin, len;
    int previous, next;
};

/* Two neighbours that can be merged. */
struct candidate {
    int rank, left, id;
    uint32_t len; /* of both together, when they were found */

    bool
    operator<(const candidate &other) const /* for a queue whose greatest is next */
    {
        return rank != other.rank ? rank > other.rank : left > other.left;
    }
};

class bpe_model : public ia3_token_model {
  public:
    bool load(const ia3_bpe &bpe, const char *path, int vocab_size, ia3_error *err);
    bool encode(const char *text, size_t len, std::vector<ia3_token> *out, ia3_error *err) const override;
    bool decode(const std::vector<int> &ids, bool first, std::string *out, ia3_error *err) const override;

    const char *
    piece(int id, char buffer[64]) const override
    {
        if (!names[static_cast<size_t>(id)].empty())
            return names[static_cast<size_t>(id)].c_str();
        snprintf(buffer, 64, "<unused_%d>", id);
        return buffer;
    }

    int
    lookup(const std::string &piece) const override
    {
        auto found = ids.find(piece);

        return found == ids.end() ? -1 : found->second;
    }

  private:
    bool add_merges(const ia3_bpe &bpe, const char *path, ia3_error *err);
    void encode_word(const std::string &text, size_t begin, size_t end, std::vector<ia3_token> *out) const;
    void find_candidate(const std::vector<symbol> &symbols, int left,
                        std::priority_queue<candidate> *queue) const;

    std::vector<std::string> names, bytes; /* by id */
    std::unordered_map<std::string, int> ids;
    std::unordered_map<std::string, int> words_by_bytes; /* filled if whole words need no merges */
    std::unordered_map<uint64_t, merge> merges;          /* by the ids of both pieces */
    std::vector<bool> control;
    int byte_ids[256];
    bool prefix_space = false, ignore_merges = false;
};

uint64_t
pair_key(int left, int right)
{
    return static_cast<uint64_t>(left) << 32 | static_cast<uint32_t>(right);
}

bool
bpe_model::load(const ia3_bpe &bpe, const char *path, int vocab_size, ia3_error *err)
{
    static const alphabet known;

    for (const auto &entry : bpe.vocab) {
        if (entry.second < 0 || entry.second >= vocab_size)
            return ia3_fail(err, IA3_E_BAD_CHECKPOINT,
                            "%.300s: the token \"%.100s\" has the id %d, but \"vocab_size\" is %d", path,
                            entry.first.c_str(), entry.second, vocab_size);
        if (entry.second >= size)
            size = entry.second + 1;
    }
    names.resize(static_cast<size_t>(size));
    bytes.resize(static_cast<size_t>(size));
    control.resize(static_cast<size_t>(size));
    for (int &id : byte_ids)
        id = -1;
    for (const auto &entry : bpe.vocab) {
        const auto id = static_cast<size_t>(entry.second);
        std::string *b = &bytes[id];

        if (entry.first.empty() || !names[id].empty())
            return ia3_fail(err, IA3_E_BAD_CHECKPOINT, "%.300s: two tokens have the id %d, or one is empty",
                            path, entry.second);
        names[id] = entry.first;
        ids[entry.first] = entry.second;
        control[id] = bpe.controls.count(entry.first) > 0;
        if (control[id] || !known.decode(entry.first, b))
            b->clear();
        else if (b->size() == 1)
            byte_ids[static_cast<uint8_t>((*b)[0])] = entry.second;
        if (bpe.ignore_merges && !b->empty())
            words_by_bytes[*b] = entry.second;
    }
    unk = bpe.unk.empty() ? -1 : lookup(bpe.unk);
    eos = bpe.eos.empty() ? -1 : lookup(bpe.eos);
    prefix_space = bpe.add_prefix_space;
    ignore_merges = bpe.ignore_merges;
    return add_merges(bpe, path, err);
}

bool
bpe_model::add_merges(const ia3_bpe &bpe, const char *path, ia3_error *err)
{
    int rank = 0;

    merges.reserve(bpe.merges.size());
    for (const auto &pair : bpe.merges) {
        int left = lookup(pair.first), right = lookup(pair.second), id = lookup(pair.first + pair.second);

        if (left < 0 || right < 0 || id < 0)
            return ia3_fail(
                err, IA3_E_BAD_CHECKPOINT,
                "%.300s: merge %d (\"%.60s\" and \"%.60s\") has a piece that is not in the vocabulary", path,
                rank + 1, pair.first.c_str(), pair.second.c_str());
        merges[pair_key(left, right)] = {rank++, id};
    }
    return true;
}

void
bpe_model::find_candidate(const std::vector<symbol> &symbols, int left,
                          std::priority_queue<candidate> *queue) const
{
    const symbol &a = symbols[static_cast<size_t>(left)];

    if (a.next < 0)
        return;

    const symbol &b = symbols[static_cast<size_t>(a.next)];

    if (a.id < 0 || b.id < 0)
        return;

    auto found = merges.find(pair_key(a.id, b.id));

    if (found != merges.end())
        queue->push({found->second.rank, left, found->second.id, a.len + b.len});
}

void
bpe_model::encode_word(const std::string &text, size_t begin, size_t end, std::vector<ia3_token> *out) const
{
    if (ignore_merges) {
        auto whole = words_by_bytes.find(text.substr(begin, end - begin));

        if (whole != words_by_bytes.end()) {
            out->push_back({whole->second, static_cast<uint32_t>(begin), static_cast<uint32_t>(end)});
            return;
        }
    }

    const int n = static_cast<int>(end - begin);
    std::vector<symbol> symbols;
    std::priority_queue<candidate> queue;

    for (int i = 0; i < n; i++)
        symbols.push_back({byte_ids[static_cast<uint8_t>(text[begin + static_cast<size_t>(i)])],
                           static_cast<uint32_t>(begin) + static_cast<uint32_t>(i), 1, i - 1,
                           i + 1 < n ? i + 1 : -1});
    for (int i = 0; i < n; i++)
        find_candidate(symbols, i, &queue);
    while (!queue.empty()) {
        const candidate c = queue.top();
        symbol &left = symbols[static_cast<size_t>(c.left)];

        queue.pop();
        if (left.len == 0 || left.next < 0)
            continue;

        symbol &right = symbols[static_cast<size_t>(left.next)];
        auto found = left.id < 0 || right.id < 0 ? merges.end() : merges.find(pair_key(left.id, right.id));

        if (found == merges.end() || found->second.id != c.id || left.len + right.len != c.len)
            continue; /* one of them has been merged since */
        left.id = c.id;
        left.len += right.len;
        right.len = 0;
        left.next = right.next;
        if (left.next >= 0)
            symbols[static_cast<size_t>(left.next)].previous = c.left;
        find_candidate(symbols, c.left, &queue);
        if (left.previous >= 0)
            find_candidate(symbols, left.previous, &queue);
    }
    for (const symbol &s : symbols) {
        int id = s.id >= 0 ? s.id : unk;

        if (s.len > 0 && id >= 0)
            out->push_back({id, s.begin, s.begin + s.len});
    }
}

bool
bpe_model::encode(const char *text, size_t len, std::vector<ia3_token> *out, ia3_error *err) const
{
    const pcre2_code *expression = word_expression();
    match_data data(pcre2_match_data_create(1, nullptr), pcre2_match_data_free);
    const uint32_t shift = prefix_space && len > 0 && text[0] != ' ';
    std::string whole(shift, ' ');
    size_t first = out->size();

    if (!data)
        throw std::bad_alloc();
    whole.append(text, len);
    for (size_t at = 0; at < whole.size();) {
        int n = pcre2_match(expression, reinterpret_cast<PCRE2_SPTR>(whole.data()), whole.size(), at,
                            PCRE2_NO_UTF_CHECK, data.get(), nullptr);
        const PCRE2_SIZE *match = pcre2_get_ovector_pointer(data.get());

        if (n < 0 || match[0] != at || match[1] <= at)
            return ia3_fail(err, IA3_E_INTERNAL, "could not divide the text into words at byte %zu: error %d",
                            at, n);
        at = match[1];
        encode_word(whole, match[0], match[1], out);
    }
    for (size_t i = first; i < out->size(); i++) {
        (*out)[i].begin -= (*out)[i].begin > 0 ? shift : 0;
        (*out)[i].end -= shift;
    }
    return true;
}

bool
bpe_model::decode(const std::vector<int> &tokens, bool, std::string *out, ia3_error *) const
{
    for (int id : tokens) {
        const auto i = static_cast<size_t>(id);

        if (!control[i])
            out->append(bytes[i].empty() ? names[i] : bytes[i]);
    }
    return true;
}

} // namespace

std::unique_ptr<ia3_token_model>
ia3_bpe_model(const ia3_bpe &bpe, const char *path, int vocab_size, ia3_error *err)
{
    auto model = std::make_unique<bpe_model>();

    if (!model->load(bpe, path, vocab_size, err))
        return nullptr;
    return model;
}
