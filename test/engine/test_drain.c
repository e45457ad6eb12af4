/*
 * test_drain.c
 *     An engine that is being replaced (SIGUSR1) answers all outstanding requests, accepts no new ones, says goodbye to
 *     every client, and then exits.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "engine_requests.h"

#define BACKBONE "test/backbone"

static test_engine engine;
static const char *const sentiment[] = {"positive", "negative", NULL};
static const test_rows one_row = {.sets = {sentiment}, .n_rows = 1, .rows = {{.text = "still there?"}}};

static int
start_engine(void **state)
{
    static const char *const extra[] = {"--threads", "1", NULL};
    assert_true(test_engine_start(&engine, BACKBONE, extra));
    return 0;
}

static int
stop_engine(void **state)
{
    test_engine_stop(&engine, false); /* it has usually ended: its pid may be another's */
    return 0;
}

/* Checks that the engine exits by itself with status 0. */
static void
expect_end(void)
{
    int status = -1;
    for (int i = 0; i < 2000 && waitpid(engine.pid, &status, WNOHANG) == 0; i++)
        usleep(10000);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
    assert_int_equal(access(engine.socket, F_OK), -1);
}

static void
expect_goodbye(test_client *c)
{
    assert_true(test_receive(c));
    assert_int_equal(c->type, IA3_GOODBYE);
    assert_int_equal(c->request, 0);
    assert_true(c->reader.p == c->reader.end);
    assert_false(test_receive(c)); /* then it is closed */
}

/* Reads status lines until one is `wanted`. */
static void
expect_status(const char *wanted)
{
    char line[64];
    size_t n = 0;
    while (n < sizeof line - 1 && read(engine.status_fd, line + n, 1) == 1) {
        if (line[n++] != '\n')
            continue;
        line[n - 1] = '\0';
        if (strcmp(line, wanted) == 0)
            return;
        n = 0;
    }
    fail_msg("the status line \"%s\" did not come", wanted);
}

static void
start_training(test_client *c, uint32_t steps)
{
    test_recipe recipe = test_default_recipe();
    recipe.steps = steps;
    test_client_open(c, &engine);
    test_put_training(c, &recipe);
    test_send(c);
    assert_true(test_receive(c));
    assert_int_equal(c->type, IA3_PROGRESS);
}

static void
finish_training(test_client *c)
{
    do
        assert_true(test_receive(c));
    while (c->type == IA3_PROGRESS);
    assert_int_equal(c->type, IA3_TRAIN_OK);
}

/* Idle clients get GOODBYE, before or after HELLO; an engine without work exits at once. */
static void
test_idle(void **state)
{
    test_client greeted, silent;
    test_client_open(&greeted, &engine);
    test_client_connect(&silent, &engine);
    usleep(50000); /* until both are accepted */
    kill(engine.pid, SIGUSR1);
    expect_goodbye(&greeted);
    expect_goodbye(&silent);
    test_client_close(&greeted);
    test_client_close(&silent);
    expect_end();
}

/* A client can tell that its request was not accepted, because GOODBYE is still there to be read. */
static void
test_crossing(void **state)
{
    test_client c;
    test_client_open(&c, &engine);
    kill(engine.pid, SIGUSR1);
    expect_end();
    test_put_rows(&c, &one_row);
    assert_int_equal(send(c.fd, c.out.data, c.out.len, MSG_NOSIGNAL), -1);
    assert_int_equal(errno, EPIPE);
    assert_true(test_receive(&c));
    assert_int_equal(c.type, IA3_GOODBYE);
    test_client_close(&c);
}

/* Training runs and other requests are completed, and no new clients are accepted; the supervisor is told. */
static void
test_training(void **state)
{
    test_client trainer, idle, late;
    start_training(&trainer, 60);
    test_client_open(&idle, &engine);
    kill(engine.pid, SIGUSR1);
    expect_status("draining 1 0");
    expect_goodbye(&idle);
    test_client_close(&idle);

    struct sockaddr_un a = {.sun_family = AF_UNIX};
    snprintf(a.sun_path, sizeof a.sun_path, "%s", engine.socket);
    late.fd = socket(AF_UNIX, SOCK_STREAM, 0);
    assert_int_equal(connect(late.fd, (struct sockaddr *) &a, sizeof a), -1);
    close(late.fd);

    kill(engine.pid, SIGUSR1); /* once more: nothing changes */
    finish_training(&trainer);
    expect_goodbye(&trainer);
    test_client_close(&trainer);
    expect_status("draining 0 0");
    expect_end();
}

/* The engine does not wait for clients that hang up. */
static void
test_abandoned(void **state)
{
    test_client trainer;
    start_training(&trainer, 1000000);
    kill(engine.pid, SIGUSR1);
    expect_status("draining 1 0");
    assert_int_equal(waitpid(engine.pid, NULL, WNOHANG), 0);
    test_client_close(&trainer);
    expect_end();
}

/* A request that is still arriving is accepted. */
static void
test_half_sent(void **state)
{
    double scores[2];
    test_client c, idle;
    test_client_open(&c, &engine);
    test_client_open(&idle, &engine);
    test_put_rows(&c, &one_row);
    assert_int_equal(test_call(&c, NULL), IA3_SCORE_OK);
    size_t half = c.out.len / 2;
    test_send_raw(&c, c.out.data, half); /* the same frame again */
    usleep(50000);
    kill(engine.pid, SIGUSR1);
    expect_goodbye(&idle);
    test_send_raw(&c, c.out.data + half, c.out.len - half);
    assert_true(test_receive(&c));
    assert_int_equal(c.type, IA3_SCORE_OK);
    assert_int_equal(c.request, c.last_request);
    test_get_scores(&c, scores, 2);
    assert_true(isfinite(scores[0]) && isfinite(scores[1]));
    expect_goodbye(&c);
    test_client_close(&c);
    test_client_close(&idle);
    expect_end();
}

/* SIGTERM still stops the engine at once. */
static void
test_stopped(void **state)
{
    test_client trainer;
    start_training(&trainer, 1000000);
    kill(engine.pid, SIGUSR1);
    expect_status("draining 1 0");
    kill(engine.pid, SIGTERM);
    do
        assert_true(test_receive(&trainer));
    while (trainer.type == IA3_PROGRESS);
    assert_int_equal(trainer.type, IA3_ERROR);
    assert_int_equal(test_get_error(&trainer.reader).code, IA3_E_UNAVAILABLE);
    test_client_close(&trainer);
    expect_end();
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_idle, start_engine, stop_engine),
        cmocka_unit_test_setup_teardown(test_crossing, start_engine, stop_engine),
        cmocka_unit_test_setup_teardown(test_training, start_engine, stop_engine),
        cmocka_unit_test_setup_teardown(test_abandoned, start_engine, stop_engine),
        cmocka_unit_test_setup_teardown(test_half_sent, start_engine, stop_engine),
        cmocka_unit_test_setup_teardown(test_stopped, start_engine, stop_engine),
    };
    return cmocka_run_group_tests_name("drain", tests, NULL, NULL);
}
