/*
 * memory.cu
 *     Memory of the CUDA device: allocations that count against the limit, the arena, and transfers through pinned
 *     memory.
 *
 * The arena is a stack of chunks (see kernels/cpu/memory.c). Releasing memory keeps the chunks, so that in the steady
 * state no pass allocates. If a pass needed several chunks, the next one replaces them by a single chunk of the same
 * size, because the unused ends of chunks are wasted. There is only one stream, so released memory may be reused at
 * once: whatever writes to it comes later in the stream.
 *
 * Uploads are copied to one half of a pinned buffer, which the GPU reads while the caller continues; a half is reused
 * when an event says that the GPU has read it.
 *
 * What counts against the limit is what the driver takes: it maps memory in pages, so a large block takes whole pages, and
 * small ones share a page.
 *
 * Locking: the mutex protects the counters and the sizes of blocks, which any thread may read, or change by freeing.
 * Only the compute loop uses the arena, uploads and downloads, and alloc, which may take memory back from the arena. No
 * function that holds the mutex may leave by longjmp.
 */
#include "cuda.h"

#include <mutex>
#include <new>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unordered_map>

static const size_t MIN_CHUNK = (size_t) 32 << 20, MAX_WISH = (size_t) 256 << 20;
static const size_t PAGE = (size_t) 2 << 20,
                    OWN_PAGES = (size_t) 1 << 20; /* blocks above that share no page */
static const size_t STAGE = (size_t) 16 << 20;    /* bytes of a half */

struct ia3_cuda_memory {
    std::mutex mutex;
    size_t used, limit;
    std::unordered_map<void *, size_t> blocks; /* what alloc returned, with sizes in bytes */
    ia3_cuda_chunk *chunks;
    int n_chunks, current;
    size_t top, high; /* high: the most bytes in use since the chunks were last replaced */
    char *stage[2];
    cudaEvent_t read[2]; /* the half has been read */
    int half;
    size_t filled; /* of the half in use */
};

bool
ia3_cuda_memory_open(ia3_cuda *cuda, size_t limit, ia3_error *err)
{
    ia3_cuda_memory *m = new (std::nothrow) ia3_cuda_memory();
    cuda->memory = m;
    if (!m)
        return ia3_fail(err, IA3_E_MEMORY, "out of memory");
    m->limit = limit;
    for (int i = 0; i < 2; i++) {
        cudaError_t status = cudaMallocHost((void **) &m->stage[i], STAGE);
        if (status == cudaSuccess)
            status = cudaEventCreateWithFlags(&m->read[i], cudaEventDisableTiming | cudaEventBlockingSync);
        if (status != cudaSuccess) {
            (void) cudaGetLastError();
            return ia3_fail(err, IA3_E_MEMORY, "could not allocate pinned memory: %s",
                            cudaGetErrorString(status));
        }
    }
    return true;
}

/* The bytes that a block of this size takes; the caller may use them all. */
static size_t
whole_size(size_t bytes)
{
    const size_t unit = bytes > OWN_PAGES ? PAGE : IA3_CUDA_ALIGN;
    return (bytes + unit - 1) / unit * unit;
}

static void
uncharge(ia3_cuda_memory *m, size_t bytes)
{
    std::lock_guard<std::mutex> lock(m->mutex);
    m->used -= bytes;
}

/* Counts `bytes` as used, or returns false when that would exceed the limit. */
static bool
charge(ia3_cuda_memory *m, size_t bytes)
{
    std::lock_guard<std::mutex> lock(m->mutex);
    if (m->limit && (bytes > m->limit || m->used > m->limit - bytes))
        return false;
    m->used += bytes;
    return true;
}

/* Allocates memory on the GPU. NULL when there is too little; any other error means that the device is lost. */
static void *
take(ia3_cuda *cuda, size_t bytes)
{
    void *p = NULL;
    if (!charge(cuda->memory, bytes))
        return NULL;
    /* each thread has its own current device */
    ia3_cuda_check(cuda, cudaSetDevice(cuda->index), "allocation");
    cudaError_t status = cudaMalloc(&p, bytes);
    if (status == cudaSuccess)
        return p;
    if (status != cudaErrorMemoryAllocation)
        ia3_cuda_check(cuda, status, "allocation");
    (void) cudaGetLastError(); /* clears the error, so that later calls do not report it */
    uncharge(cuda->memory, bytes);
    return NULL;
}

static void
give(ia3_cuda *cuda, void *p, size_t bytes)
{
    (void) cudaSetDevice(cuda->index);
    (void) cudaFree(p); /* waits for kernels that still use it */
    uncharge(cuda->memory, bytes);
}

/* Frees the chunks above the current one (all of them when the arena is empty). */
static void
drop_unused_chunks(ia3_cuda *cuda)
{
    ia3_cuda_memory *m = cuda->memory;
    int keep = m->top == 0 ? 0 : m->current + 1;
    while (m->n_chunks > keep) {
        ia3_cuda_chunk *c = &m->chunks[--m->n_chunks];
        give(cuda, c->data, c->capacity);
    }
    if (m->n_chunks == 0)
        m->current = 0;
}

void *
ia3_cuda_alloc(ia3_device *dev, size_t bytes)
{
    ia3_cuda *cuda = (ia3_cuda *) dev;
    if (bytes > SIZE_MAX / 2)
        return NULL;
    bytes = whole_size(bytes ? bytes : 1);
    void *p = take(cuda, bytes);
    if (!p) {
        drop_unused_chunks(cuda);
        p = take(cuda, bytes);
    }
    if (p) {
        std::lock_guard<std::mutex> lock(cuda->memory->mutex);
        cuda->memory->blocks[p] = bytes;
    }
    return p;
}

void
ia3_cuda_free(ia3_device *dev, void *p)
{
    ia3_cuda *cuda = (ia3_cuda *) dev;
    size_t bytes;
    if (!p)
        return;
    {
        std::lock_guard<std::mutex> lock(cuda->memory->mutex);
        bytes = cuda->memory->blocks[p];
        cuda->memory->blocks.erase(p);
    }
    give(cuda, p, bytes);
}

size_t
ia3_cuda_memory_used(ia3_device *dev)
{
    ia3_cuda *cuda = (ia3_cuda *) dev;
    std::lock_guard<std::mutex> lock(cuda->memory->mutex);
    return cuda->memory->used;
}

bool
ia3_cuda_no_memory(ia3_cuda *cuda, ia3_error *err, const char *what, size_t bytes)
{
    size_t available = 0, total = 0;
    if (cudaMemGetInfo(&available, &total) != cudaSuccess)
        (void) cudaGetLastError();
    ia3_fail(err, IA3_E_MEMORY, "out of GPU memory for %s", what);
    ia3_fail_detail(err, "Could not allocate %zu bytes; GPU %d has %zu bytes, of which %zu are free.", bytes,
                    cuda->index, total, available);
    return ia3_fail_hint(err,
                         "Use a smaller backbone or another GPU, or raise ia3.memory_limit if it is set.");
}

/* --- the arena --- */

/* Appends a chunk of at least `bytes` bytes; if possible as large as all earlier ones, but not above MAX_WISH. */
static bool
add_chunk(ia3_cuda *cuda, size_t bytes)
{
    ia3_cuda_memory *m = cuda->memory;
    ia3_cuda_chunk *last = m->n_chunks ? &m->chunks[m->n_chunks - 1] : NULL;
    size_t start = last ? last->start + last->capacity : 0, wish = start > MIN_CHUNK ? start : MIN_CHUNK;
    wish = wish < MAX_WISH ? wish : MAX_WISH;
    bytes = whole_size(bytes);
    size_t capacity = bytes > wish ? bytes : whole_size(wish);
    char *data = (char *) take(cuda, capacity);
    if (!data && capacity > bytes) {
        capacity = bytes;
        data = (char *) take(cuda, capacity);
    }
    if (!data)
        return false;
    ia3_cuda_chunk *more = (ia3_cuda_chunk *) realloc(m->chunks, (size_t) (m->n_chunks + 1) * sizeof *more);
    if (!more) {
        give(cuda, data, capacity);
        return false;
    }
    m->chunks = more;
    more[m->n_chunks].data = data;
    more[m->n_chunks].start = start;
    more[m->n_chunks].lost = 0;
    more[m->n_chunks++].capacity = capacity;
    return true;
}

static void
out_of_memory(ia3_cuda *cuda, size_t bytes)
{
    if (cuda->base.oom)
        longjmp(*cuda->base.oom, 1);
    fprintf(stderr, "ERROR: out of device memory: could not allocate %zu bytes\n", bytes);
    abort();
}

/* Makes `bytes` bytes in chunk i, after the `used` ones, the top of the arena and returns their address. */
static void *
place(ia3_cuda_memory *m, int i, size_t used, size_t bytes)
{
    ia3_cuda_chunk *c = &m->chunks[i];
    if (i != m->current)
        c->lost = m->chunks[m->current].lost + (c->start - m->top);
    m->current = i;
    m->top = c->start + used + bytes;
    m->high = m->top - c->lost > m->high ? m->top - c->lost : m->high;
    return c->data + used;
}

void *
ia3_cuda_arena_alloc(ia3_device *dev, size_t bytes)
{
    ia3_cuda *cuda = (ia3_cuda *) dev;
    ia3_cuda_memory *m = cuda->memory;
    if (bytes > SIZE_MAX / 2)
        out_of_memory(cuda, bytes);
    bytes = ia3_cuda_align(bytes ? bytes : 1);
    if (m->top == 0 && m->n_chunks > 1) { /* a pass begins: replace the chunks by one of the same size */
        const size_t high = m->high;
        drop_unused_chunks(cuda);
        m->high = 0;
        (void) add_chunk(cuda, high); /* if this fails, there will be several chunks again */
    }
    for (int i = m->current; i < m->n_chunks; i++) {
        ia3_cuda_chunk *c = &m->chunks[i];
        size_t used = i == m->current ? m->top - c->start : 0;
        if (c->capacity - used >= bytes)
            return place(m, i, used, bytes);
    }
    if (!add_chunk(cuda, bytes)) {
        drop_unused_chunks(cuda);
        if (!add_chunk(cuda, bytes))
            out_of_memory(cuda, bytes);
    }
    return place(m, m->n_chunks - 1, 0, bytes);
}

size_t
ia3_cuda_arena_mark(ia3_device *dev)
{
    return ((ia3_cuda *) dev)->memory->top;
}

void
ia3_cuda_arena_release(ia3_device *dev, size_t mark)
{
    ia3_cuda_memory *m = ((ia3_cuda *) dev)->memory;
    m->top = mark;
    /* A mark can be both the end of one chunk and the start of the next; it was then taken in the lower one. */
    while (m->current > 0 && mark <= m->chunks[m->current].start)
        m->current--;
}

void
ia3_cuda_arena_trim(ia3_device *dev, size_t keep)
{
    ia3_cuda *cuda = (ia3_cuda *) dev;
    ia3_cuda_memory *m = cuda->memory;
    if (m->n_chunks == 0 || m->chunks[m->n_chunks - 1].start + m->chunks[m->n_chunks - 1].capacity <= keep)
        return;
    drop_unused_chunks(cuda);
    m->high = m->top == 0 ? 0 : m->top - m->chunks[m->current].lost;
}

/* --- in and out --- */

/* Returns space for up to `bytes` bytes in pinned memory that the GPU no longer reads; *n is its size. */
static char *
stage_room(ia3_cuda *cuda, size_t bytes, size_t *n)
{
    ia3_cuda_memory *m = cuda->memory;
    if (m->filled == STAGE) {
        ia3_cuda_check(cuda, cudaEventRecord(m->read[m->half], cuda->stream), "upload");
        m->half ^= 1;
        m->filled = 0;
        ia3_cuda_check(cuda, cudaEventSynchronize(m->read[m->half]), "upload");
    }
    *n = STAGE - m->filled < bytes ? STAGE - m->filled : bytes;
    char *room = m->stage[m->half] + m->filled;
    size_t end = (m->filled + *n + 63) / 64 * 64;
    m->filled = end < STAGE ? end : STAGE;
    return room;
}

void
ia3_cuda_upload(ia3_device *dev, void *dst, const void *src, size_t bytes)
{
    ia3_cuda *cuda = (ia3_cuda *) dev;
    for (size_t at = 0; at < bytes;) {
        size_t n;
        char *room = stage_room(cuda, bytes - at, &n);
        memcpy(room, (const char *) src + at, n);
        const ia3_cuda_span span("upload", cuda->stream);
        ia3_cuda_check(cuda,
                       cudaMemcpyAsync((char *) dst + at, room, n, cudaMemcpyHostToDevice, cuda->stream),
                       "upload");
        at += n;
    }
}

void
ia3_cuda_download(ia3_device *dev, void *dst, const void *src, size_t bytes)
{
    ia3_cuda *cuda = (ia3_cuda *) dev;
    if (bytes > 0) {
        const ia3_cuda_span span("download", cuda->stream);
        ia3_cuda_check(cuda, cudaMemcpyAsync(dst, src, bytes, cudaMemcpyDeviceToHost, cuda->stream),
                       "download");
    }
    ia3_cuda_check(cuda, cudaStreamSynchronize(cuda->stream), "an earlier operation");
}

void
ia3_cuda_zero(ia3_device *dev, void *p, size_t bytes)
{
    ia3_cuda *cuda = (ia3_cuda *) dev;
    const ia3_cuda_span span("zero", cuda->stream);
    if (bytes > 0)
        ia3_cuda_check(cuda, cudaMemsetAsync(p, 0, bytes, cuda->stream), "zero");
}

void
ia3_cuda_copy(ia3_device *dev, void *dst, const void *src, size_t bytes)
{
    ia3_cuda *cuda = (ia3_cuda *) dev;
    const ia3_cuda_span span("copy", cuda->stream);
    if (bytes > 0)
        ia3_cuda_check(cuda, cudaMemcpyAsync(dst, src, bytes, cudaMemcpyDeviceToDevice, cuda->stream),
                       "copy");
}

void
ia3_cuda_memory_close(ia3_cuda *cuda)
{
    ia3_cuda_memory *m = cuda->memory;
    if (!m)
        return;
    m->top = 0;
    drop_unused_chunks(cuda);
    free(m->chunks);
    for (int i = 0; i < 2; i++) {
        if (m->read[i])
            (void) cudaEventDestroy(m->read[i]);
        if (m->stage[i])
            (void) cudaFreeHost(m->stage[i]);
    }
    delete m;
    cuda->memory = NULL;
}
