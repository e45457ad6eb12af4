/*
 * json_file.c
 *     Rewrites what Python adds to JSON before jansson parses it.
 */
#include "json_file.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/alloc.h"
#include "read_file.h"

#define SAFE_DIGITS 18 /* 64 bits hold every integer of so many digits */

/* A text that is being rewritten. */
typedef struct rewriting {
    const char *p, *end;
    char *out;
} rewriting;

static void
copy(rewriting *r, size_t n)
{
    memcpy(r->out, r->p, n);
    r->out += n;
    r->p += n;
}

static void
put(rewriting *r, const char *text)
{
    size_t n = strlen(text);

    memcpy(r->out, text, n);
    r->out += n;
}

static void
copy_string(rewriting *r)
{
    const char *q = r->p + 1;

    while (q < r->end && *q != '"')
        q += *q == '\\' && q + 1 < r->end ? 2 : 1;
    copy(r, (size_t) (q - r->p) + (q < r->end));
}

static bool
is_next(const rewriting *r, const char *word)
{
    size_t n = strlen(word);

    return (size_t) (r->end - r->p) >= n && memcmp(r->p, word, n) == 0;
}

static void
copy_number(rewriting *r)
{
    char *token = r->out;
    size_t digits = 0;
    bool whole = true;

    if (is_next(r, "-Infinity")) {
        r->p += strlen("-Infinity");
        put(r, "\"-Infinity\"");
        return;
    }
    for (; r->p < r->end && *r->p != '\0' && strchr("+-.0123456789eE", *r->p) != NULL; copy(r, 1)) {
        whole &= strchr(".eE", *r->p) == NULL;
        digits += *r->p >= '0' && *r->p <= '9';
    }
    *r->out = '\0';
    if ((!whole || digits > SAFE_DIGITS) && isinf(strtod(token, NULL))) {
        r->out = token;
        put(r, token[0] == '-' ? "\"-Infinity\"" : "\"Infinity\"");
    } else if (whole && digits > SAFE_DIGITS)
        put(r, ".0");
}

/* Returns malloc'd text [*out_len]. */
static char *
rewrite(const char *text, size_t len, size_t *out_len)
{
    char *out = ia3_alloc(2 * len + 1); /* 1e309, the shortest number that is too large, becomes "Infinity" */
    rewriting r = {text, text + len, out};

    if (is_next(&r, "\xef\xbb\xbf"))
        r.p += 3;
    while (r.p < r.end) {
        if (*r.p == '"')
            copy_string(&r);
        else if (*r.p == '-' || (*r.p >= '0' && *r.p <= '9'))
            copy_number(&r);
        else if (is_next(&r, "NaN")) {
            r.p += strlen("NaN");
            put(&r, "\"NaN\"");
        } else if (is_next(&r, "Infinity")) {
            r.p += strlen("Infinity");
            put(&r, "\"Infinity\"");
        } else
            copy(&r, 1);
    }
    *out_len = (size_t) (r.out - out);
    return out;
}

json_t *
ia3_json_parse(const char *text, size_t len, const char *path, ia3_error *err)
{
    size_t rewritten_len;
    char *rewritten = rewrite(text, len, &rewritten_len);
    json_error_t where;
    json_t *root = json_loadb(rewritten, rewritten_len, 0, &where);

    free(rewritten);
    if (root == NULL) {
        ia3_fail(err, IA3_E_BAD_CHECKPOINT, "%.300s: invalid JSON in line %d: %.120s", path, where.line,
                 where.text);
        return NULL;
    }
    if (!json_is_object(root)) {
        ia3_fail(err, IA3_E_BAD_CHECKPOINT, "%.300s: not a JSON object", path);
        json_decref(root);
        return NULL;
    }
    return root;
}

json_t *
ia3_json_read(const char *path, size_t max, ia3_error *err)
{
    size_t len;
    char *text = ia3_read_file(path, max, &len, err);
    json_t *root = text ? ia3_json_parse(text, len, path, err) : NULL;

    free(text);
    return root;
}
