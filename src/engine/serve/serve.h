/*
 * serve.h
 *     The engine as a server: `ia3_engine serve` (protocol.h says how it is started and what it tells).
 *
 * There are two threads, and a third one while checkpoints are merged (merger.h). The main thread does all input and
 * output (event_loop.c) and tokenizes; the compute thread (compute_thread.c) loads the backbone and makes every call that
 * touches the device. They meet in queue.h only.
 */
#ifndef IA3_SERVE_H
#define IA3_SERVE_H

#include <limits.h>
#include <pthread.h>

#include "engine/base/stats.h"
#include "engine/files/tokenizer.h"
#include "engine/model/model.h"
#include "options.h"
#include "queue.h"

typedef struct ia3_server {
    const ia3_options *options;
    ia3_queue *queue;
    ia3_stats stats;
    int wake_fd;
    /* Set by the compute thread before it posts IA3_EVENT_READY, constant from then on. */
    char path[PATH_MAX];
    uint8_t digest[IA3_DIGEST_LEN];
    ia3_device *device;
    ia3_model *model;
    ia3_tokenizer *tokenizer;
    struct ia3_io *io; /* the I/O thread's own */
    struct ia3_merger *merger;
} ia3_server;

/*
 * Runs until SIGTERM, SIGINT or the end of the death pipe; after SIGUSR1 until all that was asked for is
 * answered. Returns the exit status.
 */
int ia3_serve(const ia3_options *options);

/* Opens everything the options name (the tokenizer last); progress gets 0..100. Also used by the other commands. */
bool ia3_server_load(ia3_server *s, void (*progress)(ia3_server *s, int percent), ia3_error *err);
void ia3_server_unload(ia3_server *s);

/* The compute thread's main function; arg is the ia3_server. */
void *ia3_compute_main(void *arg);

/* The I/O loop (event_loop.c). Returns the exit status; sockets are closed and unlinked by then. */
int ia3_io_run(ia3_server *s);
/* Frees what requests, caches and connections hold, once the compute thread has ended. */
void ia3_io_free(ia3_server *s);

#endif
