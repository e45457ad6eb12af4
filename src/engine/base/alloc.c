/*
 * alloc.c
 *     Allocations that end the process when there is no memory.
 */
#include "alloc.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void
out_of_memory(size_t size)
{
    fprintf(stderr, "ERROR: out of memory: could not allocate %zu bytes\n", size);
    fflush(stderr);
    _exit(1);
}

void *
ia3_alloc(size_t size)
{
    void *p = calloc(1, size ? size : 1);

    if (p == NULL)
        out_of_memory(size);
    return p;
}

void *
ia3_alloc_array(size_t n, size_t size)
{
    if (size != 0 && n > SIZE_MAX / size)
        out_of_memory(SIZE_MAX);
    return ia3_alloc(n * size);
}

void *
ia3_realloc(void *p, size_t size)
{
    void *q = realloc(p, size ? size : 1);

    if (q == NULL)
        out_of_memory(size);
    return q;
}

char *
ia3_strdup(const char *s)
{
    size_t n = strlen(s) + 1;

    return memcpy(ia3_alloc(n), s, n);
}
