/*
 * input.c
 *     Encodes inputs, and finds out how much of each field is kept of one that is too long.
 */
#include "input.h"

#include <stdlib.h>
#include <string.h>

#include "engine/base/alloc.h"

/*
 * Not all of a text of megabytes is tokenized to find out what is kept of it: first as much of what may be cut as has,
 * in an ordinary text, several times the tokens that are wanted. If that is not clearly too long, so that what comes
 * later could matter, four times as much, and so on up to LONG_TEXT or 64 bytes (the longest usual piece) for each
 * token. The rest could matter only in a text that is almost entirely white space.
 */
#define ORDINARY_BYTES 16 /* for each token */
#define LONGEST_PIECE  64
#define SHORT_TEXT     ((size_t) 4 << 10)
#define LONG_TEXT      ((size_t) 128 << 10)

/* How many tokens at the end of a part may be others than in the whole text, at most. */
#define MARGIN 32

/* After so many attempts the search for the right length halves its interval, instead of estimating. */
#define ESTIMATES 8

static size_t
first_limit(uint32_t max_tokens)
{
    size_t n = (size_t) max_tokens * ORDINARY_BYTES;
    return n > SHORT_TEXT ? n : SHORT_TEXT;
}

static size_t
last_limit(uint32_t max_tokens)
{
    size_t n = (size_t) max_tokens * LONGEST_PIECE;
    return n > LONG_TEXT ? n : LONG_TEXT;
}

static size_t
next_limit(size_t limit, size_t last)
{
    return limit > last / 4 ? last : 4 * limit;
}

/* The largest offset up to `at` that does not split a character. */
static size_t
character_start(const char *text, size_t at)
{
    while (at > 0 && ((unsigned char) text[at] & 0xC0) == 0x80)
        at--;
    return at;
}

static bool
encode_body(const ia3_tokenizer *tok, const ia3_input *in, uint32_t max_tokens, int32_t **ids, int *n,
            bool *truncated, ia3_error *err)
{
    size_t last = last_limit(max_tokens), tail_len = in->len - in->tail;
    int n_all;
    if (tail_len > last) {
        ia3_fail(err, IA3_E_TOO_LONG, "text of %zu bytes after the last field is too long", tail_len);
        return ia3_fail_detail(err, "It does not fit in %u tokens.", max_tokens);
    }
    for (size_t limit = first_limit(max_tokens); in->tail > limit; limit = next_limit(limit, last)) {
        size_t keep = character_start(in->text, limit);
        char *shorter = ia3_alloc_array(keep + tail_len, 1);
        memcpy(shorter, in->text, keep);
        memcpy(shorter + keep, in->text + in->tail, tail_len);
        bool ok = ia3_tokenizer_encode_input(tok, shorter, keep + tail_len, keep, (int) max_tokens, ids, n,
                                             &n_all, err);
        free(shorter);
        *truncated = true;
        if (!ok || n_all > (int) max_tokens + MARGIN || limit == last)
            return ok;
        free(*ids);
    }
    if (!ia3_tokenizer_encode_input(tok, in->text, in->len, in->tail, (int) max_tokens, ids, n, &n_all, err))
        return false;
    *truncated = n_all > (int) max_tokens;
    return true;
}

/* How much of each field is kept: `level`, and one more of the first `extra` fields that are longer. */
typedef struct share {
    uint32_t level;
    uint64_t extra;
} share;

static uint64_t
sum_up_to(const uint32_t *sizes, uint32_t n, uint32_t level)
{
    uint64_t sum = 0;
    for (uint32_t f = 0; f < n; f++)
        sum += sizes[f] < level ? sizes[f] : level;
    return sum;
}

/* Distributes a total, less than that of the sizes, such that the longest fields lose most. */
static share
distribute(const uint32_t *sizes, uint32_t n, uint64_t total)
{
    uint32_t low = 0, high = 0;
    for (uint32_t f = 0; f < n; f++)
        if (sizes[f] > high)
            high = sizes[f];
    while (low < high) {
        uint32_t middle = low + (high - low + 1) / 2;
        if (sum_up_to(sizes, n, middle) <= total)
            low = middle;
        else
            high = middle - 1;
    }
    return (share){.level = low, .extra = total - sum_up_to(sizes, n, low)};
}

/* The next field's part of the share. */
static uint32_t
take(share *s, uint32_t size)
{
    if (size <= s->level)
        return size;
    if (s->extra == 0)
        return s->level;
    s->extra--;
    return s->level + 1;
}

/* Copies the text, with only the first keep[f] bytes of each field, to `text`, and where they are to `fields`. */
static void
shorten(const ia3_input *in, const uint32_t *keep, char *text, ia3_field *fields, ia3_input *shorter)
{
    uint32_t from = 0, len = 0;
    for (uint32_t f = 0; f < in->n_fields; f++) {
        uint32_t upto = in->fields[f].begin + keep[f];
        memcpy(text + len, in->text + from, upto - from);
        len += upto - from;
        fields[f] = (ia3_field){len - keep[f], len};
        from = in->fields[f].end;
    }
    memcpy(text + len, in->text + from, in->len - from);
    len += in->len - from;
    *shorter = (ia3_input){.text = text, .len = len, .n_fields = in->n_fields, .fields = fields};
}

/* An input that has to be shortened. Arrays are [n_fields] unless they say otherwise. */
typedef struct cutting {
    const ia3_tokenizer *tok;
    const ia3_input *whole;
    ia3_input in; /* the whole, or the part of it that can matter */
    uint32_t max_tokens;
    char *text; /* that `in` points to if it is a part */
    ia3_field *fields;
    int n_tokens;             /* of all of it, with those around the text */
    uint32_t *offsets;        /* [n_tokens] where they begin */
    uint32_t *first, *tokens; /* of each field; none if it shares its only token with the field before it */
    uint64_t sum;             /* of tokens */
    uint32_t *keep;           /* bytes, in the attempt under way */
    char *attempt;            /* [in.len] its text */
    ia3_field *attempt_fields;
} cutting;

static bool
template_too_long(uint32_t max_tokens, ia3_error *err)
{
    ia3_fail(err, IA3_E_TOO_LONG, "input is longer than %u tokens", max_tokens);
    return ia3_fail_hint(err,
                         "Increase \"ia3.max_input_tokens\", use a shorter template, or, if its text may be "
                         "cut off before the last field, train with truncate => 'end'.");
}

/* Sets `in` to the whole input, or to a part in which the fields have at most `limit` bytes; returns whether to a part. */
static bool
take_part(cutting *c, size_t limit)
{
    const ia3_input *whole = c->whole;
    uint64_t sum = 0;
    c->in = *whole;
    for (uint32_t f = 0; f < whole->n_fields; f++) {
        c->tokens[f] = whole->fields[f].end - whole->fields[f].begin; /* in bytes, for the moment */
        sum += c->tokens[f];
    }
    if (sum <= limit)
        return false;
    share s = distribute(c->tokens, whole->n_fields, limit);
    for (uint32_t f = 0; f < whole->n_fields; f++) {
        uint32_t n = take(&s, c->tokens[f]);
        c->keep[f] =
            n == c->tokens[f] ? n : (uint32_t) character_start(whole->text + whole->fields[f].begin, n);
    }
    free(c->text);
    c->text = ia3_alloc_array(whole->len - sum + limit, 1);
    if (c->fields == NULL)
        c->fields = ia3_alloc_array(whole->n_fields, sizeof *c->fields);
    shorten(whole, c->keep, c->text, c->fields, &c->in);
    return true;
}

/* Counts the tokens of each field. A token that begins in one and ends behind it belongs to it. */
static void
count_tokens(cutting *c)
{
    uint32_t f = 0;
    memset(c->tokens, 0, c->in.n_fields * sizeof *c->tokens);
    c->sum = 0;
    int before, after;
    ia3_tokenizer_around(c->tok, &before, &after);
    for (uint32_t t = (uint32_t) before; t + (uint32_t) after < (uint32_t) c->n_tokens; t++) {
        uint32_t begin = c->offsets[t], end = t + 1 < (uint32_t) c->n_tokens ? c->offsets[t + 1] : c->in.len;
        while (f < c->in.n_fields &&
               (c->in.fields[f].end <= begin || c->in.fields[f].end == c->in.fields[f].begin))
            f++;
        if (f == c->in.n_fields)
            break;
        if (end <= c->in.fields[f].begin)
            continue;
        if (c->tokens[f]++ == 0)
            c->first[f] = t;
        c->sum++;
    }
}

/* The last place up to `at` where a field that begins at `begin` can be cut: tokens may begin within a character. */
static uint32_t
cut_at(const cutting *c, uint32_t at, uint32_t begin)
{
    size_t start = character_start(c->in.text, at);
    return start > begin ? (uint32_t) start : begin;
}

/* Encodes the input with `total` tokens left in its fields. */
static bool
try_total(cutting *c, uint64_t total, int32_t **ids, int *n, ia3_error *err)
{
    share s = distribute(c->tokens, c->in.n_fields, total);
    ia3_input shorter;
    for (uint32_t f = 0; f < c->in.n_fields; f++) {
        const ia3_field *field = &c->in.fields[f];
        uint32_t left = take(&s, c->tokens[f]);
        if (left == c->tokens[f])
            c->keep[f] = field->end - field->begin;
        else
            c->keep[f] =
                left == 0 ? 0 : cut_at(c, c->offsets[c->first[f] + left], field->begin) - field->begin;
    }
    shorten(&c->in, c->keep, c->attempt, c->attempt_fields, &shorter);
    return ia3_tokenizer_encode(c->tok, shorter.text, shorter.len, ids, NULL, n, err);
}

/*
 * Finds the largest number of tokens in the fields with which everything fits, or one that leaves no room. What is cut
 * off changes how the text around the cut is divided into tokens, so the number can only be estimated; one or two
 * attempts usually suffice. Sets ids.
 */
static bool
fit_tokens(cutting *c, int32_t **ids, int *n, ia3_error *err)
{
    int64_t fits = -1, too_many = (int64_t) c->sum;
    int64_t room = c->max_tokens, total = (int64_t) c->sum - (c->n_tokens - room);
    int left = 0; /* tokens of the last attempt that failed */
    if (too_many == 0)
        too_many = 1; /* all fields share tokens with the text before them, and still can be removed */
    for (int attempt = 0; too_many - fits > 1; attempt++) {
        int32_t *found;
        int n_found;
        if (attempt >= ESTIMATES)
            total = fits + (too_many - fits) / 2;
        total = total <= fits ? fits + 1 : total >= too_many ? too_many - 1 : total;
        if (!try_total(c, (uint64_t) total, &found, &n_found, err)) {
            free(*ids);
            *ids = NULL;
            return false;
        }
        if (n_found > room) {
            free(found);
            too_many = total;
            left = n_found;
        } else {
            free(*ids);
            *ids = found;
            *n = n_found;
            fits = total;
            if (n_found == room)
                break;
        }
        total += room - n_found;
    }
    if (fits >= 0)
        return true;
    template_too_long(c->max_tokens, err);
    return ia3_fail_detail(err, "The template's own text, which is not truncated, takes %d tokens.", left);
}

/* Whether what has been left out of the part cannot matter: every field that lacks something will lose more. */
static bool
part_suffices(const cutting *c)
{
    if (c->n_tokens <= (int) c->max_tokens + MARGIN)
        return false;
    int64_t total = (int64_t) c->sum - (c->n_tokens - (int64_t) c->max_tokens);
    share s = distribute(c->tokens, c->in.n_fields, total > 0 ? (uint64_t) total : 0);
    for (uint32_t f = 0; f < c->in.n_fields; f++)
        if (c->keep[f] < c->whole->fields[f].end - c->whole->fields[f].begin &&
            c->tokens[f] <= (uint64_t) s.level + MARGIN)
            return false;
    return true;
}

static bool
encode_fields(cutting *c, int32_t **ids, int *n, bool *truncated, ia3_error *err)
{
    size_t last = last_limit(c->max_tokens), rest = c->whole->len;
    for (uint32_t f = 0; f < c->whole->n_fields; f++)
        rest -= c->whole->fields[f].end - c->whole->fields[f].begin;
    if (rest > last) {
        template_too_long(c->max_tokens, err);
        return ia3_fail_detail(err, "The template's own text, which is not truncated, has %zu bytes.", rest);
    }
    for (size_t limit = first_limit(c->max_tokens);; limit = next_limit(limit, last)) {
        *truncated = take_part(c, limit);
        free(c->offsets);
        c->offsets = NULL;
        if (!ia3_tokenizer_encode(c->tok, c->in.text, c->in.len, ids, &c->offsets, &c->n_tokens, err))
            return false;
        count_tokens(c);
        if (!*truncated || limit == last || part_suffices(c))
            break;
        free(*ids);
    }
    *n = c->n_tokens;
    if ((uint32_t) *n <= c->max_tokens)
        return true;
    free(*ids);
    *ids = NULL;
    *truncated = true;
    c->attempt = ia3_alloc_array(c->in.len, 1);
    c->attempt_fields = ia3_alloc_array(c->in.n_fields, sizeof *c->attempt_fields);
    return fit_tokens(c, ids, n, err);
}

bool
ia3_input_encode(const ia3_tokenizer *tok, const ia3_input *input, uint32_t max_tokens, int32_t **ids, int *n,
                 bool *truncated, ia3_error *err)
{
    if (input->n_fields == 0)
        return encode_body(tok, input, max_tokens, ids, n, truncated, err);
    cutting c = {.tok = tok, .whole = input, .max_tokens = max_tokens};
    c.first = ia3_alloc_array(input->n_fields, sizeof *c.first);
    c.tokens = ia3_alloc_array(input->n_fields, sizeof *c.tokens);
    c.keep = ia3_alloc_array(input->n_fields, sizeof *c.keep);
    bool ok = encode_fields(&c, ids, n, truncated, err);
    free(c.text);
    free(c.fields);
    free(c.offsets);
    free(c.first);
    free(c.tokens);
    free(c.keep);
    free(c.attempt);
    free(c.attempt_fields);
    return ok;
}
