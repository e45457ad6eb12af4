/*
 * test_safetensors.c
 *     The safetensors container: errors and their messages, reading, and the exact bytes of writing.
 */
#include "file_fixture.h"

#include "engine/files/safetensors.h"

static ia3_safetensors *
parse(buffer b, ia3_error *err)
{
    memset(err, 0, sizeof *err);
    return ia3_safetensors_parse(b.data, b.len, "f", IA3_E_BAD_ADAPTER, err);
}

#define T(name, dtype, shape, offsets)                                                                       \
    "\"" name "\":{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":" offsets "}"

/* Each header comes with 8 bytes of data. */
static void
test_refused(void **state)
{
    static const struct {
        const char *header, *message;
    } cases[] = {
        {"[]", "f: header does not begin with \"{\""},
        {" {}", "f: header does not begin with \"{\""},
        {"{}", "f: 8 bytes after the last tensor do not belong to any tensor"},
        {"{\"a\":1}", "f: tensor \"a\" is not described by an object"},
        {"{\"a\":{}}", "f: tensor \"a\": \"dtype\" is missing or not a string"},
        {"{\"a\":{\"dtype\":4}}", "f: tensor \"a\": \"dtype\" is missing or not a string"},
        {"{\"a\":{\"dtype\":\"F32\"}}", "f: tensor \"a\": \"shape\" is missing or not a list"},
        {"{" T("a", "F32", "2", "[0,8]") "}", "f: tensor \"a\": \"shape\" is missing or not a list"},
        {"{" T("a", "F32", "[2.0]", "[0,8]") "}", "f: tensor \"a\": \"shape\" contains an invalid dimension"},
        {"{" T("a", "F32", "[-2]", "[0,8]") "}", "f: tensor \"a\": \"shape\" contains an invalid dimension"},
        {"{" T("a", "F32", "[1,1,1,1,1,1,1,1,2]", "[0,8]") "}",
         "f: tensor \"a\": \"shape\" has 9 dimensions, more than 8"},
        {"{" T("a", "F32", "[4294967296,4294967296,4294967296]", "[0,8]") "}",
         "f: tensor \"a\": \"shape\" overflows"},
        {"{" T("a", "F32", "[4611686018427387906]", "[0,8]") "}", /* times 4 is 8 modulo 2^64 */
         "f: tensor \"a\": \"shape\" and \"dtype\" do not match the 8 bytes of \"data_offsets\""},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2]}}",
         "f: tensor \"a\": \"data_offsets\" is not a pair of ordered offsets"},
        {"{" T("a", "F32", "[2]", "[0,8,8]") "}",
         "f: tensor \"a\": \"data_offsets\" is not a pair of ordered offsets"},
        {"{" T("a", "F32", "[2]", "[8,0]") "}",
         "f: tensor \"a\": \"data_offsets\" is not a pair of ordered offsets"},
        {"{" T("a", "F32", "[2]", "[-8,0]") "}",
         "f: tensor \"a\": \"data_offsets\" is not a pair of ordered offsets"},
        {"{" T("a", "F32", "[3]", "[0,12]") "}",
         "f: tensor \"a\": \"data_offsets\" end at byte 12, but there are only 8"},
        {"{" T("a", "F32", "[2]", "[9223372036854775800,9223372036854775807]") "}",
         "f: tensor \"a\": \"data_offsets\" end at byte 9223372036854775807, but there are only 8"},
        {"{" T("a", "F32", "[1]", "[0,8]") "}",
         "f: tensor \"a\": \"shape\" and \"dtype\" do not match the 8 bytes of \"data_offsets\""},
        {"{" T("a", "BF16", "[2]", "[0,8]") "}",
         "f: tensor \"a\": \"shape\" and \"dtype\" do not match the 8 bytes of \"data_offsets\""},
        {"{" T("a", "I64", "[2]", "[0,8]") "}",
         "f: tensor \"a\": \"shape\" and \"dtype\" do not match the 8 bytes of \"data_offsets\""},
        {"{" T("a", "F32", "[1]", "[4,8]") "}",
         "f: tensor \"a\": \"data_offsets\" leave a gap before the tensor"},
        {"{" T("a", "F32", "[1]", "[0,4]") "}",
         "f: 4 bytes after the last tensor do not belong to any tensor"},
        {"{" T("a", "F32", "[2]", "[0,8]") "," T("b", "F32", "[1]", "[4,8]") "}",
         "f: tensor \"b\": \"data_offsets\" overlap with those of \"a\""},
        {"{" T("b", "F32", "[2]", "[0,8]") "," T("a", "F32", "[2]", "[0,8]") "}",
         "f: tensor \"b\": \"data_offsets\" overlap with those of \"a\""},
        {"{" T("a", "F16", "[1]", "[0,2]") "," T("b", "F32", "[1]", "[4,8]") "}",
         "f: tensor \"b\": \"data_offsets\" leave a gap before the tensor"},
        {"{\"__metadata__\":[]," T("a", "F32", "[2]", "[0,8]") "}", "f: \"__metadata__\" is not an object"},
        {"{\"__metadata__\":{\"n\":1}," T("a", "F32", "[2]", "[0,8]") "}",
         "f: \"__metadata__\": the value of \"n\" is not a string"},
    };

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        buffer b = make_safetensors(cases[i].header, strlen(cases[i].header), "12345678", 8);
        ia3_error err;

        assert_null(parse(b, &err));
        assert_int_equal(err.code, IA3_E_BAD_ADAPTER);
        assert_string_equal(err.message, cases[i].message);
        free(b.data);
    }
}

/* Errors in the JSON itself; the text after the position comes from the library. */
static void
test_refused_json(void **state)
{
    static const char *const cases[] = {
        "{",
        "{\"a\"",
        "{" T("a", "F32", "[2]", "[0,8]"),
        "{" T("a", "F32", "[2]", "[0,8]") "} x",
        "{" T("a", "F32", "[2]", "[0,8]") "," T("a", "F32", "[2]", "[0,8]") "}",
        "{" T("a\\u0000b", "F32", "[2]", "[0,8]") "}",
        "{" T("a\xff", "F32", "[2]", "[0,8]") "}",
        "{" T("a", "F32", "[18446744073709551616]", "[0,8]") "}",
        "{" T("a", "F32", "[2],\"shape\":[2]", "[0,8]") "}",
    };

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        buffer b = make_safetensors(cases[i], strlen(cases[i]), "12345678", 8);
        ia3_error err;

        assert_null(parse(b, &err));
        assert_memory_equal(err.message, "f: invalid JSON in the header at byte ", 38);
        free(b.data);
    }
}

static void
test_refused_frame(void **state)
{
    static const struct {
        uint8_t bytes[12];
        size_t len;
        const char *message;
    } cases[] = {
        {"", 0, "f: 0 bytes are too few for a safetensors file"},
        {{2}, 7, "f: 7 bytes are too few for a safetensors file"},
        {{0}, 8, "f: header does not begin with \"{\""},
        {{5, 0, 0, 0, 0, 0, 0, 0, '{', '}', ' ', ' '},
         12,
         "f: header length 5 exceeds the 4 bytes that follow it"},
        {{1, 0xe1, 0xf5, 5, 0, 0, 0, 0, '{'},
         9,
         "f: header length 100000001 exceeds the limit of 2000000 bytes"},
        {{255, 255, 255, 255, 255, 255, 255, 255, '{'},
         9,
         "f: header length 18446744073709551615 exceeds the limit of 2000000 bytes"},
    };

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        buffer b = buffer_copy(cases[i].bytes, cases[i].len);
        ia3_error err;

        assert_null(parse(b, &err));
        assert_string_equal(err.message, cases[i].message);
        free(b.data);
    }
}

/* What people have in place of a safetensors file is called by its name, with what to do. */
static void
test_other_formats(void **state)
{
    static const struct {
        const char *bytes, *detail, *hint;
    } cases[] = {
        {"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n", "Git LFS pointer",
         "git lfs pull"},
        {"PK\003\004 archive/data.pkl", "PyTorch", "end in \".bin\""},
        {"\200\002}q.........", "PyTorch", "end in \".bin\""},
        {"<!DOCTYPE html><html>", "HTML", "Download"},
        {"{\"peft_type\": \"IA3\"}", "JSON", ".safetensors"},
    };

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        buffer b = buffer_copy(cases[i].bytes, strlen(cases[i].bytes));
        ia3_error err;

        assert_null(parse(b, &err));
        assert_non_null(strstr(err.detail, cases[i].detail));
        assert_non_null(strstr(err.hint, cases[i].hint));
        free(b.data);
    }

    /* other bytes are left unexplained */
    buffer b = buffer_copy("anything else", 13);
    ia3_error err;

    assert_null(parse(b, &err));
    assert_string_equal(err.detail, "");
    free(b.data);
}

static void
test_read(void **state)
{
    /* Different orders in file and header, an empty tensor, a scalar, unsupported dtypes. */
    const char *header = "{" T("c", "F4_X", "[7]", "[6,9]") "," T(
        "z", "F32", "[0,3]", "[4,4]") ","
                                      "\"__metadata__\":{\"format\":\"pt\",\"a\":\"b\"}," T(
                                          "b", "BF16", "[1,1]", "[4,6]") "," T("a", "F32", "[]",
                                                                               "[0,4]") "}   ";
    buffer b = make_safetensors(header, strlen(header), "123456789", 9);
    ia3_error err;
    ia3_safetensors *st = parse(b, &err);

    assert_non_null(st);
    assert_int_equal(st->n, 4);
    assert_string_equal(st->tensors[0].name, "a");
    assert_string_equal(st->tensors[1].name, "z");
    assert_string_equal(st->tensors[2].name, "b");
    assert_string_equal(st->tensors[3].name, "c");
    assert_int_equal(st->tensors[0].ndim, 0);
    assert_int_equal(st->tensors[0].dtype, IA3_F32);
    assert_int_equal(st->tensors[1].bytes, 0);
    assert_int_equal(st->tensors[1].shape[1], 3);
    assert_int_equal(st->tensors[3].dtype, IA3_AUTO);
    assert_int_equal(st->n_metadata, 2);
    assert_string_equal(st->metadata_keys[1], "a");
    assert_string_equal(st->metadata_values[1], "b");

    const ia3_st_tensor *t = ia3_safetensors_find(st, "b");

    assert_ptr_equal(t, &st->tensors[2]);
    assert_int_equal(t->dtype, IA3_BF16);
    assert_int_equal(t->bytes, 2);
    assert_memory_equal(t->data, "56", 2);
    assert_null(ia3_safetensors_find(st, "__metadata__"));
    assert_null(ia3_safetensors_find(st, ""));
    ia3_safetensors_free(st);
    free(b.data);
}

/* Every truncated file is an error, and nothing beyond its end is read. */
static void
test_truncated(void **state)
{
    buffer whole = read_whole("test/golden/t5-relu-tied/adapter/adapter_model.safetensors");

    for (size_t n = 0; n < whole.len; n += n < 600 ? 1 : 97) {
        buffer b = buffer_copy(whole.data, n);
        ia3_error err;

        assert_null(parse(b, &err));
        assert_int_equal(err.code, IA3_E_BAD_ADAPTER);
        free(b.data);
    }
    free(whole.data);
}

/* Expected bytes: python's safetensors 0.8.0, save({...}, metadata={"format": "pt"}). */
static void
test_write(void **state)
{
    static const float x[] = {1, -2}, y[] = {0.5f};
    const ia3_st_out tensors[] = {{"b.ia3_l", 2, {2, 1}, x}, {"a\"\n", 1, {1, 0}, y}, {"B", 2, {0, 5}, x}};
    const char *header =
        "{\"__metadata__\":{\"format\":\"pt\"},\"B\":{\"dtype\":\"F32\",\"shape\":[0,5],"
        "\"data_offsets\":[0,0]},\"a\\\"\\n\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":"
        "[0,4]},\"b.ia3_l\":{\"dtype\":\"F32\",\"shape\":[2,1],\"data_offsets\":[4,12]}}";
    char padded[400];
    size_t header_len = (strlen(header) + 7) / 8 * 8, len;
    uint8_t *out = ia3_safetensors_write(tensors, 3, &len);
    ia3_error err;

    snprintf(padded, sizeof padded, "%-*s", (int) header_len, header);

    buffer expected = make_safetensors(padded, header_len, "\0\0\0\x3f\0\0\x80\x3f\0\0\0\xc0", 12);

    assert_int_equal(len, expected.len);
    assert_memory_equal(out, expected.data, len);

    ia3_safetensors *st = ia3_safetensors_parse(out, len, "f", IA3_E_BAD_ADAPTER, &err);

    assert_non_null(st);
    assert_memory_equal(ia3_safetensors_find(st, "b.ia3_l")->data, x, sizeof x);
    ia3_safetensors_free(st);
    free(expected.data);
    free(out);
    out = ia3_safetensors_write(NULL, 0, &len);
    assert_int_equal(len, 8 + 32);
    assert_memory_equal(out + 8, "{\"__metadata__\":{\"format\":\"pt\"}}", 32);
    free(out);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_refused),       cmocka_unit_test(test_refused_json),
        cmocka_unit_test(test_refused_frame), cmocka_unit_test(test_other_formats),
        cmocka_unit_test(test_read),          cmocka_unit_test(test_truncated),
        cmocka_unit_test(test_write),
    };

    return cmocka_run_group_tests_name("safetensors", tests, NULL, NULL);
}
