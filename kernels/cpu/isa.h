/*
 * isa.h
 *     The builds of the CPU kernels that an engine holds, one per set of instructions, and the choice among them.
 *
 * engine.mk compiles every other file of this directory once per variant and hides all symbols of a variant but
 * its ia3_cpu_open_NAME. cpu_variants.h, which engine.mk writes, lists what was built: IA3_CPU_VARIANTS(X) is X(NAME)
 * for each, the plainest first.
 */
#ifndef IA3_CPU_ISA_H
#define IA3_CPU_ISA_H

#include "cpu_variants.h"
#include "engine/device/device.h"

typedef ia3_device *(*ia3_cpu_open_fn)(ia3_dtype dtype, int threads, size_t memory_limit, ia3_error *err);

typedef struct ia3_cpu_variant {
    const char *name;        /* "avx2", "avx512", "avx512bf16"; "native" when one build was asked for */
    bool (*available)(void); /* whether this processor has the instructions */
    ia3_cpu_open_fn open;
} ia3_cpu_variant;

#define IA3_CPU_DECLARE(v) ia3_device *ia3_cpu_open_##v(ia3_dtype, int, size_t, ia3_error *);
IA3_CPU_VARIANTS(IA3_CPU_DECLARE)
#undef IA3_CPU_DECLARE

/* All variants of this build, the plainest first. */
extern const ia3_cpu_variant ia3_cpu_variants[];
extern const int ia3_cpu_n_variants;

/*
 * The variant called `name`, or with NULL the best one this processor can run. Errors: IA3_E_INVALID for a name
 * that is not in this build, and when the processor lacks the instructions.
 */
const ia3_cpu_variant *ia3_cpu_choose(const char *name, ia3_error *err);

#endif
