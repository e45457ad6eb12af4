/*
 * device_module.h
 *     The CUDA device is a module of its own (ia3_cuda.so), which the engine loads when a GPU is requested. So the same
 *     build works on machines with and without an NVIDIA driver.
 *
 * The module links against nothing in the engine. Engine and module must come from the same build; `abi` and the sizes
 * reveal when they do not.
 */
#ifndef IA3_DEVICE_MODULE_H
#define IA3_DEVICE_MODULE_H

#include "device.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Incremented whenever device.h changes in meaning without changing a size. */
#define IA3_DEVICE_ABI    4
#define IA3_DEVICE_MODULE "ia3_cuda_module"

typedef struct ia3_device_module {
    uint32_t abi;
    uint32_t ops_size, device_size; /* sizeof ia3_device_ops, ia3_device */
    /*
     * Opens GPU `index`. dtype is IA3_AUTO (bfloat16), IA3_F32 or IA3_BF16. NULL with IA3_E_MEMORY when too little
     * memory is free, with IA3_E_INVALID for any other reason (another dtype, no driver, no such GPU, GPU too old).
     */
    ia3_device *(*open)(int index, ia3_dtype dtype, size_t memory_limit, ia3_error *err);
    int (*count)(void); /* number of GPUs; 0 if CUDA cannot tell */
} ia3_device_module;

/* The type of the only exported symbol, whose name is IA3_DEVICE_MODULE. */
typedef const ia3_device_module *(*ia3_device_module_function)(void);

#ifdef __cplusplus
}
#endif

#endif
