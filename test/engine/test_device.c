/*
 * test_device.c
 *     Opening a device, its memory and the limit, and the conversion of stored weights.
 */
#include "device_common.h"
#include "kernels/cpu/isa.h"

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

static void
test_refusals(void **state)
{
    static const struct {
        const char *spec;
        ia3_dtype dtype;
        const char *message;
    } cases[] = {
        {"cpu", IA3_F16, "float16"}, {"gpu", IA3_F32, "\"gpu\""}, {"cuda:x", IA3_F32, "\"cuda:x\""},
        {"", IA3_F32, "\"\""},       {"cpu", (ia3_dtype) 9, "9"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        ia3_error err = {0};
        assert_null(ia3_device_open(cases[i].spec, cases[i].dtype, 1, 0, &err));
        assert_int_equal(err.code, IA3_E_INVALID);
        assert_non_null(strstr(err.message, cases[i].message));
    }
}

static void
test_open(void **state)
{
    ia3_error err = {0};
    ia3_device *dev = ia3_device_open("cpu", IA3_AUTO, 0, 0, &err);
    assert_non_null(dev);
    assert_true(dev->dtype == IA3_F32 || dev->dtype == IA3_BF16);
    assert_string_equal(dev->name, "cpu");
    assert_true(strlen(dev->description) > 0);
    dev->ops->close(dev);
}

/* The variant of the kernels is the best one that this processor can run, or the one requested. */
static void
test_variants(void **state)
{
    ia3_error err = {0};
    const ia3_cpu_variant *best = ia3_cpu_choose(NULL, &err);
    assert_non_null(best);
    for (int i = 0; i < ia3_cpu_n_variants; i++) {
        const ia3_cpu_variant *v = &ia3_cpu_variants[i], *got;
        err = (ia3_error){0};
        got = ia3_cpu_choose(v->name, &err);
        if (v->available()) {
            assert_ptr_equal(got, v);
            assert_true(v <= best);
        } else {
            assert_null(got);
            assert_int_equal(err.code, IA3_E_INVALID);
            assert_non_null(strstr(err.message, v->name));
        }
    }
    err = (ia3_error){0};
    assert_null(ia3_cpu_choose("mmx", &err));
    assert_int_equal(err.code, IA3_E_INVALID);
    assert_non_null(strstr(err.message, "unknown instruction set \"mmx\""));
    assert_non_null(strstr(err.hint, ia3_cpu_variants[0].name));
    err = (ia3_error){0};
    assert_null(ia3_cpu_choose("", &err));
}

static void
on_memory(ia3_device *dev)
{
    size_t before = dev->ops->memory_used(dev);
    char *p = dev->ops->alloc(dev, 1000), *q = dev->ops->alloc(dev, 0), back[1000];
    assert_non_null(p);
    assert_non_null(q);
    assert_int_equal((uintptr_t) p % 64, 0);
    assert_true(dev->ops->memory_used(dev) >= before + 1000);
    dev->ops->zero(dev, p, 1000);
    dev->ops->upload(dev, p + 1, "abc", 3);
    dev->ops->download(dev, back, p, sizeof back);
    assert_memory_equal(back, "\0abc\0", 5);
    assert_int_equal(back[999], 0);
    assert_null(dev->ops->alloc(dev, SIZE_MAX - 5));
    dev->ops->free(dev, p);
    dev->ops->free(dev, q);
    dev->ops->free(dev, NULL);
    assert_int_equal(dev->ops->memory_used(dev), before);
}

static void
test_memory(void **state)
{
    for_each_dtype(on_memory);
}

/* Blocks of one pass do not overlap, and a second pass reuses the memory of the first. */
static void
on_arena(ia3_device *dev)
{
    enum { N = 60 };
    void *blocks[N];
    size_t sizes[N], used = 0;
    seed_random(31);
    for (int pass = 0; pass < 4; pass++) {
        size_t outer = dev->ops->arena_mark(dev);
        dev->ops->arena_alloc(dev, 0);
        for (int i = 0; i < N; i++) {
            size_t mark = dev->ops->arena_mark(dev);
            dev->ops->arena_alloc(dev, (size_t) i * 100000); /* freed again at once */
            dev->ops->arena_release(dev, mark);
            assert_int_equal(dev->ops->arena_mark(dev), mark);
            sizes[i] = (size_t) (i * 7919) % 500000 + 1;
            blocks[i] = dev->ops->arena_alloc(dev, sizes[i]);
            assert_int_equal((uintptr_t) blocks[i] % 64, 0);
            char *fill = malloc(sizes[i]);
            memset(fill, i + 1, sizes[i]);
            dev->ops->upload(dev, blocks[i], fill, sizes[i]);
            free(fill);
        }
        for (int i = 0; i < N; i++) {
            char *back = malloc(sizes[i]);
            dev->ops->download(dev, back, blocks[i], sizes[i]);
            for (size_t b = 0; b < sizes[i]; b++)
                assert_int_equal(back[b], i + 1);
            free(back);
        }
        dev->ops->arena_release(dev, outer);
        if (pass == 1)
            used = dev->ops->memory_used(dev);
        else if (pass > 1)
            assert_int_equal(dev->ops->memory_used(dev), used);
    }
}

static void
test_arena(void **state)
{
    for_each_dtype(on_arena);
}

/* Trimming gives back what is not in use, unless that is little; what is in use stays as it is. */
static void
on_trimming(ia3_device *dev)
{
    enum { SMALL = 1000, LARGE = 40 << 20 };
    size_t before = dev->ops->memory_used(dev), mark = dev->ops->arena_mark(dev);
    char *first = dev->ops->arena_alloc(dev, SMALL), fill[SMALL], back[SMALL];
    memset(fill, 7, sizeof fill);
    dev->ops->upload(dev, first, fill, SMALL);
    size_t inner = dev->ops->arena_mark(dev);
    dev->ops->arena_alloc(dev, LARGE);
    dev->ops->arena_release(dev, inner);
    dev->ops->arena_trim(dev, (size_t) 2 * LARGE);
    assert_true(dev->ops->memory_used(dev) > before + LARGE);
    dev->ops->arena_trim(dev, LARGE / 2);
    assert_true(dev->ops->memory_used(dev) < before + LARGE);
    assert_int_equal(dev->ops->arena_mark(dev), inner);
    dev->ops->download(dev, back, first, SMALL);
    assert_memory_equal(back, fill, SMALL);
    dev->ops->arena_release(dev, mark);
    dev->ops->arena_trim(dev, 0);
    assert_int_equal(dev->ops->memory_used(dev), before);
    dev->ops->arena_alloc(dev, LARGE); /* the next pass starts as usual */
    dev->ops->arena_release(dev, mark);
}

static void
test_trimming(void **state)
{
    for_each_dtype(on_trimming);
}

static bool
on_gpu(const ia3_device *dev)
{
    return strncmp(dev->name, "cuda", 4) == 0;
}

/* Opens a device with a limit, *limit, that leaves `room` bytes in addition to what it needs itself. */
static ia3_device *
open_with_room(size_t room, size_t *limit)
{
    ia3_device *dev = open_device(IA3_F32, 1, 0);
    *limit = dev->ops->memory_used(dev) + room;
    dev->ops->close(dev);
    return open_device(IA3_F32, 2, *limit);
}

/* Allocations within the limit work; beyond it they fail without damage. */
static void
test_limit(void **state)
{
    size_t limit;
    ia3_device *dev = open_with_room((size_t) 8 << 20, &limit);
    void *p = dev->ops->alloc(dev, (size_t) 6 << 20);
    assert_non_null(p);
    assert_null(dev->ops->alloc(dev, (size_t) 3 << 20));
    assert_true(dev->ops->memory_used(dev) <= limit);
    dev->ops->free(dev, p);

    jmp_buf oom;
    volatile int jumps = 0;
    size_t mark = dev->ops->arena_mark(dev);
    dev->oom = &oom;
    if (setjmp(oom) == 0) {
        for (int i = 0; i < 100; i++)
            dev->ops->arena_alloc(dev, (size_t) 1 << 20);
        fail_msg("the arena went beyond the limit");
    }
    jumps++;
    dev->oom = NULL;
    assert_int_equal(jumps, 1);
    assert_true(dev->ops->memory_used(dev) <= limit);
    dev->ops->arena_release(dev, mark);
    assert_non_null(dev->ops->arena_alloc(dev, (size_t) 1 << 20));
    dev->ops->arena_release(dev, mark);

    ia3_error err = {0};
    float *big = calloc(1500 * 1500, sizeof *big);
    ia3_host_tensor t = {big, IA3_F32, 1500, 1500};
    size_t used = dev->ops->memory_used(dev);
    assert_null(dev->ops->matrix_create(dev, &t, 1, &err));
    assert_int_equal(err.code, IA3_E_MEMORY);
    assert_true(dev->ops->memory_used(dev) <= used); /* less when the arena was asked */
    memset(&err, 0, sizeof err);
    assert_null(dev->ops->table_create(dev, &t, &err));
    assert_int_equal(err.code, IA3_E_MEMORY);
    free(big);
    dev->ops->close(dev);
}

/*
 * If `oom` is not set, an arena without memory ends the process with a message. This is the first test because a child
 * of a process that has used a GPU cannot use one.
 */
static void
test_no_jump(void **state)
{
    int fds[2], status;
    char text[200] = "";
    assert_int_equal(pipe(fds), 0);
    pid_t child = fork();
    if (child == 0) {
        dup2(fds[1], STDERR_FILENO);
        signal(SIGABRT, SIG_DFL);
        ia3_error err = {0};
        const char *spec = getenv("IA3_TEST_DEVICE");
        ia3_device *dev = ia3_device_open(spec ? spec : "cpu", IA3_F32, 1, (size_t) 64 << 20, &err);
        if (!dev)
            _exit(3);
        dev->ops->arena_alloc(dev, (size_t) 65 << 20);
        _exit(0);
    }
    close(fds[1]);
    ssize_t n = read(fds[0], text, sizeof text - 1);
    close(fds[0]);
    assert_true(n > 0);
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
    assert_non_null(strstr(text, "out of device memory"));
}

/* There is memory for a matrix but not for its backward form. */
static void
test_limit_backward(void **state)
{
    size_t limit;
    ia3_device *dev = open_with_room(600 * 1000, &limit);
    float *w = calloc(256 * 256, sizeof *w);
    ia3_host_tensor t = {w, IA3_F32, 256, 256};
    ia3_error err = {0};
    ia3_matrix *m = dev->ops->matrix_create(dev, &t, 1, &err);
    assert_non_null(m);
    size_t used = dev->ops->memory_used(dev), bytes = m->bytes;
    void *filler = dev->ops->alloc(dev, 100 * 1000);
    if (on_gpu(dev)) { /* the backward form is the forward form */
        assert_true(dev->ops->matrix_prepare_backward(dev, m, &err));
    } else {
        assert_false(dev->ops->matrix_prepare_backward(dev, m, &err));
        assert_int_equal(err.code, IA3_E_MEMORY);
    }
    assert_int_equal(m->bytes, bytes);
    dev->ops->free(dev, filler);
    assert_int_equal(dev->ops->memory_used(dev), used);
    dev->ops->matrix_free(dev, m);
    free(w);
    dev->ops->close(dev);
}

/* A GPU's workspace counts against the limit; with a smaller limit the device does not open. */
static void
test_limit_at_opening(void **state)
{
    size_t limit;
    ia3_device *dev = open_with_room(1 << 16, &limit);
    assert_true(dev->ops->memory_used(dev) <= limit);
    assert_null(dev->ops->alloc(dev, (size_t) 1 << 20));
    bool gpu = on_gpu(dev);
    dev->ops->close(dev);
    if (!gpu)
        skip();
    ia3_error err = {0};
    assert_true(limit > 1 << 20);
    assert_null(ia3_device_open(getenv("IA3_TEST_DEVICE"), IA3_F32, 1, limit - (1 << 16) - 1, &err));
    assert_int_equal(err.code, IA3_E_MEMORY);
    assert_non_null(strstr(err.message, "workspace"));
    assert_non_null(strstr(err.hint, "ia3.memory_limit"));
}

/* On a GPU, memory that an idle arena keeps is available to other allocations. */
static void
test_idle_arena(void **state)
{
    size_t limit;
    ia3_device *dev = open_with_room((size_t) 8 << 20, &limit);
    if (!on_gpu(dev)) {
        dev->ops->close(dev);
        skip();
    }
    size_t mark = dev->ops->arena_mark(dev);
    dev->ops->arena_alloc(dev, (size_t) 6 << 20);
    assert_null(dev->ops->alloc(dev, (size_t) 6 << 20));
    dev->ops->arena_release(dev, mark);
    void *p = dev->ops->alloc(dev, (size_t) 6 << 20);
    assert_non_null(p);
    dev->ops->free(dev, p);
    assert_non_null(dev->ops->arena_alloc(dev, (size_t) 6 << 20));
    dev->ops->arena_release(dev, mark);
    dev->ops->close(dev);
}

/* On a GPU, a pass that needed several chunks leaves a single chunk of the same size to the next pass. */
static void
test_one_chunk(void **state)
{
    ia3_device *dev = open_device(IA3_F32, 1, 0);
    if (!on_gpu(dev)) {
        dev->ops->close(dev);
        skip();
    }
    const size_t block = (size_t) 17 << 20, before = dev->ops->memory_used(dev);
    for (int pass = 0; pass < 3; pass++) {
        size_t mark = dev->ops->arena_mark(dev);
        for (int i = 0; i < 6; i++)
            dev->ops->arena_alloc(dev, block);
        if (pass == 0)
            assert_true(dev->ops->memory_used(dev) > before + 6 * block);
        else
            assert_int_equal(dev->ops->memory_used(dev), before + 6 * block);
        dev->ops->arena_release(dev, mark);
    }
    dev->ops->close(dev);
}

/* Uploads that are several times the size of the staging buffer; the caller may reuse its memory after each. */
static void
test_large_uploads(void **state)
{
    enum { N = 13 << 20 };
    ia3_device *dev = open_device(IA3_F32, 1, 0);
    uint32_t *host = malloc(N * sizeof *host), *p[2];
    for (uint32_t k = 0; k < 2; k++) {
        p[k] = dev->ops->alloc(dev, N * sizeof *host);
        assert_non_null(p[k]);
        for (uint32_t i = 0; i < N; i++)
            host[i] = i * 2 + k;
        dev->ops->upload(dev, p[k], host, N * sizeof *host);
        memset(host, 0, N * sizeof *host);
    }
    for (uint32_t k = 0; k < 2; k++) {
        dev->ops->download(dev, host, p[k], N * sizeof *host);
        for (uint32_t i = 0; i < N; i++)
            if (host[i] != i * 2 + k)
                fail_msg("upload %u: element %u is %u", k, i, host[i]);
        dev->ops->free(dev, p[k]);
    }
    free(host);
    dev->ops->close(dev);
}

/* Converts every storage dtype, at an odd address as in a mapped file, to a table, a vector and a matrix. */
static void
on_conversion(ia3_device *dev)
{
    static const uint16_t half[] = {0x0000, 0x8000, 0x3c00, 0xc000, 0x0001, 0x83ff, 0x7bff, 0x3555};
    static const double half_values[] = {
        0, -0.0, 1, -2, 5.9604644775390625e-8, -6.097555160522461e-5, 65504, 0.333251953125};
    enum { N = 8 };
    const ia3_dtype dtypes[] = {IA3_F32, IA3_BF16, IA3_F16};
    for (int d = 0; d < 3; d++) {
        char bytes[4 * N + 1];
        double want[N], rounded[N];
        for (int i = 0; i < N; i++) {
            float v = (float) half_values[i];
            uint16_t b = ia3_f32_to_bf16(v);
            want[i] = dtypes[d] == IA3_BF16 ? ia3_bf16_to_f32(b) : v;
            if (dtypes[d] == IA3_F32)
                memcpy(bytes + 1 + 4 * i, &v, 4);
            else
                memcpy(bytes + 1 + 2 * i, dtypes[d] == IA3_BF16 ? &b : &half[i], 2);
            rounded[i] = round_weight(dev, want[i]);
        }
        ia3_host_tensor t = {bytes + 1, dtypes[d], 2, 4};
        ia3_error err = {0};
        void *table = dev->ops->table_create(dev, &t, &err);
        float *vector = dev->ops->vector_create(dev, &t, &err);
        ia3_matrix *m = dev->ops->matrix_create(dev, &t, 1, &err);
        bool half_table = ia3_device_table_dtype(dev) == IA3_BF16;
        double *got = half_table ? get_bf16(dev, table, N) : get_f32(dev, table, N),
               *got_vector = get_f32(dev, vector, N);
        assert_memory_equal(got, rounded, sizeof rounded);
        assert_memory_equal(got_vector, want, sizeof want);
        /* a product with unit rows gives the weight back */
        double unit[16] = {0};
        for (int i = 0; i < 4; i++)
            unit[5 * i] = 1;
        void *a = put_act(dev, unit, 16);
        float *y = dev->ops->alloc(dev, 4 * 2 * sizeof *y);
        dev->ops->matmul(dev, y, a, 4, m, IA3_OUT_F32);
        double *product = get_f32(dev, y, 8);
        for (int i = 0; i < 4; i++)
            for (int o = 0; o < 2; o++)
                assert_true(fabs(product[2 * i + o] - rounded[4 * o + i]) <= 1e-6 * fabs(rounded[4 * o + i]));
        free(got);
        free(got_vector);
        free(product);
        dev->ops->free(dev, a);
        dev->ops->free(dev, y);
        dev->ops->free(dev, table);
        dev->ops->free(dev, vector);
        dev->ops->matrix_free(dev, m);
    }
}

static void
test_conversion(void **state)
{
    for_each_dtype(on_conversion);
}

static void
test_bf16_rounding(void **state)
{
    /* ties to even, overflow to infinity, NaN stays NaN */
    assert_int_equal(ia3_f32_to_bf16(ia3_bits_float(0x3f808000)), 0x3f80);
    assert_int_equal(ia3_f32_to_bf16(ia3_bits_float(0x3f818000)), 0x3f82);
    assert_int_equal(ia3_f32_to_bf16(ia3_bits_float(0x3f808001)), 0x3f81);
    assert_int_equal(ia3_f32_to_bf16(ia3_bits_float(0x7f7fffff)), 0x7f80);
    assert_int_equal(ia3_f32_to_bf16(ia3_bits_float(0xff800000)), 0xff80);
    assert_true(isnan(ia3_bf16_to_f32(ia3_f32_to_bf16(ia3_bits_float(0x7f800001)))));
    assert_true(isnan(ia3_bf16_to_f32(ia3_f32_to_bf16(ia3_bits_float(0xffffffff)))));
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_no_jump),        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_open),           cmocka_unit_test(test_variants),
        cmocka_unit_test(test_memory),         cmocka_unit_test(test_arena),
        cmocka_unit_test(test_trimming),       cmocka_unit_test(test_limit),
        cmocka_unit_test(test_limit_backward), cmocka_unit_test(test_limit_at_opening),
        cmocka_unit_test(test_idle_arena),     cmocka_unit_test(test_one_chunk),
        cmocka_unit_test(test_large_uploads),  cmocka_unit_test(test_conversion),
        cmocka_unit_test(test_bf16_rounding),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
