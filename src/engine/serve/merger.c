/*
 * merger.c
 *     Handles MERGE requests on a thread of its own.
 *
 * Locking: the mutex protects the list and `stop`. A request in the list or being merged belongs to this thread until
 * it is posted as DONE. Of the model, the thread only reads the layout, which never changes.
 */
#include "merger.h"

#include <stdlib.h>
#include <string.h>

#include "engine/base/alloc.h"
#include "engine/base/clock.h"
#include "engine/base/log.h"
#include "engine/files/merge.h"

struct ia3_merger {
    ia3_server *server;
    pthread_mutex_t lock;
    pthread_cond_t arrived;
    pthread_t thread;
    bool started, stop;
    ia3_request *first, **last; /* linked through lane_next */
};

ia3_merger *
ia3_merger_create(ia3_server *s)
{
    ia3_merger *m = ia3_alloc(sizeof *m);

    m->server = s;
    m->last = &m->first;
    pthread_mutex_init(&m->lock, NULL);
    pthread_cond_init(&m->arrived, NULL);
    return m;
}

ia3_request *
ia3_merger_parse(const ia3_frame *frame, ia3_error *err)
{
    ia3_reader in = {.p = frame->data, .end = frame->data + frame->len};
    size_t n_method, n_adapter, n_directory;
    const char *method = ia3_get_str(&in, &n_method);
    const char *adapter = ia3_get_str(&in, &n_adapter);
    const char *directory = ia3_get_str(&in, &n_directory);

    if (in.bad || in.p != in.end)
        ia3_fail(err, IA3_E_PROTOCOL, "malformed MERGE message");
    else if (n_directory == 0 || n_directory >= PATH_MAX || memchr(directory, '\0', n_directory) != NULL)
        ia3_fail(err, IA3_E_INVALID, "directory name is empty, too long or contains a zero byte");
    if (err->code != 0) {
        free(frame->data);
        return NULL;
    }

    ia3_request *r = ia3_alloc(sizeof *r);

    r->type = IA3_MERGE;
    r->id = frame->request;
    r->frame = frame->data;
    r->frame_len = r->bytes = frame->len;
    r->arrived = ia3_now();
    atomic_init(&r->cancelled, false);
    r->merge.method = (ia3_span){method, (uint32_t) n_method};
    r->merge.adapter = (ia3_span){adapter, (uint32_t) n_adapter};
    r->merge.directory = (ia3_span){directory, (uint32_t) n_directory};
    return r;
}

/* The adapter's values, malloc'd, and its layout, which its tensors tell; NULL is an error. */
static float *
read_adapter(const ia3_server *s, const ia3_request *r, const ia3_layout **layout, ia3_error *err)
{
    const ia3_method *method =
        ia3_method_require(ia3_model_methods(s->model), r->merge.method.data, r->merge.method.len, err);

    if (method == NULL)
        return NULL;
    if (method->merge_suffix != NULL)
        return ia3_adapter_parse_any(ia3_model_layouts(s->model), (const uint8_t *) r->merge.adapter.data,
                                     r->merge.adapter.len, layout, err);
    ia3_fail(err, IA3_E_UNSUPPORTED, "only adapters of the method %s can be merged into the weights",
             ia3_model_layout(s->model)->variant.method->name);
    ia3_fail_hint(err, "Use ia3_export instead.");
    return NULL;
}

static void
run(ia3_merger *m, ia3_request *r)
{
    ia3_server *s = m->server;
    char directory[PATH_MAX];
    const ia3_layout *layout = NULL;
    float *values = read_adapter(s, r, &layout, &r->error);
    double started = ia3_now();

    memcpy(directory, r->merge.directory.data, r->merge.directory.len);
    directory[r->merge.directory.len] = '\0';
    if (values != NULL && layout->members > 1) {
        ia3_fail(&r->error, IA3_E_UNSUPPORTED, "an ensemble cannot be merged into the weights");
        ia3_fail_hint(&r->error, "Train one of its members alone, with its seed.");
    } else if (values != NULL && !atomic_load(&r->cancelled) &&
               ia3_merge(s->path, s->digest, &layout->variant, values, directory, &r->cancelled, &r->error))
        ia3_log(IA3_LOG_LOG, "merged checkpoint written to \"%s\" in %.1f s", directory, ia3_now() - started);
    free(values);
    ia3_layout_release(layout);
}

static void *
merger_main(void *arg)
{
    ia3_merger *m = arg;

    for (;;) {
        pthread_mutex_lock(&m->lock);
        while (m->first == NULL && !m->stop)
            pthread_cond_wait(&m->arrived, &m->lock);

        ia3_request *r = m->first;

        if (r != NULL) {
            m->first = r->lane_next;
            if (m->first == NULL)
                m->last = &m->first;
        }
        pthread_mutex_unlock(&m->lock);
        if (r == NULL)
            return NULL;
        run(m, r);
        ia3_queue_post(m->server->queue, &(ia3_event){.kind = IA3_EVENT_DONE, .request = r});
    }
}

void
ia3_merger_add(ia3_merger *m, ia3_request *r)
{
    if (!m->started) {
        int rc = pthread_create(&m->thread, NULL, merger_main, m);

        if (rc != 0) {
            ia3_fail(&r->error, IA3_E_MEMORY, "could not start a thread: %s", strerror(rc));
            ia3_queue_post(m->server->queue, &(ia3_event){.kind = IA3_EVENT_DONE, .request = r});
            return;
        }
        m->started = true;
    }
    pthread_mutex_lock(&m->lock);
    r->lane_next = NULL;
    *m->last = r;
    m->last = &r->lane_next;
    pthread_cond_signal(&m->arrived);
    pthread_mutex_unlock(&m->lock);
}

bool
ia3_merger_stop(ia3_merger *m, const struct timespec *until)
{
    pthread_mutex_lock(&m->lock);
    m->stop = true;
    pthread_cond_signal(&m->arrived);
    pthread_mutex_unlock(&m->lock);
    return !m->started || pthread_clockjoin_np(m->thread, NULL, CLOCK_MONOTONIC, until) == 0;
}

void
ia3_merger_free(ia3_merger *m)
{
    pthread_cond_destroy(&m->arrived);
    pthread_mutex_destroy(&m->lock);
    free(m);
}
