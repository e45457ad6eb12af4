/*
 * host_device.h
 *     IA3_HOST_DEVICE begins a small function that the engine's code and the kernels of a GPU share.
 */
#ifndef IA3_HOST_DEVICE_H
#define IA3_HOST_DEVICE_H

#ifdef __CUDACC__
#define IA3_HOST_DEVICE static __host__ __device__ __forceinline__
#else
#define IA3_HOST_DEVICE static inline
#endif

#endif
