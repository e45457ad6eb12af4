/*
 * cudasim.cpp
 *     Runs the launches of cudasim.h: the threads of a block are fibers of one thread, blocks run one after another.
 *
 * Locking: one mutex is held while device memory is open, i.e. by a launch or a copy. Nothing else is shared but the
 * device's list of allocations, which the same mutex protects.
 */
#include "cudasim.h"

#include <chrono>
#include <map>
#include <mutex>
#include <vector>

#include <stdio.h>
#include <stdlib.h>
#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#endif
#include <sys/mman.h>
#ifndef __x86_64__
#include <ucontext.h>
#endif

dim3 threadIdx, blockIdx, blockDim, gridDim;
unsigned char *ia3_sim_shared;

namespace {

enum state { READY, AT_WARP, AT_BLOCK, DONE };
const size_t STACK = 128 << 10;
const unsigned MAX_THREADS = 1024;
const size_t MAX_SHARED = 227 << 10; /* of a block on sm_90; sm_80 has 163 KB, sm_86 99 KB */
const size_t PAGE = 4096, HUGE = (size_t) 2 << 20;

struct copy {
    void *to;
    const void *from;
    bool there;
};

struct fiber {
#ifdef __x86_64__
    void *sp;
#else
    ucontext_t context;
#endif
    state at;
    ia3_sim_op op;
    int parity; /* which of the warp's two buffers the next exchange uses */
    std::vector<copy> copies;
};

struct warp {
    ia3_sim_lane lanes[2][32];
};

struct simulator {
    fiber threads[MAX_THREADS], scheduler;
    warp warps[MAX_THREADS / 32];
    char *stacks;
    unsigned char *shared; /* MAX_SHARED bytes, then a page that cannot be touched */
    const char *kernel;
    void (*thread)(const void *);
    const void *arg;
    unsigned n, current;
    unsigned long launches;
};

simulator sim;

[[noreturn]] void
die(const char *what)
{
    fprintf(stderr, "cudasim: %s in kernel %s, block (%u, %u, %u), thread %u\n", what,
            sim.kernel ? sim.kernel : "(none)", blockIdx.x, blockIdx.y, blockIdx.z, sim.current);
    abort();
}

/* --- switching between fibers --- */

#ifdef __x86_64__
extern "C" void ia3_sim_switch(void **save, void *load);
__asm__(".text\n"
        ".globl ia3_sim_switch\n"
        ".hidden ia3_sim_switch\n"
        "ia3_sim_switch:\n"
        "    pushq %rbp\n    pushq %rbx\n    pushq %r12\n    pushq %r13\n    pushq %r14\n    pushq %r15\n"
        "    movq %rsp, (%rdi)\n"
        "    movq %rsi, %rsp\n"
        "    popq %r15\n    popq %r14\n    popq %r13\n    popq %r12\n    popq %rbx\n    popq %rbp\n"
        "    ret\n");

void
change(fiber *from, fiber *to)
{
    ia3_sim_switch(&from->sp, to->sp);
}
#else
void
change(fiber *from, fiber *to)
{
    swapcontext(&from->context, &to->context);
}
#endif

void
leave(state why)
{
    fiber *f = &sim.threads[sim.current];
    f->at = why;
    change(f, &sim.scheduler);
}

void
run_thread(void)
{
    sim.thread(sim.arg);
    if (!sim.threads[sim.current].copies.empty())
        die("an asynchronous copy that nobody waited for");
    leave(DONE);
    die("a finished thread was continued");
}

void
start(unsigned i)
{
    fiber *f = &sim.threads[i];
    char *stack = sim.stacks + i * STACK;
#ifdef __SANITIZE_ADDRESS__
    __asan_unpoison_memory_region(stack, STACK); /* the thread before this one never returned */
#endif
#ifdef __x86_64__
    /* at different distances from the end of the page, so that they do not all compete for the same cache lines */
    void **top = (void **) (void *) (stack + STACK - 72 - i % 64 * 1088);
    /* as ia3_sim_switch leaves a stack: six registers and where to go; then it is as after a call, 8 off from 16 */
    *top = NULL;
    *--top = (void *) run_thread;
    for (int r = 0; r < 6; r++)
        *--top = NULL;
    f->sp = top;
#else
    getcontext(&f->context);
    f->context.uc_stack.ss_sp = stack;
    f->context.uc_stack.ss_size = STACK;
    f->context.uc_link = NULL;
    makecontext(&f->context, run_thread, 0);
#endif
    f->at = READY;
    f->parity = 0;
    f->copies.clear();
}

void
resume(unsigned i)
{
    sim.current = i;
    threadIdx = dim3(i % blockDim.x, i / blockDim.x % blockDim.y, i / (blockDim.x * blockDim.y));
    change(&sim.scheduler, &sim.threads[i]);
}

/* --- scheduling --- */

/* Releases the lanes when all of them wait for the same operation. */
void
meet_warp(unsigned first, unsigned end)
{
    unsigned waiting = 0, op = 0;
    for (unsigned i = first; i < end; i++)
        if (sim.threads[i].at == AT_WARP) {
            sim.current = i;
            if (waiting++ && sim.threads[i].op != op)
                die("lanes of a warp in different operations");
            op = sim.threads[i].op;
        }
    if (waiting == 0)
        return;
    if (waiting < 32)
        die("a warp operation that not all lanes reach");
    for (unsigned i = first; i < end; i++)
        sim.threads[i].at = READY;
}

/* Runs a warp until all its threads are at a block barrier or have finished. */
void
run_warp(unsigned w, unsigned shuffle)
{
    unsigned first = w * 32, end = first + 32 < sim.n ? first + 32 : sim.n, n = end - first;
    for (bool ran = true; ran;) {
        ran = false;
        for (unsigned i = 0; i < n; i++) {
            unsigned lane = n == 32 ? (i * 5 + shuffle) % 32 : i;
            if (sim.threads[first + lane].at != READY)
                continue;
            resume(first + lane);
            ran = true;
        }
        meet_warp(first, end);
        shuffle += 7;
    }
}

/* Returns whether threads wait at a block barrier, and releases them. */
bool
meet_block(void)
{
    bool any = false;
    for (unsigned i = 0; i < sim.n; i++)
        if (sim.threads[i].at == AT_BLOCK) {
            sim.threads[i].at = READY;
            any = true;
        }
    return any;
}

void
run_block(unsigned shuffle)
{
    unsigned warps = (sim.n + 31) / 32;
    for (unsigned i = 0; i < sim.n; i++)
        start(i);
    do {
        for (unsigned w = 0; w < warps; w++)
            run_warp(shuffle % 2 ? warps - 1 - w : (w + shuffle) % warps, shuffle);
        shuffle = shuffle * 1103515245u + 12345u;
        shuffle >>= 3;
    } while (meet_block());
}

/* --- memory --- */

/* A copy, or a clearing of device memory when `from` is NULL. */
struct transfer {
    void *to;
    const void *from;
    int value;
    size_t bytes;
};

struct memory {
    char *base;
    size_t reserved, high, used, limit;
    std::map<size_t, size_t> taken, free; /* offset to bytes */
    bool lost, open;
    std::timed_mutex mutex;
    std::vector<transfer> stream; /* transfers that have not happened yet */
    size_t done;                  /* transfers before those */
};

memory mem;
thread_local int current_device;
const size_t RED_ZONE = 256;
const unsigned char RED = 0xa5;

size_t
setting(const char *name, size_t otherwise)
{
    const char *value = getenv(name);
    return value ? strtoull(value, NULL, 10) : otherwise;
}

void
protect(int protection)
{
    size_t whole = (mem.high + HUGE - 1) / HUGE * HUGE; /* so that pages need not be split */
    if (whole > 0 && mprotect(mem.base, whole, protection) != 0) {
        perror("cudasim: mprotect");
        abort();
    }
}

bool
prepare(void)
{
    if (mem.base)
        return true;
    mem.limit = setting("IA3_SIM_MEMORY", (size_t) 4 << 30);
    mem.reserved = (size_t) 64 << 30;
    void *p = mmap(NULL, mem.reserved, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    void *stacks = mmap(NULL, STACK * MAX_THREADS, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    size_t shared = (MAX_SHARED + PAGE - 1) / PAGE * PAGE;
    void *s = mmap(NULL, shared + PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED || stacks == MAP_FAILED || s == MAP_FAILED)
        return false;
    mprotect((char *) s + shared, PAGE, PROT_NONE);
    mem.base = (char *) p + (HUGE - (uintptr_t) p % HUGE) % HUGE;
    mem.reserved -= HUGE;
    (void) madvise(mem.base, mem.reserved, MADV_HUGEPAGE); /* protecting few large pages is faster */
    sim.stacks = (char *) stacks;
    sim.shared = (unsigned char *) s + shared; /* its end */
    return true;
}

/* Finds space for `bytes` bytes: a freed piece of exactly this size, or the end of all others. */
size_t
find_room(size_t bytes)
{
    for (auto piece = mem.free.begin(); piece != mem.free.end(); ++piece)
        if (piece->second == bytes) {
            size_t at = piece->first;
            mem.free.erase(piece);
            return at;
        }
    size_t at = mem.high;
    mem.high += bytes;
    return at;
}

int
devices(void)
{
    const char *value = getenv("IA3_SIM_DEVICES");
    return value ? strcmp(value, "none") == 0 ? -1 : atoi(value) : 1;
}

size_t
shared_limit(void)
{
    static const size_t limit = setting("IA3_SIM_SHARED", MAX_SHARED);
    return limit < MAX_SHARED ? limit : MAX_SHARED;
}

cudaError_t
status(void)
{
    return mem.lost ? cudaErrorLaunchFailure : cudaSuccess;
}

/* Counts a launch. The launch during which the device is lost is accepted, because a GPU also fails later. */
cudaError_t
count_launch(void)
{
    static const size_t lost_after = setting("IA3_SIM_LOST_AFTER", 0);
    const cudaError_t before = status();
    if (lost_after && sim.launches >= lost_after)
        mem.lost = true;
    sim.launches++;
    return before;
}

/* Does the stream's pending transfers up to number `end`, counted from the beginning; memory must be accessible. */
void
catch_up(size_t end)
{
    size_t n = end > mem.done ? end - mem.done : 0;
    n = n < mem.stream.size() ? n : mem.stream.size();
    for (size_t i = 0; i < n && !mem.lost; i++) {
        const transfer &t = mem.stream[i];
        if (t.from)
            memcpy(t.to, t.from, t.bytes);
        else
            memset(t.to, t.value, t.bytes);
    }
    mem.stream.erase(mem.stream.begin(), mem.stream.begin() + (long) n);
    mem.done += n;
}

} /* namespace */

/*
 * Changing the protection of memory takes longer than most kernels of a test. After the first few thousand times,
 * memory is protected again only every 64th time.
 */
static void
close_memory(void)
{
    static unsigned long closed;
    if (++closed > 4096 && closed % 64 != 0)
        return;
    protect(PROT_NONE);
    mem.open = false;
}

static void
open_memory(void)
{
    if (!mem.open)
        protect(PROT_READ | PROT_WRITE);
    mem.open = true;
}

ia3_sim_access::ia3_sim_access()
{
    if (!mem.mutex.try_lock_for(std::chrono::seconds(10)))
        die("device memory is still open: a kernel has not returned");
    open_memory();
    catch_up(SIZE_MAX);
}

ia3_sim_access::~ia3_sim_access()
{
    close_memory();
    mem.mutex.unlock();
}

const char *
cudaGetErrorString(cudaError_t s)
{
    switch (s) {
    case cudaSuccess:
        return "no error";
    case cudaErrorInvalidValue:
        return "invalid argument";
    case cudaErrorMemoryAllocation:
        return "out of memory";
    case cudaErrorInsufficientDriver:
        return "CUDA driver version is insufficient for CUDA runtime version";
    case cudaErrorNoDevice:
        return "no CUDA-capable device is detected";
    case cudaErrorInvalidDevice:
        return "invalid device ordinal";
    case cudaErrorLaunchFailure:
        return "unspecified launch failure";
    }
    return "unknown error";
}

cudaError_t
cudaGetLastError(void)
{
    return status();
}

cudaError_t
cudaGetDeviceCount(int *n)
{
    *n = devices() > 0 ? devices() : 0;
    return devices() < 0 ? cudaErrorInsufficientDriver : *n == 0 ? cudaErrorNoDevice : cudaSuccess;
}

cudaError_t
cudaSetDevice(int index)
{
    if (mem.lost)
        return cudaErrorLaunchFailure;
    if (index >= devices() || !prepare())
        return cudaErrorInvalidDevice;
    current_device = index;
    return cudaSuccess;
}

cudaError_t
cudaSetDeviceFlags(unsigned)
{
    return status();
}

cudaError_t
cudaGetDevice(int *index)
{
    *index = current_device;
    return cudaSuccess;
}

cudaError_t
cudaGetDeviceProperties(cudaDeviceProp *p, int index)
{
    if (index >= devices() || !prepare())
        return cudaErrorInvalidDevice;
    *p = cudaDeviceProp();
    snprintf(p->name, sizeof p->name, "simulated GPU");
    p->totalGlobalMem = mem.limit;
    p->sharedMemPerBlockOptin = shared_limit();
    p->major = 9;
    p->multiProcessorCount = 4;
    return cudaSuccess;
}

cudaError_t
cudaMemGetInfo(size_t *available, size_t *total)
{
    std::lock_guard<std::timed_mutex> lock(mem.mutex);
    *total = mem.limit;
    *available = mem.limit - mem.used;
    return cudaSuccess;
}

cudaError_t
cudaMalloc(void **p, size_t bytes)
{
    std::lock_guard<std::timed_mutex> lock(mem.mutex);
    size_t whole = (bytes + RED_ZONE + PAGE - 1) / PAGE * PAGE;
    *p = NULL;
    if (mem.lost)
        return cudaErrorLaunchFailure;
    static const size_t full = setting("IA3_SIM_FULL", SIZE_MAX);
    if ((size_t) current_device == full || bytes > mem.limit || whole > mem.limit - mem.used ||
        mem.high + whole > mem.reserved)
        return cudaErrorMemoryAllocation;
    size_t at = find_room(whole);
    protect(PROT_READ | PROT_WRITE); /* including new memory */
    mem.open = true;
    memset(mem.base + at, 0xff, bytes);
    memset(mem.base + at + bytes, RED, whole - bytes);
    close_memory();
    mem.taken[at] = bytes;
    mem.used += whole;
    *p = mem.base + at;
    return cudaSuccess;
}

cudaError_t
cudaFree(void *p)
{
    if (!p)
        return status();
    std::lock_guard<std::timed_mutex> lock(mem.mutex);
    size_t at = (size_t) ((char *) p - mem.base);
    auto piece = mem.taken.find(at);
    if (piece == mem.taken.end())
        die("memory freed that was not allocated");
    size_t bytes = piece->second, whole = (bytes + RED_ZONE + PAGE - 1) / PAGE * PAGE;
    protect(PROT_READ | PROT_WRITE);
    mem.open = true;
    catch_up(SIZE_MAX);
    for (size_t i = bytes; i < whole; i++)
        if ((unsigned char) mem.base[at + i] != RED)
            die("something was written behind an allocation before it was freed, last");
    close_memory();
    mem.taken.erase(piece);
    mem.free[at] = whole;
    mem.used -= whole;
    return status();
}

cudaError_t
cudaMallocHost(void **p, size_t bytes)
{
    *p = malloc(bytes);
    return *p ? cudaSuccess : cudaErrorMemoryAllocation;
}

cudaError_t
cudaFreeHost(void *p)
{
    free(p);
    return cudaSuccess;
}

cudaError_t
cudaMemcpyAsync(void *to, const void *from, size_t bytes, cudaMemcpyKind kind, cudaStream_t)
{
    (void) kind;
    std::lock_guard<std::timed_mutex> lock(mem.mutex);
    mem.stream.push_back({to, from, 0, bytes});
    return status();
}

cudaError_t
cudaMemsetAsync(void *p, int value, size_t bytes, cudaStream_t)
{
    std::lock_guard<std::timed_mutex> lock(mem.mutex);
    mem.stream.push_back({p, NULL, value, bytes});
    return status();
}

cudaError_t
cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned)
{
    *stream = NULL;
    return cudaSuccess;
}

cudaError_t
cudaStreamDestroy(cudaStream_t)
{
    return cudaSuccess;
}

static cudaError_t
wait_until(size_t end)
{
    std::lock_guard<std::timed_mutex> lock(mem.mutex);
    if (end > mem.done && !mem.stream.empty()) {
        open_memory();
        catch_up(end);
        close_memory();
    }
    return status();
}

cudaError_t
cudaStreamSynchronize(cudaStream_t)
{
    return wait_until(SIZE_MAX);
}

/* The transfers that come before it. */
struct ia3_sim_event {
    size_t end;
};

cudaError_t
cudaEventCreateWithFlags(cudaEvent_t *event, unsigned)
{
    *event = (cudaEvent_t) calloc(1, sizeof **event);
    return *event ? cudaSuccess : cudaErrorMemoryAllocation;
}

cudaError_t
cudaEventDestroy(cudaEvent_t event)
{
    free(event);
    return cudaSuccess;
}

cudaError_t
cudaEventRecord(cudaEvent_t event, cudaStream_t)
{
    std::lock_guard<std::timed_mutex> lock(mem.mutex);
    event->end = mem.done + mem.stream.size();
    return status();
}

cudaError_t
cudaEventSynchronize(cudaEvent_t event)
{
    return wait_until(event->end);
}

/* Every span takes a millisecond. */
cudaError_t
cudaEventElapsedTime(float *ms, cudaEvent_t start, cudaEvent_t end)
{
    *ms = 1.0f;
    return start->end <= mem.done && end->end <= mem.done ? cudaSuccess : cudaErrorInvalidValue;
}

/* --- launches --- */

bool
ia3_sim_library_launch(void)
{
    return count_launch() == cudaSuccess;
}

cudaError_t
ia3_sim_run(const char *kernel, dim3 grid, dim3 block, size_t shared_bytes, void (*thread)(const void *),
            const void *arg)
{
    if (shared_bytes > shared_limit())
        return cudaErrorInvalidValue; /* of cudaFuncSetAttribute */
    if (const cudaError_t before = count_launch())
        return before;
    if (mem.lost)
        return cudaSuccess;
    ia3_sim_access open;
    sim.kernel = kernel;
    sim.thread = thread;
    sim.arg = arg;
    sim.n = block.x * block.y * block.z;
    blockDim = block;
    gridDim = grid;
    if (sim.n == 0 || sim.n > MAX_THREADS || grid.x == 0 || grid.y == 0 || grid.z == 0 || grid.y > 65535 ||
        grid.z > 65535)
        die("a grid or a block of a size that CUDA refuses");
    size_t shared = (shared_bytes + 15) / 16 * 16;
    ia3_sim_shared = sim.shared - shared;
    unsigned shuffle = (unsigned) sim.launches;
    for (unsigned z = 0; z < grid.z; z++)
        for (unsigned y = 0; y < grid.y; y++)
            for (unsigned x = 0; x < grid.x; x++) {
                blockIdx = dim3(x, y, z);
                memset(ia3_sim_shared, 0xff, shared);
                run_block(shuffle++);
            }
    sim.kernel = NULL;
    return cudaSuccess;
}

void
ia3_sim_block_barrier(void)
{
    sim.threads[sim.current].op = IA3_SIM_BLOCK;
    leave(AT_BLOCK);
}

const ia3_sim_lane *
ia3_sim_exchange(ia3_sim_op op, const void *mine, size_t bytes)
{
    fiber *f = &sim.threads[sim.current];
    ia3_sim_lane *lanes = sim.warps[sim.current / 32].lanes[f->parity];
    f->parity ^= 1;
    f->op = op;
    if (bytes)
        memcpy(lanes[sim.current % 32], mine, bytes);
    leave(AT_WARP);
    return lanes;
}

unsigned
ia3_ballot(bool b)
{
    const ia3_sim_lane *lanes = ia3_sim_exchange(IA3_SIM_BALLOT, &b, sizeof b);
    unsigned votes = 0;
    for (unsigned i = 0; i < 32; i++)
        votes |= (unsigned) lanes[i][0] << i;
    return votes;
}

void
ia3_cp_async16(void *to, const void *from, bool there)
{
    if ((uintptr_t) to % 16 != 0 || (there && (uintptr_t) from % 16 != 0))
        die("an asynchronous copy of 16 bytes that are not aligned");
    sim.threads[sim.current].copies.push_back({to, from, there});
}

void
ia3_cp_async_wait_all(void)
{
    fiber *f = &sim.threads[sim.current];
    for (const copy &c : f->copies)
        if (c.there)
            memcpy(c.to, c.from, 16);
        else
            memset(c.to, 0, 16);
    f->copies.clear();
}

/* --- tensor cores (PTX ISA, "Matrix Fragments for mma.m16n8k16" and "ldmatrix") --- */

static float
half_of(uint32_t pair, unsigned which)
{
    return __uint_as_float(which ? pair & 0xffff0000u : pair << 16);
}

void
ia3_mma_bf16_16x8x16(float c[4], const uint32_t a[4], const uint32_t b[2])
{
    uint32_t mine[6] = {a[0], a[1], a[2], a[3], b[0], b[1]};
    const ia3_sim_lane *lanes = ia3_sim_exchange(IA3_SIM_MMA, mine, sizeof mine);
    unsigned lane = ia3_sim_lane_id();
    for (unsigned e = 0; e < 4; e++) {
        unsigned row = lane / 4 + 8 * (e / 2), col = lane % 4 * 2 + e % 2;
        float sum = 0.0f;
        for (unsigned k = 0; k < 16; k++) {
            uint32_t x, y;
            memcpy(&x, lanes[row % 8 * 4 + k % 8 / 2] + 4 * (row / 8 + 2 * (k / 8)), 4);
            memcpy(&y, lanes[col * 4 + k % 8 / 2] + 4 * (4 + k / 8), 4);
            sum += half_of(x, k % 2) * half_of(y, k % 2);
        }
        c[e] += sum;
    }
}

static void
ldmatrix(uint32_t r[4], const void *p, bool transposed)
{
    if ((uintptr_t) p % 16 != 0)
        die("a row for ldmatrix that is not aligned");
    const ia3_sim_lane *lanes = ia3_sim_exchange(IA3_SIM_LDMATRIX, &p, sizeof p);
    unsigned lane = ia3_sim_lane_id();
    for (unsigned m = 0; m < 4; m++) {
        uint16_t pair[2];
        for (unsigned x = 0; x < 2; x++) {
            unsigned row = transposed ? lane % 4 * 2 + x : lane / 4,
                     col = transposed ? lane / 4 : lane % 4 * 2 + x;
            const uint16_t *from;
            memcpy(&from, lanes[m * 8 + row], sizeof from);
            pair[x] = from[col];
        }
        r[m] = (uint32_t) pair[0] | (uint32_t) pair[1] << 16;
    }
}

void
ia3_ldmatrix_x4(uint32_t r[4], const void *p)
{
    ldmatrix(r, p, false);
}

void
ia3_ldmatrix_x4_trans(uint32_t r[4], const void *p)
{
    ldmatrix(r, p, true);
}

static uint32_t
round_bf16(float f)
{
    uint32_t u = __float_as_uint(f);
    if ((u & 0x7fffffffu) > 0x7f800000u)
        return 0x7fff;
    return (u + 0x7fffu + ((u >> 16) & 1)) >> 16;
}

uint32_t
ia3_pack_bf16(float x, float y)
{
    return round_bf16(x) | round_bf16(y) << 16;
}
