/*
 * unknown_runs.cc
 *     Finds runs of characters that are no pieces, and removes what is one unknown token for certain.
 *
 * A character that is no piece need not be unknown: it may be part of longer pieces, and the normalizer may replace it, alone
 * or together with its neighbours, by others. So a run is tried in overlapping windows. What lies in consecutive windows
 * that are each one unknown token is one unknown token, since pieces and what the normalizer replaces have no more
 * characters than windows overlap.
 */
#include "unknown_runs.h"

#include "engine/base/utf8.h"
#include "unicode.h"

namespace {

/* In characters. */
constexpr size_t window = 64, overlap = 16, step = window - overlap;
constexpr size_t long_run = 4 * window;

/* A text that is being copied with gaps. */
struct shortening {
    const char *text;
    const std::function<bool(const char *, size_t)> &is_unknown;
    std::vector<ia3_removed> *removed;
    std::string out;
    size_t copied = 0; /* bytes of the text that were copied or removed */

    void
    copy_to(size_t end)
    {
        out.append(text + copied, end - copied);
        copied = end;
    }

    /* Windows first to last, at most as many as overlap in pairs, are unknown: removes what is between these two. */
    void
    remove_between(const std::vector<size_t> &starts, size_t first, size_t last)
    {
        size_t begin = starts[first * step], from = starts[first * step + window], to = starts[last * step];
        std::string both(text + begin, from - begin);

        both.append(text + to, starts[last * step + window] - to);
        if (to <= from || !is_unknown(both.data(), both.size()))
            return; /* the ends of the windows would become something else together */
        copy_to(from);
        removed->push_back({out.size(), to - from});
        copied = to;
    }

    /* starts: where the characters of the run begin, and where it ends. */
    void
    shorten_run(const std::vector<size_t> &starts)
    {
        size_t windows = (starts.size() - 1 - window) / step + 1, first = 0;

        for (size_t w = 0; w <= windows; w++) {
            bool unknown = w < windows &&
                           is_unknown(text + starts[w * step], starts[w * step + window] - starts[w * step]);

            if (unknown)
                continue;
            if (w >= first + 3)
                remove_between(starts, first, w - 1);
            first = w + 1;
        }
    }
};

} // namespace

void
ia3_known_characters::add(const std::string &piece)
{
    const auto *p = reinterpret_cast<const uint8_t *>(piece.data());
    size_t at = 0;

    if (!piece.empty() && ia3_utf8_length(p, piece.size()) == piece.size())
        known[ia3_next_character(piece.data(), &at)] = true;
}

std::string
ia3_shorten_unknown_runs(const char *text, size_t len, const ia3_known_characters &known,
                         const std::function<bool(const char *, size_t)> &is_unknown,
                         std::vector<ia3_removed> *removed)
{
    shortening s{text, is_unknown, removed, {}};
    std::vector<size_t> starts;

    for (size_t at = 0; at <= len;) {
        size_t begin = at;
        bool in_run = at < len;

        if (in_run) {
            uint32_t c = ia3_next_character(text, &at);

            in_run = c > ' ' && !known.contains(c);
        } else
            at++;
        if (in_run) {
            starts.push_back(begin);
            continue;
        }
        if (starts.size() >= long_run) {
            starts.push_back(begin);
            s.shorten_run(starts);
        }
        starts.clear();
    }
    s.copy_to(len);
    return s.out;
}
