/*
 * wire.h
 *     Reads and writes the payload of a protocol frame (protocol.h).
 *
 * Both the extension (with memory contexts) and the engine (with malloc) use this file. So it includes neither
 * postgres.h nor a header of the engine and never allocates: a writer grows its buffer through a function that its
 * owner provides. Integers are little-endian. A reader never trusts a length: every read is checked against the
 * remaining bytes. The first read beyond the end sets `bad`, and from then on every read returns zero or an empty
 * string, so a caller may read a whole message and test `bad` once.
 */
#ifndef IA3_WIRE_H
#define IA3_WIRE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

typedef struct ia3_writer {
    uint8_t *data;
    size_t len;
    size_t cap;
    /* returns a buffer of at least `cap` bytes with the first `len` bytes of `data`; never NULL */
    uint8_t *(*grow)(uint8_t *data, size_t len, size_t cap);
} ia3_writer;

typedef struct ia3_reader {
    const uint8_t *p;
    const uint8_t *end;
    bool bad;
} ia3_reader;

static inline uint8_t *
ia3_put_room(ia3_writer *w, size_t n)
{
    if (w->cap - w->len < n) {
        size_t cap = w->cap ? w->cap : 256;
        while (cap - w->len < n)
            cap *= 2;
        w->data = w->grow(w->data, w->len, cap);
        w->cap = cap;
    }
    uint8_t *at = w->data + w->len;
    w->len += n;
    return at;
}

static inline void
ia3_put_bytes(ia3_writer *w, const void *src, size_t n)
{
    if (n > 0)
        memcpy(ia3_put_room(w, n), src, n);
}

static inline void
ia3_put_u8(ia3_writer *w, uint8_t v)
{
    *ia3_put_room(w, 1) = v;
}

static inline void
ia3_put_u32(ia3_writer *w, uint32_t v)
{
    uint8_t *p = ia3_put_room(w, 4);
    for (int i = 0; i < 4; i++)
        p[i] = (uint8_t) (v >> (8 * i));
}

static inline void
ia3_put_u64(ia3_writer *w, uint64_t v)
{
    uint8_t *p = ia3_put_room(w, 8);
    for (int i = 0; i < 8; i++)
        p[i] = (uint8_t) (v >> (8 * i));
}

static inline void
ia3_put_f64(ia3_writer *w, double v)
{
    uint64_t u;
    memcpy(&u, &v, sizeof u);
    ia3_put_u64(w, u);
}

/* Writes a string or byte array: u32 length, then the bytes, without a terminator. */
static inline void
ia3_put_str(ia3_writer *w, const char *s, size_t n)
{
    ia3_put_u32(w, (uint32_t) n);
    ia3_put_bytes(w, s, n);
}

static inline const uint8_t *
ia3_get_bytes(ia3_reader *r, size_t n)
{
    if (r->bad || (size_t) (r->end - r->p) < n) {
        r->bad = true;
        return NULL;
    }
    const uint8_t *at = r->p;
    r->p += n;
    return at;
}

static inline uint8_t
ia3_get_u8(ia3_reader *r)
{
    const uint8_t *p = ia3_get_bytes(r, 1);
    return p ? *p : 0;
}

static inline uint32_t
ia3_get_u32(ia3_reader *r)
{
    const uint8_t *p = ia3_get_bytes(r, 4);
    return p ? (uint32_t) p[0] | (uint32_t) p[1] << 8 | (uint32_t) p[2] << 16 | (uint32_t) p[3] << 24 : 0;
}

static inline uint64_t
ia3_get_u64(ia3_reader *r)
{
    uint64_t lo = ia3_get_u32(r);
    return lo | (uint64_t) ia3_get_u32(r) << 32;
}

static inline double
ia3_get_f64(ia3_reader *r)
{
    uint64_t u = ia3_get_u64(r);
    double v;
    memcpy(&v, &u, sizeof v);
    return v;
}

/* The returned bytes are part of the frame, so they live as long as it does, and are not zero-terminated. */
static inline const char *
ia3_get_str(ia3_reader *r, size_t *n)
{
    uint32_t len = ia3_get_u32(r);
    const uint8_t *p = ia3_get_bytes(r, len);
    *n = p ? len : 0;
    return p ? (const char *) p : "";
}

/*
 * Reads the number of items, each of which takes at least `min_bytes` in the rest of the frame. A number that is too
 * large sets `bad` and becomes 0, before anything is allocated for it.
 */
static inline uint32_t
ia3_get_count(ia3_reader *r, size_t min_bytes)
{
    uint32_t n = ia3_get_u32(r);
    if (!r->bad && min_bytes > 0 && n > (size_t) (r->end - r->p) / min_bytes)
        r->bad = true;
    return r->bad ? 0 : n;
}

#endif
