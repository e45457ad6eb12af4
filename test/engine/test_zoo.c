/*
 * test_zoo.c
 *     Small checkpoints in the layouts that people have: each scores as transformers does, or is refused with a reason
 *     (test/zoo/README.md).
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <dirent.h>
#include <jansson.h>
#include <math.h>
#include <regex.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

#include "engine_client.h"

#define CASES     "test/zoo/cases/"
#define MAX_CASES 200
#define TOLERANCE 1e-4

static char output[65536];

/* Runs the engine with these arguments and a file as standard input; returns the exit status. */
static int
run(const char *input, const char *format, ...)
{
    char command[3000], arguments[2000], path[600];
    va_list list;
    va_start(list, format);
    vsnprintf(arguments, sizeof arguments, format, list);
    va_end(list);
    test_engine_path(path, sizeof path);
    snprintf(command, sizeof command, "cut -f 1 %s | tail -n +2 | %s %s 2>&1", input, path, arguments);
    FILE *f = popen(command, "r");
    size_t n = fread(output, 1, sizeof output - 1, f);
    output[n] = '\0';
    int status = pclose(f);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

/* A text of about.json, malloc'd, or NULL. */
static char *
about(const char *name, const char *key)
{
    char path[300];
    snprintf(path, sizeof path, CASES "%s/about.json", name);
    json_t *root = json_load_file(path, 0, NULL);
    const char *value = json_string_value(json_object_get(root, key));
    char *copy = value ? strdup(value) : NULL;
    json_decref(root);
    return copy;
}

static void
assert_matches(const char *pattern)
{
    regex_t regex;
    assert_int_equal(regcomp(&regex, pattern, REG_EXTENDED | REG_NOSUB), 0);
    if (regexec(&regex, output, 0, NULL, 0) != 0)
        fail_msg("\"%s\" is not in:\n%s", pattern, output);
    regfree(&regex);
}

/* Compares the last lines of the output with the file's, but for the first column, which is the choice in one and the input in
 * the other. */
static void
compare_scores(FILE *expected)
{
    char line[1000], *mine = output;
    while (strncmp(mine, "WARNING: ", 9) == 0 || strncmp(mine, "LOG: ", 5) == 0)
        mine = strchr(mine, '\n') + 1;
    int n = 0;
    while (fgets(line, sizeof line, expected)) {
        char *theirs = strchr(line, '\t');
        char *end = strchr(mine, '\n');
        assert_non_null(theirs);
        assert_non_null(end);
        mine = strchr(mine, '\t');
        while (theirs != NULL) {
            assert_true(mine != NULL && mine < end);
            double a = strtod(mine + 1, &mine), b = strtod(theirs + 1, &theirs);
            if (!(fabs(a - b) <= TOLERANCE))
                fail_msg("line %d: %f, but transformers computes %f", n + 1, a, b);
            theirs = *theirs == '\t' ? theirs : NULL;
        }
        mine = end + 1;
        n++;
    }
    assert_true(n > 0);
}

static void
test_case(void **state)
{
    const char *name = *state;
    char input[300], choices[200];
    char *error = about(name, "error"), *warning = about(name, "warning"), *below = about(name, "path");
    if (error != NULL) {
        assert_int_equal(run("/dev/null", "check " CASES "%s", name), 1);
        assert_matches("^error: |\nerror: ");
        assert_matches(error);
    } else {
        snprintf(input, sizeof input, CASES "%s/expected.tsv", name);
        FILE *f = fopen(input, "r");
        assert_non_null(f);
        assert_non_null(fgets(choices, sizeof choices, f));
        choices[strcspn(choices, "\n")] = '\0';
        if (run(input, "score --backbone " CASES "%s/%s --dtype float32 --threads 1 --choices '%s'", name,
                below ? below : ".", choices) != 0)
            fail_msg("%s", output);
        if (warning != NULL)
            assert_matches(warning);
        compare_scores(f);
        fclose(f);
    }
    free(error);
    free(warning);
    free(below);
}

static int
compare_names(const void *a, const void *b)
{
    return strcmp(*(char *const *) a, *(char *const *) b);
}

int
main(void)
{
    static char *names[MAX_CASES];
    static struct CMUnitTest tests[MAX_CASES];
    size_t n = 0;
    DIR *d = opendir(CASES);
    for (struct dirent *e; d != NULL && n < MAX_CASES && (e = readdir(d)) != NULL;)
        if (e->d_name[0] != '.')
            names[n++] = strdup(e->d_name);
    if (d != NULL)
        closedir(d);
    qsort(names, n, sizeof *names, compare_names);
    for (size_t i = 0; i < n; i++)
        tests[i] = (struct CMUnitTest){.name = names[i], .test_func = test_case, .initial_state = names[i]};
    int failed = n > 0 ? _cmocka_run_group_tests("zoo", tests, n, NULL, NULL) : 1;
    for (size_t i = 0; i < n; i++)
        free(names[i]);
    return failed;
}
