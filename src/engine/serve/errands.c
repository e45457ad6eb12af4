/*
 * errands.c
 *     Carries out requests that need no device and take long, on a thread of their own.
 *
 * Locking: the mutex protects the list and `stop`. A request in the list or being carried out belongs to this thread until
 * it is posted as DONE. Of the model, the thread only reads the layout, which never changes.
 */
#include "errands.h"

#include <stdlib.h>
#include <string.h>

#include "engine/base/alloc.h"
#include "baseline.h"
#include "merger.h"

struct ia3_errands {
    ia3_server *server;
    pthread_mutex_t lock;
    pthread_cond_t arrived;
    pthread_t thread;
    bool started, stop;
    ia3_request *first, **last; /* linked through lane_next */
};

ia3_errands *
ia3_errands_create(ia3_server *s)
{
    ia3_errands *m = ia3_alloc(sizeof *m);

    m->server = s;
    m->last = &m->first;
    pthread_mutex_init(&m->lock, NULL);
    pthread_cond_init(&m->arrived, NULL);
    return m;
}

static void *
errands_main(void *arg)
{
    ia3_errands *m = arg;

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
        if (r->type == IA3_MERGE)
            ia3_merger_run(m->server, r);
        else
            ia3_baseline_run(r);
        ia3_queue_post(m->server->queue, &(ia3_event){.kind = IA3_EVENT_DONE, .request = r});
    }
}

void
ia3_errands_add(ia3_errands *m, ia3_request *r)
{
    if (!m->started) {
        int rc = pthread_create(&m->thread, NULL, errands_main, m);

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
ia3_errands_stop(ia3_errands *m, const struct timespec *until)
{
    pthread_mutex_lock(&m->lock);
    m->stop = true;
    pthread_cond_signal(&m->arrived);
    pthread_mutex_unlock(&m->lock);
    return !m->started || pthread_clockjoin_np(m->thread, NULL, CLOCK_MONOTONIC, until) == 0;
}

void
ia3_errands_free(ia3_errands *m)
{
    pthread_cond_destroy(&m->arrived);
    pthread_mutex_destroy(&m->lock);
    free(m);
}
