/*
 * isa.c
 *     Chooses the build of the kernels that suits this processor and opens the CPU device with it.
 *
 * This file is compiled once, for the baseline of the architecture, because it runs before the processor's
 * instructions have been checked.
 *
 * The environment variable IA3_CPU_ISA names a variant to use, for tests and for finding out whether a problem
 * depends on the instruction set. oneDNN is then restricted to the same instructions. It accepts such a
 * restriction only once per process, so a second device cannot use another variant.
 */
#include "isa.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/device/device_cpu.h"
#include "onednn_compat.h"

#if defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#ifndef HWCAP_ASIMDDP
#define HWCAP_ASIMDDP (1 << 20)
#endif
#endif

/* VARIANT_available() must check for everything that CPU_FLAGS_VARIANT in engine.mk lets the compiler use. */
#define UNUSED __attribute__((unused)) /* a build may leave variants out */

static UNUSED bool
native_available(void)
{
    return true;
}

#if defined(__x86_64__)

static UNUSED bool
avx2_available(void)
{
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi") &&
           __builtin_cpu_supports("bmi2");
}

static UNUSED bool
avx512_available(void)
{
    return avx2_available() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512cd") &&
           __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512vl");
}

static UNUSED bool
avx512bf16_available(void)
{
    return avx512_available() && __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512bf16");
}

#define IA3_CPU_NEEDS "AVX2 and FMA"

#elif defined(__aarch64__) && defined(__linux__)

static UNUSED bool
neon_available(void)
{
    return true;
}

static UNUSED bool
dotprod_available(void)
{
    return (getauxval(AT_HWCAP) & HWCAP_ASIMDDP) != 0;
}

#endif

#ifndef IA3_CPU_NEEDS
#define IA3_CPU_NEEDS "other instructions"
#endif

#define ENTRY(v) {#v, v##_available, ia3_cpu_open_##v},
const ia3_cpu_variant ia3_cpu_variants[] = {IA3_CPU_VARIANTS(ENTRY)};
const int ia3_cpu_n_variants = sizeof ia3_cpu_variants / sizeof ia3_cpu_variants[0];

static bool
unknown_variant(const char *name, ia3_error *err)
{
    char list[200] = "";
    for (int i = 0; i < ia3_cpu_n_variants; i++) {
        size_t at = strlen(list);
        snprintf(list + at, sizeof list - at, "%s%s", i ? ", " : "", ia3_cpu_variants[i].name);
    }
    ia3_fail(err, IA3_E_INVALID, "unknown instruction set \"%s\" in IA3_CPU_ISA", name);
    return ia3_fail_hint(err, "This build has kernels for: %s.", list);
}

const ia3_cpu_variant *
ia3_cpu_choose(const char *name, ia3_error *err)
{
    const ia3_cpu_variant *found = NULL;
    for (int i = 0; i < ia3_cpu_n_variants; i++) {
        const ia3_cpu_variant *v = &ia3_cpu_variants[i];
        if (name ? strcmp(name, v->name) == 0 : v->available())
            found = v;
    }
    if (!found && name) {
        unknown_variant(name, err);
    } else if (!found) {
        ia3_fail(err, IA3_E_INVALID, "this processor lacks instructions that the engine was built to use");
        ia3_fail_detail(err, "The engine was built for processors with " IA3_CPU_NEEDS ".");
        ia3_fail_hint(err, "Build ia3 on this machine with make OPTFLAGS=-march=native.");
    } else if (!found->available()) {
        ia3_fail(err, IA3_E_INVALID, "this processor does not support %s, the value of IA3_CPU_ISA", name);
        found = NULL;
    }
    return found;
}

/* Restricts oneDNN to the instructions of the variant. */
static bool
limit_onednn(const char *name, ia3_error *err)
{
    static const struct {
        const char *name;
        dnnl_cpu_isa_t isa;
    } limits[] = {{"avx2", dnnl_cpu_isa_avx2},
                  {"avx512", dnnl_cpu_isa_avx512_core},
                  {"avx512bf16", dnnl_cpu_isa_avx512_core_bf16}};
    for (size_t i = 0; i < sizeof limits / sizeof limits[0]; i++)
        if (strcmp(name, limits[i].name) == 0) {
            dnnl_set_max_cpu_isa(limits[i].isa); /* has no effect the second time */
            if (dnnl_get_effective_cpu_isa() != limits[i].isa)
                return ia3_fail(err, IA3_E_INVALID, "could not restrict oneDNN to %s", name);
        }
    return true;
}

ia3_device *
ia3_cpu_open(ia3_dtype dtype, int threads, size_t memory_limit, ia3_error *err)
{
    const char *name = getenv("IA3_CPU_ISA");
    if (name && !*name)
        name = NULL;
    const ia3_cpu_variant *v = ia3_cpu_choose(name, err);
    if (!v || (name && !limit_onednn(name, err)))
        return NULL;
    return v->open(dtype, threads, memory_limit, err);
}
