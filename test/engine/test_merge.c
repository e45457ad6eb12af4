/*
 * test_merge.c
 *     Merged checkpoints compared with weights that are computed here in another way, rounding to 16 bits, and all
 *     errors of targets and sources.
 */
#include "golden_fixture.h"

#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine/base/half.h"
#include "engine/files/merge.h"
#include "engine/model/methods/methods.h"

typedef struct fixture {
    char directory[64];
    char target[96];
    ia3_checkpoint *ck;
    ia3_layout *layout;
    float *vectors;
    uint8_t digest[IA3_DIGEST_LEN];
    ia3_error err;
} fixture;

static const char *
golden_path(const char *name, char path[256])
{
    snprintf(path, 256, "%s/%s", golden_root(), name);
    return path;
}

static void
open_fixture(fixture *f, const char *name)
{
    char path[256];

    memset(f, 0, sizeof *f);
    snprintf(f->directory, sizeof f->directory, "/tmp/ia3-test-XXXXXX");
    assert_non_null(mkdtemp(f->directory));
    snprintf(f->target, sizeof f->target, "%s/merged", f->directory);
    f->ck = ia3_checkpoint_open(golden_path(name, path), &f->err);
    golden_ok(f->ck, &f->err);
    f->layout = ia3_layout_create(ia3_checkpoint_config(f->ck), ia3_variant_standard(ia3_methods[0]));
    f->vectors = golden_vectors(name, "adapter/adapter_model.safetensors", f->layout);
    golden_ok(ia3_checkpoint_digest(f->ck, f->digest, NULL, NULL, &f->err), &f->err);
}

/* Counts a directory's entries other than "." and "..", and optionally removes them. -1 if it does not exist. */
static int
entries(const char *path, bool remove_them)
{
    DIR *d = opendir(path);
    int n = 0;

    if (d == NULL)
        return -1;
    for (struct dirent *e; (e = readdir(d)) != NULL;) {
        if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0)
            continue;
        n++;
        if (remove_them && unlinkat(dirfd(d), e->d_name, 0) != 0)
            assert_int_equal(unlinkat(dirfd(d), e->d_name, AT_REMOVEDIR), 0);
    }
    closedir(d);
    return n;
}

static void
close_fixture(fixture *f)
{
    entries(f->target, true);
    entries(f->directory, true);
    assert_int_equal(rmdir(f->directory), 0);
    free(f->vectors);
    ia3_layout_free(f->layout);
    ia3_checkpoint_close(f->ck);
}

static bool
merge(fixture *f, const char *name, const char *target)
{
    char path[256];

    const ia3_variant standard = ia3_variant_standard(ia3_methods[0]);

    memset(&f->err, 0, sizeof f->err);
    return ia3_merge(golden_path(name, path), f->digest, &standard, f->vectors, target, NULL, &f->err);
}

static double
read_double(const ia3_host_tensor *t, int64_t i)
{
    const uint8_t *data = t->data;
    float f;
    uint16_t h;

    if (t->dtype == IA3_F32) {
        memcpy(&f, data + 4 * i, 4);
        return f;
    }
    memcpy(&h, data + 2 * i, 2);
    return t->dtype == IA3_BF16 ? ia3_bf16_to_f32(h) : ia3_f16_to_f32(h);
}

/* Checks that |got - exact| is at most half a unit in the last place of the dtype (and of the product in fp32). */
static bool
rounds_to(ia3_dtype dtype, double exact, double got)
{
    int bits = dtype == IA3_F32 ? 24 : dtype == IA3_BF16 ? 8 : 11, exponent;

    frexp(exact, &exponent);

    double unit = ldexp(1, exponent - bits), least = dtype == IA3_F16 ? ldexp(1, -24) : ldexp(1, -149);

    return fabs(got - exact) <= 0.5 * fmax(unit, least) * (1 + 1e-4);
}

/* The factor for element (r, c) of a weight in this layer; 1 for weights that are not scaled. */
static double
factor(const fixture *f, const char *name, int64_t r, int64_t c)
{
    const ia3_layout *l = f->layout;
    int layer;
    char rest[64];
    bool decoder = sscanf(name, "decoder.block.%d.layer.%63s", &layer, rest) == 2;

    if (!decoder && sscanf(name, "encoder.block.%d.layer.%63s", &layer, rest) != 2)
        return 1;

    size_t base = decoder ? ia3_dec_offset(l, layer) : ia3_enc_offset(l, layer);

    if (strcmp(rest, "0.SelfAttention.k.weight") == 0)
        return f->vectors[base + (size_t) r];
    if (strcmp(rest, "0.SelfAttention.v.weight") == 0)
        return f->vectors[base + (size_t) (l->inner + r)];
    if (strcmp(rest, "1.EncDecAttention.k.weight") == 0)
        return f->vectors[base + (size_t) (2 * l->inner + r)];
    if (strcmp(rest, "1.EncDecAttention.v.weight") == 0)
        return f->vectors[base + (size_t) (3 * l->inner + r)];
    if (strcmp(rest, decoder ? "2.DenseReluDense.wo.weight" : "1.DenseReluDense.wo.weight") == 0)
        return f->vectors[base + (size_t) ((decoder ? 4 : 2) * l->inner + c)];
    return 1;
}

static void
check_weights(const fixture *f, const ia3_checkpoint *merged)
{
    size_t scaled = 0;

    assert_int_equal(ia3_checkpoint_n_files(merged), ia3_checkpoint_n_files(f->ck));
    for (int i = 0; i < ia3_checkpoint_n_files(f->ck); i++) {
        ia3_weight_file from = ia3_checkpoint_file(f->ck, i), to = ia3_checkpoint_file(merged, i);

        assert_string_equal(to.name, from.name);
        assert_int_equal(to.len, from.len);
        assert_memory_equal(to.data, from.data, from.tensors[0].data - from.data);
        for (int k = 0; k < from.n_tensors; k++) {
            const char *name = from.tensors[k].name;
            const ia3_host_tensor *a = ia3_checkpoint_tensor(f->ck, name);
            const ia3_host_tensor *b = ia3_checkpoint_tensor(merged, name);

            for (int64_t at = 0; at < a->rows * a->cols; at++) {
                double l = factor(f, name, at / a->cols, at % a->cols);
                double want = read_double(a, at) * l, got = read_double(b, at);

                scaled += l != 1;
                if (l == 1 ? want != got : !rounds_to(a->dtype, want, got))
                    fail_msg("%s [%lld]: %.9g, not %.9g", name, (long long) at, got, want);
            }
        }
    }
    assert_true(scaled > 1000);
}

static void
test_weights(void **state)
{
    for (size_t i = 0; i < GOLDEN_N - 1; i++) {
        fixture f;

        open_fixture(&f, golden_names[i]);
        golden_ok(merge(&f, golden_names[i], f.target), &f.err);

        ia3_checkpoint *merged = ia3_checkpoint_open(f.target, &f.err);
        uint8_t digest[IA3_DIGEST_LEN];
        struct stat st;
        char config[128];

        golden_ok(merged, &f.err);
        check_weights(&f, merged);
        golden_ok(ia3_checkpoint_digest(merged, digest, NULL, NULL, &f.err), &f.err);
        assert_memory_not_equal(digest, f.digest, IA3_DIGEST_LEN);
        assert_int_equal(entries(f.directory, false), 1); /* no temporary directory is left */
        assert_int_equal(stat(f.target, &st), 0);
        assert_int_equal(st.st_mode & 07777, 0755);
        snprintf(config, sizeof config, "%s/config.json", f.target);
        assert_int_equal(stat(config, &st), 0);
        assert_int_equal(st.st_mode & 07777, 0644);
        ia3_checkpoint_close(merged);
        close_fixture(&f);
    }
}

/* With vectors of ones all files are identical. */
static void
test_ones(void **state)
{
    static const char *const names[] = {"t5-relu-tied", "t5-erf-gelu-sharded", "t5-stored-bf16",
                                        "t5-stored-fp16"};

    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        fixture f;

        open_fixture(&f, names[i]);
        for (size_t k = 0; k < f.layout->n_values; k++)
            f.vectors[k] = 1;
        golden_ok(merge(&f, names[i], f.target), &f.err);
        for (int k = 0; k < ia3_checkpoint_n_files(f.ck); k++) {
            ia3_weight_file from = ia3_checkpoint_file(f.ck, k);
            char path[256];
            golden_file copy;

            snprintf(path, sizeof path, "%s/%s", f.target, from.name);
            assert_true(golden_read(&copy, path));
            assert_int_equal(copy.len, from.len);
            assert_memory_equal(copy.data, from.data, from.len);
            free(copy.data);
        }
        close_fixture(&f);
    }
}

/* A checkpoint of PyTorch becomes one of safetensors; with vectors of ones it is the same backbone. */
static void
test_torch(void **state)
{
    static const struct {
        const char *name;
        int files;
    } cases[] = {{"torch/sharded", 2}, {"torch/legacy", 1}, {"torch/copies", 1}};

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char path[256];
        uint8_t digest[IA3_DIGEST_LEN];
        fixture f = {.directory = "/tmp/ia3-test-XXXXXX"};

        assert_non_null(mkdtemp(f.directory));
        snprintf(f.target, sizeof f.target, "%s/merged", f.directory);
        f.ck = ia3_checkpoint_open(golden_path(cases[i].name, path), &f.err);
        golden_ok(f.ck, &f.err);
        golden_ok(ia3_checkpoint_digest(f.ck, f.digest, NULL, NULL, &f.err), &f.err);
        f.layout = ia3_layout_create(ia3_checkpoint_config(f.ck), ia3_variant_standard(ia3_methods[0]));
        f.vectors = calloc(f.layout->n_values, sizeof *f.vectors);
        for (size_t k = 0; k < f.layout->n_values; k++)
            f.vectors[k] = 1;
        golden_ok(merge(&f, cases[i].name, f.target), &f.err);

        ia3_checkpoint *merged = ia3_checkpoint_open(f.target, &f.err);

        golden_ok(merged, &f.err);
        assert_int_equal(ia3_checkpoint_n_files(merged), cases[i].files);
        assert_true(ia3_checkpoint_file(merged, 0).safetensors);
        golden_ok(ia3_checkpoint_digest(merged, digest, NULL, NULL, &f.err), &f.err);
        assert_memory_equal(digest, f.digest, IA3_DIGEST_LEN);
        ia3_checkpoint_close(merged);
        f.vectors[0] = 2;
        entries(f.target, true);
        golden_ok(merge(&f, cases[i].name, f.target), &f.err);
        merged = ia3_checkpoint_open(f.target, &f.err);
        golden_ok(merged, &f.err);
        golden_ok(ia3_checkpoint_digest(merged, digest, NULL, NULL, &f.err), &f.err);
        assert_memory_not_equal(digest, f.digest, IA3_DIGEST_LEN);
        ia3_checkpoint_close(merged);
        close_fixture(&f);
    }
}

/* The target may be an empty directory and may end with slashes; anything else is an error and is not changed. */
static void
test_target(void **state)
{
    fixture f;
    char path[256];

    open_fixture(&f, "t5-relu-tied");
    assert_int_equal(mkdir(f.target, 0700), 0);
    snprintf(path, sizeof path, "%s///", f.target);
    golden_ok(merge(&f, "t5-relu-tied", path), &f.err);
    assert_int_equal(entries(f.target, false), 2); /* the golden checkpoints have no tokenizer */

    assert_false(merge(&f, "t5-relu-tied", f.target));
    assert_int_equal(f.err.code, IA3_E_INVALID);
    snprintf(path, sizeof path, "directory \"%s\" exists and is not empty", f.target);
    assert_string_equal(f.err.message, path);

    assert_false(merge(&f, "t5-relu-tied", "merged"));
    assert_int_equal(f.err.code, IA3_E_INVALID);
    assert_string_equal(f.err.message, "\"merged\" is not an absolute path");

    snprintf(path, sizeof path, "%s/config.json", f.target);
    assert_false(merge(&f, "t5-relu-tied", path));
    assert_int_equal(f.err.code, IA3_E_FILE);

    snprintf(path, sizeof path, "%s/no/such", f.directory);
    assert_false(merge(&f, "t5-relu-tied", path));
    assert_int_equal(f.err.code, IA3_E_FILE);
    assert_non_null(strstr(f.err.message, "could not create directory"));
    assert_int_equal(entries(f.directory, false), 1);
    close_fixture(&f);
}

/* A weight beyond the range of the dtype is an error, and nothing is left behind. */
static void
test_overflow(void **state)
{
    static const char *const names[] = {"t5-relu-tied", "t5-stored-bf16", "t5-stored-fp16"};
    static const float factors[] = {INFINITY, INFINITY, 1e6f};

    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        fixture f;

        open_fixture(&f, names[i]);
        for (size_t k = 0; k < f.layout->n_values; k++)
            f.vectors[k] = factors[i];
        assert_false(merge(&f, names[i], f.target));
        assert_int_equal(f.err.code, IA3_E_BAD_ADAPTER);
        assert_non_null(strstr(f.err.message, "is out of range"));
        assert_int_equal(entries(f.directory, false), 0);
        close_fixture(&f);
    }
}

static void
test_cancelled(void **state)
{
    fixture f;
    char path[256];
    atomic_bool cancelled;

    open_fixture(&f, "t5-gated-untied");
    atomic_init(&cancelled, true);

    const ia3_variant standard = ia3_variant_standard(ia3_methods[0]);

    assert_false(ia3_merge(golden_path("t5-gated-untied", path), f.digest, &standard, f.vectors, f.target,
                           &cancelled, &f.err));
    assert_int_equal(f.err.code, IA3_E_CANCELLED);
    assert_int_equal(entries(f.directory, false), 0);
    close_fixture(&f);
}

/* Files that do not belong to the running backbone, and a call without a digest to compare. */
static void
test_changed(void **state)
{
    fixture f;
    char path[256];

    open_fixture(&f, "t5-gated-untied");
    f.digest[7] ^= 1;
    assert_false(merge(&f, "t5-gated-untied", f.target));
    assert_int_equal(f.err.code, IA3_E_BAD_CHECKPOINT);
    assert_non_null(strstr(f.err.message, "the files have changed since they were loaded"));
    assert_int_equal(entries(f.directory, false), 0);

    const ia3_variant standard = ia3_variant_standard(ia3_methods[0]);

    golden_ok(
        ia3_merge(golden_path("t5-gated-untied", path), NULL, &standard, f.vectors, f.target, NULL, &f.err),
        &f.err);
    close_fixture(&f);
}

static void
make_directory(const fixture *f, const char *suffix, const char *file)
{
    char path[192];

    snprintf(path, sizeof path, "%s%s", f->target, suffix);
    assert_int_equal(mkdir(path, 0700), 0);
    if (file == NULL)
        return;
    strcat(path, file);
    FILE *out = fopen(path, "w");
    assert_non_null(out);
    fputs("half a file", out);
    fclose(out);
}

static bool
is_there(const fixture *f, const char *suffix)
{
    char path[192];
    struct stat st;

    snprintf(path, sizeof path, "%s%s", f->target, suffix);
    return lstat(path, &st) == 0;
}

/* A merge removes the directory that a killed merge to the same target left behind, and nothing else. */
static void
test_left_over(void **state)
{
    fixture f;
    char path[192];

    open_fixture(&f, "t5-relu-tied");
    make_directory(&f, ".ia3-abcDE1", "/model.safetensors");
    make_directory(&f, ".ia3-000000", NULL);
    make_directory(&f, ".ia3-locked", "/model.safetensors"); /* another process writes it */
    make_directory(&f, ".ia3-toolong", NULL);
    make_directory(&f, ".old-abcDE1", NULL);
    make_directory(&f, "2.ia3-abcDE1", NULL); /* of another target */
    snprintf(path, sizeof path, "%s.ia3-link00", f.target);
    assert_int_equal(symlink("/tmp", path), 0);
    snprintf(path, sizeof path, "%s.ia3-locked", f.target);
    int fd = open(path, O_RDONLY | O_DIRECTORY);
    assert_int_equal(flock(fd, LOCK_EX), 0);

    golden_ok(merge(&f, "t5-relu-tied", f.target), &f.err);
    assert_false(is_there(&f, ".ia3-abcDE1"));
    assert_false(is_there(&f, ".ia3-000000"));
    assert_true(is_there(&f, ".ia3-locked/model.safetensors"));
    assert_true(is_there(&f, ".ia3-link00"));
    assert_int_equal(entries(f.directory, false), 6);

    /* it has ended without removing it */
    close(fd);
    entries(f.target, true);
    golden_ok(merge(&f, "t5-relu-tied", f.target), &f.err);
    assert_false(is_there(&f, ".ia3-locked"));
    close_fixture(&f);
}

/* A full disk, for which a limit on file sizes stands in, is an error, and nothing is left behind. */
static void
test_full(void **state)
{
    fixture f;
    struct rlimit before, small;

    open_fixture(&f, "t5-relu-tied");
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    small = before;
    small.rlim_cur = 4096;
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    bool ok = merge(&f, "t5-relu-tied", f.target);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
    assert_false(ok);
    assert_int_equal(f.err.code, IA3_E_FILE);
    assert_non_null(strstr(f.err.message, "could not write file"));
    assert_int_equal(entries(f.directory, false), 0);
    close_fixture(&f);
}

/* All numbers of both formats are preserved by conversion through fp32; midpoints are rounded to even. */
static void
test_rounding(void **state)
{
    for (uint32_t h = 0; h < 65536; h++) {
        float b = ia3_bf16_to_f32((uint16_t) h), f = ia3_f16_to_f32((uint16_t) h);

        if (!isnan(b))
            assert_int_equal(ia3_f32_to_bf16(b), h);
        else
            assert_true(isnan(ia3_bf16_to_f32(ia3_f32_to_bf16(b))));
        if (!isnan(f))
            assert_int_equal(ia3_f32_to_f16(f), h);
        else
            assert_true(isnan(ia3_f16_to_f32(ia3_f32_to_f16(f))));
    }
    for (uint16_t h = 0; h < 0x7bff; h++) { /* finite, positive binary16 and its successor */
        float low = ia3_f16_to_f32(h), high = ia3_f16_to_f32(h + 1), middle = low + (high - low) / 2;

        assert_int_equal(ia3_f32_to_f16(middle), h + (h & 1));
        assert_int_equal(ia3_f32_to_f16(nextafterf(middle, 0)), h);
        assert_int_equal(ia3_f32_to_f16(nextafterf(middle, INFINITY)), h + 1);
        assert_int_equal(ia3_f32_to_f16(-middle), 0x8000 | (h + (h & 1)));
    }
    for (uint16_t h = 0; h < 0x7f7f; h++) {
        float low = ia3_bf16_to_f32(h), high = ia3_bf16_to_f32(h + 1), middle = low + (high - low) / 2;

        assert_int_equal(ia3_f32_to_bf16(middle), h + (h & 1));
        assert_int_equal(ia3_f32_to_bf16(nextafterf(middle, INFINITY)), h + 1);
    }
    assert_int_equal(ia3_f32_to_f16(65519.996f), 0x7bff);
    assert_int_equal(ia3_f32_to_f16(65520), 0x7c00);
    assert_int_equal(ia3_f32_to_f16(-INFINITY), 0xfc00);
    assert_int_equal(ia3_f32_to_bf16(3.4e38f), 0x7f80);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_weights), cmocka_unit_test(test_ones),     cmocka_unit_test(test_torch),
        cmocka_unit_test(test_target),  cmocka_unit_test(test_overflow), cmocka_unit_test(test_cancelled),
        cmocka_unit_test(test_changed), cmocka_unit_test(test_rounding), cmocka_unit_test(test_left_over),
        cmocka_unit_test(test_full),
    };

    return cmocka_run_group_tests_name("merge", tests, NULL, NULL);
}
