/*
 * test_load.c
 *     Loading the same weights from every kind of file: the digest, the scores (on the device that IA3_TEST_DEVICE names), and the
 *     memory that it takes.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <sys/wait.h>

#include "bench/bench_files.h"
#include "bench/bench_memory.h"
#include "engine/model/methods/methods.h"
#include "engine/recipe/score.h"
#include "file_fixture.h"

#define TOKENIZER "test/backbone/spiece.model"

typedef struct loaded {
    uint8_t digest[IA3_DIGEST_LEN];
    double scores[2];
    size_t weights; /* bytes of the device */
    bool wide;      /* its activations are float32 */
} loaded;

static const int32_t first[] = {17, 4, 1}, second[] = {230, 1};

/* Loads as the engine does, with the digest on threads beside it, and scores a row. */
static bool
load(const char *spec, const char *directory, ia3_dtype dtype, int threads, loaded *l, ia3_error *err)
{
    ia3_device *dev = ia3_device_open(spec, dtype, threads, 0, err);
    ia3_checkpoint *ck = ia3_checkpoint_open(directory, err);
    ia3_digest *digest = ck ? ia3_digest_begin(ck, threads) : NULL;
    ia3_model *m = ck && dev ? ia3_model_load(ck, dev, ia3_methods, NULL, NULL, err) : NULL;
    bool ok =
        m != NULL && ia3_digest_end(digest, l->digest, NULL, NULL, err) && ia3_checkpoint_unchanged(ck, err);

    ia3_checkpoint_close(ck);
    if (!ok)
        return false;
    l->weights = dev->ops->memory_used(dev);
    l->wide = dev->dtype == IA3_F32;

    const int32_t *tokens[] = {first, second};
    int lengths[] = {3, 2}, bad[2];
    ia3_choices *choices = ia3_choices_create(tokens, lengths, 2, 0, &bad[0], &bad[1], err);
    ia3_score_row row = {.ids = first, .n_ids = 3, .choices = choices, .scores = l->scores};

    ok = ia3_score(m, &row, 1, err);
    ia3_choices_free(choices);
    ia3_model_free(m);
    dev->ops->close(dev);
    return ok;
}

static void
make(const char *work, const char *shape, const char *stored, const char *format, char *directory,
     size_t size)
{
    assert_true(bench_files_make(work, shape, stored, format, TOKENIZER, directory, size));
}

/* Removes a directory of such directories. */
static void
remove_made(const char *work)
{
    DIR *dir = opendir(work);

    for (struct dirent *e; (e = readdir(dir)) != NULL;) {
        char *path = ia3_join_path(work, e->d_name);

        if (e->d_name[0] != '.')
            remove_directory(path);
        free(path);
    }
    closedir(dir);
    remove_directory(work);
}

/*
 * bfloat16 can be widened without loss, so all these files have the same values and give the same scores, bit for bit, on one
 * thread and on several; and the same in float32 and in bfloat16 where that is only how weights are stored. The digest
 * depends on the stored dtype, except that float64 counts as float32.
 */
static void
test_same(void **state)
{
    static const struct {
        const char *stored, *format;
    } files[] = {{"float32", "safetensors"},    {"float64", "safetensors"},    {"float32", "bin"},
                 {"float32", "bin-transposed"}, {"float64", "bin-transposed"}, {"bfloat16", "safetensors"},
                 {"bfloat16", "bin-transposed"}};
    static const ia3_dtype dtypes[] = {IA3_F32, IA3_BF16, IA3_INT8};
    const char *spec = getenv("IA3_TEST_DEVICE") ? getenv("IA3_TEST_DEVICE") : "cpu";
    int n_dtypes = strcmp(spec, "cpu") == 0 ? 3 : 2; /* int8 is for the CPU only */
    char path[64], *work = make_directory(path), directory[256];
    loaded reference[3] = {0}, narrow = {0};
    ia3_error err = {0};

    for (int i = 0; i < 7; i++)
        for (int k = 0; k < n_dtypes; k++) {
            loaded l = {0};

            make(work, "tiny", files[i].stored, files[i].format, directory, sizeof directory);
            if (!load(spec, directory, dtypes[k], 1 + (i + k) % 3, &l, &err))
                fail_msg("%s: %s", directory, err.message);
            if (i == 0)
                reference[k] = l;
            if (i == 5)
                narrow = l;
            assert_memory_equal(l.scores, reference[k].scores, sizeof l.scores);
            if (dtypes[k] == IA3_BF16 && l.wide) {
                assert_memory_equal(l.scores, reference[0].scores, sizeof l.scores);
                assert_true(l.weights < reference[0].weights * 0.55);
            }
            assert_memory_equal(l.digest, i < 5 ? reference[0].digest : narrow.digest, sizeof l.digest);
        }
    assert_memory_not_equal(narrow.digest, reference[0].digest, sizeof narrow.digest);
    remove_made(work);
}

#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
/* The most anonymous memory of a process that loads; 0 if it failed. */
static size_t
memory_to_load(const char *directory, ia3_dtype dtype, size_t *weights)
{
    size_t result[2] = {0};
    int fds[2];

    assert_int_equal(pipe(fds), 0);

    pid_t pid = fork();

    if (pid == 0) {
        bench_sampler s;
        loaded l = {0};
        ia3_error err = {0};
        bool ok = bench_sampler_start(&s) && load("cpu", directory, dtype, 2, &l, &err);

        result[0] = ok ? bench_sampler_stop(&s) : 0;
        result[1] = l.weights;
        _exit(write(fds[1], result, sizeof result) == (ssize_t) sizeof result ? 0 : 1);
    }
    close(fds[1]);
    assert_int_equal(read(fds[0], result, sizeof result), sizeof result);
    close(fds[0]);
    waitpid(pid, NULL, 0);
    *weights = result[1];
    return result[0];
}

/* Loading takes 1.15 times the weights and a constant, whatever the file is; of 200 MB, this small model may use 60. */
static void
test_memory(void **state)
{
    static const char *const formats[] = {"safetensors", "bin-transposed"};
    static const ia3_dtype dtypes[] = {IA3_F32, IA3_BF16, IA3_INT8};

    for (int i = 0; i < 2; i++) {
        char path[64], *work = make_directory(path), directory[256];

        make(work, "narrow", "float64", formats[i], directory, sizeof directory);
        for (int k = 0; k < 3; k++) {
            size_t weights, most = memory_to_load(directory, dtypes[k], &weights);

            assert_true(most > weights / 2);
            if (getenv("TEST_LOAD_VERBOSE"))
                print_message("%s: %zu bytes for %zu of weights\n", formats[i], most, weights);
            if ((double) most > 1.15 * (double) weights + 60e6)
                fail_msg("%s: %zu bytes for %zu of weights", formats[i], most, weights);
        }
        remove_made(work);
    }
}
#endif

int
main(void)
{
    const struct CMUnitTest tests[] = {
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
        cmocka_unit_test(test_memory), /* first: the memory of this process counts, too */
#endif
        cmocka_unit_test(test_same),
    };

    return cmocka_run_group_tests_name("load", tests, NULL, NULL);
}
