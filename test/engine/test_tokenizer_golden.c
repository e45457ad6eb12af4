/*
 * test_tokenizer_golden.c
 *     The ids of 300 unusual texts compared with those of the sentencepiece library (test/golden/tokens-*.tsv), for the
 *     bundled backbone's model and for T5's, which is expected in ../shared (or IA3_SHARED) and skipped if absent.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "engine/files/tokenizer.h"

/* Decodes the text of a line, hexadecimal UTF-8 after the tab. Returns its length in bytes. */
static size_t
unhex(const char *hex, char *text)
{
    size_t n = 0;
    unsigned byte;
    for (; sscanf(hex + 2 * n, "%2x", &byte) == 1; n++)
        text[n] = (char) byte;
    return n;
}

static void
check_line(const ia3_tokenizer *tok, const char *line, int number)
{
    const char *tab = strchr(line, '\t');
    assert_non_null(tab);
    char *text = malloc(strlen(tab) + 1);
    size_t len = unhex(tab + 1, text);
    int32_t *ids;
    uint32_t *offsets;
    int n;
    ia3_error err = {0};
    if (!ia3_tokenizer_encode(tok, text, len, &ids, &offsets, &n, &err))
        fail_msg("line %d: %s", number, err.message);
    const char *p = line;
    for (int i = 0; i < n; i++) {
        char *end;
        long want = strtol(p, &end, 10);
        if (end == p || end > tab || ids[i] != want)
            fail_msg("line %d (\"%.*s\"): token %d is %d, not %ld", number, (int) len, text, i, ids[i], want);
        if (offsets[i] > len || (i > 0 && offsets[i] < offsets[i - 1]))
            fail_msg("line %d (\"%.*s\"): offset %u of token %d", number, (int) len, text, offsets[i], i);
        p = end;
    }
    if (p != tab)
        fail_msg("line %d (\"%.*s\"): %d tokens are too few", number, (int) len, text, n);
    free(ids);
    free(offsets);
    free(text);
}

static void
check_file(const char *model, int vocab_size, const char *table)
{
    ia3_error err = {0};
    ia3_tokenizer *tok = ia3_tokenizer_open(model, vocab_size, &err);
    if (!tok)
        fail_msg("%s", err.message);
    FILE *f = fopen(table, "r");
    if (!f)
        fail_msg("cannot read %s (run from the checkout)", table);
    char *line = NULL;
    size_t room = 0;
    int lines = 0;
    while (getline(&line, &room, f) > 0)
        check_line(tok, line, ++lines);
    assert_int_equal(lines, 300);
    free(line);
    fclose(f);
    ia3_tokenizer_close(tok);
}

static void
test_bundled(void **state)
{
    check_file("models/ia3-mini", 8192, "test/golden/tokens-ia3-mini.tsv");
}

static void
test_t5(void **state)
{
    const char *shared = getenv("IA3_SHARED");
    char model[512];
    snprintf(model, sizeof model, "%s/tokenizers/t5", shared ? shared : "../shared");
    if (access(model, R_OK) != 0) {
        printf("%s is absent: T5's tokens are not checked (set IA3_SHARED)\n", model);
        skip();
    }
    check_file(model, 32128, "test/golden/tokens-t5.tsv");
}

int
main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_bundled), cmocka_unit_test(test_t5)};
    return cmocka_run_group_tests_name("tokenizer golden", tests, NULL, NULL);
}
