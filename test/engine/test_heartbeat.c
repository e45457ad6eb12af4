/*
 * test_heartbeat.c
 *     Signs of life: what a running engine answers to the supervisor's question while it is idle, busy and stuck.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <dirent.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "engine/base/heartbeat.h"
#include "engine_requests.h"

#define BACKBONE "test/backbone"

static test_engine engine;
static const char *const sentiment[] = {"positive", "negative", NULL};

static int
start_engine(void **state)
{
    assert_true(test_engine_start(&engine, BACKBONE, NULL));
    return 0;
}

static int
stop_engine(void **state)
{
    int status = test_engine_stop(&engine, false);
    return WIFEXITED(status) && WEXITSTATUS(status) == 0 ? 0 : -1;
}

static double
now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double) t.tv_sec + (double) t.tv_nsec * 1e-9;
}

/* Asks the engine for a sign of life; returns for how many milliseconds its compute thread has been silent. */
static long
ask_silence(void)
{
    char line[64];
    long ms = -1;
    assert_int_equal(write(engine.death_fd, "?", 1), 1);
    struct pollfd p = {.fd = engine.status_fd, .events = POLLIN};
    assert_int_equal(poll(&p, 1, 20000), 1);
    ssize_t n = read(engine.status_fd, line, sizeof line - 1);
    assert_true(n > 0 && line[n - 1] == '\n');
    line[n] = '\0';
    assert_int_equal(sscanf(line, "alive %ld", &ms), 1);
    return ms;
}

static pid_t
find_compute_thread(void)
{
    char path[64], name[32];
    pid_t tid = 0;
    snprintf(path, sizeof path, "/proc/%d/task", (int) engine.pid);
    DIR *dir = opendir(path);
    assert_non_null(dir);
    for (struct dirent *e; (e = readdir(dir)) != NULL;) {
        snprintf(path, sizeof path, "/proc/%d/task/%.20s/comm", (int) engine.pid, e->d_name);
        FILE *f = fopen(path, "r");
        if (f != NULL && fgets(name, sizeof name, f) != NULL && strcmp(name, "ia3 compute\n") == 0)
            tid = atoi(e->d_name);
        if (f != NULL)
            fclose(f);
    }
    closedir(dir);
    assert_true(tid > 0);
    return tid;
}

/* The counting itself. This process has no other threads. */
static void
test_counting(void **state)
{
    ia3_heartbeat_seen seen = {0};
    assert_true(ia3_heartbeat_silence(&seen) == 0);
    usleep(20000);
    assert_true(ia3_heartbeat_silence(&seen) == 0); /* nothing is expected */
    ia3_heartbeat_expect(true);
    assert_true(ia3_heartbeat_silence(&seen) == 0);
    usleep(20000);
    assert_true(ia3_heartbeat_silence(&seen) >= 0.02);
    ia3_heartbeat_expect(true); /* more work is no beat */
    assert_true(ia3_heartbeat_silence(&seen) >= 0.02);
    ia3_heartbeat();
    assert_true(ia3_heartbeat_silence(&seen) == 0);
    usleep(20000);
    assert_true(ia3_heartbeat_silence(&seen) >= 0.02);
    ia3_heartbeat_expect(false);
    assert_true(ia3_heartbeat_silence(&seen) == 0);
}

/*
 * A compute thread that is stuck (here because a debugger holds it) shows as soon as there is work for it, and no longer
 * when it goes on. One that is idle is not silent, whatever holds it.
 */
static void
test_stuck_thread(void **state)
{
    pid_t tid = find_compute_thread();
    for (int i = 0; i < 3; i++, usleep(100000))
        assert_int_equal(ask_silence(), 0);
    if (ptrace(PTRACE_SEIZE, tid, NULL, NULL) != 0)
        skip(); /* it is not allowed here */
    assert_int_equal(ptrace(PTRACE_INTERRUPT, tid, NULL, NULL), 0);
    assert_int_equal(waitpid(tid, NULL, __WALL), tid);
    usleep(100000);
    assert_int_equal(ask_silence(), 0);

    double scores[2];
    test_client c;
    test_client_open(&c, &engine); /* the I/O thread answers */
    test_rows rows = {.sets = {sentiment}, .n_rows = 1, .rows = {{.text = "is anybody there?"}}};
    test_put_rows(&c, &rows);
    test_send(&c);
    double until = now() + 20;
    while (ask_silence() < 500) {
        assert_true(now() < until);
        usleep(50000);
    }
    assert_int_equal(ptrace(PTRACE_DETACH, tid, NULL, NULL), 0);
    assert_true(test_receive(&c));
    assert_int_equal(c.type, IA3_SCORE_OK);
    test_get_scores(&c, scores, 2);
    usleep(10000); /* it has replied and is about to sleep */
    assert_int_equal(ask_silence(), 0);
    test_client_close(&c);
}

/* Work that takes long in itself shows progress all the time. */
static void
test_busy_thread(void **state)
{
    test_client c;
    test_client_open(&c, &engine);
    static char text[100001];
    for (int i = 0; i < 100000; i++)
        text[i] = "word "[i % 5];
    test_rows rows = {.sets = {sentiment}, .n_rows = 1, .max_input_tokens = 16384, .rows = {{.text = text}}};
    test_put_rows(&c, &rows);
    test_send(&c);
    for (double until = now() + 2; now() < until; usleep(20000))
        assert_in_range(ask_silence(), 0, 1000);
    test_client_close(&c);

    test_client_open(&c, &engine);
    test_recipe recipe = test_default_recipe();
    recipe.steps = 1000000;
    test_put_training(&c, &recipe);
    test_send(&c);
    for (double until = now() + 2; now() < until; usleep(20000))
        assert_in_range(ask_silence(), 0, 1000);
    test_client_close(&c);
}

int
main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_counting),
        cmocka_unit_test(test_stuck_thread),
        cmocka_unit_test(test_busy_thread),
    };
    alarm(1200);
    if (argc > 1) /* one test, by name */
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests_name("heartbeat", tests, start_engine, stop_engine);
}
