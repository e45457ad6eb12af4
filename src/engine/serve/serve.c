/*
 * serve.c
 *     Starts and stops the server process, and loads the backbone.
 */
#include "serve.h"

#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "engine/base/alloc.h"
#include "engine/base/clock.h"
#include "engine/base/log.h"
#include "engine/files/directory.h"
#include "engine/model/methods/methods.h"
#include "event_loop.h"
#include "long_texts.h"
#include "errands.h"

#define STOP_SECONDS 2 /* how long a shutdown waits for the current batch */

/* Progress of loading. Reading the weights and hashing them take about the same time. */
typedef struct ia3_loading {
    ia3_server *server;
    void (*progress)(ia3_server *s, int percent);
    double from, to;
    int last;
    double reported; /* time of the last report */
} ia3_loading;

static void
loading_progress(double fraction, void *arg)
{
    ia3_loading *l = arg;
    int percent = (int) (l->from + (l->to - l->from) * fraction);
    double now = ia3_now();
    if (percent > l->last && percent <= 100 && (now - l->reported >= 0.1 || percent == 100)) {
        l->last = percent;
        l->reported = now;
        l->progress(l->server, percent);
    }
}

static void
no_progress(ia3_server *s, int percent)
{
    (void) s;
    (void) percent;
}

static bool
open_device(ia3_server *s, const char *spec, const ia3_checkpoint *ck, ia3_loading *l, ia3_error *err)
{
    const ia3_options *o = s->options;
    s->device = ia3_device_open(spec, o->dtype, o->threads, o->memory_limit, err);
    if (s->device)
        s->model = ia3_model_load(ck, s->device, ia3_methods, loading_progress, l, err);
    return s->model != NULL;
}

/* Opens the device and loads the weights. With "auto", falls back to the CPU if the GPU cannot hold them. */
static bool
load_weights(ia3_server *s, const ia3_checkpoint *ck, ia3_loading *l, ia3_error *err)
{
    const char *spec = s->options->device;
    ia3_error why = {0};
    char reason[1300];
    if (open_device(s, spec, ck, l, &why))
        return true;
    if (strcmp(spec, "auto") != 0 || s->device == NULL || strcmp(s->device->name, "cpu") == 0 ||
        why.code == IA3_E_BAD_CHECKPOINT) {
        *err = why;
        return false;
    }
    ia3_error_join(&why, reason, sizeof reason);
    ia3_log(IA3_LOG_LOG, "device \"auto\" uses the CPU instead of %s: %s", s->device->name, reason);
    s->device->ops->close(s->device);
    s->device = NULL;
    return open_device(s, "cpu", ck, l, err);
}

/* Whether the backbone is the one that the options ask for, if they do. */
static bool
is_expected(const ia3_server *s, ia3_error *err)
{
    char hex[2 * IA3_DIGEST_LEN + 1];
    for (int i = 0; i < IA3_DIGEST_LEN; i++)
        snprintf(hex + (size_t) 2 * i, 3, "%02x", s->digest[i]);
    if (s->options->sha256 == NULL || strcmp(s->options->sha256, hex) == 0)
        return true;
    ia3_fail(err, IA3_E_BAD_CHECKPOINT, "the backbone's digest is not the one that is expected");
    ia3_fail_detail(err, "The digest is %s, and %s is expected, of \"%s\".", hex, s->options->sha256,
                    s->path);
    return ia3_fail_hint(err, "Use the same files on every server.");
}

bool
ia3_server_load(ia3_server *s, void (*progress)(ia3_server *s, int percent), ia3_error *err)
{
    const ia3_options *o = s->options;
    ia3_loading l = {
        .server = s, .progress = progress ? progress : no_progress, .from = 0, .to = 60, .last = -1};
    if (!ia3_directory_find(o->backbone, s->path, err))
        return false;
    ia3_checkpoint *ck = ia3_checkpoint_open(s->path, err);
    if (ck == NULL)
        return false;
    loading_progress(0, &l);
    s->tokenizer = ia3_tokenizer_open(s->path, ia3_checkpoint_config(ck)->vocab_size, err);
    ia3_digest *digest =
        ia3_digest_begin(ck, o->threads > 0 ? o->threads : (int) sysconf(_SC_NPROCESSORS_ONLN));
    bool ok = s->tokenizer && load_weights(s, ck, &l, err);
    if (ok) {
        ia3_model_set_tokenizer(s->model, s->tokenizer);
        ia3_model_set_checkpoint(s->model, ck);
    }
    l.from = 60;
    l.to = 100;
    ok = ia3_digest_end(digest, ok ? s->digest : NULL, loading_progress, &l, err) && ok;
    ok = ok && ia3_checkpoint_unchanged(ck, err) && is_expected(s, err);
    s->checkpoint = ck;
    return ok;
}

void
ia3_server_unload(ia3_server *s)
{
    if (s->model)
        ia3_model_free(s->model);
    if (s->device)
        s->device->ops->close(s->device);
    if (s->tokenizer)
        ia3_tokenizer_close(s->tokenizer);
    ia3_checkpoint_close(s->checkpoint);
    s->checkpoint = NULL;
    s->model = NULL;
    s->device = NULL;
    s->tokenizer = NULL;
}

void
ia3_volunteer_to_oom_killer(void)
{
    int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
    if (fd < 0)
        return;
    ssize_t ignored = write(fd, "1000\n", 5);
    (void) ignored;
    close(fd);
}

static void
raise_descriptor_limit(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0)
        return;
    rlim_t want = limit.rlim_max == RLIM_INFINITY || limit.rlim_max > 65536 ? 65536 : limit.rlim_max;
    if (limit.rlim_cur < want) {
        limit.rlim_cur = want;
        setrlimit(RLIMIT_NOFILE, &limit);
    }
}

int
ia3_serve(const ia3_options *options)
{
    ia3_server *s = ia3_alloc(sizeof *s);
    s->options = options;
    if (options->death_fd >= 0) /* we were started by a supervisor and must not outlive it */
        prctl(PR_SET_PDEATHSIG, SIGTERM);
    ia3_volunteer_to_oom_killer();
    /* Large blocks go back to the system when they are freed; glibc would raise this limit by itself. */
    mallopt(M_MMAP_THRESHOLD, 1 << 20);
    raise_descriptor_limit();
    signal(SIGPIPE, SIG_IGN);

    /* Block these signals before any thread exists, so that all inherit this; the event loop uses a signalfd. */
    sigset_t mask;
    sigemptyset(&mask);
    sigaddset(&mask, SIGTERM);
    sigaddset(&mask, SIGINT);
    sigaddset(&mask, SIGUSR1);
    pthread_sigmask(SIG_BLOCK, &mask, NULL);

    ia3_stats_init(&s->stats);
    s->wake_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    s->queue = ia3_queue_create(s->wake_fd, options->max_batch_tokens, &s->stats);
    s->errands = ia3_errands_create(s);
    s->long_texts = ia3_long_texts_create(s);
    pthread_t compute;
    int rc = s->wake_fd < 0 ? errno : pthread_create(&compute, NULL, ia3_compute_main, s);
    if (rc == 0)
        pthread_setname_np(compute, "ia3 compute");
    if (rc != 0) {
        ia3_log(IA3_LOG_ERROR, "could not start the compute thread: %s", strerror(rc));
        return 1;
    }
    int status = ia3_io_run(s);

    /* Do not wait long for the current batch; the end of the process releases everything. */
    ia3_queue_stop(s->queue);
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += STOP_SECONDS;
    if (!ia3_errands_stop(s->errands, &until) || !ia3_long_texts_stop(s->long_texts, &until) ||
        pthread_clockjoin_np(compute, NULL, CLOCK_MONOTONIC, &until) != 0)
        _exit(status);
    ia3_io_free(s);
    ia3_errands_free(s->errands);
    ia3_long_texts_free(s->long_texts);
    ia3_server_unload(s);
    ia3_queue_free(s->queue);
    ia3_stats_destroy(&s->stats);
    close(s->wake_fd);
    free(s);
    return status;
}
