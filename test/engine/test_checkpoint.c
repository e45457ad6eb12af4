/*
 * test_checkpoint.c
 *     Checkpoint directories: the golden ones, and copies of them with one part broken or moved.
 */
#include "file_fixture.h"

#include <fcntl.h>
#include <math.h>

#include "engine/base/half.h"
#include "engine/files/checkpoint.h"
#include "engine/files/state_dict.h"

#define GOLDEN "test/golden/"

static void
digest_of(const char *directory, uint8_t digest[IA3_DIGEST_LEN])
{
    ia3_error err = {0};
    ia3_checkpoint *ck = ia3_checkpoint_open(directory, &err);

    if (ck == NULL)
        fail_msg("%s: %s", directory, err.message);
    assert_true(ia3_checkpoint_digest(ck, digest, NULL, NULL, &err));
    ia3_checkpoint_close(ck);
}

static void
test_golden(void **state)
{
    static const struct {
        const char *name;
        bool tied;
        ia3_dtype dtype;
    } cases[] = {{"t5-relu-tied", true, IA3_F32},         {"t5-gated-untied", false, IA3_F32},
                 {"t5-erf-gelu-sharded", false, IA3_F32}, {"umt5-bias-per-layer", false, IA3_F32},
                 {"mt5-own-head", false, IA3_F32},        {"madlad-embedding", false, IA3_F32},
                 {"t5-stored-bf16", false, IA3_BF16},     {"t5-stored-fp16", false, IA3_F16}};

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char directory[128];
        ia3_error err = {0};

        snprintf(directory, sizeof directory, GOLDEN "%s", cases[i].name);

        ia3_checkpoint *ck = ia3_checkpoint_open(directory, &err);

        if (ck == NULL)
            fail_msg("%s: %s", directory, err.message);

        const ia3_config *c = ia3_checkpoint_config(ck);
        const ia3_host_tensor *embedding = ia3_checkpoint_embedding(ck), *head = ia3_checkpoint_head(ck);
        const ia3_host_tensor *norm = ia3_checkpoint_tensor(ck, "decoder.final_layer_norm.weight");

        assert_int_equal(embedding->rows, c->vocab_size);
        assert_int_equal(embedding->cols, c->d_model);
        assert_int_equal(embedding->dtype, cases[i].dtype);
        assert_int_equal(embedding == head, cases[i].tied);
        assert_int_equal(norm->rows, 1);
        assert_int_equal(norm->cols, c->d_model);
        assert_null(ia3_checkpoint_tensor(ck, "decoder.final_layer_norm"));
        assert_int_equal(ia3_checkpoint_tensor(
                             ck, "encoder.block.1.layer.0.SelfAttention.relative_attention_bias.weight") !=
                             NULL,
                         c->bias_every_layer);
        ia3_checkpoint_close(ck);
    }
}

/* A copy of t5-relu-tied with one replacement in a file. */
static const struct {
    const char *file, *from, *to, *message;
} broken[] = {
    {"config.json", "\"d_ff\": 48", "\"d_ff\": 47",
     "model.safetensors: tensor \"encoder.block.0.layer.1.DenseReluDense.wi.weight\": \"shape\" is [48, 32], "
     "but "
     "config.json requires [47, 32]"},
    {"config.json", "\"vocab_size\": 128", "\"vocab_size\": 127",
     "model.safetensors: tensor \"shared.weight\": \"shape\" is [128, 32], but config.json requires [127, "
     "32]"},
    {"config.json", "\"num_layers\": 2", "\"num_layers\": 3",
     "model.safetensors: tensor \"encoder.block.2.layer.0.SelfAttention.q.weight\" is missing"},
    {"config.json", "\"relu\"", "\"gated-gelu\"",
     "model.safetensors: tensor \"encoder.block.0.layer.1.DenseReluDense.wi_0.weight\" is missing"},
    {"config.json", "\"t5\"", "\"umt5\"",
     "model.safetensors: tensor \"encoder.block.1.layer.0.SelfAttention.relative_attention_bias.weight\" is "
     "missing"},
    {"config.json", "\"t5\"", "\"bart\"", "config.json: \"model_type\" is \"bart\", which is not supported"},
    {"model.safetensors", "\"shared.weight\"", "\"shared.height\"",
     "model.safetensors: tensor \"shared.weight\" is missing"},
    {"model.safetensors", "\"encoder.final_layer_norm.weight\"", "\"encoder.final\"",
     "model.safetensors: tensor \"encoder.final_layer_norm.weight\" is missing"},
    {"model.safetensors", "\"decoder.final_layer_norm.weight\":{\"dtype\":\"F32\",\"shape\":[32]",
     "\"decoder.final_layer_norm.weight\":{\"dtype\":\"F32\",\"shape\":[4,8]",
     "model.safetensors: tensor \"decoder.final_layer_norm.weight\": \"shape\" is [4, 8], but config.json "
     "requires "
     "[32]"},
    {"model.safetensors", "\"decoder.final_layer_norm.weight\":{\"dtype\":\"F32\",\"shape\":[32]",
     "\"decoder.final_layer_norm.weight\":{\"dtype\":\"F32\",\"shape\":[1,32]",
     "model.safetensors: tensor \"decoder.final_layer_norm.weight\": \"shape\" is [1, 32], but config.json "
     "requires "
     "[32]"},
    {"model.safetensors", "\"decoder.final_layer_norm.weight\":{\"dtype\":\"F32\"",
     "\"decoder.final_layer_norm.weight\":{\"dtype\":\"I32\"",
     "model.safetensors: tensor \"decoder.final_layer_norm.weight\": \"dtype\" is not F32, BF16, F16 or F64"},
    {"model.safetensors", "\"shape\":[128,32]", "\"shape\":[64,32]",
     "model.safetensors: tensor \"shared.weight\": \"shape\" and \"dtype\" do not match the 16384 "
     "bytes "
     "of \"data_offsets\""},
};

static buffer
edit(buffer b, const char *file, const char *from, const char *to)
{
    if (strcmp(file, "model.safetensors") == 0)
        return edit_header(b, from, to);

    char *text = replace_text((const char *) b.data, b.len, from, to);
    buffer out = buffer_copy(text, strlen(text));

    free(text);
    return out;
}

static void
test_broken(void **state)
{
    for (size_t i = 0; i < sizeof broken / sizeof broken[0]; i++) {
        char path[64], *directory = make_directory(path);
        buffer b = read_in(GOLDEN "t5-relu-tied", broken[i].file), edited;
        ia3_error err = {0};

        copy_in(GOLDEN "t5-relu-tied", directory, "config.json");
        copy_in(GOLDEN "t5-relu-tied", directory, "model.safetensors");
        edited = edit(b, broken[i].file, broken[i].from, broken[i].to);
        write_in(directory, broken[i].file, edited.data, edited.len);
        assert_null(ia3_checkpoint_open(directory, &err));
        assert_int_equal(err.code, IA3_E_BAD_CHECKPOINT);
        assert_string_equal(message_within(&err, directory), broken[i].message);
        free(edited.data);
        free(b.data);
        remove_directory(directory);
    }
}

static void
test_files(void **state)
{
    char path[64], *directory = make_directory(path), expected[256];
    ia3_error err = {0};
    buffer b = read_in(GOLDEN "t5-relu-tied", "model.safetensors");

    assert_null(ia3_checkpoint_open("/nonexistent/backbone", &err));
    assert_string_equal(
        err.message, "could not open file \"/nonexistent/backbone/config.json\": No such file or directory");
    copy_in(GOLDEN "t5-relu-tied", directory, "config.json");
    err.code = 0;
    assert_null(ia3_checkpoint_open(directory, &err));
    snprintf(expected, sizeof expected, "directory \"%s\" has no weights", directory);
    assert_string_equal(err.message, expected);
    write_in(directory, "pytorch_model.bin", "PK", 2);
    err.code = 0;
    assert_null(ia3_checkpoint_open(directory, &err));
    snprintf(expected, sizeof expected, "%s/pytorch_model.bin: it is not a file of PyTorch", directory);
    assert_string_equal(err.message, expected);
    for (size_t len = 0; len < b.len; len += 1 + b.len / 23) {
        write_in(directory, "model.safetensors", b.data, len);
        err.code = 0;
        assert_null(ia3_checkpoint_open(directory, &err));
        assert_int_equal(err.code, IA3_E_BAD_CHECKPOINT);
        assert_memory_equal(message_within(&err, directory), "model.safetensors: ", 19);
    }
    free(b.data);
    snprintf(expected, sizeof expected, "%s/model.safetensors", directory);
    remove(expected);
    assert_int_equal(mkfifo(expected, 0600), 0);
    err.code = 0;
    assert_null(ia3_checkpoint_open(directory, &err));
    assert_non_null(strstr(err.message, "model.safetensors\" is not a regular file"));
    remove_directory(directory);
}

static void
test_shards(void **state)
{
    static const struct {
        const char *index, *message;
    } cases[] = {
        {"{", NULL},
        {"[]", "model.safetensors.index.json: not a JSON object"},
        {"{\"weight_map\": []}", "model.safetensors.index.json: \"weight_map\" is missing or not an object"},
        {"{\"weight_map\": {\"a\": 1}}",
         "model.safetensors.index.json: \"weight_map\" gives no file name for \"a\""},
        {"{\"weight_map\": {\"a\": \"../model.safetensors\"}}",
         "model.safetensors.index.json: \"weight_map\" names \"../model.safetensors\", which is not a file "
         "name"},
        {"{\"weight_map\": {\"a\": \"/etc/passwd\"}}",
         "model.safetensors.index.json: \"weight_map\" names \"/etc/passwd\", which is not a file name"},
        {"{\"weight_map\": {\"a\": \"x/y\"}}",
         "model.safetensors.index.json: \"weight_map\" names \"x/y\", which is not a file name"},
        {"{\"weight_map\": {\"a\": \"..\"}}",
         "model.safetensors.index.json: \"weight_map\" names \"..\", which is not a file name"},
        {"{\"weight_map\": {\"a\": \"\"}}",
         "model.safetensors.index.json: \"weight_map\" names \"\", which is not a file name"},
        {"{\"weight_map\": {\"a\": \"missing.safetensors\"}}", NULL},
        {"{\"weight_map\": {\"a\": \"model-00002-of-00002.safetensors\"}}",
         "model-00002-of-00002.safetensors: the model has an encoder and no decoder"},
        {"{\"weight_map\": {}}", NULL},
    };
    char path[64], *directory = make_directory(path), expected[256];
    uint8_t before[IA3_DIGEST_LEN], after[IA3_DIGEST_LEN];

    copy_in(GOLDEN "t5-erf-gelu-sharded", directory, "config.json");
    copy_in(GOLDEN "t5-erf-gelu-sharded", directory, "model-00001-of-00002.safetensors");
    copy_in(GOLDEN "t5-erf-gelu-sharded", directory, "model-00002-of-00002.safetensors");
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        ia3_error err = {0};

        write_in(directory, "model.safetensors.index.json", cases[i].index, strlen(cases[i].index));
        assert_null(ia3_checkpoint_open(directory, &err));
        assert_int_equal(err.code, IA3_E_BAD_CHECKPOINT);
        if (cases[i].message != NULL)
            assert_string_equal(message_within(&err, directory), cases[i].message);
        else if (strstr(cases[i].index, "missing") != NULL) {
            snprintf(expected, sizeof expected,
                     "could not open file \"%s/missing.safetensors\": No such file or directory", directory);
            assert_string_equal(err.message, expected);
        } else if (strstr(cases[i].index, "weight_map") != NULL) {
            snprintf(expected, sizeof expected, "%s: tensor \"shared.weight\" is missing", directory);
            assert_string_equal(err.message, expected);
        } else
            assert_non_null(strstr(err.message, "index.json: invalid JSON in line 1: "));
    }
    copy_in(GOLDEN "t5-erf-gelu-sharded", directory, "model.safetensors.index.json");
    digest_of(GOLDEN "t5-erf-gelu-sharded", before);
    digest_of(directory, after);
    assert_memory_equal(before, after, IA3_DIGEST_LEN);
    remove_directory(directory);
}

/* Opens a copy of t5-relu-tied whose weights have one or two replacements in the header, and a shift of the data. */
static ia3_checkpoint *
open_edited(const char *directory, const char *const edits[], int n)
{
    buffer b = read_in(GOLDEN "t5-relu-tied", "model.safetensors");
    ia3_error err = {0};

    for (int i = 0; i < n; i += 2) {
        buffer next = edit_header(b, edits[i], edits[i + 1]);

        free(b.data);
        b = next;
    }
    copy_in(GOLDEN "t5-relu-tied", directory, "config.json");
    write_in(directory, "model.safetensors", b.data, b.len);
    free(b.data);

    ia3_checkpoint *ck = ia3_checkpoint_open(directory, &err);

    if (ck == NULL)
        fail_msg("%s", err.message);
    return ck;
}

/* If a tensor has several names, safetensors keeps one and records the others in the metadata. */
static void
test_alias(void **state)
{
    static const char *const kept_head[] = {"\"shared.weight\"", "\"lm_head.weight\"", "\"format\":\"pt\"",
                                            "\"format\":\"pt\",\"shared.weight\":\"lm_head.weight\""};
    static const char *const kept_encoder[] = {"\"shared.weight\"", "\"encoder.embed_tokens.weight\"",
                                               "\"format\":\"pt\"",
                                               "\"lm_head.weight\":\"encoder.embed_tokens.weight\""};
    static const char *const kept_decoder[] = {"\"shared.weight\"", "\"decoder.embed_tokens.weight\""};
    static const char *const only_head[] = {"\"shared.weight\"", "\"lm_head.weight\""};
    static const struct {
        const char *const *edits;
        int n;
        const char *stored;
    } cases[] = {{kept_head, 4, "lm_head.weight"},
                 {kept_encoder, 4, "encoder.embed_tokens.weight"},
                 {kept_decoder, 2, "decoder.embed_tokens.weight"},
                 {only_head, 2, "lm_head.weight"}};
    uint8_t before[IA3_DIGEST_LEN], after[IA3_DIGEST_LEN];

    digest_of(GOLDEN "t5-relu-tied", before);
    for (int i = 0; i < 4; i++) {
        char path[64], *directory = make_directory(path);
        ia3_checkpoint *ck = open_edited(directory, cases[i].edits, cases[i].n);
        ia3_error err = {0};

        assert_ptr_equal(ia3_checkpoint_embedding(ck), ia3_checkpoint_tensor(ck, cases[i].stored));
        assert_ptr_equal(ia3_checkpoint_embedding(ck), ia3_checkpoint_head(ck));
        assert_true(ia3_checkpoint_digest(ck, after, NULL, NULL, &err));
        assert_memory_equal(before, after, IA3_DIGEST_LEN); /* names do not matter */
        ia3_checkpoint_close(ck);
        remove_directory(directory);
    }
}

/* Writes t5-relu-tied with all tensors as float64, with these low bits, which float32 does not have. */
static void
write_float64(const char *directory, uint64_t low)
{
    buffer b = read_in(GOLDEN "t5-relu-tied", "model.safetensors");
    size_t n = header_length(b), cap = 4 * n, at = 0;
    char *header = malloc(cap), *text = (char *) b.data + 8, *end = text + n;

    while (text < end) { /* doubles every number of "data_offsets" */
        size_t span = strncmp(text, "\"data_offsets\":[", 16) == 0 ? 16 : 1;

        memcpy(header + at, text, span);
        at += span;
        text += span;
        if (span == 1)
            continue;
        for (int i = 0; i < 2; i++) {
            at += (size_t) snprintf(header + at, cap - at, "%llu%c", 2 * strtoull(text, &text, 10),
                                    i ? ']' : ',');
            text++;
        }
    }
    header[at] = '\0';
    for (char *p = header; (p = strstr(p, "\"F32\"")) != NULL; p += 5)
        memcpy(p, "\"F64\"", 5);

    size_t values = (b.len - 8 - n) / 4;
    double *data = malloc(values * sizeof *data);

    for (size_t i = 0; i < values; i++) {
        float f;
        uint64_t bits;

        memcpy(&f, b.data + 8 + n + 4 * i, 4);
        data[i] = f;
        memcpy(&bits, &data[i], 8);
        bits |= low;
        memcpy(&data[i], &bits, 8);
    }

    buffer out = make_safetensors(header, at, data, values * sizeof *data);

    copy_in(GOLDEN "t5-relu-tied", directory, "config.json");
    write_in(directory, "model.safetensors", out.data, out.len);
    free(out.data);
    free(data);
    free(header);
    free(b.data);
}

/* Weights in float64 are rounded to float32; the digest is that of the same weights in float32. */
static void
test_float64(void **state)
{
    uint8_t before[IA3_DIGEST_LEN], after[IA3_DIGEST_LEN];
    char path[64], *directory = make_directory(path);

    digest_of(GOLDEN "t5-relu-tied", before);
    for (uint64_t low = 0; low < 256; low += 255) {
        write_float64(directory, low);
        digest_of(directory, after);
        assert_memory_equal(before, after, IA3_DIGEST_LEN);
    }
    remove_directory(directory);
}

/* The index names the files; which tensors they have, they say themselves. */
static void
test_index_and_files(void **state)
{
    static const char *const maps[] = {
        "\"shared.weight\": \"model-00001-of-00002.safetensors\", \"no.tensor\": "
        "\"model-00002-of-00002.safetensors\"",
        "\"x\": \"model-00002-of-00002.safetensors\", \"y\": \"model-00001-of-00002.safetensors\"",
        "\"shared.weight\": \"model-00002-of-00002.safetensors\", \"decoder.final_layer_norm.weight\": "
        "\"model-00001-of-00002.safetensors\"",
    };
    uint8_t before[IA3_DIGEST_LEN], after[IA3_DIGEST_LEN];
    char path[64], *directory = make_directory(path), index[512];

    digest_of(GOLDEN "t5-erf-gelu-sharded", before);
    copy_in(GOLDEN "t5-erf-gelu-sharded", directory, "config.json");
    copy_in(GOLDEN "t5-erf-gelu-sharded", directory, "model-00001-of-00002.safetensors");
    copy_in(GOLDEN "t5-erf-gelu-sharded", directory, "model-00002-of-00002.safetensors");
    for (size_t i = 0; i < sizeof maps / sizeof maps[0]; i++) {
        snprintf(index, sizeof index, "{\"weight_map\": {%s}}", maps[i]);
        write_in(directory, "model.safetensors.index.json", index, strlen(index));
        digest_of(directory, after);
        assert_memory_equal(before, after, IA3_DIGEST_LEN);
    }
    remove_directory(directory);
}

/* Unknown tensors, such as the bias that some converters add to the decoder's cross-attention, are ignored. */
static void
test_unexpected(void **state)
{
    char path[64], *directory = make_directory(path);
    buffer b = read_in(GOLDEN "t5-relu-tied", "model.safetensors"), more;
    ia3_error err = {0};
    uint8_t before[IA3_DIGEST_LEN], after[IA3_DIGEST_LEN];
    size_t header = header_length(b), data = b.len - 8 - header;
    char extra[400];

    snprintf(extra, sizeof extra,
             "{\"decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight\":{\"dtype\":\"F32\","
             "\"shape\":[1,1],\"data_offsets\":[%zu,%zu]},\"x\":{\"dtype\":\"I8\",\"shape\":[1,2,2],"
             "\"data_offsets\":[%zu,%zu]},",
             data, data + 4, data + 4, data + 8);
    more = edit_header(b, "{", extra);
    more.data = realloc(more.data, more.len + 8);
    memset(more.data + more.len, 0, 8);
    copy_in(GOLDEN "t5-relu-tied", directory, "config.json");
    write_in(directory, "model.safetensors", more.data, more.len + 8);

    ia3_checkpoint *ck = ia3_checkpoint_open(directory, &err);

    assert_non_null(ck);
    assert_null(ia3_checkpoint_tensor(ck, "x"));
    ia3_checkpoint_close(ck);
    digest_of(GOLDEN "t5-relu-tied", before);
    digest_of(directory, after);
    assert_memory_equal(before, after, IA3_DIGEST_LEN);
    free(more.data);
    free(b.data);
    remove_directory(directory);
}

/* The format does not guarantee alignment, so data may begin at an odd byte. */
static void
test_unaligned(void **state)
{
    static const char *const odd[] = {"{", "{ "};
    char path[64], *directory = make_directory(path);
    ia3_checkpoint *ck = open_edited(directory, odd, 2);
    ia3_error err = {0};
    ia3_checkpoint *original = ia3_checkpoint_open(GOLDEN "t5-relu-tied", &err);
    const ia3_host_tensor *a = ia3_checkpoint_embedding(original), *b = ia3_checkpoint_embedding(ck);

    assert_int_not_equal((uintptr_t) b->data % 4, 0);
    assert_memory_equal(a->data, b->data, (size_t) (a->rows * a->cols * 4));
    ia3_checkpoint_release(ck, b);
    assert_memory_equal(a->data, b->data, (size_t) (a->rows * a->cols * 4));
    ia3_checkpoint_release(original, a);
    assert_memory_equal(a->data, b->data, (size_t) (a->rows * a->cols * 4));
    ia3_checkpoint_close(original);
    ia3_checkpoint_close(ck);
    remove_directory(directory);
}

static void
note_progress(double fraction, void *arg)
{
    double *last = arg;

    assert_true(fraction >= *last && fraction <= 1);
    *last = fraction;
}

/* The digest depends on every value of the graph and every field that determines the graph, but not on dropout. */
static void
test_digest(void **state)
{
    char path[64], *directory = make_directory(path);
    buffer b = read_in(GOLDEN "t5-relu-tied", "model.safetensors"),
           config = read_in(GOLDEN "t5-relu-tied", "config.json"), edited;
    uint8_t before[IA3_DIGEST_LEN], after[IA3_DIGEST_LEN];
    double last = 0;
    ia3_error err = {0};
    ia3_checkpoint *ck = ia3_checkpoint_open(GOLDEN "t5-relu-tied", &err);

    assert_true(ia3_checkpoint_digest(ck, before, note_progress, &last, &err));
    assert_true(last == 1);
    ia3_checkpoint_close(ck);
    copy_in(GOLDEN "t5-relu-tied", directory, "config.json");
    b.data[b.len - 1] ^= 1;
    write_in(directory, "model.safetensors", b.data, b.len);
    digest_of(directory, after);
    assert_memory_not_equal(before, after, IA3_DIGEST_LEN);
    b.data[b.len - 1] ^= 1;
    write_in(directory, "model.safetensors", b.data, b.len);
    digest_of(directory, after);
    assert_memory_equal(before, after, IA3_DIGEST_LEN);
    edited = edit(config, "config.json", "\"relative_attention_max_distance\": 128",
                  "\"relative_attention_max_distance\": 127");
    write_in(directory, "config.json", edited.data, edited.len);
    digest_of(directory, after);
    assert_memory_not_equal(before, after, IA3_DIGEST_LEN);
    free(edited.data);
    edited = edit(config, "config.json", "\"dropout_rate\": 0.1", "\"dropout_rate\": 0.2");
    write_in(directory, "config.json", edited.data, edited.len);
    digest_of(directory, after);
    assert_memory_equal(before, after, IA3_DIGEST_LEN);
    free(edited.data);
    free(config.data);
    free(b.data);
    remove_directory(directory);
}

/* A file that is truncated or written to while it is mapped does not end the process; the change is noticed. */
static void
test_changed(void **state)
{
    for (int truncated = 0; truncated < 2; truncated++) {
        char path[64], *directory = make_directory(path), file[128], expected[200];
        ia3_error err = {0};
        const struct timespec later[] = {{.tv_nsec = UTIME_OMIT}, {.tv_sec = 2000000000}};

        copy_in(GOLDEN "t5-relu-tied", directory, "config.json");
        copy_in(GOLDEN "t5-relu-tied", directory, "model.safetensors");
        snprintf(file, sizeof file, "%s/model.safetensors", directory);

        ia3_checkpoint *ck = ia3_checkpoint_open(directory, &err);

        assert_non_null(ck);
        assert_true(ia3_checkpoint_unchanged(ck, &err));
        if (truncated) {
            const ia3_host_tensor *t = ia3_checkpoint_embedding(ck);
            const float *values = t->data; /* of the golden files, all tensors are aligned */
            double sum = 0;

            assert_int_equal(truncate(file, 4096), 0);
            for (int64_t i = 2048; i < t->rows * t->cols; i++) /* behind the first page */
                sum += values[i] * values[i];
            assert_true(sum == 0);
        } else
            assert_int_equal(utimensat(AT_FDCWD, file, later, 0), 0);
        assert_false(ia3_checkpoint_unchanged(ck, &err));
        snprintf(expected, sizeof expected, "%s: the file changed while it was read", file);
        assert_int_equal(err.code, IA3_E_BAD_CHECKPOINT);
        assert_string_equal(err.message, expected);
        ia3_checkpoint_close(ck);
        remove_directory(directory);
    }
}

/* Threads that hash give the digest that one gives, and may be told that it is not wanted. */
static void
test_digest_threads(void **state)
{
    ia3_error err = {0};
    ia3_checkpoint *ck = ia3_checkpoint_open(GOLDEN "t5-erf-gelu-sharded", &err);
    uint8_t expected[IA3_DIGEST_LEN], digest[IA3_DIGEST_LEN];

    assert_true(ia3_checkpoint_digest(ck, expected, NULL, NULL, &err));
    for (int threads = 0; threads < 5; threads++) {
        double last = 0;

        memset(digest, 0, sizeof digest);
        assert_true(ia3_digest_end(ia3_digest_begin(ck, threads), digest, note_progress, &last, &err));
        assert_memory_equal(digest, expected, sizeof digest);
        assert_true(last == 1);
        assert_true(ia3_digest_end(ia3_digest_begin(ck, threads), NULL, NULL, NULL, &err));
    }
    ia3_checkpoint_close(ck);
}

typedef struct memory_source {
    const ia3_checkpoint *files;
    int asked;
} memory_source;

static const void *
from_files(const char *name, int64_t rows, int64_t cols, void *arg)
{
    memory_source *s = arg;
    const ia3_host_tensor *t = ia3_checkpoint_tensor(s->files, name);

    assert_non_null(t);
    assert_int_equal(t->rows, rows);
    assert_int_equal(t->cols, cols);
    s->asked++;
    return t->data;
}

/* A checkpoint without files has the values that it is given. */
static void
test_in_memory(void **state)
{
    static const struct {
        const char *directory;
        bool own_head;
    } cases[] = {{GOLDEN "t5-relu-tied", false},
                 {GOLDEN "t5-gated-untied", true},
                 {GOLDEN "umt5-bias-per-layer", true}};

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        uint8_t expected[IA3_DIGEST_LEN], digest[IA3_DIGEST_LEN];
        ia3_error err = {0};
        memory_source source = {.files = ia3_checkpoint_open(cases[i].directory, &err)};

        assert_non_null(source.files);

        ia3_checkpoint *ck = ia3_checkpoint_in_memory(ia3_checkpoint_config(source.files), IA3_F32,
                                                      cases[i].own_head, from_files, &source);
        int n;

        free(ia3_state_dict(ia3_checkpoint_config(ck), &n));
        assert_int_equal(source.asked, n + (cases[i].own_head ? 2 : 1));
        assert_int_equal(ia3_checkpoint_head(ck) != ia3_checkpoint_embedding(ck), cases[i].own_head);
        assert_true(ia3_checkpoint_digest(source.files, expected, NULL, NULL, &err));
        assert_true(ia3_checkpoint_digest(ck, digest, NULL, NULL, &err));
        assert_memory_equal(digest, expected, IA3_DIGEST_LEN);
        assert_int_equal(ia3_checkpoint_n_files(ck), 0);
        ia3_checkpoint_close(ck);
        ia3_checkpoint_close((ia3_checkpoint *) source.files);
    }
}

/* Digests are in users' tables, so the way to compute them must never change. The expected value was computed in Python
 * according to the description in digest.c. */
static void
test_backbone(void **state)
{
    uint8_t digest[IA3_DIGEST_LEN];
    char hex[2 * IA3_DIGEST_LEN + 1];

    digest_of("test/backbone", digest);
    for (int i = 0; i < IA3_DIGEST_LEN; i++)
        snprintf(hex + 2 * i, 3, "%02x", digest[i]);
    assert_string_equal(hex, "3f4dc0cacd363edef2b873c3316cc5a6e330ea29b77cb092d610835d625f558e");
}

/* Conversion of binary16: the standard's own examples, both signs, and every bit pattern by the definition. */
static void
test_float16(void **state)
{
    assert_true(ia3_f16_to_f32(0x3c00) == 1.0f);
    assert_true(ia3_f16_to_f32(0xc000) == -2.0f);
    assert_true(ia3_f16_to_f32(0x7bff) == 65504.0f);
    assert_true(ia3_f16_to_f32(0x0001) == 0x1p-24f);
    assert_true(ia3_bf16_to_f32(0x3f80) == 1.0f);
    assert_true(ia3_bf16_to_f32(0xc0a0) == -5.0f);
    for (uint32_t h = 0; h < 65536; h++) {
        int exponent = (h >> 10) & 31, fraction = h & 1023;
        double sign = h >> 15 ? -1 : 1;
        float f = ia3_f16_to_f32((uint16_t) h);

        if (exponent == 31)
            assert_true(fraction ? isnan(f) : isinf(f));
        else
            assert_true(f ==
                        sign * (exponent ? ldexp(1024 + fraction, exponent - 25) : ldexp(fraction, -24)));
        assert_int_equal(signbit(f) != 0, h >> 15);
    }
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_golden),          cmocka_unit_test(test_broken),
        cmocka_unit_test(test_files),           cmocka_unit_test(test_shards),
        cmocka_unit_test(test_alias),           cmocka_unit_test(test_unexpected),
        cmocka_unit_test(test_unaligned),       cmocka_unit_test(test_digest),
        cmocka_unit_test(test_digest_threads),  cmocka_unit_test(test_changed),
        cmocka_unit_test(test_backbone),        cmocka_unit_test(test_float16),
        cmocka_unit_test(test_in_memory),       cmocka_unit_test(test_float64),
        cmocka_unit_test(test_index_and_files),
    };

    return cmocka_run_group_tests_name("checkpoint", tests, NULL, NULL);
}
