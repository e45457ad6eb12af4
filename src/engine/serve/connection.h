/*
 * connection.h
 *     One client: its socket, the frame it is sending, the replies it has not read, what it has asked for.
 *     The I/O thread's own.
 */
#ifndef IA3_CONNECTION_H
#define IA3_CONNECTION_H

#include "frame.h"
#include "request.h"

/* A client with this many bytes of unread replies, or so many requests under way, is not read from. */
#define IA3_MAX_UNSENT      ((size_t) 4 << 20)
#define IA3_MAX_OUTSTANDING 256
/* A client that reads none of its waiting replies for this long is dropped (seconds). */
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
    bool closing; /* what is queued is still sent, nothing more is read */
    bool broken;  /* to be closed at once */
    bool reading; /* registered for input */
    bool writing; /* registered for output */
    ia3_frame_reader in;
    double last_in, last_out; /* when bytes last moved */
    ia3_outgoing *out, **out_tail;
    size_t unsent;
    ia3_request *requests; /* outstanding */
    int n_requests;
    size_t held; /* memory of the outstanding requests */
    /* Adapters that were put, or were found while others were missing: kept until the next answer. */
    ia3_cached_adapter **pins;
    int n_pins, cap_pins;
    size_t pinned_bytes;
} ia3_connection;

ia3_connection *ia3_connection_create(int fd, uint64_t id);
/* Closes the socket and frees everything but requests (there must be none) and pins (released before). */
void ia3_connection_free(ia3_connection *c);

/* Queues the writer's frame, taking its buffer, and sends what the socket takes now. */
void ia3_connection_send(ia3_connection *c, ia3_writer *w);
/* Sends more; sets broken when the peer is gone. */
void ia3_connection_flush(ia3_connection *c);
/* Answers with an ERROR frame; IA3_E_PROTOCOL also ends the connection. */
void ia3_connection_error(ia3_connection *c, uint32_t request, const ia3_error *err);

void ia3_connection_add_request(ia3_connection *c, ia3_request *r);
void ia3_connection_remove_request(ia3_connection *c, ia3_request *r);
void ia3_connection_pin(ia3_connection *c, ia3_cached_adapter *a); /* takes over the caller's reference */
void ia3_connection_unpin(ia3_connection *c, ia3_adapter_cache *cache);

#endif
