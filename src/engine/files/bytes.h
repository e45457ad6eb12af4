/*
 * bytes.h
 *     Numbers and names as files store them.
 */
#ifndef IA3_BYTES_H
#define IA3_BYTES_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* The little-endian number of n bytes, at most 8, at any alignment. */
static inline uint64_t
ia3_little_endian(const uint8_t *at, int n)
{
    uint64_t v = 0;
    for (int i = 0; i < n; i++)
        v |= (uint64_t) at[i] << (8 * i);
    return v;
}

/* Orders strings of bytes, which need not end with zero, as strcmp does. */
static inline int
ia3_compare_bytes(const char *a, size_t a_len, const char *b, size_t b_len)
{
    int order = memcmp(a, b, a_len < b_len ? a_len : b_len);
    return order != 0 ? order : a_len < b_len ? -1 : a_len > b_len;
}

#endif
