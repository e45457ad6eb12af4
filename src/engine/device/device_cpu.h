/*
 * device_cpu.h
 *     The CPU device: what src/engine/device.c needs to open it.
 */
#ifndef IA3_DEVICE_CPU_H
#define IA3_DEVICE_CPU_H

#include "device.h"

/*
 * Opens the CPU device. dtype IA3_AUTO takes bfloat16 where oneDNN has instructions that multiply it (x86-64 with
 * AVX512-BF16 or AMX), else float32, and so do the activations of IA3_INT8. Errors: IA3_E_INVALID when the processor is too old for this build,
 * IA3_E_MEMORY.
 */
ia3_device *ia3_cpu_open(ia3_dtype dtype, int threads, size_t memory_limit, ia3_error *err);

#endif
