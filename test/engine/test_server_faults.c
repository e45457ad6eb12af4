/*
 * test_server_faults.c
 *     A running engine with clients that violate the protocol, hang up, do not read, or die; and how it stops.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "engine_requests.h"

#define BACKBONE "test/backbone"

static test_engine engine;
static const char *const sentiment[] = {"positive", "negative", NULL};

static int
start_engine(void **state)
{
    /* small batches, so that a long request takes many */
    static const char *const extra[] = {"--max-batch-tokens", "2048", NULL};
    assert_true(test_engine_start(&engine, BACKBONE, extra));
    return 0;
}

static int
stop_engine(void **state)
{
    int status = test_engine_stop(&engine, false); /* by the death pipe */
    return WIFEXITED(status) && WEXITSTATUS(status) == 0 ? 0 : -1;
}

static double
now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double) t.tv_sec + (double) t.tv_nsec * 1e-9;
}

/* Checks that a new client gets a reply; returns the time in seconds. */
static double
check_alive(void)
{
    double started = now(), scores[2];
    test_client c;
    test_client_open(&c, &engine);
    test_rows rows = {.sets = {sentiment}, .n_rows = 1, .rows = {{.text = "still there?"}}};
    test_put_rows(&c, &rows);
    assert_int_equal(test_call(&c, NULL), IA3_SCORE_OK);
    test_get_scores(&c, scores, 2);
    test_client_close(&c);
    return now() - started;
}

/* Waits until a counter has a value. */
static void
wait_stat(int which, double value)
{
    test_client c;
    test_client_open(&c, &engine);
    double until = now() + 20;
    while (test_stat(&c, which) != value) {
        assert_true(now() < until);
        usleep(10000);
    }
    test_client_close(&c);
}

/* Expects an ERROR with this code and, for a protocol error, the end of the connection. */
static void
expect_error(test_client *c, uint32_t code)
{
    assert_true(test_receive(c));
    assert_int_equal(c->type, IA3_ERROR);
    test_error e = test_get_error(&c->reader);
    assert_int_equal(e.code, code);
    assert_true(e.message[0] != '\0');
    assert_true(c->reader.p == c->reader.end);
    if (code == IA3_E_PROTOCOL)
        assert_false(test_receive(c));
}

static void
test_greeting(void **state)
{
    static const struct {
        uint8_t type;
        uint32_t magic, version;
    } bad[] = {{IA3_HELLO, IA3_PROTOCOL_MAGIC, IA3_PROTOCOL_VERSION + 1},
               {IA3_HELLO, 0x12345678, IA3_PROTOCOL_VERSION},
               {IA3_INFO, IA3_PROTOCOL_MAGIC, IA3_PROTOCOL_VERSION}};
    test_client c;
    for (int i = 0; i < 3; i++) {
        test_client_connect(&c, &engine);
        ia3_writer *w = test_begin(&c, bad[i].type);
        ia3_put_u32(w, bad[i].magic);
        ia3_put_u32(w, bad[i].version);
        test_put_text(w, "x");
        test_send(&c);
        expect_error(&c, IA3_E_PROTOCOL);
        test_client_close(&c);
    }
    test_client_open(&c, &engine);
    ia3_writer *w = test_begin(&c, IA3_HELLO); /* twice */
    ia3_put_u32(w, IA3_PROTOCOL_MAGIC);
    ia3_put_u32(w, IA3_PROTOCOL_VERSION);
    test_put_text(w, "x");
    test_send(&c);
    expect_error(&c, IA3_E_PROTOCOL);
    test_client_close(&c);
}

/* Frames with impossible lengths. */
static void
test_frame_lengths(void **state)
{
    static const uint32_t lengths[] = {0, 4, IA3_MAX_FRAME + 1, 0xffffffff};
    for (int i = 0; i < 4; i++) {
        test_client c;
        test_client_open(&c, &engine);
        test_send_raw(&c, &lengths[i], 4);
        expect_error(&c, IA3_E_PROTOCOL);
        test_client_close(&c);
    }
}

/* Every message type with an empty payload and with garbage, and unknown types. */
static void
test_garbage(void **state)
{
    static const uint8_t types[] = {0,
                                    IA3_TOKENIZE,
                                    IA3_SCORE,
                                    IA3_METHOD,
                                    IA3_PUT_ADAPTER,
                                    IA3_TRAIN,
                                    IA3_CANCEL,
                                    9,
                                    64,
                                    IA3_SCORE_OK,
                                    IA3_ERROR,
                                    200,
                                    255,
                                    IA3_TRAIN_RUNS};
    for (size_t i = 0; i < sizeof types; i++)
        for (int kind = 0; kind < 2; kind++) {
            test_client c;
            test_client_open(&c, &engine);
            ia3_writer *w = test_begin(&c, types[i]);
            for (int k = 0; k < 40 && kind == 1; k++)
                ia3_put_u32(w, 0xfffffff0u - (uint32_t) k);
            test_send(&c);
            expect_error(&c, IA3_E_PROTOCOL);
            test_client_close(&c);
        }
    test_client c;
    test_client_open(&c, &engine);
    ia3_put_u8(test_begin(&c, IA3_STATS), 1); /* a payload where there must be none */
    test_send(&c);
    expect_error(&c, IA3_E_PROTOCOL);
    test_client_close(&c);
}

/* A correct SCORE, TRAIN and TRAIN_RUNS truncated at every byte, and with an additional byte. */
static void
test_cut_messages(void **state)
{
    static const uint8_t types[] = {IA3_SCORE, IA3_TRAIN, IA3_TRAIN_RUNS};
    static const test_run runs[] = {{7, 2, {3, 0}, 2, {1, 2}}, {8, 1, {2}, 0, {0}}};
    for (int kind = 0; kind < 3; kind++) {
        test_client c, full = {0};
        test_rows rows = {.sets = {sentiment}, .n_rows = 1, .rows = {{.text = "abc"}}};
        test_recipe recipe = test_default_recipe();
        recipe.runs = kind == 2 ? runs : NULL;
        recipe.n_runs = recipe.n_labels = 2;
        recipe.verbalizers = (const uint32_t[]){1, 1};
        if (kind == 0)
            test_put_rows(&full, &rows);
        else
            test_put_training(&full, &recipe);
        for (size_t n = IA3_FRAME_HEADER; n <= full.out.len + 1; n++) {
            if (n == full.out.len)
                continue;
            test_client_open(&c, &engine);
            ia3_writer *w = test_begin(&c, types[kind]);
            size_t body = (n < full.out.len ? n : full.out.len) - IA3_FRAME_HEADER;
            ia3_put_bytes(w, full.out.data + IA3_FRAME_HEADER, body);
            if (n > full.out.len)
                ia3_put_u8(w, 0);
            test_send(&c);
            expect_error(&c, IA3_E_PROTOCOL);
            test_client_close(&c);
        }
        free(full.out.data);
    }
    check_alive();
}

/* After well-formed requests that fail the connection remains open. */
static void
test_invalid_requests(void **state)
{
    test_client c;
    test_client_open(&c, &engine);
    test_recipe bad[16];
    for (int i = 0; i < 16; i++)
        bad[i] = test_default_recipe();
    bad[0].steps = 0;
    bad[1].steps = 1000001;
    bad[2].batch_size = 0;
    bad[3].batch_size = 1025;
    bad[4].learning_rate = 0;
    bad[5].learning_rate = NAN;
    bad[6].warmup_ratio = 1.5;
    bad[7].lm_weight = -1;
    bad[8].lm_weight = bad[8].unlikelihood_weight = bad[8].length_norm_weight = 0;
    bad[9].dropout = 1;
    bad[10].averaging = 2;
    bad[11].label = 2;
    bad[12].no_examples = true;
    bad[13].no_text = true;
    bad[14].max_input_tokens = 0;
    bad[15].unlikelihood_weight = INFINITY;
    static const char *const words[] = {
        "steps",         "steps",         "batch_size",       "batch_size",
        "learning_rate", "learning_rate", "warmup_ratio",     "lm_weight",
        "zero",          "dropout",       "loss_averaging",   "label",
        "examples",      "text",          "max_input_tokens", "unlikelihood_weight"};
    for (int i = 0; i < 16; i++) {
        test_put_training(&c, &bad[i]);
        assert_int_equal(test_call(&c, NULL), IA3_ERROR);
        test_error e = test_get_error(&c.reader);
        assert_int_equal(e.code, IA3_E_INVALID);
        assert_non_null(strstr(e.message, words[i]));
    }
    static const ia3_field outside[] = {{0, 2}}, backwards[] = {{1, 0}}, overlapping[] = {{0, 2}, {1, 3}};
    test_row rows_bad[] = {{.text = "x", .adapter = 1},
                           {.text = "x", .set = 1},
                           {.text = "x", .tail = 2},
                           {.text = "x", .n_fields = 1, .fields = outside},
                           {.text = "xyz", .n_fields = 1, .fields = backwards},
                           {.text = "xyz", .n_fields = 2, .fields = overlapping}};
    for (int i = 0; i < 6; i++) {
        test_rows rows = {.sets = {sentiment}, .n_rows = 1, .rows = {rows_bad[i]}};
        test_put_rows(&c, &rows);
        assert_int_equal(test_call(&c, NULL), IA3_ERROR);
        assert_int_equal(test_get_error(&c.reader).code, IA3_E_INVALID);
    }
    test_rows rows = {.sets = {sentiment}, .n_rows = 1, .rows = {{.text = "x"}}};
    test_put_rows(&c, &rows);
    assert_int_equal(test_call(&c, NULL), IA3_SCORE_OK);
    test_client_close(&c);
}

static void
put_cancel(test_client *c, uint32_t request)
{
    ia3_put_u32(test_begin(c, IA3_CANCEL), request);
    test_send(c);
}

static void
test_cancel_training(void **state)
{
    test_client c;
    test_client_open(&c, &engine);
    test_recipe recipe = test_default_recipe();
    recipe.steps = 1000000;
    test_put_training(&c, &recipe);
    uint32_t request = test_send(&c);
    assert_true(test_receive(&c)); /* it runs */
    assert_int_equal(c.type, IA3_PROGRESS);
    assert_int_equal(c.request, request);
    uint32_t step = ia3_get_u32(&c.reader);
    assert_true(step >= 1);
    assert_int_equal(ia3_get_u32(&c.reader), 1000000);
    assert_true(isfinite(ia3_get_f64(&c.reader)));
    assert_true(ia3_get_f64(&c.reader) > 0);
    assert_true(ia3_get_f64(&c.reader) > 0);
    check_alive(); /* scoring continues at the same time */
    put_cancel(&c, request);
    do
        assert_true(test_receive(&c));
    while (c.type == IA3_PROGRESS);
    assert_int_equal(c.type, IA3_ERROR);
    assert_int_equal(c.request, request);
    assert_int_equal(test_get_error(&c.reader).code, IA3_E_CANCELLED);
    put_cancel(&c, request); /* cancelling a finished request has no effect */
    put_cancel(&c, 12345);
    assert_true(test_stat(&c, IA3_STAT_TRAIN_JOBS) == 0);
    test_client_close(&c);
}

static void
test_close_cancels(void **state)
{
    test_client c;
    test_recipe recipe = test_default_recipe();
    recipe.steps = 1000000;
    test_client_open(&c, &engine);
    test_put_training(&c, &recipe);
    test_send(&c);
    assert_true(test_receive(&c));
    assert_int_equal(c.type, IA3_PROGRESS);
    test_client_close(&c);
    wait_stat(IA3_STAT_TRAIN_JOBS, 0);

    /* a scoring request whose client has gone */
    for (int i = 0; i < 5; i++) {
        test_client_open(&c, &engine);
        test_rows rows = {.sets = {sentiment}, .n_rows = 64};
        for (int k = 0; k < 64; k++)
            rows.rows[k] =
                (test_row){.text = "a client asks for this and is killed before it gets an answer"};
        test_put_rows(&c, &rows);
        test_send(&c);
        test_client_close(&c);
    }
    check_alive();
    wait_stat(IA3_STAT_QUEUE_ROWS, 0);
    wait_stat(IA3_STAT_CONNECTIONS, 1); /* only the one that asks */
}

/* Clients that stop in the middle of a frame, or connect and send nothing. */
static void
test_idle_clients(void **state)
{
    test_client silent, half, full = {0};
    test_client_connect(&silent, &engine);
    test_client_open(&half, &engine);
    test_rows rows = {.sets = {sentiment}, .n_rows = 1, .rows = {{.text = "abc"}}};
    test_put_rows(&half, &rows);
    ia3_writer w = half.out;
    uint32_t length = (uint32_t) w.len - 4;
    memcpy(w.data, &length, 4);
    test_send_raw(&half, w.data, 20);
    assert_true(check_alive() < 5);
    test_send_raw(&half, w.data + 20, w.len - 20); /* it goes on later */
    assert_true(test_receive(&half));
    assert_int_equal(half.type, IA3_SCORE_OK);
    test_client_close(&half);
    test_client_close(&silent);
    free(full.out.data);
}

/* A client requests far more than it reads, then reads it all. Only a limit can hold back replies that cost nothing. */
static void
test_slow_reader(void **state)
{
    enum { REQUESTS = 20000 }; /* their answers take twice as much as the engine keeps */
    test_client slow;
    test_client_open(&slow, &engine);
    pid_t writer = fork(); /* writes until the engine stops reading from it */
    if (writer == 0) {
        for (int i = 0; i < REQUESTS; i++) {
            test_begin(&slow, IA3_STATS);
            test_send(&slow);
        }
        _exit(0);
    }
    sleep(2);
    assert_true(check_alive() < 5);
    int status;
    assert_int_equal(waitpid(writer, &status, WNOHANG), 0);
    for (int i = 0; i < REQUESTS; i++) {
        assert_true(test_receive(&slow));
        assert_int_equal(slow.type, IA3_STATS_OK);
        assert_int_equal(slow.request, 2 + i);
    }
    assert_int_equal(waitpid(writer, &status, 0), writer);
    assert_int_equal(status, 0);
    test_client_close(&slow);
}

/* The engine's peak resident memory in kilobytes. */
static long
peak_memory(void)
{
    char path[64], line[256];
    long kilobytes = -1;
    snprintf(path, sizeof path, "/proc/%d/status", (int) engine.pid);
    FILE *f = fopen(path, "r");
    assert_non_null(f);
    while (fgets(line, sizeof line, f))
        if (sscanf(line, "VmHWM: %ld", &kilobytes) == 1)
            break;
    fclose(f);
    assert_true(kilobytes > 0);
    return kilobytes;
}

/* If many large frames exceed the engine's limit, they wait for each other, but small ones do not wait. */
static void
test_back_pressure(void **state)
{
    enum { CLIENTS = 6, SIZE = 120 << 20 };
    test_client c[CLIENTS];
    pid_t writers[CLIENTS];
    uint8_t *frame = calloc(1, SIZE);
    uint32_t length = SIZE - 4, request = 7, vectors = SIZE - IA3_FRAME_HEADER - IA3_DIGEST_LEN - 8;
    memcpy(frame, &length, 4);
    frame[4] = IA3_PUT_ADAPTER; /* of zeros, of no method, under a digest that is not theirs */
    memcpy(frame + 5, &request, 4);
    memcpy(frame + IA3_FRAME_HEADER + IA3_DIGEST_LEN + 4, &vectors, 4);
    long before = peak_memory();
    for (int i = 0; i < CLIENTS; i++) {
        test_client_open(&c[i], &engine);
        writers[i] = fork();
        if (writers[i] == 0) {
            for (size_t sent = 0; sent < SIZE;) {
                ssize_t n = send(c[i].fd, frame + sent, SIZE - sent, MSG_NOSIGNAL);
                if (n <= 0)
                    _exit(1);
                sent += (size_t) n;
            }
            _exit(0);
        }
    }
    assert_true(check_alive() < 5);
    for (int i = 0; i < CLIENTS; i++) {
        assert_true(test_receive(&c[i]));
        assert_int_equal(c[i].type, IA3_ERROR);
        assert_int_equal(c[i].request, request);
        int status;
        assert_int_equal(waitpid(writers[i], &status, 0), writers[i]);
        assert_int_equal(status, 0);
        test_client_close(&c[i]);
    }
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    (void) before; /* they keep shadows, and freed memory for a while */
#else
    assert_true(peak_memory() - before < 450 * 1024);
#endif
    check_alive();
    free(frame);
}

/* A small request does not have to wait for all rows of a large one that came before it. */
static void
test_fairness(void **state)
{
    test_client big, small;
    test_client_open(&big, &engine);
    test_client_open(&small, &engine);
    ia3_writer *w = test_begin(&big, IA3_SCORE);
    static const uint8_t bare[IA3_DIGEST_LEN];
    enum { ROWS = 800 };
    ia3_put_u32(w, 256);
    ia3_put_u32(w, 1);
    ia3_put_bytes(w, bare, sizeof bare);
    ia3_put_u32(w, 1);
    test_put_set(w, (const char *const[]){"positive", "negative", NULL}, false);
    ia3_put_u32(w, ROWS);
    for (int i = 0; i < ROWS; i++) {
        char text[100];
        snprintf(text, sizeof text, "%d: some text that is long enough to take a while, %d", i, i);
        ia3_put_u32(w, 0);
        ia3_put_u32(w, 0);
        test_put_input(w, text, 0, NULL, 0);
    }
    double started = now();
    test_send(&big);
    double scores[2], waited = check_alive();
    assert_true(test_receive(&big));
    double all = now() - started;
    assert_int_equal(big.type, IA3_SCORE_OK);
    for (int i = 0; i < ROWS; i++)
        test_get_scores(&big, scores, 2);
    assert_true(test_get_flops(&big) > 0);
    assert_true(waited < all / 2);
    test_client_close(&big);
    test_client_close(&small);
}

/* Cancelling a request with many rows in the middle takes effect soon. */
static void
test_cancel_scoring(void **state)
{
    test_client c;
    test_client_open(&c, &engine);
    uint32_t last = 0;
    for (int r = 0; r < 40; r++) {
        test_rows rows = {.sets = {sentiment}, .n_rows = 64};
        char texts[64][60];
        for (int i = 0; i < 64; i++) {
            snprintf(texts[i], sizeof texts[i], "%d-%d some text", r, i);
            rows.rows[i] = (test_row){.text = texts[i]};
        }
        test_put_rows(&c, &rows);
        last = test_send(&c);
    }
    put_cancel(&c, last);
    bool cancelled = false;
    for (int r = 0; r < 40; r++) {
        assert_true(test_receive(&c));
        if (c.request == last) {
            assert_int_equal(c.type, IA3_ERROR);
            assert_int_equal(test_get_error(&c.reader).code, IA3_E_CANCELLED);
            cancelled = true;
        } else
            assert_int_equal(c.type, IA3_SCORE_OK);
    }
    assert_true(cancelled);
    test_client_close(&c);
    wait_stat(IA3_STAT_QUEUE_ROWS, 0);
}

static void
test_request_number_in_use(void **state)
{
    test_client c;
    test_client_open(&c, &engine);
    test_recipe recipe = test_default_recipe();
    recipe.steps = 1000000;
    test_put_training(&c, &recipe);
    test_send(&c);
    c.last_request--;
    test_put_training(&c, &recipe);
    test_send(&c);
    do
        assert_true(test_receive(&c));
    while (c.type == IA3_PROGRESS);
    assert_int_equal(c.type, IA3_ERROR);
    assert_int_equal(test_get_error(&c.reader).code, IA3_E_PROTOCOL);
    test_client_close(&c);
    wait_stat(IA3_STAT_TRAIN_JOBS, 0);
}

/* The mode of the socket does not allow other users to connect. */
static void
test_socket_mode(void **state)
{
    struct stat st;
    assert_int_equal(stat(engine.socket, &st), 0);
    assert_int_equal(st.st_mode & 077, 0);
}

/* Runs in a child process as another user; true if the engine closes the connection without sending anything. */
static bool
stranger_is_turned_away(void)
{
    char byte;
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    snprintf(a.sun_path, sizeof a.sun_path, "%s", engine.socket);
    return setgid(65534) == 0 && setuid(65534) == 0 && connect(fd, (struct sockaddr *) &a, sizeof a) == 0 &&
           read(fd, &byte, 1) == 0;
}

/* Other users are rejected even if directory and socket are open to all. The test needs root to change its user. */
static void
test_other_user(void **state)
{
    if (geteuid() != 0)
        skip();
    assert_int_equal(chmod(engine.dir, 0755), 0);
    assert_int_equal(chmod(engine.socket, 0666), 0);
    int status;
    pid_t pid = fork();
    if (pid == 0) {
        alarm(20); /* one that is let in waits for a first message */
        _exit(stranger_is_turned_away() ? 0 : 1);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(chmod(engine.socket, 0600), 0);
    assert_int_equal(chmod(engine.dir, 0700), 0);
    assert_int_equal(status, 0);
    check_alive();
}

/* If the backbone cannot be loaded, the status pipe reports it and the exit status is 1. */
static void
test_failed_start(void **state)
{
    static const char *const wrong[][3] = {
        {"/nonexistent/backbone", NULL, NULL}, {BACKBONE, "--device", "abacus"}, {"test", NULL, NULL}};
    for (int i = 0; i < 3; i++) {
        test_engine e;
        const char *extra[] = {wrong[i][1], wrong[i][2], NULL};
        assert_false(test_engine_start(&e, wrong[i][0], extra));
        assert_memory_equal(e.last_status, "failed ", 7);
        assert_true(strlen(e.last_status) > 12);
        int status = test_engine_stop(&e, false);
        assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 1);
    }
}

/* After SIGTERM during a training run, clients get an error, the socket is removed, and the exit status is 0. */
static void
test_shutdown(void **state)
{
    test_engine e;
    assert_true(test_engine_start(&e, BACKBONE, NULL));
    test_client c;
    test_client_open(&c, &e);
    test_recipe recipe = test_default_recipe();
    recipe.steps = 1000000;
    test_put_training(&c, &recipe);
    uint32_t request = test_send(&c);
    assert_true(test_receive(&c));
    assert_int_equal(c.type, IA3_PROGRESS);
    kill(e.pid, SIGTERM);
    do
        assert_true(test_receive(&c));
    while (c.type == IA3_PROGRESS);
    assert_int_equal(c.type, IA3_ERROR);
    assert_int_equal(c.request, request);
    assert_int_equal(test_get_error(&c.reader).code, IA3_E_UNAVAILABLE);
    assert_false(test_receive(&c));
    test_client_close(&c);
    char socket[100];
    strcpy(socket, e.socket);
    int status = test_engine_stop(&e, true);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    assert_int_not_equal(access(socket, F_OK), 0);
}

/* With a memory limit that the backbone just fits in, large requests fail while small ones continue to work. */
static void
test_memory_limit(void **state)
{
    test_engine e;
    static const char *const extra[] = {"--memory-limit", "26000000", "--dtype", "bfloat16", NULL};
    assert_true(test_engine_start(&e, BACKBONE, extra));
    test_client c;
    test_client_open(&c, &e);
    char *text = malloc(60001);
    for (int i = 0; i < 60000; i++)
        text[i] = i % 2 ? ' ' : (char) ('a' + i / 2 % 26);
    text[60000] = '\0';
    test_rows rows = {.max_input_tokens = 32768, .sets = {sentiment}, .n_rows = 3};
    rows.rows[0] = (test_row){.text = "short"};
    rows.rows[1] = (test_row){.text = text};
    rows.rows[2] = (test_row){.text = "also short"};
    test_put_rows(&c, &rows);
    assert_int_equal(test_call(&c, NULL), IA3_SCORE_OK);
    double scores[2];
    test_get_scores(&c, scores, 2);
    assert_int_equal(ia3_get_u8(&c.reader), 0);
    assert_int_equal(test_get_error(&c.reader).code, IA3_E_MEMORY);
    test_get_scores(&c, scores, 2);
    free(text);

    test_recipe recipe = test_default_recipe(); /* what the backward pass needs does not fit at all */
    test_put_training(&c, &recipe);
    assert_int_equal(test_call(&c, NULL), IA3_ERROR);
    assert_int_equal(test_get_error(&c.reader).code, IA3_E_MEMORY);
    rows.n_rows = 1;
    test_put_rows(&c, &rows);
    assert_int_equal(test_call(&c, NULL), IA3_SCORE_OK);
    test_get_scores(&c, scores, 2);
    test_client_close(&c);
    int status = test_engine_stop(&e, true);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

static double
processor_seconds(pid_t pid)
{
    char path[64];
    unsigned long user = 0, system = 0;
    snprintf(path, sizeof path, "/proc/%d/stat", (int) pid);
    FILE *f = fopen(path, "r");
    assert_non_null(f);
    assert_int_equal(
        fscanf(f, "%*d (%*[^)]) %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu", &user, &system), 2);
    fclose(f);
    return (double) (user + system) / (double) sysconf(_SC_CLK_TCK);
}

/* Clients for whom there is no descriptor wait, without keeping the engine busy, and get their turn when others leave. */
static void
test_out_of_descriptors(void **state)
{
    enum { N = 40, LIMIT = 30 };
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    skip(); /* the sanitizer itself needs descriptors, and reports errors where it gets none */
#endif
    test_engine e;
    test_client clients[N];
    assert_true(test_engine_start(&e, BACKBONE, NULL));
    struct rlimit limit = {LIMIT, LIMIT};
    assert_int_equal(prlimit(e.pid, RLIMIT_NOFILE, &limit, NULL), 0);
    for (int i = 0; i < N; i++)
        test_client_connect(&clients[i], &e);
    double scores[2], busy = processor_seconds(e.pid);
    usleep(1500000);
    assert_true(processor_seconds(e.pid) - busy < 0.5);
    for (int i = 0; i < N; i++) {
        ia3_writer *w = test_begin(&clients[i], IA3_HELLO);
        ia3_put_u32(w, IA3_PROTOCOL_MAGIC);
        ia3_put_u32(w, IA3_PROTOCOL_VERSION);
        test_put_text(w, "test");
        assert_int_equal(test_call(&clients[i], NULL), IA3_HELLO_OK);
        test_rows rows = {.sets = {sentiment}, .n_rows = 1, .rows = {{.text = "my turn"}}};
        test_put_rows(&clients[i], &rows);
        assert_int_equal(test_call(&clients[i], NULL), IA3_SCORE_OK);
        test_get_scores(&clients[i], scores, 2);
        test_client_close(&clients[i]);
    }
    int status = test_engine_stop(&e, true);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

static size_t
resident_bytes(pid_t pid)
{
    char path[64];
    size_t pages = 0;
    snprintf(path, sizeof path, "/proc/%d/statm", (int) pid);
    FILE *f = fopen(path, "r");
    assert_non_null(f);
    assert_int_equal(fscanf(f, "%*u %zu", &pages), 1);
    fclose(f);
    return pages * (size_t) sysconf(_SC_PAGESIZE);
}

/*
 * 30,000 choices do not need much more memory than a few, and what they and a long input need comes back soon. Sanitizers
 * keep what was freed.
 */
static void
test_memory_comes_back(void **state)
{
    enum { N = 30000, MB = 1 << 20 };
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    skip(); /* with a sanitizer this takes minutes, and tells nothing */
#endif
    static char names[N][16], text[60001];
    static const char *choices[N + 1];
    for (int i = 0; i < N; i++) {
        snprintf(names[i], sizeof names[i], "number %d", i);
        choices[i] = names[i];
    }
    for (int i = 0; i < 60000; i++)
        text[i] = i % 2 ? ' ' : (char) ('a' + i / 2 % 26);
    test_engine e;
    assert_true(test_engine_start(&e, BACKBONE, NULL));
    test_client c;
    test_client_open(&c, &e);
    size_t before = resident_bytes(e.pid), most = 0;
    test_rows many = {.sets = {choices}, .n_rows = 1, .rows = {{.text = "any"}}};
    test_put_rows(&c, &many);
    assert_int_equal(test_call(&c, NULL), IA3_SCORE_OK);
    most = resident_bytes(e.pid);
    test_rows one = {.max_input_tokens = 8192, .sets = {sentiment}, .n_rows = 1, .rows = {{.text = text}}};
    test_put_rows(&c, &one);
    assert_int_equal(test_call(&c, NULL), IA3_SCORE_OK);
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    const bool sanitized = true;
#else
    const bool sanitized = false;
#endif
    double until = now() + 20;
    while (!sanitized && resident_bytes(e.pid) > before + (size_t) 100 * MB) {
        assert_true(now() < until);
        usleep(50000);
    }
    assert_true(sanitized || most < before + (size_t) 160 * MB);
    test_client_close(&c);
    int status = test_engine_stop(&e, true);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

int
main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_greeting),          cmocka_unit_test(test_frame_lengths),
        cmocka_unit_test(test_garbage),           cmocka_unit_test(test_cut_messages),
        cmocka_unit_test(test_invalid_requests),  cmocka_unit_test(test_cancel_training),
        cmocka_unit_test(test_close_cancels),     cmocka_unit_test(test_idle_clients),
        cmocka_unit_test(test_slow_reader),       cmocka_unit_test(test_fairness),
        cmocka_unit_test(test_cancel_scoring),    cmocka_unit_test(test_request_number_in_use),
        cmocka_unit_test(test_socket_mode),       cmocka_unit_test(test_failed_start),
        cmocka_unit_test(test_shutdown),          cmocka_unit_test(test_memory_limit),
        cmocka_unit_test(test_other_user),        cmocka_unit_test(test_back_pressure),
        cmocka_unit_test(test_memory_comes_back), cmocka_unit_test(test_out_of_descriptors),
    };
    alarm(1200);
    if (argc > 1) /* one test, by name */
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests_name("server_faults", tests, start_engine, stop_engine);
}
