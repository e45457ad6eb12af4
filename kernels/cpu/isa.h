/*
 * isa.h
 *     The engine contains several builds of the CPU kernels, one for each instruction set; this chooses among them.
 *
 * engine.mk compiles every other file of this directory once per variant and hides all of a variant's symbols
 * except ia3_cpu_open_NAME. cpu_variants.h, which engine.mk generates, lists the variants that were built:
 * IA3_CPU_VARIANTS(X) expands to X(NAME) for each of them, the one with the fewest requirements first.
 */
#ifndef IA3_CPU_ISA_H
#define IA3_CPU_ISA_H

#include "cpu_variants.h"
#include "engine/device/device.h"

typedef ia3_device *(*ia3_cpu_open_fn)(ia3_dtype dtype, int threads, size_t memory_limit, ia3_error *err);

typedef struct ia3_cpu_variant {
    const char *name;        /* "avx2", "avx512", "avx512bf16"; "native" when only one variant was built */
    bool (*available)(void); /* whether this processor has the instructions it needs */
    ia3_cpu_open_fn open;
} ia3_cpu_variant;

#define IA3_CPU_DECLARE(v) ia3_device *ia3_cpu_open_##v(ia3_dtype, int, size_t, ia3_error *);
IA3_CPU_VARIANTS(IA3_CPU_DECLARE)
#undef IA3_CPU_DECLARE

/* All variants of this build, the one with the fewest requirements first. */
extern const ia3_cpu_variant ia3_cpu_variants[];
extern const int ia3_cpu_n_variants;

/*
 * Returns the variant called `name` or, if `name` is NULL, the best one that this processor can run. Returns NULL
 * with IA3_E_INVALID when the build has no such variant or the processor lacks its instructions.
 */
const ia3_cpu_variant *ia3_cpu_choose(const char *name, ia3_error *err);

#endif
