/*
 * frame.h
 *     Frames out of a byte stream, and frames to be sent (protocol.h). No sockets here.
 */
#ifndef IA3_FRAME_H
#define IA3_FRAME_H

#include "common/wire.h"
#include "engine/base/error.h"

/* A complete incoming frame. `data` is malloc'd (never NULL) and belongs to whoever received it. */
typedef struct ia3_frame {
    uint8_t type;
    uint32_t request;
    uint8_t *data; /* payload */
    size_t len;
} ia3_frame;

/* The frame being assembled. The buffer grows with the bytes that arrive, not with the length announced. */
typedef struct ia3_frame_reader {
    uint8_t header[IA3_FRAME_HEADER];
    size_t have; /* bytes of the header */
    uint8_t *data;
    size_t len, cap, want;
    bool skipping; /* no memory for this one: its bytes are thrown away */
} ia3_frame_reader;

typedef enum ia3_frame_status {
    IA3_FRAME_MORE,     /* all bytes consumed, the frame is not complete */
    IA3_FRAME_COMPLETE, /* *frame is filled; there may be bytes left */
    IA3_FRAME_BAD,      /* a length outside 5 .. IA3_MAX_FRAME: the stream cannot be followed any further */
    IA3_FRAME_NO_MEMORY /* a whole frame was skipped; type and request of *frame are set, data is NULL */
} ia3_frame_status;

/* Consumes bytes from *p (advancing *p, lowering *n) until a frame is complete or they are used up. */
ia3_frame_status ia3_frame_feed(ia3_frame_reader *f, const uint8_t **p, size_t *n, ia3_frame *frame);
void ia3_frame_reader_clear(ia3_frame_reader *f);
/* Memory that the unfinished frame holds. */
size_t ia3_frame_held(const ia3_frame_reader *f);

/* An outgoing frame: begin, ia3_put_...(), finish. The writer's data is malloc'd. */
void ia3_frame_begin(ia3_writer *w, Ia3Message type, uint32_t request);
/* Sets the length. A frame above IA3_MAX_FRAME is replaced by an ERROR frame (IA3_E_TOO_LONG). */
void ia3_frame_finish(ia3_writer *w);

/* The payload of an ERROR and of a failed row: code, message, detail, hint. */
void ia3_put_error(ia3_writer *w, const ia3_error *err);
void ia3_frame_error(ia3_writer *w, uint32_t request, const ia3_error *err);

#endif
