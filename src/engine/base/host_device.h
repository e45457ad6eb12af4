/*
 * host_device.h
 *     IA3_HOST_DEVICE declares a small function that both the engine's code and the GPU kernels use.
 */
#ifndef IA3_HOST_DEVICE_H
#define IA3_HOST_DEVICE_H

#ifdef __CUDACC__
#define IA3_HOST_DEVICE static __host__ __device__ __forceinline__
#else
#define IA3_HOST_DEVICE static inline
#endif

#endif
