/*
 * frame.h
 *     Extracts frames from a byte stream, and builds frames to be sent (protocol.h). It does not use sockets.
 */
#ifndef IA3_FRAME_H
#define IA3_FRAME_H

#include "common/wire.h"
#include "engine/base/error.h"

/* A complete incoming frame. `data` is malloc'd, never NULL, and belongs to the receiver. */
typedef struct ia3_frame {
    uint8_t type;
    uint32_t request;
    uint8_t *data; /* payload */
    size_t len;
} ia3_frame;

/* A frame being received. Its buffer grows with the bytes that arrive, not with the announced length. */
typedef struct ia3_frame_reader {
    uint8_t header[IA3_FRAME_HEADER];
    size_t have; /* bytes of the header received so far */
    uint8_t *data;
    size_t len, cap, want;
    bool skipping; /* there was no memory for this frame, so its bytes are discarded */
} ia3_frame_reader;

typedef enum ia3_frame_status {
    IA3_FRAME_MORE,     /* all bytes are consumed, but the frame is not complete */
    IA3_FRAME_COMPLETE, /* *frame is filled in; there may be bytes left */
    IA3_FRAME_BAD, /* the length is not in 5 .. IA3_MAX_FRAME, so the stream cannot be read any further */
    IA3_FRAME_NO_MEMORY /* a whole frame was skipped; type and request of *frame are set, data is NULL */
} ia3_frame_status;

/* Consumes bytes (advancing *p and decreasing *n) until a frame is complete or no bytes are left. */
ia3_frame_status ia3_frame_feed(ia3_frame_reader *f, const uint8_t **p, size_t *n, ia3_frame *frame);
void ia3_frame_reader_clear(ia3_frame_reader *f);
/* Memory that the unfinished frame takes, in bytes. */
size_t ia3_frame_held(const ia3_frame_reader *f);

/* Begins an outgoing frame; the payload is added by ia3_put_...(). The writer's data is malloc'd. */
void ia3_frame_begin(ia3_writer *w, Ia3Message type, uint32_t request);
/* Completes the frame by setting its length. Above IA3_MAX_FRAME, an ERROR frame (IA3_E_TOO_LONG) replaces it. */
void ia3_frame_finish(ia3_writer *w);

/* Write an error as in the payload of ERROR or a failed row (code, message, detail, hint), and a whole ERROR frame. */
void ia3_put_error(ia3_writer *w, const ia3_error *err);
void ia3_frame_error(ia3_writer *w, uint32_t request, const ia3_error *err);

#endif
