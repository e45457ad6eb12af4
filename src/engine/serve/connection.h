/*
 * connection.h
 *     One client: its socket, the frame that it is sending, the replies that it has not read, and its requests. Only
 *     the I/O thread uses it.
 */
#ifndef IA3_CONNECTION_H
#define IA3_CONNECTION_H

#include "frame.h"
#include "request.h"

/* The engine does not read from a client with more bytes of unread replies or as many outstanding requests. */
#define IA3_MAX_UNSENT      ((size_t) 4 << 20)
#define IA3_MAX_OUTSTANDING 256
/* A client that reads none of its waiting replies for this long (in seconds) is disconnected. */
#define IA3_STALL_SECONDS 60.0

typedef struct ia3_outgoing {
    struct ia3_outgoing *next;
    uint8_t *data;
    size_t len, sent;
} ia3_outgoing;

typedef struct ia3_connection {
    struct ia3_connection *prev, *next;
    int fd;
    uint64_t id;
    char client[64];
    bool greeted;
    bool closing; /* queued replies are still sent, but nothing more is read */
    bool broken;  /* must be closed at once */
    bool reading; /* registered for input */
    bool writing; /* registered for output */
    ia3_frame_reader in;
    double last_in, last_out; /* when bytes last moved */
    ia3_outgoing *out, **out_tail;
    size_t unsent;
    ia3_request *requests; /* outstanding */
    int n_requests;
    size_t held; /* memory of the outstanding requests, in bytes */
    /* Adapters from PUT_ADAPTER, or found while others were missing; they stay in the cache until the next reply. */
    ia3_cached_adapter **pins;
    int n_pins, cap_pins;
    size_t pinned_bytes;
} ia3_connection;

ia3_connection *ia3_connection_create(int fd, uint64_t id);
/* Closes the socket and frees the connection, which must have no requests and no pins. */
void ia3_connection_free(ia3_connection *c);

/* Queues the writer's frame, taking over its buffer, and sends as much as possible without blocking. */
void ia3_connection_send(ia3_connection *c, ia3_writer *w);
/* Sends as much of the queue as possible without blocking; sets `broken` if the peer is gone. */
void ia3_connection_flush(ia3_connection *c);
/* Replies with an ERROR frame; with IA3_E_PROTOCOL it also begins to close the connection. */
void ia3_connection_error(ia3_connection *c, uint32_t request, const ia3_error *err);

void ia3_connection_add_request(ia3_connection *c, ia3_request *r);
void ia3_connection_remove_request(ia3_connection *c, ia3_request *r);
void ia3_connection_pin(ia3_connection *c, ia3_cached_adapter *a); /* takes over the caller's reference */
void ia3_connection_unpin(ia3_connection *c, ia3_adapter_cache *cache);

#endif
