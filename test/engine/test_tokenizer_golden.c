/*
 * test_tokenizer_golden.c
 *     The ids of 300 unusual texts compared with those of the sentencepiece library (test/golden/tokens-*.tsv), for the
 *     model of test/backbone and for T5's, which is expected in ../shared (or IA3_SHARED) and skipped if absent.
 */
#include "tokens_fixture.h"

#include <unistd.h>

static void
check_file(const char *model, int vocab_size, const char *table)
{
    ia3_error err = {0};
    ia3_tokenizer *tok = ia3_tokenizer_open(model, vocab_size, &err);
    if (!tok)
        fail_msg("%s", err.message);
    assert_int_equal(check_tokens(tok, table), 300);
    ia3_tokenizer_close(tok);
}

static void
test_backbone(void **state)
{
    check_file("test/backbone", 8192, "test/golden/tokens-backbone.tsv");
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
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_backbone), cmocka_unit_test(test_t5)};
    return cmocka_run_group_tests_name("tokenizer golden", tests, NULL, NULL);
}
