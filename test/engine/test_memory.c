/*
 * test_memory.c
 *     The memory of a loaded backbone: resident memory must stay below 1.15 times the weights in the compute dtype plus
 *     200 MB, also while loading. The checkpoint is made here as a sparse file.
 */
#include "file_fixture.h"

#include <sys/wait.h>

#include "engine/files/state_dict.h"
#include "engine/model/model.h"
#include "engine/model/methods/methods.h"

#define MB 1000000.0

static const char config[] =
    "{\"model_type\": \"t5\", \"vocab_size\": 32128, \"d_model\": 768, \"d_kv\": 64, \"d_ff\": 2048,"
    " \"num_heads\": 12, \"num_layers\": 6, \"feed_forward_proj\": \"gated-gelu\","
    " \"tie_word_embeddings\": false}";

static char directory[64];

/* Writes one entry of the header and advances `at` by the size of its data. */
static size_t
describe(char *out, size_t size, const char *name, int ndim, int64_t rows, int64_t cols, uint64_t *at)
{
    uint64_t end = *at + (uint64_t) (rows * cols) * sizeof(float);
    char shape[48];

    if (ndim == 1)
        snprintf(shape, sizeof shape, "[%lld]", (long long) cols);
    else
        snprintf(shape, sizeof shape, "[%lld, %lld]", (long long) rows, (long long) cols);

    int n =
        snprintf(out, size, "%s\"%s\": {\"dtype\": \"F32\", \"shape\": %s, \"data_offsets\": [%llu, %llu]}",
                 *at ? ", " : "{", name, shape, (unsigned long long) *at, (unsigned long long) end);

    assert_true(n > 0 && (size_t) n < size);
    *at = end;
    return (size_t) n;
}

/* All weights are zero, so the file takes hardly any disk space. */
static int
set_up(void **state)
{
    enum { HEADER = 1 << 20 };
    ia3_config c;
    ia3_error err = {0};
    char *header = malloc(HEADER), path[128];
    uint64_t bytes = 0;
    int n;

    make_directory(directory);
    write_in(directory, "config.json", config, sizeof config - 1);
    assert_true(ia3_config_parse(&c, config, sizeof config - 1, "config.json", &err));

    ia3_state_tensor *graph = ia3_state_dict(&c, &n);
    size_t len = describe(header, HEADER, "shared.weight", 2, c.vocab_size, c.d_model, &bytes);

    len += describe(header + len, HEADER - len, "lm_head.weight", 2, c.vocab_size, c.d_model, &bytes);
    for (int i = 0; i < n; i++)
        len += describe(header + len, HEADER - len, graph[i].name, graph[i].ndim, graph[i].rows,
                        graph[i].cols, &bytes);
    len += (size_t) snprintf(header + len, HEADER - len, "}");
    while (len % 8 != 0)
        header[len++] = ' ';

    buffer b = make_safetensors(header, len, NULL, 0);

    write_in(directory, "model.safetensors", b.data, b.len);
    snprintf(path, sizeof path, "%s/model.safetensors", directory);
    assert_int_equal(truncate(path, (off_t) (b.len + bytes)), 0);
    assert_true(bytes > 400 * MB); /* much more than the constant, so that the test is meaningful */
    free(b.data);
    free(graph);
    free(header);
    return 0;
}

static int
tear_down(void **state)
{
    remove_directory(directory);
    return 0;
}

/* The peak resident memory of this process (VmHWM) in bytes. */
static double
highest_resident(void)
{
    FILE *f = fopen("/proc/self/status", "r");
    char line[256];
    double kilobytes = 0;

    while (f && fgets(line, sizeof line, f))
        if (sscanf(line, "VmHWM: %lf", &kilobytes) == 1)
            break;
    if (f)
        fclose(f);
    return kilobytes * 1024;
}

/* Runs in a process of its own. The exit status is 0 if the memory is within the limit, 1 above it, 2 if loading
 * failed, 3 if the processor does not support this type (test_golden.c checks whether it should). */
static int
load(ia3_dtype dtype)
{
    ia3_error err = {0};
    ia3_checkpoint *ck = ia3_checkpoint_open(directory, &err);
    ia3_device *dev = ck ? ia3_device_open("cpu", dtype, 2, 0, &err) : NULL;

    if (ck && dev == NULL && dtype == IA3_BF16)
        return 3;

    ia3_model *m = dev ? ia3_model_load(ck, dev, ia3_methods, NULL, NULL, &err) : NULL;

    if (m == NULL) {
        fprintf(stderr, "%s %s\n", err.message, err.detail);
        return 2;
    }

    double weights = (double) ia3_model_parameters(m) * (double) ia3_dtype_size(dtype);
    double resident = highest_resident(), limit = 1.15 * weights + 200 * MB;

    printf("%.0f MB of weights, %.0f MB resident, limit %.0f MB\n", weights / MB, resident / MB, limit / MB);
    fflush(stdout);
    return resident > 0 && resident <= limit ? 0 : 1;
}

static void
check(ia3_dtype dtype)
{
#ifdef __SANITIZE_ADDRESS__
    skip(); /* it keeps shadows and what was freed */
#endif
    int status;
    pid_t pid = fork();

    if (pid == 0)
        _exit(load(dtype));
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    if (WEXITSTATUS(status) == 3)
        skip();
    assert_int_equal(WEXITSTATUS(status), 0);
}

static void
test_float32(void **state)
{
    check(IA3_F32);
}

static void
test_bfloat16(void **state)
{
    check(IA3_BF16);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_float32), cmocka_unit_test(test_bfloat16)};

    return cmocka_run_group_tests_name("memory", tests, set_up, tear_down);
}
