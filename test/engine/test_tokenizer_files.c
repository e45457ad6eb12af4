/*
 * test_tokenizer_files.c
 *     Tokenizers in the layouts that the hub has and transformers saves: test/golden/tokenizers/NAME, with the ids that
 *     transformers gives to some texts (test/golden/tokenizer_files.py). Called with a folder it checks only this.
 */
#include "file_fixture.h"

#include "engine/files/tokenizer.h"

#define GOLDEN "test/golden/tokenizers/"
#define VOCAB  512

static ia3_tokenizer *
open_tokenizer(const char *directory, int vocab_size)
{
    ia3_error err = {0};
    ia3_tokenizer *tok = ia3_tokenizer_open(directory, vocab_size, &err);

    if (tok == NULL)
        fail_msg("%s: %s", err.message, err.detail);
    return tok;
}

static size_t
unhex(const char *hex, char *text)
{
    size_t n = 0;
    unsigned byte;

    for (; sscanf(hex + 2 * n, "%2x", &byte) == 1; n++)
        text[n] = (char) byte;
    return n;
}

/* A line of tokens.tsv: the ids, a tab, and the text in hexadecimal. */
static void
check_line(const ia3_tokenizer *tok, const char *name, const char *line)
{
    const char *tab = strchr(line, '\t'), *p = line;
    ia3_error err = {0};
    int32_t *ids;
    uint32_t *offsets;
    int n;

    assert_non_null(tab);

    char *text = malloc(strlen(tab) + 1);
    size_t len = unhex(tab + 1, text);

    if (!ia3_tokenizer_encode(tok, text, len, &ids, &offsets, &n, &err))
        fail_msg("%s: \"%.*s\": %s", name, (int) len, text, err.message);
    for (int i = 0; i < n; i++) {
        char *end;
        long want = strtol(p, &end, 10);

        if (end == p || end > tab || ids[i] != want)
            fail_msg("%s: \"%.*s\": token %d is %d, not %.*s", name, (int) len, text, i, ids[i],
                     (int) strcspn(p + (*p == ' '), " \t"), p + (*p == ' '));
        if (offsets[i] > len || (i > 0 && offsets[i] < offsets[i - 1]))
            fail_msg("%s: \"%.*s\": token %d is at %u", name, (int) len, text, i, offsets[i]);
        p = end;
    }
    if (p != tab)
        fail_msg("%s: \"%.*s\": %d tokens are too few", name, (int) len, text, n);
    free(ids);
    free(offsets);
    free(text);
}

static int
check_tokens(const ia3_tokenizer *tok, const char *directory)
{
    char path[512], *line = NULL;
    size_t room = 0;
    int lines = 0;

    snprintf(path, sizeof path, "%s/tokens.tsv", directory);

    FILE *f = fopen(path, "r");

    assert_non_null(f);
    for (; getline(&line, &room, f) > 0; lines++)
        check_line(tok, directory, line);
    free(line);
    fclose(f);
    return lines;
}

static void
test_golden(void **state)
{
    static const char *const names[] = {"unigram", "added", "added-files", "byt5"};

    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        char directory[128];

        snprintf(directory, sizeof directory, GOLDEN "%s", names[i]);

        ia3_tokenizer *tok = open_tokenizer(directory, VOCAB);

        assert_true(check_tokens(tok, directory) > 200);
        ia3_tokenizer_close(tok);
    }
}

static void
check_pieces(const ia3_tokenizer *tok, const char *text, const char *expected)
{
    char pieces[1000] = "", buffer[64];
    ia3_error err = {0};
    int32_t *ids;
    int n;

    assert_true(ia3_tokenizer_encode(tok, text, strlen(text), &ids, NULL, &n, &err));
    for (int i = 0; i < n; i++) {
        strcat(pieces, i > 0 ? " " : "");
        strcat(pieces, ia3_tokenizer_piece(tok, ids[i], buffer));
    }
    assert_string_equal(pieces, expected);
    free(ids);
}

static void
check_decoded(const ia3_tokenizer *tok, const char *text, const char *expected)
{
    ia3_error err = {0};
    int32_t *ids;
    int n;
    char *decoded;
    size_t len;

    assert_true(ia3_tokenizer_encode(tok, text, strlen(text), &ids, NULL, &n, &err));
    assert_true(ia3_tokenizer_decode(tok, ids, n, &decoded, &len, &err));
    assert_string_equal(decoded, expected);
    free(ids);
    free(decoded);
}

static void
test_pieces(void **state)
{
    ia3_tokenizer *tok = open_tokenizer(GOLDEN "added", VOCAB);
    char buffer[64];

    check_pieces(tok, "a { COVID <sep> </s>",
                 "\xe2\x96\x81"
                 "a { COVID <sep> \xe2\x96\x81 <unk> / s > </s>");
    check_decoded(tok, "the {the} the COVID <sep> the", "the{ the} theCOVID the");
    assert_string_equal(ia3_tokenizer_piece(tok, 499, buffer), "<extra_id_0>");
    assert_string_equal(ia3_tokenizer_piece(tok, 400, buffer), "<extra_id_99>");
    assert_string_equal(ia3_tokenizer_piece(tok, 506, buffer), "<unused_506>");
    ia3_tokenizer_close(tok);

    tok = open_tokenizer(GOLDEN "byt5", 384);
    check_pieces(tok, "a \xc3\xa9", "a <0x20> <0xC3> <0xA9> </s>");
    check_decoded(tok, "a \xc3\xa9", "a \xc3\xa9");
    assert_string_equal(ia3_tokenizer_piece(tok, 259, buffer), "<extra_id_0>");
    assert_string_equal(ia3_tokenizer_piece(tok, 383, buffer), "<extra_id_124>");
    ia3_tokenizer_close(tok);
}

/* Settings beside a valid spiece.model, and what the error is (NULL: none). */
static void
test_settings(void **state)
{
    static const struct {
        const char *file, *text, *message;
    } cases[] = {
        {"tokenizer_config.json", "{\"added_tokens_decoder\": []}",
         "tokenizer_config.json: \"added_tokens_decoder\" is not an object"},
        {"tokenizer_config.json", "{\"added_tokens_decoder\": {\"500\": \"x\"}}",
         "tokenizer_config.json: \"500\" is not an added token with \"content\" and flags"},
        {"tokenizer_config.json",
         "{\"added_tokens_decoder\": {\"500\": {\"content\": \"x\", \"lstrip\": 1}}}",
         "tokenizer_config.json: \"500\" is not an added token with \"content\" and flags"},
        {"tokenizer_config.json", "{\"added_tokens_decoder\": {\"-1\": {\"content\": \"x\"}}}",
         "tokenizer_config.json: \"-1\" is not the id of an added token"},
        {"tokenizer_config.json", "{\"added_tokens_decoder\": {\"12345678901\": {\"content\": \"x\"}}}",
         "tokenizer_config.json: \"12345678901\" is not the id of an added token"},
        {"tokenizer_config.json", "{\"additional_special_tokens\": 5}",
         "tokenizer_config.json: \"additional_special_tokens\" is not a list of tokens"},
        {"tokenizer_config.json", "{\"additional_special_tokens\": [5]}",
         "tokenizer_config.json: \"additional_special_tokens\" is not a list of tokens"},
        {"tokenizer_config.json", "{\"extra_special_tokens\": {\"x\": 5}}", NULL},
        {"tokenizer_config.json", "{\"tokenizer_class\": 5, \"eos_token\": 7}", NULL},
        {"tokenizer_config.json", "{\"added_tokens_decoder\": {\"600\": {\"content\": \"</s>\"}}}", NULL},
        {"tokenizer_config.json", "{\"added_tokens_decoder\": {\"500\": {\"content\": \"\"}}}", NULL},
        {"added_tokens.json", "{\"x\": \"y\"}", "added_tokens.json: \"x\" is not a token with an id"},
        {"added_tokens.json", "{\"x\": 99999999999}", "added_tokens.json: \"x\" is not a token with an id"},
        {"added_tokens.json", "{\"xyz\": 511}", NULL},
        {"added_tokens.json", "{\"xyz\": 512}",
         ": the added token \"xyz\" has the id 512, but \"vocab_size\" is 512"},
        {"special_tokens_map.json", "{\"additional_special_tokens\": {\"a\": 1}", /* not closed */
         "special_tokens_map.json: invalid JSON in line 1: '}' expected near end of file"},
        {"config.json", "[]", "config.json: not a JSON object"},
    };

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char path[64], *directory = make_directory(path);
        ia3_error err = {0};

        copy_in(GOLDEN "unigram", directory, "spiece.model");
        write_in(directory, cases[i].file, cases[i].text, strlen(cases[i].text));

        ia3_tokenizer *tok = ia3_tokenizer_open(directory, VOCAB, &err);

        if (cases[i].message == NULL) {
            if (tok == NULL)
                fail_msg("%s: %s", cases[i].text, err.message);
        } else {
            assert_null(tok);
            assert_int_equal(err.code, IA3_E_BAD_CHECKPOINT);
            assert_string_equal(cases[i].message[0] == ':' ? err.message + strlen(directory)
                                                           : message_within(&err, directory),
                                cases[i].message);
        }
        ia3_tokenizer_close(tok);
        remove_directory(directory);
    }
}

/* Many added tokens and a long text of beginnings of them take no more time than other text. */
static void
test_many_added(void **state)
{
    char path[64], *directory = make_directory(path);
    char *json = malloc(1 << 20), *p = json;
    size_t len = 1 << 20;
    ia3_error err = {0};
    int32_t *ids;
    int n;

    copy_in(GOLDEN "unigram", directory, "spiece.model");
    p += sprintf(p, "{");
    for (int i = 0; i < 10000; i++)
        p += sprintf(p, "%s\"<<<<%d\": %d", i ? ", " : "", i, 500 + i);
    p += sprintf(p, "}");
    write_in(directory, "added_tokens.json", json, (size_t) (p - json));
    free(json);

    ia3_tokenizer *tok = open_tokenizer(directory, 11000);
    char *text = malloc(len);

    memset(text, '<', len);
    memcpy(text + len / 2, "<<<<77 ", 7);
    assert_true(ia3_tokenizer_encode(tok, text, len, &ids, NULL, &n, &err));

    int found = 0;

    for (int i = 0; i < n; i++)
        found += ids[i] == 577;
    assert_int_equal(found, 1);
    free(ids);
    free(text);
    ia3_tokenizer_close(tok);
    remove_directory(directory);
}

static void
test_no_tokenizer(void **state)
{
    char path[64], *directory = make_directory(path);
    ia3_error err = {0};

    assert_null(ia3_tokenizer_open(directory, VOCAB, &err));
    assert_string_equal(err.message + strlen(directory), ": there is no tokenizer");
    remove_directory(directory);
}

int
main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_golden),       cmocka_unit_test(test_pieces),
        cmocka_unit_test(test_settings),     cmocka_unit_test(test_many_added),
        cmocka_unit_test(test_no_tokenizer),
    };

    if (argc > 1) {
        ia3_tokenizer *tok = open_tokenizer(argv[1], 1 << 20);

        printf("%d texts agree\n", check_tokens(tok, argv[1]));
        ia3_tokenizer_close(tok);
        return 0;
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
