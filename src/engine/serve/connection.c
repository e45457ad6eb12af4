/*
 * connection.c
 *     Sends replies to a client without blocking, and keeps track of its requests and pinned adapters.
 */
#include "connection.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "engine/base/alloc.h"
#include "engine/base/clock.h"
#include "engine/base/log.h"

ia3_connection *
ia3_connection_create(int fd, uint64_t id)
{
    ia3_connection *c = ia3_alloc(sizeof *c);
    c->fd = fd;
    c->id = id;
    c->out_tail = &c->out;
    c->last_in = c->last_out = ia3_now();
    return c;
}

static void
drop_first(ia3_connection *c)
{
    ia3_outgoing *o = c->out;
    c->unsent -= o->len - o->sent;
    c->out = o->next;
    if (c->out == NULL)
        c->out_tail = &c->out;
    free(o->data);
    free(o);
}

void
ia3_connection_free(ia3_connection *c)
{
    close(c->fd);
    while (c->out)
        drop_first(c);
    ia3_frame_reader_clear(&c->in);
    free(c->pins);
    free(c);
}

void
ia3_connection_flush(ia3_connection *c)
{
    while (c->out && !c->broken) {
        ia3_outgoing *o = c->out;
        ssize_t n = send(c->fd, o->data + o->sent, o->len - o->sent, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0) {
            c->broken = errno != EAGAIN && errno != EWOULDBLOCK;
            return;
        }
        o->sent += (size_t) n;
        c->unsent -= (size_t) n;
        c->last_out = ia3_now();
        if (o->sent == o->len)
            drop_first(c);
    }
}

void
ia3_connection_send(ia3_connection *c, ia3_writer *w)
{
    if (c->out == NULL)
        c->last_out = ia3_now(); /* IA3_STALL_SECONDS count from the first waiting byte */
    ia3_outgoing *o = ia3_alloc(sizeof *o);
    o->data = w->data;
    o->len = w->len;
    *w = (ia3_writer){0};
    *c->out_tail = o;
    c->out_tail = &o->next;
    c->unsent += o->len;
    ia3_connection_flush(c);
}

/* Logs at most one line per second, so that a client that keeps retrying does not fill the server log. */
static void
log_protocol_error(const ia3_connection *c, const ia3_error *err)
{
    static double last = -1; /* used only by the I/O thread */
    static int suppressed;
    if (ia3_now() - last < 1) {
        suppressed++;
        return;
    }
    char more[48] = "";
    if (suppressed > 0)
        snprintf(more, sizeof more, " (and %d earlier errors)", suppressed);
    ia3_log(IA3_LOG_WARNING, "protocol error by client \"%s\": %s%s", c->client, err->message, more);
    last = ia3_now();
    suppressed = 0;
}

void
ia3_connection_error(ia3_connection *c, uint32_t request, const ia3_error *err)
{
    ia3_writer w = {0};
    ia3_frame_error(&w, request, err);
    ia3_connection_send(c, &w);
    if (err->code == IA3_E_PROTOCOL) {
        log_protocol_error(c, err);
        c->closing = true;
    }
}

void
ia3_connection_add_request(ia3_connection *c, ia3_request *r)
{
    r->connection = c;
    r->client = c->id;
    r->prev = NULL;
    r->next = c->requests;
    if (c->requests)
        c->requests->prev = r;
    c->requests = r;
    c->n_requests++;
}

void
ia3_connection_remove_request(ia3_connection *c, ia3_request *r)
{
    *(r->prev ? &r->prev->next : &c->requests) = r->next;
    if (r->next)
        r->next->prev = r->prev;
    r->connection = NULL;
    c->held -= r->accounted;
    c->n_requests--;
}

void
ia3_connection_pin(ia3_connection *c, ia3_cached_adapter *a)
{
    if (c->n_pins == c->cap_pins) {
        c->cap_pins = c->cap_pins ? 2 * c->cap_pins : 8;
        c->pins = ia3_realloc(c->pins, (size_t) c->cap_pins * sizeof(ia3_cached_adapter *));
    }
    c->pins[c->n_pins++] = a;
    c->pinned_bytes += a->layout->n_values * sizeof(float); /* what the client sent; not weights made of it */
}

void
ia3_connection_unpin(ia3_connection *c, ia3_adapter_cache *cache)
{
    for (int i = 0; i < c->n_pins; i++)
        ia3_adapter_cache_release(cache, c->pins[i]);
    c->n_pins = 0;
    c->pinned_bytes = 0;
}
