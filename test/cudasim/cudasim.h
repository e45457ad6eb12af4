/*
 * cudasim.h
 *     A CUDA device that is simulated on the CPU, so that kernels can be tested without a GPU.
 *
 * kernels/cuda/portable.cuh includes this file instead of CUDA's headers if IA3_CUDA_SIM names it; cudasim.cpp runs the
 * launches. Its purpose is to find mistakes, so it is strict where a GPU is not:
 *   - Only kernels and copies can access device memory. Host code that follows a device pointer crashes (always during
 *     the first 4,096 operations; later, to save time, memory is protected only after every 64th operation).
 *   - New device and shared memory is filled with NaN, and shared memory ends at a protected page.
 *   - The threads of a block run in random order, one at a time, from barrier to barrier, so that a missing barrier
 *     causes a wrong result. Barriers and warp operations that not all threads reach are fatal.
 *   - Asynchronous copies to shared memory happen only when the kernel waits for them, and copies and clearing of
 *   device
 *     memory only when a launch or something else needs them, so that reusing a buffer too early causes a wrong result.
 *   - Unaligned loads and stores of vectors are fatal.
 *
 * Some mistakes are visible only on a GPU: kernels run when they are launched, so a missing wait for them has no
 * effect; neither blocks nor threads between two barriers run in parallel; the instructions of portable.cuh are
 * emulated; matrix products have another implementation (gemm_sim.cpp), so gemm.cu is not used; there are no registers
 * and no occupancy.
 *
 * Environment variables: IA3_SIM_DEVICES (number of GPUs, default 1; "none": no driver), IA3_SIM_MEMORY (memory of all
 * GPUs together in bytes, default 4 GB), IA3_SIM_FULL (the index of a GPU without free memory), IA3_SIM_SHARED (the
 * most shared memory per block in bytes, default 227 KB), IA3_SIM_LOST_AFTER (the number of launches and matrix
 * products after which the device is lost).
 */
#ifndef IA3_CUDASIM_H
#define IA3_CUDASIM_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __align__(n) alignas(n)
#define IA3_DEV      [[maybe_unused]] static inline

struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_)
    {
    }
};
struct alignas(8) uint2 {
    unsigned x, y;
};
struct alignas(16) uint4 {
    unsigned x, y, z, w;
};
struct alignas(8) float2 {
    float x, y;
};
struct alignas(16) float4 {
    float x, y, z, w;
};

extern dim3 threadIdx, blockIdx, blockDim, gridDim;

/* --- the runtime's functions that ia3 uses --- */

enum cudaError_t {
    cudaSuccess = 0,
    cudaErrorInvalidValue = 1,
    cudaErrorMemoryAllocation = 2,
    cudaErrorInsufficientDriver = 35,
    cudaErrorNoDevice = 100,
    cudaErrorInvalidDevice = 101,
    cudaErrorLaunchFailure = 719
};
enum cudaMemcpyKind { cudaMemcpyHostToDevice = 1, cudaMemcpyDeviceToHost = 2, cudaMemcpyDeviceToDevice = 3 };
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize = 8 };
enum {
    cudaStreamNonBlocking = 1,
    cudaEventBlockingSync = 1,
    cudaEventDisableTiming = 2,
    cudaDeviceScheduleBlockingSync = 4
};
typedef struct ia3_sim_stream *cudaStream_t;
typedef struct ia3_sim_event *cudaEvent_t;
struct cudaDeviceProp {
    char name[256];
    size_t totalGlobalMem;
    size_t sharedMemPerBlockOptin;
    int major, minor, multiProcessorCount;
};

const char *cudaGetErrorString(cudaError_t status);
cudaError_t cudaGetLastError(void);
cudaError_t cudaGetDeviceCount(int *n);
cudaError_t cudaSetDevice(int index);
cudaError_t cudaSetDeviceFlags(unsigned flags);
cudaError_t cudaGetDevice(int *index);
cudaError_t cudaGetDeviceProperties(cudaDeviceProp *p, int index);
cudaError_t cudaMemGetInfo(size_t *available, size_t *total);
cudaError_t cudaMalloc(void **p, size_t bytes);
cudaError_t cudaFree(void *p);
cudaError_t cudaMallocHost(void **p, size_t bytes);
cudaError_t cudaFreeHost(void *p);
cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t stream);
cudaError_t cudaMemsetAsync(void *p, int value, size_t bytes, cudaStream_t stream);
cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned flags);
cudaError_t cudaStreamDestroy(cudaStream_t stream);
cudaError_t cudaStreamSynchronize(cudaStream_t stream);
cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned flags);
cudaError_t cudaEventDestroy(cudaEvent_t event);
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream);
cudaError_t cudaEventSynchronize(cudaEvent_t event);
cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t start, cudaEvent_t end);

#include "kernels/cuda/profile.h"

/* --- launches --- */

/* Does the work of a launch and the following cudaGetLastError(). */
cudaError_t ia3_sim_run(const char *kernel, dim3 grid, dim3 block, size_t shared_bytes,
                        void (*thread)(const void *), const void *arg);

/* Counts the launch of a library's kernel; false when the device is lost. */
bool ia3_sim_library_launch(void);

template <class F>
cudaError_t
ia3_sim_launch(const char *kernel, dim3 grid, dim3 block, size_t shared_bytes, const F &thread)
{
    return ia3_sim_run(
        kernel, grid, block, shared_bytes, [](const void *arg) { (*(const F *) arg)(); }, &thread);
}

void ia3_cuda_launched(cudaError_t status, const char *kernel);

#define IA3_LAUNCH(kernel, grid, block, bytes, on, ...)                                                      \
    ((void) ia3_cuda_span(#kernel, grid, on),                                                                \
     ia3_cuda_launched(ia3_sim_launch(#kernel, grid, block, bytes, [&] { kernel(__VA_ARGS__); }), #kernel))

extern unsigned char *ia3_sim_shared;
#define IA3_SHARED(type, name) type *name = (type *) (void *) ia3_sim_shared

/* For code that replaces a library on the device: while such an object exists, memory is accessible and up to date. */
struct ia3_sim_access {
    ia3_sim_access();
    ~ia3_sim_access();
};

/* --- what threads of a block do together --- */

enum ia3_sim_op {
    IA3_SIM_BLOCK = 1,
    IA3_SIM_WARP,
    IA3_SIM_SHUFFLE,
    IA3_SIM_BALLOT,
    IA3_SIM_MMA,
    IA3_SIM_LDMATRIX
};
enum { IA3_SIM_LANE_BYTES = 32 };
typedef unsigned char ia3_sim_lane[IA3_SIM_LANE_BYTES];

void ia3_sim_block_barrier(void);
/* Passes `bytes` bytes of this lane; returns those of all 32 lanes, valid until the next exchange but one. */
const ia3_sim_lane *ia3_sim_exchange(ia3_sim_op op, const void *mine, size_t bytes);

void ia3_cp_async16(void *to, const void *from, bool there);
void ia3_cp_async_wait_all(void);

static inline void
ia3_cp_async_commit(void)
{
}

static inline void
__syncthreads(void)
{
    ia3_sim_block_barrier();
}

static inline void
__syncwarp(void)
{
    ia3_sim_exchange(IA3_SIM_WARP, NULL, 0);
}

static inline unsigned
ia3_sim_lane_id(void)
{
    return threadIdx.x & 31;
}

template <class T>
T
ia3_shfl_xor(T v, int mask)
{
    static_assert(sizeof(T) <= IA3_SIM_LANE_BYTES, "too large to shuffle");
    T result;
    memcpy(&result,
           ia3_sim_exchange(IA3_SIM_SHUFFLE, &v, sizeof v)[(ia3_sim_lane_id() ^ (unsigned) mask) & 31],
           sizeof result);
    return result;
}

unsigned ia3_ballot(bool b);
void ia3_mma_bf16_16x8x16(float c[4], const uint32_t a[4], const uint32_t b[2]);
void ia3_ldmatrix_x4(uint32_t r[4], const void *p);
void ia3_ldmatrix_x4_trans(uint32_t r[4], const void *p);
uint32_t ia3_pack_bf16(float x, float y);

static inline float
__uint_as_float(uint32_t bits)
{
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

static inline uint32_t
__float_as_uint(float f)
{
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    return bits;
}

static inline int
__ffs(int bits)
{
    return __builtin_ffs(bits);
}

static inline float
rsqrtf(float x)
{
    return 1.0f / sqrtf(x);
}

#endif
