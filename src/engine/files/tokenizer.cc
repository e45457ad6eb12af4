/*
 * tokenizer.cc
 *     Encodes and decodes text with SentencePiece.
 *
 * Two things happen to a model file before SentencePiece reads it. Pieces named <extra_id_N> become control pieces, so
 * that text never produces them (the models of mT5 and UMT5 list them as ordinary pieces). And the tables of its
 * normalizer are checked, because SentencePiece follows offsets in them without checking their size.
 *
 * No exception leaves this file: every function that is called from C catches them.
 */
#include "tokenizer.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <memory>
#include <string>
#include <vector>

#include <jansson.h>
#include <sentencepiece_processor.h>
#include <unistd.h>

#include "engine/base/alloc.h"
#include "engine/base/utf8.h"
#include "json_file.h"
#include "read_file.h"
#include "unknown_runs.h"

struct ia3_tokenizer {
    sentencepiece::SentencePieceProcessor sp;
    ia3_known_characters known;
    int pieces = 0;
    int extra_ids = 0;
    int unk = 0, eos = 0;
};

namespace {

constexpr size_t max_model = size_t(256) << 20;
constexpr size_t max_tokenizer_config = size_t(16) << 20;
constexpr int default_extra_ids = 100; /* the default of transformers' T5Tokenizer */

struct token {
    int32_t id;
    uint32_t begin, end; /* byte offsets in the text */
};

bool
read_file(const char *path, size_t max, std::string *out, ia3_error *err)
{
    size_t len = 0;
    std::unique_ptr<char, void (*)(void *)> text(ia3_read_file(path, max, &len, err), free);

    if (text)
        out->assign(text.get(), len);
    return text != nullptr;
}

/* Decodes just enough of protobuf to find the fields of a message. */
struct proto_reader {
    const uint8_t *p, *end;
    uint32_t field = 0, wire = 0;
    const uint8_t *start = nullptr; /* of the field, including its tag */
    const uint8_t *bytes = nullptr; /* payload of a length-delimited field */
    size_t len = 0;
    uint64_t value = 0; /* of a varint */

    proto_reader(const void *data, size_t n) : p(static_cast<const uint8_t *>(data)), end(p + n)
    {
    }

    bool
    varint(uint64_t *v)
    {
        *v = 0;
        for (int shift = 0; shift < 64 && p < end; shift += 7) {
            *v |= static_cast<uint64_t>(*p & 0x7f) << shift;
            if ((*p++ & 0x80) == 0)
                return true;
        }
        return false;
    }

    bool
    skip(uint64_t n)
    {
        if (n > static_cast<uint64_t>(end - p))
            return false;
        p += n;
        return true;
    }

    /* Reads the next field; false at the end (p == end) or where the encoding is invalid (p != end). */
    bool
    next()
    {
        uint64_t tag, n;

        start = p;
        if (p == end || !varint(&tag) || tag > UINT32_MAX)
            return false;
        field = static_cast<uint32_t>(tag >> 3);
        wire = tag & 7;
        if (wire == 0)
            return varint(&value);
        if (wire == 1 || wire == 5)
            return skip(wire == 1 ? 8 : 4);
        if (wire != 2 || !varint(&n))
            return false;
        bytes = p;
        len = static_cast<size_t>(n);
        return skip(n);
    }
};

void
put_varint(std::string *out, uint64_t v)
{
    for (; v >= 0x80; v >>= 7)
        out->push_back(static_cast<char>(v | 0x80));
    out->push_back(static_cast<char>(v));
}

/* Whether this is "<extra_id_N>", with or without the mark for the beginning of a word. */
bool
is_extra_id(const std::string &piece)
{
    static const std::string space = "\xe2\x96\x81", head = "<extra_id_";
    size_t at = piece.compare(0, space.size(), space) == 0 ? space.size() : 0;

    if (piece.compare(at, head.size(), head) != 0)
        return false;
    at += head.size();

    size_t digits = piece.find_first_not_of("0123456789", at);

    return digits != std::string::npos && digits > at && digits + 1 == piece.size() && piece[digits] == '>';
}

/*
 * The normalizer's table consists of a u32 n, n bytes of a double-array trie (32-bit units), and the replacements as
 * zero-terminated strings. This checks every unit that a text can reach in the trie. (In Darts, a unit's children are
 * at base ^ byte, where base = position ^ offset; a leaf's value, an offset in the replacements, is at base.)
 */
bool
check_charsmap(const uint8_t *data, size_t len)
{
    uint32_t trie_bytes;

    if (len == 0)
        return true; /* no normalization */
    if (len <= sizeof trie_bytes)
        return false;
    memcpy(&trie_bytes, data, sizeof trie_bytes);
    if (trie_bytes >= len - sizeof trie_bytes || trie_bytes % 4 != 0 || trie_bytes == 0)
        return false;

    const size_t n = trie_bytes / 4, replacements = len - sizeof trie_bytes - trie_bytes;
    std::vector<uint32_t> units(n);
    std::vector<bool> seen(n);
    std::vector<size_t> todo{0};

    memcpy(units.data(), data + sizeof trie_bytes, trie_bytes);
    seen[0] = true;
    while (!todo.empty()) {
        size_t at = todo.back();
        uint32_t unit = units[at];
        size_t base = at ^ static_cast<size_t>((unit >> 10) << ((unit & (1u << 9)) >> 6));

        todo.pop_back();
        if ((base | 255) >= n)
            return false;
        if (at != 0 && (unit >> 8 & 1) != 0 && (units[base] & 0x7fffffffu) >= replacements)
            return false;
        for (uint32_t byte = 1; byte < 256; byte++) {
            size_t child = base ^ byte;

            if ((units[child] & (1u << 31 | 0xff)) == byte && !seen[child]) {
                seen[child] = true;
                todo.push_back(child);
            }
        }
    }
    return true;
}

bool
check_normalizer(const uint8_t *data, size_t len)
{
    proto_reader spec(data, len);

    while (spec.next())
        if (spec.field == 2 && spec.wire == 2 && !check_charsmap(spec.bytes, spec.len))
            return false;
    return spec.p == spec.end;
}

/*
 * Makes <extra_id_N> control pieces and checks the normalizers. In ModelProto field 1 is a piece {1 piece, 2 score, 3
 * type}; 3 and 5 are the normalizers. In protobuf a later value of a field replaces an earlier one, so the new type is
 * simply appended to the piece.
 */
bool
prepare_model(const std::string &model, std::string *out, bool *has_extra_ids, const char *path,
              ia3_error *err)
{
    proto_reader top(model.data(), model.size());

    *has_extra_ids = false;
    while (top.next()) {
        if ((top.field == 3 || top.field == 5) && top.wire == 2 && !check_normalizer(top.bytes, top.len))
            return ia3_fail(err, IA3_E_BAD_CHECKPOINT,
                            "%.300s: the normalizer's \"precompiled_charsmap\" is corrupted", path);

        std::string name;

        if (top.field == 1 && top.wire == 2) {
            proto_reader piece(top.bytes, top.len);

            while (piece.next())
                if (piece.field == 1 && piece.wire == 2)
                    name.assign(reinterpret_cast<const char *>(piece.bytes), piece.len);
        }
        if (!is_extra_id(name)) {
            out->append(reinterpret_cast<const char *>(top.start), static_cast<size_t>(top.p - top.start));
            continue;
        }
        *has_extra_ids = true;
        out->push_back(0x0a);
        put_varint(out, top.len + 2);
        out->append(reinterpret_cast<const char *>(top.bytes), top.len);
        out->append("\x18\x03"); /* type = CONTROL */
    }
    return top.p == top.end ||
           ia3_fail(err, IA3_E_BAD_CHECKPOINT, "%.300s: not a SentencePiece model (invalid after byte %zu)",
                    path, static_cast<size_t>(top.start - reinterpret_cast<const uint8_t *>(model.data())));
}

/* Reads "extra_ids" from tokenizer_config.json beside the model; `fallback` if the file or the key does not exist. */
bool
read_extra_ids(const char *model_path, int fallback, int *extra_ids, ia3_error *err)
{
    std::string path(model_path);
    size_t slash = path.rfind('/');

    path.resize(slash == std::string::npos ? 0 : slash + 1);
    path += "tokenizer_config.json";
    *extra_ids = fallback;
    if (access(path.c_str(), F_OK) != 0)
        return true;

    std::unique_ptr<json_t, void (*)(json_t *)> root(ia3_json_read(path.c_str(), max_tokenizer_config, err),
                                                     json_decref);

    if (!root)
        return false;

    json_t *v = json_object_get(root.get(), "extra_ids");

    if (v == nullptr || json_is_null(v))
        return true;
    if (!json_is_integer(v) || json_integer_value(v) < 0 || json_integer_value(v) > 100000)
        return ia3_fail(err, IA3_E_BAD_CHECKPOINT,
                        "%.300s: \"extra_ids\" is not an integer between 0 and 100000", path.c_str());
    *extra_ids = static_cast<int>(json_integer_value(v));
    return true;
}

bool
check_text(const char *text, size_t len, ia3_error *err)
{
    const uint8_t *p = reinterpret_cast<const uint8_t *>(text);

    if (len > UINT32_MAX)
        return ia3_fail(err, IA3_E_TOO_LONG, "text of %zu bytes is too long", len);
    for (size_t i = 0; i < len;) {
        size_t n = ia3_utf8_length(p + i, len - i);

        if (n == 0)
            return ia3_fail(err, IA3_E_INVALID, "text is not valid UTF-8 at byte %zu", i);
        if (p[i] == 0)
            return ia3_fail(err, IA3_E_INVALID, "text contains a zero byte at byte %zu", i);
        i += n;
    }
    return true;
}

bool
load(ia3_tokenizer *tok, const char *path, int vocab_size, ia3_error *err)
{
    std::string file, model;
    bool has_extra_ids;

    if (!read_file(path, max_model, &file, err) || !prepare_model(file, &model, &has_extra_ids, path, err))
        return false;

    const auto status = tok->sp.LoadFromSerializedProto(model);

    if (!status.ok())
        return ia3_fail(err, IA3_E_BAD_CHECKPOINT, "%.300s: not a usable SentencePiece model: %.150s", path,
                        status.ToString().c_str());
    tok->pieces = tok->sp.GetPieceSize();
    tok->unk = tok->sp.unk_id();
    tok->eos = tok->sp.eos_id();
    if (tok->pieces > vocab_size)
        return ia3_fail(err, IA3_E_BAD_CHECKPOINT,
                        "%.300s: the tokenizer has %d pieces, more than \"vocab_size\" (%d)", path,
                        tok->pieces, vocab_size);
    if (tok->unk < 0 || tok->eos < 0)
        return ia3_fail(err, IA3_E_BAD_CHECKPOINT, "%.300s: there is no token for %s", path,
                        tok->unk < 0 ? "unknown text" : "the end of a text");
    for (int i = 0; i < tok->pieces; i++)
        if (!tok->sp.IsControl(i) && !tok->sp.IsUnknown(i))
            tok->known.add(tok->sp.IdToPiece(i));
    return read_extra_ids(path, has_extra_ids ? 0 : default_extra_ids, &tok->extra_ids, err);
}

/* Whether all of a piece of text is one unknown token, apart from the space before a text. */
bool
is_unknown(const ia3_tokenizer *tok, const char *text, size_t len)
{
    sentencepiece::ImmutableSentencePieceText pieces;

    if (!tok->sp.Encode(absl::string_view(text, len), pieces.mutable_proto()).ok())
        return false;

    size_t n = pieces.pieces_size(), last = n == 0 ? 0 : n - 1;

    if (n < 1 || n > 2 || static_cast<int>(pieces.pieces(static_cast<int>(last)).id()) != tok->unk)
        return false;
    return n == 1 || pieces.pieces(0).piece() == "\xe2\x96\x81";
}

/* Replaces positions in a shortened text by those in the text itself. */
void
restore_positions(const std::vector<ia3_removed> &removed, std::vector<token> *tokens)
{
    size_t begin = 0, end = 0, before_begin = 0, before_end = 0;

    for (token &t : *tokens) {
        while (begin < removed.size() && removed[begin].at <= t.begin)
            before_begin += removed[begin++].bytes;
        while (end < removed.size() && removed[end].at < t.end)
            before_end += removed[end++].bytes;
        t.begin += static_cast<uint32_t>(before_begin);
        t.end += static_cast<uint32_t>(before_end);
    }
}

/* Encodes the text without the final </s>. */
bool
tokenize(const ia3_tokenizer *tok, const char *text, size_t len, std::vector<token> *out, ia3_error *err)
{
    if (!check_text(text, len, err))
        return false;

    std::vector<ia3_removed> removed;
    const std::string shorter = ia3_shorten_unknown_runs(
        text, len, tok->known, [tok](const char *t, size_t n) { return is_unknown(tok, t, n); }, &removed);
    sentencepiece::ImmutableSentencePieceText pieces;
    const auto status = tok->sp.Encode(absl::string_view(shorter), pieces.mutable_proto());

    if (!status.ok())
        return ia3_fail(err, IA3_E_INTERNAL, "could not tokenize the text: %.200s",
                        status.ToString().c_str());
    out->reserve(pieces.pieces_size() + 1);
    for (size_t i = 0; i < pieces.pieces_size(); i++) {
        const auto piece = pieces.pieces(static_cast<int>(i));

        out->push_back({static_cast<int32_t>(piece.id()), piece.begin(), piece.end()});
    }
    restore_positions(removed, out);
    return true;
}

void
copy_out(const std::vector<token> &tokens, int32_t **ids, uint32_t **offsets, int *n)
{
    *n = static_cast<int>(tokens.size());
    *ids = static_cast<int32_t *>(ia3_alloc_array(tokens.size(), sizeof **ids));
    if (offsets != nullptr)
        *offsets = static_cast<uint32_t *>(ia3_alloc_array(tokens.size(), sizeof **offsets));
    for (size_t i = 0; i < tokens.size(); i++) {
        (*ids)[i] = tokens[i].id;
        if (offsets != nullptr)
            (*offsets)[i] = tokens[i].begin;
    }
}

/*
 * Drops tokens from the end of the body until all fit. A token belongs to the tail if any of its bytes does:
 * SentencePiece merges a run of spaces with the token that follows, which may therefore begin in the body.
 */
bool
cut_body(std::vector<token> *tokens, size_t tail, int max_tokens, ia3_error *err)
{
    size_t room = max_tokens > 0 ? static_cast<size_t>(max_tokens) - 1 : 0; /* one is needed for </s> */
    size_t first = tokens->size();

    while (first > 0 && (*tokens)[first - 1].end > tail)
        first--;

    size_t tail_tokens = tokens->size() - first;

    if (max_tokens < 1 || tail_tokens > room) {
        ia3_fail(err, IA3_E_TOO_LONG, "input is longer than %d tokens", max_tokens);
        return ia3_fail_detail(err,
                               "The text after the last field, which is never truncated, takes %zu tokens.",
                               tail_tokens + 1);
    }
    tokens->erase(tokens->begin() + static_cast<std::ptrdiff_t>(room - tail_tokens),
                  tokens->begin() + static_cast<std::ptrdiff_t>(first));
    return true;
}

/* Replaces invalid and zero bytes, so that the result is valid UTF-8 without zero bytes. */
std::string
clean_text(const std::string &text)
{
    const uint8_t *p = reinterpret_cast<const uint8_t *>(text.data());
    std::string out;

    for (size_t i = 0; i < text.size();) {
        size_t n = ia3_utf8_length(p + i, text.size() - i);

        if (n == 0)
            out += "\xef\xbf\xbd";
        else if (p[i] != 0)
            out.append(text, i, n);
        i += n ? n : 1;
    }
    return out;
}

/* Turns the current exception into an error; called in a catch block. `what` completes "error while". */
bool
fail_exception(ia3_error *err, Ia3ErrorCode code, const char *what)
{
    try {
        throw;
    } catch (const std::bad_alloc &) {
        return ia3_fail(err, IA3_E_MEMORY, "out of memory while %s", what);
    } catch (const std::exception &e) {
        return ia3_fail(err, code, "error while %s: %.200s", what, e.what());
    } catch (...) {
        return ia3_fail(err, code, "error while %s", what);
    }
}

} // namespace

extern "C" {

ia3_tokenizer *
ia3_tokenizer_open(const char *path, int vocab_size, ia3_error *err)
{
    try {
        auto tok = std::make_unique<ia3_tokenizer>();

        return load(tok.get(), path, vocab_size, err) ? tok.release() : nullptr;
    } catch (...) {
        fail_exception(err, IA3_E_BAD_CHECKPOINT, "loading the tokenizer");
        return nullptr;
    }
}

void
ia3_tokenizer_close(ia3_tokenizer *tok)
{
    delete tok;
}

bool
ia3_tokenizer_encode(const ia3_tokenizer *tok, const char *text, size_t len, int32_t **ids,
                     uint32_t **offsets, int *n, ia3_error *err)
{
    try {
        std::vector<token> tokens;

        if (!tokenize(tok, text, len, &tokens, err))
            return false;
        tokens.push_back({tok->eos, static_cast<uint32_t>(len), static_cast<uint32_t>(len)});
        copy_out(tokens, ids, offsets, n);
        return true;
    } catch (...) {
        return fail_exception(err, IA3_E_INTERNAL, "tokenizing the text");
    }
}

bool
ia3_tokenizer_encode_input(const ia3_tokenizer *tok, const char *text, size_t len, size_t tail,
                           int max_tokens, int32_t **ids, int *n, int *n_all, ia3_error *err)
{
    try {
        std::vector<token> tokens;

        if (!tokenize(tok, text, len, &tokens, err))
            return false;
        *n_all = static_cast<int>(tokens.size()) + 1;
        if (*n_all > max_tokens && !cut_body(&tokens, tail, max_tokens, err))
            return false;
        tokens.push_back({tok->eos, 0, 0});
        copy_out(tokens, ids, nullptr, n);
        return true;
    } catch (...) {
        return fail_exception(err, IA3_E_INTERNAL, "tokenizing the text");
    }
}

bool
ia3_tokenizer_decode(const ia3_tokenizer *tok, const int32_t *ids, int n, char **text, size_t *len,
                     ia3_error *err)
{
    try {
        std::vector<int> known;
        std::string out;

        for (int i = 0; i < n; i++)
            if (ids[i] >= 0 && ids[i] < tok->pieces)
                known.push_back(ids[i]);

        const auto status = tok->sp.Decode(known, &out);

        if (!status.ok())
            return ia3_fail(err, IA3_E_INTERNAL, "could not decode the tokens: %.200s",
                            status.ToString().c_str());
        out = clean_text(out);
        *len = out.size();
        *text = static_cast<char *>(ia3_alloc_array(out.size() + 1, 1));
        memcpy(*text, out.c_str(), out.size() + 1);
        return true;
    } catch (...) {
        return fail_exception(err, IA3_E_INTERNAL, "decoding the tokens");
    }
}

/*
 * T5 numbers <extra_id_k> backwards from the end of the tokenizer: id = pieces + extra_ids - 1 - k. Rows of the
 * embedding beyond these are unused.
 */
const char *
ia3_tokenizer_piece(const ia3_tokenizer *tok, int32_t id, char buffer[64])
{
    if (id >= 0 && id < tok->pieces)
        return tok->sp.IdToPiece(id).c_str();
    if (id >= tok->pieces && id - tok->pieces < tok->extra_ids)
        snprintf(buffer, 64, "<extra_id_%d>", tok->pieces + tok->extra_ids - 1 - id);
    else
        snprintf(buffer, 64, "<unused_%d>", id);
    return buffer;
}

int
ia3_tokenizer_unk(const ia3_tokenizer *tok)
{
    return tok->unk;
}

int
ia3_tokenizer_eos(const ia3_tokenizer *tok)
{
    return tok->eos;
}

} // extern "C"
