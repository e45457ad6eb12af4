/*
 * test_json_file.c
 *     What Python writes and reads beyond JSON, and that nothing else is accepted.
 */
#include "file_fixture.h"

#include "engine/files/json_file.h"

static json_t *
parse(const char *text, ia3_error *err)
{
    buffer b = buffer_copy(text, strlen(text)); /* not terminated */

    memset(err, 0, sizeof *err);

    json_t *root = ia3_json_parse((const char *) b.data, b.len, "f.json", err);

    free(b.data);
    return root;
}

/* In an array: JSON, and the same after rewriting. */
static void
test_values(void **state)
{
    static const struct {
        const char *written, *read;
    } cases[] = {
        {"1000000000000000019884624838656", "1e30"},
        {"-1000000000000000019884624838656", "-1e30"},
        {"999999999999999999", "999999999999999999"},
        {"[9223372036854775808]", "[9.22e18]"},
        {"NaN,Infinity , -Infinity", "\"NaN\", \"Infinity\", \"-Infinity\""},
        {"1e309", "\"Infinity\""},
        {"-1e999, 2", "\"-Infinity\", 2"},
        {"1e-999", "0.0"},
        {"\"NaN -Infinity 1e999 12345678901234567890\"", "\"NaN -Infinity 1e999 12345678901234567890\""},
        {"\"\\\"NaN\", NaN", "\"\\\"NaN\", \"NaN\""},
        {"\"\\\\\", NaN", "\"\\\\\", \"NaN\""},
        {"{\"a\": 1, \"b\": 2, \"a\": 3}", "{\"a\": 3, \"b\": 2}"},
    };

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char text[256], expected[256];
        ia3_error err;

        snprintf(text, sizeof text, "%s{\"x\": [%s]}", i % 2 ? "\xef\xbb\xbf" : "", cases[i].written);
        snprintf(expected, sizeof expected, "[%s]", cases[i].read);

        json_t *root = parse(text, &err);

        assert_non_null(root);

        char *dump = json_dumps(json_object_get(root, "x"), JSON_REAL_PRECISION(3));

        assert_string_equal(dump, expected);
        free(dump);
        json_decref(root);
    }

    char *digits = malloc(1000);
    ia3_error err;

    memset(digits, '7', 1000);
    memcpy(digits, "{\"x\":", 5);
    memcpy(digits + 998, "}", 2);

    json_t *root = parse(digits, &err);

    assert_string_equal(json_string_value(json_object_get(root, "x")), "Infinity");
    json_decref(root);
    free(digits);
}

static void
test_refused(void **state)
{
    static const struct {
        const char *text, *message;
    } cases[] = {
        {"", "f.json: invalid JSON in line 1: "},
        {"[1]", "f.json: not a JSON object"},
        {"NaN", "f.json: invalid JSON in line 1: "},
        {"{\n\"x\": nan}", "f.json: invalid JSON in line 2: "},
        {"{\"x\": -}", "f.json: invalid JSON in line 1: "},
        {"{\"x\": 0012345678901234567890}", "f.json: invalid JSON in line 1: "},
        {"{\"x\": 1234567890-1234567890}", "f.json: invalid JSON in line 1: "},
        {"{\"x\": \"\\", "f.json: invalid JSON in line 1: "},
        {"{\"x\": 1} {", "f.json: invalid JSON in line 1: "},
        {"{\"x\": 1}\xef\xbb\xbf", "f.json: invalid JSON in line 1: "},
    };

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        ia3_error err;

        assert_null(parse(cases[i].text, &err));
        assert_int_equal(err.code, IA3_E_BAD_CHECKPOINT);
        assert_memory_equal(err.message, cases[i].message, strlen(cases[i].message));
    }
}

static void
test_files(void **state)
{
    char path[64], file[128], *directory = make_directory(path);
    ia3_error err = {0};

    snprintf(file, sizeof file, "%s/f.json", directory);
    assert_null(ia3_json_read(file, 100, &err));
    assert_non_null(strstr(err.message, "f.json\": No such file or directory"));
    write_in(directory, "f.json", "{\"x\": 1}", 8);

    json_t *root = ia3_json_read(file, 8, &(ia3_error){0});

    assert_int_equal(json_integer_value(json_object_get(root, "x")), 1);
    json_decref(root);
    memset(&err, 0, sizeof err);
    assert_null(ia3_json_read(file, 7, &err));
    assert_string_equal(message_within(&err, directory), "f.json: size of 8 bytes exceeds the limit of 7");
    remove_directory(directory);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_values),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_files),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
