/*
 * event_loop.h
 *     What the parts of the I/O thread share: the loop and its sockets (io.c), the messages (dispatch.c).
 */
#ifndef IA3_IO_H
#define IA3_IO_H

#include "connection.h"
#include "serve.h"

/* Memory of requests beyond which clients that hold a lot already are not read from. */
#define IA3_REQUEST_MEMORY ((size_t) 256 << 20)
/* A client may always hold this much, so that large requests of others do not shut it out. */
#define IA3_SMALL_SHARE ((size_t) 1 << 20)
/* What adapters one connection may keep from being evicted. */
#define IA3_MAX_PINNED ((size_t) 2 << 30)

typedef struct ia3_io {
    ia3_server *server;
    ia3_request_context context; /* once ready */
    int epoll_fd, listen_fd, signal_fd;
    bool ready, stop;
    bool draining;       /* SIGUSR1: nobody new is served */
    char drain_line[64]; /* what the supervisor was last told about it */
    int status;          /* exit status */
    ia3_connection *connections;
    int n_connections, max_connections;
    uint64_t next_id;
    ia3_request *preparing, **preparing_tail; /* linked through next_prepare */
    ia3_request *orphans;                     /* their connections are gone, the compute thread has them */
    size_t request_bytes;
    uint8_t *scratch;
} ia3_io;

/* dispatch.c */
/* Handles one complete frame; takes ownership of its data. */
void ia3_io_frame(ia3_io *io, ia3_connection *c, ia3_frame *frame);
/* Tokenizes for a few milliseconds. */
void ia3_io_prepare(ia3_io *io);
/* A request is finished: answers and frees it. */
void ia3_io_complete(ia3_io *io, ia3_request *r);
/* Cancels all that a connection asked for; afterwards it has no requests and no pins. */
void ia3_io_forget(ia3_io *io, ia3_connection *c);
/* Sends PROGRESS, unless the client is not reading. */
void ia3_io_progress(const ia3_event *event);

#endif
