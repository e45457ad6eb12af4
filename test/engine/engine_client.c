/*
 * engine_client.c
 *     Starts and stops the engine, and sends and receives frames.
 */
#include "engine_client.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* From build/FLAVOR/test/test_x to build/FLAVOR/ia3_engine. */
void
test_engine_path(char *path, size_t size)
{
    const char *env = getenv("IA3_ENGINE");
    if (env) {
        snprintf(path, size, "%s", env);
        return;
    }
    ssize_t n = readlink("/proc/self/exe", path, size - 1);
    assert_true(n > 0);
    path[n] = '\0';
    for (int i = 0; i < 2; i++)
        *strrchr(path, '/') = '\0';
    strncat(path, "/ia3_engine", size - strlen(path) - 1);
    if (access(path, X_OK) != 0)
        snprintf(path, size, "./ia3_engine");
}

/* Reads status lines until "ready" or "failed". */
static bool
wait_ready(test_engine *e)
{
    FILE *f = fdopen(dup(e->status_fd), "r");
    char line[1024];
    while (fgets(line, sizeof line, f)) {
        line[strcspn(line, "\n")] = '\0';
        if (strncmp(line, "loading ", 8) == 0) {
            e->loading_lines++;
            continue;
        }
        snprintf(e->last_status, sizeof e->last_status, "%s", line);
        break;
    }
    fclose(f);
    return strcmp(e->last_status, "ready") == 0;
}

bool
test_engine_start(test_engine *e, const char *backbone, const char *const *extra)
{
    memset(e, 0, sizeof *e);
    strcpy(e->dir, "/tmp/ia3_test_XXXXXX");
    assert_non_null(mkdtemp(e->dir));
    snprintf(e->socket, sizeof e->socket, "%s/socket", e->dir);
    int status[2], death[2];
    assert_int_equal(pipe(status), 0);
    assert_int_equal(pipe(death), 0);
    char path[4096];
    test_engine_path(path, sizeof path);
    char log[128];
    e->pid = fork();
    assert_true(e->pid >= 0);
    if (e->pid == 0) {
        close(status[0]);
        close(death[1]);
        snprintf(log, sizeof log, "%s/log", e->dir);
        if (getenv("IA3_TEST_VERBOSE") == NULL && freopen(log, "w", stderr) == NULL)
            _exit(126);
        char status_fd[16], death_fd[16];
        snprintf(status_fd, sizeof status_fd, "%d", status[1]);
        snprintf(death_fd, sizeof death_fd, "%d", death[0]);
        const char *argv[40] = {path,       "serve",   "--name",      "test",    "--backbone", backbone,
                                "--socket", e->socket, "--status-fd", status_fd, "--death-fd", death_fd};
        int n = 12;
        while (extra && *extra && n < 39)
            argv[n++] = *extra++;
        execv(path, (char *const *) argv);
        _exit(127);
    }
    close(status[1]);
    close(death[0]);
    e->status_fd = status[0];
    e->death_fd = death[1];
    return wait_ready(e);
}

/* Removes the engine's log. Prints its end first, for an engine that ended without a word or badly. */
static void
remove_log(const test_engine *e, bool print)
{
    char path[128], line[1024];
    snprintf(path, sizeof path, "%s/log", e->dir);
    FILE *f = print ? fopen(path, "r") : NULL;
    if (f) {
        fseek(f, -8192, SEEK_END); /* fails for a shorter log: all of it */
        while (fgets(line, sizeof line, f))
            fprintf(stderr, "engine: %s", line);
        fclose(f);
    }
    unlink(path);
}

int
test_engine_stop(test_engine *e, bool by_signal)
{
    int status = -1;
    if (by_signal)
        kill(e->pid, SIGTERM);
    else {
        close(e->death_fd);
        e->death_fd = -1;
    }
    for (int i = 0; i < 2000 && waitpid(e->pid, &status, WNOHANG) == 0; i++)
        usleep(10000);
    close(e->status_fd);
    if (e->death_fd >= 0)
        close(e->death_fd);
    remove_log(e, e->last_status[0] == 0 || (WIFEXITED(status) && WEXITSTATUS(status) > 1));
    rmdir(e->dir); /* the engine has unlinked its socket */
    return status;
}

void
test_client_connect(test_client *c, const test_engine *e)
{
    memset(c, 0, sizeof *c);
    c->fd = socket(AF_UNIX, SOCK_STREAM, 0);
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    snprintf(a.sun_path, sizeof a.sun_path, "%s", e->socket);
    assert_int_equal(connect(c->fd, (struct sockaddr *) &a, sizeof a), 0);
    struct timeval t = {.tv_sec = 60};
    setsockopt(c->fd, SOL_SOCKET, SO_RCVTIMEO, &t, sizeof t);
    setsockopt(c->fd, SOL_SOCKET, SO_SNDTIMEO, &t, sizeof t);
}

void
test_client_open(test_client *c, const test_engine *e)
{
    test_client_connect(c, e);
    ia3_writer *w = test_begin(c, IA3_HELLO);
    ia3_put_u32(w, IA3_PROTOCOL_MAGIC);
    ia3_put_u32(w, IA3_PROTOCOL_VERSION);
    test_put_text(w, "test");
    assert_int_equal(test_call(c, NULL), IA3_HELLO_OK);
}

void
test_client_close(test_client *c)
{
    close(c->fd);
    free(c->out.data);
    free(c->in);
    memset(c, 0, sizeof *c);
    c->fd = -1;
}

static uint8_t *
grow(uint8_t *data, size_t len, size_t cap)
{
    (void) len;
    data = realloc(data, cap);
    assert_non_null(data);
    return data;
}

ia3_writer *
test_begin(test_client *c, uint8_t type)
{
    c->out.grow = grow;
    c->out.len = 0;
    ia3_put_u32(&c->out, 0);
    ia3_put_u8(&c->out, type);
    ia3_put_u32(&c->out, ++c->last_request);
    return &c->out;
}

void
test_send_raw(test_client *c, const void *bytes, size_t n)
{
    const uint8_t *p = bytes;
    while (n > 0) {
        ssize_t k = send(c->fd, p, n, MSG_NOSIGNAL);
        if (k < 0 && errno == EINTR)
            continue;
        if (k < 0 && (errno == EPIPE || errno == ECONNRESET))
            return; /* the engine has reported why, or the test will notice */
        assert_true(k > 0);
        p += k;
        n -= (size_t) k;
    }
}

uint32_t
test_send(test_client *c)
{
    uint32_t length = (uint32_t) (c->out.len - 4);
    for (int i = 0; i < 4; i++)
        c->out.data[i] = (uint8_t) (length >> (8 * i));
    test_send_raw(c, c->out.data, c->out.len);
    return c->last_request;
}

static bool
receive_bytes(test_client *c, uint8_t *p, size_t n)
{
    while (n > 0) {
        ssize_t k = recv(c->fd, p, n, 0);
        if (k < 0 && errno == EINTR)
            continue;
        if (k < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
            fail_msg("no answer within 60 seconds");
        if (k <= 0)
            return false;
        p += k;
        n -= (size_t) k;
    }
    return true;
}

bool
test_receive(test_client *c)
{
    uint8_t head[4];
    if (!receive_bytes(c, head, 4))
        return false;
    uint32_t n =
        (uint32_t) head[0] | (uint32_t) head[1] << 8 | (uint32_t) head[2] << 16 | (uint32_t) head[3] << 24;
    assert_true(n >= 5 && n <= IA3_MAX_FRAME);
    free(c->in);
    c->in = malloc(n);
    assert_non_null(c->in);
    if (!receive_bytes(c, c->in, n))
        return false;
    c->reader = (ia3_reader){.p = c->in, .end = c->in + n};
    c->type = ia3_get_u8(&c->reader);
    c->request = ia3_get_u32(&c->reader);
    return true;
}

uint8_t
test_call(test_client *c, int *progress)
{
    uint32_t request = test_send(c);
    if (progress)
        *progress = 0;
    do {
        assert_true(test_receive(c));
        assert_int_equal(c->request, request);
        if (progress && c->type == IA3_PROGRESS)
            ++*progress;
    } while (c->type == IA3_PROGRESS);
    return c->type;
}

static void
get_text(ia3_reader *r, char *buffer, size_t size)
{
    size_t n;
    const char *s = ia3_get_str(r, &n);
    assert_false(r->bad);
    assert_true(n < size);
    memcpy(buffer, s, n);
    buffer[n] = '\0';
}

test_error
test_get_error(ia3_reader *r)
{
    test_error e;
    e.code = ia3_get_u32(r);
    get_text(r, e.message, sizeof e.message);
    get_text(r, e.detail, sizeof e.detail);
    get_text(r, e.hint, sizeof e.hint);
    return e;
}

void
test_put_text(ia3_writer *w, const char *s)
{
    ia3_put_str(w, s, strlen(s));
}

double
test_stat(test_client *c, int which)
{
    static const char *const names[IA3_N_STATS] = IA3_STAT_NAMES;
    double found = -1;
    test_begin(c, IA3_STATS);
    assert_int_equal(test_call(c, NULL), IA3_STATS_OK);
    assert_int_equal(ia3_get_u32(&c->reader), IA3_N_STATS);
    for (int i = 0; i < IA3_N_STATS; i++) {
        char name[64];
        get_text(&c->reader, name, sizeof name);
        assert_string_equal(name, names[i]);
        double v = ia3_get_f64(&c->reader);
        if (i == which)
            found = v;
    }
    assert_true(!c->reader.bad && c->reader.p == c->reader.end);
    return found;
}
