/*
 * engine_client.h
 *     Starts an engine and communicates with it, for tests. All calls block, and any failure fails the running test.
 */
#ifndef IA3_ENGINE_CLIENT_H
#define IA3_ENGINE_CLIENT_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include "common/protocol.h"
#include "common/wire.h"

typedef struct test_engine {
    pid_t pid;
    char dir[64], socket[100];
    int status_fd, death_fd; /* our ends */
    char last_status[1024];  /* the last line: "ready" or "failed ..." */
    int loading_lines;
} test_engine;

/* The path of the engine: $IA3_ENGINE, else that of the build which the running test belongs to, else ./ia3_engine. */
void test_engine_path(char *path, size_t size);

/*
 * Starts the engine as `serve` with the extra arguments (NULL-terminated) and waits for "ready" or "failed". Returns
 * true if it is ready. Set IA3_TEST_VERBOSE to see its log.
 */
bool test_engine_start(test_engine *e, const char *backbone, const char *const *extra);
/* Stops the engine by SIGTERM or by closing the death pipe, removes its directory, and returns its wait status. */
int test_engine_stop(test_engine *e, bool by_signal);

typedef struct test_client {
    int fd;
    uint32_t last_request;
    ia3_writer out;
    uint8_t *in; /* the last reply */
    uint8_t type;
    uint32_t request;
    ia3_reader reader; /* its payload */
} test_client;

void test_client_connect(test_client *c, const test_engine *e); /* no HELLO */
void test_client_open(test_client *c, const test_engine *e);    /* with HELLO */
void test_client_close(test_client *c);

ia3_writer *test_begin(test_client *c, uint8_t type);
uint32_t test_send(test_client *c); /* returns the request number */
void test_send_raw(test_client *c, const void *bytes, size_t n);
/* Waits for a frame (60 s); false at end of file. */
bool test_receive(test_client *c);
/* Sends the request and receives the reply; skips PROGRESS frames; sets *progress (may be NULL) to their number. */
uint8_t test_call(test_client *c, int *progress);

/* Reads the ERROR that was received and checks its code; the texts are in static buffers. */
typedef struct test_error {
    uint32_t code;
    char message[600], detail[600], hint[300];
} test_error;
test_error test_get_error(ia3_reader *r);
void test_put_text(ia3_writer *w, const char *s);

/* The value of a counter. */
double test_stat(test_client *c, int which);

#endif
