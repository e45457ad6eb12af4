/*
 * memory.c
 *     Memory of the CPU device: allocations that count against the limit, and the arena.
 *
 * The arena is a stack of chunks. A position in it counts bytes over all chunks. Releasing memory keeps the chunks
 * until the arena is trimmed, so that in the steady state no pass calls malloc. Each new chunk is larger than the last, so a few are enough.
 *
 * Threads: the counter is atomic, so any thread may call free. Only the compute loop uses the arena, and alloc, which takes back
 * the arena's unused memory when there is no other.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "cpu.h"
#include "engine/base/alloc.h"

#define MIN_CHUNK ((size_t) 4 << 20)
#define HUGE_PAGE ((size_t) 2 << 20)

bool
ia3_cpu_charge(ia3_cpu *cpu, size_t bytes)
{
    size_t used = atomic_load(&cpu->used);
    do {
        if (cpu->limit && (bytes > cpu->limit || used > cpu->limit - bytes))
            return false;
    } while (!atomic_compare_exchange_weak(&cpu->used, &used, used + bytes));
    return true;
}

void
ia3_cpu_discharge(ia3_cpu *cpu, size_t bytes)
{
    atomic_fetch_sub(&cpu->used, bytes);
}

static void *
take(ia3_cpu *cpu, size_t bytes)
{
    if (bytes > SIZE_MAX - HUGE_PAGE || !ia3_cpu_charge(cpu, bytes))
        return NULL;
    void *p = NULL;
    if (posix_memalign(&p, bytes >= 2 * HUGE_PAGE ? HUGE_PAGE : IA3_ALIGN, bytes) != 0) {
        atomic_fetch_sub(&cpu->used, bytes);
        return NULL;
    }
    if (bytes >= 2 * HUGE_PAGE) /* for fewer TLB misses; this is only advice, so failure does not matter */
        (void) madvise(p, bytes / HUGE_PAGE * HUGE_PAGE, MADV_HUGEPAGE);
    return p;
}

static void
give(ia3_cpu *cpu, void *p, size_t bytes)
{
    free(p);
    atomic_fetch_sub(&cpu->used, bytes);
}

void
ia3_cpu_free(ia3_device *dev, void *p)
{
    if (!p)
        return;
    char *base = (char *) p - IA3_ALIGN;
    size_t total;
    memcpy(&total, base, sizeof total);
    give((ia3_cpu *) dev, base, total);
}

/* Appends a chunk of at least `bytes` bytes, as large as all earlier ones together if the limit allows. */
static bool
add_chunk(ia3_cpu *cpu, size_t bytes)
{
    ia3_arena *a = &cpu->arena;
    size_t start = a->n_chunks ? a->chunks[a->n_chunks - 1].start + a->chunks[a->n_chunks - 1].capacity : 0;
    size_t wish = start > MIN_CHUNK ? start : MIN_CHUNK;
    size_t capacity = bytes > wish ? bytes : ia3_align_up(wish);
    char *data = take(cpu, capacity);
    if (!data && capacity > bytes) {
        capacity = bytes;
        data = take(cpu, capacity);
    }
    if (!data)
        return false;
    a->chunks = ia3_realloc(a->chunks, (size_t) (a->n_chunks + 1) * sizeof *a->chunks);
    a->chunks[a->n_chunks++] = (ia3_arena_chunk){.data = data, .start = start, .capacity = capacity};
    return true;
}

/* Frees the chunks above the current one (all of them when the arena is empty). */
static void
drop_unused_chunks(ia3_cpu *cpu)
{
    ia3_arena *a = &cpu->arena;
    int keep = a->top == 0 ? 0 : a->current + 1;
    while (a->n_chunks > keep) {
        ia3_arena_chunk *c = &a->chunks[--a->n_chunks];
        give(cpu, c->data, c->capacity);
    }
    if (a->n_chunks == 0)
        a->current = 0;
}

/* The block's size is kept in the cache line before it. */
void *
ia3_cpu_alloc(ia3_device *dev, size_t bytes)
{
    if (bytes > SIZE_MAX / 2)
        return NULL;
    size_t total = ia3_align_up(bytes) + IA3_ALIGN;
    ia3_cpu *cpu = (ia3_cpu *) dev;
    char *p = take(cpu, total);
    if (!p) {
        drop_unused_chunks(cpu);
        p = take(cpu, total);
    }
    if (!p)
        return NULL;
    memcpy(p, &total, sizeof total);
    return p + IA3_ALIGN;
}

static void
out_of_memory(ia3_cpu *cpu, size_t bytes)
{
    if (cpu->base.oom)
        longjmp(*cpu->base.oom, 1);
    fprintf(stderr, "ERROR: out of device memory: could not allocate %zu bytes\n", bytes);
    abort();
}

void *
ia3_cpu_arena_alloc(ia3_device *dev, size_t bytes)
{
    ia3_cpu *cpu = (ia3_cpu *) dev;
    ia3_arena *a = &cpu->arena;
    if (bytes > SIZE_MAX / 2)
        out_of_memory(cpu, bytes);
    bytes = ia3_align_up(bytes ? bytes : 1);
    for (int i = a->current; i < a->n_chunks; i++) {
        ia3_arena_chunk *c = &a->chunks[i];
        size_t used = i == a->current ? a->top - c->start : 0;
        if (c->capacity - used >= bytes) {
            a->current = i;
            a->top = c->start + used + bytes;
            return c->data + used;
        }
    }
    if (!add_chunk(cpu, bytes)) {
        drop_unused_chunks(cpu);
        if (!add_chunk(cpu, bytes))
            out_of_memory(cpu, bytes);
    }
    a->current = a->n_chunks - 1;
    a->top = a->chunks[a->current].start + bytes;
    return a->chunks[a->current].data;
}

size_t
ia3_cpu_arena_mark(ia3_device *dev)
{
    return ((ia3_cpu *) dev)->arena.top;
}

void
ia3_cpu_arena_release(ia3_device *dev, size_t mark)
{
    ia3_arena *a = &((ia3_cpu *) dev)->arena;
    a->top = mark;
    /* A mark can be both the end of one chunk and the start of the next; it was then taken in the lower one. */
    while (a->current > 0 && mark <= a->chunks[a->current].start)
        a->current--;
}

void
ia3_cpu_arena_trim(ia3_device *dev, size_t keep)
{
    ia3_cpu *cpu = (ia3_cpu *) dev;
    const ia3_arena *a = &cpu->arena;
    if (a->n_chunks > 0 && a->chunks[a->n_chunks - 1].start + a->chunks[a->n_chunks - 1].capacity > keep)
        drop_unused_chunks(cpu);
}

void
ia3_cpu_arena_destroy(ia3_cpu *cpu)
{
    cpu->arena.top = 0;
    drop_unused_chunks(cpu);
    free(cpu->arena.chunks);
    cpu->arena.chunks = NULL;
}

void
ia3_cpu_upload(ia3_device *dev, void *dst, const void *src, size_t bytes)
{
    if (bytes)
        memcpy(dst, src, bytes);
}

void
ia3_cpu_download(ia3_device *dev, void *dst, const void *src, size_t bytes)
{
    if (bytes)
        memcpy(dst, src, bytes);
}

void
ia3_cpu_zero(ia3_device *dev, void *p, size_t bytes)
{
    if (bytes)
        memset(p, 0, bytes);
}

void
ia3_cpu_copy(ia3_device *dev, void *dst, const void *src, size_t bytes)
{
    if (bytes)
        memcpy(dst, src, bytes);
}

size_t
ia3_cpu_memory_used(ia3_device *dev)
{
    return atomic_load(&((ia3_cpu *) dev)->used);
}
