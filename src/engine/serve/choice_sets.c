/*
 * choice_sets.c
 *     Tokenizes choices, explains what is wrong with invalid sets, and caches sets.
 */
#include "choice_sets.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/alloc.h"

#define MAX_CHOICE_BYTES (64u << 10) /* longer choices are not even tokenized */
#define MAX_CACHED       1024        /* limited, because the search is linear */

struct ia3_choice_sets {
    const ia3_tokenizer *tok;
    int32_t start_id;
    size_t max_bytes, bytes; /* limit and size of the cached sets */
    int count;
    ia3_choice_set *newest, *oldest;
};

/* Quotes a choice for a message; at most 60 bytes of it, truncated between characters. */
static const char *
quote(ia3_span s, char buffer[80])
{
    size_t n = s.len;
    bool cut = n > 60;
    if (cut) {
        n = 60;
        while (n > 0 && ((unsigned char) s.data[n] & 0xC0) == 0x80)
            n--;
    }
    snprintf(buffer, 80, "\"%.*s%s\"", (int) n, s.data, cut ? "..." : "");
    return buffer;
}

/* Writes tokens for a message, as in "▁a <unk> </s>", truncated to `size` bytes between pieces. */
static void
spell(const ia3_tokenizer *tok, const int32_t *ids, int n, char *buffer, size_t size)
{
    size_t at = 0;
    buffer[0] = '\0';
    for (int i = 0; i < n; i++) {
        char piece[64];
        const char *p = ia3_tokenizer_piece(tok, ids[i], piece);
        size_t len = strlen(p);
        if (at + len + 5 >= size) {
            strcpy(buffer + at, " ...");
            return;
        }
        if (i > 0)
            buffer[at++] = ' ';
        memcpy(buffer + at, p, len + 1);
        at += len;
    }
}

static bool
tokenize_choice(const ia3_tokenizer *tok, ia3_span choice, int index, int32_t **ids, int *n, ia3_error *err)
{
    if (choice.len > MAX_CHOICE_BYTES) {
        ia3_fail(err, IA3_E_TOO_LONG, "choice %d is too long", index + 1);
        return ia3_fail_detail(err, "It has %u bytes.", choice.len);
    }
    if (!ia3_tokenizer_encode_target(tok, choice.data, choice.len, ids, n, err)) {
        if (err->detail[0] == '\0')
            ia3_fail_detail(err, "The error is in choice %d.", index + 1);
        return false;
    }
    if (*n > IA3_MAX_CHOICE_TOKENS) {
        ia3_fail(err, IA3_E_TOO_LONG, "choice %d is too long", index + 1);
        return ia3_fail_detail(err, "It has %d tokens, but the limit is %d.", *n, IA3_MAX_CHOICE_TOKENS);
    }
    return true;
}

/* Tokenizes target i of a multi-label set: the answer to one of its choices. */
static bool
tokenize_answer(const ia3_tokenizer *tok, const ia3_span *choices, int i, int32_t **ids, int *n,
                ia3_error *err)
{
    const ia3_span *choice = &choices[i / 2];
    if (choice->len > MAX_CHOICE_BYTES)
        return tokenize_choice(tok, *choice, i / 2, ids, n, err);
    char *text = ia3_alloc(choice->len + sizeof " " IA3_ANSWER_YES);
    memcpy(text, choice->data, choice->len);
    strcpy(text + choice->len, i % 2 == 0 ? " " IA3_ANSWER_YES : " " IA3_ANSWER_NO);
    bool ok = tokenize_choice(tok, (ia3_span){text, (uint32_t) strlen(text)}, i / 2, ids, n, err);
    free(text);
    return ok;
}

static void
name_culprits(const ia3_tokenizer *tok, const ia3_span *choices, const int32_t *ids, int n, int a, int b,
              ia3_error *err)
{
    char qa[80], qb[80];
    memset(err, 0, sizeof *err);
    if (b < 0) {
        ia3_fail(err, IA3_E_CHOICES, "choice %d is empty", a + 1);
        if (choices[a].len > 0)
            ia3_fail_detail(err, "The tokenizer produces no tokens for %s.", quote(choices[a], qa));
        return;
    }
    if (choices[a].len == choices[b].len && memcmp(choices[a].data, choices[b].data, choices[a].len) == 0) {
        ia3_fail(err, IA3_E_CHOICES, "choice %s is given twice", quote(choices[a], qa));
        ia3_fail_detail(err, "It is both choice %d and choice %d.", a + 1, b + 1);
        return;
    }
    ia3_fail(err, IA3_E_CHOICES, "choices %s and %s are indistinguishable", quote(choices[a], qa),
             quote(choices[b], qb));
    char pieces[400];
    spell(tok, ids, n, pieces, sizeof pieces);
    ia3_fail_detail(err, "Both are tokenized to %s.", pieces);
}

/* What is wrong with a multi-label set whose targets a and b have the same tokens. */
static void
name_same_answers(const ia3_tokenizer *tok, const ia3_span *choices, int32_t **ids, const int *lens, int a,
                  int b, ia3_error *err)
{
    if (a / 2 != b / 2) {
        name_culprits(tok, choices, ids[a], lens[a], a / 2, b / 2, err);
        return;
    }
    memset(err, 0, sizeof *err);
    ia3_fail(err, IA3_E_CHOICES, "the answers \"%s\" and \"%s\" are indistinguishable", IA3_ANSWER_YES,
             IA3_ANSWER_NO);
    ia3_fail_detail(err, "The backbone's tokenizer has no pieces for them.");
}

/* Builds the trie of a multi-label set of n / 2 choices. */
static ia3_choices *
build_answers(const ia3_tokenizer *tok, int32_t start_id, const ia3_span *choices, int n, int32_t **ids,
              const int *lens, ia3_error *err)
{
    int a = -1, b = -1, empty;
    ia3_choices *c = ia3_choices_create((const int32_t *const *) ids, lens, n, start_id, &a, &b, err);
    if (c == NULL && b >= 0)
        name_same_answers(tok, choices, ids, lens, a, b, err);
    if (c == NULL || (empty = ia3_choices_contrast(c)) < 0)
        return c;
    name_culprits(tok, choices, ids[2 * empty], lens[2 * empty], empty, -1, err);
    ia3_choices_free(c);
    return NULL;
}

static ia3_choices *
build_trie(const ia3_tokenizer *tok, int32_t start_id, const ia3_span *choices, int n, int32_t **ids,
           const int *lens, ia3_error *err)
{
    if (n == 0) {
        ia3_fail(err, IA3_E_CHOICES, "there are no choices");
        return NULL;
    }
    int a = -1, b = -1;
    ia3_choices *c = ia3_choices_create((const int32_t *const *) ids, lens, n, start_id, &a, &b, err);
    if (c == NULL && a >= 0)
        name_culprits(tok, choices, ids[a], lens[a], a, b, err);
    return c;
}

static void
free_ids(int32_t **ids, uint32_t n)
{
    for (uint32_t i = 0; ids && i < n; i++)
        free(ids[i]);
    free(ids);
}

ia3_choices *
ia3_choices_tokenize(const ia3_tokenizer *tok, int32_t start_id, const ia3_span *choices, int n,
                     ia3_error *err)
{
    int32_t **ids = ia3_alloc_array((size_t) (n ? n : 1), sizeof *ids);
    int *lens = ia3_alloc_array((size_t) (n ? n : 1), sizeof *lens);
    ia3_choices *c = NULL;
    bool ok = true;
    for (int i = 0; i < n && ok; i++)
        ok = tokenize_choice(tok, choices[i], i, &ids[i], &lens[i], err);
    if (ok)
        c = build_trie(tok, start_id, choices, n, ids, lens, err);
    free_ids(ids, (uint32_t) n);
    free(lens);
    return c;
}

/* FNV-1a */
static uint64_t
hash_bytes(const uint8_t *p, size_t n)
{
    uint64_t h = 0xcbf29ce484222325u;
    for (size_t i = 0; i < n; i++)
        h = (h ^ p[i]) * 0x100000001b3u;
    return h;
}

static void
free_set(ia3_choice_set *s)
{
    if (s->choices)
        ia3_choices_free(s->choices);
    free_ids(s->ids, s->n);
    free(s->lens);
    free(s->key);
    free(s);
}

static void
unlink_set(ia3_choice_sets *c, ia3_choice_set *s)
{
    *(s->newer ? &s->newer->older : &c->newest) = s->older;
    *(s->older ? &s->older->newer : &c->oldest) = s->newer;
    s->newer = s->older = NULL;
    s->cached = false;
    c->bytes -= s->bytes;
    c->count--;
}

static void
link_newest(ia3_choice_sets *c, ia3_choice_set *s)
{
    s->older = c->newest;
    s->newer = NULL;
    *(c->newest ? &c->newest->newer : &c->oldest) = s;
    c->newest = s;
    s->cached = true;
    c->bytes += s->bytes;
    c->count++;
}

ia3_choice_sets *
ia3_choice_sets_create(const ia3_tokenizer *tok, int32_t start_id, size_t max_bytes)
{
    ia3_choice_sets *c = ia3_alloc(sizeof *c);
    c->tok = tok;
    c->start_id = start_id;
    c->max_bytes = max_bytes;
    return c;
}

void
ia3_choice_sets_free(ia3_choice_sets *c)
{
    if (c == NULL)
        return;
    while (c->oldest) {
        ia3_choice_set *s = c->oldest;
        unlink_set(c, s);
        free_set(s);
    }
    free(c);
}

ia3_choice_set *
ia3_choice_sets_get(ia3_choice_sets *c, const ia3_wire_set *set)
{
    uint64_t hash = hash_bytes(set->raw, set->raw_len);
    for (ia3_choice_set *s = c->newest; s; s = s->older)
        if (s->hash == hash && s->key_len == set->raw_len && memcmp(s->key, set->raw, set->raw_len) == 0) {
            s->refs++;
            unlink_set(c, s);
            link_newest(c, s);
            return s;
        }
    ia3_choice_set *s = ia3_alloc(sizeof *s);
    s->refs = 1;
    s->hash = hash;
    s->key_len = set->raw_len;
    s->key = ia3_alloc_array(set->raw_len, 1);
    memcpy(s->key, set->raw, set->raw_len);
    s->multi_label = set->multi_label;
    s->n = set->multi_label ? 2 * set->n : set->n;
    s->ids = ia3_alloc_array(s->n ? s->n : 1, sizeof *s->ids);
    s->lens = ia3_alloc_array(s->n ? s->n : 1, sizeof *s->lens);
    return s;
}

/* Adds a set to the cache, evicting unused sets if necessary, the least recently used first. */
static void
enter_cache(ia3_choice_sets *c, ia3_choice_set *s)
{
    link_newest(c, s);
    ia3_choice_set *newer;
    for (ia3_choice_set *e = c->oldest; e && (c->bytes > c->max_bytes || c->count > MAX_CACHED); e = newer) {
        newer = e->newer;
        if (e == s)
            break;
        unlink_set(c, e);
        if (e->refs == 0)
            free_set(e);
    }
}

bool
ia3_choice_set_build(ia3_choice_sets *c, ia3_choice_set *s, const ia3_span *choices)
{
    if (s->ids == NULL) /* it is already built */
        return true;
    if (s->n_done < s->n) {
        uint32_t i = s->n_done++;
        bool ok = s->multi_label
                      ? tokenize_answer(c->tok, choices, (int) i, &s->ids[i], &s->lens[i], &s->error)
                      : tokenize_choice(c->tok, choices[i], (int) i, &s->ids[i], &s->lens[i], &s->error);
        if (ok && s->n_done < s->n)
            return false;
    }
    if (s->error.code == 0 && s->multi_label && s->n > 0)
        s->choices = build_answers(c->tok, c->start_id, choices, (int) s->n, s->ids, s->lens, &s->error);
    else if (s->error.code == 0)
        s->choices = build_trie(c->tok, c->start_id, choices, (int) s->n, s->ids, s->lens, &s->error);
    s->bytes = sizeof *s + s->key_len;
    for (uint32_t i = 0; i < s->n_done; i++) /* ids, trie rows and pairs: about seven numbers per token */
        s->bytes += 32 + (size_t) s->lens[i] * 7 * sizeof(int32_t);
    free_ids(s->ids, s->n);
    s->ids = NULL;
    free(s->lens);
    s->lens = NULL;
    if (s->bytes <= c->max_bytes / 4)
        enter_cache(c, s);
    return true;
}

void
ia3_choice_set_release(ia3_choice_sets *c, ia3_choice_set *s)
{
    (void) c;
    if (--s->refs == 0 && !s->cached)
        free_set(s);
}
