/*
 * serve.h
 *     The engine as a server: `ia3_engine serve`. protocol.h describes how the supervisor starts it and communicates
 *     with it.
 *
 * There are two threads, a third once there was a long text (long_texts.h) and a fourth once a checkpoint was merged
 * (errands.h). The I/O thread, which is the process's main thread, does all input and output (event_loop.c) and
 * tokenizes short texts. The compute thread (compute_thread.c) loads the backbone and makes all calls that use the device.
 * They communicate only through queue.h.
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
    /* set by the compute thread before it posts IA3_EVENT_READY, constant afterwards */
    char path[PATH_MAX];
    uint8_t digest[IA3_DIGEST_LEN];
    ia3_device *device;
    ia3_model *model;
    ia3_tokenizer *tokenizer;
    ia3_checkpoint *checkpoint; /* stays open for methods that replace weights */
    struct ia3_io *io;          /* used only by the I/O thread */
    struct ia3_errands *errands;
    struct ia3_long_texts *long_texts;
} ia3_server;

/*
 * Runs until SIGTERM, SIGINT or the end of the death pipe, or after SIGUSR1 until all requests have been answered.
 * Returns the exit status.
 */
int ia3_serve(const ia3_options *options);

/* Opens the checkpoint, device, model and tokenizer according to the options; progress is called with 0 to 100. */
bool ia3_server_load(ia3_server *s, void (*progress)(ia3_server *s, int percent), ia3_error *err);
void ia3_server_unload(ia3_server *s);

/* Lets Linux kill this process first when the machine runs out of memory, so that the database survives. */
void ia3_volunteer_to_oom_killer(void);

/* The compute thread's main function (compute_thread.c); arg is the ia3_server. */
void *ia3_compute_main(void *arg);

#endif
