/*
 * test_cli.c
 *     ia3_engine as a command-line program: its output and its errors.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "engine_client.h"

#define BACKBONE " --backbone test/backbone --dtype float32 "

static char output[65536];
static char directory[] = "/tmp/ia3_cli_XXXXXX";

/* Runs the engine with these arguments and captures stdout and stderr; returns the exit status. */
static int
run(const char *format, ...)
{
    char command[3000], arguments[2000], path[600];
    va_list list;
    va_start(list, format);
    vsnprintf(arguments, sizeof arguments, format, list);
    va_end(list);
    test_engine_path(path, sizeof path);
    snprintf(command, sizeof command, "%s %s 2>&1", path, arguments);
    FILE *f = popen(command, "r");
    size_t n = fread(output, 1, sizeof output - 1, f);
    output[n] = '\0';
    int status = pclose(f);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static void
write_file(const char *name, const char *text)
{
    char path[100];
    snprintf(path, sizeof path, "%s/%s", directory, name);
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
}

static int
make_directory(void **state)
{
    return mkdtemp(directory) ? 0 : -1;
}

static int
remove_directory(void **state)
{
    char command[100];
    snprintf(command, sizeof command, "rm -r %s", directory);
    return system(command);
}

static void
test_mistakes(void **state)
{
    static const char *const bad[] = {"",
                                      "dance",
                                      "check",
                                      "info",
                                      "info --backbone",
                                      "serve --backbone x",
                                      "score --backbone x",
                                      "train --backbone x",
                                      "info --backbone x --nonsense 1",
                                      "info --backbone x --threads many",
                                      "info --backbone x --dtype float16",
                                      "info --backbone x --sha256 12ab",
                                      "train --backbone x --out y --steps 0",
                                      "train --backbone x --out y --learning-rate fast",
                                      "train --backbone x --out y --loss-averaging median"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        assert_int_equal(run("%s", bad[i]), 2);
        assert_memory_equal(output, "ERROR: ", 7);
    }
    assert_int_equal(run("info --backbone /nonexistent/x"), 1);
    assert_non_null(strstr(output, "/nonexistent/x"));
    assert_int_equal(run("--version"), 0);
    assert_memory_equal(output, "ia3_engine ", 11);
    assert_int_equal(run("--help"), 0);
    assert_non_null(strstr(output, "--max-batch-tokens"));
}

/* A checkpoint that should have a head of its own and has none is used with the embedding, but not without a word. */
static void
test_missing_head(void **state)
{
    char command[600];
    const char *warning = "\"lm_head.weight\" is missing although \"tie_word_embeddings\" is false";
    snprintf(
        command, sizeof command,
        "cp -r test/backbone %s/untied && sed -i 's/\"tie_word_embeddings\": true/\"tie_word_embeddings\": "
        "false/' %s/untied/config.json",
        directory, directory);
    assert_int_equal(system(command), 0);
    assert_int_equal(run("info --backbone %s/untied", directory), 0);
    assert_non_null(strstr(output, "WARNING: "));
    assert_non_null(strstr(output, warning));
    assert_int_equal(run("info --backbone test/backbone"), 0);
    assert_null(strstr(output, "WARNING: "));
}

/* What check says of memory is what the weights take when they are loaded. */
static void
test_check_memory(void **state)
{
    static const char *const dtypes[] = {"float32", "bfloat16", "int8"};

    for (size_t i = 0; i < sizeof dtypes / sizeof dtypes[0]; i++) {
        char expected[60];
        assert_int_equal(run("info --backbone test/backbone --dtype %s", dtypes[i]), 0);
        const char *bytes = strstr(output, "\nbytes\t");
        assert_non_null(bytes);
        snprintf(expected, sizeof expected, "\nmemory in %s: %ld MB\n", dtypes[i],
                 (atol(bytes + 7) + 999999) / 1000000);
        assert_int_equal(run("check test/backbone"), 0);
        assert_non_null(strstr(output, expected));
    }
}

static void
test_check(void **state)
{
    assert_int_equal(run("check test/backbone --threads 1"), 0);
    assert_non_null(strstr(output, "\nlayers: 6 + 2\n"));
    assert_non_null(strstr(output, "\nmemory in float32: 40 MB\n"));
    assert_non_null(strstr(output, "\ntokens: 112 4 70 143 "));
    assert_non_null(strstr(output, "\nscores: sport -3."));
    assert_non_null(
        strstr(output, "\ndigest: 3f4dc0cacd363edef2b873c3316cc5a6e330ea29b77cb092d610835d625f558e\n"));
    assert_null(strstr(output, "warning: "));
    assert_int_equal(run("check --backbone test/backbone --memory-limit 1000000"), 0);
    assert_non_null(strstr(output, "\nwarning: not loaded on this machine: "));
    assert_int_equal(run("check test/golden/t5-relu-tied"), 1);
    assert_non_null(strstr(output, "\nlayers: 2 + 2\n"));
    assert_non_null(strstr(output, "\nerror: "));
    assert_int_equal(run("check /nonexistent/x"), 1);
    assert_memory_equal(output, "error: could not open backbone \"/nonexistent/x\": ", 49);
}

static void
test_info_and_tokenize(void **state)
{
    assert_int_equal(run("info" BACKBONE), 0);
    assert_non_null(strstr(output, "model_type\tt5\n"));
    assert_non_null(strstr(output, "dtype\tfloat32\n"));
    const char *digest = strstr(output, "digest\t");
    assert_non_null(digest);
    assert_int_equal(strspn(digest + 7, "0123456789abcdef"), 64);
    char sha256[65] = "";
    memcpy(sha256, digest + 7, 64);
    assert_int_equal(run("info" BACKBONE "--sha256 %s", sha256), 0);
    sha256[63] = sha256[63] == '0' ? '1' : '0';
    assert_int_equal(run("info" BACKBONE "--sha256 %s", sha256), 1);
    assert_non_null(strstr(output, "the backbone's digest is not the one that is expected"));
    assert_int_equal(run("tokenize" BACKBONE "'Hello </s>'"), 0);
    assert_non_null(strstr(output, "\t1\t</s>\n"));
    assert_ptr_equal(strstr(output, "</s>"), output + strlen(output) - 5); /* once, at the end */
}

/* Trains on four lines and then scores them, which must yield their labels. */
static void
test_train_and_score(void **state)
{
    write_file("train.tsv", "the soup was cold and the waiter rude\tbad\n"
                            "best pizza in town, lovely place\tgood\n"
                            "never again, awful food\tbad\n"
                            "we had a wonderful evening\tgood\n");
    write_file("lines", "the soup was cold and the waiter rude\nbest pizza in town, lovely place\n\n");
    assert_int_equal(run("train" BACKBONE
                         "--steps 60 --batch-size 4 --learning-rate 0.02 --choices 'good|bad' --out "
                         "%s/a.safetensors < %s/train.tsv",
                         directory, directory),
                     0);
    json_error_t e;
    json_t *metrics = json_loads(strchr(output, '{'), JSON_DISABLE_EOF_CHECK, &e);
    assert_non_null(metrics);
    assert_int_equal(json_integer_value(json_object_get(metrics, "steps")), 60);
    assert_int_equal(json_integer_value(json_object_get(metrics, "examples")), 4);
    json_decref(metrics);

    assert_int_equal(run("score" BACKBONE "--choices 'good|bad' --adapter %s/a.safetensors < %s/lines",
                         directory, directory),
                     0);
    char best[3][20];
    double scores[3][2];
    assert_int_equal(sscanf(output, "%19s %lf %lf %19s %lf %lf %19s %lf %lf", best[0], &scores[0][0],
                            &scores[0][1], best[1], &scores[1][0], &scores[1][1], best[2], &scores[2][0],
                            &scores[2][1]),
                     9);
    assert_string_equal(best[0], "bad");
    assert_string_equal(best[1], "good");
    assert_true(scores[0][1] > scores[0][0] && scores[1][0] > scores[1][1]);

    /* without the adapter the scores are different; with a smaller budget they are the same */
    char with[sizeof output];
    strcpy(with, output);
    assert_int_equal(run("score" BACKBONE
                         "--choices 'good|bad' --max-batch-tokens 1 --adapter %s/a.safetensors < %s/lines",
                         directory, directory),
                     0);
    double alone;
    assert_int_equal(sscanf(output, "%*s %lf", &alone), 1);
    assert_true(fabs(alone - scores[0][0]) < 1e-4);
    assert_int_equal(run("score" BACKBONE "--choices 'good|bad' < %s/lines", directory), 0);
    assert_string_not_equal(output, with);
}

static void
test_bad_input(void **state)
{
    write_file("junk", "this is no adapter");
    write_file("lines", "text\n");
    write_file("no_tab", "text and no label\n");
    write_file("label", "text\tneither\n");
    write_file("empty", "");
    static const struct {
        const char *arguments, *file, *word;
    } cases[] = {{"score --choices 'a|b' --adapter D/junk", "lines", "adapter"},
                 {"score --choices 'a|b' --adapter D/none", "lines", "could not read"},
                 {"score --choices 'a|a'", "lines", "given twice"},
                 {"score --choices 'a|'", "lines", "choice 2 is empty"},
                 {"train --choices 'a|b' --out D/x", "no_tab", "line 1"},
                 {"train --choices 'a|b' --out D/x", "label", "neither"},
                 {"train --choices 'a|b' --out D/x", "empty", "no examples"},
                 {"train --choices 'a|b' --out D/x --learning-rate -1", "label", "learning_rate"},
                 {"train --choices 'a|neither' --steps 1 --out /nonexistent/x", "label", "could not write"}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char arguments[300] = "";
        for (const char *p = cases[i].arguments; *p; p++) /* D stands for the directory */
            snprintf(arguments + strlen(arguments), sizeof arguments - strlen(arguments),
                     *p == 'D' ? "%s" : "%.1s", *p == 'D' ? directory : p);
        assert_int_equal(run("%s" BACKBONE "< %s/%s", arguments, directory, cases[i].file), 1);
        assert_non_null(strstr(output, "ERROR: "));
        assert_non_null(strstr(output, cases[i].word));
    }
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_check),
        cmocka_unit_test(test_check_memory),
        cmocka_unit_test(test_mistakes),
        cmocka_unit_test(test_missing_head),
        cmocka_unit_test(test_info_and_tokenize),
        cmocka_unit_test(test_train_and_score),
        cmocka_unit_test(test_bad_input),
    };
    alarm(1200);
    return cmocka_run_group_tests_name("cli", tests, make_directory, remove_directory);
}
