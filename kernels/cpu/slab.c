/*
 * slab.c
 *     Memory for packed weights: large blocks in huge pages, allocated piece by piece.
 *
 * A pass reads every weight once; with small pages it would spend a sixth of the time of its matrix products on
 * address translation. Forward and backward weights have separate blocks, because the latter exist only during
 * training; a block returns to the system when its last piece is freed.
 *
 * Threads: several threads pack panels at the same time, hence the mutex. Pieces count as used memory, not whole
 * blocks, because pages that were never touched take no memory.
 */
#include <stdlib.h>
#include <sys/mman.h>

#include "cpu.h"
#include "engine/base/alloc.h"

#define BLOCK     ((size_t) 32 << 20)
#define HUGE_PAGE ((size_t) 2 << 20)

struct ia3_slab {
    char *data;
    size_t capacity, top;
    int live; /* pieces in use */
    ia3_slab *next;
};

/* Adds a block with room for `bytes` bytes at the head of the list. */
static ia3_slab *
add_slab(ia3_slab **list, size_t bytes)
{
    size_t capacity = bytes > BLOCK ? (bytes + HUGE_PAGE - 1) / HUGE_PAGE * HUGE_PAGE : BLOCK;
    void *data = NULL;
    if (posix_memalign(&data, HUGE_PAGE, capacity) != 0)
        return NULL;
    (void) madvise(data, capacity, MADV_HUGEPAGE); /* only advice */
    ia3_slab *s = ia3_alloc(sizeof *s);
    *s = (ia3_slab){.data = data, .capacity = capacity, .next = *list};
    return *list = s;
}

void *
ia3_cpu_slab_alloc(ia3_cpu *cpu, size_t bytes, bool backward)
{
    if (bytes > SIZE_MAX / 2)
        return NULL;
    bytes = ia3_align_up(bytes);
    if (!ia3_cpu_charge(cpu, bytes))
        return NULL;
    pthread_mutex_lock(&cpu->slab_mutex);
    ia3_slab **list = &cpu->slabs[backward], *s = *list;
    if (!s || s->capacity - s->top < bytes)
        s = add_slab(list, bytes);
    void *piece = NULL;
    if (s) {
        piece = s->data + s->top;
        s->top += bytes;
        s->live++;
    }
    pthread_mutex_unlock(&cpu->slab_mutex);
    if (!piece)
        ia3_cpu_discharge(cpu, bytes);
    return piece;
}

/* Returns the pointer in the list to the block that contains the piece, or NULL. */
static ia3_slab **
find_slab(ia3_slab **list, const char *piece)
{
    for (ia3_slab **at = list; *at; at = &(*at)->next)
        if (piece >= (*at)->data && piece < (*at)->data + (*at)->capacity)
            return at;
    return NULL;
}

void
ia3_cpu_slab_free(ia3_cpu *cpu, void *piece, size_t bytes)
{
    pthread_mutex_lock(&cpu->slab_mutex);
    ia3_slab **at = find_slab(&cpu->slabs[0], piece);
    if (!at)
        at = find_slab(&cpu->slabs[1], piece);
    ia3_slab *s = *at;
    if (--s->live == 0) {
        *at = s->next;
        free(s->data);
        free(s);
    }
    pthread_mutex_unlock(&cpu->slab_mutex);
    ia3_cpu_discharge(cpu, ia3_align_up(bytes));
}
