/*
 * long_texts.c
 *     Tokenizes long texts on a thread of its own, which begins with the first of them.
 *
 * Locking: the mutex protects the list and `stop`. A request in the list or being tokenized belongs to this thread until
 * it is posted as PREPARED, except for what request.h reserves to other threads.
 */
#include "long_texts.h"

#include <stdlib.h>
#include <string.h>

#include "engine/base/alloc.h"
#include "engine/base/log.h"

struct ia3_long_texts {
    ia3_server *server;
    ia3_request_context *context;
    pthread_mutex_t lock;
    pthread_cond_t arrived;
    pthread_t thread;
    bool started, stop;
    ia3_request_list list;
};

ia3_long_texts *
ia3_long_texts_create(ia3_server *s)
{
    ia3_long_texts *t = ia3_alloc(sizeof *t);
    t->server = s;
    ia3_request_list_init(&t->list);
    pthread_mutex_init(&t->lock, NULL);
    pthread_cond_init(&t->arrived, NULL);
    return t;
}

/* Waits for the next request; NULL when the thread has to end. */
static ia3_request *
next_request(ia3_long_texts *t)
{
    pthread_mutex_lock(&t->lock);
    while (t->list.first == NULL && !t->stop)
        pthread_cond_wait(&t->arrived, &t->lock);
    ia3_request *r = t->stop ? NULL : t->list.first;
    if (r)
        ia3_request_list_remove(&t->list, r);
    pthread_mutex_unlock(&t->lock);
    return r;
}

static void *
long_texts_main(void *arg)
{
    ia3_long_texts *t = arg;
    ia3_request *r;
    while ((r = next_request(t)) != NULL) {
        ia3_request_prepare_long_text(r, t->context);
        ia3_queue_post(t->server->queue, &(ia3_event){.kind = IA3_EVENT_PREPARED, .request = r});
    }
    return NULL;
}

bool
ia3_long_texts_add(ia3_long_texts *t, ia3_request *r, ia3_request_context *x)
{
    if (!t->started) {
        t->context = x;
        int rc = pthread_create(&t->thread, NULL, long_texts_main, t);
        if (rc != 0) {
            ia3_log(IA3_LOG_WARNING, "could not start the thread for long texts: %s", strerror(rc));
            return false;
        }
        pthread_setname_np(t->thread, "ia3 long texts");
        t->started = true;
    }
    r->away = true;
    pthread_mutex_lock(&t->lock);
    ia3_request_list_append(&t->list, r);
    pthread_cond_signal(&t->arrived);
    pthread_mutex_unlock(&t->lock);
    return true;
}

bool
ia3_long_texts_remove(ia3_long_texts *t, ia3_request *r)
{
    pthread_mutex_lock(&t->lock);
    bool found = ia3_request_list_remove(&t->list, r);
    if (found)
        r->away = false;
    pthread_mutex_unlock(&t->lock);
    return found;
}

bool
ia3_long_texts_stop(ia3_long_texts *t, const struct timespec *until)
{
    pthread_mutex_lock(&t->lock);
    t->stop = true;
    pthread_cond_signal(&t->arrived);
    pthread_mutex_unlock(&t->lock);
    return !t->started || pthread_clockjoin_np(t->thread, NULL, CLOCK_MONOTONIC, until) == 0;
}

void
ia3_long_texts_free(ia3_long_texts *t)
{
    pthread_cond_destroy(&t->arrived);
    pthread_mutex_destroy(&t->lock);
    free(t);
}
