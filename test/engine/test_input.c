/*
 * test_input.c
 *     What is cut from inputs that are too long: compared with the tokens of the text that should be left.
 */
#include "file_fixture.h"

#include <time.h>

#include "engine/base/rng.h"
#include "engine/files/input.h"

enum { MAX_FIELDS = 8 };

static ia3_tokenizer *tok;
static int random_rounds = 1500, part_rounds = 60;

static int
open_mini(void **state)
{
    ia3_error err = {0};
    tok = ia3_tokenizer_open("test/backbone", 8192, &err);
    return tok ? 0 : -1;
}

static int
close_mini(void **state)
{
    ia3_tokenizer_close(tok);
    return 0;
}

/* A text under construction, with its fields. */
typedef struct prompt {
    char *text;
    ia3_field fields[MAX_FIELDS];
    ia3_input in;
} prompt;

static prompt
new_prompt(void)
{
    prompt p = {.text = calloc(1, 1)};
    return p;
}

static void
add(prompt *p, const char *text, bool is_field)
{
    uint32_t n = (uint32_t) strlen(text);
    p->text = realloc(p->text, p->in.len + n + 1);
    memcpy(p->text + p->in.len, text, n + 1);
    if (is_field)
        p->fields[p->in.n_fields++] = (ia3_field){p->in.len, p->in.len + n};
    p->in.len += n;
    p->in.text = p->text;
    if (is_field)
        p->in.tail = p->in.len;
}

/* The address of the fields is filled in here, because a prompt may be copied while it is built. */
static bool
encode(prompt *p, uint32_t max, int32_t **ids, int *n, bool *truncated, ia3_error *err)
{
    p->in.fields = p->fields;
    *ids = NULL;
    memset(err, 0, sizeof *err);
    return ia3_input_encode(tok, &p->in, max, ids, n, truncated, err);
}

static int
count(const char *text)
{
    int32_t *ids;
    int n;
    ia3_error err = {0};
    assert_true(ia3_tokenizer_encode(tok, text, strlen(text), &ids, NULL, &n, &err));
    free(ids);
    return n;
}

/* Whether the tokens of the input with this limit are those of `expected`. */
static bool
is_text(prompt *p, uint32_t max, const char *expected)
{
    int32_t *ids, *all;
    int n, n_all;
    bool truncated;
    ia3_error err;
    if (!encode(p, max, &ids, &n, &truncated, &err))
        fail_msg("limit %u: %s (%s)", max, err.message, err.detail);
    assert_true(ia3_tokenizer_encode(tok, expected, strlen(expected), &all, NULL, &n_all, &err));
    bool same = n == n_all && memcmp(ids, all, (size_t) n * sizeof *ids) == 0;
    assert_true(truncated || strcmp(p->text, expected) == 0);
    free(ids);
    free(all);
    return same;
}

static void
check_text(prompt *p, uint32_t max, const char *expected)
{
    if (is_text(p, max, expected))
        return;
    int32_t *ids;
    char *text;
    int n;
    size_t len;
    bool truncated;
    ia3_error err;
    encode(p, max, &ids, &n, &truncated, &err);
    ia3_tokenizer_decode(tok, ids, n, &text, &len, &err);
    fail_msg("limit %u: \"%s\" (%d tokens) instead of \"%s\" (%d)", max, text, n, expected, count(expected));
}

/* The question behind a long context is kept, whatever the context is; without fields it is lost. */
static void
test_question(void **state)
{
    prompt p = new_prompt();
    add(&p, "the food was good and the service was very nice and the pizza was cold", true);
    add(&p, " Question: ", false);
    add(&p, "was the food good", true);
    add(&p, "? Answer:", false);
    int all = count(p.text);
    check_text(&p, (uint32_t) all, p.text);
    check_text(&p, (uint32_t) all + 100, p.text);

    static const char *const contexts[] = {"the food was good and the service was very nice and",
                                           "the food was good and the service was", "the food was good and"};
    for (int i = 0; i < 3; i++) {
        char expected[200];
        snprintf(expected, sizeof expected, "%s Question: was the food good? Answer:", contexts[i]);
        check_text(&p, (uint32_t) count(expected), expected);
    }
    /* from here on both are equally long, and the first one has the token that is left over */
    static const char *const both[] = {
        "the food was good Question: was the food good? Answer:",
        "the food was good Question: was the food? Answer:", "the food was Question: was the food? Answer:",
        "the food was Question: was the? Answer:"};
    for (int i = 0; i < 4; i++)
        check_text(&p, (uint32_t) count(both[i]), both[i]);
    check_text(&p, (uint32_t) count(" Question: ? Answer:"), " Question: ? Answer:");

    p.in.n_fields = 0;
    check_text(&p, (uint32_t) count("the food was good and the service was? Answer:"),
               "the food was good and the service was? Answer:");
    free(p.text);
}

/* The text of the template alone does not fit. */
static void
test_template_too_long(void **state)
{
    prompt p = new_prompt();
    add(&p, "a word before", false);
    add(&p, " and a text", true);
    add(&p, " and some words behind it", false);
    int least = count("a word before and some words behind it");
    check_text(&p, (uint32_t) least, "a word before and some words behind it");
    for (int max = 1; max < least; max++) {
        int32_t *ids;
        int n;
        bool truncated;
        ia3_error err;
        char text[100];
        assert_false(encode(&p, (uint32_t) max, &ids, &n, &truncated, &err));
        assert_null(ids);
        assert_int_equal(err.code, IA3_E_TOO_LONG);
        snprintf(text, sizeof text, "input is longer than %d tokens", max);
        assert_string_equal(err.message, text);
        snprintf(text, sizeof text, "The template's own text, which is not truncated, takes %d tokens.",
                 least);
        assert_string_equal(err.detail, text);
        assert_non_null(strstr(err.hint, "ia3.max_input_tokens"));
    }
    free(p.text);
}

/* Empty fields count as fields: nothing of the template's text is cut because its only field is empty. */
static void
test_empty_fields(void **state)
{
    prompt p = new_prompt();
    add(&p, "some words before it", false);
    add(&p, "", true);
    add(&p, " and behind", false);
    check_text(&p, (uint32_t) count(p.text), p.text);
    int32_t *ids;
    int n;
    bool truncated;
    ia3_error err;
    assert_false(encode(&p, (uint32_t) count(p.text) - 1, &ids, &n, &truncated, &err));
    assert_int_equal(err.code, IA3_E_TOO_LONG);
    free(p.text);

    p = new_prompt();
    add(&p, "some", false);
    add(&p, "", true);
    add(&p, "thing long ", true);
    add(&p, "", true);
    check_text(&p, (uint32_t) count("something"), "something");
    free(p.text);
}

/* Fields next to each other and within words, runs of spaces, characters of several bytes. */
static void
test_seams(void **state)
{
    prompt p = new_prompt();
    add(&p, "(", false);
    add(&p, "  the food   was good  ", true);
    add(&p, "the service was nice", true);
    add(&p, ")", false);
    for (int max = count(p.text); max >= count("()"); max--) {
        int32_t *ids;
        int n;
        bool truncated;
        ia3_error err;
        if (!encode(&p, (uint32_t) max, &ids, &n, &truncated, &err))
            fail_msg("%d: %s (%s)", max, err.message, err.detail);
        assert_true(n <= max && n >= max - 1);
        free(ids);
    }
    free(p.text);

    p = new_prompt();
    add(&p, "x", false);
    add(&p,
        "\xe2\x80\xa6\xe2\x80\xa6\xef\xb7\xba\xef\xb7\xba\xf0\x9f\x98\x80\xf0\x9f\x98\x80\xc3\xa9\xc3\xa9",
        true);
    add(&p, "x", false);
    for (int max = count(p.text) + 1; max >= count("xx"); max--) {
        int32_t *ids;
        int n;
        bool truncated;
        ia3_error err;
        if (!encode(&p, (uint32_t) max, &ids, &n, &truncated, &err))
            fail_msg("%d: %s (%s)", max, err.message, err.detail);
        assert_true(n <= max);
        free(ids);
    }
    free(p.text);
}

static void
test_invalid_text(void **state)
{
    prompt p = new_prompt();
    add(&p, "a word", false);
    add(&p, "another \xff word", true);
    int32_t *ids;
    int n;
    bool truncated;
    ia3_error err;
    for (uint32_t max = 1; max < 20; max++) {
        assert_false(encode(&p, max, &ids, &n, &truncated, &err));
        assert_int_equal(err.code, IA3_E_INVALID);
    }
    free(p.text);

    /* fields that begin or end within a character */
    p = new_prompt();
    add(&p, "word \xe2\x80\xa6 word \xe2\x80\xa6 word", false);
    p.fields[0] = (ia3_field){6, 15};
    p.in.n_fields = 1;
    for (uint32_t max = 1; max < 20; max++) {
        if (encode(&p, max, &ids, &n, &truncated, &err))
            free(ids);
        else
            assert_true(err.code == IA3_E_INVALID || err.code == IA3_E_TOO_LONG);
    }
    free(p.text);
}

/* A prompt that loses one token after the other. */
typedef struct losing {
    const prompt *p;
    uint32_t *offsets;
    int left[MAX_FIELDS], first[MAX_FIELDS];
    bool cut[MAX_FIELDS];
    char *text;
} losing;

static void
begin_losing(losing *l, const prompt *p)
{
    int32_t *ids;
    int n;
    ia3_error err = {0};
    *l = (losing){.p = p, .text = strdup(p->text)};
    assert_true(ia3_tokenizer_encode(tok, p->text, p->in.len, &ids, &l->offsets, &n, &err));
    for (int t = 0; t + 1 < n; t++)
        for (uint32_t f = 0; f < p->in.n_fields; f++)
            if (l->offsets[t] < p->fields[f].end && l->offsets[t + 1] > p->fields[f].begin &&
                p->fields[f].begin < p->fields[f].end) {
                if (l->left[f]++ == 0)
                    l->first[f] = t;
                break;
            }
    free(ids);
}

/* The rule, spelled out: the longest field loses a token, the last one if several are equally long. */
static bool
lose_token(losing *l)
{
    int longest = -1;
    for (int f = 0; f < (int) l->p->in.n_fields; f++)
        if (l->left[f] > 0 && (longest < 0 || l->left[f] >= l->left[longest]))
            longest = f;
    if (longest < 0)
        return false;
    l->left[longest]--;
    l->cut[longest] = true;
    size_t len = 0, from = 0;
    for (uint32_t f = 0; f < l->p->in.n_fields; f++) {
        const ia3_field *field = &l->p->fields[f];
        size_t end = field->end;
        if (l->cut[f])
            end = l->left[f] == 0 ? field->begin : l->offsets[l->first[f] + l->left[f]];
        while (end > field->begin && ((unsigned char) l->p->text[end] & 0xC0) == 0x80)
            end--; /* a token of bytes can begin within a character */
        memcpy(l->text + len, l->p->text + from, end - from);
        len += end - from;
        from = field->end;
    }
    strcpy(l->text + len, l->p->text + from);
    return true;
}

/* The input is what is left when it has lost as many tokens as needed, or more as long as it is not shorter. */
static void
check_rule(prompt *p, uint32_t max)
{
    losing l;
    bool is_left = true, fits;
    begin_losing(&l, p);
    for (int n = count(l.text); is_left && n > (int) max; n = count(l.text))
        for (int i = 0; is_left && (i == 0 || i < n - (int) max - 40); i++) /* the last ones one by one */
            is_left = lose_token(&l);
    fits = is_left;
    if (fits) {
        const int most = count(l.text);
        char *first = strdup(l.text);
        while (is_left && count(l.text) == most && !is_text(p, max, l.text))
            is_left = lose_token(&l);
        if (!is_left || count(l.text) != most)
            check_text(p, max, first);
        free(first);
    } else {
        int32_t *ids;
        int n;
        bool truncated;
        ia3_error err;
        assert_false(encode(p, max, &ids, &n, &truncated, &err));
        assert_int_equal(err.code, IA3_E_TOO_LONG);
    }
    free(l.text);
    free(l.offsets);
}

/* Random prompts and limits. */
static void
test_random(void **state)
{
    static const char *const words[] = {"food", "the waiter",  "was",    "good",   "unbelievable", "x", "42",
                                        "it's", "caf\xc3\xa9", "pizza,", "(cold)", "\xe2\x80\xa6"};
    static const char *const literals[] = {" ", " Question: ", "\n", "? Answer:", ", ", " and "};
    uint64_t draw = 0;
    for (int round = 0; round < random_rounds; round++) {
        prompt p = new_prompt();
        int fields = 1 + (int) ia3_draw(7, 0, draw++, 4);
        for (int f = 0; f < fields; f++) {
            char text[2000] = "";
            int n = (int) ia3_draw(7, 0, draw++, f % 2 ? 6 : 30);
            for (int i = 0; i < n; i++) {
                strcat(text, i ? " " : "");
                strcat(text, words[ia3_draw(7, 0, draw++, 12)]);
            }
            add(&p, literals[ia3_draw(7, 0, draw++, 6)], false);
            add(&p, text, true);
        }
        add(&p, literals[ia3_draw(7, 0, draw++, 6)], false);
        for (int i = 0; i < 4; i++)
            check_rule(&p, 1 + ia3_draw(7, 0, draw++, (uint32_t) count(p.text) + 2));
        free(p.text);
    }
}

/*
 * Of a long text only a part is tokenized, at first. What is kept is the same as of the whole text, whatever follows,
 * also if there is much white space, or none.
 */
static void
test_parts(void **state)
{
    static const char *const words[] = {"food ",    "the waiter ", "unbelievable ",
                                        "x",        "caf\xc3\xa9", "\xe6\xb0\xb4\xe7\x81\xab",
                                        "(cold), ", "42"};
    uint64_t draw = 1 << 20;
    for (int round = 0; round < part_rounds; round++) {
        prompt p = new_prompt();
        for (int f = 0; f < 3; f++) {
            size_t len = 0, size = 100 + ia3_draw(7, 0, draw++, f == 2 ? 200 : 20000);
            char *text = calloc(size + 4000, 1);
            while (len < size) {
                uint32_t kind = ia3_draw(7, 0, draw++, 40), n = 1 + ia3_draw(7, 0, draw++, 30);
                if (kind == 0) { /* much white space */
                    n *= 100;
                    memset(text + len, ' ', n);
                    len += n;
                } else if (kind == 1) /* a long word */
                    for (uint32_t i = 0; i < 40 * n; i++)
                        text[len++] = (char) ('a' + ia3_draw(7, 0, draw++, 26));
                else
                    len += (size_t) sprintf(text + len, "%s", words[ia3_draw(7, 0, draw++, 8)]);
            }
            add(&p, f ? " Question: " : "", false);
            add(&p, text, true);
            free(text);
        }
        add(&p, "? Answer:", false);
        uint32_t max = 20 + ia3_draw(7, 0, draw++, 400);
        check_rule(&p, max);

        int32_t *ids, *all;
        int n, n_all, n_before;
        bool truncated;
        ia3_error err;
        p.in.n_fields = 0;
        assert_true(encode(&p, max, &ids, &n, &truncated, &err));
        assert_true(ia3_tokenizer_encode_input(tok, p.text, p.in.len, p.in.tail, (int) max, &all, &n_all,
                                               &n_before, &err));
        assert_int_equal(n, n_all);
        assert_memory_equal(ids, all, (size_t) n * sizeof *ids);
        assert_int_equal(truncated, n_before > (int) max);
        free(ids);
        free(all);
        free(p.text);
    }
}

/* The same with tokens of bytes, and with tokens before the text. */
static void
test_other_tokenizers(void **state)
{
    static const char *const names[] = {"byt5", "roberta"};
    ia3_tokenizer *mini = tok;
    random_rounds = 300;
    part_rounds = 12;
    for (int i = 0; i < 2; i++) {
        char directory[64];
        ia3_error err = {0};
        snprintf(directory, sizeof directory, "test/golden/tokenizers/%s", names[i]);
        tok = ia3_tokenizer_open(directory, 512, &err);
        assert_non_null(tok);
        test_random(state);
        test_parts(state);
        ia3_tokenizer_close(tok);
    }
    tok = mini;
}

/* Megabytes take no longer than what can matter of them. */
static void
test_megabytes(void **state)
{
    const size_t size = (size_t) 40 << 20;
    char *big = malloc(size + 1);
    for (size_t i = 0; i < size; i++)
        big[i] = "the food was good "[i % 18];
    big[size] = '\0';
    prompt p = new_prompt();
    add(&p, big, true);
    add(&p, " and ", false);
    add(&p, big, true);
    add(&p, " Question: ", false);
    add(&p, "was the food good", true);
    add(&p, "? Answer:", false);
    clock_t began = clock();
    static const char *const left =
        "the food was good the and the food was good the Question: was the food good? Answer:";
    check_text(&p, (uint32_t) count(left), left);
    double seconds = (double) (clock() - began) / CLOCKS_PER_SEC;
    printf("80 MB: %.3f s\n", seconds);
    assert_true(seconds < 1);
    free(p.text);

    /* of which the template's own text is an error at once */
    p = new_prompt();
    add(&p, big, false);
    add(&p, "was the food good", true);
    int32_t *ids;
    int n;
    bool truncated;
    ia3_error err;
    assert_false(encode(&p, 24, &ids, &n, &truncated, &err));
    assert_int_equal(err.code, IA3_E_TOO_LONG);
    free(p.text);
    free(big);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_question),     cmocka_unit_test(test_template_too_long),
        cmocka_unit_test(test_empty_fields), cmocka_unit_test(test_seams),
        cmocka_unit_test(test_invalid_text), cmocka_unit_test(test_random),
        cmocka_unit_test(test_parts),        cmocka_unit_test(test_other_tokenizers),
        cmocka_unit_test(test_megabytes),
    };
    return cmocka_run_group_tests(tests, open_mini, close_mini);
}
