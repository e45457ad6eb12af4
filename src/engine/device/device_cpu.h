/*
 * device_cpu.h
 *     How device.c opens the CPU device, which is in kernels/cpu.
 */
#ifndef IA3_DEVICE_CPU_H
#define IA3_DEVICE_CPU_H

#include "device.h"

/*
 * Opens the CPU device; the parameters are those of ia3_device_open. With IA3_AUTO it uses bfloat16 if the processor
 * has instructions that multiply it (x86-64 with AVX512-BF16 or AMX), else float32; the same holds for activations with
 * IA3_INT8. NULL with IA3_E_INVALID when the processor lacks instructions that this build needs, or with IA3_E_MEMORY.
 */
ia3_device *ia3_cpu_open(ia3_dtype dtype, int threads, size_t memory_limit, ia3_error *err);

#endif
