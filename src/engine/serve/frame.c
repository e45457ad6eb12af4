/*
 * frame.c
 *     Receives frames piece by piece, and builds frames to be sent.
 */
#include "frame.h"

#include <stdlib.h>

#include "engine/base/alloc.h"

#define FIRST_BUFFER ((size_t) 64 * 1024)

static uint32_t
load_u32(const uint8_t *p)
{
    return (uint32_t) p[0] | (uint32_t) p[1] << 8 | (uint32_t) p[2] << 16 | (uint32_t) p[3] << 24;
}

static void
begin_body(ia3_frame_reader *f, size_t want)
{
    f->want = want;
    f->len = 0;
    f->cap = want < FIRST_BUFFER ? want : FIRST_BUFFER;
    f->data = malloc(f->cap ? f->cap : 1);
    f->skipping = f->data == NULL;
}

/* Makes room for `more` bytes; if there is no memory, the rest of the frame will be skipped. */
static void
grow_body(ia3_frame_reader *f, size_t more)
{
    if (f->skipping || f->cap - f->len >= more)
        return;
    size_t cap = f->cap;
    while (cap - f->len < more)
        cap *= 2;
    if (cap > f->want)
        cap = f->want;
    uint8_t *data = realloc(f->data, cap);
    if (data == NULL) {
        free(f->data);
        f->data = NULL;
        f->cap = 0;
        f->skipping = true;
        return;
    }
    f->data = data;
    f->cap = cap;
}

ia3_frame_status
ia3_frame_feed(ia3_frame_reader *f, const uint8_t **p, size_t *n, ia3_frame *frame)
{
    if (f->have < IA3_FRAME_HEADER) {
        size_t k = IA3_FRAME_HEADER - f->have;
        if (k > *n)
            k = *n;
        memcpy(f->header + f->have, *p, k);
        f->have += k;
        *p += k;
        *n -= k;
        if (f->have >= 4) {
            uint32_t length = load_u32(f->header);
            if (length < 5 || length > IA3_MAX_FRAME)
                return IA3_FRAME_BAD;
        }
        if (f->have < IA3_FRAME_HEADER)
            return IA3_FRAME_MORE;
        begin_body(f, load_u32(f->header) - 5);
    }

    size_t k = f->want - f->len;
    if (k > *n)
        k = *n;
    grow_body(f, k);
    if (!f->skipping && k > 0)
        memcpy(f->data + f->len, *p, k);
    f->len += k;
    *p += k;
    *n -= k;
    if (f->len < f->want)
        return IA3_FRAME_MORE;

    frame->type = f->header[4];
    frame->request = load_u32(f->header + 5);
    frame->data = f->data;
    frame->len = f->want;
    bool skipped = f->skipping;
    f->data = NULL;
    ia3_frame_reader_clear(f);
    return skipped ? IA3_FRAME_NO_MEMORY : IA3_FRAME_COMPLETE;
}

void
ia3_frame_reader_clear(ia3_frame_reader *f)
{
    free(f->data);
    memset(f, 0, sizeof *f);
}

size_t
ia3_frame_held(const ia3_frame_reader *f)
{
    return f->have == IA3_FRAME_HEADER ? f->cap : 0;
}

static uint8_t *
grow(uint8_t *data, size_t len, size_t cap)
{
    (void) len;
    return ia3_realloc(data, cap);
}

void
ia3_frame_begin(ia3_writer *w, Ia3Message type, uint32_t request)
{
    if (w->grow == NULL)
        w->grow = grow;
    w->len = 0;
    ia3_put_u32(w, 0);
    ia3_put_u8(w, (uint8_t) type);
    ia3_put_u32(w, request);
}

void
ia3_frame_finish(ia3_writer *w)
{
    if (w->len - 4 > IA3_MAX_FRAME) {
        ia3_error err = {0};
        ia3_fail(&err, IA3_E_TOO_LONG, "reply of %zu bytes is too large", w->len);
        ia3_fail_hint(&err, "Request fewer rows at a time.");
        ia3_frame_error(w, load_u32(w->data + 5), &err);
        return;
    }
    uint32_t length = (uint32_t) (w->len - 4);
    for (int i = 0; i < 4; i++)
        w->data[i] = (uint8_t) (length >> (8 * i));
}

void
ia3_put_error(ia3_writer *w, const ia3_error *err)
{
    if (w->grow == NULL)
        w->grow = grow;
    ia3_put_u32(w, err->code ? err->code : IA3_E_INTERNAL);
    ia3_put_str(w, err->message, strlen(err->message));
    ia3_put_str(w, err->detail, strlen(err->detail));
    ia3_put_str(w, err->hint, strlen(err->hint));
}

void
ia3_frame_error(ia3_writer *w, uint32_t request, const ia3_error *err)
{
    ia3_frame_begin(w, IA3_ERROR, request);
    ia3_put_error(w, err);
    ia3_frame_finish(w);
}
