/*
 * golden_fixture.h
 *     Common parts of the golden tests: a configuration's checkpoint, adapter and expected results (test/golden),
 *     loaded on the device that IA3_TEST_DEVICE names (default "cpu") in one dtype, and measures of distance.
 *
 * This is only a header, because every test program has one source file. Each test case gets its golden data as
 * cmocka's initial state, opens them and closes them at the end; a failing case leaks them.
 */
#ifndef GOLDEN_FIXTURE_H
#define GOLDEN_FIXTURE_H

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "engine/files/safetensors.h"
#include "engine/model/choices.h"
#include "engine/model/methods/methods.h"
#include "engine/model/model.h"

#define GOLDEN_INPUTS   3
#define GOLDEN_EXAMPLES 10
#define GOLDEN_MAX_NAME 160

static const char *const golden_names[] = {"t5-relu-tied",   "t5-gated-untied",     "t5-erf-gelu-sharded",
                                           "t5-silu-tied",   "umt5-bias-per-layer", "mt5-own-head",
                                           "t5-few-buckets", "madlad-embedding",    "t5-wide-attention",
                                           "t5-stored-bf16", "t5-stored-fp16",      "backbone"};
#define GOLDEN_N (sizeof golden_names / sizeof *golden_names)

/*
 * Lists of configurations: each name is followed by a space, so that lists can be put together. The few are one
 * without a gate, one with a gate, one with a bias in every layer; test/backbone has trained weights, and
 * no activations are expected of it.
 */
#define GOLDEN_FEW "t5-relu-tied t5-gated-untied umt5-bias-per-layer "
#define GOLDEN_ALL                                                                                           \
    GOLDEN_FEW "t5-erf-gelu-sharded t5-silu-tied mt5-own-head t5-few-buckets madlad-embedding "              \
               "t5-wide-attention t5-stored-bf16 t5-stored-fp16 "
#define GOLDEN_MINI "backbone "

/* A whole file in memory. */
typedef struct golden_file {
    uint8_t *data;
    size_t len;
} golden_file;

/* The number of threads for devices that are opened from now on. */
static int golden_threads = 2;

static inline const char *
golden_device(void)
{
    const char *spec = getenv("IA3_TEST_DEVICE");
    return spec ? spec : "cpu";
}

/*
 * Whether the device is a real GPU, which adds in another order than the CPU and keeps more of what it computes in bfloat16. A
 * simulated one (engine.mk's module ia3_cuda_sim.so) computes with the host's arithmetic.
 */
static inline bool
golden_real_gpu(void)
{
    const char *module = getenv("IA3_CUDA_MODULE");
    return strcmp(golden_device(), "cpu") != 0 && !(module && strstr(module, "cuda_sim"));
}

/* The parameters of a test case (cmocka's initial state). */
typedef struct golden_case {
    const char *name;
    ia3_dtype dtype;
} golden_case;

typedef struct golden {
    const char *name;
    ia3_dtype dtype;
    golden_file file;
    ia3_safetensors *expected;
    ia3_checkpoint *ck;
    ia3_device *dev;
    ia3_model *m;
    const ia3_config *config;
    const ia3_layout *layout;
    float *vectors; /* the golden adapter, flat */
    ia3_adapter *adapter;
} golden;

/* Fails the running test with the engine's error message. */
#define golden_ok(condition, err)                                                                            \
    do {                                                                                                     \
        if (!(condition))                                                                                    \
            fail_msg("%s: %s %s", #condition, (err)->message, (err)->detail);                                \
    } while (0)

/* The golden folder: $IA3_GOLDEN, else test/golden (paths are relative to the top of the checkout). */
static inline const char *
golden_root(void)
{
    const char *root = getenv("IA3_GOLDEN");
    return root ? root : "test/golden";
}

static inline bool
golden_read(golden_file *f, const char *path)
{
    FILE *in = fopen(path, "rb");
    f->data = NULL;
    f->len = 0;
    if (!in)
        return false;
    fseek(in, 0, SEEK_END);
    f->len = (size_t) ftell(in);
    rewind(in);
    f->data = malloc(f->len + 1);
    bool ok = fread(f->data, 1, f->len, in) == f->len;
    fclose(in);
    f->data[f->len] = 0;
    return ok;
}

static inline golden_file
golden_file_of(const char *name, const char *file)
{
    char path[512];
    golden_file f;
    snprintf(path, sizeof path, "%s/%s/%s", golden_root(), name, file);
    if (!golden_read(&f, path))
        fail_msg("cannot read %s (run from the checkout, or set IA3_GOLDEN)", path);
    return f;
}

/* Reads an adapter file of a configuration; the caller frees the values. */
static inline float *
golden_vectors(const char *name, const char *file, const ia3_layout *layout)
{
    ia3_error err = {0};
    golden_file f = golden_file_of(name, file);
    float *values = ia3_adapter_parse(layout, f.data, f.len, &err);
    golden_ok(values, &err);
    free(f.data);
    return values;
}

static inline golden *
golden_open(const golden_case *c)
{
    golden *g = calloc(1, sizeof *g);
    ia3_error err = {0};
    char path[512];
    static const uint8_t digest[IA3_DIGEST_LEN] = {1};
    g->name = c->name;
    g->dtype = c->dtype;
    g->file = golden_file_of(c->name, "expected.safetensors");
    g->expected = ia3_safetensors_parse(g->file.data, g->file.len, "expected", IA3_E_INVALID, &err);
    golden_ok(g->expected, &err);
    if (strcmp(c->name, "backbone") == 0)
        snprintf(path, sizeof path, "test/backbone");
    else
        snprintf(path, sizeof path, "%s/%s", golden_root(), c->name);
    g->ck = ia3_checkpoint_open(path, &err);
    golden_ok(g->ck, &err);
    g->dev = ia3_device_open(golden_device(), c->dtype, golden_threads, 0, &err);
    golden_ok(g->dev, &err);
    g->m = ia3_model_load(g->ck, g->dev, ia3_methods, NULL, NULL, &err);
    golden_ok(g->m, &err);
    ia3_model_set_checkpoint(g->m, g->ck);
    g->config = ia3_model_config(g->m);
    g->layout = ia3_model_layout(g->m);
    g->vectors = golden_vectors(c->name, "adapter/adapter_model.safetensors", g->layout);
    g->adapter = ia3_adapter_create(g->m, ia3_model_layout(g->m), g->vectors, digest, &err);
    golden_ok(g->adapter, &err);
    return g;
}

static inline void
golden_close(golden *g)
{
    ia3_adapter_free(g->m, g->adapter);
    free(g->vectors);
    ia3_model_free(g->m);
    g->dev->ops->close(g->dev);
    ia3_checkpoint_close(g->ck);
    ia3_safetensors_free(g->expected);
    free(g->file.data);
    free(g);
}

/* --- expected tensors --- */

/* Finds an expected tensor; NULL if there is none. All are stored as fp32. */
static inline const ia3_st_tensor *
golden_find(const golden *g, const char *format, ...)
{
    char name[GOLDEN_MAX_NAME];
    va_list args;
    va_start(args, format);
    vsnprintf(name, sizeof name, format, args);
    va_end(args);
    return ia3_safetensors_find(g->expected, name);
}

static inline const float *
golden_floats(const golden *g, const ia3_st_tensor *t, size_t n)
{
    assert_non_null(t);
    assert_int_equal(t->dtype, IA3_F32);
    if (t->bytes != n * sizeof(float))
        fail_msg("%s: %s has %zu values, %zu wanted", g->name, t->name, t->bytes / sizeof(float), n);
    return (const float *) (const void *) t->data;
}

/* The values of an expected tensor, which must have n of them. */
#define golden_values(g, n, ...) golden_floats(g, golden_find(g, __VA_ARGS__), n)

/* Converts an expected tensor to integers; the caller frees them. */
static inline int32_t *
golden_ints(const ia3_st_tensor *t, int *n)
{
    assert_non_null(t);
    *n = (int) (t->bytes / sizeof(float));
    int32_t *ids = malloc((size_t) (*n + 1) * sizeof *ids);
    for (int i = 0; i < *n; i++)
        ids[i] = (int32_t) ((const float *) (const void *) t->data)[i];
    return ids;
}

/* All choices under "PREFIX.choice.C.ids". */
static inline ia3_choices *
golden_choices(const golden *g, const char *prefix)
{
    int32_t *ids[16];
    int len[16], n = 0, bad_a, bad_b;
    ia3_error err = {0};
    const ia3_st_tensor *t;
    while (n < 16 && (t = golden_find(g, "%s.choice.%d.ids", prefix, n))) {
        ids[n] = golden_ints(t, &len[n]);
        n++;
    }
    ia3_choices *c =
        ia3_choices_create((const int32_t *const *) ids, len, n, g->config->start_id, &bad_a, &bad_b, &err);
    golden_ok(c, &err);
    for (int i = 0; i < n; i++)
        free(ids[i]);
    return c;
}

/* --- distances --- */

static inline double
golden_relative(const float *got, const float *want, size_t n)
{
    double difference = 0, norm = 0;
    for (size_t i = 0; i < n; i++) {
        difference += ((double) got[i] - want[i]) * ((double) got[i] - want[i]);
        norm += (double) want[i] * want[i];
    }
    if (!isfinite(difference))
        return INFINITY;
    return sqrt(difference) / fmax(sqrt(norm), 1e-30);
}

static inline double
golden_max(const float *got, const float *want, size_t n)
{
    double worst = 0;
    for (size_t i = 0; i < n; i++) {
        double d = fabs((double) got[i] - want[i]);
        if (!(d <= worst)) /* a NaN is the worst of all */
            worst = isnan(d) ? INFINITY : d;
    }
    return worst;
}

static inline double
golden_mean(const float *got, const float *want, size_t n)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += fabs((double) got[i] - want[i]);
    return isfinite(sum) ? sum / (double) n : INFINITY;
}

static inline double
golden_cosine(const float *a, const float *b, size_t n)
{
    double dot = 0, aa = 0, bb = 0;
    for (size_t i = 0; i < n; i++) {
        dot += (double) a[i] * b[i];
        aa += (double) a[i] * a[i];
        bb += (double) b[i] * b[i];
    }
    return isfinite(dot) ? dot / fmax(sqrt(aa * bb), 1e-30) : -1;
}

static inline const char *
golden_dtype(ia3_dtype dtype)
{
    return dtype == IA3_F32 ? "float32" : dtype == IA3_BF16 ? "bfloat16" : "int8";
}

/* Fails unless value <= limit, with a message that names the configuration, the quantity and both numbers. */
static inline void
golden_limit(const golden *g, const char *what, double value, double limit)
{
    if (getenv("IA3_GOLDEN_VERBOSE"))
        printf("    %s %s %s: %.3g (limit %.3g)\n", g->name, golden_dtype(g->dtype), what, value, limit);
    if (!(value <= limit))
        fail_msg("%s %s: %s is %.3g, more than %.3g", g->name, golden_dtype(g->dtype), what, value, limit);
}

/* --- cases --- */

typedef struct golden_test {
    const char *name;
    CMUnitTestFunction run;
    bool bf16;           /* also in bfloat16 */
    const char *configs; /* the configurations it runs for, each followed by a space */
    bool int8;           /* also with weights in int8, on the CPU */
} golden_test;

static inline bool
golden_listed(const char *list, const char *name)
{
    size_t len = strlen(name);
    for (const char *at = list; (at = strstr(at, name)); at += len)
        if ((at == list || at[-1] == ' ') && at[len] == ' ')
            return true;
    return false;
}

/*
 * Runs every test for its configurations and dtypes as one cmocka group. IA3_TEST_FILTER selects some of them
 * ("scores *", "* float32"; selection.c).
 */
static inline int
golden_run(const char *group, const golden_test *tests, size_t n)
{
    static const ia3_dtype dtypes[] = {IA3_F32, IA3_BF16, IA3_INT8};
    size_t room = n * GOLDEN_N * 3, used = 0;
    struct CMUnitTest *cases = calloc(room, sizeof *cases);
    golden_case *states = calloc(room, sizeof *states);
    for (size_t t = 0; t < n; t++)
        for (size_t i = 0; i < GOLDEN_N; i++)
            for (int d = 0; d < 3; d++) {
                bool int8 = tests[t].int8 && strcmp(golden_device(), "cpu") == 0;
                if (!golden_listed(tests[t].configs, golden_names[i]) || (d == 1 && !tests[t].bf16) ||
                    (d == 2 && !int8))
                    continue;
                char *name = malloc(128);
                snprintf(name, 128, "%s %s %s", tests[t].name, golden_names[i], golden_dtype(dtypes[d]));
                states[used] = (golden_case){golden_names[i], dtypes[d]};
                cases[used].name = name;
                cases[used].test_func = tests[t].run;
                cases[used].initial_state = &states[used];
                used++;
            }
    int failed = _cmocka_run_group_tests(group, cases, used, NULL, NULL);
    for (size_t i = 0; i < used; i++)
        free((char *) cases[i].name);
    free(cases);
    free(states);
    return failed;
}

#endif
