/*
 * test_tokenizer.c
 *     The tokenizer compared with ids from the reference library, truncation that keeps the tail, control tokens that
 *     text cannot produce, and corrupted models.
 *
 * The T5 model is read from ../shared/tokenizers/t5 (IA3_SHARED replaces ../shared); if it does not exist, its test is
 * skipped.
 */
#include "file_fixture.h"

#include <sys/mman.h>
#include <time.h>

#include "engine/files/tokenizer.h"

#define MINI "test/backbone"

static ia3_tokenizer *
open_mini(void)
{
    ia3_error err = {0};
    ia3_tokenizer *tok = ia3_tokenizer_open(MINI, 8192, &err);

    if (tok == NULL)
        fail_msg("%s", err.message);
    return tok;
}

/* Checks a file with one line per text: ids, a tab, the text in hexadecimal (test/golden/README.md). Returns the number
 * of lines. */
static int
check_golden(const ia3_tokenizer *tok, const char *path)
{
    FILE *f = fopen(path, "r");
    char line[32768], text[8192];
    int lines = 0;

    assert_non_null(f);
    for (; fgets(line, sizeof line, f) != NULL; lines++) {
        char *tab = strchr(line, '\t'), *at = line;
        size_t len = 0;
        int32_t *ids;
        uint32_t *offsets;
        int n;
        ia3_error err = {0};

        assert_non_null(tab);
        for (unsigned byte; sscanf(tab + 1 + 2 * len, "%2x", &byte) == 1; len++)
            text[len] = (char) byte;

        buffer exact = buffer_copy(text, len);

        if (!ia3_tokenizer_encode(tok, (const char *) exact.data, len, &ids, &offsets, &n, &err))
            fail_msg("line %d: %s", lines + 1, err.message);
        for (int i = 0; i < n; i++) {
            assert_int_equal(ids[i], strtol(at, &at, 10));
            assert_true(offsets[i] <= len && (i == 0 || offsets[i] >= offsets[i - 1]));
        }
        assert_ptr_equal(at, tab);
        assert_int_equal(offsets[n - 1], len);
        free(exact.data);
        free(ids);
        free(offsets);
    }
    fclose(f);
    return lines;
}

static void
test_golden_mini(void **state)
{
    ia3_tokenizer *tok = open_mini();

    assert_int_equal(check_golden(tok, "test/golden/tokens-backbone.tsv"), 300);
    ia3_tokenizer_close(tok);
}

static void
test_golden_t5(void **state)
{
    const char *shared = getenv("IA3_SHARED");
    char path[512];
    ia3_error err = {0};

    snprintf(path, sizeof path, "%s/tokenizers/t5", shared ? shared : "../shared");
    if (access(path, R_OK) != 0)
        skip();

    ia3_tokenizer *tok = ia3_tokenizer_open(path, 32128, &err);
    char buffer[64];

    if (tok == NULL)
        fail_msg("%s", err.message);
    assert_int_equal(check_golden(tok, "test/golden/tokens-t5.tsv"), 300);
    assert_string_equal(ia3_tokenizer_piece(tok, 32099, buffer), "<extra_id_0>");
    assert_string_equal(ia3_tokenizer_piece(tok, 32000, buffer), "<extra_id_99>");
    assert_string_equal(ia3_tokenizer_piece(tok, 32100, buffer), "<unused_32100>");
    assert_string_equal(ia3_tokenizer_piece(tok, 0, buffer), "<pad>");
    ia3_tokenizer_close(tok);
}

static void
test_pieces(void **state)
{
    ia3_tokenizer *tok = open_mini();
    char buffer[64];
    int32_t *ids;
    uint32_t *offsets;
    int n;
    ia3_error err = {0};

    assert_int_equal(ia3_tokenizer_eos(tok), 1);
    assert_int_equal(ia3_tokenizer_unk(tok), 2);
    assert_string_equal(ia3_tokenizer_piece(tok, 1, buffer), "</s>");
    assert_string_equal(ia3_tokenizer_piece(tok, 2, buffer), "<unk>");
    assert_string_equal(ia3_tokenizer_piece(tok, 8191, buffer), "<extra_id_0>");
    assert_string_equal(ia3_tokenizer_piece(tok, 8192, buffer), "<unused_8192>");
    assert_string_equal(ia3_tokenizer_piece(tok, -1, buffer), "<unused_-1>");

    /* offsets count bytes of the original text, even after normalization: "ﬁ" has 3 bytes and becomes "fi" */
    assert_true(ia3_tokenizer_encode(tok, "\xef\xac\x81 on", 6, &ids, &offsets, &n, &err));
    assert_string_equal(ia3_tokenizer_piece(tok, ids[n - 2], buffer), "\xe2\x96\x81on");
    assert_int_equal(offsets[n - 2], 3);
    assert_int_equal(ids[n - 1], 1);
    free(ids);
    free(offsets);
    assert_true(ia3_tokenizer_encode(tok, "", 0, &ids, NULL, &n, &err));
    assert_int_equal(n, 1);
    assert_int_equal(ids[0], 1);
    free(ids);
    ia3_tokenizer_close(tok);
}

static void
test_bad_text(void **state)
{
    static const struct {
        const char *text;
        size_t len;
        const char *message;
    } cases[] = {
        {"ab\xff", 3, "text is not valid UTF-8 at byte 2"},
        {"\xc0\x80", 2, "text is not valid UTF-8 at byte 0"},
        {"a\xe2\x82", 3, "text is not valid UTF-8 at byte 1"},
        {"a\xed\xa0\x80", 4, "text is not valid UTF-8 at byte 1"},
        {"\xf4\x90\x80\x80", 4, "text is not valid UTF-8 at byte 0"},
        {"\xe0\x9f\xbf", 3, "text is not valid UTF-8 at byte 0"},
        {"\xf0\x8f\xbf\xbf", 4, "text is not valid UTF-8 at byte 0"},
        {"\x80", 1, "text is not valid UTF-8 at byte 0"},
        {"a\0b", 3, "text contains a zero byte at byte 1"},
    };
    ia3_tokenizer *tok = open_mini();

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        buffer exact = buffer_copy(cases[i].text, cases[i].len);
        int32_t *ids;
        int n;
        int all_tokens;
        ia3_error err = {0};

        assert_false(ia3_tokenizer_encode(tok, (const char *) exact.data, exact.len, &ids, NULL, &n, &err));
        assert_int_equal(err.code, IA3_E_INVALID);
        assert_string_equal(err.message, cases[i].message);
        err.code = 0;
        assert_false(ia3_tokenizer_encode_input(tok, (const char *) exact.data, exact.len, exact.len, 9, &ids,
                                                &n, &all_tokens, &err));
        assert_string_equal(err.message, cases[i].message);
        free(exact.data);
    }
    ia3_tokenizer_close(tok);
}

/*
 * For every limit the result is the longest possible prefix of the body's tokens followed by all tokens of the tail.
 * The tail is "  Label: x"; its first token includes the space before it.
 */
static void
test_truncation(void **state)
{
    const char *text = "My printer is on fire again, and nobody answers. \n  Label: x";
    size_t len = strlen(text), tail = len - 10;
    ia3_tokenizer *tok = open_mini();
    int32_t *all, *ids;
    uint32_t *offsets;
    int n_all, n, n_tail = 1;
    int all_tokens;
    char buffer[64];
    ia3_error err = {0};

    assert_true(ia3_tokenizer_encode(tok, text, len, &all, &offsets, &n_all, &err));
    while (strncmp(ia3_tokenizer_piece(tok, all[n_all - n_tail], buffer), "\xe2\x96\x81La", 5) != 0)
        n_tail++;
    assert_true(offsets[n_all - n_tail] < tail); /* the case that matters */
    for (int max = -1; max <= n_all + 1; max++) {
        memset(&err, 0, sizeof err);

        bool ok = ia3_tokenizer_encode_input(tok, text, len, tail, max, &ids, &n, &all_tokens, &err);

        if (max < n_tail) {
            assert_false(ok);
            assert_int_equal(err.code, IA3_E_TOO_LONG);
            snprintf(buffer, sizeof buffer, "input is longer than %d tokens", max);
            assert_string_equal(err.message, buffer);
            continue;
        }
        assert_true(ok);
        assert_int_equal(all_tokens, n_all);
        assert_int_equal(n, max < n_all ? max : n_all);
        assert_memory_equal(ids, all, (size_t) (n - n_tail) * sizeof *ids);
        assert_memory_equal(ids + n - n_tail, all + n_all - n_tail, (size_t) n_tail * sizeof *ids);
        free(ids);
    }

    /* without a tail the end is cut, and one token is </s> */
    assert_true(ia3_tokenizer_encode_input(tok, text, len, len, 1, &ids, &n, &all_tokens, &err));
    assert_int_equal(n, 1);
    assert_int_equal(ids[0], 1);
    free(ids);
    /* everything is tail */
    memset(&err, 0, sizeof err);
    assert_false(ia3_tokenizer_encode_input(tok, text, len, 0, n_all - 1, &ids, &n, &all_tokens, &err));
    assert_int_equal(err.code, IA3_E_TOO_LONG);
    free(all);
    free(offsets);
    ia3_tokenizer_close(tok);
}

/* Appends a piece to a SentencePiece model in protobuf format; repeated fields may follow the rest of the message. */
static size_t
append_piece(uint8_t *out, const char *piece, int type)
{
    size_t n = strlen(piece), at = 0;

    out[at++] = 0x0a; /* pieces */
    out[at++] = (uint8_t) (n + 9);
    out[at++] = 0x0a; /* piece */
    out[at++] = (uint8_t) n;
    memcpy(out + at, piece, n);
    at += n;
    memcpy(out + at, "\x15\0\0\0\0\x18", 6); /* score 0, type */
    at += 6;
    out[at++] = (uint8_t) type;
    return at;
}

/* mT5's models list <extra_id_N> as ordinary pieces; even then text does not produce them. Other user-defined pieces
 * work. */
static void
test_injection(void **state)
{
    char path[64], file[128], *directory = make_directory(path), buf[64], unused[32];
    buffer b = read_in(MINI, "spiece.model");
    const char *text = "say <extra_id_0> or \xe2\x96\x81<extra_id_12> or [SPECIAL]";
    ia3_tokenizer *plain = open_mini();
    int pieces = 0, n_plain, n;
    int32_t *before, *ids;
    ia3_error err = {0};

    while (strncmp(ia3_tokenizer_piece(plain, pieces, buf), "<extra_id_", 10) != 0)
        pieces++;
    b.data = realloc(b.data, b.len + 200);
    b.len += append_piece(b.data + b.len, "<extra_id_0>", 4);              /* user-defined */
    b.len += append_piece(b.data + b.len, "\xe2\x96\x81<extra_id_12>", 1); /* normal */
    write_in(directory, "spiece.model", b.data, b.len);
    snprintf(file, sizeof file, "%s/spiece.model", directory);

    ia3_tokenizer *tok = ia3_tokenizer_open(directory, 8192, &err);

    assert_non_null(tok);
    assert_true(ia3_tokenizer_encode(plain, text, strlen(text), &before, NULL, &n_plain, &err));
    assert_true(ia3_tokenizer_encode(tok, text, strlen(text), &ids, NULL, &n, &err));
    assert_int_equal(n, n_plain);
    assert_memory_equal(ids, before, (size_t) n * sizeof *ids);
    assert_string_equal(ia3_tokenizer_piece(tok, pieces, buf), "<extra_id_0>");
    assert_string_equal(ia3_tokenizer_piece(tok, pieces + 1, buf), "\xe2\x96\x81<extra_id_12>");
    /* a model with its own has none after it */
    snprintf(unused, sizeof unused, "<unused_%d>", pieces + 2);
    assert_string_equal(ia3_tokenizer_piece(tok, pieces + 2, buf), unused);
    free(ids);
    ia3_tokenizer_close(tok);

    b.len += append_piece(b.data + b.len, "[SPECIAL]", 4);
    write_in(directory, "spiece.model", b.data, b.len);
    tok = ia3_tokenizer_open(directory, 8192, &err);
    assert_non_null(tok);
    assert_true(ia3_tokenizer_encode(tok, text, strlen(text), &ids, NULL, &n, &err));
    assert_int_equal(ids[n - 2], pieces + 2);
    free(ids);
    ia3_tokenizer_close(tok);
    ia3_tokenizer_close(plain);
    free(before);
    free(b.data);
    remove_directory(directory);
}

static void
test_extra_ids(void **state)
{
    static const struct {
        const char *config, *message;
        int extra_ids;
    } cases[] = {
        {"{}", NULL, 100},
        {"{\"extra_ids\": null}", NULL, 100},
        {"{\"extra_ids\": 3}", NULL, 3},
        {"{\"extra_ids\": 0}", NULL, 0},
        {"{\"model_max_length\": 1000000000000000019884624838656}", NULL, 100},
        {"\xef\xbb\xbf{\"a\": [NaN, -Infinity], \"extra_ids\": 4, \"extra_ids\": 5}", NULL, 5},
        {"[]", "tokenizer_config.json: not a JSON object", 0},
        {"{", "tokenizer_config.json: invalid JSON in line 1: string or '}' expected near end of file", 0},
        {"{\"extra_ids\": -1}", "tokenizer_config.json: \"extra_ids\" is not an integer between 0 and 100000",
         0},
        {"{\"extra_ids\": \"x\"}",
         "tokenizer_config.json: \"extra_ids\" is not an integer between 0 and 100000", 0}};
    char path[64], file[128], *directory = make_directory(path), buf[64];

    copy_in(MINI, directory, "spiece.model");
    snprintf(file, sizeof file, "%s/spiece.model", directory);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        ia3_error err = {0};

        write_in(directory, "tokenizer_config.json", cases[i].config, strlen(cases[i].config));

        ia3_tokenizer *tok = ia3_tokenizer_open(directory, 8192, &err);

        if (cases[i].message != NULL) {
            assert_null(tok);
            assert_string_equal(message_within(&err, directory), cases[i].message);
            continue;
        }
        assert_non_null(tok);

        int found = 0;

        for (int id = 0; id < 8192; id++)
            found += strncmp(ia3_tokenizer_piece(tok, id, buf), "<extra_id_", 10) == 0;
        assert_int_equal(found, cases[i].extra_ids);
        ia3_tokenizer_close(tok);
    }
    remove_directory(directory);
}

static void
test_damaged(void **state)
{
    char path[64], file[128], *directory = make_directory(path);
    buffer b = read_in(MINI, "spiece.model");
    ia3_error err = {0};

    snprintf(file, sizeof file, "%s/spiece.model", directory);
    assert_null(ia3_tokenizer_open(directory, 8192, &err));
    assert_int_equal(err.code, IA3_E_BAD_CHECKPOINT);
    assert_string_equal(err.message + strlen(directory), ": there is no tokenizer");

    memset(&err, 0, sizeof err);
    assert_null(ia3_tokenizer_open(MINI, 500, &err));
    assert_non_null(strstr(err.message, " pieces, more than \"vocab_size\" (500)"));

    for (size_t len = 0; len < b.len; len += 1 + b.len / 37) {
        memset(&err, 0, sizeof err);
        write_in(directory, "spiece.model", b.data, len);

        ia3_tokenizer *tok = ia3_tokenizer_open(directory, 8192, &err);

        /* truncated between two pieces it is a smaller model, which may even be valid */
        if (tok == NULL)
            assert_int_equal(err.code, IA3_E_BAD_CHECKPOINT);
        ia3_tokenizer_close(tok);
    }

    uint8_t *eos = memmem(b.data, b.len, "</s>", 4);

    assert_non_null(eos);
    memcpy(eos, "</x>", 4);
    memset(&err, 0, sizeof err);
    write_in(directory, "spiece.model", b.data, b.len);
    assert_null(ia3_tokenizer_open(directory, 8192, &err));
    assert_string_equal(message_within(&err, directory),
                        "spiece.model: there is no token for the end of a text");
    free(b.data);
    remove_directory(directory);
}

/* One wrong bit can make the normalizer's trie lead anywhere; reading must never go beyond the table. */
static void
test_damaged_normalizer(void **state)
{
    char path[64], file[128], *directory = make_directory(path);
    buffer b = read_in(MINI, "spiece.model");
    uint8_t *name = memmem(b.data, b.len, "nmt_nfkc", 8);
    int refused = 0;

    assert_non_null(name);
    snprintf(file, sizeof file, "%s/spiece.model", directory);

    /* after the name: the tag and length (4 bytes) of the table, its trie's length, the root's unit */
    uint8_t *root = name + 8 + 4 + 4;

    for (int bit = 10; bit < 31; bit++) {
        ia3_error err = {0};

        root[bit / 8] ^= (uint8_t) (1 << bit % 8);
        write_in(directory, "spiece.model", b.data, b.len);

        ia3_tokenizer *tok = ia3_tokenizer_open(directory, 8192, &err);

        if (tok == NULL) {
            assert_string_equal(message_within(&err, directory),
                                "spiece.model: the normalizer's \"precompiled_charsmap\" is corrupted");
            refused++;
        } else {
            int32_t *ids;
            int n;

            assert_true(
                ia3_tokenizer_encode(tok, "a\xc3\xa9\xef\xac\x81 \xe3\x8e\x8f", 10, &ids, NULL, &n, &err));
            free(ids);
        }
        ia3_tokenizer_close(tok);
        root[bit / 8] ^= (uint8_t) (1 << bit % 8);
    }
    /* the trie has 0x2b400 / 4 = 44,288 units: offsets from 2^16 on lead out of it */
    assert_true(refused >= 5);
    free(b.data);
    remove_directory(directory);
}

/* The text "a", a run of n copies of `unit`, and " b"; malloc'd. */
static char *
with_run(const char *unit, size_t n, size_t *len)
{
    size_t unit_len = strlen(unit);
    char *text = malloc(n * unit_len + 4);

    text[0] = 'a';
    for (size_t i = 0; i < n; i++)
        memcpy(text + 1 + i * unit_len, unit, unit_len);
    memcpy(text + 1 + n * unit_len, " b", 2);
    *len = n * unit_len + 3;
    return text;
}

/*
 * A run of unknown characters is one token however long it is, and does not take time with the square of its length. Other
 * characters, also such as the normalizer makes known, keep their tokens.
 */
static void
test_unknown_runs(void **state)
{
    static const char *const units[] = {"\xf0\x9f\x98\x80", "}", "{", "\xe4\xb8\x81\xf0\x9f\x98\x80",
                                        "\xe2\x98\xba\xef\xb8\x8f"};
    static const size_t counts[] = {255, 256, 257, 304, 305, 511, 1000, 5000, 250000};
    ia3_tokenizer *tok = open_mini();
    ia3_error err = {0};

    for (size_t u = 0; u < sizeof units / sizeof *units; u++) {
        int32_t *few, *ids;
        uint32_t *few_offsets, *offsets;
        int n_few, n;
        size_t few_len, len;
        char *text = with_run(units[u], 100, &few_len);

        assert_true(ia3_tokenizer_encode(tok, text, few_len, &few, &few_offsets, &n_few, &err));
        assert_true(n_few <= 5);
        free(text);
        for (size_t c = 0; c < sizeof counts / sizeof *counts; c++) {
            text = with_run(units[u], counts[c], &len);
            clock_t start = clock();
            assert_true(ia3_tokenizer_encode(tok, text, len, &ids, &offsets, &n, &err));
            assert_true(clock() - start < 10 * CLOCKS_PER_SEC);
            assert_int_equal(n, n_few);
            assert_memory_equal(ids, few, (size_t) n * sizeof *ids);
            for (int i = 0; i < n; i++) /* those behind the run have moved */
                assert_int_equal(offsets[i], few_offsets[i] + (few_offsets[i] > 2 ? len - few_len : 0));
            free(text);
            free(ids);
            free(offsets);
        }
        free(few);
        free(few_offsets);
    }

    /* known characters in the middle of a long run, and full-width letters, which become ordinary ones */
    size_t len, half = 3000 * 4;
    char *text = with_run("\xf0\x9f\x98\x80", 6000, &len);
    int32_t *ids, *plain;
    uint32_t *offsets;
    int n, n_plain;

    memcpy(text + 1 + half, "test", 4);
    assert_true(ia3_tokenizer_encode(tok, text, len, &ids, &offsets, &n, &err));
    assert_true(ia3_tokenizer_encode(tok, "\xf0\x9f\x98\x80test", 8, &plain, NULL, &n_plain, &err));
    bool found = false;
    for (int i = 0; i < n; i++)
        found = found || offsets[i] == 1 + half;
    assert_true(found);
    free(text);
    free(ids);
    free(offsets);
    free(plain);
    text = with_run("\xef\xbd\x81", 1000, &len);
    assert_true(ia3_tokenizer_encode(tok, text, len, &ids, NULL, &n, &err));
    assert_true(n > 100);
    free(text);
    free(ids);
    ia3_tokenizer_close(tok);
}

/* Nothing is read behind a text, not even a zero byte: here the memory ends with it. */
static void
test_end_of_memory(void **state)
{
    static const char *const units[] = {"\xf0\x9f\x98\x80", "abc "};
    size_t page = (size_t) sysconf(_SC_PAGESIZE), room = 2 * page;
    char *memory = mmap(NULL, room + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    ia3_tokenizer *tok = open_mini();

    assert_true(memory != MAP_FAILED);
    assert_int_equal(mprotect(memory + room, page, PROT_NONE), 0);
    for (size_t u = 0; u < sizeof units / sizeof *units; u++)
        for (size_t count = 1; count <= 1000; count *= 10) {
            size_t len;
            char *text = with_run(units[u], count, &len);
            int32_t *ids, *expected;
            uint32_t *offsets;
            int n, n_expected;
            ia3_error err = {0};

            memcpy(memory + room - len, text, len);
            assert_true(ia3_tokenizer_encode(tok, memory + room - len, len, &ids, &offsets, &n, &err));
            assert_int_equal(offsets[n - 1], len);
            text = realloc(text, len + 1);
            text[len] = '\0';
            assert_true(ia3_tokenizer_encode(tok, text, len, &expected, NULL, &n_expected, &err));
            assert_int_equal(n, n_expected);
            assert_memory_equal(ids, expected, (size_t) n * sizeof *ids);
            free(text);
            free(ids);
            free(offsets);
            free(expected);
        }
    munmap(memory, room + page);
    ia3_tokenizer_close(tok);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_golden_mini),
        cmocka_unit_test(test_golden_t5),
        cmocka_unit_test(test_pieces),
        cmocka_unit_test(test_bad_text),
        cmocka_unit_test(test_truncation),
        cmocka_unit_test(test_injection),
        cmocka_unit_test(test_extra_ids),
        cmocka_unit_test(test_damaged),
        cmocka_unit_test(test_damaged_normalizer),
        cmocka_unit_test(test_unknown_runs),
        cmocka_unit_test(test_end_of_memory),
    };

    return cmocka_run_group_tests_name("tokenizer", tests, NULL, NULL);
}
