/*
 * device.c
 *     Opens a device by name.
 */
#include "device.h"

#include <string.h>

#include "../../kernels/cpu/device_cpu.h"

ia3_device *
ia3_device_open(const char *spec, ia3_dtype dtype, int threads, size_t memory_limit, ia3_error *err)
{
    if (dtype == IA3_F16) {
        ia3_fail(err, IA3_E_INVALID, "float16 cannot be used for computing");
        ia3_fail_detail(err, "The activations of T5 models overflow in float16.");
        ia3_fail_hint(err, "Use bfloat16 or float32.");
        return NULL;
    }
    if (dtype != IA3_AUTO && dtype != IA3_F32 && dtype != IA3_BF16 && dtype != IA3_INT8) {
        ia3_fail(err, IA3_E_INVALID, "unknown data type %d", (int) dtype);
        return NULL;
    }
    if (strcmp(spec, "cpu") == 0 || strcmp(spec, "auto") == 0)
        return ia3_cpu_open(dtype, threads, memory_limit, err);
    if (strcmp(spec, "cuda") == 0 || strncmp(spec, "cuda:", 5) == 0) {
        ia3_fail(err, IA3_E_INVALID, "device \"%s\" is not supported by this build", spec);
        ia3_fail_hint(err, "Use \"cpu\".");
        return NULL;
    }
    ia3_fail(err, IA3_E_INVALID, "unknown device \"%s\"", spec);
    ia3_fail_hint(err, "Use \"cpu\".");
    return NULL;
}

const char *
ia3_device_dtype_name(const ia3_device *dev)
{
    if (dev->weights == IA3_INT8)
        return "int8";
    return dev->dtype == IA3_BF16 ? "bfloat16" : "float32";
}
