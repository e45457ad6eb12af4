/*
 * test_device_module.c
 *     Loading the CUDA module: the errors when there is no module, driver, GPU or memory, the fallback of "auto", the
 *     end of the process when a GPU is lost, and GPUs with little shared memory. This uses simulated GPUs
 *     (test/cudasim) from the same build. Each case has a process of its own, because a module stays loaded.
 */
#include "attention_fixture.h"

#include <libgen.h>
#include <limits.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

static char simulator[PATH_MAX], folder[PATH_MAX];

static int
set_up(void **state)
{
    ssize_t n = readlink("/proc/self/exe", folder, sizeof folder - 40);
    assert_true(n > 0);
    folder[n] = 0;
    dirname(folder);
    snprintf(simulator, sizeof simulator, "%.4000s/../ia3_cuda_sim.so", folder);
    assert_int_equal(access(simulator, R_OK), 0);
    return 0;
}

/* The parameters of a process, and its results. */
typedef struct attempt {
    const char *spec;
    ia3_dtype dtype;
    size_t limit;
    const char *module;            /* NULL: the simulator */
    const char *setting[2];        /* an environment variable and its value */
    const char *full;              /* the GPU without memory, or NULL */
    void (*then)(ia3_device *dev); /* with the device, when it opened */
    char output[4000];             /* "code|message|detail" or "opened NAME DTYPE", and stderr */
    int status;                    /* of waitpid */
} attempt;

static void
child(const attempt *a)
{
    ia3_error err = {0};
    unsetenv("IA3_SIM_DEVICES");
    setenv("IA3_CUDA_MODULE", a->module ? a->module : simulator, 1);
    if (a->setting[0])
        setenv(a->setting[0], a->setting[1], 1);
    if (a->full)
        setenv("IA3_SIM_FULL", a->full, 1);
    ia3_device *dev = ia3_device_open(a->spec, a->dtype, 1, a->limit, &err);
    if (!dev) {
        fprintf(stderr, "%d|%s|%s|%s", (int) err.code, err.message, err.detail, err.hint);
        _exit(10);
    }
    fprintf(stderr, "opened %s %s\n", dev->name, ia3_device_dtype_name(dev));
    if (a->then)
        a->then(dev);
    dev->ops->close(dev);
    _exit(0);
}

static void
run(attempt *a)
{
    int fds[2];
    size_t len = 0;
    ssize_t n;
    assert_int_equal(pipe(fds), 0);
    fflush(NULL);
    pid_t pid = fork();
    if (pid == 0) {
        const int caught[] = {SIGSEGV, SIGBUS, SIGABRT};
        for (size_t i = 0; i < sizeof caught / sizeof caught[0]; i++)
            signal(caught[i], SIG_DFL);
        dup2(fds[1], STDERR_FILENO);
        child(a);
    }
    close(fds[1]);
    while (len < sizeof a->output - 1 && (n = read(fds[0], a->output + len, sizeof a->output - 1 - len)) > 0)
        len += (size_t) n;
    a->output[len] = 0;
    close(fds[0]);
    assert_int_equal(waitpid(pid, &a->status, 0), pid);
}

static void
assert_said(const attempt *a, const char *what)
{
    if (!strstr(a->output, what))
        fail_msg("\"%s\" is not in \"%s\" (%s)", what, a->output, a->spec);
}

static void
assert_exit(const attempt *a, int code)
{
    if (!WIFEXITED(a->status) || WEXITSTATUS(a->status) != code)
        fail_msg("%s: status %d, not exit %d: %s", a->spec, a->status, code, a->output);
}

static void
test_refusals(void **state)
{
    char text[PATH_MAX + 40];
    snprintf(text, sizeof text, "%.4000s/no_such_module.so", folder);
    struct {
        attempt a;
        const char *message, *more; /* in the message; in detail or hint */
    } cases[] = {
        {{"cuda", IA3_F32, .module = text}, "this build has no CUDA module", "toolkit"},
        {{"cuda", IA3_F32, .module = "/proc/self/exe"}, "could not load the CUDA module", "exe"},
        {{"cuda", IA3_F32, .module = "libm.so.6"}, "this build has no CUDA module", "cpu"},
        {{"cuda", IA3_F32, .setting = {"IA3_SIM_DEVICES", "none"}}, "the GPU cannot be used", "driver"},
        {{"cuda", IA3_F32, .setting = {"IA3_SIM_DEVICES", "0"}}, "there is no GPU", "auto"},
        {{"cuda:1", IA3_F32}, "there is no GPU 1", "There is one GPU, number 0."},
        {{"cuda:7", IA3_F32, .setting = {"IA3_SIM_DEVICES", "3"}}, "there is no GPU 7", "There are 3 GPUs"},
        {{"cuda:-1", IA3_F32}, "unknown device \"cuda:-1\"", "\"cuda:N\""},
        {{"cuda:", IA3_F32}, "unknown device \"cuda:\"", "\"cuda:N\""},
        {{"cuda:1x", IA3_F32}, "unknown device \"cuda:1x\"", "\"cuda:N\""},
        {{"cuda:99999999999999999999", IA3_F32}, "unknown device", "\"cuda:N\""},
        {{"cuda", IA3_INT8}, "int8", "bfloat16"},
        {{"cuda", IA3_F16}, "float16", "overflow"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        attempt *a = &cases[i].a;
        run(a);
        assert_exit(a, 10);
        assert_int_equal(atoi(a->output), IA3_E_INVALID);
        assert_said(a, cases[i].message);
        assert_said(a, cases[i].more);
    }
}

static void
test_open(void **state)
{
    attempt f32 = {"cuda", IA3_F32}, any = {"cuda", IA3_AUTO};
    attempt second = {"cuda:1", IA3_BF16, .setting = {"IA3_SIM_DEVICES", "2"}};
    run(&f32);
    assert_exit(&f32, 0);
    assert_said(&f32, "opened cuda:0 float32");
    run(&any);
    assert_said(&any, "opened cuda:0 bfloat16");
    run(&second);
    assert_said(&second, "opened cuda:1 bfloat16");
}

/* "auto" uses a GPU if one works, else the CPU, with the reason in the log. */
static void
test_auto(void **state)
{
    attempt gpu = {"auto", IA3_F32}, none = {"auto", IA3_F32, .setting = {"IA3_SIM_DEVICES", "0"}};
    attempt absent = {"auto", IA3_F32, .module = "/nowhere.so"}, int8 = {"auto", IA3_INT8};
    attempt second = {"auto", IA3_F32, .setting = {"IA3_SIM_DEVICES", "2"}, .full = "0"};
    attempt full = {"auto", IA3_F32, .setting = {"IA3_SIM_DEVICES", "1"}, .full = "0"};
    run(&gpu);
    assert_said(&gpu, "opened cuda:0 float32");
    run(&none);
    assert_exit(&none, 0);
    assert_said(&none, "LOG: device \"auto\" uses the CPU instead of a GPU: there is no GPU");
    assert_said(&none, "opened cpu float32");
    run(&absent);
    assert_said(&absent, "this build has no CUDA module");
    assert_said(&absent, "opened cpu float32");
    run(&int8);
    assert_said(&int8, "opened cpu int8");
    run(&second);
    assert_exit(&second, 0);
    assert_said(&second, "LOG: device \"auto\" does not use GPU 0: out of GPU memory");
    assert_said(&second, "opened cuda:1 float32");
    run(&full);
    assert_said(&full, "uses the CPU instead of a GPU: out of GPU memory");
    assert_said(&full, "opened cpu float32");
}

/* One matrix of 1,000 x 1,000: 4 MB. */
static void
load_matrix(ia3_device *dev)
{
    ia3_error err = {0};
    float *w = calloc(1000 * 1000, sizeof *w);
    ia3_host_tensor t = {w, IA3_F32, 1000, 1000};
    ia3_matrix *m = dev->ops->matrix_create(dev, &t, 1, &err);
    fprintf(stderr, "%s|%d|%s|%s", m ? "loaded" : "refused", (int) err.code, err.message, err.detail);
    if (m)
        dev->ops->matrix_free(dev, m);
    free(w);
}

static void
test_too_little_memory(void **state)
{
    attempt small = {"cuda", IA3_F32, .setting = {"IA3_SIM_MEMORY", "37000000"}, .then = load_matrix};
    attempt limited = {"cuda", IA3_F32, .limit = 37000000, .then = load_matrix};
    attempt tiny = {"cuda", IA3_F32, .setting = {"IA3_SIM_MEMORY", "3000000"}};
    attempt enough = {"cuda", IA3_F32, .then = load_matrix};
    run(&small);
    assert_exit(&small, 0);
    assert_said(&small, "refused|8|out of GPU memory");
    assert_said(&small, "4000000 bytes");
    assert_said(&small, "37000000");
    run(&tiny);
    assert_exit(&tiny, 10);
    assert_int_equal(atoi(tiny.output), IA3_E_MEMORY);
    assert_said(&tiny, "out of GPU memory for the workspace of matrix products");
    run(&limited);
    assert_said(&limited, "refused|8|");
    run(&enough);
    assert_said(&enough, "loaded|0|");
}

/* Runs a kernel that fails, which is detected at the next download. */
static void
compute(ia3_device *dev)
{
    float x[64] = {1}, *p = dev->ops->alloc(dev, sizeof x), *w = dev->ops->alloc(dev, sizeof x);
    dev->ops->upload(dev, p, x, sizeof x);
    dev->ops->upload(dev, w, x, sizeof x);
    for (int i = 0; i < 3; i++)
        dev->ops->add_dropout(dev, p, w, 1, 64, (ia3_dropout){0});
    dev->ops->download(dev, x, p, sizeof x);
    fprintf(stderr, "result %.0f\n", x[0]);
}

static void
test_lost(void **state)
{
    attempt well = {"cuda", IA3_F32, .then = compute};
    attempt lost = {"cuda", IA3_F32, .setting = {"IA3_SIM_LOST_AFTER", "2"}, .then = compute};
    run(&well);
    assert_exit(&well, 0);
    assert_said(&well, "result 4");
    run(&lost);
    assert_exit(&lost, 1);
    assert_said(&lost, "ERROR: ");
    assert_said(&lost, "failed: unspecified launch failure");
    assert_null(strstr(lost.output, "result"));
}

/* Loses the GPU in the first operation, then allocates memory. */
static void
allocate_when_lost(ia3_device *dev)
{
    float x[64] = {1}, *p = dev->ops->alloc(dev, sizeof x), *w = dev->ops->alloc(dev, sizeof x);
    for (int i = 0; i < 2; i++)
        dev->ops->add_dropout(dev, p, w, 1, 64, (ia3_dropout){0});
    fprintf(stderr, "got %p\n", dev->ops->alloc(dev, 1000));
}

static void
multiply(ia3_device *dev)
{
    ia3_error err = {0};
    float w[64] = {1}, x[8] = {1}, *p = dev->ops->alloc(dev, sizeof x), *y = dev->ops->alloc(dev, sizeof x);
    ia3_host_tensor t = {w, IA3_F32, 8, 8};
    ia3_matrix *m = dev->ops->matrix_create(dev, &t, 1, &err);
    dev->ops->upload(dev, p, x, sizeof x);
    for (int i = 0; i < 3; i++)
        dev->ops->matmul(dev, y, p, 1, m, IA3_OUT_F32);
    fprintf(stderr, "multiplied\n");
}

/* Whichever operation detects the loss, the process ends in the same way, and the message has CUDA's reason. */
static void
test_lost_elsewhere(void **state)
{
    struct {
        attempt a;
        const char *where;
    } cases[] = {
        {{"cuda", IA3_F32, .setting = {"IA3_SIM_LOST_AFTER", "1"}, .then = compute}, "(launch of "},
        {{"cuda", IA3_F32, .setting = {"IA3_SIM_LOST_AFTER", "1"}, .then = allocate_when_lost},
         "(allocation)"},
        {{"cuda", IA3_F32, .setting = {"IA3_SIM_LOST_AFTER", "1"}, .then = multiply}, "(matrix product)"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        attempt *a = &cases[i].a;
        run(a);
        assert_exit(a, 1);
        assert_said(a, "ERROR: GPU 0 failed: unspecified launch failure");
        assert_said(a, cases[i].where);
    }
}

/* Computes attention with the widest heads that the device claims to support, and with wider ones. */
static void
attend(ia3_device *dev, int d)
{
    const int sizes[] = {9};
    problem p = make_problem(1, d, 1, sizes, sizes, false, true, true, 0);
    on_device o = upload_problem(dev, &p);
    double *r = random_values((size_t) (9 * d), 1.0);
    o.g.dout = o.dout = put_act(dev, r, (size_t) (9 * d));
    dev->ops->attention(dev, &o.a);
    dev->ops->attention_bwd(dev, &o.a, &o.g);
    double *dq = get_act(dev, o.dq, (size_t) (9 * p.q_stride));
    fprintf(stderr, "%s %d: %s\n", dev->name, d, isfinite(dq[0]) ? "a number" : "none");
    free(dq);
    free(r);
    free_on_device(dev, &o);
    free_problem(&p);
}

static void
attend_widest(ia3_device *dev)
{
    attend(dev, dev->max_d_kv);
}

static void
attend_wider(ia3_device *dev)
{
    attend(dev, dev->max_d_kv + 1);
}

static void
test_shared_memory(void **state)
{
    attempt large = {"cuda", IA3_F32, .then = attend_widest};
    attempt small = {"cuda", IA3_F32, .setting = {"IA3_SIM_SHARED", "101376"}, .then = attend_widest};
    attempt beyond = {"cuda", IA3_F32, .setting = {"IA3_SIM_SHARED", "101376"}, .then = attend_wider};
    run(&large);
    assert_exit(&large, 0);
    assert_said(&large, "cuda:0 512: a number");
    run(&small);
    assert_exit(&small, 0);
    assert_said(&small, "cuda:0 387: a number");
    run(&beyond); /* so the limit is no smaller than it has to be */
    assert_exit(&beyond, 1);
    assert_said(&beyond, "invalid argument");
}

/* An error that the simulator must detect: the host reads device memory. */
static void
follow_pointer(ia3_device *dev)
{
    volatile float *p = dev->ops->alloc(dev, 64);
    fprintf(stderr, "read %f", (double) *p);
}

static void
test_device_pointer_on_the_host(void **state)
{
    attempt a = {"cuda", IA3_F32, .then = follow_pointer};
    run(&a);
    assert_null(strstr(a.output, "read"));
    assert_true(WIFSIGNALED(a.status) || WEXITSTATUS(a.status) != 0);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_refusals),      cmocka_unit_test(test_open),
        cmocka_unit_test(test_auto),          cmocka_unit_test(test_too_little_memory),
        cmocka_unit_test(test_lost),          cmocka_unit_test(test_lost_elsewhere),
        cmocka_unit_test(test_shared_memory), cmocka_unit_test(test_device_pointer_on_the_host),
    };
    return cmocka_run_group_tests_name("cuda module", tests, set_up, NULL);
}
