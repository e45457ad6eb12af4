/*
 * event_loop.h
 *     The I/O thread: its state, and the functions of its event loop (event_loop.c) and of its message handlers
 *     (dispatch.c).
 */
#ifndef IA3_EVENT_LOOP_H
#define IA3_EVENT_LOOP_H

#include "connection.h"
#include "engine/base/heartbeat.h"
#include "serve.h"

/* If the requests take more memory than this, the engine does not read from clients with a large share of it. */
#define IA3_REQUEST_MEMORY ((size_t) 256 << 20)
/* Each client may always use this much, so that large requests of others do not block it. */
#define IA3_SMALL_SHARE ((size_t) 1 << 20)
/* How many bytes of adapters one connection may protect from eviction. */
#define IA3_MAX_PINNED ((size_t) 2 << 30)

typedef struct ia3_io {
    ia3_server *server;
    ia3_request_context context; /* once ready */
    int epoll_fd, listen_fd, signal_fd;
    bool ready, stop;
    bool draining;       /* after SIGUSR1: no new clients or requests are accepted */
    char drain_line[64]; /* the last "draining" line that was sent to the supervisor */
    int status;          /* exit status */
    ia3_connection *connections;
    int n_connections, max_connections;
    uint64_t next_id;
    ia3_request_list small, large; /* those that are being tokenized; small ones take little time */
    ia3_request *orphans;          /* without a connection, but still with another thread */
    size_t request_bytes;
    double trim_at; /* when to give memory back to the system; 0 = not */
    double accept_at,
        complain_at; /* while no client can be accepted: when to try again; when to log it again */
    uint8_t *scratch;
    ia3_heartbeat_seen heartbeat; /* what the supervisor was told last */
} ia3_io;

/* event_loop.c */
/* Runs the event loop. Returns the exit status; sockets are then closed and unlinked. */
int ia3_io_run(ia3_server *s);
/* Frees the memory of requests, caches and connections after the compute thread has ended. */
void ia3_io_free(ia3_server *s);

/* dispatch.c */
/* Handles one complete frame; takes ownership of its data. */
void ia3_io_frame(ia3_io *io, ia3_connection *c, ia3_frame *frame);
/* Tokenizes for about 4 ms, small requests first. Called once per turn of the event loop. */
void ia3_io_prepare(ia3_io *io);
/* Takes back a request from the thread for long texts. */
void ia3_io_prepared(ia3_io *io, ia3_request *r);
/* Replies to a finished request and frees it. */
void ia3_io_complete(ia3_io *io, ia3_request *r);
/* Cancels all requests of a connection; afterwards it has no requests and no pins. */
void ia3_io_forget(ia3_io *io, ia3_connection *c);
/* Sends PROGRESS, unless the client has too many unread replies (IA3_MAX_UNSENT). */
void ia3_io_progress(const ia3_event *event);

#endif
