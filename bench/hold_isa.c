/*
 * hold_isa.c
 *     Hides instructions of the processor from a whole process, for `scripts/bench cpu --isa`.
 *
 *   LD_PRELOAD=hold_isa.so IA3_HOLD_ISA=avx2|avx512|avx512bf16 PROGRAM...
 *
 * Not every library has a setting for the instructions that it uses; onnxruntime has none. But all of them ask the
 * CPUID instruction. Linux can make that instruction fault (arch_prctl(2), ARCH_SET_CPUID) on processors with the
 * flag cpuid_fault, and this library answers the fault with the processor's own reply without the bits of the
 * instructions to hide. Threads and child processes inherit that. The C library has chosen its own functions by
 * then; how it copies memory does not change.
 */
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#if defined(__x86_64__)

#include <cpuid.h>

enum { SET_CPUID = 0x1012, AVX10_LEAF = 0x24 };

#define BIT(n) (1u << (n))

/* The bits of leaf 7 that are hidden: ebx, ecx and edx of subleaf 0, then eax and edx of subleaf 1. */
typedef struct held {
    const char *isa;
    uint32_t ebx, ecx, edx, eax1, edx1;
} held;

/* AMX, AVX512-FP16 */
#define MORE_EDX (BIT(22) | BIT(23) | BIT(24) | BIT(25))
/* AMX-FP16 */
#define MORE_EAX1 BIT(21)
/* AVX-VNNI-INT8, AVX-NE-CONVERT, AMX-COMPLEX, AVX-VNNI-INT16, AVX10 */
#define MORE_EDX1 (BIT(4) | BIT(5) | BIT(8) | BIT(10) | BIT(19))
#define BF16_EAX1 BIT(5)
/* all of AVX512 with VNNI, VBMI and so on; AVX-VNNI and AVX-IFMA */
#define AVX512_EBX (BIT(16) | BIT(17) | BIT(21) | BIT(26) | BIT(27) | BIT(28) | BIT(30) | BIT(31))
#define AVX512_ECX (BIT(1) | BIT(6) | BIT(11) | BIT(12) | BIT(14))
#define AVX512_EDX (BIT(2) | BIT(3) | BIT(8))
#define VNNI_EAX1  (BIT(4) | BIT(23))

static const held all[] = {
    {"avx2", AVX512_EBX, AVX512_ECX, AVX512_EDX | MORE_EDX, VNNI_EAX1 | BF16_EAX1 | MORE_EAX1, MORE_EDX1},
    {"avx512", 0, 0, MORE_EDX, BF16_EAX1 | MORE_EAX1, MORE_EDX1},
    {"avx512bf16", 0, 0, MORE_EDX, MORE_EAX1, MORE_EDX1}};

static const held *mine;

/* The processor's answer without what is hidden, in place of the instruction's operands. */
static void
reply(greg_t *r)
{
    uint32_t leaf = (uint32_t) r[REG_RAX], subleaf = (uint32_t) r[REG_RCX], a, b, c, d;
    syscall(SYS_arch_prctl, SET_CPUID, 1L);
    __cpuid_count(leaf, subleaf, a, b, c, d);
    syscall(SYS_arch_prctl, SET_CPUID, 0L);
    if (leaf == 7 && subleaf == 0) {
        b &= ~mine->ebx;
        c &= ~mine->ecx;
        d &= ~mine->edx;
    } else if (leaf == 7 && subleaf == 1) {
        a &= ~mine->eax1;
        d &= ~mine->edx1;
    } else if (leaf == AVX10_LEAF) {
        b = 0;
    }
    r[REG_RAX] = a;
    r[REG_RBX] = b;
    r[REG_RCX] = c;
    r[REG_RDX] = d;
}

/* A real fault happens again after the handler is gone. */
static void
on_fault(int sig, siginfo_t *info, void *context)
{
    static const uint8_t cpuid[] = {0x0f, 0xa2};
    greg_t *r = ((ucontext_t *) context)->uc_mcontext.gregs;
    if (info->si_code == SI_KERNEL && memcmp((const void *) r[REG_RIP], cpuid, sizeof cpuid) == 0) {
        reply(r);
        r[REG_RIP] += sizeof cpuid;
    } else {
        signal(sig, SIG_DFL);
    }
}

__attribute__((constructor)) static void
hold(void)
{
    const char *isa = getenv("IA3_HOLD_ISA");
    for (size_t i = 0; isa && i < sizeof all / sizeof all[0]; i++)
        if (strcmp(isa, all[i].isa) == 0)
            mine = &all[i];
    struct sigaction action = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO | SA_NODEFER};
    if (mine && (sigaction(SIGSEGV, &action, NULL) != 0 || syscall(SYS_arch_prctl, SET_CPUID, 0L) != 0)) {
        perror("hold_isa");
        _exit(1);
    }
}

#endif
