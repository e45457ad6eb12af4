/*
 * device_module.h
 *     The CUDA device as a module of its own (ia3_cuda.so), which the engine loads when a GPU is asked for: so one build
 *     runs with and without a driver.
 *
 * The module links nothing of the engine. It is built together with it; `abi` and the sizes tell when it was not.
 */
#ifndef IA3_DEVICE_MODULE_H
#define IA3_DEVICE_MODULE_H

#include "device.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Counted up whenever device.h changes its meaning without changing a size. */
#define IA3_DEVICE_ABI    2
#define IA3_DEVICE_MODULE "ia3_cuda_module"

typedef struct ia3_device_module {
    uint32_t abi;
    uint32_t ops_size, device_size; /* sizeof ia3_device_ops, ia3_device */
    /*
     * Opens GPU `index`. dtype: IA3_AUTO (bfloat16), IA3_F32 or IA3_BF16; others are refused. NULL after filling err:
     * IA3_E_MEMORY when too little is free, else IA3_E_INVALID (no driver, no such GPU, too old).
     */
    ia3_device *(*open)(int index, ia3_dtype dtype, size_t memory_limit, ia3_error *err);
    int (*count)(void); /* of the GPUs there are; 0 also where CUDA cannot say */
} ia3_device_module;

/* The one exported symbol, of the name IA3_DEVICE_MODULE. */
typedef const ia3_device_module *(*ia3_device_module_function)(void);

#ifdef __cplusplus
}
#endif

#endif
