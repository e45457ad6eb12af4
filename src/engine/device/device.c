/*
 * device.c
 *     Opens a device by name, loading the CUDA module if a GPU is requested.
 *
 * The environment variable IA3_CUDA_MODULE names a module to load instead of ia3_cuda.so in the directory of the
 * engine's executable.
 */
#include "device.h"

#include <dlfcn.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "device_cpu.h"
#include "device_module.h"
#include "engine/base/host_memory.h"
#include "engine/base/log.h"

/* Finds the module's file. False when it does not exist. */
static bool
module_path(char *path, size_t size)
{
    const char *named = getenv("IA3_CUDA_MODULE");
    if (named && *named)
        return (size_t) snprintf(path, size, "%s", named) < size && access(path, R_OK) == 0;
    ssize_t len = readlink("/proc/self/exe", path, size - 1);
    if (len <= 0)
        return false;
    path[len] = 0;
    char *slash = strrchr(path, '/');
    if (!slash)
        return false;
    size_t room = size - (size_t) (slash + 1 - path);
    return (size_t) snprintf(slash + 1, room, "ia3_cuda.so") < room && access(path, R_OK) == 0;
}

/* Loads the module. It is never unloaded, because CUDA starts threads and installs handlers that would stay behind. */
static const ia3_device_module *
load_module(ia3_error *err)
{
    char path[PATH_MAX];
    if (!module_path(path, sizeof path)) {
        ia3_fail(err, IA3_E_INVALID, "this build has no CUDA module");
        ia3_fail_hint(err, "Install the CUDA toolkit and build ia3 again, or use \"cpu\".");
        return NULL;
    }
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    void *symbol = library ? dlsym(library, IA3_DEVICE_MODULE) : NULL;
    if (!symbol) {
        const char *reason = dlerror();
        ia3_fail(err, IA3_E_INVALID, "could not load the CUDA module");
        ia3_fail_detail(err, "%s.", reason ? reason : "The file is not a CUDA module of ia3");
        ia3_fail_hint(err, "The module requires cuBLASLt, a library of the CUDA toolkit.");
        return NULL;
    }
    ia3_device_module_function get;
    memcpy(&get, &symbol, sizeof get); /* ISO C does not convert object pointers to function pointers */
    const ia3_device_module *m = get();
    if (m->abi != IA3_DEVICE_ABI || m->ops_size != sizeof(ia3_device_ops) ||
        m->device_size != sizeof(ia3_device)) {
        ia3_fail(err, IA3_E_INVALID, "the CUDA module belongs to another version of the engine");
        ia3_fail_detail(err, "\"%s\" has interface version %u.", path, (unsigned) m->abi);
        ia3_fail_hint(err, "Install the engine and the module from the same build.");
        return NULL;
    }
    return m;
}

/* The number in "cuda:N", or 0 for "cuda"; -1 if spec is neither. */
static int
gpu_index(const char *spec)
{
    if (strcmp(spec, "cuda") == 0)
        return 0;
    if (strncmp(spec, "cuda:", 5) != 0 || spec[5] < '0' || spec[5] > '9')
        return -1;
    char *end;
    long index = strtol(spec + 5, &end, 10);
    return *end == 0 && index <= 1023 ? (int) index : -1;
}

/* The n of IA3_DEFAULT_MEMORY_LIMIT(n); 0 for any other limit. */
static size_t
sharing_engines(size_t memory_limit)
{
    return SIZE_MAX - memory_limit <= 255 ? SIZE_MAX - memory_limit : 0;
}

/* Notes the limit for whoever plans with it. */
static ia3_device *
opened(ia3_device *dev, size_t memory_limit)
{
    if (dev)
        dev->memory_limit = memory_limit;
    return dev;
}

static ia3_device *
open_cpu(ia3_dtype dtype, int threads, size_t memory_limit, ia3_error *err)
{
    size_t sharing = sharing_engines(memory_limit);
    if (sharing > 0) {
        memory_limit = ia3_host_memory("") / 4 * 3 / sharing;
        ia3_log(IA3_LOG_LOG, "memory limit: %zu MB", memory_limit >> 20);
    }
    return opened(ia3_cpu_open(dtype, threads, memory_limit, err), memory_limit);
}

static ia3_device *
open_gpu(int index, ia3_dtype dtype, size_t memory_limit, ia3_error *err)
{
    if (dtype == IA3_INT8) {
        ia3_fail(err, IA3_E_INVALID, "weights in int8 are not supported on a GPU");
        ia3_fail_hint(err, "Use bfloat16 or float32.");
        return NULL;
    }
    const ia3_device_module *m = load_module(err);
    const size_t limit = sharing_engines(memory_limit) ? 0 : memory_limit;
    return m ? opened(m->open(index, dtype, limit, err), limit) : NULL;
}

/* The number of GPUs that "auto" may try. */
static int
count_gpus(void)
{
    ia3_error ignored = {0};
    const ia3_device_module *m = load_module(&ignored);
    return m ? m->count() : 0;
}

/* Opens the first GPU that works, else the CPU; logs why a GPU was not used. */
static ia3_device *
open_auto(ia3_dtype dtype, int threads, size_t memory_limit, ia3_error *err)
{
    char reason[1300];
    const int n = dtype == IA3_INT8 ? 0 : count_gpus();
    for (int i = 0; i == 0 || i < n; i++) {
        ia3_error why = {0};
        ia3_device *dev = open_gpu(i, dtype, memory_limit, &why);
        if (dev)
            return dev;
        why.hint[0] = 0; /* hints are for users who requested a GPU explicitly */
        ia3_error_join(&why, reason, sizeof reason);
        if (n > 1)
            ia3_log(IA3_LOG_LOG, "device \"auto\" does not use GPU %d: %s", i, reason);
    }
    ia3_log(IA3_LOG_LOG, "device \"auto\" uses the CPU instead of a GPU: %s", reason);
    return open_cpu(dtype, threads, memory_limit, err);
}

ia3_device *
ia3_device_open(const char *spec, ia3_dtype dtype, int threads, size_t memory_limit, ia3_error *err)
{
    if (dtype == IA3_F16) {
        ia3_fail(err, IA3_E_INVALID, "computing in float16 is not supported");
        ia3_fail_detail(err, "The activations of T5 models overflow in float16.");
        ia3_fail_hint(err, "Use bfloat16 or float32.");
        return NULL;
    }
    if (dtype != IA3_AUTO && dtype != IA3_F32 && dtype != IA3_BF16 && dtype != IA3_INT8) {
        ia3_fail(err, IA3_E_INVALID, "unknown data type %d", (int) dtype);
        return NULL;
    }
    if (strcmp(spec, "cpu") == 0)
        return open_cpu(dtype, threads, memory_limit, err);
    if (strcmp(spec, "auto") == 0)
        return open_auto(dtype, threads, memory_limit, err);
    if (gpu_index(spec) >= 0)
        return open_gpu(gpu_index(spec), dtype, memory_limit, err);
    ia3_fail(err, IA3_E_INVALID, "unknown device \"%s\"", spec);
    ia3_fail_hint(err, "Use \"cpu\", \"cuda\", \"cuda:N\" or \"auto\".");
    return NULL;
}

const char *
ia3_device_dtype_name(const ia3_device *dev)
{
    if (dev->weights == IA3_INT8)
        return "int8";
    return dev->weights == IA3_BF16 ? "bfloat16" : "float32";
}
