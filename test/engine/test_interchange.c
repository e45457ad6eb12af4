/*
 * test_interchange.c
 *     NORMALIZE, MERGE, CONFIG and METHOD requests as a backend makes them, and T-Few's own vectors (skipped if they are
 *     absent).
 */
#include "golden_fixture.h"

#include <openssl/sha.h>
#include <poll.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "engine/base/alloc.h"
#include "engine/serve/normalize.h"
#include "engine_client.h"
#include "engine_requests.h"
#include "engine/model/methods/methods.h"

#define BACKBONE "test/backbone"

static test_engine engine;
static golden_file adapter; /* of test/backbone */
static char out[64];

static int
start_engine(void **state)
{
    static const char *const extra[] = {"--dtype", "float32", NULL};

    adapter = golden_file_of("backbone", "adapter/adapter_model.safetensors");
    snprintf(out, sizeof out, "/tmp/ia3-test-XXXXXX");
    assert_non_null(mkdtemp(out));
    assert_true(test_engine_start(&engine, BACKBONE, extra));
    return 0;
}

static int
stop_engine(void **state)
{
    int status = test_engine_stop(&engine, true);
    char command[100];

    free(adapter.data);
    snprintf(command, sizeof command, "rm -rf '%s'", out);
    return WIFEXITED(status) && WEXITSTATUS(status) == 0 && system(command) == 0 ? 0 : -1;
}

static ia3_layout *
layout_of(const char *name)
{
    golden_file f = golden_file_of(name, "config.json");
    ia3_config config;
    ia3_error err = {0};

    golden_ok(ia3_config_parse(&config, (const char *) f.data, f.len, name, &err), &err);
    free(f.data);
    return ia3_layout_create(&config, ia3_variant_standard(ia3_methods[0]));
}

static ia3_layouts *
layouts_of(const char *name)
{
    golden_file f = golden_file_of(name, "config.json");
    ia3_config config;
    ia3_error err = {0};

    golden_ok(ia3_config_parse(&config, (const char *) f.data, f.len, name, &err), &err);
    free(f.data);
    return ia3_layouts_create(&config, ia3_methods);
}

static uint8_t *
grow(uint8_t *data, size_t len, size_t cap)
{
    return ia3_realloc(data, cap);
}

/* peft's two layouts and T-Few's names give the same bytes; modules are reported as they are named in the file. */
static void
test_normalize(void **state)
{
    static const char *const files[] = {"adapter/adapter_model.safetensors",
                                        "adapter_wi1/adapter_model.safetensors", "tfew.safetensors"};
    ia3_layout *layout = layout_of("t5-gated-untied");
    ia3_layouts *layouts = layouts_of("t5-gated-untied");
    golden_file want = golden_file_of("t5-gated-untied", files[0]);

    for (int i = 0; i < 3; i++) {
        golden_file f = golden_file_of("t5-gated-untied", files[i]);
        ia3_writer in = {.grow = grow}, w = {.grow = grow};
        ia3_error err = {0};
        size_t n;
        int wo = 0, wi_1 = 0;

        ia3_put_str(&in, (const char *) f.data, f.len);
        ia3_put_str(&in, NULL, 0);
        golden_ok(ia3_normalize(layouts, in.data, in.len, &w, &err), &err);

        ia3_reader r = {.p = w.data, .end = w.data + w.len};
        const char *method = ia3_get_str(&r, &n);

        assert_int_equal(n, 3);
        assert_memory_equal(method, "ia3", 3);
        ia3_get_str(&r, &n);
        assert_int_equal(n, 0); /* options */
        assert_int_equal(ia3_get_u32(&r), 0);

        const char *bytes = ia3_get_str(&r, &n);

        assert_int_equal(n, want.len);
        assert_memory_equal(bytes, want.data, n);
        for (int k = 0; k < 3; k++) /* tensors in the file, tensors of the method, modules */
            assert_int_equal(ia3_get_u32(&r), layout->n);
        for (int k = 0; k < layout->n; k++) {
            const char *module = ia3_get_str(&r, &n);
            bool input = ia3_get_u8(&r), ff = n > 3 && memcmp(module + n - 3, ".wo", 3) == 0;

            assert_int_equal(input, ff);
            assert_true(memcmp(module, "encoder.block.", 14) == 0 ||
                        memcmp(module, "decoder.block.", 14) == 0);
            assert_true(ff || memcmp(module + n - 2, ".k", 2) == 0 || memcmp(module + n - 2, ".v", 2) == 0 ||
                        memcmp(module + n - 5, ".wi_1", 5) == 0);
            wo += ff;
            wi_1 += memcmp(module + n - 5, ".wi_1", 5) == 0;
        }
        assert_int_equal(wo, i == 0 ? layout->n_enc + layout->n_dec : 0);
        assert_int_equal(wi_1, i == 0 ? 0 : layout->n_enc + layout->n_dec);
        assert_false(r.bad);
        assert_ptr_equal(r.p, r.end);

        /* truncating the adapter or the message anywhere is an error, and nothing is written */
        for (size_t cut = 0; cut < f.len; cut += 1 + f.len / 300) {
            ia3_writer shorter = {.grow = grow};

            w.len = 0;
            memset(&err, 0, sizeof err);
            ia3_put_str(&shorter, (const char *) f.data, cut);
            ia3_put_str(&shorter, NULL, 0);
            assert_false(ia3_normalize(layouts, shorter.data, shorter.len, &w, &err));
            assert_int_equal(err.code, IA3_E_BAD_ADAPTER);
            memset(&err, 0, sizeof err);
            assert_false(ia3_normalize(layouts, in.data, cut, &w, &err));
            assert_int_equal(err.code, IA3_E_PROTOCOL);
            assert_int_equal(w.len, 0);
            free(shorter.data);
        }
        free(in.data);
        free(w.data);
        free(f.data);
    }
    free(want.data);
    ia3_layouts_free(layouts);
    ia3_layout_free(layout);
}

static void
put_adapter_bytes(test_client *c, uint8_t type)
{
    ia3_writer *w = test_begin(c, type);

    if (type == IA3_MERGE)
        test_put_text(w, "ia3");
    ia3_put_str(w, (const char *) adapter.data, adapter.len);
    if (type == IA3_NORMALIZE)
        test_put_text(w, "");
}

static void
expect_error(test_client *c, Ia3ErrorCode code, const char *part)
{
    assert_int_equal(c->type, IA3_ERROR);

    test_error e = test_get_error(&c->reader);

    if (e.code != code || strstr(e.message, part) == NULL)
        fail_msg("error %u \"%s\", not %u \"%s\"", e.code, e.message, code, part);
}

static void
test_served_normalize(void **state)
{
    test_client c;
    size_t n;

    test_client_open(&c, &engine);
    put_adapter_bytes(&c, IA3_NORMALIZE);
    assert_int_equal(test_call(&c, NULL), IA3_NORMALIZE_OK);

    const char *method = ia3_get_str(&c.reader, &n);

    assert_int_equal(n, 3);
    assert_memory_equal(method, "ia3", 3);
    ia3_get_str(&c.reader, &n);
    assert_int_equal(n, 0); /* options */
    assert_int_equal(ia3_get_u32(&c.reader), 0);

    const char *bytes = ia3_get_str(&c.reader, &n);

    assert_int_equal(n, adapter.len);
    assert_memory_equal(bytes, adapter.data, n);
    assert_int_equal(ia3_get_u32(&c.reader), 3 * 6 + 5 * 2);

    ia3_put_str(test_begin(&c, IA3_NORMALIZE), "nonsense", 8);
    test_put_text(&c.out, "");
    test_call(&c, NULL);
    expect_error(&c, IA3_E_BAD_ADAPTER, "adapter: ");
    /* the connection remains open, but not after a malformed message */
    test_begin(&c, IA3_NORMALIZE);
    test_call(&c, NULL);
    expect_error(&c, IA3_E_PROTOCOL, "malformed NORMALIZE message");
    assert_false(test_receive(&c));
    test_client_close(&c);
}

/* The scores with the bare backbone or one adapter. */
static void
score(test_engine *e, const uint8_t *digest, double scores[2])
{
    static const char *const choices[] = {"billing", "access", NULL};
    test_client c;

    test_client_open(&c, e);
    if (digest != NULL) {
        ia3_writer *w = test_begin(&c, IA3_PUT_ADAPTER);

        ia3_put_bytes(w, digest, IA3_DIGEST_LEN);
        test_put_text(w, "ia3");
        test_put_text(w, "");
        ia3_put_str(w, (const char *) adapter.data, adapter.len);
        assert_int_equal(test_call(&c, NULL), IA3_OK);
    }

    test_rows rows = {.n_digests = digest != NULL,
                      .digests = {digest},
                      .sets = {choices},
                      .n_rows = 1,
                      .rows = {{.text = "I was charged twice for the same order."}}};

    test_put_rows(&c, &rows);
    assert_int_equal(test_call(&c, NULL), IA3_SCORE_OK);
    test_get_scores(&c, scores, 2);
    test_client_close(&c);
}

static void
put_merge(test_client *c, const char *directory)
{
    put_adapter_bytes(c, IA3_MERGE);
    test_put_text(&c->out, directory);
}

/* Another engine with the merged checkpoint gives the same scores as the adapter (both round to bfloat16 once). */
static void
test_served_merge(void **state)
{
    static const char *const extra[] = {"--dtype", "float32", NULL};
    test_client c;
    test_engine merged;
    char directory[128];
    uint8_t digest[IA3_DIGEST_LEN];
    double bare[2], want[2], got[2];

    SHA256(adapter.data, adapter.len, digest);
    snprintf(directory, sizeof directory, "%s/merged", out);
    test_client_open(&c, &engine);
    put_merge(&c, directory);
    assert_int_equal(test_call(&c, NULL), IA3_OK);
    assert_ptr_equal(c.reader.p, c.reader.end);
    put_merge(&c, directory);
    test_call(&c, NULL);
    expect_error(&c, IA3_E_INVALID, "exists and is not empty");

    score(&engine, NULL, bare);
    score(&engine, digest, want);
    assert_true(test_engine_start(&merged, directory, extra));
    score(&merged, NULL, got);
    test_engine_stop(&merged, true);
    for (int i = 0; i < 2; i++) {
        double rounding = fabs(got[i] - want[i]), effect = fabs(want[i] - bare[i]);

        if (!(rounding < 0.05 && effect > 10 * rounding))
            fail_msg("bare %g, adapter %g, merged %g", bare[i], want[i], got[i]);
    }
    test_client_close(&c);
}

static void
test_merge_errors(void **state)
{
    test_client c;
    char directory[128], long_name[5000];

    test_client_open(&c, &engine);
    put_merge(&c, "relative/path");
    test_call(&c, NULL);
    expect_error(&c, IA3_E_INVALID, "is not an absolute path");
    put_merge(&c, "");
    test_call(&c, NULL);
    expect_error(&c, IA3_E_INVALID, "directory name is");
    memset(long_name, 'x', sizeof long_name - 1);
    long_name[0] = '/';
    long_name[sizeof long_name - 1] = '\0';
    put_merge(&c, long_name);
    test_call(&c, NULL);
    expect_error(&c, IA3_E_INVALID, "directory name is");
    put_adapter_bytes(&c, IA3_MERGE);
    ia3_put_str(&c.out, "/tmp/a\0b", 8);
    test_call(&c, NULL);
    expect_error(&c, IA3_E_INVALID, "directory name is");

    snprintf(directory, sizeof directory, "%s/no/such", out);
    put_merge(&c, directory);
    test_call(&c, NULL);
    expect_error(&c, IA3_E_FILE, "could not create directory");

    snprintf(directory, sizeof directory, "%s/broken", out);
    test_put_text(test_begin(&c, IA3_MERGE), "ia3");
    ia3_put_str(&c.out, "nonsense", 8);
    test_put_text(&c.out, directory);
    test_call(&c, NULL);
    expect_error(&c, IA3_E_BAD_ADAPTER, "adapter: ");
    assert_int_not_equal(access(directory, F_OK), 0);

    static const char *const not_merged[] = {"lora", "nonsense"};
    static const Ia3ErrorCode why[] = {IA3_E_UNSUPPORTED, IA3_E_INVALID};
    static const char *const messages[] = {"only adapters of the method ia3", "unknown method \"nonsense\""};

    for (int i = 0; i < 2; i++) {
        test_put_text(test_begin(&c, IA3_MERGE), not_merged[i]);
        ia3_put_str(&c.out, "nonsense", 8);
        test_put_text(&c.out, directory);
        test_call(&c, NULL);
        expect_error(&c, why[i], messages[i]);
    }

    test_begin(&c, IA3_MERGE);
    test_call(&c, NULL);
    expect_error(&c, IA3_E_PROTOCOL, "malformed MERGE message");
    test_client_close(&c);
}

/* Eight merges at the same time on one connection, one of them cancelled; then clients that disconnect early. */
static void
test_merge_crowd(void **state)
{
    test_client c;
    char directory[128], command[400];
    uint32_t ids[8];
    int done = 0, cancelled = 0;

    test_client_open(&c, &engine);
    for (int i = 0; i < 8; i++) {
        snprintf(directory, sizeof directory, "%s/crowd%d", out, i);
        put_merge(&c, directory);
        ids[i] = test_send(&c);
    }
    ia3_put_u32(test_begin(&c, IA3_CANCEL), ids[7]);
    test_send(&c);
    for (int i = 0; i < 8; i++) {
        assert_true(test_receive(&c));
        if (c.type == IA3_OK)
            done++;
        else {
            assert_int_equal(c.request, ids[7]);
            expect_error(&c, IA3_E_CANCELLED, "cancelled");
            cancelled++;
        }
    }
    assert_int_equal(done, 7);
    assert_int_equal(cancelled, 1);
    assert_int_not_equal(access(directory, F_OK), 0);
    test_client_close(&c);

    for (int i = 0; i < 4; i++) {
        snprintf(directory, sizeof directory, "%s/left%d", out, i);
        test_client_open(&c, &engine);
        put_merge(&c, directory);
        test_send(&c);
        usleep((useconds_t) (i * 3000));
        test_client_close(&c);
    }
    /* each merged checkpoint is complete or does not exist */
    test_client_open(&c, &engine);
    snprintf(directory, sizeof directory, "%s/last", out);
    put_merge(&c, directory);
    assert_int_equal(test_call(&c, NULL), IA3_OK);
    test_client_close(&c);
    snprintf(command, sizeof command,
             "cd %s && ! ls -d *.ia3-* 2>/dev/null && for d in left*; do "
             "[ ! -e $d ] || cmp -s $d/model.safetensors last/model.safetensors || exit 1; done",
             out);
    assert_int_equal(system(command), 0);
}

/* Stopping an engine during a merge leaves no incomplete checkpoint and no temporary directory. */
static void
test_merge_shutdown(void **state)
{
    test_engine other;
    test_client c;
    char directory[128], command[200];

    assert_true(test_engine_start(&other, BACKBONE, (const char *const[]){NULL}));
    test_client_open(&c, &other);
    for (int i = 0; i < 20; i++) {
        snprintf(directory, sizeof directory, "%s/stop%d", out, i);
        put_merge(&c, directory);
        test_send(&c);
    }
    assert_true(test_receive(&c)); /* the first is done, the others are not */

    int status = test_engine_stop(&other, true);

    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    test_client_close(&c);
    assert_int_not_equal(access(directory, F_OK), 0);
    snprintf(command, sizeof command, "! ls -d %s/*.ia3-* 2>/dev/null", out);
    assert_int_equal(system(command), 0);
}

/* The paper's pre-trained vectors for T0-3B; docs/engine.md §2 gives their number. */
static void
test_t_few(void **state)
{
    const char *data = getenv("IA3_DATA"), *shared = getenv("IA3_SHARED");
    char pt[512], file[128], command[1200];
    ia3_error err = {0};
    golden_file f;

    if (data != NULL)
        snprintf(pt, sizeof pt, "%s/t-few/t03b_ia3_finish.pt", data);
    else
        snprintf(pt, sizeof pt, "%s/data/t-few/t03b_ia3_finish.pt", shared ? shared : "../shared");
    if (access(pt, R_OK) != 0 || system("python3 -c pass 2>/dev/null") != 0) {
        printf("%s or python3 is absent: T-Few's vectors are not checked\n", pt);
        skip();
    }
    snprintf(file, sizeof file, "%s/t-few.safetensors", out);
    snprintf(command, sizeof command, "python3 scripts/import-tfew '%s' '%s' >/dev/null", pt, file);
    assert_int_equal(system(command), 0);
    assert_true(golden_read(&f, file));

    ia3_config config = {.n_enc = 24, .n_dec = 24, .inner = 2048, .d_ff = 5120, .gated = true};
    ia3_layout *layout = ia3_layout_create(&config, ia3_variant_standard(ia3_methods[0]));
    float *values = ia3_adapter_parse(layout, f.data, f.len, &err);
    double sum = 0;
    float least = 1, most = 1;

    golden_ok(values, &err);
    assert_int_equal(layout->n, 192);
    assert_int_equal(layout->n_values, 540672);
    for (size_t i = 0; i < layout->n_values; i++) {
        least = fminf(least, values[i]);
        most = fmaxf(most, values[i]);
        sum += values[i];
    }
    assert_true(fabsf(least + 0.79f) < 0.005f && fabsf(most - 2.05f) < 0.005f);
    assert_true(sum / (double) layout->n_values > 0.9 && sum / (double) layout->n_values < 1.1);

    /* T5 v1.0 of the same sizes has no wi_1 */
    config.gated = false;

    ia3_layout *plain = ia3_layout_create(&config, ia3_variant_standard(ia3_methods[0]));

    assert_null(ia3_adapter_parse(plain, f.data, f.len, &err));
    assert_int_equal(err.code, IA3_E_BAD_ADAPTER);
    ia3_layout_free(plain);
    ia3_layout_free(layout);
    free(values);
    free(f.data);
}

static void
put_method(test_client *c, const char *config, const char *method)
{
    ia3_writer *w = test_begin(c, IA3_METHOD);
    test_put_text(w, config);
    test_put_text(w, method);
    ia3_put_u8(w, 0); /* not of a version */
    test_put_text(w, "");
    test_put_text(w, ""); /* options */
}

static void
test_config(void **state)
{
    test_client c;
    test_client_open(&c, &engine);
    test_begin(&c, IA3_CONFIG);
    assert_int_equal(test_call(&c, NULL), IA3_CONFIG_OK);
    size_t n;
    const char *text = ia3_get_str(&c.reader, &n);
    ia3_config config;
    ia3_error err = {0};
    assert_true(ia3_config_parse(&config, text, n, "config.json", &err));
    assert_int_equal(config.vocab_size, 8192);
    assert_true(!c.reader.bad && c.reader.p == c.reader.end);
    test_client_close(&c);
}

/* Methods on backbones that the engine does not have. */
static void
test_method_costs(void **state)
{
    test_client c;
    test_client_open(&c, &engine);
    const char *small = "{\"model_type\": \"t5\", \"d_model\": 8, \"d_kv\": 2, \"num_heads\": 4, "
                        "\"d_ff\": 16, \"num_layers\": 3}";
    put_method(&c, small, "ia3");
    assert_int_equal(test_call(&c, NULL), IA3_METHOD_OK);
    assert_int_equal(ia3_get_u64(&c.reader), 3 * (2 * 8 + 16) + 3 * (4 * 8 + 16));
    for (int i = 0; i < 15; i++)
        assert_true(ia3_get_f64(&c.reader) == 0);
    assert_int_equal(ia3_get_u32(&c.reader), 1);
    assert_true(!c.reader.bad && c.reader.p == c.reader.end);

    /* two keys and values of each of nine attentions, and the network that they are trained through */
    const double costs[] = {0, 0, 0, 0, 0,
                            0, 2, 2, 1, 3 * (2 * 8 + 512 * 9) + 9 * 16 * 513,
                            0, 0, 0, 0, 3 * 2 * 512 * (3 * 8 + 9 * 16)};
    put_method(&c, small, "prefix");
    assert_int_equal(test_call(&c, NULL), IA3_METHOD_OK);
    assert_int_equal(ia3_get_u64(&c.reader), 9 * 2 * 16);
    for (size_t i = 0; i < sizeof costs / sizeof *costs; i++)
        assert_true(ia3_get_f64(&c.reader) == costs[i]);
    assert_int_equal(ia3_get_u32(&c.reader), 1);
    assert_true(!c.reader.bad && c.reader.p == c.reader.end);

    /* two vectors of each of 3 * (6 + 10) linear layers, [out] and [in], and one of each of 3 * (2 + 3) + 2 norms */
    put_method(&c, small, "said");
    assert_int_equal(test_call(&c, NULL), IA3_METHOD_OK);
    assert_int_equal(ia3_get_u64(&c.reader), 19999);
    double expanded = 0;
    for (int i = 0; i < 15; i++)
        expanded = i <= 10 ? ia3_get_f64(&c.reader) : expanded + ia3_get_f64(&c.reader);
    assert_true(expanded == 3 * (12 * (8 + 8) + 4 * (8 + 16)) + 17 * 8);
    assert_int_equal(ia3_get_u32(&c.reader), 1);
    assert_true(!c.reader.bad && c.reader.p == c.reader.end);

    /* a 500th of all weights, each with its position, in two numbers; and two for the ratio */
    const size_t weights = 32128 * 8 + 2 * 32 * 4 + 3 * (12 * 8 * 8 + 4 * 8 * 16) + 17 * 8,
                 kept = weights / 500;
    put_method(&c, small, "fish");
    assert_int_equal(test_call(&c, NULL), IA3_METHOD_OK);
    assert_int_equal(ia3_get_u64(&c.reader), 3 * kept + 2);
    const double of_weights[] = {0,   0, 0, 0, 0, 0, 0, 0, 1, 0, 0, (double) weights, (double) (2 * kept + 2),
                                 300, 0};
    for (size_t i = 0; i < sizeof of_weights / sizeof *of_weights; i++)
        assert_true(ia3_get_f64(&c.reader) == of_weights[i]);
    assert_int_equal(ia3_get_u32(&c.reader), 1);
    assert_true(!c.reader.bad && c.reader.p == c.reader.end);

    put_method(&c, small, "no such method");
    assert_int_equal(test_call(&c, NULL), IA3_ERROR);
    assert_int_equal(test_get_error(&c.reader).code, IA3_E_INVALID);
    put_method(&c, "{\"model_type\": \"t5\", \"d_model\": 0}", "ia3");
    assert_int_equal(test_call(&c, NULL), IA3_ERROR);
    test_error e = test_get_error(&c.reader);
    assert_int_equal(e.code, IA3_E_INVALID);
    assert_string_equal(e.message, "configuration: \"d_model\" is 0, but must be between 1 and 65536");
    test_client_close(&c);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_normalize),    cmocka_unit_test(test_served_normalize),
        cmocka_unit_test(test_served_merge), cmocka_unit_test(test_merge_errors),
        cmocka_unit_test(test_merge_crowd),  cmocka_unit_test(test_merge_shutdown),
        cmocka_unit_test(test_t_few),        cmocka_unit_test(test_config),
        cmocka_unit_test(test_method_costs),
    };

    return cmocka_run_group_tests_name("interchange", tests, start_engine, stop_engine);
}
