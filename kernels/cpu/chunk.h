/*
 * chunk.h
 *     Rows that go through buffers on the stack in chunks of columns.
 */
#ifndef IA3_CPU_CHUNK_H
#define IA3_CPU_CHUNK_H

#include <stddef.h>

enum { IA3_CHUNK = 256 }; /* columns */

/* The columns of the chunk that begins at column `at` of `cols`. */
static inline size_t
ia3_chunk_of(size_t at, size_t cols)
{
    return cols - at < IA3_CHUNK ? cols - at : IA3_CHUNK;
}

#endif
