/*
 * portable.cuh
 *     The subset of CUDA that the kernels are written in.
 *
 * With nvcc this is CUDA, plus the few instructions that have no C++ name. A build for testing defines IA3_CUDA_SIM as
 * the name of a header that implements the same subset in C++. The kernels then run on the CPU, so they can be tested
 * on machines without a GPU.
 *
 *   IA3_LAUNCH(kernel, grid, block, shared_bytes, stream, arguments...)   put templates in parentheses
 *   IA3_SHARED(type, name)       the block's dynamic shared memory, 16-byte aligned
 *   ia3_shfl_xor, ia3_ballot, ia3_warp_sum, ia3_warp_max                  called by all 32 lanes of a warp
 *   ia3_mma_bf16_16x8x16(c, a, b)   c += a·b, fragments as in PTX "Matrix Fragments for mma.m16n8k16"
 *   ia3_ldmatrix_x4[_trans](r, p)   lane l passes the address of the 16-byte row l % 8 of matrix l / 8
 *   ia3_cp_async16(to, from, there) copies 16 bytes from global to shared memory, or zeros unless `there`; visible to
 *                                   this thread after ia3_cp_async_wait_all(), to others after an additional barrier
 */
#ifndef IA3_CUDA_PORTABLE_CUH
#define IA3_CUDA_PORTABLE_CUH

#ifdef IA3_CUDA_SIM
#include IA3_CUDA_SIM
#else

#include <cuda_runtime.h>
#include <math.h>
#include <stdint.h>

#include "profile.h"

#define IA3_DEV static __device__ __forceinline__

/* Ends the process if a launch failed: this program has a bug, or the device is lost (device_cuda.cu). */
void ia3_cuda_launched(cudaError_t status, const char *kernel);

/* Lets a kernel have more shared memory than CUDA's default limit. The call takes longer than a launch: once is enough. */
static inline cudaError_t
ia3_allow_shared(const void *kernel, size_t bytes)
{
    enum { KERNELS = 64 };
    static struct allowed {
        const void *kernel;
        int device;
        size_t bytes;
    } all[KERNELS];
    struct allowed *a = all;
    int device = 0;
    if (const cudaError_t status = cudaGetDevice(&device))
        return status;
    while (a < all + KERNELS - 1 && a->kernel && (a->kernel != kernel || a->device != device))
        a++;
    if (a->kernel == kernel && a->device == device && a->bytes >= bytes)
        return cudaSuccess;
    *a = {kernel, device, bytes};
    return cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int) bytes);
}

template <class... P, class... A>
static inline void
ia3_launch(const char *name, void (*kernel)(P...), dim3 grid, dim3 block, size_t shared_bytes,
           cudaStream_t stream, A... arguments)
{
    cudaError_t status = cudaSuccess;
    if (shared_bytes > (size_t) 48 << 10) /* CUDA's default limit */
        status = ia3_allow_shared((const void *) kernel, shared_bytes);
    if (status == cudaSuccess) {
        const ia3_cuda_span span(name, grid, stream);
        kernel<<<grid, block, shared_bytes, stream>>>((P) arguments...);
        status = cudaGetLastError();
    }
    ia3_cuda_launched(status, name);
}

#define IA3_LAUNCH(kernel, grid, block, bytes, stream, ...)                                                  \
    ia3_launch(#kernel, kernel, grid, block, bytes, stream, __VA_ARGS__)
#define IA3_SHARED(type, name)                                                                               \
    extern __shared__ __align__(16) unsigned char ia3_shared_bytes[];                                        \
    type *name = (type *) (void *) ia3_shared_bytes

IA3_DEV uint32_t
ia3_shared_address(const void *p)
{
    return (uint32_t) __cvta_generic_to_shared(p);
}

IA3_DEV void
ia3_cp_async16(void *to, const void *from, bool there)
{
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
                 :
                 : "r"(ia3_shared_address(to)), "l"(from), "r"(there ? 16 : 0)
                 : "memory");
}

IA3_DEV void
ia3_cp_async_commit(void)
{
    asm volatile("cp.async.commit_group;" : : : "memory");
}

IA3_DEV void
ia3_cp_async_wait_all(void)
{
    asm volatile("cp.async.wait_all;" : : : "memory");
}

IA3_DEV void
ia3_ldmatrix_x4(uint32_t r[4], const void *p)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(ia3_shared_address(p))
                 : "memory");
}

IA3_DEV void
ia3_ldmatrix_x4_trans(uint32_t r[4], const void *p)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(ia3_shared_address(p))
                 : "memory");
}

IA3_DEV void
ia3_mma_bf16_16x8x16(float c[4], const uint32_t a[4], const uint32_t b[2])
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
                 "{%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

template <class T>
IA3_DEV T
ia3_shfl_xor(T v, int mask)
{
    return __shfl_xor_sync(0xffffffffu, v, mask);
}

IA3_DEV unsigned
ia3_ballot(bool b)
{
    return __ballot_sync(0xffffffffu, b);
}

/* Two floats as bf16, rounded to nearest even: x in the low half. */
IA3_DEV uint32_t
ia3_pack_bf16(float x, float y)
{
    uint32_t r;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(y), "f"(x));
    return r;
}

#endif /* IA3_CUDA_SIM */

IA3_DEV float
ia3_bf16_low(uint32_t pair)
{
    return __uint_as_float(pair << 16);
}

IA3_DEV float
ia3_bf16_high(uint32_t pair)
{
    return __uint_as_float(pair & 0xffff0000u);
}

IA3_DEV float
ia3_warp_sum(float v)
{
    for (int mask = 16; mask > 0; mask /= 2)
        v += ia3_shfl_xor(v, mask);
    return v;
}

IA3_DEV double
ia3_warp_sum(double v)
{
    for (int mask = 16; mask > 0; mask /= 2)
        v += ia3_shfl_xor(v, mask);
    return v;
}

IA3_DEV float
ia3_warp_max(float v)
{
    for (int mask = 16; mask > 0; mask /= 2)
        v = fmaxf(v, ia3_shfl_xor(v, mask));
    return v;
}

#endif
