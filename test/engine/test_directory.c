/*
 * test_directory.c
 *     Names of checkpoints, the cache of Hugging Face's hub, and what is said about directories that are no checkpoints.
 */
#include "file_fixture.h"

#include <limits.h>
#include <sys/wait.h>

#include "engine/files/checkpoint.h"
#include "engine/files/directory.h"

#define GOLDEN "test/golden/t5-relu-tied"

static void
make(const char *format, const char *root)
{
    char path[PATH_MAX];

    snprintf(path, sizeof path, format, root);
    assert_int_equal(mkdir(path, 0755), 0);
}

static void
remove_tree(const char *path)
{
    char command[PATH_MAX + 16];

    snprintf(command, sizeof command, "rm -r %s", path);
    assert_int_equal(system(command), 0);
}

/* Copies the golden checkpoint's config.json to a new directory. */
static char *
start(char path[64])
{
    char *directory = make_directory(path);

    copy_in(GOLDEN, directory, "config.json");
    return directory;
}

static void
test_without_weights(void **state)
{
    static const struct {
        const char *file, *message, *hint;
    } cases[] = {
        {NULL, "has no weights", "Copy model.safetensors or pytorch_model.bin into it"},
        {"model-00001-of-00002.safetensors",
         "has shards of weights (model-00001-of-00002.safetensors) but no model.safetensors.index.json",
         "Copy model.safetensors.index.json"},
        {"pytorch_model-00001-of-00002.bin",
         "has shards of weights (pytorch_model-00001-of-00002.bin) but no pytorch_model.bin.index.json",
         "Copy pytorch_model.bin.index.json"},
        {"model.fp16.safetensors", "has only a variant of the weights, model.fp16.safetensors",
         "ln -s model.fp16.safetensors model.safetensors"},
        {"model.safetensors.index.fp16.json",
         "has only a variant of the weights, model.safetensors.index.fp16.json",
         "ln -s model.safetensors.index.fp16.json model.safetensors.index.json"},
        {"pytorch_model.fp16.bin", "has only a variant of the weights, pytorch_model.fp16.bin",
         "ln -s pytorch_model.fp16.bin pytorch_model.bin"},
        {"flax_model.msgpack", "has weights in Flax's format only (flax_model.msgpack)", "from_flax=True"},
        {"tf_model.h5", "has weights in TensorFlow's format only (tf_model.h5)", "from_tf=True"},
        {"flan-t5-base-q8_0.gguf", "has weights in llama.cpp's format only (flan-t5-base-q8_0.gguf)",
         "Use the original checkpoint"},
        {"encoder_model.onnx", "has weights in ONNX format only (encoder_model.onnx)",
         "Use the original checkpoint"},
        {"rust_model.ot", "has weights in rust-bert's format only (rust_model.ot)", "Use the original"},
        {"adapter_model.safetensors",
         "is an adapter, not a backbone: it has adapter_model.safetensors and no "
         "weights of a model",
         "Adapters are imported with ia3_import."},
        {"weights.safetensors", "has weights under another name, weights.safetensors",
         "ln -s weights.safetensors model.safetensors"},
        {"a b.safetensors", "has weights under another name, a b.safetensors",
         "ln -s FILE model.safetensors"},
        {"model.safetensors.incomplete",
         "has a download that was not finished (model.safetensors.incomplete)", "Start the download again."},
    };

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char path[64], *directory = start(path), expected[512];
        ia3_error err = {0};

        if (cases[i].file != NULL)
            write_in(directory, cases[i].file, "x", 1);
        write_in(directory, "README.md", "x", 1);
        assert_null(ia3_checkpoint_open(directory, &err));
        assert_int_equal(err.code, IA3_E_BAD_CHECKPOINT);
        snprintf(expected, sizeof expected, "directory \"%s\" %s", directory, cases[i].message);
        assert_string_equal(err.message, expected);
        if (strstr(err.hint, cases[i].hint) == NULL)
            fail_msg("%s", err.hint);
        remove_directory(directory);
    }
}

static void
test_without_config(void **state)
{
    char path[64], *directory = make_directory(path), below[128];
    ia3_error err = {0};

    assert_null(ia3_checkpoint_open(directory, &err));
    assert_non_null(strstr(err.message, "has no config.json"));
    assert_non_null(strstr(err.hint, "as on the Hugging Face hub"));
    make("%s/flan", directory);
    snprintf(below, sizeof below, "%s/flan", directory);
    copy_in(GOLDEN, below, "config.json");
    memset(&err, 0, sizeof err);
    assert_null(ia3_checkpoint_open(directory, &err));
    assert_non_null(strstr(err.hint, "The checkpoint seems to be in"));
    assert_non_null(strstr(err.hint, below));
    remove_tree(directory);
}

/* What git leaves in the place of large files if LFS is not installed. */
static void
test_lfs_pointer(void **state)
{
    static const char pointer[] =
        "version https://git-lfs.github.com/spec/v1\n"
        "oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\n"
        "size 12345\n";
    char path[64], *directory = start(path);
    ia3_error err = {0};

    write_in(directory, "model.safetensors", pointer, sizeof pointer - 1);
    assert_null(ia3_checkpoint_open(directory, &err));
    assert_non_null(strstr(err.message, "/model.safetensors\" is a Git LFS pointer, not the file itself"));
    assert_non_null(strstr(err.hint, "git lfs pull"));
    remove_directory(directory);
}

/* Renames tensors in the header, with names of the same length. */
static void
rename_tensors(const char *directory, const char *from, const char *to)
{
    buffer b = read_in(GOLDEN, "model.safetensors");
    size_t n = header_length(b);

    for (size_t i = 8; i + strlen(from) <= 8 + n; i++)
        if (memcmp(b.data + i, from, strlen(from)) == 0)
            memcpy(b.data + i, to, strlen(to));
    write_in(directory, "model.safetensors", b.data, b.len);
    free(b.data);
}

static void
test_other_kinds(void **state)
{
    char path[64], *directory = start(path);
    ia3_error err = {0};

    rename_tensors(directory, "\"decoder.", "\"xxcoder.");
    assert_null(ia3_checkpoint_open(directory, &err));
    assert_non_null(strstr(err.message, "model.safetensors: the model has an encoder and no decoder"));
    assert_non_null(strstr(err.detail, "sentence-t5"));
    remove_directory(directory);
}

static char *
find(const char *name, char path[PATH_MAX], ia3_error *err)
{
    memset(err, 0, sizeof *err);
    return ia3_directory_find(name, path, err) ? path : NULL;
}

static void
test_cache(void **state)
{
    static const char commit[] = "0613663d0d48ea86ba8cb3d7a44f0f65dc596a2a";
    char root[64], folder[128], path[PATH_MAX], expected[PATH_MAX];
    ia3_error err;

    make_directory(root);
    make("%s/hub", root);
    make("%s/hub/models--google--flan-t5-small", root);
    make("%s/hub/models--google--flan-t5-small/refs", root);
    make("%s/hub/models--google--flan-t5-small/snapshots", root);
    snprintf(folder, sizeof folder, "%s/hub/models--google--flan-t5-small", root);
    unsetenv("HF_HUB_CACHE");
    setenv("HF_HOME", root, 1);
    assert_null(find("google/flan-t5-small", path, &err));
    assert_non_null(strstr(err.message, "is a cache folder of the Hugging Face hub with 0 snapshots"));
    assert_string_equal(err.hint, "The download was not finished; start it again.");

    /* one snapshot, with and without refs/main, by the name and by the folder */
    snprintf(expected, sizeof expected, "%s/snapshots/%s", folder, commit);
    assert_int_equal(mkdir(expected, 0755), 0);
    for (int i = 0; i < 2; i++) {
        assert_string_equal(find("google/flan-t5-small", path, &err), expected);
        assert_string_equal(find(folder, path, &err), expected);
        write_in(folder, "refs/main", commit, strlen(commit));
    }

    /* of two, refs/main names one; if it does not, nothing is guessed */
    make("%s/hub/models--google--flan-t5-small/snapshots/other", root);
    assert_string_equal(find("google/flan-t5-small", path, &err), expected);
    write_in(folder, "refs/main", "gone\n", 5);
    assert_null(find(folder, path, &err));
    assert_non_null(strstr(err.message, "with 2 snapshots"));
    write_in(folder, "refs/main", "../../../etc", 12);
    assert_null(find(folder, path, &err));

    /* a file is no snapshot */
    write_in(folder, "snapshots/file", "x", 1);
    write_in(folder, "refs/main", "file", 4);
    assert_null(find(folder, path, &err));
    assert_non_null(strstr(err.message, "with 2 snapshots"));

    setenv("HF_HUB_CACHE", "/nonexistent", 1);
    assert_null(find("google/flan-t5-small", path, &err));
    assert_string_equal(err.message, "could not find backbone \"google/flan-t5-small\"");
    assert_string_equal(err.detail,
                        "It is neither a directory nor in the local cache of the Hugging Face hub, "
                        "\"/nonexistent\".");
    unsetenv("HF_HUB_CACHE");
    assert_null(find("a/b/c", path, &err));
    assert_string_equal(err.message, "could not open backbone \"a/b/c\": No such file or directory");
    assert_null(find("../flan", path, &err));
    assert_null(find("test/backbone/config.json", path, &err));
    assert_string_equal(err.message, "backbone \"test/backbone/config.json\" is not a directory");
    assert_non_null(find("test/backbone", path, &err));
    unsetenv("HF_HOME");
    remove_tree(root);
}

/* Opens the checkpoint as another user, in a process of its own. */
static void
open_as_nobody(const char *directory, ia3_error *err)
{
    int ends[2], status;

    assert_int_equal(pipe(ends), 0);

    pid_t pid = fork();

    if (pid == 0) {
        ia3_error mine = {0};

        if (geteuid() == 0 && setuid(65534) != 0)
            _exit(1);
        if (ia3_checkpoint_open(directory, &mine) != NULL)
            _exit(1);
        _exit(write(ends[1], &mine, sizeof mine) == sizeof mine ? 0 : 1);
    }
    close(ends[1]);
    assert_int_equal(read(ends[0], err, sizeof *err), sizeof *err);
    close(ends[0]);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
}

static void
test_permissions(void **state)
{
    char path[64], *directory = start(path), file[128], blobs[80], blob[128], expected[512];
    ia3_error err;

    copy_in(GOLDEN, directory, "model.safetensors");
    snprintf(file, sizeof file, "%s/model.safetensors", directory);
    assert_int_equal(chmod(directory, 0755), 0);
    assert_int_equal(chmod(file, geteuid() == 0 ? 0600 : 0), 0);
    open_as_nobody(directory, &err);
    assert_non_null(strstr(err.message, "model.safetensors\": Permission denied"));
    assert_non_null(strstr(err.detail, "The engine runs as user \""));
    snprintf(expected, sizeof expected, "Run, as the owner of the files: chmod -R a+rX '%s'", directory);
    assert_string_equal(err.hint, expected);
    assert_int_equal(chmod(directory, geteuid() == 0 ? 0700 : 0), 0);
    open_as_nobody(directory, &err);
    snprintf(expected, sizeof expected, "who may not enter the directory \"%s\".", directory);
    if (strstr(err.detail, expected) == NULL)
        fail_msg("%s", err.detail);
    assert_int_equal(chmod(directory, 0755), 0);

    /* a link into a directory that is closed */
    snprintf(blobs, sizeof blobs, "%s/blobs", directory);
    snprintf(blob, sizeof blob, "%s/model.safetensors", blobs);
    assert_int_equal(mkdir(blobs, 0755), 0);
    assert_int_equal(rename(file, blob), 0);
    assert_int_equal(symlink("blobs/model.safetensors", file), 0);
    assert_int_equal(chmod(blobs, geteuid() == 0 ? 0700 : 0), 0);
    open_as_nobody(directory, &err);
    snprintf(expected, sizeof expected, "who may not enter the directory \"%s\".", blobs);
    if (strstr(err.detail, expected) == NULL)
        fail_msg("%s", err.detail);
    assert_int_equal(chmod(blobs, 0755), 0);
    assert_int_equal(remove(blob), 0);
    remove_directory(directory);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_without_weights), cmocka_unit_test(test_without_config),
        cmocka_unit_test(test_lfs_pointer),     cmocka_unit_test(test_other_kinds),
        cmocka_unit_test(test_cache),           cmocka_unit_test(test_permissions),
    };

    return cmocka_run_group_tests_name("directory", tests, NULL, NULL);
}
